//! What the operator says about probes and about requests as evidence.

use std::sync::Arc;
use std::time::Duration;

use super::{BackendTls, Percent};

/// Probes and thresholds.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// What a probe is.
    pub probe: Probe,
    /// The port that probes go to; `None` for the backend's own.
    pub port: Option<u16>,
    /// How probes speak TLS; `None` for not at all.
    pub tls: Option<BackendTls>,
    /// Time between two probes of a healthy backend.
    pub interval: Duration,
    /// Time between two probes of a suspect backend, and of one on its way back.
    pub suspect_interval: Duration,
    /// Time between two probes of an unhealthy backend.
    pub unhealthy_interval: Duration,
    /// A probe without an answer by then has failed, silently.
    pub timeout: Duration,
    /// Successes in a row that make an unhealthy backend healthy.
    pub healthy_after: u32,
    /// Failures in a row that make a backend unhealthy.
    pub unhealthy_after: u32,
    /// What requests may show; `None`: nothing but a connection that fails.
    pub traffic: Option<Traffic>,
}

impl Default for Health {
    /// What a file means that does not say anything: nothing but an open port can be asked of a backend we know nothing of.
    fn default() -> Self {
        Self {
            probe: Probe::Tcp,
            port: None,
            tls: None,
            interval: Duration::from_secs(2),
            suspect_interval: Duration::from_millis(100),
            unhealthy_interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            healthy_after: 2,
            unhealthy_after: 3,
            traffic: Some(Traffic::default()),
        }
    }
}

/// What a probe is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// None: health is always `healthy`, and only traffic makes a backend suspect.
    Off,
    /// A connection that opens.
    Tcp,
    /// A request that is answered as expected.
    Http(HttpProbe),
    /// `grpc.health.v1.Health/Check`, answered with `SERVING`.
    Grpc(GrpcProbe),
}

impl Probe {
    /// The key in the file; `tcp` where there are none, for a connection decides there, too.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Off | Self::Tcp => "tcp",
            Self::Http(_) => "http",
            Self::Grpc(_) => "grpc",
        }
    }
}

/// An HTTP probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpProbe {
    /// Request target, with the query if any.
    pub path: Arc<str>,
    /// `GET`, `HEAD` or `OPTIONS`.
    pub method: http::Method,
    /// `Host` header; the address that is probed when `None`.
    pub host: Option<Arc<str>>,
    /// Headers sent along.
    pub headers: Vec<(http::HeaderName, http::HeaderValue)>,
    /// HTTP/2, by prior knowledge or as agreed on in TLS, instead of HTTP/1.1.
    pub http2: bool,
    /// Inclusive ranges of status codes that mean success.
    pub expected_status: Vec<(u16, u16)>,
    /// Text that must occur within the first 64 KiB of the body.
    pub expected_body: Option<Arc<str>>,
    /// Reply header that names the life of the backend's process.
    pub instance_header: Option<http::HeaderName>,
    /// Where the reply tells what the backend wants of Stickpin.
    pub agent: Option<Agent>,
}

impl Default for HttpProbe {
    fn default() -> Self {
        Self {
            path: "/".into(),
            method: http::Method::GET,
            host: None,
            headers: Vec::new(),
            http2: false,
            expected_status: vec![(200, 399)],
            expected_body: None,
            instance_header: None,
            agent: None,
        }
    }
}

/// A gRPC probe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrpcProbe {
    /// The service that is asked about; empty for the server as a whole.
    pub service: Arc<str>,
    /// The `:authority`; the address that is probed when `None`.
    pub host: Option<Arc<str>>,
}

/// Where the reply to a probe holds the agent's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Agent {
    /// In this header.
    Header(http::HeaderName),
    /// In the body, which holds nothing else.
    Body,
}

/// When requests show that a backend is out of order while others are not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Traffic {
    /// Replies of this long are looked at together.
    pub window: Duration,
    /// Failed connects that put a backend out; 0 for never.
    pub connect_failures: u32,
    /// Replies of 5xx, or that broke off before they began, that put a backend out; 0 for never.
    pub errors: u32,
    /// A reply is slow from this many times the others' median on; 0 for never.
    pub slow: f64,
    /// No reply is slow that takes less.
    pub slow_floor: Duration,
    /// Of a backend's replies, the share that must be bad.
    pub bad_share: Percent,
    /// Clients that must have met it.
    pub clients: u32,
    /// The share of the pool's enabled backends that may be out by traffic at once.
    pub max_out: Percent,
    /// How long a backend is out at first; twice as long each time it is out again soon, ten times as long at most.
    pub out_for: Duration,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(10),
            connect_failures: 5,
            errors: 10,
            slow: 3.0,
            slow_floor: Duration::from_millis(250),
            bad_share: Percent::HALF,
            clients: 3,
            max_out: Percent::HALF,
            out_for: Duration::from_secs(30),
        }
    }
}
