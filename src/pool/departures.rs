//! Who has left a backend: so that pins that moved away no longer count there, and each move counts once.

use tokio::time::Instant;

use super::active_pins::{ActivePins, Moment};
use super::recent::RecentPins;

/// The departures from one backend.
#[derive(Debug)]
pub(super) struct Departures {
    /// All of them within the idle time, roughly; see [`super::active_pins`].
    pub(super) sketch: Box<ActivePins>,
    /// The latest ones, by name.
    recent: RecentPins,
}

impl Departures {
    pub(super) fn new(now: Instant) -> Self {
        Self { sketch: Box::default(), recent: RecentPins::new(now) }
    }

    /// Notes that a pin has left; says whether that was not known yet.
    pub(super) fn note(&mut self, pin_id: u64, now: Instant, moment: Moment) -> bool {
        self.sketch.record(pin_id, moment);
        self.recent.note(pin_id, now)
    }

    /// The pin is back.
    pub(super) fn forget(&mut self, pin_id: u64) {
        self.sketch.forget(pin_id);
        self.recent.forget(pin_id);
    }
}
