//! What the operator asked for: validated, immutable, and made only by parsing.
//!
//! Pure: nothing here opens a socket, starts a task, reads a clock or touches a file. [`Config::parse`] takes the text of
//! a file and gives either a whole [`Config`] or every problem in it, each with its path and line.

mod address;

mod units;

mod words;

mod tls;

mod health;

mod yaml;

mod tree;

mod read;

mod validate;

mod problem;

mod schema;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

pub use address::{Address, AddressError, SOCKET_PATH_LIMIT};
pub use health::{Agent, BackendTls, CaFile, GrpcProbe, Health, HttpProbe, Probe, Traffic};
pub use problem::{Problem, Problems};
pub use schema::schema;
pub use tls::{
    CertificateFiles, CipherSuite, ClientCertificates, Hsts, RedirectToHttps, SessionTickets, Tls, TlsVersion,
};
pub use units::{Pace, Percent, Tier, Weight, duration, written};

/// Everything the file says, with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Data-plane threads; `None` means one per core.
    pub workers: Option<NonZeroUsize>,
    /// Where generated keys and the operator's orders are kept.
    pub state_dir: Option<PathBuf>,
    /// File with the ring of cookie keys; relative paths are relative to the configuration file's folder.
    pub cookie_keys_file: Option<PathBuf>,
    /// Where pins by the app's own session id are kept.
    pub pin_store: PinStore,
    /// How long a stop may take before what is left is cut off.
    pub stop_deadline: Duration,
    /// Whom to run as once every address is bound; `None`: as whoever started the program.
    pub user: Option<User>,
    /// Who may speak for other clients.
    pub trusted_proxies: Arc<TrustedProxies>,
    /// Where the access log goes.
    pub access_log: AccessLog,
    /// Addresses to accept clients on; at least one.
    pub listeners: Vec<Listener>,
    /// The admin endpoint; `None` when the file has none.
    pub admin: Option<Admin>,
    /// In file order; every `pool` is an index into [`Config::pools`]. Never empty: without `routes` in the file there is
    /// one that sends everything to the only pool.
    pub routes: Vec<Route>,
    /// In file order; at least one, names unique.
    pub pools: Vec<Pool>,
}

/// Where access-log lines go, and how many.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLog {
    /// Where to.
    pub target: AccessLogTarget,
    /// Share of requests that are logged.
    pub sample: Percent,
}

/// See [`AccessLog::target`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// Nothing is logged.
    Off,
    /// Standard output.
    Stdout,
    /// Appended to this file; opened again at each reload, so that it can be rotated.
    File(PathBuf),
}

/// A user of this machine, by name or number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: Arc<str>,
    /// Another group than its own.
    pub group: Option<Arc<str>>,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.group.iter().try_for_each(|group| write!(f, ":{group}"))
    }
}

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

/// Whether connections to backends begin with the header of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SendProxyProtocol {
    /// They do not.
    Off,
    /// With that of version 2. A connection then belongs to one client connection, and is not used for another's requests.
    V2,
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
    /// Index into [`Config::pools`].
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

/// Where a pool's backends come from besides its list. The admin API may add some to every pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendsFrom {
    /// A name that is looked up again and again.
    pub dns: Option<DnsSource>,
    /// A file with a list of backends, looked at each second; relative paths are relative to the configuration file's
    /// folder.
    pub file: Option<PathBuf>,
}

/// A name that is looked up again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSource {
    /// The name, in lower case.
    pub name: Arc<str>,
    /// What is asked for.
    pub record: DnsRecord,
    /// How often.
    pub refresh: DnsRefresh,
    /// A lookup without a whole answer by then has failed.
    pub timeout: Duration,
    /// A backend that so many good answers in a row lack is removed.
    pub remove_after: u32,
    /// Servers to ask; empty means those of the system.
    pub servers: Vec<SocketAddr>,
}

