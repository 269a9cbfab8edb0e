//! `health`, as written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::BackendTls;
use crate::config::read::{Entries, Full, Given, Short};
use crate::config::units::{
    Header, HeaderText, HostHeader, NonZeroTime, Percent, RequestTarget, ServiceName, Statuses, Text, Times, Whole,
};
use crate::config::words::{Off, ProbeMethod};

/// How the backends are probed: at most one of `http`, `tcp` and `grpc`; and what requests may show.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Health {
    /// By a request.
    pub(in crate::config) http: Given<HttpHealth>,
    /// By opening a connection.
    pub(in crate::config) tcp: Given<TcpHealth>,
    /// By `grpc.health.v1.Health/Check`.
    pub(in crate::config) grpc: Given<GrpcHealth>,
    /// When requests show that a backend is out of order while others are not. `off`: only a connection that fails is
    /// evidence. Default: as its keys say.
    pub(in crate::config) traffic: Given<Short<Off, Traffic>>,
}

/// Probing by a request.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct HttpHealth {
    /// Path to ask for, with a query or without. Default: /.
    pub(in crate::config) path: Given<RequestTarget>,
    /// Method to ask with. Default: GET.
    pub(in crate::config) method: Given<ProbeMethod>,
    /// `Host` header. Default: the address that is probed.
    pub(in crate::config) host: Given<HostHeader>,
    /// Headers to send along, by name. Default: none.
    pub(in crate::config) headers: Given<Entries<HeaderText>>,
    /// `true`: HTTP/2, with TLS or without. Default: whether the pool's `protocol` is h2.
    pub(in crate::config) http2: Given<bool>,
    /// Status codes that mean success, one or a list, as `200`, `200-399` or `2xx`. Default: 200-399.
    pub(in crate::config) expected_status: Given<Short<Statuses, Vec<Given<Statuses>>>>,
    /// Text that must occur in the first 64KiB of the body. Default: none.
    pub(in crate::config) expected_body: Given<Text>,
    /// Reply header that names the life of the backend's process; another value means its memory is gone. Default: none.
    pub(in crate::config) instance_header: Given<Header>,
    /// Where the reply tells what the backend wants: `weight: 50%`, `draining`, `disabled`, `enabled`. Default: nowhere.
    pub(in crate::config) agent: Given<Agent>,
    /// Port to probe. Default: the backend's own.
    pub(in crate::config) port: Given<Whole<1, 65535>>,
    /// Probe over TLS; `off`: not. Default: as the pool's `tls`.
    pub(in crate::config) tls: Given<Short<Off, BackendTls>>,
    /// Time between two probes. Default: 2s.
    pub(in crate::config) interval: Given<NonZeroTime>,
    /// A probe without an answer by then has failed. Default: 1s.
    pub(in crate::config) timeout: Given<NonZeroTime>,
    /// Time between two probes of a suspect backend; at most `interval`. Default: 100ms.
    pub(in crate::config) suspect_interval: Given<NonZeroTime>,
    /// Time between two probes of an unhealthy backend. Default: as `interval`.
    pub(in crate::config) unhealthy_interval: Given<NonZeroTime>,
    /// Successes in a row that make an unhealthy backend healthy. Default: 2.
    pub(in crate::config) healthy_after: Given<Whole<1, 1000>>,
    /// Failures in a row that make a backend unhealthy. Default: 3.
    pub(in crate::config) unhealthy_after: Given<Whole<1, 1000>>,
}

