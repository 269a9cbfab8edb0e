//! How many pins are active at each backend: merges what the workers have noted.

use tokio::time::Instant;

use crate::proxy::snapshot::Snapshot;

/// Counts the active pins of every backend of pools with affinity. Some ten microseconds a backend and worker.
pub(super) fn count(snapshot: &Snapshot, now: Instant) {
    for pool in &snapshot.pools {
        let Some(cookie) = &pool.cookie else { continue };
        for member in &pool.members {
            member.backend.count_active_pins(now, cookie.idle_timeout);
        }
    }
}
