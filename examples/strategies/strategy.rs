//! The four ways to keep a session, and how a pool and its servers are told of each.

use std::fmt::Write as _;
use std::net::SocketAddr;

use clap::ValueEnum;

use crate::clock::Scale;
use crate::support::session_app::COOKIE;
use crate::support::session_process::SessionProcess;

/// The only pool.
pub(crate) const POOL: &str = "shop";

/// A pool's `sessions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Strategy {
    Local,
    Replicated,
    Backup,
    External,
}

impl Strategy {
    /// In the order of the table.
    pub(crate) const ALL: [Self; 4] = [Self::Local, Self::Replicated, Self::Backup, Self::External];

    /// Its word in a configuration.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Replicated => "replicated",
            Self::Backup => "backup",
            Self::External => "external",
        }
    }

    /// The configuration of Stickpin, as the file it would be. What a user counts in minutes is scaled like the hour; how
    /// soon a death is noticed is not.
    pub(crate) fn yaml(self, servers: &[SessionProcess], scale: Scale) -> String {
        let any = "127.0.0.1:0";
        let mut yaml = format!(
            "workers: 1
listeners: [ {any} ]
admin: {{ address: {any} }}
access_log: off
pools:
  {POOL}:
    sessions: {}
    session_cookie: {COOKIE}
    affinity: {{ cookie: {{ idle_timeout: {} }} }}
    health:
      http: {{ path: /health, interval: 500ms, instance_header: X-Instance }}
",
            self.word(),
            scale.yaml(30.0),
        );
        // Where sessions may move, a new server need not wait for newcomers.
        if self != Self::Local {
            let (pace, idle_for) = (scale.pace(5.0), scale.yaml(0.5));
            let _ = writeln!(yaml, "    rebalance: {{ when_above: 1.25, pace: {pace}, idle_for: {idle_for} }}");
        }
        let _ = writeln!(yaml, "    backends:");
        for server in servers {
            let _ = writeln!(yaml, "      - {{ name: {}, address: {} }}", server.name(), server.address());
        }
        yaml
    }

    /// What each server is told besides its name and its peers.
    pub(crate) fn arguments(self, store: Option<SocketAddr>) -> Vec<String> {
        let mut arguments = vec!["--sessions".to_owned(), self.word().to_owned()];
        if let Some(store) = store {
            arguments.extend(["--redis".to_owned(), format!("redis://{store}/")]);
        }
        arguments
    }
}
