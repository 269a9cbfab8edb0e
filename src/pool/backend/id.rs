//! Which backend: what pins, orders and counters know it by.

use std::fmt;
use std::sync::Arc;

use siphasher::sip::SipHasher24;

/// Which backend: pool and name. The address is a setting, not part of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendId {
    /// The pool's name.
    pub pool: Arc<str>,
    /// The backend's name in the pool.
    pub name: Arc<str>,
}

impl BackendId {
    /// A number that every replica and every restart gives to the same backend: SipHash-2-4 under a zero key.
    pub fn stable_hash(&self) -> u64 {
        use std::hash::Hasher;
        let mut hasher = SipHasher24::new();
        hasher.write(self.pool.as_bytes());
        hasher.write(&[0]);
        hasher.write(self.name.as_bytes());
        hasher.finish()
    }
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.name)
    }
}
