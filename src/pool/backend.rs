//! One backend: its identity, and what is known of it for as long as it exists, whatever the file says meanwhile.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use siphasher::sip::SipHasher24;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::active_pins::{ActivePins, Moment, estimate, estimate_left};
use super::condition::{AdminState, Change, Condition, Evidence, Health, Memory, Thresholds};
use crate::telemetry::counters::BackendCounters;

/// Share of a drained backend's clients that move in a second, where they may.
const DRAIN_PACE: f64 = 0.05;

/// Which backend: pool and name. The address is a setting, not part of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendId {
    /// The pool's name.
    pub pool: Arc<str>,
    /// The backend's name in the pool.
    pub name: Arc<str>,
}

impl BackendId {
    /// A number that every replica and every restart gives to the same backend: SipHash-2-4 under a zero key.
    pub fn stable_hash(&self) -> u64 {
        use std::hash::Hasher;
        let mut hasher = SipHasher24::new();
        hasher.write(self.pool.as_bytes());
        hasher.write(&[0]);
        hasher.write(self.name.as_bytes());
        hasher.finish()
    }
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.name)
    }
}

/// One backend and its state. Shared by all workers and the control plane; outlives reloads.
pub struct Backend {
    id: BackendId,
    stable_hash: u64,
    /// Dense number, never given twice in one process: workers index their idle connections by it.
    serial: u32,
    /// The truth; touched only when something changes.
    inner: Mutex<Inner>,
    /// What requests read instead: [`Standing`] packed by [`Standing::pack`], stored while `inner` is locked.
    standing: AtomicU32,
    /// Effective weight: the file's, or the operator's order.
    weight: AtomicU32,
    in_flight: AtomicU32,
    /// Clients that used their pin here within the idle time, as last counted by the control plane.
    active_pins: AtomicU64,
    /// Which life of its process it is; see [`super::instance`].
    instance: AtomicU32,
    /// Since when its pinned clients cannot be served, as [`Backend::drain_since`] counts; 0 while they can.
    unavailable_since: AtomicU64,
    /// By worker; made when the first pin is used.
    pins: Box<[OnceLock<Box<ActivePins>>]>,
    /// Pins that moved away, of all workers; made when the first one does.
    departed: OnceLock<Box<Mutex<ActivePins>>>,
    /// When the drain was ordered, in milliseconds after `known_since` plus one; 0 without a drain.
    drain_since: AtomicU64,
    /// When whoever is left has to go, in the same way; 0 without a deadline.
    drain_until: AtomicU64,
    known_since: Instant,
    /// Notified when a probe should be made now and not at its next turn.
    probe_now: Notify,
    /// Notified when the standing changed, for requests that wait for their home.
    changed: Notify,
    counters: BackendCounters,
}

struct Inner {
    condition: Condition,
    admin: AdminState,
    drain: Option<Drain>,
    file_weight: u32,
    weight_order: Option<u32>,
}

/// A drain in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// When it was ordered.
    pub since: Instant,
    /// When whoever is left has to go; `None`: never.
    pub deadline: Option<Instant>,
}

/// What a request needs to know of a backend, read in one load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Measured.
    pub health: Health,
    /// Ordered.
    pub admin: AdminState,
    /// Whether its process is gone; only meaningful while unhealthy.
    pub memory: Memory,
}

impl Standing {
    /// Serves clients without a pin, and nothing speaks against it.
    pub fn is_first_choice(self) -> bool {
        self.admin == AdminState::Enabled && self.health == Health::Healthy
    }

    /// Could serve clients without a pin when there is no better one.
    pub fn is_available_for_new(self) -> bool {
        self.admin == AdminState::Enabled && self.health != Health::Unhealthy
    }

    /// Serves the clients pinned to it.
    pub fn is_available_for_pinned(self) -> bool {
        self.admin != AdminState::Disabled && self.health != Health::Unhealthy
    }

    fn pack(self) -> u32 {
        self.health as u32 | (self.admin as u32) << 8 | (self.memory as u32) << 16
    }

    fn unpack(bits: u32) -> Self {
        let health = match bits & 0xff {
            0 => Health::Starting,
            1 => Health::Healthy,
            2 => Health::Suspect,
            _ => Health::Unhealthy,
        };
        let admin = match bits >> 8 & 0xff {
            0 => AdminState::Enabled,
            1 => AdminState::Draining,
            _ => AdminState::Disabled,
        };
        let memory = if bits >> 16 == 0 { Memory::MayHold } else { Memory::Gone };
        Self { health, admin, memory }
    }
}

