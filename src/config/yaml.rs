//! The file as written: its keys and the type of each value. No logic and no defaults, which `validate` fills in.
//!
//! The doc comments become the descriptions of the JSON Schema, which editors show; so they name unit and default.

mod tls;

mod health;

pub(super) use health::{Agent, BackendTls, GrpcHealth, Health, HttpHealth, TcpHealth, Traffic};
use schemars::JsonSchema;
use serde::Deserialize;

use super::read::{Entries, Full, Given, Short};
use super::units::{
    Address, BackendAddress, BackendName, ClaimName, CookieDomain, CookieName, CookiePath, DnsName, DnsRefresh,
    DnsServer, FileMode, FilePath, Header, HedgeAfter, ListenerAddress, NonZeroTime, Pace, ParameterName, PathPrefix,
    Percent, Ratio, RedisUrl, RequestTarget, Size, Tier, Time, TrustedProxy, UserName, Weight, Whole,
};
use super::words::{
    ApiWord, BalanceWord, BoundedLoad, HomeByWord, KeyWord, LogTarget, LogWord, LostWord, Off, On, RecordWord,
    Separator,
};
use super::{
    Away, Briefly, Drained, HostPattern, PinOn, ProxyProtocol, RetryOn, SameSite, Secure, SendProxyProtocol, Sessions,
    WhenUnavailable, WithoutKey,
};

pub(super) use tls::{ClientCertificates, Hsts, RedirectToHttps, SessionTickets, Tls};

/// A configuration file of Stickpin.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Stickpin configuration")]
pub(super) struct File {
    /// Data-plane threads, 1 to 1024. Default: one per core.
    pub(super) workers: Given<Whole<1, 1024>>,
    /// Folder where generated keys and the operator's orders are kept. Default: none, they last as long as the process.
    pub(super) state_dir: Given<FilePath>,
    /// File with the ring of cookie keys, shared by replicas; the first line signs. Relative to this file's folder.
    /// Default: none, a key is generated.
    pub(super) cookie_keys_file: Given<FilePath>,
    /// Where pins by the app's own session id are kept. Default: in memory.
    pub(super) pin_store: Given<PinStore>,
    /// How long a stop may take before what is left is cut off. Default: 30s.
    pub(super) stop_deadline: Given<Time>,
    /// Whom to run as once every address is bound, as USER or USER:GROUP. Default: whoever starts it.
    pub(super) user: Given<UserName>,
    /// Networks and addresses of proxies that speak for other clients, and `unix` for whoever comes by a Unix socket: their
    /// `X-Forwarded-*`, `Forwarded` and PROXY protocol are believed. Default: none.
    pub(super) trusted_proxies: Given<Vec<Given<TrustedProxy>>>,
    /// Where the access log goes. Default: stdout.
    pub(super) access_log: Given<Short<LogWord, AccessLog>>,
    /// Addresses to accept clients on; at least one.
    pub(super) listeners: Given<Vec<Given<Short<ListenerAddress, Listener>>>>,
    /// The admin endpoint. Default: none.
    pub(super) admin: Given<Admin>,
    /// Host and path prefix to pool; the longest match wins. Default: the only pool gets every request.
    pub(super) routes: Given<Vec<Given<Route>>>,
    /// Pools of backends by name; at least one.
    pub(super) pools: Given<Entries<Pool>>,
}

/// Where pins by the app's own session id are kept.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PinStore {
    /// Most pins of each pool in memory, 1024 to 100000000; beyond it the longest unused go. Default: 1000000.
    pub(super) max_pins: Given<Whole<1024, 100_000_000>>,
    /// Most of them that one client address may have, at most `max_pins`. Default: 10000.
    pub(super) max_pins_per_client: Given<Whole<1, 100_000_000>>,
    /// A Redis or Valkey that shares the pins with other replicas. Default: none, they stay in this process.
    pub(super) redis: Given<Redis>,
}

