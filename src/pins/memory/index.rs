//! Which slot of a [`Memory`](super::Memory) holds the pin of a key.
//!
//! Each key has two buckets of 16 entries, a cache line each, and its entry goes into the emptier one. An entry never
//! moves, so a reader misses none. There is no growing: a larger index is made beside, and takes the place of this one.
//!
//! Source: balanced allocations (Azar, Broder, Karlin and Upfal, 1994). While no more than three quarters of the entries
//! are taken, that neither bucket has room is a matter of one in 10^15 insertions.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::pins::PinKey;

const BUCKET: usize = 16;

/// Entries of the smallest index: 4 KiB.
const SMALLEST: usize = 1024;

#[derive(Debug)]
pub(super) struct Index {
    /// A power of two, at least two.
    buckets: Box<[Bucket]>,
    /// The lower bits of an entry: the slot's number, plus one. The rest are bits of the key's hash, so that the slots of
    /// other keys are hardly ever looked at.
    slot_bits: u32,
}

/// An entry is 0 when free.
#[repr(align(64))]
#[derive(Debug, Default)]
struct Bucket([AtomicU32; BUCKET]);

/// Where the entry of a key may be, and what it looks like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    first: u32,
    /// An odd number, so that the second bucket is never the first.
    to_second: u32,
}

impl Place {
    pub(super) fn of(key: PinKey) -> Self {
        // The key is a keyed hash already; this is for keys that are not, as in tests.
        let hash = (key.0 as u64 ^ key.pin_id().rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self { first: hash as u32, to_second: (hash >> 32) as u32 | 1 }
    }
}

impl Index {
    /// An empty one with room for this many pins, of the slots below `max_pins`.
    pub(super) fn new(pins: usize, max_pins: usize) -> Self {
        let entries = (pins.saturating_mul(4).div_ceil(3)).next_power_of_two().max(SMALLEST);
        let buckets = (0..entries / BUCKET).map(|_| Bucket::default()).collect();
        Self { buckets, slot_bits: usize::BITS - max_pins.leading_zeros() }
    }

    /// How many pins it has room for.
    pub(super) fn capacity(&self) -> usize {
        self.buckets.len() * BUCKET / 4 * 3
    }

    /// The slots that may hold the key of this place: its own and, rarely, another one's.
    ///
    /// On the request path: two cache lines at most.
    pub(super) fn candidates(&self, place: Place) -> impl Iterator<Item = u32> {
        let slot_mask = self.slot_mask();
        // Acquire: what was written to the slot before it got its entry is seen.
        let entries = self.entries(place).map(|entry| entry.load(Ordering::Acquire));
        entries.filter_map(move |entry| {
            let is_alike = (entry ^ place.first) & !slot_mask == 0;
            (entry & slot_mask).checked_sub(1).filter(|_| is_alike)
        })
    }

    /// All slots in the two buckets of this place, whosever they are.
    pub(super) fn neighbours(&self, place: Place) -> impl Iterator<Item = u32> {
        self.entries(place).filter_map(|entry| (entry.load(Ordering::Relaxed) & self.slot_mask()).checked_sub(1))
    }

    /// Whether there is no room for another pin of this place.
    pub(super) fn is_full(&self, place: Place) -> bool {
        self.entries(place).all(|entry| entry.load(Ordering::Relaxed) != 0)
    }

    /// Whether there was room. Only whoever holds the lock of the store may call it.
    #[must_use]
    pub(super) fn insert(&self, place: Place, slot: u32) -> bool {
        let [first, second] = self.buckets(place);
        let bucket = if second.taken() < first.taken() { second } else { first };
        let Some(free) = bucket.0.iter().find(|entry| entry.load(Ordering::Relaxed) == 0) else { return false };
        free.store(self.entry(place, slot), Ordering::Release);
        true
    }

    /// Only whoever holds the lock of the store may call it.
    pub(super) fn remove(&self, place: Place, slot: u32) {
        let gone = self.entry(place, slot);
        let entry = self.entries(place).find(|entry| entry.load(Ordering::Relaxed) == gone);
        entry.expect("a pin that is kept has an entry").store(0, Ordering::Release);
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.buckets)
    }

    /// How many entries are taken.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.buckets.iter().map(Bucket::taken).sum()
    }

    fn buckets(&self, place: Place) -> [&Bucket; 2] {
        let mask = self.buckets.len() - 1;
        [place.first, place.first ^ place.to_second].map(|hash| &self.buckets[hash as usize & mask])
    }

    fn entries(&self, place: Place) -> impl Iterator<Item = &AtomicU32> {
        self.buckets(place).into_iter().flat_map(|bucket| &bucket.0)
    }

    fn entry(&self, place: Place, slot: u32) -> u32 {
        place.first & !self.slot_mask() | (slot + 1)
    }

    fn slot_mask(&self) -> u32 {
        (1 << self.slot_bits) - 1
    }
}

impl Bucket {
    fn taken(&self) -> usize {
        self.0.iter().filter(|entry| entry.load(Ordering::Relaxed) != 0).count()
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    #[test]
    fn an_index_takes_as_many_pins_as_it_says_and_names_each() {
        for (seed, pins) in [(1, 768), (2, 10_000), (3, 98_304)] {
            let (mut rng, index) = (Rng::with_seed(seed), Index::new(pins, pins));
            assert!((pins..=2 * pins).contains(&index.capacity()), "{}", index.capacity());
            let places: Vec<_> = (0..pins).map(|_| Place::of(PinKey(rng.u128(..)))).collect();
            for (slot, &place) in (0..).zip(&places) {
                assert!(index.insert(place, slot), "no room at {slot} of {pins}, seed {seed}");
            }
            let named: usize = places.iter().map(|&place| index.candidates(place).count()).sum();
            for (slot, &place) in (0..).zip(&places) {
                assert!(index.candidates(place).any(|candidate| candidate == slot));
                index.remove(place, slot);
                assert!(index.candidates(place).all(|candidate| candidate != slot));
            }
            println!("{pins} pins: {named} candidates");
            assert!(named <= pins + pins / 50, "{named} candidates of {pins} pins");
        }
    }
}