impl Backend {
    pub(super) fn new(id: BackendId, serial: u32, workers: usize, now: Instant) -> Self {
        let inner = Inner {
            condition: Condition::new(now),
            admin: AdminState::Enabled,
            drain: None,
            file_weight: 1,
            weight_order: None,
        };
        let stable_hash = id.stable_hash();
        let standing = AtomicU32::new(inner.standing().pack());
        Self {
            id,
            stable_hash,
            serial,
            inner: Mutex::new(inner),
            standing,
            weight: AtomicU32::new(1),
            in_flight: AtomicU32::new(0),
            active_pins: AtomicU64::new(0),
            instance: AtomicU32::new(0),
            unavailable_since: AtomicU64::new(0),
            pins: (0..workers).map(|_| OnceLock::new()).collect(),
            departed: OnceLock::new(),
            drain_since: AtomicU64::new(0),
            drain_until: AtomicU64::new(0),
            known_since: now,
            probe_now: Notify::new(),
            changed: Notify::new(),
            counters: BackendCounters::new(workers),
        }
    }

    /// Pool and name.
    pub fn id(&self) -> &BackendId {
        &self.id
    }

    /// See [`BackendId::stable_hash`].
    pub fn stable_hash(&self) -> u64 {
        self.stable_hash
    }

    /// Dense number, unique in this process.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// Health and admin state in one load.
    pub fn standing(&self) -> Standing {
        // Acquire pairs with the release in `publish`: who sees the state sees what led to it.
        Standing::unpack(self.standing.load(Ordering::Acquire))
    }