/// A Redis or Valkey that holds the pins of all replicas.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Redis {
    /// `redis://HOST:PORT/DB`, or `rediss://` for TLS; `USER@` may stand before the host. Needed.
    pub(super) url: Given<RedisUrl>,
    /// File with the password. Relative to the folder of the configuration file. Default: none.
    pub(super) password_file: Given<FilePath>,
    /// How long a request waits for a pin that is not known here. Default: 20ms.
    pub(super) lookup_timeout: Given<NonZeroTime>,
}

/// The access log spelled out.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AccessLog {
    /// Where to. Default: stdout.
    pub(super) target: Given<LogTarget>,
    /// The file, when the target is one. Relative to the folder of the configuration file.
    pub(super) path: Given<FilePath>,
    /// Share of requests that are logged. Default: 100%.
    pub(super) sample: Given<Percent>,
}

/// One address to accept clients on.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Listener {
    /// IP address and port, `unix:` and a path, or `systemd:` and the name of a socket that systemd opened. Needed.
    pub(super) address: Given<ListenerAddress>,
    /// Permissions of the file of a Unix socket. Default: 0660.
    pub(super) mode: Given<FileMode>,
    /// Whether a connection begins with the header of the PROXY protocol, version 1 or 2. Only trusted proxies may send it.
    /// Default: off.
    pub(super) proxy_protocol: Given<ProxyProtocol>,
    /// Most open client connections; beyond it, accepting pauses. Default: 100000.
    pub(super) max_connections: Given<Whole<1, 10_000_000>>,
    /// Longest request head, 8KiB to 1MiB; beyond it the client gets 431. Default: 64KiB.
    pub(super) head_limit: Given<Size<{ 8 << 10 }, { 1 << 20 }>>,
    /// How long a client may take to send a request head. Default: 10s.
    pub(super) header_timeout: Given<NonZeroTime>,
    /// How long a client connection may stay open between two requests. Default: 75s.
    pub(super) keep_alive_timeout: Given<NonZeroTime>,
    /// HTTP/2, which clients begin within TLS (ALPN) or by its preface. Default: on.
    pub(super) http2: Given<Short<On, Http2>>,
    /// Speaks TLS. Default: plain HTTP.
    pub(super) tls: Given<Tls>,
    /// Sends every request to https instead of a backend. Default: false.
    pub(super) redirect_to_https: Given<Short<On, RedirectToHttps>>,
    /// `Strict-Transport-Security` of replies over https. Default: none.
    pub(super) hsts: Given<Hsts>,
}

/// HTTP/2 spelled out.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Http2 {
    /// Requests that one connection may have under way, 1 to 10000. Default: 100.
    pub(super) max_streams: Given<Whole<1, 10_000>>,
    /// Bytes of one request's body that a client may send ahead of the backend, 64KiB to 16MiB. Default: 128KiB.
    pub(super) stream_window: Given<Size<{ 64 << 10 }, { 16 << 20 }>>,
    /// The same for all requests of a connection together, 64KiB to 1GiB. Default: 1MiB.
    pub(super) connection_window: Given<Size<{ 64 << 10 }, { 1 << 30 }>>,
}

impl Full for Http2 {}

/// The admin endpoint.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Admin {
    /// IP address and port. Needed.
    pub(super) address: Given<Address>,
    /// File with the bearer token. Needed unless the address is loopback.
    pub(super) token_file: Given<FilePath>,
}

/// Host and path prefix to pool.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Route {
    /// A host, or `*.` and a domain for all hosts below it. Default: every host.
    pub(super) host: Given<HostPattern>,
    /// `/shop` matches `/shop` and `/shop/x`, not `/shopping`. Default: /.
    pub(super) path_prefix: Given<PathPrefix>,
    /// Name of the pool. Needed.
    pub(super) pool: Given<String>,
    /// `off`: this route's requests are placed without looking at the pin. Default: as the pool says.
    pub(super) affinity: Given<Off>,
}