/// What a name is looked up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsRecord {
    /// Addresses, each a backend at this port.
    Addresses {
        /// Of IPv4.
        ipv4: bool,
        /// Of IPv6.
        ipv6: bool,
        /// 1 to 65535.
        port: u16,
    },
    /// Targets with ports, weights and priorities.
    Srv,
}

/// How often a name is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsRefresh {
    /// In this rhythm.
    Every(Duration),
    /// When the answer is too old by its own word, within bounds.
    Ttl,
}

/// Where a backend comes from. Of two with the same name or address, the one whose source stands first here counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// `backends` of the configuration file.
    File,
    /// The admin API.
    Api,
    /// The file that `backends_from` names.
    WatchedFile,
    /// The name that `backends_from` gives.
    Dns,
}

impl Source {
    /// The word used in the log, the metrics and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Api => "api",
            Self::WatchedFile => "watched_file",
            Self::Dns => "dns",
        }
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
    /// Used when the tiers before have no available backend; 0 to [`Tier::MAX`].
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

/// How a client keeps coming back to one backend.
#[derive(Clone, Debug, PartialEq)]
pub enum Affinity {
    /// Not at all.
    Off,
    /// By Stickpin's own sealed cookie.
    Cookie(CookieAffinity),
    /// By the session id that the app itself issues.
    AppSession(AppSessionAffinity),
    /// By a hash of something that the request carries.
    Hash(HashAffinity),
}

/// Where the app's session id is found, and how its home is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppSessionAffinity {
    /// Where a request may carry the id, in the order of looking; at least one.
    pub sources: Vec<SessionSource>,
    /// How the home of an id is known.
    pub home_by: HomeBy,
    /// A pin unused for this long is expired.
    pub idle_timeout: Duration,
    /// A pin older than this is expired, used or not.
    pub max_lifetime: Duration,
}

/// Where a session id is carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionSource {
    /// A cookie of this name; in a reply, a `Set-Cookie` of it.
    Cookie(Arc<str>),
    /// A header of this name, in requests and replies.
    Header(http::HeaderName),
    /// `;NAME=ID` at the end of a path segment.
    PathParameter(Arc<str>),
    /// `NAME=ID` in the query.
    QueryParameter(Arc<str>),
}

/// How the home of a session id is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HomeBy {
    /// The reply that issues the id teaches it; kept in the pin store.
    Learn,
    /// The app appends its route to the id, after this separator: `.` as in `ID.app1`, `!` as in `ID!app1!app2`, where the
    /// second one is the heir.
    RouteSuffix(char),
    /// Stickpin puts the backend's name and `~` in front of the value of the app's cookie.
    Prefix,
}

/// What is hashed and how, and what happens without it.
#[derive(Clone, Debug, PartialEq)]
pub struct HashAffinity {
    /// Where the affinity key comes from; the first one present wins. At least one.
    pub keys: Vec<KeySource>,
    /// What happens to a request that carries none of them.
    pub without_key: WithoutKey,
    /// How a key finds its home.
    pub home_hash: HomeHash,
    /// A backend with more than this many times the average of active pins per weight gets no new key: 1.05 to 10.
    /// `None` for no bound.
    pub bounded_load: Option<f64>,
}

/// How a key finds its home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HomeHash {
    /// The best score of all backends.
    Rendezvous,
    /// A table of slots.
    Maglev,
    /// A ring of points.
    Ring,
}

/// Where an affinity key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// The value of this header.
    Header(http::HeaderName),
    /// The value of this cookie.
    Cookie(Arc<str>),
    /// The value of this query parameter.
    QueryParameter(Arc<str>),
    /// The path, without the query.
    Path,
    /// The client's address, of which this many bits count.
    ClientAddress {
        /// 1 to 32.
        ipv4_prefix: u8,
        /// 1 to 128.
        ipv6_prefix: u8,
    },
    /// A claim of a JSON Web Token, which is read but not verified: that is the app's business.
    JwtClaim {
        /// The claim's name, as in `sub`.
        claim: Arc<str>,
        /// Where the token is.
        token: TokenSource,
    },
}

