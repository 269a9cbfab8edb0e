//! How long an attempt took, for the pools that balance by it.

use std::cell::Cell;

use http::StatusCode;
use tokio::time::Instant;

use super::forward::{AttemptError, RequestBody};
use super::snapshot::Pool;
use crate::config::Balance;
use crate::pool::Member;
use crate::pool::latency::Outcome;

/// Runs from the beginning of an attempt to the head of the reply. Where the request has a body, from its end: how long
/// a client takes to send it says nothing of the backend. In pools with another `balance` it stands still, and no clock is
/// read.
pub(super) struct Stopwatch(Option<Running>);

struct Running {
    since: Cell<Instant>,
    has_body: bool,
}

impl Stopwatch {
    pub(super) fn start(pool: &Pool, body: &RequestBody) -> Self {
        let is_asked_for = pool.settings.balance == Balance::PeakEwma;
        Self(is_asked_for.then(|| Running { since: Cell::new(Instant::now()), has_body: !body.is_empty() }))
    }

    /// What is to be told the moment when the whole request was sent, if that counts.
    pub(super) fn when_sent(&self) -> Option<&Cell<Instant>> {
        self.0.as_ref().filter(|running| running.has_body).map(|running| &running.since)
    }

    /// A reply has begun.
    pub(super) fn replied(self, pool: &Pool, member: &Member, status: StatusCode) {
        let has_failed = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        self.stop(pool, member, has_failed);
    }

    /// The attempt has failed. What is not the backend's doing does not count.
    pub(super) fn failed(self, pool: &Pool, member: &Member, error: &AttemptError) {
        if error.evidence().is_some() {
            self.stop(pool, member, true);
        }
    }

    fn stop(self, pool: &Pool, member: &Member, has_failed: bool) {
        let Some(running) = self.0 else { return };
        let limit = pool.settings.timeouts.first_byte;
        let outcome = if has_failed { Outcome::Failed { limit } } else { Outcome::Replied };
        let now = Instant::now();
        member.backend.note_latency(now.duration_since(running.since.get()), outcome, now);
    }
}