/// A pool and its settings.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Pool {
    /// Where the app keeps its sessions; what may be done to a pinned client follows from it. Default: local.
    pub(super) sessions: Given<Sessions>,
    /// Name of the app's own session cookie. Default: the names that common frameworks use.
    pub(super) session_cookie: Given<CookieName>,
    /// How a client without a pin is placed, or how a key finds its home (maglev, rendezvous, ring; only with
    /// `affinity: hash`, where another word is for requests without a key). Default: least_pins, with hash rendezvous,
    /// without affinity two_choices.
    pub(super) balance: Given<BalanceWord>,
    /// How a client keeps coming back to one backend. Default: by cookie.
    pub(super) affinity: Given<Short<Off, Affinity>>,
    /// What happens to a pin whose home cannot serve it.
    pub(super) rehome: Given<Rehome>,
    /// When pins of healthy backends are moved to even out load. Default: off.
    pub(super) rebalance: Given<Short<Off, Rebalance>>,
    /// How a drain goes on.
    pub(super) drain: Given<Drain>,
    /// How the backends are probed. Default: by opening a connection.
    pub(super) health: Given<Short<Off, Health>>,
    /// When a request is tried again.
    pub(super) retry: Given<Retry>,
    /// Deadlines of a request.
    pub(super) timeouts: Given<Timeouts>,
    /// Whether connections to backends begin with the header of the PROXY protocol, which tells the client's address. Each
    /// client connection then has backend connections of its own. Default: off.
    pub(super) send_proxy_protocol: Given<SendProxyProtocol>,
    /// The share of new clients and orphans of a backend that comes, or comes back, rises from a tenth to all of it over
    /// this time. Default: 0s, not at all.
    pub(super) slow_start: Given<Time>,
    /// When fewer than this share of the enabled backends are available, health is ignored for spreading new clients. 0%:
    /// never. Default: 30%.
    pub(super) panic_below: Given<Percent>,
    /// Most requests in flight at each backend, tunnels included, 1 to 10000000; a backend's own setting counts instead.
    /// Default: no bound.
    pub(super) max_requests: Given<Whole<1, 10_000_000>>,
    /// Most open connections to each backend from all workers, idle ones included, 1 to 10000000; a backend's own setting
    /// counts instead. Default: no bound.
    pub(super) max_connections: Given<Whole<1, 10_000_000>>,
    /// Where requests wait that find a backend full.
    pub(super) queue: Given<Queue>,
    /// The backends, as address or spelled out; at least one, unless there is `backends_from`.
    pub(super) backends: Given<Vec<Given<Short<BackendAddress, Backend>>>>,
    /// Where more backends come from; `api` when only the admin API adds some. Default: nowhere.
    pub(super) backends_from: Given<Short<ApiWord, BackendsFrom>>,
}

/// Where more backends come from; at least one of the keys.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct BackendsFrom {
    /// A name that is looked up again and again.
    pub(super) dns: Given<Dns>,
    /// A file with a YAML or JSON list as in `backends`, looked at each second. Relative to the folder of the
    /// configuration file.
    pub(super) file: Given<FilePath>,
}

/// A name that is looked up again and again.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Dns {
    /// The name, such as app.example.com, or _http._tcp.app.example.com for `record: srv`. Needed.
    pub(super) name: Given<DnsName>,
    /// The port of every address that is found, 1 to 65535. Needed, but for `record: srv`, which brings ports along.
    pub(super) port: Given<Whole<1, 65535>>,
    /// What is asked for: addresses of IPv4 (`a`), of IPv6 (`aaaa`), of `both`, or `srv`: targets with ports, weights and
    /// priorities. Default: a.
    pub(super) record: Given<RecordWord>,
    /// Time between two lookups, 100ms at least; `ttl` goes by the answer, within 1s and 5m. Default: 30s.
    pub(super) refresh: Given<DnsRefresh>,
    /// A lookup without a whole answer by then has failed. Default: 5s.
    pub(super) timeout: Given<NonZeroTime>,
    /// A backend that so many good answers in a row lack is removed, 1 to 100; an unhealthy one goes with the first.
    /// Default: 2.
    pub(super) remove_after: Given<Whole<1, 100>>,
    /// Servers to ask, as IP address with a port or without (53). Default: those of the system's resolv.conf.
    pub(super) servers: Given<Vec<Given<DnsServer>>>,
}

