//! What requests read of a pool as a whole, in one load each, and who keeps it up to date.
//!
//! Backends say when something about them changed; the control plane then works out the pool's [`Spread`] anew, so that no
//! request ever looks at all members for it. It is a moment behind the backends at worst, which costs a pick a second
//! look and never a wrong answer: whoever picks looks at the backends themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::slow_start::Warming;
use super::spread::{Panic, Spread};
use super::{Health, Member};
use crate::telemetry::events::{Event, Events};

/// One pool's; outlives reloads.
#[derive(Debug)]
pub struct PoolState {
    name: Arc<str>,
    events: Events,
    /// See [`Spread::pack`].
    spread: AtomicU32,
    /// When one of its backends last came into use, in milliseconds after `known_since` plus one; 0 before the first.
    last_return: AtomicU64,
    /// When one of its backends last began or ceased to be whom others' clients may go to, or was ordered another weight,
    /// likewise.
    last_heirs: AtomicU64,
    /// When one of its backends was last ordered another weight, likewise.
    last_weights: AtomicU64,
    known_since: Instant,
    /// A backend changed since [`PoolState::take_change`].
    is_stale: AtomicBool,
    /// Notified with it; one for all pools.
    changed: Arc<Notify>,
}

impl PoolState {
    pub(super) fn new(name: Arc<str>, events: Events, changed: Arc<Notify>, now: Instant) -> Self {
        Self {
            name,
            events,
            spread: AtomicU32::new(Spread::FIRST_TIER.pack()),
            last_return: AtomicU64::new(0),
            last_heirs: AtomicU64::new(0),
            last_weights: AtomicU64::new(0),
            known_since: now,
            is_stale: AtomicBool::new(false),
            changed,
        }
    }

    /// Over whom new clients are spread. One load.
    pub fn spread(&self) -> Spread {
        // Relaxed: a hint, see above.
        Spread::unpack(self.spread.load(Ordering::Relaxed))
    }

    /// `Some` while somebody may be warming. One load and a comparison with slow start; nothing without.
    pub fn warming(&self, slow_start: Duration, now: Instant) -> Option<Warming> {
        if slow_start.is_zero() {
            return None;
        }
        let since = Duration::from_millis(self.last_return.load(Ordering::Relaxed).checked_sub(1)?);
        let ago = now.duration_since(self.known_since).saturating_sub(since);
        (ago < slow_start).then(|| Warming::new(slow_start, now))
    }

    /// Works out over whom new clients are spread; panic that begins or ends is said here, once. O(N), control plane only.
    pub fn follow(&self, members: &[Member], panic_below: f64) {
        let spread = Spread::of(members, panic_below);
        let before = Spread::unpack(self.spread.swap(spread.pack(), Ordering::Relaxed));
        let pool = &*self.name;
        if before.tier != spread.tier {
            tracing::info!(pool, from = before.tier, to = spread.tier, "the tier in use changed");
        }
        if before.is_panicking() == spread.is_panicking() {
            return;
        }
        let unhealthy = members.iter().filter(|member| member.backend.standing().health == Health::Unhealthy).count();
        let backends = members.len();
        if spread.is_panicking() {
            tracing::warn!(pool, unhealthy, backends, "panicking: health is ignored for spreading new clients");
        } else {
            tracing::info!(pool, unhealthy, backends, "no longer panicking");
        }
        self.events.tell(|| Event::Panic { pool: Arc::clone(&self.name), panicking: spread.is_panicking() });
    }

    /// Whether a backend changed since this was last asked. Ask before looking at the backends.
    pub fn take_change(&self) -> bool {
        // Acquire pairs with the release in `note_change`: the backend's change is seen with it.
        self.is_stale.swap(false, Ordering::Acquire)
    }

