//! Slow start: how much of its share a backend gets that has just come, or come back.
//!
//! Pure. A backend is *warming* for as long as the pool's `slow_start` says after it came into use. Meanwhile its share of new
//! clients and of orphans rises from a tenth to all of it, in a straight line. It is passed over in the other picks; where
//! nobody else could serve it is not passed over at all.

use std::time::Duration;

use tokio::time::Instant;

use super::Backend;
use super::heir::mix;

/// The share that it begins with: enough to warm anything.
const LEAST: f64 = 0.1;

/// So that who is admitted has nothing to do with who is whose heir.
const SALT: u64 = 0x5704_57a4_7000_0001;

/// Somebody in the pool is warming, at this moment.
#[derive(Clone, Copy, Debug)]
pub struct Warming {
    slow_start: Duration,
    now: Instant,
}

impl Warming {
    pub(super) fn new(slow_start: Duration, now: Instant) -> Self {
        Self { slow_start, now }
    }

    /// Whether this backend is to be considered in the case that `draw` stands for: a pick, by a number drawn for it, or a
    /// pin, by its id, so that parallel requests and other replicas nearly always find the same. Who was admitted once is
    /// admitted from then on.
    pub fn admits(&self, backend: &Backend, draw: u64) -> bool {
        let Some(since) = backend.in_use_for(self.now).filter(|since| *since < self.slow_start) else { return true };
        let turn = (mix(draw ^ backend.stable_hash() ^ SALT) >> 11) as f64 / (1_u64 << 53) as f64;
        turn < ramp(since, self.slow_start)
    }
}

/// How long the backend goes on warming; `None` when it is warm, or was never in use.
pub fn left(backend: &Backend, slow_start: Duration, now: Instant) -> Option<Duration> {
    slow_start.checked_sub(backend.in_use_for(now)?).filter(|left| !left.is_zero())
}

/// The share of its share, from [`LEAST`] to 1.
fn ramp(since: Duration, slow_start: Duration) -> f64 {
    LEAST + (1.0 - LEAST) * (since.as_secs_f64() / slow_start.as_secs_f64()).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{AdminState, BackendId, Evidence, Failure, Registry, Thresholds};

    const ONCE: Thresholds = Thresholds { healthy_after: 1, unhealthy_after: 1 };
    const SLOW: Duration = Duration::from_secs(30);

    #[test]
    fn the_share_rises_in_a_straight_line_and_who_was_admitted_stays_so() {
        let start = Instant::now();
        let backend = Registry::new(1).backend(&BackendId { pool: "shop".into(), name: "app".into() }, start);
        backend.observe(Evidence::ProbeOk, ONCE, start);
        let mut before: Vec<bool> = vec![false; 20_000];
        for (seconds, share) in [(0, 0.1), (10, 0.4), (20, 0.7), (29, 0.97), (30, 1.0), (3_000, 1.0)] {
            let warming = Warming::new(SLOW, start + Duration::from_secs(seconds));
            let admitted: Vec<bool> = (0..20_000).map(|draw| warming.admits(&backend, draw)).collect();
            assert!(before.iter().zip(&admitted).all(|(before, after)| after >= before), "{seconds} s");
            let counted = admitted.iter().filter(|is| **is).count() as f64 / 20_000.0;
            // Five standard deviations of the most uncertain one.
            assert!((counted - share).abs() < 0.018, "{counted} at {seconds} s, not {share}");
            before = admitted;
        }
    }

    #[test]
    fn it_begins_when_a_backend_comes_or_comes_back_and_not_after_a_single_failure() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let backend = Registry::new(1).backend(&BackendId { pool: "shop".into(), name: "app".into() }, start);
        let left = |seconds| left(&backend, SLOW, at(seconds)).map(|left| left.as_secs());
        assert_eq!(left(0), None, "not in use yet");
        backend.observe(Evidence::ProbeOk, ONCE, at(1));
        assert_eq!(left(1), Some(30));
        assert_eq!(left(21), Some(10));
        assert_eq!(left(31), None);
        // A failure, and well again.
        backend.observe(Evidence::TrafficFailed(Failure::Broken), ONCE, at(40));
        backend.observe(Evidence::ProbeOk, ONCE, at(41));
        assert_eq!(left(41), None, "suspect is in use");
        backend.set_admin_state(AdminState::Draining, None, at(42));
        backend.set_admin_state(AdminState::Enabled, None, at(43));
        assert_eq!(left(43), None, "its clients were there");
        // Unhealthy, and well again.
        backend.observe(Evidence::ProbeFailed(Failure::Silent), ONCE, at(50));
        assert_eq!(left(50), None);
        backend.observe(Evidence::ProbeOk, ONCE, at(60));
        assert_eq!(left(65), Some(25));
        // Disabled, and enabled again.
        backend.set_admin_state(AdminState::Disabled, None, at(100));
        backend.set_admin_state(AdminState::Enabled, None, at(110));
        assert_eq!(left(110), Some(30));
        // Another instance at the same name, between two probes that went well.
        backend.begin_warming(at(200));
        assert_eq!(left(210), Some(20));
    }
}
