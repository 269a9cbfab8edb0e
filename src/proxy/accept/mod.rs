//! Takes connections, reads requests from them, and names the pool.

pub mod listener;

pub mod socket_file;

pub mod inherited;

pub mod proxy_header;

pub mod connection;

pub mod request;

pub mod route;