/// Where a JSON Web Token is carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// A header; `Bearer` in front of the token is left out.
    Header(http::HeaderName),
    /// A cookie of this name.
    Cookie(Arc<str>),
}

/// What happens to a request without an affinity key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WithoutKey {
    /// It is balanced like one of a pool without affinity.
    Balance,
    /// The client's whole address is the key.
    ClientAddress,
    /// It is answered with 400.
    Reject,
}

/// Where pins by the app's own session id are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinStore {
    /// Most pins of each pool that are kept in memory; beyond it the longest unused go.
    pub max_pins: usize,
    /// Most of them that one client address may have; beyond it, its own longest unused go.
    pub max_pins_per_client: usize,
    /// Shares them with other replicas; `None` keeps them in this process only.
    pub redis: Option<RedisStore>,
}

/// A Redis or Valkey that holds the pins of all replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisStore {
    /// `redis://HOST:PORT/DB`, or `rediss://` for TLS; a user name may be part of it.
    pub url: Arc<str>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// A request waits this long for a pin that is not known here.
    pub lookup_timeout: Duration,
}

/// The cookie and the life of the pin in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieAffinity {
    /// Cookie name, `__Host-` and `__Secure-` included.
    pub name: Arc<str>,
    /// A pin unused for this long is expired.
    pub idle_timeout: Duration,
    /// A pin older than this is expired, used or not.
    pub max_lifetime: Duration,
    /// `Domain` attribute.
    pub domain: Option<Arc<str>>,
    /// `Path` attribute.
    pub path: Arc<str>,
    /// `Secure` attribute.
    pub secure: Secure,
    /// `HttpOnly` attribute.
    pub http_only: bool,
    /// `SameSite` attribute.
    pub same_site: SameSite,
    /// When a client without a pin gets one.
    pub pin_on: PinOn,
    /// `true`: `Max-Age` is sent, so that the cookie outlives the browser. `false`: it ends with the browser session.
    pub persistent: bool,
}

/// When a client without a pin gets one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinOn {
    /// With the reply to its first request.
    FirstRequest,
    /// With the reply that begins a session: one that sets the app's session cookie, or says `Stickpin-Pin: keep`.
    SessionStart,
}

/// When the cookie is `Secure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secure {
    /// When the client's connection (or a trusted proxy's word) is https.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The `SameSite` attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// `Lax`
    Lax,
    /// `Strict`
    Strict,
    /// `None`; needs `Secure`.
    None,
}

/// What happens to a pin whose home cannot serve it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rehome {
    /// The rule.
    pub when_unavailable: WhenUnavailable,
    /// What the rule is in single cases.
    pub when: When,
    /// A pinned request waits this long for its home first.
    pub wait: Duration,
    /// With [`Sessions::Backup`], the parallel requests of one client wait at most this long for the reply to the first
    /// one at a new home; zero means not at all.
    pub gate: Duration,
    /// How long a home that is out of reach, and may still hold its sessions, is remembered.
    pub hold_home: Duration,
    /// What a client gets whose session is lost, once.
    pub on_session_lost: OnSessionLost,
}

/// When pins of healthy backends are moved to even out load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rebalance {
    /// A backend gives pins away while it has this many times its share: 1.05 to 10.
    pub when_above: f64,
    /// How fast, as a share of the pool's pins.
    pub pace: Pace,
    /// A pin is moved only when its client has been silent for this long.
    pub idle_for: Duration,
}

/// See [`Rehome::on_session_lost`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnSessionLost {
    /// Its request is served by the new home, which is told by a header.
    Forward,
    /// This status, without asking a backend.
    Status(http::StatusCode),
    /// A redirect to this target, usually a page of the app's.
    Redirect(Arc<str>),
}

