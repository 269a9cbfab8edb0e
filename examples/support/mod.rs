//! What the examples and the tests share: session app servers, a client with a cookie jar, bounded waiting.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "a library in all but name: several programs include it, and each uses its own part"
)]

pub mod client;

pub mod port;

pub mod session_app;

pub mod session_arguments;

pub mod session_process;

pub mod traffic;

pub mod until;
