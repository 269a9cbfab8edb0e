//! The pins of one pool in this process, with what is counted about them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::SystemTime;

use super::memory::Memory;
use super::{Owner, PinKey, Record};
use crate::clock::unix_seconds;

/// How long pins live, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A pin not refreshed for longer is expired.
    pub idle_timeout: u32,
    /// A pin issued longer ago is expired, used or not.
    pub max_lifetime: u32,
}

impl Limits {
    /// How long a pin still lives if it is not used again; `None` when it is expired.
    ///
    /// A time in the future is taken as now: clocks are set back, and replicas differ by a little.
    pub(super) fn remaining(self, record: &Record, now: u32) -> Option<u32> {
        let idle = self.idle_timeout.checked_sub(now.saturating_sub(record.refreshed))?;
        let life = self.max_lifetime.checked_sub(now.saturating_sub(record.issued))?;
        Some(idle.min(life))
    }
}

/// One pool's pins in memory, and its counters.
#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) pool: Arc<str>,
    pub(super) memory: Memory,
    /// Whether moves that are told by others are kept even of pins that are not known here: where session ids name their home
    /// by themselves, nothing but a move is ever stored.
    pub(super) follows_moves: AtomicBool,
    /// The last ones seen, both in one: a reload may change them, and pins found in the shared store come without.
    limits: AtomicU64,
    pub(super) pending: AtomicUsize,
    pub(super) dropped: AtomicU64,
    pub(super) lookups_timed_out: AtomicU64,
}

impl Shelf {
    pub(super) fn new(pool: &Arc<str>, memory: Memory) -> Self {
        Self {
            pool: Arc::clone(pool),
            memory,
            follows_moves: AtomicBool::new(false),
            limits: AtomicU64::new(u64::MAX),
            pending: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            lookups_timed_out: AtomicU64::new(0),
        }
    }

    /// Keeps a pin in memory.
    pub(super) fn put(&self, key: PinKey, record: Record, owner: Owner, limits: Limits) {
        let now = unix_seconds(SystemTime::now());
        self.remember(limits);
        self.memory.put(key, record, owner, |record| limits.remaining(record, now).is_none());
    }

    /// Keeps a pin that was made just now, unless there is a good one under this key, and gives what is there then.
    pub(super) fn claim(&self, key: PinKey, record: Record, owner: Owner, limits: Limits) -> Record {
        self.remember(limits);
        self.memory.claim(key, record, owner, |known| limits.remaining(known, record.refreshed).is_none())
    }

    /// Forgets a pin that has expired. What others know of it would not take its place.
    pub(super) fn drop_expired(&self, key: PinKey, limits: Limits, now: u32) {
        if self.memory.get(key).is_some_and(|record| limits.remaining(&record, now).is_none()) {
            self.memory.remove(key);
        }
    }

    /// Keeps what another replica knows of a pin. Whose it is is not known here, so it counts as a client of its own.
    pub(super) fn put_from_elsewhere(&self, key: PinKey, record: Record) {
        self.put(key, record, owner_of(key), self.limits());
    }

    pub(super) fn limits(&self) -> Limits {
        let both = self.limits.load(Relaxed);
        Limits { idle_timeout: (both >> 32) as u32, max_lifetime: both as u32 }
    }

    fn remember(&self, limits: Limits) {
        let both = u64::from(limits.idle_timeout) << 32 | u64::from(limits.max_lifetime);
        // They change at a reload only, so the cache line stays shared.
        if self.limits.load(Relaxed) != both {
            self.limits.store(both, Relaxed);
        }
    }
}

/// For a pin whose client is not known.
pub(super) fn owner_of(key: PinKey) -> Owner {
    Owner(key.0 as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_lives_until_it_is_idle_or_old_whichever_comes_first() {
        let limits = Limits { idle_timeout: 100, max_lifetime: 1000 };
        for (issued, refreshed, now, expected) in [
            (5000, 5000, 5000, Some(100)),
            (5000, 5000, 5040, Some(60)),
            (5000, 5000, 5100, Some(0)),
            (5000, 5000, 5101, None),
            (5000, 5950, 5960, Some(40)),
            (5000, 6000, 6001, None),
            (5000, 5000, 4990, Some(100)),
            (0, 0, u32::MAX, None),
        ] {
            let record = Record { home: 1, pin: 0, instance: 0, issued, refreshed, detour: None };
            assert_eq!(limits.remaining(&record, now), expected, "issued {issued}, refreshed {refreshed}, at {now}");
        }
    }

    #[test]
    fn the_last_limits_seen_are_used_for_pins_that_come_without() {
        let shelf = Shelf::new(&"shop".into(), Memory::new(10, 10));
        assert_eq!(shelf.limits(), Limits { idle_timeout: u32::MAX, max_lifetime: u32::MAX });
        let limits = Limits { idle_timeout: 7, max_lifetime: 9 };
        let record = Record { home: 1, pin: 0, instance: 0, issued: 1, refreshed: 1, detour: None };
        shelf.put(PinKey(1), record, Owner(1), limits);
        assert_eq!(shelf.limits(), limits);
    }
}
