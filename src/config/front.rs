//! Where clients and operators come in: listeners, whom they believe, routes, the admin endpoint.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::{Address, Hsts, RedirectToHttps, Tls};

/// Peers that may speak for other clients: whose `X-Forwarded-*` and `Forwarded` are believed, and whose PROXY protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    /// Their networks.
    pub networks: Vec<IpNet>,
    /// Whether whoever comes by a Unix socket is one: the file's permissions say who that can be.
    pub unix: bool,
}

impl TrustedProxies {
    /// Whether this address is one of a trusted proxy. Linear in the networks; no allocation.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }
}

/// What a listener accepts clients on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenOn {
    /// An address that is bound at the start; port 0 lets the system choose.
    Bound(Address),
    /// A socket that systemd has opened, by its name (`FileDescriptorName=`).
    Inherited(Arc<str>),
}

impl fmt::Display for ListenOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bound(address) => address.fmt(f),
            Self::Inherited(name) => write!(f, "systemd:{name}"),
        }
    }
}

/// Whether a listener looks for the header of the PROXY protocol (version 1 or 2) in front of everything else. It is only
/// ever looked for from trusted proxies, since it says who the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyProtocol {
    /// It does not.
    Off,
    /// A trusted proxy may send it. From anybody else it is not looked for, and would be a bad request.
    Optional,
    /// A connection without it, or from anybody but a trusted proxy, is closed.
    Required,
}

/// One address to accept on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub address: ListenOn,
    /// Permissions of the socket's file, when it is one.
    pub mode: u32,
    /// Whether the PROXY protocol is understood.
    pub proxy_protocol: ProxyProtocol,
    /// Open client connections, over all workers; beyond it, accepting pauses.
    pub max_connections: usize,
    /// Longest request head in bytes; beyond it the client gets 431.
    pub head_limit: usize,
    /// How long a client may take to send a request head.
    pub header_timeout: Duration,
    /// How long a client connection may stay open between two requests.
    pub keep_alive_timeout: Duration,
    /// `None`: HTTP/1.1 only.
    pub http2: Option<Http2>,
    /// `None`: plain HTTP.
    pub tls: Option<Tls>,
    /// Sends every request to https instead of a backend.
    pub redirect_to_https: Option<RedirectToHttps>,
    /// Goes with every reply over https.
    pub hsts: Option<Hsts>,
}

/// HTTP/2 with clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2 {
    /// Requests that one connection may have under way.
    pub max_streams: u32,
    /// Bytes of one request's body that a client may send ahead of the backend.
    pub stream_window: u32,
    /// The same for all requests of a connection together; at least [`Http2::stream_window`].
    pub connection_window: u32,
}

/// The admin endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Address and port; port 0 lets the system choose.
    pub address: SocketAddr,
    /// File with the bearer token. `Some` whenever [`Admin::address`] is not loopback.
    pub token_file: Option<PathBuf>,
}

/// Host and path prefix to pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Which hosts.
    pub host: HostPattern,
    /// Starts with `/`. `/shop` matches `/shop` and `/shop/x`, not `/shopping`.
    pub path_prefix: Arc<str>,
    /// Index into [`Config::pools`](super::Config::pools).
    pub pool: usize,
    /// `false`: this route's requests are placed without looking at the pin.
    pub affinity: bool,
}

/// Which hosts a route serves. Lower case, no port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// Every host.
    Any,
    /// Exactly this one.
    Exact(Arc<str>),
    /// `*.example.com`: any number of labels in front; stored as `.example.com`.
    Wildcard(Arc<str>),
}
