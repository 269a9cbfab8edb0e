//! How many pins are active at each backend: merges what the workers have noted.

use tokio::time::Instant;

use crate::proxy::snapshot::Snapshot;

/// Counts the active pins of every backend of pools with affinity, and follows drains. Some ten microseconds a backend
/// and worker.
pub(super) fn count(snapshot: &Snapshot, now: Instant) {
    for pool in &snapshot.pools {
        let idle_timeout = pool.cookie.as_ref().map(|cookie| cookie.idle_timeout);
        for member in &pool.members {
            if let Some(idle_timeout) = idle_timeout {
                member.backend.count_active_pins(now, idle_timeout);
            }
            // Without pins, requests under way are all there is to wait for.
            member.backend.note_drain_progress(idle_timeout.unwrap_or_default(), now);
        }
    }
}
