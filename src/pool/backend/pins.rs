//! The pins of a backend: those in use, those that left, those that came.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Backend;
use crate::pool::active_pins::{Moment, estimate, estimate_left};
use crate::pool::departures::Departures;
use crate::pool::moves::{Move, Moves};
use crate::telemetry::words::RehomeReason;

impl Backend {
    /// Clients that used their pin here within the idle time, as last counted.
    pub fn active_pins(&self) -> u64 {
        self.active_pins.load(Ordering::Relaxed)
    }

    /// The same, with those that are about to come and without those that are about to go: for whoever decides on more.
    pub fn expected_pins(&self) -> u64 {
        let (coming, going) = self.moves.expected();
        (self.active_pins() + u64::from(coming)).saturating_sub(u64::from(going))
    }

    /// Pins that move from or to here.
    pub(in crate::pool) fn moves(&self) -> &Moves {
        &self.moves
    }

    /// Where this pin moves to, or moved a moment ago. One atomic load unless some pin did; then a lock.
    pub fn move_of(&self, pin_id: u64, now: Instant) -> Option<Move> {
        self.moves.of(pin_id, now)
    }

    /// Notes that a pin moves from here, for its other requests. Takes a lock.
    pub fn note_move(&self, to: &Self, pin_id: u64, reason: RehomeReason, session_lost: bool, now: Instant) {
        to.note_return(pin_id, now);
        self.moves.note(pin_id, Move { to: to.stable_hash(), reason, session_lost }, now);
    }

    /// Notes that a pin that moved from here lives here. Takes a lock if some pin moved a moment ago.
    pub fn note_return(&self, pin_id: u64, now: Instant) {
        self.moves.forget(pin_id, now);
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

    /// Notes that a request that moves a pin from here has its reply, or has failed: then, unless another one was answered
    /// there, its other requests do not follow it. Takes a lock.
    pub fn note_move_ended(&self, pin_id: u64, is_answered: bool) {
        self.moves.note_end(pin_id, is_answered);
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
