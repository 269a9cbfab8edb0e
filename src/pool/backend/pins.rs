//! The pins of a backend: those in use, those that left, those that came.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Backend;
use crate::pool::active_pins::{Moment, estimate, estimate_left};
use crate::pool::departures::Departures;

impl Backend {
    /// Clients that used their pin here within the idle time, as last counted.
    pub fn active_pins(&self) -> u64 {
        self.active_pins.load(Ordering::Relaxed)
    }

    /// The same, with those that are about to come and without those that are about to go: for whoever decides on more.
    pub fn expected_pins(&self) -> u64 {
        let [coming, going] = [&self.pins_coming, &self.pins_going].map(|pins| u64::from(pins.load(Ordering::Relaxed)));
        (self.active_pins() + coming).saturating_sub(going)
    }

    /// Set by whoever counts.
    pub fn set_active_pins(&self, pins: u64) {
        self.active_pins.store(pins, Ordering::Relaxed);
    }

    /// A client was pinned here: counted at once, so that clients that come in the same second spread; the next count
    /// sets it right.
    pub fn pinned_one(&self) {
        self.active_pins.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a pin was used here. Only the worker of this number may call it.
    pub fn record_pin(&self, worker: usize, pin_id: u64, now: Instant, idle_timeout: Duration) {
        let moment = Moment::new(now.duration_since(self.known_since), idle_timeout);
        self.pins[worker].get_or_init(Box::default).record(pin_id, moment);
    }

    /// Notes that a pin moved away: it no longer counts here, though it was used here within the idle time. Several
    /// requests of a client that moves may say so; it is counted once, and whether this was the first is given back.
    /// Takes a lock: not for every request.
    pub fn note_departure(&self, pin_id: u64, now: Instant, idle_timeout: Duration) -> bool {
        let moment = Moment::new(now.duration_since(self.known_since), idle_timeout);
        let departures = self.departures.get_or_init(|| Mutex::new(Departures::new(now)));
        let is_first = departures.lock().unwrap_or_else(PoisonError::into_inner).note(pin_id, now, moment);
        if is_first {
            let less = |pins: u64| Some(pins.saturating_sub(1));
            let _ = self.active_pins.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
        is_first
    }

    /// Notes that a pin moved here from elsewhere: if it had left before, it is back. Takes a lock if any pin ever left.
    pub fn note_arrival(&self, pin_id: u64) {
        if let Some(departures) = self.departures.get() {
            departures.lock().unwrap_or_else(PoisonError::into_inner).forget(pin_id);
        }
        self.pinned_one();
    }

    /// Counts the pins used within the idle time and not departed since, over all workers. Some ten microseconds a
    /// worker. One that is there counts as one, though it be fading, so that 0 means nobody.
    pub fn count_active_pins(&self, now: Instant, idle_timeout: Duration) {
        let moment = Moment::new(now.duration_since(self.known_since), idle_timeout);
        let shards = self.pins.iter().filter_map(|pins| pins.get()).map(|pins| &**pins);
        let pins = match self.departures.get() {
            Some(departures) => {
                let departures = departures.lock().unwrap_or_else(PoisonError::into_inner);
                estimate_left(shards, &departures.sketch, moment)
            }
            None => estimate(shards, moment),
        };
        self.set_active_pins(if pins > 0.0 { pins.round().max(1.0) as u64 } else { 0 });
    }
}

/// A pin that moves to even out the load, from the decision to when it is counted where it lives then: others that are to
/// move meanwhile have to know, or more go than are too many. Several requests of one client may each be one.
#[derive(Debug)]
pub struct Evening<'a> {
    from: &'a Backend,
    to: &'a Backend,
}

impl<'a> Evening<'a> {
    /// Begins a move.
    pub fn begin(from: &'a Backend, to: &'a Backend) -> Self {
        from.pins_going.fetch_add(1, Ordering::Relaxed);
        to.pins_coming.fetch_add(1, Ordering::Relaxed);
        Self { from, to }
    }
}

impl Drop for Evening<'_> {
    fn drop(&mut self) {
        self.from.pins_going.fetch_sub(1, Ordering::Relaxed);
        self.to.pins_coming.fetch_sub(1, Ordering::Relaxed);
    }
}
