//! What takes programs that cargo does not bring: `redis-server`, `openssl`, `faketime`, and `ip` of iproute2, which needs root;
//! clients and servers of other makers: `curl`, `nghttp` and `h2load`, `sslscan`, `chromium`, and those in Python that
//! `tests/real/peers/python` fetches with pip; app servers: see [`apps`]; other balancers: see [`beside`]. Run by
//! `cargo test --test real`.

#[path = "../support/mod.rs"]
mod support;

#[path = "../behaviour/crowd.rs"]
#[allow(dead_code, reason = "shared with the behaviour tests, which use all of it")]
mod crowd;

#[path = "../behaviour/verdict.rs"]
#[allow(dead_code, reason = "shared with the behaviour tests, which use all of it")]
mod verdict;

mod clock;

mod network_cut;

mod shared_store;

mod pin_store;

mod replicas;

mod program;

mod site;

mod sslscan;

mod curl;

mod nghttp2;

mod grpc;

mod websocket;

mod chromium;

mod user;

mod apps;

mod beside;
