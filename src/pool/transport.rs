//! How connections to the backends of a pool are made.

use std::sync::Arc;

use crate::config::Protocol;
use crate::tls::backend::TlsClient;

/// What a connection begins with and speaks. One for all backends of a pool.
#[derive(Clone, Debug, Default)]
pub struct Transport {
    /// Whether connections begin with the header of the PROXY protocol.
    pub sends_proxy_protocol: bool,
    /// How TLS is spoken; `None` for not at all.
    pub tls: Option<Arc<TlsClient>>,
    /// Which version of HTTP.
    pub protocol: Protocol,
}

impl Transport {
    /// Whether a connection is, or may be, of HTTP/2.
    pub fn may_be_http2(&self) -> bool {
        match self.protocol {
            Protocol::H1 => false,
            Protocol::H2 => true,
            Protocol::Auto => self.tls.is_some(),
        }
    }

    /// Whether a connection that was made by the one may carry requests for the other. Who a header of the PROXY protocol
    /// told of is asked for each connection.
    pub fn fits(&self, other: &Self) -> bool {
        let tls = match (&self.tls, &other.tls) {
            (None, None) => true,
            // Clients under the same settings are the same.
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, Some(_)) | (Some(_), None) => false,
        };
        tls && self.protocol == other.protocol
    }
}
