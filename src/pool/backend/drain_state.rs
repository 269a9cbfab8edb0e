//! The drain of a backend: how far it is, and whose turn it is to leave.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::Backend;
use crate::pool::drain::{Drain, time_for};
use crate::telemetry::events::Event;

impl Backend {
    /// To be called after pins were counted: follows a drain, and notices that nobody is left, which is logged once.
    pub fn note_drain_progress(&self, idle_timeout: Duration, now: Instant) {
        let is_drained_now = {
            let mut inner = self.lock();
            let Some(mut drain) = inner.drain else { return };
            let (pins, was_drained) = (self.active_pins(), drain.drained.is_some());
            inner.history.note(pins, now);
            drain.decline = inner.history.decline(pins, now);
            // Clients of an earlier life of this process may come back for as long as their pins are good.
            let may_be_blind =
                drain.is_restored && now.saturating_duration_since(self.known_since) < idle_timeout * 5 / 4;
            if pins > 0 {
                drain.drained = None;
            } else if !was_drained && self.in_flight() == 0 && !may_be_blind {
                drain.drained = Some(now);
            }
            inner.drain = Some(drain);
            self.publish(&inner);
            !was_drained && drain.drained.is_some()
        };
        if is_drained_now {
            tracing::info!(pool = &*self.id.pool, backend = &*self.id.name, "drained");
            let (pool, backend) = self.names();
            self.events.tell(|| Event::Drained { pool, backend });
        }
    }

    /// The drain in progress, if there is one. Takes a lock: not for every request.
    pub fn drain(&self) -> Option<Drain> {
        self.lock().drain
    }

    /// Whether a drain that moves its clients has come to this one: at the pace of the order, in a turn that every
    /// replica derives from the pin alone.
    pub fn is_turn_to_leave(&self, pin_id: u64, now: Instant) -> bool {
        let Some(drained_for) = self.time_since(self.drain_since.load(Ordering::Relaxed), now) else { return false };
        let turned = f64::from_bits(self.drain_turned.load(Ordering::Relaxed));
        self.turn(pin_id) < turned + drained_for.as_secs_f64() * self.drain_pace()
    }

    /// Whether a drain is over for this client: past its deadline, everybody who is left has to go, but in turn and at
    /// the same pace, so that the others are not overrun.
    pub fn is_drain_over(&self, pin_id: u64, now: Instant) -> bool {
        let Some(over_for) = self.time_since(self.drain_until.load(Ordering::Relaxed), now) else { return false };
        self.turn(pin_id) < over_for.as_secs_f64() * self.drain_pace()
    }

    /// When [`Backend::is_drain_over`] becomes true for this client, or, without a pin, when the deadline is; `None`
    /// without a deadline.
    pub fn drain_over_at(&self, pin_id: Option<u64>) -> Option<Instant> {
        let until = self.drain_until.load(Ordering::Relaxed).checked_sub(1)?;
        let deadline = self.known_since.checked_add(Duration::from_millis(until))?;
        let turn = pin_id.map_or(0.0, |pin_id| self.turn(pin_id));
        deadline.checked_add(time_for(turn, self.drain_pace()))
    }

    /// Whether a drain has come to its end: nobody is left.
    pub fn is_drained(&self) -> bool {
        self.is_drained.load(Ordering::Relaxed)
    }

    /// When it is this pin's turn to leave, as a share of the whole drain.
    fn turn(&self, pin_id: u64) -> f64 {
        // The upper half of a product with an odd constant (splitmix64's) spreads ids that are not random, too.
        let turn = (pin_id ^ self.stable_hash).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        turn as f64 / f64::from(u32::MAX)
    }

    fn drain_pace(&self) -> f64 {
        f64::from_bits(self.drain_pace.load(Ordering::Relaxed))
    }
}
