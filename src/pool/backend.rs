//! One backend: its identity, and what is known of it for as long as it exists, whatever the file says meanwhile.
//!
//! `id` is whom it is known as, `orders` what the operator and its own agent have ordered, `drain_state` how far a drain
//! is, `pins` who has a home there, and `standing` what of all that one request reads. Here is what was observed: its
//! health, its lives, and since when it has been there or away.

mod id;

mod orders;

mod drain_state;

mod pins;

mod standing;

#[cfg(test)]
mod tests;

pub use id::BackendId;
pub use standing::Standing;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::active_pins::ActivePins;
use super::agent::Agent;
use super::condition::{AdminState, Change, Condition, Evidence, Health, Memory, Thresholds};
use super::departures::Departures;
use super::drain::{Drain, History};
use super::latency::{Latency, Measure, Outcome};
use super::moves::Moves;
use super::outliers::Out;
use super::rebalance::Role;
use super::room::{Carries, Room};
use super::state::PoolState;
use super::traffic::Traffic;
use crate::telemetry::counters::BackendCounters;
use crate::telemetry::events::{Event, Events};

/// Whether a backend was whom others' clients could go to at some time, which is told in whole seconds of another clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CouldInherit {
    /// It was.
    Yes,
    /// It came or went within a second of it.
    Perhaps,
    /// It was not there, or nobody could go there.
    No,
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
    /// What it takes at a time, and who waits for room.
    room: Arc<Room>,
    latency: Latency,
    /// Clients that used their pin here within the idle time, as last counted by the control plane.
    active_pins: AtomicU64,
    moves: Moves,
    /// Which life of its process it is; see [`super::instance`].
    instance: AtomicU32,
    /// What evening out makes of it; see [`super::rebalance`].
    role: AtomicU8,
    /// Since when it sheds, in seconds of the wall clock.
    sheds_since: AtomicU32,
    /// Since when its pinned clients cannot be served, as [`Backend::drain_since`] counts; 0 while they can.
    unavailable_since: AtomicU64,
    /// When it was last back in reach without having begun another life, as [`Backend::drain_since`] counts; 0 for never.
    back_since: AtomicU64,
    /// Since when it has been in use, as [`Backend::drain_since`] counts; 0 before the first time. See [`super::slow_start`].
    in_use_since: AtomicU64,
    /// Since when others' clients may go to it, and until when they could the time before; stamps like the ones above.
    inherits_since: AtomicU64,
    inherited_until: AtomicU64,
    /// It has been in good health since the process began.
    was_healthy: AtomicBool,
    /// By worker; made when the first pin is used.
    pins: Box<[OnceLock<Box<ActivePins>>]>,
    /// Pins that moved away, of all workers; made when the first one does.
    departures: OnceLock<Mutex<Departures>>,
    /// From when on turns to leave are counted, in milliseconds after `known_since` plus one; 0 without a drain.
    drain_since: AtomicU64,
    /// When whoever is left has to go, in the same way; 0 without a deadline.
    drain_until: AtomicU64,
    /// The share of pins whose turn came before `drain_since`, and the share whose turn comes in each second; bits of an
    /// `f64`. A request that reads one of an order and the other of the next is a moment early or late.
    drain_turned: AtomicU64,
    drain_pace: AtomicU64,
    /// Nobody is left of a drain.
    is_drained: AtomicBool,
    known_since: Instant,
    /// Notified when a probe should be made now and not at its next turn.
    probe_now: Notify,
    /// Notified when the standing changed, for requests that wait for their home.
    changed: Notify,
    counters: BackendCounters,
    traffic: Traffic,
    events: Events,
    /// Told when anything changes that counts for the pool as a whole.
    pool: Arc<PoolState>,
}

struct Inner {
    condition: Condition,
    /// Ordered by the operator.
    ordered: AdminState,
    agent: Agent,
    drain: Option<Drain>,
    history: History,
    /// Which life it lived when it could not be reached any more.
    lost_instance: u32,
    file_weight: u32,
    weight_order: Option<u32>,
}