    /// Effective weight: what the operator ordered, else what the file says.
    pub fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    /// Requests sent whose reply has not fully ended, over all workers.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts one request more; whoever calls it keeps a guard that calls [`Backend::end_request`].
    pub fn begin_request(&self) {
        // Relaxed: the count is a load figure, nothing is published through it.
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one request less.
    pub fn end_request(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Clients that used their pin here within the idle time, as last counted.
    pub fn active_pins(&self) -> u64 {
        self.active_pins.load(Ordering::Relaxed)
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
    /// requests of a client that moves may say so; it is counted once. Takes a lock: not for every request.
    pub fn note_departure(&self, pin_id: u64, now: Instant, idle_timeout: Duration) {
        let moment = Moment::new(now.duration_since(self.known_since), idle_timeout);
        let departed = self.departed.get_or_init(Box::default).lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = !departed.is_touched(pin_id, moment);
        departed.record(pin_id, moment);
        if is_first {
            // The next count sets right what two pins in one cell get wrong.
            let less = |pins: u64| Some(pins.saturating_sub(1));
            let _ = self.active_pins.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }

    /// Notes that a pin moved here from elsewhere: if it had left before, it is back. Takes a lock if any pin ever left.
    pub fn note_arrival(&self, pin_id: u64) {
        if let Some(departed) = self.departed.get() {
            departed.lock().unwrap_or_else(PoisonError::into_inner).forget(pin_id);
        }
        self.pinned_one();
    }

    /// Counts the pins used within the idle time and not departed since, over all workers. Some ten microseconds a
    /// worker. One that is there counts as one, though it be fading, so that 0 means nobody.
    pub fn count_active_pins(&self, now: Instant, idle_timeout: Duration) {
        let moment = Moment::new(now.duration_since(self.known_since), idle_timeout);
        let shards = self.pins.iter().filter_map(|pins| pins.get()).map(|pins| &**pins);
        let pins = match self.departed.get() {
            Some(departed) => {
                let departed = departed.lock().unwrap_or_else(PoisonError::into_inner);
                estimate_left(shards, &departed, moment)
            }
            None => estimate(shards, moment),
        };
        self.set_active_pins(if pins > 0.0 { pins.round().max(1.0) as u64 } else { 0 });
    }

    /// The life of its process that was last seen; see [`super::instance`].
    pub fn instance(&self) -> u32 {
        self.instance.load(Ordering::Acquire)
    }

    /// Notes which life answers. Called before the observation that makes the backend available, so that whoever finds
    /// it available finds this, too. Says whether it is another one than before.
    pub fn set_instance(&self, instance: u32) -> bool {
        let before = self.instance.swap(instance, Ordering::AcqRel);
        before != 0 && before != instance
    }

    /// How long its pinned clients could not be served; zero while they can.
    pub fn unavailable_for(&self, now: Instant) -> Duration {
        match self.unavailable_since.load(Ordering::Relaxed).checked_sub(1) {
            Some(since) => now.duration_since(self.known_since).saturating_sub(Duration::from_millis(since)),
            None => Duration::ZERO,
        }
    }

    /// Counters of this backend.
    pub fn counters(&self) -> &BackendCounters {
        &self.counters
    }

    /// Takes an observation into account; a change is logged here, once, and wakes whoever waits for it.
    pub fn observe(&self, evidence: Evidence, thresholds: Thresholds, now: Instant) -> Option<Change> {
        let change = {
            let mut inner = self.lock();
            let change = inner.condition.observe(evidence, thresholds, now);
            self.publish(&inner);
            self.note_availability(&inner, now);
            change
        };
        if matches!(evidence, Evidence::TrafficFailed(_)) && self.standing().health != Health::Unhealthy {
            self.probe_now.notify_one();
        }
        if let Some(change) = change {
            self.log(change);
            self.changed.notify_waiters();
        }
        change
    }

    /// Marks the backend healthy without a probe, for pools that have none.
    pub fn assume_healthy(&self, now: Instant) {
        if self.standing().health != Health::Healthy {
            self.observe(Evidence::ProbeOk, Thresholds { healthy_after: 1, unhealthy_after: 1 }, now);
        }
    }

    /// Waits until somebody wants a probe before its turn.
    pub async fn probe_wanted(&self) {
        self.probe_now.notified().await;
    }

    /// Waits for the next change of standing. Create the future before looking at [`Backend::standing`].
    pub fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// The operator's order.
    pub fn set_admin_state(&self, admin: AdminState, deadline: Option<Instant>, now: Instant) {
        let before = {
            let mut inner = self.lock();
            let before = std::mem::replace(&mut inner.admin, admin);
            inner.drain = match (admin, inner.drain) {
                // Ordered again: the deadline may be new, the drain is not.
                (AdminState::Draining, Some(drain)) => Some(Drain { deadline, ..drain }),
                (AdminState::Draining, None) => Some(Drain { since: now, deadline }),
                (AdminState::Enabled | AdminState::Disabled, _) => None,
            };
            self.publish(&inner);
            self.note_availability(&inner, now);
            before
        };
        if before != admin {
            tracing::info!(
                pool = &*self.id.pool,
                backend = &*self.id.name,
                from = before.as_str(),
                to = admin.as_str(),
                "admin state changed"
            );
        }
        self.changed.notify_waiters();
    }

    /// The drain in progress, if there is one. Takes a lock: not for every request.
    pub fn drain(&self) -> Option<Drain> {
        self.lock().drain
    }

    /// When health last changed.
    pub fn health_changed_at(&self) -> Instant {
        self.lock().condition.changed_at()
    }

    /// What the file says. A weight ordered by the operator holds until the file's own weight changes.
    pub fn set_file_weight(&self, weight: u32) {
        let mut inner = self.lock();
        if inner.file_weight != weight {
            inner.file_weight = weight;
            inner.weight_order = None;
        }
        self.publish(&inner);
    }

    /// The operator's order; `None` takes it back.
    pub fn order_weight(&self, weight: Option<u32>) {
        let mut inner = self.lock();
        inner.weight_order = weight;
        self.publish(&inner);
    }

    /// The weight that the operator ordered, and the file's weight it stands in for.
    pub fn weight_order(&self) -> Option<(u32, u32)> {
        let inner = self.lock();
        inner.weight_order.map(|order| (order, inner.file_weight))
    }

    /// Whether a drain that moves its clients has come to this one: a twentieth of them a second, in an order that every
    /// replica derives from the pin alone.
    pub fn is_turn_to_leave(&self, pin_id: u64, now: Instant) -> bool {
        let Some(since) = self.drain_since.load(Ordering::Relaxed).checked_sub(1) else { return false };
        let drained_for = now.duration_since(self.known_since).saturating_sub(Duration::from_millis(since));
        // The upper half of a product with an odd constant (splitmix64's) spreads ids that are not random, too.
        let turn = (pin_id ^ self.stable_hash).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        (turn as f64) < drained_for.as_secs_f64() * DRAIN_PACE * f64::from(u32::MAX)
    }

    /// Whether a drain has passed its deadline.
    pub fn is_drain_over(&self, now: Instant) -> bool {
        let until = self.drain_until.load(Ordering::Relaxed).checked_sub(1);
        until.is_some_and(|until| now.duration_since(self.known_since) >= Duration::from_millis(until))
    }

    fn note_availability(&self, inner: &Inner, now: Instant) {
        let is_available = inner.standing().is_available_for_pinned();
        let was_available = self.unavailable_since.load(Ordering::Relaxed) == 0;
        if is_available {
            self.unavailable_since.store(0, Ordering::Relaxed);
        } else if was_available {
            self.unavailable_since.store(self.stamp(now), Ordering::Relaxed);
        }
    }

    /// A moment as the atomics keep it: milliseconds since the backend became known, plus one, so that 0 is free.
    fn stamp(&self, at: Instant) -> u64 {
        u64::try_from(at.duration_since(self.known_since).as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    fn publish(&self, inner: &Inner) {
        let drain_since = inner.drain.map_or(0, |drain| self.stamp(drain.since));
        self.drain_since.store(drain_since, Ordering::Relaxed);
        let deadline = inner.drain.and_then(|drain| drain.deadline);
        self.drain_until.store(deadline.map_or(0, |deadline| self.stamp(deadline)), Ordering::Relaxed);
        self.weight.store(inner.weight_order.unwrap_or(inner.file_weight), Ordering::Relaxed);
        self.standing.store(inner.standing().pack(), Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every holder only assigns plain values, so a poisoned lock still guards a consistent state.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self, change: Change) {
        let (pool, backend) = (&*self.id.pool, &*self.id.name);
        let (from, to) = (change.from.as_str(), change.to.as_str());
        let cause = change.cause.map(|failure| failure.as_str());
        let gone = self.standing().memory == Memory::Gone;
        match change.to {
            Health::Unhealthy => tracing::warn!(pool, backend, from, to, cause, gone, "health changed"),
            Health::Starting | Health::Suspect | Health::Healthy => {
                tracing::info!(pool, backend, from, to, cause, "health changed");
            }
        }
    }
}

impl Inner {
    fn standing(&self) -> Standing {
        Standing { health: self.condition.health(), admin: self.admin, memory: self.condition.memory() }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").field("id", &self.id).field("standing", &self.standing()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(1800);

    fn backend(now: Instant) -> Backend {
        Backend::new(BackendId { pool: "shop".into(), name: "app1".into() }, 0, 2, now)
    }

    #[test]
    fn a_pin_that_moved_away_no_longer_counts_and_counts_again_when_it_is_back() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let backend = backend(start);
        for pin in 0..50 {
            backend.record_pin((pin % 2) as usize, pin, at(1), IDLE);
            backend.pinned_one();
        }
        let counted = |now| {
            backend.count_active_pins(now, IDLE);
            backend.active_pins()
        };
        assert!((49..=51).contains(&counted(at(2))));
        for pin in 0..10 {
            backend.note_departure(pin, at(60), IDLE);
        }
        assert!((39..=41).contains(&backend.active_pins()), "{} at once", backend.active_pins());
        assert!((39..=41).contains(&counted(at(61))), "{} as counted", backend.active_pins());
        backend.record_pin(0, 3, at(120), IDLE);
        backend.note_arrival(3);
        assert!((40..=42).contains(&backend.active_pins()), "{} at once", backend.active_pins());
        assert!((40..=42).contains(&counted(at(121))), "{} as counted", backend.active_pins());
        // Idle for so long that both sketches have forgotten them.
        assert_eq!(counted(at(1800 * 3)), 0);
    }

    #[test]
    fn several_requests_of_one_client_that_moves_are_one_departure() {
        let start = Instant::now();
        let backend = backend(start);
        backend.set_active_pins(10);
        for _ in 0..6 {
            backend.note_departure(7, start, IDLE);
        }
        assert_eq!(backend.active_pins(), 9);
        backend.note_departure(7, start + IDLE * 2, IDLE);
        assert_eq!(backend.active_pins(), 8, "it had come back, and leaves again");
    }

    #[test]
    fn more_departures_than_pins_leave_nobody() {
        let start = Instant::now();
        let backend = backend(start);
        for pin in 0..100 {
            backend.note_departure(pin, start, IDLE);
        }
        assert_eq!(backend.active_pins(), 0);
        backend.count_active_pins(start, IDLE);
        assert_eq!(backend.active_pins(), 0);
    }
}
