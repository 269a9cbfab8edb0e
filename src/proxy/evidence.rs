//! What attempts tell about backends: noted for [`crate::pool::outliers`], and where a connection failed, at once.

use tokio::time::Instant;

use super::Proxy;
use super::attempts::Request;
use super::forward::{AttemptError, RequestBody};
use super::snapshot::Pool;
use super::visit::Destination;
use crate::pool::{Evidence, Thresholds};

/// When a request was sent whose time to the first byte is the backend's alone; `None` for one with a body, in which the
/// client has a part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked(Option<Instant>);

impl Proxy {
    /// Before an attempt.
    pub(super) fn asks(&self, body: &RequestBody) -> Asked {
        // The coarse clock costs nothing, and what counts as slow is several of its ticks.
        Asked(body.is_empty().then(|| self.clock.coarse_now()))
    }

    /// After a reply has begun: two additions, if it is a good one.
    pub(super) fn note_reply(&self, request: &Request<'_>, destination: &Destination, status: u16, asked: Asked) {
        let pool = request.view.pool(request.pool);
        if pool.settings.health.traffic.is_none() {
            return;
        }
        let took = asked.0.map(|asked| self.clock.coarse_now().saturating_duration_since(asked));
        let shard = pool.members[destination.member].backend.traffic().shard(self.worker);
        shard.replied(status, took, || request.client_address());
    }

    /// After an attempt that failed.
    ///
    /// A connection that cannot be opened makes the backend suspect at once. What went wrong after something was sent may
    /// be the request's doing, and would go round the pool with its retries: so it only has the backend probed, and counts
    /// as one client's bad reply.
    pub(super) fn note_failed(&self, request: &Request<'_>, destination: &Destination, error: &AttemptError) {
        let Some(failure) = error.evidence() else { return };
        let pool = request.view.pool(request.pool);
        let backend = &pool.members[destination.member].backend;
        if error.nothing_was_sent() {
            backend.observe(Evidence::TrafficFailed(failure), thresholds(pool), Instant::now());
        } else {
            backend.ask_for_probe();
        }
        if pool.settings.health.traffic.is_some() {
            let shard = backend.traffic().shard(self.worker);
            if error.nothing_was_sent() {
                shard.not_connected(request.client_address());
            } else {
                shard.broke_off(request.client_address());
            }
        }
    }
}

fn thresholds(pool: &Pool) -> Thresholds {
    let health = &pool.settings.health;
    Thresholds { healthy_after: health.healthy_after, unhealthy_after: health.unhealthy_after }
}
