//! Waiting for a home: a bounded time, in which it is asked again and again.

use std::time::Duration;

use tokio::time::Instant;

use crate::pool::Backend;

/// How often a home that is waited for is asked again.
const WAIT_STEP: Duration = Duration::from_millis(50);

/// How long a request has waited for its home.
pub(super) struct Wait {
    limit: Duration,
    begun: Option<Instant>,
}

impl Wait {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, begun: None }
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun.is_some()
    }

    pub(super) fn is_over(&self) -> bool {
        self.limit.is_zero() || self.begun.is_some_and(|begun| begun.elapsed() >= self.limit)
    }

    /// Waits until the home's standing changes, but not long: a home that listens again is found by trying.
    pub(super) async fn step(&mut self, home: &Backend) {
        let begun = *self.begun.get_or_insert_with(Instant::now);
        let left = self.limit.saturating_sub(begun.elapsed()).min(WAIT_STEP);
        // Either way the caller looks again.
        let _ = tokio::time::timeout(left, home.changed()).await;
    }
}
