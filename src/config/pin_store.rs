//! Where pins by the app's own session id are kept.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

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
