//! Where the requests of a client connection come from: who the client is, how it came, and whom it is believed to speak for.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::HeaderMap;

use super::told;
use crate::config::TrustedProxies;
use crate::proxy_protocol::Ends;

/// What we are called in `Via`: no version, no host.
pub(super) const VIA_NAME: &str = "stickpin";

/// Lines about where a request came from, made once for each client connection.
#[derive(Debug)]
pub struct Origin {
    /// Who else is a trusted proxy, when this client is one: its own `X-Forwarded-*` are believed and added to.
    pub(super) trusted: Option<Arc<TrustedProxies>>,
    ends: Ends,
    pub(super) scheme: &'static str,
    pub(super) address: String,
    /// The client as a node of `Forwarded`, quoted when it has to be.
    pub(super) node: String,
    /// Where it came in.
    pub(super) port: u16,
    /// Lines about the certificate that the client showed, each with its line end.
    pub(super) certificate: Vec<u8>,
    /// All that there is to say about a client that is believed nothing, but for the host.
    pub(super) lines: Vec<u8>,
    /// Where the client's version stands in them.
    pub(super) via_at: usize,
}

impl Origin {
    /// For a client connection between these ends; `trusted` when the client is a trusted proxy.
    pub fn new(ends: Ends, is_tls: bool, trusted: Option<Arc<TrustedProxies>>) -> Self {
        let ends = Ends { source: canonical(ends.source), destination: canonical(ends.destination) };
        let peer = ends.source.ip();
        let scheme = if is_tls { "https" } else { "http" };
        let (node, port) = (node(peer), usual_port(ends.destination.port(), scheme));
        let forwarded =
            format!("x-forwarded-for: {peer}\r\nx-forwarded-proto: {scheme}\r\nx-forwarded-port: {port}\r\nvia: ");
        let lines = format!("{forwarded}1.1 {VIA_NAME}\r\nforwarded: for={node};proto={scheme}");
        Self {
            trusted,
            ends,
            scheme,
            address: peer.to_string(),
            node,
            port,
            certificate: Vec::new(),
            via_at: forwarded.len(),
            lines: lines.into_bytes(),
        }
    }

    /// With lines about the certificate that the client showed, each with its line end.
    #[must_use]
    pub fn with_certificate(self, certificate: Vec<u8>) -> Self {
        Self { certificate, ..self }
    }

    /// Whether the client (or a trusted proxy's client) uses https.
    pub fn is_https(&self, headers: &HeaderMap) -> bool {
        self.told(|_| told::scheme(headers)).unwrap_or(self.scheme) == "https"
    }

    /// The client's address: the peer's, or whom trusted proxies tell.
    pub fn client(&self, headers: &HeaderMap) -> IpAddr {
        self.told(|trusted| told::client(headers, trusted)).unwrap_or(self.ends.source.ip())
    }

    /// The ends of the client's connection. Of a client that a trusted proxy tells of, nobody knows the port.
    pub fn ends(&self, headers: &HeaderMap) -> Ends {
        match self.told(|trusted| told::client(headers, trusted)) {
            Some(client) if client != self.ends.source.ip() => Ends { source: (client, 0).into(), ..self.ends },
            Some(_) | None => self.ends,
        }
    }

    pub(super) fn told<T>(&self, look: impl FnOnce(&TrustedProxies) -> Option<T>) -> Option<T> {
        look(self.trusted.as_ref()?)
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// An address as it stands in `Forwarded`.
pub(super) fn node(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    }
}

/// The port, or the usual one of the scheme where there is none: a Unix socket has no port.
pub(super) fn usual_port(port: u16, scheme: &str) -> u16 {
    match port {
        0 if scheme == "https" => 443,
        0 => 80,
        port => port,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use http::HeaderValue;

    use super::*;

    pub(in crate::proxy::forward) fn origin(peer: IpAddr, trusted: Option<&str>) -> Origin {
        let ends = Ends { source: (peer, 40_000).into(), destination: ([127, 0, 0, 1], 8080).into() };
        let networks = trusted.map(|network| vec![network.parse().expect("a network")]);
        Origin::new(ends, false, networks.map(|networks| Arc::new(TrustedProxies { networks, unix: false })))
    }

    pub(in crate::proxy::forward) fn stranger() -> Origin {
        origin([192, 0, 2, 7].into(), None)
    }

    #[test]
    fn the_ends_of_a_connection_are_those_of_the_client() {
        let proxy = origin([10, 0, 0, 2].into(), Some("10.0.0.0/8"));
        let told: HeaderMap = [(told::X_FORWARDED_FOR, HeaderValue::from_static("192.0.2.7"))].into_iter().collect();
        assert_eq!(proxy.ends(&told).source.to_string(), "192.0.2.7:0");
        assert_eq!(proxy.ends(&HeaderMap::new()).source.to_string(), "10.0.0.2:40000");
        assert_eq!(stranger().ends(&told).source.to_string(), "192.0.2.7:40000");
        assert_eq!(proxy.ends(&told).destination.to_string(), "127.0.0.1:8080");
        let mapped = Ends { source: "[::ffff:192.0.2.7]:9".parse().expect("an address"), ..proxy.ends };
        assert_eq!(Origin::new(mapped, false, None).client(&told).to_string(), "192.0.2.7");
    }
}
