//! Behaviour of the whole program.

#[path = "../support/mod.rs"]
mod support;

mod app_session;

mod backend_grpc;

mod backend_http2;

mod backend_tls;

mod bad_cookies;

mod bad_input;

mod broken;

mod cli;

mod cascade;

mod copies;

mod copy_to_heir;

mod crash;

mod crowd;

mod ctl;

mod demo;

mod discovery;

mod drain;

mod events;

mod explain;

mod failures;

mod gate;

mod grpc_calls;

mod grpc;

mod hash;

mod forwarded;

mod headers;

mod http2;

mod http2_hostile;

mod inherited;

mod instances;

mod interim;

mod ipv6;

mod latency;

mod limits;

mod max_pins;

mod moody;

mod outliers;

mod panic;

mod parallel;

mod pin_life;

mod probes;

mod process;

mod proxy_protocol;

mod queue;

mod rehome;

mod reload;

mod retry;

mod retry_on;

mod routing;

mod session_app;

mod session_copies;

mod session_ids;

mod shop;

mod sickly;

mod slow_start;

mod sse;

mod stop;

mod streaming;

mod tiers;

mod timeouts;

mod tls;

mod tls_clients;

mod tls_files;

mod tls_tickets;

mod tunnels;

mod turnstile;

mod unix_sockets;

mod upgrade;

mod verdict;

mod websocket_h2;
