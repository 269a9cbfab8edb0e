//! The configuration of the demo, as the file it would be.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::support::session_process::SessionProcess;

/// The only pool.
pub(crate) const POOL: &str = "demo";

/// What differs between one run of Stickpin and another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Where clients come in.
    pub(crate) front: SocketAddr,
    /// Where the admin endpoint is.
    pub(crate) admin: SocketAddr,
    /// Whether a client is pinned.
    pub(crate) affinity: Affinity,
    /// Data-plane threads; `None` for one per core.
    pub(crate) workers: Option<usize>,
}

/// See [`Settings::affinity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Affinity {
    /// Every request goes where the balancer says.
    Off,
    /// A client keeps coming back to one backend.
    Cookie,
}

impl Settings {
    /// The text of the file.
    pub(crate) fn yaml(&self, backends: &[SessionProcess]) -> String {
        let mut yaml = String::new();
        let Self { front, admin, .. } = self;
        if let Some(workers) = self.workers {
            let _ = writeln!(yaml, "workers: {workers}");
        }
        let affinity = match self.affinity {
            Affinity::Off => "off",
            Affinity::Cookie => "{ cookie: { name: stickpin } }",
        };
        let _ = write!(
            yaml,
            "listeners:
  - address: {front}
admin:
  address: {admin}
access_log: off
pools:
  {POOL}:
    sessions: local              # a login lives in the memory of the server that created it
    balance: round_robin
    affinity: {affinity}
    health:
      http: {{ path: /health, interval: 1s, suspect_interval: 200ms }}
    backends:
"
        );
        for backend in backends {
            let _ = writeln!(yaml, "      - {{ name: {}, address: {} }}", backend.name(), backend.address());
        }
        yaml
    }
}
