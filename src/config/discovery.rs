//! Where backends come from besides the list of their pool.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

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