/// Cells of the table of `sessions` that the pool overrides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct When {
    /// The home is full.
    pub busy: Option<Briefly>,
    /// It failed a moment ago.
    pub suspect: Option<Briefly>,
    /// It failed this very request.
    pub connect_failed: Option<Briefly>,
    /// It is out of reach.
    pub unreachable: Option<Away>,
    /// The operator disabled it.
    pub disabled: Option<Away>,
    /// The operator drains it.
    pub draining: Option<Drained>,
    /// Its process is gone.
    pub gone: Option<Away>,
    /// It was out of reach for longer than `hold_home`.
    pub hold_over: Option<Away>,
}

/// What may be done while a home cannot serve for a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Briefly {
    /// Wait for it as long as the pool says, then serve the request elsewhere.
    Wait,
    /// Serve the request elsewhere.
    Detour,
    /// 503.
    Refuse,
}

/// What may be done while a home is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Away {
    /// Serve requests elsewhere; the pin stays.
    Detour,
    /// Move the pin.
    Rehome,
    /// 503.
    Refuse,
}

/// What may be done while a home is drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Its clients stay, until the deadline if there is one.
    Keep,
    /// They move, at the pace of the drain.
    Rehome,
}

/// See [`Rehome::when_unavailable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenUnavailable {
    /// What the table of `sessions` says.
    Rehome,
    /// The pin never moves; requests are served elsewhere meanwhile.
    Detour,
    /// 503 until the home is back.
    Refuse,
}

/// When a request is tried again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    /// Attempts after the first.
    pub attempts: u32,
    /// A request body up to this many bytes is kept so that it can be sent again.
    pub body_limit: usize,
    /// Retries may be at most this share of requests (with a small floor).
    pub budget: Percent,
    /// What is tried again.
    pub retry_on: RetryOnSet,
    /// The longest pause before the first retry of a request that was sent.
    pub backoff: Duration,
    /// When a second backend is asked, too; `None` is never. Only with [`Sessions::External`].
    pub hedge_after: Option<HedgeAfter>,
}

/// What may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetryOn {
    /// No connection could be opened.
    Connect,
    /// The connection broke before the first byte of a reply, or what came was none.
    ResetBeforeReply,
    /// A reply of 502.
    BadGateway,
    /// A reply of 503.
    ServiceUnavailable,
    /// A reply of 504, or none in time.
    GatewayTimeout,
}

/// A set of [`RetryOn`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOnSet(u8);

impl RetryOnSet {
    /// Whether it is in the set.
    pub fn contains(self, what: RetryOn) -> bool {
        self.0 & 1 << what as u8 != 0
    }
}

impl FromIterator<RetryOn> for RetryOnSet {
    fn from_iter<I: IntoIterator<Item = RetryOn>>(items: I) -> Self {
        Self(items.into_iter().fold(0, |set, what| set | 1 << what as u8))
    }
}

/// See [`Retry::hedge_after`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HedgeAfter {
    /// A fixed time.
    Time(Duration),
    /// The time within which this many of a hundred requests of the pool have their reply: 50 to 99.
    Percentile(u8),
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

impl Config {
    /// Reads the text of a configuration file.
    ///
    /// `file` is only used in messages.
    ///
    /// # Errors
    /// Every problem found, in file order.
    pub fn parse(file: &str, text: &str) -> Result<Self, Problems> {
        validate::config(file, text)
    }
}

/// Reads the text of a list of backends, YAML or JSON as in `backends`, for a pool of this affinity. It may be empty.
///
/// `file` is only used in messages.
///
/// # Errors
/// Every problem found, in file order.
pub fn parse_backends(file: &str, text: &str, affinity: &Affinity, source: Source) -> Result<Vec<Backend>, Problems> {
    validate::backends(file, text, affinity, source)
}

/// Reads one backend, spelled out as in `backends`, for a pool of this affinity.
///
/// # Errors
/// Every problem found.
pub fn parse_backend(text: &str, affinity: &Affinity, source: Source) -> Result<Backend, Vec<Problem>> {
    validate::backend(text, affinity, source)
}