    /// To be called after a backend published a change.
    pub(super) fn note_change(&self) {
        self.is_stale.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// One of its backends comes into use.
    pub(crate) fn note_return(&self, now: Instant) {
        self.last_return.fetch_max(self.stamp(now), Ordering::Relaxed);
    }

    /// A client may have another heir from now on.
    pub(crate) fn note_heirs(&self, now: Instant) {
        self.last_heirs.fetch_max(self.stamp(now), Ordering::Relaxed);
    }

    /// The same, because a backend has another weight.
    pub(crate) fn note_weights(&self, now: Instant) {
        self.last_weights.fetch_max(self.stamp(now), Ordering::Relaxed);
        self.note_heirs(now);
    }

    /// For how long every client has had the same heir, as far as its backends' states and ordered weights go.
    pub fn heirs_stand_for(&self, now: Instant) -> Duration {
        self.time_since(&self.last_heirs, now)
    }

    /// For how long no other weight was ordered.
    pub fn weights_stand_for(&self, now: Instant) -> Duration {
        self.time_since(&self.last_weights, now)
    }

    fn time_since(&self, stamp: &AtomicU64, now: Instant) -> Duration {
        let since = Duration::from_millis(stamp.load(Ordering::Relaxed).saturating_sub(1));
        now.duration_since(self.known_since).saturating_sub(since)
    }

    fn stamp(&self, at: Instant) -> u64 {
        u64::try_from(at.duration_since(self.known_since).as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    #[cfg(test)]
    pub(crate) fn for_tests(now: Instant) -> Self {
        Self::new("shop".into(), Events::default(), Arc::default(), now)
    }
}

impl Panic {
    /// Whether nobody is available.
    pub fn is_total(self) -> bool {
        self == Self::NobodyLeft
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{BackendId, Evidence, Failure, Registry, Thresholds, testing};
    use crate::telemetry::events::Heard;

    const ONCE: Thresholds = Thresholds { healthy_after: 1, unhealthy_after: 1 };

    fn members(registry: &Registry, now: Instant) -> Vec<Member> {
        let member = |name: &str| {
            let backend = registry.backend(&BackendId { pool: "shop".into(), name: name.into() }, now);
            backend.observe(Evidence::ProbeOk, ONCE, now);
            testing::member(backend)
        };
        ["a", "b", "c", "d"].map(member).to_vec()
    }

    #[tokio::test]
    async fn panic_that_begins_and_ends_is_told_once_each() {
        let (events, now) = (Events::default(), Instant::now());
        let registry = Registry::telling(1, events.clone());
        let members = members(&registry, now);
        let state = registry.pool_state(&"shop".into(), now);
        let mut listener = events.listen();
        let mut told = Vec::new();
        let fail = Evidence::ProbeFailed(Failure::Silent);
        for (member, evidence, panicking) in
            [(0, fail, false), (1, fail, false), (2, fail, true), (3, fail, true), (3, Evidence::ProbeOk, true)]
        {
            members[member].backend.observe(evidence, ONCE, now);
            registry.changed().await;
            assert!(state.take_change());
            state.follow(&members, 0.3);
            assert_eq!(state.spread().is_panicking(), panicking, "{member}");
        }
        members[2].backend.observe(Evidence::ProbeOk, ONCE, now);
        state.follow(&members, 0.3);
        state.follow(&members, 0.3);
        events.tell(|| Event::Reload(Ok(1)));
        loop {
            let Some(Heard::Event(entry)) = listener.next().await else { panic!("nothing was missed") };
            match &entry.event {
                Event::Panic { pool, panicking } => told.push((pool.to_string(), *panicking)),
                Event::Reload(_) => break,
                _ => {}
            }
        }
        assert_eq!(told, [("shop".to_owned(), true), ("shop".to_owned(), false)]);
    }

    #[test]
    fn nobody_asks_who_is_warming_when_nobody_came_lately() {
        let (registry, start) = (Registry::new(1), Instant::now());
        let state = registry.pool_state(&"shop".into(), start);
        let slow = Duration::from_secs(30);
        assert!(state.warming(slow, start).is_none());
        let members = members(&registry, start);
        assert!(state.warming(slow, start).is_some());
        assert!(state.warming(Duration::ZERO, start).is_none());
        assert!(state.warming(slow, start + slow).is_none());
        members[0].backend.begin_warming(start + slow * 2);
        assert!(state.warming(slow, start + slow * 2).is_some());
    }
}
