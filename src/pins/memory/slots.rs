//! Where the pins of a [`Memory`](super::Memory) stand. A pin never moves: it keeps its slot until it goes.
//!
//! Slots come in segments that are made when they are first needed, so memory follows the number of pins without ever
//! copying one.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::thread;

use crate::pins::{PinKey, Record};

/// Slots of a segment: 64 KiB.
pub(super) const SEGMENT: usize = 1024;

/// What [`Slot::state`] says.
const EMPTY: u32 = 0;
const KEPT: u32 = 1;
const DETOURED: u32 = 2;

const _: () = assert!(size_of::<Slot>() == 64);

#[derive(Debug)]
pub(super) struct Slots {
    segments: Box<[OnceLock<Box<[Slot]>>]>,
    max: usize,
}

impl Slots {
    /// Room for `max` pins; takes memory only as they come.
    pub(super) fn new(max: usize) -> Self {
        Self { segments: (0..max.div_ceil(SEGMENT)).map(|_| OnceLock::new()).collect(), max }
    }

    /// One that was made before.
    pub(super) fn at(&self, slot: u32) -> &Slot {
        let slot = slot as usize;
        let segment = self.segments[slot / SEGMENT].get();
        &segment.expect("a slot is named only after it was made")[slot % SEGMENT]
    }

    /// The same, made if need be.
    pub(super) fn make(&self, slot: u32) -> &Slot {
        let first = slot as usize / SEGMENT * SEGMENT;
        self.segments[first / SEGMENT]
            .get_or_init(|| (first..self.max.min(first + SEGMENT)).map(|_| Slot::default()).collect());
        self.at(slot)
    }

    /// All that were made.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.segments.iter().map_while(OnceLock::get).flatten()
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.segments) + self.iter().count() * size_of::<Slot>()
    }
}

/// One pin, in a cache line of its own. Written by one thread at a time, read by anybody.
#[repr(align(64))]
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// Odd while the rest is being written.
    version: AtomicU32,
    state: AtomicU32,
    key: [AtomicU64; 2],
    home: AtomicU64,
    pin: AtomicU64,
    instance: AtomicU32,
    issued: AtomicU32,
    refreshed: AtomicU32,
    detour_since: AtomicU32,
    detour_to: AtomicU64,
}

impl Slot {
    /// Only whoever holds the lock of the store may call it.
    pub(super) fn write(&self, key: PinKey, record: &Record) {
        let (to, since) = record.detour.unwrap_or_default();
        self.change(|slot| {
            slot.key[0].store(key.0 as u64, Ordering::Relaxed);
            slot.key[1].store(key.pin_id(), Ordering::Relaxed);
            slot.home.store(record.home, Ordering::Relaxed);
            slot.pin.store(record.pin, Ordering::Relaxed);
            slot.instance.store(record.instance, Ordering::Relaxed);
            slot.issued.store(record.issued, Ordering::Relaxed);
            slot.refreshed.store(record.refreshed, Ordering::Relaxed);
            slot.detour_since.store(since, Ordering::Relaxed);
            slot.detour_to.store(to, Ordering::Relaxed);
            slot.state.store(if record.detour.is_some() { DETOURED } else { KEPT }, Ordering::Relaxed);
        });
    }

    /// Only whoever holds the lock of the store may call it.
    pub(super) fn clear(&self) {
        self.change(|slot| slot.state.store(EMPTY, Ordering::Relaxed));
    }

    fn change(&self, change: impl FnOnce(&Self)) {
        // The fences keep the change between the two stores, for a reader that compares both.
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        change(self);
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// The pin as it was at one moment.
    ///
    /// A writer is done within nanoseconds, so the second look succeeds, unless the system has just taken the processor
    /// from that writer; then it is left the processor of this thread.
    pub(super) fn read(&self) -> Option<(PinKey, Record)> {
        let mut looks = 0_u32;
        loop {
            let before = self.version.load(Ordering::Acquire);
            let pin = self.look();
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == before {
                return pin;
            }
            looks += 1;
            if looks.is_multiple_of(64) { thread::yield_now() } else { std::hint::spin_loop() }
        }
    }

    /// What stands there, which is a mixture if it is being written.
    fn look(&self) -> Option<(PinKey, Record)> {
        let state = self.state.load(Ordering::Relaxed);
        let [lower, upper] = [&self.key[0], &self.key[1]].map(|half| u128::from(half.load(Ordering::Relaxed)));
        let detour = (self.detour_to.load(Ordering::Relaxed), self.detour_since.load(Ordering::Relaxed));
        let record = Record {
            home: self.home.load(Ordering::Relaxed),
            pin: self.pin.load(Ordering::Relaxed),
            instance: self.instance.load(Ordering::Relaxed),
            issued: self.issued.load(Ordering::Relaxed),
            refreshed: self.refreshed.load(Ordering::Relaxed),
            detour: (state == DETOURED).then_some(detour),
        };
        (state != EMPTY).then_some((PinKey(upper << 64 | lower), record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_gives_back_what_was_written() {
        let slots = Slots::new(3);
        let slot = slots.make(2);
        assert_eq!(slot.read(), None);
        let record = Record { home: u64::MAX, pin: 3, instance: 1, issued: 2, refreshed: u32::MAX, detour: None };
        let key = PinKey(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210);
        for detour in [None, Some((0, 0)), Some((u64::MAX, u32::MAX))] {
            let record = Record { detour, ..record };
            slot.write(key, &record);
            assert_eq!(slot.read(), Some((key, record)));
        }
        slot.clear();
        assert_eq!(slot.read(), None);
        assert_eq!(slots.iter().count(), 3, "no more than was asked for");
    }
}
