//! Sends a request to a backend and brings back its reply.
//!
//! The client side of HTTP/1.1 is written here and not taken from hyper, for three reasons: what a backend sees must be
//! ours to the byte; a retry rests on knowing whether anything was sent and whether a byte of the reply came; and a
//! request and its reply are driven by the client connection's own task, which spares two task switches and a channel
//! per request (about a tenth of the processor time of a small one).

mod chunked;

mod head;

mod told;

mod origin;

mod hop_by_hop;

mod request_head;

mod request_body;

mod connect;

mod connection;

mod exchange;

mod http2;

mod client;

pub mod tunnel;

pub use client::{AttemptError, Begun, Client, Outgoing, Owner, connect_failure, is_idempotent, is_own_trouble};
pub use exchange::{BodyError, Exchange};
pub use head::{HeadError, ReplyHead};
pub use http2::Addressed;
pub use origin::Origin;
pub use request_body::RequestBody;
pub use request_head::{Hop, RequestHead, expects_continue};
