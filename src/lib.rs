//! Stickpin: a sticky-session layer-7 load balancer that knows where the session lives.
//!
//! This page is the map; the README says how to run it, `config/reference.yaml` lists
//! every setting.
//!
//! # Life of a request
//!
//! A worker's [listener](proxy::accept::listener) takes the socket and gives it to the worker with the fewest connections.
//! There [`proxy::accept::tls`] does the handshake where the listener speaks TLS, [`proxy::accept::connection`] reads HTTP/1.1 and [`proxy::accept::http2`] HTTP/2,
//! [`proxy::accept::request`] refuses what two parsers could read differently, and [`proxy::accept::route`] names the pool. A [visit](proxy::visit) begins: [`proxy::affinity`] opens the pin
//! that came along, in our cookie, under the app's session id ([`pins`] keeps what an id does not tell by itself) or as a
//! hash; what is known of its home ([`pool::Backend`]) and where the pool keeps its sessions ([`pool::sessions`]) decide
//! whether it is kept, detoured or rehomed ([`proxy::affinity::rehome`]). [`proxy::balance`] picks for whoever has no pin. Where
//! a session has one copy, parallel requests that leave their home pass a [gate](proxy::gate).
//! [`proxy::forward`] writes the head that the backend sees, sends the request within its deadlines, and sends it
//! elsewhere only when that is safe. [`proxy::respond`] finishes the reply, the pin goes with it if it changed, and the
//! slot at the backend is released at the last byte.
//!
//! # Two planes
//!
//! **Data plane**: one thread a core, each with its own current-thread runtime, listening sockets and idle connections
//! ([`proxy::worker`]). A request takes no lock and writes to no cache line that another core writes to, but for the
//! backend's own counters.
//! **Control plane**: one more thread ([`control`]): probes, reloads, backends that are found, orders, the admin endpoint. It publishes immutable
//! [snapshots](proxy::snapshot) and small atomics; workers never wait for it.
//! What is known of a backend belongs to its identity, pool and name ([`pool::registry`]), and outlives every snapshot.
//!
//! # Imports point left, never right
//!
//! `clock, config, telemetry, drain, proxy_protocol, hex, socket` ← `key_file` ← `tls` ← `pool` ← `pins` ← `proxy` ←
//! `control` ← `privileges` ← `app, ctl` ← `main`.
//!
//! Within `proxy`, the folders do not import one another, except that `accept` runs the tunnels of `forward`;
//! `proxy/mod.rs`, `attempts.rs`, `hedge.rs`, `passage.rs`, `visit/`, `relay.rs` and `snapshot.rs` join them. `config`, `pool`, `affinity` and
//! `balance` open no socket and start no task; time and chance are their arguments.

pub mod clock;

pub mod config;

pub mod telemetry;

pub mod drain;

pub mod proxy_protocol;

mod hex;

pub mod key_file;

pub mod tls;

pub mod socket;

pub mod pool;

pub mod pins;

pub mod proxy;

pub mod control;

pub mod privileges;

pub mod app;

pub mod ctl;