impl Backend {
    pub(super) fn new(
        id: BackendId,
        room: Room,
        serial: u32,
        workers: usize,
        events: Events,
        pool: Arc<PoolState>,
        now: Instant,
    ) -> Self {
        let inner = Inner {
            condition: Condition::new(now),
            ordered: AdminState::Enabled,
            agent: Agent::default(),
            drain: None,
            history: History::new(),
            lost_instance: 0,
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
            room: Arc::new(room),
            latency: Latency::default(),
            active_pins: AtomicU64::new(0),
            moves: Moves::new(now),
            instance: AtomicU32::new(0),
            role: AtomicU8::new(Role::Settled as u8),
            sheds_since: AtomicU32::new(0),
            unavailable_since: AtomicU64::new(0),
            in_use_since: AtomicU64::new(0),
            // From its first moment on: one that has not been measured yet may serve anybody.
            inherits_since: AtomicU64::new(1),
            inherited_until: AtomicU64::new(0),
            was_healthy: AtomicBool::new(false),
            pins: (0..workers).map(|_| OnceLock::new()).collect(),
            departures: OnceLock::new(),
            back_since: AtomicU64::new(0),
            drain_since: AtomicU64::new(0),
            drain_until: AtomicU64::new(0),
            drain_turned: AtomicU64::new(0),
            drain_pace: AtomicU64::new(0),
            is_drained: AtomicBool::new(false),
            known_since: now,
            probe_now: Notify::new(),
            changed: Notify::new(),
            counters: BackendCounters::new(workers),
            traffic: Traffic::new(workers),
            events,
            pool,
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

    /// What it takes at a time, and who waits for room.
    pub fn room(&self) -> &Arc<Room> {
        &self.room
    }

    /// What the file says about it; see [`Room`]. Serves whoever waits and has room now.
    pub fn set_bounds(&self, max_requests: Option<u32>, max_connections: Option<u32>, carries: Carries) {
        self.room.set_bounds(max_requests, max_connections, carries);
    }

    /// Requests sent whose reply has not fully ended, over all workers.
    pub fn in_flight(&self) -> u32 {
        self.room.in_flight()
    }

    /// Counts one request more, if there is room for it and nobody waits for that; whoever calls it keeps a guard that
    /// calls [`Backend::end_request`]. Without a bound, one addition.
    pub fn try_begin_request(&self) -> bool {
        self.room.try_begin()
    }

    /// Counts one request more, whatever the bound; as [`Backend::try_begin_request`] else.
    pub fn begin_request(&self) {
        self.room.begin();
    }

    /// Counts one request less; whoever waits for the room has it then.
    pub fn end_request(&self) {
        self.room.end();
    }

    /// Takes in how long an attempt took to bring the head of a reply, or to fail.
    pub fn note_latency(&self, took: Duration, outcome: Outcome, now: Instant) {
        self.latency.note(took, outcome, now.duration_since(self.known_since));
    }

    /// How long replies take to begin, if anybody has measured; see [`super::latency`].
    pub fn latency(&self, now: Instant) -> Option<Measure> {
        self.latency.measure(now.duration_since(self.known_since))
    }

    /// The life of its process that was last seen; see [`super::instance`].
    pub fn instance(&self) -> u32 {
        self.instance.load(Ordering::Acquire)
    }

    /// Notes which life answers. Called before the observation that makes the backend available, so that whoever finds
    /// it available finds this, too. Says whether it is another one than before.
    pub fn set_instance(&self, instance: u32) -> bool {
        let before = self.instance.swap(instance, Ordering::AcqRel);
        let is_another = before != 0 && before != instance;
        if is_another {
            self.back_since.store(0, Ordering::Relaxed);
        }
        is_another
    }

    /// How long ago it came back after it could not be reached, living the same life all the while: others that copy to it
    /// could not do so, and it knows older sessions as they were. `None` when it has missed nothing.
    pub fn back_for(&self, now: Instant) -> Option<Duration> {
        self.time_since(self.back_since.load(Ordering::Relaxed), now)
    }

    /// Whether it gives clients away, or takes them, to even out the pool.
    pub fn role(&self) -> Role {
        match self.role.load(Ordering::Relaxed) {
            role if role == Role::Sheds as u8 => Role::Sheds,
            role if role == Role::Receives as u8 => Role::Receives,
            _ => Role::Settled,
        }
    }

    /// Since when it sheds, in seconds of the wall clock.
    pub fn sheds_since(&self) -> u32 {
        self.sheds_since.load(Ordering::Relaxed)
    }

    /// Set by whoever counts pins; `now` in seconds of the wall clock.
    pub fn set_role(&self, role: Role, now: u32) {
        // Relaxed: a request that sees it a moment late loses nothing.
        if role == Role::Sheds && self.role() != Role::Sheds {
            self.sheds_since.store(now, Ordering::Relaxed);
        }
        self.role.store(role as u8, Ordering::Relaxed);
    }

    /// How long its pinned clients could not be served; zero while they can.
    pub fn unavailable_for(&self, now: Instant) -> Duration {
        match self.unavailable_since.load(Ordering::Relaxed).checked_sub(1) {
            Some(since) => now.duration_since(self.known_since).saturating_sub(Duration::from_millis(since)),
            None => Duration::ZERO,
        }
    }

    /// Whether this process has seen it well before it went away, so that it knows for how long it is away.
    pub fn has_seen_outage_begin(&self) -> bool {
        self.was_healthy.load(Ordering::Relaxed)
    }

    /// What requests met here.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// What replies have shown; see [`super::outliers`]. Takes a lock: not for every request.
    pub fn out(&self) -> Option<Out> {
        self.lock().condition.out()
    }

    /// What probes, and connections that failed, have shown. Takes a lock: not for every request.
    pub fn measured_health(&self) -> Health {
        self.lock().condition.measured()
    }

    /// Puts it out by what replies have shown, lets it on probation, or takes it back.
    pub fn set_out(&self, out: Option<Out>, now: Instant) {
        let change = {
            let mut inner = self.lock();
            let change = inner.condition.set_out(out, now);
            self.note_turn(&inner, now);
            self.publish(&inner);
            self.note_availability(&inner, now);
            change
        };
        if let Some(change) = change {
            self.log(change);
            self.changed.notify_waiters();
            self.room.standing_changed();
        }
    }

    /// Wants a probe before its turn, without any evidence.
    pub fn ask_for_probe(&self) {
        if self.standing().health != Health::Unhealthy {
            self.probe_now.notify_one();
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
            let (before, memory) = (inner.condition.measured(), inner.condition.memory());
            let change = inner.condition.observe(evidence, thresholds, now);
            match (before, inner.condition.measured()) {
                (Health::Unhealthy, Health::Unhealthy) => {}
                (_, Health::Unhealthy) => inner.lost_instance = self.instance(),
                (Health::Unhealthy, _) => {
                    let has_lived_on = memory == Memory::MayHold && inner.lost_instance == self.instance();
                    self.back_since.store(if has_lived_on { self.stamp(now) } else { 0 }, Ordering::Relaxed);
                }
                _ => {}
            }
            self.note_turn(&inner, now);
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
            self.room.standing_changed();
        }
        change
    }

    /// Marks the backend healthy without a probe, for pools that have none, unless something is known of it.
    pub fn assume_healthy(&self, now: Instant) {
        if self.measured_health() == Health::Starting {
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

    /// When health last changed.
    pub fn health_changed_at(&self) -> Instant {
        self.lock().condition.changed_at()
    }

    /// How long ago a stamped moment was; `None` for one that is yet to come, or was never stamped.
    fn time_since(&self, stamp: u64, now: Instant) -> Option<Duration> {
        let then = Duration::from_millis(stamp.checked_sub(1)?);
        now.duration_since(self.known_since).checked_sub(then)
    }

    /// Notes that it comes into use, or goes. Before [`Backend::publish`], so that whoever finds it in use finds since when.
    fn note_turn(&self, inner: &Inner, now: Instant) {
        let (before, after) = (self.standing(), inner.standing());
        if after.is_in_use() && !before.is_in_use() {
            self.begin_warming(now);
        }
        let stamp = match (before.is_available_for_new(), after.is_available_for_new()) {
            (false, true) => &self.inherits_since,
            (true, false) => &self.inherited_until,
            _ => return,
        };
        stamp.store(self.stamp(now), Ordering::Relaxed);
        self.pool.note_heirs(now);
    }

    /// Notes that it has another weight, which says whose heir it is. Before [`Backend::publish`], too. A weight of the file
    /// comes with a snapshot, whose age is known.
    fn note_weight(&self, inner: &Inner, now: Instant) {
        if inner.weight() != self.weight() {
            self.pool.note_weights(now);
        }
    }

    /// Whether others' clients could go to it so many seconds ago, so that it may have been told to keep a copy then. Its
    /// last absence is known, or the last time it was there when it is not now; those before are not.
    pub fn could_inherit(&self, seconds_ago: u64, now: Instant) -> CouldInherit {
        let stamps = [&self.inherits_since, &self.inherited_until].map(|stamp| stamp.load(Ordering::Relaxed));
        let [since, until] = stamps.map(|stamp| Some(self.time_since(stamp, now)?.as_secs()));
        let is_near = |it: u64| it == seconds_ago || it + 1 == seconds_ago;
        let had_come = since.is_some_and(|since| since > seconds_ago);
        let left_later = until.is_some_and(|until| until + 1 < seconds_ago);
        let is_away = stamps[1] > stamps[0];
        match () {
            () if had_come && left_later => CouldInherit::Yes,
            () if (had_come || left_later) && !is_away => CouldInherit::Yes,
            () if since.is_some_and(is_near) || until.is_some_and(is_near) => CouldInherit::Perhaps,
            () => CouldInherit::No,
        }
    }

    /// Another life of its process begins here: nothing is warm yet.
    pub fn begin_warming(&self, now: Instant) {
        self.in_use_since.store(self.stamp(now), Ordering::Relaxed);
        self.pool.note_return(now);
    }

    /// How long it has been in use since it came, or came back; `None` before.
    pub fn in_use_for(&self, now: Instant) -> Option<Duration> {
        let since = Duration::from_millis(self.in_use_since.load(Ordering::Relaxed).checked_sub(1)?);
        Some(now.duration_since(self.known_since).saturating_sub(since))
    }

    fn note_availability(&self, inner: &Inner, now: Instant) {
        let standing = inner.standing();
        let was_available = self.unavailable_since.load(Ordering::Relaxed) == 0;
        if standing.is_available_for_pinned() {
            self.unavailable_since.store(0, Ordering::Relaxed);
            if standing.health == Health::Healthy {
                self.was_healthy.store(true, Ordering::Relaxed);
            }
        } else if was_available {
            self.unavailable_since.store(self.stamp(now), Ordering::Relaxed);
        }
    }

    /// A moment as the atomics keep it: milliseconds since the backend became known, plus one, so that 0 is free.
    fn stamp(&self, at: Instant) -> u64 {
        u64::try_from(at.duration_since(self.known_since).as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    fn publish(&self, inner: &Inner) {
        let turns = inner.drain.as_ref().map(Drain::turns);
        self.drain_since.store(turns.map_or(0, |(since, _)| self.stamp(since)), Ordering::Relaxed);
        self.drain_turned.store(turns.map_or(0.0, |(_, turned)| turned).to_bits(), Ordering::Relaxed);
        self.drain_pace.store(inner.drain.map_or(0.0, |drain| drain.pace.per_second()).to_bits(), Ordering::Relaxed);
        let deadline = inner.drain.and_then(|drain| drain.deadline);
        self.drain_until.store(deadline.map_or(0, |deadline| self.stamp(deadline)), Ordering::Relaxed);
        self.is_drained.store(inner.drain.is_some_and(|drain| drain.drained.is_some()), Ordering::Relaxed);
        let weight = inner.weight();
        let standing = inner.standing().pack();
        let had_weight = self.weight.swap(weight, Ordering::Relaxed) > 0;
        let before = self.standing.swap(standing, Ordering::AcqRel);
        if before != standing || had_weight != (weight > 0) {
            self.pool.note_change();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every holder only assigns plain values, so a poisoned lock still guards a consistent state.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self, change: Change) {
        let (pool, backend) = (&*self.id.pool, &*self.id.name);
        let (from, to) = (change.from.as_str(), change.to.as_str());
        let cause = change.cause;
        let gone = self.standing().memory == Memory::Gone;
        match change.to {
            Health::Unhealthy => tracing::warn!(pool, backend, from, to, cause, gone, "health changed"),
            Health::Starting | Health::Suspect | Health::Healthy => {
                tracing::info!(pool, backend, from, to, cause, "health changed");
            }
        }
        let (pool, backend) = self.names();
        self.events.tell(|| Event::Health { pool, backend, from, to, cause });
    }

    fn names(&self) -> (Arc<str>, Arc<str>) {
        (Arc::clone(&self.id.pool), Arc::clone(&self.id.name))
    }
}

impl Inner {
    fn standing(&self) -> Standing {
        Standing {
            health: self.condition.health(),
            admin: self.admin(),
            memory: self.condition.memory(),
            is_silent: self.condition.is_silent(),
        }
    }

    fn weight(&self) -> u32 {
        self.weight_order.unwrap_or_else(|| self.agent.weight(self.file_weight))
    }

    fn admin(&self) -> AdminState {
        match self.ordered {
            AdminState::Enabled => self.agent.admin(),
            ordered => ordered,
        }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").field("id", &self.id).field("standing", &self.standing()).finish_non_exhaustive()
    }
}