impl Full for BackendsFrom {}

/// How a client keeps coming back to one backend; one of the keys.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Affinity {
    /// By a sealed cookie of Stickpin's own.
    pub(super) cookie: Given<Cookie>,
    /// By the session id that the app itself issues.
    pub(super) app_session: Given<AppSession>,
    /// By a hash of something that the request carries.
    pub(super) hash: Given<Hash>,
}

/// Where the app's session id is found, and how its home is known; at least one of the first four keys.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AppSession {
    /// Name of the cookie with the id, such as JSESSIONID.
    pub(super) cookie: Given<CookieName>,
    /// Name of the header with the id, in requests and replies, such as Mcp-Session-Id.
    pub(super) header: Given<Header>,
    /// Name of the path parameter with the id: `jsessionid` for `/cart;jsessionid=ID`.
    pub(super) path_parameter: Given<ParameterName>,
    /// Name of the query parameter with the id.
    pub(super) query_parameter: Given<ParameterName>,
    /// How the home of an id is known: from the reply that issues it, from the route that the app appends to it, or from
    /// the backend's name that Stickpin puts in front of the cookie's value. Default: learn.
    pub(super) home_by: Given<HomeByWord>,
    /// What stands between id and route, with `home_by: route_suffix`. Default: a point.
    pub(super) separator: Given<Separator>,
    /// A pin unused for this long is expired. Default: 30m.
    pub(super) idle_timeout: Given<NonZeroTime>,
    /// A pin older than this is expired, used or not. Default: 12h.
    pub(super) max_lifetime: Given<NonZeroTime>,
}

/// What is hashed onto the pool.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Hash {
    /// Where the affinity key comes from; the first one present wins. At least one.
    pub(super) keys: Given<Vec<Given<Short<KeyWord, Key>>>>,
    /// What happens to a request that carries none of them: it is balanced, the client's address is its key, or it is
    /// answered with 400. Default: balance.
    pub(super) without_key: Given<WithoutKey>,
    /// A backend with more than this many times the average of active pins per weight gets no new key, 1.05 to 10; `on`
    /// for 1.25. Keys in use are then remembered in the pin store and stay where they are. Default: off.
    pub(super) bounded_load: Given<BoundedLoad>,
}

/// Where an affinity key comes from; one of the keys.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Key {
    /// The value of the header of this name.
    pub(super) header: Given<Header>,
    /// The value of the cookie of this name.
    pub(super) cookie: Given<CookieName>,
    /// The value of the query parameter of this name.
    pub(super) query_parameter: Given<ParameterName>,
    /// The client's address.
    pub(super) client_address: Given<ClientAddress>,
    /// A claim of a JSON Web Token, which is read but not verified.
    pub(super) jwt_claim: Given<Short<ClaimName, JwtClaim>>,
}

/// How much of the client's address counts.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ClientAddress {
    /// Bits of an IPv4 address, 1 to 32. Default: 32.
    pub(super) ipv4_prefix: Given<Whole<1, 32>>,
    /// Bits of an IPv6 address, 1 to 128. Default: 64, what one client has for itself.
    pub(super) ipv6_prefix: Given<Whole<1, 128>>,
}

/// A claim of a JSON Web Token, and where the token is.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct JwtClaim {
    /// Name of the claim, such as sub. Needed.
    pub(super) claim: Given<ClaimName>,
    /// Name of the header with the token. Default: Authorization.
    pub(super) header: Given<Header>,
    /// Name of the cookie with the token, instead of a header.
    pub(super) cookie: Given<CookieName>,
}

impl Full for Key {}

impl Full for JwtClaim {}

