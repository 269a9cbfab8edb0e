//! Finishes a reply for the client.

pub mod headers;

pub mod error_page;
