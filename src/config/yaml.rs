//! The file as written: its keys and the type of each value. No logic and no defaults, which `validate` fills in.
//!
//! The doc comments become the descriptions of the JSON Schema, which editors show; so they name unit and default.

use schemars::JsonSchema;
use serde::Deserialize;

use super::read::{Entries, Full, Given, Short};
use super::units::{
    Address, BackendAddress, BackendName, CookieDomain, CookieName, CookiePath, FilePath, Header, HostHeader, Network,
    NonZeroTime, PathPrefix, Percent, RequestTarget, Size, Statuses, Time, Weight, Whole,
};
use super::words::{LogTarget, LogWord, LostWord, Off, ProbeMethod};
use super::{Balance, HostPattern, PinOn, SameSite, Secure, Sessions, WhenUnavailable};

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
    /// How long a stop may take before what is left is cut off. Default: 30s.
    pub(super) stop_deadline: Given<Time>,
    /// Networks and addresses of proxies whose `X-Forwarded-*` and `Forwarded` are believed. Default: none.
    pub(super) trusted_proxies: Given<Vec<Given<Network>>>,
    /// Where the access log goes. Default: stdout.
    pub(super) access_log: Given<Short<LogWord, AccessLog>>,
    /// Addresses to accept clients on; at least one.
    pub(super) listeners: Given<Vec<Given<Short<Address, Listener>>>>,
    /// The admin endpoint. Default: none.
    pub(super) admin: Given<Admin>,
    /// Host and path prefix to pool; the longest match wins. Default: the only pool gets every request.
    pub(super) routes: Given<Vec<Given<Route>>>,
    /// Pools of backends by name; at least one.
    pub(super) pools: Given<Entries<Pool>>,
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
    /// IP address and port. Needed.
    pub(super) address: Given<Address>,
    /// Most open client connections; beyond it, accepting pauses. Default: 100000.
    pub(super) max_connections: Given<Whole<1, 10_000_000>>,
    /// Longest request head, 8KiB to 1MiB; beyond it the client gets 431. Default: 64KiB.
    pub(super) head_limit: Given<Size<{ 8 << 10 }, { 1 << 20 }>>,
    /// How long a client may take to send a request head. Default: 10s.
    pub(super) header_timeout: Given<NonZeroTime>,
    /// How long a client connection may stay open between two requests. Default: 75s.
    pub(super) keep_alive_timeout: Given<NonZeroTime>,
}

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
    /// How a client without a pin is placed. Default: least_pins, without affinity two_choices.
    pub(super) balance: Given<Balance>,
    /// How a client keeps coming back to one backend. Default: by cookie.
    pub(super) affinity: Given<Short<Off, Affinity>>,
    /// What happens to a pin whose home cannot serve it.
    pub(super) rehome: Given<Rehome>,
    /// How the backends are probed. Default: by opening a connection.
    pub(super) health: Given<Short<Off, Health>>,
    /// When a request is tried again.
    pub(super) retry: Given<Retry>,
    /// Deadlines of a request.
    pub(super) timeouts: Given<Timeouts>,
    /// The backends, as address or spelled out; at least one.
    pub(super) backends: Given<Vec<Given<Short<BackendAddress, Backend>>>>,
}

/// How a client keeps coming back to one backend.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Affinity {
    /// By a sealed cookie of Stickpin's own.
    pub(super) cookie: Given<Cookie>,
}

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
    /// A pinned request waits this long for its home first. Default: 0s.
    pub(super) wait: Given<Time>,
    /// How long a home that is out of reach, and may still hold its sessions, is remembered. Default: 10m.
    pub(super) hold_home: Given<Time>,
    /// What a client gets whose session is lost, once: `forward` serves its request at the new home. Default: forward.
    pub(super) on_session_lost: Given<Short<LostWord, OnSessionLost>>,
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

/// How the backends are probed; one of the keys.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Health {
    /// By a request.
    pub(super) http: Given<HttpHealth>,
    /// By opening a connection.
    pub(super) tcp: Given<TcpHealth>,
}

/// Probing by a request.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct HttpHealth {
    /// Path to ask for, with a query or without. Default: /.
    pub(super) path: Given<RequestTarget>,
    /// Method to ask with. Default: GET.
    pub(super) method: Given<ProbeMethod>,
    /// `Host` header. Default: the backend's address.
    pub(super) host: Given<HostHeader>,
    /// Status codes that mean success, one or a list, as `200`, `200-399` or `2xx`. Default: 200-399.
    pub(super) expected_status: Given<Short<Statuses, Vec<Given<Statuses>>>>,
    /// Reply header that names the life of the backend's process; another value means its memory is gone. Default: none.
    pub(super) instance_header: Given<Header>,
    /// Time between two probes. Default: 2s.
    pub(super) interval: Given<NonZeroTime>,
    /// A probe without an answer by then has failed. Default: 1s.
    pub(super) timeout: Given<NonZeroTime>,
    /// Time between two probes of a suspect backend; at most `interval`. Default: 100ms.
    pub(super) suspect_interval: Given<NonZeroTime>,
    /// Successes in a row that make an unhealthy backend healthy. Default: 2.
    pub(super) healthy_after: Given<Whole<1, 1000>>,
    /// Failures in a row that make a backend unhealthy. Default: 3.
    pub(super) unhealthy_after: Given<Whole<1, 1000>>,
}

/// Probing by opening a connection.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct TcpHealth {
    /// Time between two probes. Default: 2s.
    pub(super) interval: Given<NonZeroTime>,
    /// A probe without a connection by then has failed. Default: 1s.
    pub(super) timeout: Given<NonZeroTime>,
    /// Time between two probes of a suspect backend; at most `interval`. Default: 100ms.
    pub(super) suspect_interval: Given<NonZeroTime>,
    /// Successes in a row that make an unhealthy backend healthy. Default: 2.
    pub(super) healthy_after: Given<Whole<1, 1000>>,
    /// Failures in a row that make a backend unhealthy. Default: 3.
    pub(super) unhealthy_after: Given<Whole<1, 1000>>,
}

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
}

/// Deadlines of a request.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Timeouts {
    /// To open a connection to a backend. Default: 2s.
    pub(super) connect: Given<NonZeroTime>,
    /// From the end of the request to the first byte of the reply. Default: 30s.
    pub(super) first_byte: Given<NonZeroTime>,
    /// Between two pieces of a request or reply body. Default: 60s.
    pub(super) idle: Given<NonZeroTime>,
    /// For the whole request. Default: none, a long download may take its time.
    pub(super) request: Given<NonZeroTime>,
    /// A tunnel without a byte in either direction for this long is closed. Default: 10m.
    pub(super) tunnel_idle: Given<NonZeroTime>,
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
}

impl Full for AccessLog {}

impl Full for Listener {}

impl Full for Affinity {}

impl Full for Health {}

impl Full for Backend {}
