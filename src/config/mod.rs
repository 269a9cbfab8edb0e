//! What the operator asked for: validated, immutable, and made only by parsing.
//!
//! Pure: nothing here opens a socket, starts a task, reads a clock or touches a file. [`Config::parse`] takes the text of
//! a file and gives either a whole [`Config`] or every problem in it, each with its path and line.
//!
//! First come the settings as the program uses them, by what they are about: where clients come in (`front`, `tls`), a
//! pool and its backends (`pool`, `address`, `backend_tls`, `health`, `affinity`, `rehome`, `retry`, `discovery`), and
//! where learned pins are kept (`pin_store`). Then how they are read: values that cannot be wrong (`units`, `words`), the
//! file as written (`yaml`), its text as a tree with places (`tree`, `read`), and what makes settings of it (`validate`).

mod front;

mod tls;

mod pool;

mod address;

mod backend_tls;

mod health;

mod affinity;

mod rehome;

mod retry;

mod discovery;

mod pin_store;

mod units;

mod words;

mod yaml;

mod tree;

mod read;

mod validate;

mod problem;

mod schema;

#[cfg(test)]
mod tests;

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use address::{Address, AddressError, SOCKET_PATH_LIMIT};
pub use affinity::{
    Affinity, AppSessionAffinity, CookieAffinity, HashAffinity, HomeBy, HomeHash, KeySource, PinOn, SameSite, Secure,
    SessionSource, TokenSource, WithoutKey,
};
pub use backend_tls::{BackendTls, ClientCertificate, PemFile, Protocol};
pub use discovery::{BackendsFrom, DnsRecord, DnsRefresh, DnsSource, Source};
pub use front::{Admin, HostPattern, Http2, ListenOn, Listener, ProxyProtocol, Route, TrustedProxies};
pub use health::{Agent, GrpcProbe, Health, HttpProbe, Probe, Traffic};
pub use pin_store::{PinStore, RedisStore};
pub use pool::{Backend, Balance, Pool, Queue, SendProxyProtocol, Sessions, Timeouts};
pub use problem::{Problem, Problems};
pub use rehome::{Away, Briefly, Drained, OnSessionLost, Rebalance, Rehome, When, WhenUnavailable};
pub use retry::{HedgeAfter, Retry, RetryOn, RetryOnSet};
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
