//! What happened to which pins a moment ago: so that several requests of one client that meet the same event count once.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

/// How long a pin is remembered, at the least: longer than parallel requests of one client take.
const MEMORY: Duration = Duration::from_secs(10);

/// Pins remembered in that time: half a megabyte. Beyond it, parallel requests of one client count as several.
const MOST: usize = 32_768;

/// Pins of the last seconds, by name.
#[derive(Debug)]
pub struct RecentPins {
    /// Those since `since`, and those of the time before that.
    latest: HashSet<u64>,
    before: HashSet<u64>,
    since: Instant,
}

impl RecentPins {
    /// None yet.
    pub fn new(now: Instant) -> Self {
        Self { latest: HashSet::new(), before: HashSet::new(), since: now }
    }

    /// Notes a pin; says whether it was not known yet.
    pub fn note(&mut self, pin_id: u64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since);
        if passed >= MEMORY {
            let latest = std::mem::take(&mut self.latest);
            self.before = if passed >= 2 * MEMORY { HashSet::new() } else { latest };
            self.since = now;
        }
        !self.before.contains(&pin_id) && (self.latest.len() >= MOST || self.latest.insert(pin_id))
    }

    /// From now on the pin is new again.
    pub fn forget(&mut self, pin_id: u64) {
        self.latest.remove(&pin_id);
        self.before.remove(&pin_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_new_once_in_a_while_and_again_when_it_was_forgotten() {
        let start = Instant::now();
        let mut recent = RecentPins::new(start);
        let mut note = |pin: u64, seconds: u64| recent.note(pin, start + Duration::from_secs(seconds));
        assert!((0..20_000).all(|pin| note(pin, 1)));
        assert!((0..20_000).all(|pin| !note(pin, 2)));
        assert!(!note(7, 12), "still remembered");
        assert!(note(7, 40), "long ago");
        recent.forget(7);
        assert!(recent.note(7, start + Duration::from_secs(41)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let start = Instant::now();
        let mut recent = RecentPins::new(start);
        for pin in 0..3 * MOST as u64 {
            assert!(recent.note(pin, start));
        }
        assert_eq!(recent.latest.len(), MOST);
    }
}
