//! A pool: its backends, and what is said of all of them.

use std::sync::Arc;
use std::time::Duration;

use super::{
    Address, Affinity, BackendTls, BackendsFrom, Health, Pace, Percent, Protocol, Rebalance, Rehome, Retry, Source,
    Weight,
};

/// Whether connections to backends begin with the header of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SendProxyProtocol {
    /// They do not.
    Off,
    /// With that of version 2. A connection then belongs to one client connection, and is not used for another's requests.
    V2,
}

/// A pool and its settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Its name.
    pub name: Arc<str>,
    /// Where the app keeps its sessions.
    pub sessions: Sessions,
    /// Name of the app's own session cookie; `None` means the well-known names.
    pub session_cookie: Option<Arc<str>>,
    /// How a client without a pin is placed.
    pub balance: Balance,
    /// How a client keeps coming back.
    pub affinity: Affinity,
    /// What happens to a pin whose home cannot serve it.
    pub rehome: Rehome,
    /// When pins of healthy backends are moved to even out load; `None` means never.
    pub rebalance: Option<Rebalance>,
    /// How fast a drain moves the pins that may be moved: a share of those there were when it began.
    pub drain_pace: Pace,
    /// Probes and thresholds.
    pub health: Health,
    /// When a request is tried again.
    pub retry: Retry,
    /// Deadlines of a request.
    pub timeouts: Timeouts,
    /// How backends are spoken to within TLS; `None` for not at all.
    pub tls: Option<BackendTls>,
    /// Which version of HTTP backends are spoken to in.
    pub protocol: Protocol,
    /// Whether backends are told the client's address in front of everything else.
    pub send_proxy_protocol: SendProxyProtocol,
    /// How long the share of a backend rises that comes, or comes back; zero for not at all.
    pub slow_start: Duration,
    /// The share of available backends below which health is ignored for spreading new clients; 0 for never.
    pub panic_below: Percent,
    /// Most requests in flight at each backend that has no bound of its own; `None` for no bound.
    pub max_requests: Option<u32>,
    /// Most open connections to each backend that has no bound of its own; `None` for no bound.
    pub max_connections: Option<u32>,
    /// Where requests wait that find a backend full.
    pub queue: Queue,
    /// In file order; names unique in the pool. At least one where nothing else brings any.
    pub backends: Vec<Backend>,
    /// Where more backends come from.
    pub backends_from: BackendsFrom,
}

impl Pool {
    /// Most requests and most connections of a backend: what is said of it, else of the pool.
    pub fn bounds_of(&self, backend: &Backend) -> (Option<u32>, Option<u32>) {
        (backend.max_requests.or(self.max_requests), backend.max_connections.or(self.max_connections))
    }
}

/// One backend as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its name: the identity that pins refer to. The address when the file gives none.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: Address,
    /// Relative share; 0 means pinned clients only.
    pub weight: Weight,
    /// What the app calls it in session ids; its name when `None`. Unique in the pool, names of others included.
    pub route: Option<Arc<str>>,
    /// Active pins beyond which it gets no new client; `None` for no bound.
    pub max_pins: Option<u64>,
    /// Used when the tiers before have no available backend; 0 to [`Tier::MAX`](super::Tier::MAX).
    pub tier: u8,
    /// Most requests in flight, tunnels included; `None` for the pool's bound.
    pub max_requests: Option<u32>,
    /// Most open connections from all workers, idle ones included; `None` for the pool's bound.
    pub max_connections: Option<u32>,
    /// Who named it.
    pub source: Source,
    /// Where its probes go; `None` for its address, with the port of the pool's probes if they have one.
    pub probe_address: Option<Address>,
}

/// Where the app keeps its sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sessions {
    /// Only in the memory of the backend that created them.
    Local,
    /// On every backend.
    Replicated,
    /// On a primary and one secondary.
    Backup,
    /// In a store that all backends share.
    External,
}

/// The balancing algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Balance {
    /// Fewest active pins per weight, of two random choices.
    LeastPins,
    /// Fewest in-flight requests per weight.
    LeastRequests,
    /// Lowest expected latency times in-flight requests per weight, of two random choices.
    PeakEwma,
    /// Smooth weighted round robin.
    RoundRobin,
    /// Weighted random.
    Random,
    /// The less loaded of two weighted random choices.
    TwoChoices,
}

/// Where requests wait that find a backend full: one queue for each backend, and one for requests that any may serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Most requests in each; 0 means that nobody waits.
    pub length: u32,
    /// How long a request may wait altogether.
    pub timeout: Duration,
}

/// Deadlines of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To open a connection to a backend.
    pub connect: Duration,
    /// From the end of the request to the first byte of the reply.
    pub first_byte: Duration,
    /// Between two pieces of a request body, or of a reply, its head included.
    pub idle: Duration,
    /// For one attempt until its reply begins, as long as there may be another; `None` for no bound.
    pub attempt: Option<Duration>,
    /// For the whole request, `None` for no bound.
    pub request: Option<Duration>,
    /// A tunnel without a byte in either direction for this long is closed.
    pub tunnel_idle: Duration,
}