/// The cookie and the life of the pin in it.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Cookie {
    /// Cookie name; `__Host-` and `__Secure-` may be its beginning. Default: stickpin.
    pub(super) name: Given<CookieName>,
    /// A pin unused for this long is expired. Default: 30m.
    pub(super) idle_timeout: Given<NonZeroTime>,
    /// A pin older than this is expired, used or not. Default: 12h.
    pub(super) max_lifetime: Given<NonZeroTime>,
    /// `Domain` attribute. Default: none, only the host that set it gets the cookie back.
    pub(super) domain: Given<CookieDomain>,
    /// `Path` attribute. Default: /.
    pub(super) path: Given<CookiePath>,
    /// `Secure` attribute; `auto` when the client came by https. Default: auto.
    pub(super) secure: Given<Secure>,
    /// `HttpOnly` attribute. Default: true.
    pub(super) http_only: Given<bool>,
    /// `SameSite` attribute. Default: lax.
    pub(super) same_site: Given<SameSite>,
    /// When a client gets a pin: with its first reply, or with the one that begins a session (it sets the app's session
    /// cookie, or says `Stickpin-Pin: keep`). Default: first_request.
    pub(super) pin_on: Given<PinOn>,
    /// `true`: the cookie outlives the browser. `false`: it ends with the browser session. Default: false.
    pub(super) persistent: Given<bool>,
}

/// What happens to a pin whose home cannot serve it.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Rehome {
    /// `rehome` as `sessions` allows, `detour` to never move the pin, `refuse` for 503 until the home is back.
    /// Default: rehome.
    pub(super) when_unavailable: Given<WhenUnavailable>,
    /// What happens in single cases, where that is to differ from what `sessions` means.
    pub(super) when: Given<When>,
    /// A pinned request waits this long for its home first. Default: 0s.
    pub(super) wait: Given<Time>,
    /// With `sessions: backup`, the parallel requests of one client wait at most this long for the reply to the first one
    /// at a new home. 0s: not at all. Default: 5s.
    pub(super) gate: Given<Time>,
    /// How long a home that is out of reach, and may still hold its sessions, is remembered. Default: 10m.
    pub(super) hold_home: Given<Time>,
    /// What a client gets whose session is lost, once: `forward` serves its request at the new home. Default: forward.
    pub(super) on_session_lost: Given<Short<LostWord, OnSessionLost>>,
}

/// When pins of healthy backends are moved to even out load.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Rebalance {
    /// A backend gives pins away while it has this many times its share, 1.05 to 10. Default: 1.25.
    pub(super) when_above: Given<Ratio>,
    /// How fast, as a share of the pool's pins. Default: 1%/m.
    pub(super) pace: Given<Pace>,
    /// A pin is moved only when its client has been silent for this long. Default: 30s.
    pub(super) idle_for: Given<Time>,
}

impl Full for Rebalance {}

/// How a drain goes on.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Drain {
    /// How fast it moves the pins that may be moved, as a share of those there were when it began. Default: 5%/s.
    pub(super) pace: Given<Pace>,
}

/// What happens to a pinned client while its home is in one of these states. Default: as `sessions` means.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct When {
    /// It is full.
    pub(super) busy: Given<Briefly>,
    /// It failed a moment ago.
    pub(super) suspect: Given<Briefly>,
    /// It failed this very request.
    pub(super) connect_failed: Given<Briefly>,
    /// It is out of reach, and may still hold the session.
    pub(super) unreachable: Given<Away>,
    /// The operator disabled it.
    pub(super) disabled: Given<Away>,
    /// The operator drains it.
    pub(super) draining: Given<Drained>,
    /// Its process is gone, and its memory with it.
    pub(super) gone: Given<Away>,
    /// It was out of reach for longer than `hold_home`.
    pub(super) hold_over: Given<Away>,
}

/// What a client gets whose session is lost; one of the keys.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct OnSessionLost {
    /// This status, 400 to 599.
    pub(super) status: Given<Whole<400, 599>>,
    /// A redirect to this path.
    pub(super) redirect: Given<RequestTarget>,
}

