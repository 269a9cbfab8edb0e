//! Takes connections, reads requests from them, and names the pool.

pub mod listener;

pub mod connection;

pub mod request;

pub mod route;
