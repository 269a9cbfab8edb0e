//! Takes connections, reads requests from them, and names the pool.

pub mod listener;

pub mod tls;

pub mod inherited;
pub mod socket_file;

pub mod proxy_header;

pub mod connection;

mod preface;

pub mod http2;

pub mod https;

pub mod request;

pub mod route;
