//! `maglev`: a table of slots that the backends take in turns.

use std::mem;

use super::Share;
use crate::pool::heir::mix;

/// Slots up to [`FEW`] backends; a prime, and 128 slots a backend at least.
const SLOTS_OF_FEW: u32 = 65_537;

/// Slots beyond; a prime, and 65 slots a backend at 10,000.
const SLOTS_OF_MANY: u32 = 655_373;

/// Backends that share the smaller table.
const FEW: usize = 512;

/// The largest weight.
const MOST: u64 = 1000;

/// Times of turns that are told apart at once: more than lie between two turns of one backend.
const BUCKETS: usize = 1024;

/// The lookup table of Maglev hashing: in every slot the member whose keys they are.
///
/// Every backend prefers the slots in an order of its own, and in each turn takes the first that is still free. Turns are
/// as frequent as the weight says and evenly spaced, so each has its share of the slots but for one: of all keys, 1 in
/// 65,537 or in 655,373.
///
/// A lookup is one multiplication and one load. Memory: 256 KiB up to 512 backends, 2.5 MiB beyond. When a pool grows
/// beyond 512 backends or falls back, nearly all keys move, once. Otherwise, when one of N leaves, its own keys move,
/// 1/N of all, and some others that lose the race for a slot: measured in `hash/tests.rs`, 1.0 times the least at 3 and
/// at 10 backends, 1.5 times at 100, 5.4 times at 500, 4.0 times at 1,000.
///
/// Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", 2016, §3.4; weights by
/// frequency of turns, as Envoy has them.
#[derive(Debug)]
pub struct Maglev {
    /// Indices of members. Empty when there are none.
    slots: Box<[u32]>,
}

impl Maglev {
    /// The home of a key. Constant time.
    pub(super) fn home(&self, key: u64) -> Option<usize> {
        let slot = (u128::from(mix(key)) * self.slots.len() as u128) >> 64;
        self.slots.get(slot as usize).map(|member| *member as usize)
    }

    /// Fills the table. About 20 ms at 10,000 backends, 2 to 4 ms up to 512.
    pub(super) fn new(shares: &[Share]) -> Self {
        if shares.is_empty() {
            return Self { slots: Box::default() };
        }
        let size = if shares.len() <= FEW { SLOTS_OF_FEW } else { SLOTS_OF_MANY };
        let mut slots = vec![0; size as usize].into_boxed_slice();
        let mut taken = vec![0_u64; size as usize / 64 + 1];
        let mut turns = Turns::new(shares);
        let mut orders: Vec<Order> = shares.iter().map(|share| Order::new(share.stable_hash, size)).collect();
        for _ in 0..size {
            let rank = turns.next(shares);
            let slot = orders[rank as usize].first_free(size, |slot| {
                let (word, bit) = (&mut taken[slot as usize / 64], 1 << (slot % 64));
                let is_free = *word & bit == 0;
                *word |= bit;
                is_free
            });
            slots[slot as usize] = shares[rank as usize].member;
        }
        Self { slots }
    }
}

/// The order in which one backend prefers the slots: every so many-th from the first on. As the number of slots is a prime,
/// it comes to all of them.
struct Order {
    next: u32,
    step: u32,
}

impl Order {
    fn new(stable_hash: u64, size: u32) -> Self {
        let first = mix(stable_hash);
        // Both are less than the size, which is a `u32`.
        Self { next: (first % u64::from(size)) as u32, step: (mix(first) % u64::from(size - 1)) as u32 + 1 }
    }

    /// The next slot that could be taken. There must be one.
    fn first_free(&mut self, size: u32, mut take: impl FnMut(u32) -> bool) -> u32 {
        loop {
            let slot = self.next;
            self.next = if slot >= size - self.step { slot - (size - self.step) } else { slot + self.step };
            if take(slot) {
                return slot;
            }
        }
    }
}

/// Whose turn it is. The n-th turn of a backend of weight w is at (n − ½) × 1000 / w, rounded up; at one time, the lowest
/// stable hash is first.
///
/// A calendar: as no backend waits longer than 1000 for its next turn, one bucket a time is enough, used over and over.
/// Constant time a turn.
struct Turns {
    time: u64,
    /// Whose turn it is now, the last one first.
    now: Vec<u32>,
    /// By time, modulo their number.
    buckets: Vec<Vec<u32>>,
    /// Turns that each has had.
    had: Vec<u32>,
}

impl Turns {
    fn new(shares: &[Share]) -> Self {
        let mut this =
            Self { time: 0, now: Vec::new(), buckets: vec![Vec::new(); BUCKETS], had: vec![0; shares.len()] };
        (0..shares.len() as u32).for_each(|rank| this.enter(rank, shares));
        this
    }

    /// The rank among the shares of whoever is next.
    fn next(&mut self, shares: &[Share]) -> u32 {
        while self.now.is_empty() {
            self.time += 1;
            let bucket = &mut self.buckets[self.time as usize % BUCKETS];
            mem::swap(bucket, &mut self.now);
            self.now.sort_unstable_by(|one, other| other.cmp(one));
        }
        let rank = self.now.pop().expect("somebody's turn was found");
        self.had[rank as usize] += 1;
        self.enter(rank, shares);
        rank
    }

    fn enter(&mut self, rank: u32, shares: &[Share]) {
        let (turn, weight) = (u64::from(self.had[rank as usize]), u64::from(shares[rank as usize].weight));
        let time = ((2 * turn + 1) * MOST).div_ceil(2 * weight);
        self.buckets[time as usize % BUCKETS].push(rank);
    }
}
