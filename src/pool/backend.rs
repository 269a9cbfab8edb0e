//! One backend: its identity, and what is known of it for as long as it exists, whatever the file says meanwhile.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use siphasher::sip::SipHasher24;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::active_pins::{ActivePins, Moment, estimate, estimate_left};
use super::agent::{Agent, AgentWord};
use super::condition::{AdminState, Change, Condition, Evidence, Health, Memory, Thresholds};
use super::departures::Departures;
use super::drain::{Drain, DrainOrder, History, time_for};
use super::outliers::Out;
use super::rebalance::Role;
use super::traffic::Traffic;
use crate::config::Pace;
use crate::telemetry::counters::BackendCounters;
use crate::telemetry::events::{Event, Events};

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
    /// What evening out makes of it; see [`super::rebalance`].
    role: AtomicU8,
    /// Since when it sheds, in seconds of the wall clock.
    sheds_since: AtomicU32,
    /// Since when its pinned clients cannot be served, as [`Backend::drain_since`] counts; 0 while they can.
    unavailable_since: AtomicU64,
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
}

struct Inner {
    condition: Condition,
    /// Ordered by the operator.
    ordered: AdminState,
    agent: Agent,
    drain: Option<Drain>,
    history: History,
    file_weight: u32,
    weight_order: Option<u32>,
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
    pub(super) fn new(id: BackendId, serial: u32, workers: usize, events: Events, now: Instant) -> Self {
        let inner = Inner {
            condition: Condition::new(now),
            ordered: AdminState::Enabled,
            agent: Agent::default(),
            drain: None,
            history: History::new(),
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
            role: AtomicU8::new(Role::Settled as u8),
            sheds_since: AtomicU32::new(0),
            unavailable_since: AtomicU64::new(0),
            was_healthy: AtomicBool::new(false),
            pins: (0..workers).map(|_| OnceLock::new()).collect(),
            departures: OnceLock::new(),
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
            self.publish(&inner);
            self.note_availability(&inner, now);
            change
        };
        if let Some(change) = change {
            self.log(change);
            self.changed.notify_waiters();
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

    /// The operator's order. A drain goes at the usual pace; for another see [`Backend::order_drain`].
    pub fn set_admin_state(&self, admin: AdminState, deadline: Option<Instant>, now: Instant) {
        let order = DrainOrder { deadline, pace: Pace::DRAIN };
        self.obey(Voice::Operator(admin), |before| Drain::ordered(before, order, now), now);
    }

    /// The operator's order to drain it. Given again, the deadline and the pace may be new, the drain is not.
    pub fn order_drain(&self, order: DrainOrder, now: Instant) {
        self.obey(Voice::Operator(AdminState::Draining), |before| Drain::ordered(before, order, now), now);
    }

    /// Goes on with a drain that was ordered in an earlier life of this process.
    pub fn restore_drain(&self, order: DrainOrder, now: Instant) {
        let restored = |before| Drain::ordered(before, order, now).restored();
        self.obey(Voice::Operator(AdminState::Draining), restored, now);
    }

    /// What the backend's own agent says; a drain goes at this pace. Whether its weight is another one now.
    pub fn hear_agent(&self, word: AgentWord, pace: Pace, now: Instant) -> bool {
        let before = self.weight();
        let order = DrainOrder { deadline: None, pace };
        self.obey(Voice::Agent(Some(word)), |drain| Drain::ordered(drain, order, now), now);
        self.weight() != before
    }

    /// There is no agent any more: whatever it said ends. Whether the weight is another one now.
    pub fn forget_agent(&self, now: Instant) -> bool {
        let before = self.weight();
        let order = DrainOrder { deadline: None, pace: Pace::DRAIN };
        self.obey(Voice::Agent(None), |drain| Drain::ordered(drain, order, now), now);
        self.weight() != before
    }

    /// What the backend's own agent has said. Takes a lock: not for every request.
    pub fn agent(&self) -> Agent {
        self.lock().agent
    }

    /// The admin state that the operator ordered, whatever the agent says. Takes a lock: not for every request.
    pub fn ordered_admin_state(&self) -> AdminState {
        self.lock().ordered
    }

    fn obey(&self, voice: Voice, drain: impl FnOnce(Option<Drain>) -> Drain, now: Instant) {
        let (from, to) = {
            let mut inner = self.lock();
            let (from, was_ordered) = (inner.admin(), inner.ordered);
            let is_new_order = match voice {
                Voice::Operator(ordered) => {
                    inner.ordered = ordered;
                    if ordered == AdminState::Enabled {
                        inner.agent.overrule();
                    }
                    true
                }
                Voice::Agent(Some(word)) => {
                    inner.agent.hear(word);
                    false
                }
                Voice::Agent(None) => {
                    inner.agent = Agent::default();
                    false
                }
            };
            let to = inner.admin();
            if to != AdminState::Draining {
                inner.drain = None;
            } else if is_new_order || from != AdminState::Draining || was_ordered != inner.ordered {
                inner.drain = Some(drain(inner.drain));
            }
            if from != to {
                inner.history = History::new();
            }
            self.publish(&inner);
            self.note_availability(&inner, now);
            (from, to)
        };
        if from != to {
            let (from, to, by) = (from.as_str(), to.as_str(), voice.as_str());
            tracing::info!(pool = &*self.id.pool, backend = &*self.id.name, from, to, by, "admin state changed");
            let (pool, backend) = self.names();
            self.events.tell(|| Event::AdminState { pool, backend, from, to, by });
        }
        self.changed.notify_waiters();
    }

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

    /// What the file says, if an order or the agent's word stands in for it.
    pub fn stood_in_for_weight(&self) -> Option<u32> {
        let inner = self.lock();
        let is_stood_in_for = inner.weight_order.is_some() || inner.agent.said.weight_percent.is_some();
        is_stood_in_for.then_some(inner.file_weight)
    }

    /// The weight that the operator ordered, and the file's weight it stands in for.
    pub fn weight_order(&self) -> Option<(u32, u32)> {
        let inner = self.lock();
        inner.weight_order.map(|order| (order, inner.file_weight))
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

    /// How long ago a stamped moment was; `None` for one that is yet to come, or was never stamped.
    fn time_since(&self, stamp: u64, now: Instant) -> Option<Duration> {
        let then = Duration::from_millis(stamp.checked_sub(1)?);
        now.duration_since(self.known_since).checked_sub(then)
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
        let weight = inner.weight_order.unwrap_or_else(|| inner.agent.weight(inner.file_weight));
        self.weight.store(weight, Ordering::Relaxed);
        self.standing.store(inner.standing().pack(), Ordering::Release);
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
        Standing { health: self.condition.health(), admin: self.admin(), memory: self.condition.memory() }
    }

    fn admin(&self) -> AdminState {
        match self.ordered {
            AdminState::Enabled => self.agent.admin(),
            ordered => ordered,
        }
    }
}

/// Who says something about a backend's admin state.
#[derive(Clone, Copy)]
enum Voice {
    Operator(AdminState),
    /// `None`: there is none any more.
    Agent(Option<AgentWord>),
}

impl Voice {
    fn as_str(self) -> &'static str {
        match self {
            Self::Operator(_) => "operator",
            Self::Agent(_) => "agent",
        }
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
    use crate::telemetry::events::Heard;

    const IDLE: Duration = Duration::from_secs(1800);

    fn backend(now: Instant) -> Backend {
        Backend::new(BackendId { pool: "shop".into(), name: "app1".into() }, 0, 2, Events::default(), now)
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
    fn pins_take_their_turn_at_the_pace_of_the_order_and_again_from_the_deadline_on() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let backend = backend(start);
        let pace = "10%/s".parse().expect("a pace");
        backend.order_drain(DrainOrder { deadline: Some(at(100)), pace }, at(50));
        let share = |is: &dyn Fn(u64) -> bool| (0..1000_u64).filter(|pin| is(*pin)).count();
        for (now, turned, over) in [(50, 0, 0), (52, 200, 0), (60, 1000, 0), (100, 1000, 0), (105, 1000, 500)] {
            let counts = [
                share(&|pin| backend.is_turn_to_leave(pin, at(now))),
                share(&|pin| backend.is_drain_over(pin, at(now))),
            ];
            let is_near = |counted: usize, expected: usize| counted.abs_diff(expected) <= 40;
            assert!(is_near(counts[0], turned) && is_near(counts[1], over), "{counts:?} at {now}");
        }
        for pin in 0..100 {
            let over_at = backend.drain_over_at(Some(pin)).expect("a deadline");
            let tick = Duration::from_millis(1);
            assert!(backend.is_drain_over(pin, over_at + tick) && !backend.is_drain_over(pin, over_at - tick));
        }
        assert_eq!(backend.drain_over_at(None).map(|over| over.duration_since(start).as_secs()), Some(100));
        backend.set_admin_state(AdminState::Enabled, None, at(106));
        assert!(!backend.is_turn_to_leave(1, at(900)) && !backend.is_drain_over(1, at(900)));
        assert_eq!(backend.drain_over_at(None), None);
    }

    #[tokio::test]
    async fn a_drain_ends_when_nobody_is_left_and_goes_on_when_somebody_comes() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let backend = backend(start);
        let drained = |now| {
            backend.count_active_pins(now, IDLE);
            backend.note_drain_progress(IDLE, now);
            assert_eq!(backend.is_drained(), backend.drain().is_some_and(|drain| drain.drained.is_some()));
            backend.drain().and_then(|drain| drain.drained)
        };
        assert_eq!(drained(at(1)), None, "nobody is there, but no drain either");
        backend.record_pin(0, 1, at(1), IDLE);
        backend.set_admin_state(AdminState::Draining, None, at(2));
        assert_eq!(drained(at(3)), None, "one is left");
        backend.note_departure(1, at(4), IDLE);
        backend.begin_request();
        assert_eq!(drained(at(5)), None, "one request is under way");
        backend.end_request();
        let mut listener = backend.events.listen();
        assert_eq!(drained(at(6)), Some(at(6)));
        assert_eq!(drained(at(7)), Some(at(6)));
        backend.begin_request();
        assert_eq!(drained(at(7)), Some(at(6)), "a single request is no client");
        backend.end_request();
        backend.record_pin(1, 2, at(8), IDLE);
        assert_eq!(drained(at(9)), None);
        backend.note_departure(2, at(10), IDLE);
        assert_eq!(drained(at(11)), Some(at(11)));
        backend.set_admin_state(AdminState::Disabled, None, at(12));
        assert!(!backend.is_drained());
        for name in ["drained", "drained", "admin_state"] {
            let Some(Heard::Event(entry)) = listener.next().await else { panic!("nothing was missed") };
            assert_eq!(entry.event.name(), name);
        }
    }

    #[test]
    fn the_operators_order_wins_over_the_agent_and_an_agents_drain_is_a_drain_like_any_other() {
        let now = Instant::now();
        let backend = backend(now);
        backend.set_file_weight(100);
        let mut listener = backend.events.listen();
        let says = |admin| AgentWord { admin: Some(admin), weight_percent: None };
        let pace = "1%/s".parse().expect("a pace");
        let states = || (backend.standing().admin, backend.ordered_admin_state());

        assert!(!backend.hear_agent(says(AdminState::Draining), pace, now));
        assert_eq!(states(), (AdminState::Draining, AdminState::Enabled));
        assert_eq!(backend.drain().map(|drain| (drain.pace, drain.deadline)), Some((pace, None)));
        let deadline = Some(now + Duration::from_secs(60));
        backend.set_admin_state(AdminState::Draining, deadline, now);
        backend.hear_agent(says(AdminState::Disabled), pace, now);
        assert_eq!(states(), (AdminState::Draining, AdminState::Draining), "the order wins");
        assert_eq!(
            backend.drain().and_then(|drain| drain.deadline),
            deadline,
            "what the agent repeats is no new order"
        );

        backend.set_admin_state(AdminState::Enabled, None, now);
        assert_eq!(states().0, AdminState::Enabled, "enabling counts against what the agent says now");
        backend.hear_agent(says(AdminState::Draining), pace, now);
        assert_eq!(states().0, AdminState::Draining);
        assert!(!backend.forget_agent(now));
        assert_eq!((states().0, backend.drain()), (AdminState::Enabled, None));

        assert!(backend.hear_agent(AgentWord { admin: None, weight_percent: Some(50) }, pace, now));
        assert_eq!(backend.weight(), 50);
        backend.order_weight(Some(80));
        assert_eq!(backend.weight(), 80, "the order wins");
        backend.order_weight(None);
        assert!(backend.forget_agent(now));
        assert_eq!(backend.weight(), 100);

        let mut told = Vec::new();
        while let Some(Some(Heard::Event(entry))) = futures_now(listener.next()) {
            if let Event::AdminState { to, by, .. } = entry.event {
                told.push((to, by));
            }
        }
        let expected = [("draining", "agent"), ("enabled", "operator"), ("draining", "agent"), ("enabled", "agent")];
        assert_eq!(told, expected);
    }

    /// What a future gives without waiting.
    fn futures_now<T>(future: impl Future<Output = T>) -> Option<T> {
        let mut future = std::pin::pin!(future);
        match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn a_drain_of_an_earlier_life_waits_for_clients_it_has_not_seen() {
        let start = Instant::now();
        let backend = backend(start);
        backend.restore_drain(DrainOrder { deadline: None, pace: Pace::DRAIN }, start);
        backend.note_drain_progress(IDLE, start + IDLE);
        assert!(!backend.is_drained());
        backend.note_drain_progress(IDLE, start + IDLE * 5 / 4);
        assert!(backend.is_drained());
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