impl Full for OnSessionLost {}

/// When a request is tried again.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Retry {
    /// Attempts after the first, 0 to 10. Default: 2.
    pub(super) attempts: Given<Whole<0, 10>>,
    /// A request body up to this long, at most 64MiB, is kept so that it can be sent again. Default: 64KiB.
    pub(super) body_limit: Given<Size<0, { 64 << 20 }>>,
    /// Retries may be at most this share of requests. Default: 20%.
    pub(super) budget: Given<Percent>,
    /// What is tried again: `connect`, `reset_before_reply`, and replies of `502`, `503` and `504`; all but `connect`
    /// only where a request may be sent twice. Default: connect, reset_before_reply.
    pub(super) retry_on: Given<Vec<Given<RetryOn>>>,
    /// The first retry of a request that was sent waits up to this long, by chance, each further one up to twice as long
    /// as the one before, ten times at most. Default: 25ms.
    pub(super) backoff: Given<Time>,
    /// With `sessions: external`: a request that may be sent twice, and has had no reply after this time, is also sent to
    /// a second backend, and the first reply wins. A time, or a percentile of the pool's such as `p95`. Default: off.
    pub(super) hedge_after: Given<HedgeAfter>,
}

/// Deadlines of a request.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Timeouts {
    /// To open a connection to a backend. Default: 2s.
    pub(super) connect: Given<NonZeroTime>,
    /// From the end of the request to the first byte of the reply. Default: 30s.
    pub(super) first_byte: Given<NonZeroTime>,
    /// Between two pieces of a request body, or of a reply, its head included. Default: 60s.
    pub(super) idle: Given<NonZeroTime>,
    /// For one attempt, from its connect to the first byte of the reply, as long as there may be another. Default: none.
    pub(super) attempt: Given<NonZeroTime>,
    /// For the whole request. Default: none, a long download may take its time.
    pub(super) request: Given<NonZeroTime>,
    /// A tunnel without a byte in either direction for this long is closed. Default: 10m.
    pub(super) tunnel_idle: Given<NonZeroTime>,
}

/// Where requests wait that find a backend full: one queue for each backend, and one for requests that any backend may
/// serve.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Queue {
    /// Most requests in each, 0 to 100000; beyond it 503. 0: nobody waits. Default: 100.
    pub(super) length: Given<Whole<0, 100_000>>,
    /// How long a request may wait altogether. Default: 5s.
    pub(super) timeout: Given<NonZeroTime>,
}

/// One backend.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Backend {
    /// The identity that pins refer to, 1 to 64 visible characters without `/`. Default: the address.
    pub(super) name: Given<BackendName>,
    /// IP address and port. Needed.
    pub(super) address: Given<BackendAddress>,
    /// Share relative to the pool's others, 0 to 1000; 0 means pinned clients only. Default: 1.
    pub(super) weight: Given<Weight>,
    /// What the app calls it in session ids, such as Tomcat's jvmRoute. Default: its name.
    pub(super) route: Given<BackendName>,
    /// Active pins beyond which it gets no new client, 1 to 100000000. Default: no bound.
    pub(super) max_pins: Given<Whole<1, 100_000_000>>,
    /// Used for new clients and orphans when the tiers before have no available backend, 0 to 15. Default: 0.
    pub(super) tier: Given<Tier>,
    /// Most requests in flight, tunnels included, 1 to 10000000. Default: as the pool says.
    pub(super) max_requests: Given<Whole<1, 10_000_000>>,
    /// Most open connections from all workers, idle ones included, 1 to 10000000. Default: as the pool says.
    pub(super) max_connections: Given<Whole<1, 10_000_000>>,
    /// IP address and port that its probes go to. Default: its address, with the port of the probes if they have one.
    pub(super) probe_address: Given<BackendAddress>,
}

impl Full for AccessLog {}

impl Full for Listener {}

impl Full for Affinity {}

impl Full for Backend {}
