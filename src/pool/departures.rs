//! Who has left a backend: so that pins that moved away no longer count there, and each move counts once.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::active_pins::{ActivePins, Moment};

/// How long a departure is remembered by name, at the least: longer than parallel requests of one client take.
const MEMORY: Duration = Duration::from_secs(10);

/// Departures remembered by name in that time. Beyond it, parallel requests of one client count as several.
const MOST: usize = 32_768;

/// The departures from one backend.
#[derive(Debug)]
pub(super) struct Departures {
    /// All of them within the idle time, roughly; see [`super::active_pins`].
    pub(super) sketch: Box<ActivePins>,
    /// Those since `since`, and those of the time before that, by name.
    latest: HashSet<u64>,
    before: HashSet<u64>,
    since: Instant,
}

impl Departures {
    pub(super) fn new(now: Instant) -> Self {
        Self { sketch: Box::default(), latest: HashSet::new(), before: HashSet::new(), since: now }
    }

    /// Notes that a pin has left; says whether that was not known yet.
    pub(super) fn note(&mut self, pin_id: u64, now: Instant, moment: Moment) -> bool {
        let passed = now.saturating_duration_since(self.since);
        if passed >= MEMORY {
            self.before = std::mem::take(&mut self.latest);
            if passed >= 2 * MEMORY {
                self.before.clear();
            }
            self.since = now;
        }
        self.sketch.record(pin_id, moment);
        !self.before.contains(&pin_id) && (self.latest.len() >= MOST || self.latest.insert(pin_id))
    }

    /// The pin is back.
    pub(super) fn forget(&mut self, pin_id: u64) {
        self.sketch.forget(pin_id);
        self.latest.remove(&pin_id);
        self.before.remove(&pin_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(1800);

    #[test]
    fn a_departure_counts_once_for_a_while_and_again_after_a_return() {
        let start = Instant::now();
        let mut departures = Departures::new(start);
        let mut note = |pin: u64, seconds: u64| {
            let after = Duration::from_secs(seconds);
            departures.note(pin, start + after, Moment::new(after, IDLE))
        };
        // Every one of them, though many share a cell of the sketch.
        assert!((0..20_000).all(|pin| note(pin, 1)));
        assert!((0..20_000).all(|pin| !note(pin, 2)));
        assert!(!note(7, 12), "still remembered");
        assert!(note(7, 40), "long ago");
        departures.forget(7);
        assert!(departures.note(7, start + Duration::from_secs(41), Moment::new(Duration::from_secs(41), IDLE)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let start = Instant::now();
        let mut departures = Departures::new(start);
        for pin in 0..3 * MOST as u64 {
            assert!(departures.note(pin, start, Moment::new(Duration::ZERO, IDLE)));
        }
        assert_eq!(departures.latest.len(), MOST);
    }
}
