//! What the tests stand on: backends, Stickpin in process and as a process, bounded waiting.
//!
//! Everything started here is stopped when it is dropped, by its own handle and never by its name.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "a library in all but name: several test binaries include it, and each uses its own part"
)]

#[path = "../../examples/support/mod.rs"]
mod shared;

#[path = "../../src/tls/made.rs"]
pub(crate) mod made;

mod admin;

mod backend;

pub mod dns;

pub mod grpc;

pub mod http2;

mod process;

pub mod raw;

mod redis;

mod running;

pub mod tls;

pub mod tls_backend;

pub mod http2_backend;

use std::fmt::Debug;
use std::time::Duration;

pub use admin::Admin;
pub use backend::{Backend, BackendProcess, example};
pub use dns::DnsServer;
pub use process::StickpinProcess;
pub use redis::RedisServer;
pub use running::Stickpin;
pub use shared::client::{Client, ClientError, Cookies, Reply};
pub use shared::port::ReservedPort;
pub use shared::session_app::{self, SessionApp};

/// Longer than anything takes on a busy machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Polls `condition` until it gives `Ok`, which is returned. Its `Err` is the state it saw instead.
///
/// # Panics
/// With the last state seen, when [`PATIENCE`] is over.
#[track_caller]
pub fn until<T, S: Debug>(what: &str, condition: impl AsyncFnMut() -> Result<T, S>) -> impl Future<Output = T> {
    until_within(what, PATIENCE, condition)
}

/// As [`until`], for what may take longer.
///
/// # Panics
/// With the last state seen, when `patience` is over.
#[track_caller]
pub fn until_within<T, S: Debug>(
    what: &str,
    patience: Duration,
    condition: impl AsyncFnMut() -> Result<T, S>,
) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        match shared::until::until(what, patience, condition).await {
            Ok(value) => value,
            Err(expired) => panic!("{caller}: {expired}"),
        }
    }
}