/// Probing by opening a connection.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct TcpHealth {
    /// Port to probe. Default: the backend's own.
    pub(in crate::config) port: Given<Whole<1, 65535>>,
    /// A TLS handshake has to succeed, too; `off`: not. Default: as the pool's `tls`.
    pub(in crate::config) tls: Given<Short<Off, BackendTls>>,
    /// Time between two probes. Default: 2s.
    pub(in crate::config) interval: Given<NonZeroTime>,
    /// A probe without a connection by then has failed. Default: 1s.
    pub(in crate::config) timeout: Given<NonZeroTime>,
    /// Time between two probes of a suspect backend; at most `interval`. Default: 100ms.
    pub(in crate::config) suspect_interval: Given<NonZeroTime>,
    /// Time between two probes of an unhealthy backend. Default: as `interval`.
    pub(in crate::config) unhealthy_interval: Given<NonZeroTime>,
    /// Successes in a row that make an unhealthy backend healthy. Default: 2.
    pub(in crate::config) healthy_after: Given<Whole<1, 1000>>,
    /// Failures in a row that make a backend unhealthy. Default: 3.
    pub(in crate::config) unhealthy_after: Given<Whole<1, 1000>>,
}

/// Probing by `grpc.health.v1.Health/Check`, over HTTP/2; `SERVING` is success.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct GrpcHealth {
    /// Name of the service to ask about. Default: none, the server as a whole.
    pub(in crate::config) service: Given<ServiceName>,
    /// `:authority` to ask. Default: the address that is probed.
    pub(in crate::config) host: Given<HostHeader>,
    /// Port to probe. Default: the backend's own.
    pub(in crate::config) port: Given<Whole<1, 65535>>,
    /// Probe over TLS; `off`: not. Default: as the pool's `tls`.
    pub(in crate::config) tls: Given<Short<Off, BackendTls>>,
    /// Time between two probes. Default: 2s.
    pub(in crate::config) interval: Given<NonZeroTime>,
    /// A probe without an answer by then has failed. Default: 1s.
    pub(in crate::config) timeout: Given<NonZeroTime>,
    /// Time between two probes of a suspect backend; at most `interval`. Default: 100ms.
    pub(in crate::config) suspect_interval: Given<NonZeroTime>,
    /// Time between two probes of an unhealthy backend. Default: as `interval`.
    pub(in crate::config) unhealthy_interval: Given<NonZeroTime>,
    /// Successes in a row that make an unhealthy backend healthy. Default: 2.
    pub(in crate::config) healthy_after: Given<Whole<1, 1000>>,
    /// Failures in a row that make a backend unhealthy. Default: 3.
    pub(in crate::config) unhealthy_after: Given<Whole<1, 1000>>,
}

/// Where the reply to a probe tells what the backend wants; one of the keys.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Agent {
    /// In the header of this name, such as X-Load.
    pub(in crate::config) header: Given<Header>,
    /// `true`: in the body, which holds nothing else.
    pub(in crate::config) body: Given<bool>,
}

/// When requests show that a backend is out of order while others are not.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Traffic {
    /// Replies of this long are looked at together, 1s to 10m. Default: 10s.
    pub(in crate::config) window: Given<NonZeroTime>,
    /// Failed connects that put a backend out; 0: never. Default: 5.
    pub(in crate::config) connect_failures: Given<Whole<0, 1_000_000>>,
    /// Replies of 5xx, or that broke off before they began, that put a backend out; 0: never. Default: 10.
    pub(in crate::config) errors: Given<Whole<0, 1_000_000>>,
    /// A reply is slow from this many times the median of the other backends on, 1.5 to 100; 0: never. As many as `errors`
    /// (10 if that is 0) put a backend out. Default: 3.
    pub(in crate::config) slow: Given<Times>,
    /// No reply is slow that takes less. Default: 250ms.
    pub(in crate::config) slow_floor: Given<NonZeroTime>,
    /// Of a backend's replies, the share that must be bad. Default: 50%.
    pub(in crate::config) bad_share: Given<Percent>,
    /// Different clients (addresses) that must have met it, 2 to 16. Default: 3.
    pub(in crate::config) clients: Given<Whole<2, 16>>,
    /// Share of the pool's enabled backends that may be out by traffic at once. Default: 50%.
    pub(in crate::config) max_out: Given<Percent>,
    /// How long a backend is out at first; twice as long each time it is out again soon, ten times as long at most.
    /// Default: 30s.
    pub(in crate::config) out_for: Given<NonZeroTime>,
}

impl Full for Health {}

impl Full for Traffic {}
