//! HTTP/2 to backends: one connection carries many requests.
//!
//! [`links`] finds a place on a connection, and opens another one when there is none; [`connection`] is one of them and
//! the task that drives it; [`exchange`] is one request and its reply on one stream; [`head`] makes the heads.

pub(super) mod connection;

pub(super) mod exchange;

mod head;

pub(super) mod links;

pub use head::Addressed;
pub(super) use head::{WEBSOCKET, request};
