//! Behaviour of the whole program.

#[path = "../support/mod.rs"]
mod support;

mod app_session;

mod bad_cookies;

mod bad_input;

mod broken;

mod cli;

mod copies;

mod crash;

mod crowd;

mod ctl;

mod demo;

mod drain;

mod events;

mod explain;

mod gate;

mod hash;

mod headers;

mod instances;

mod interim;

mod max_pins;

mod moody;

mod outliers;

mod parallel;

mod pin_life;

mod probes;

mod process;

mod rehome;

mod reload;

mod retry;

mod routing;

mod session_app;

mod session_copies;

mod session_ids;

mod shop;

mod stop;

mod streaming;

mod timeouts;

mod upgrade;
