//! Counters of the request path: one shard a worker, written by that worker alone, added up when somebody looks.
//!
//! A shard's counter is an atomic only so that the control plane may read it; its single writer needs no locked
//! instruction, and no two workers write to one cache line.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::words::{PinVerdict, Placement, RehomeReason, RetryReason};

/// Status codes counted one by one; any other counts under its class.
pub const CODES: [u16; 32] = [
    101, 200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 408, 409, 410, 411, 413, 415,
    422, 429, 431, 499, 500, 501, 502, 503, 504,
];

/// Labels of the classes that follow [`CODES`].
pub const CODE_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Upper bounds of the buckets of `request_duration_seconds`, in microseconds.
pub const DURATION_BOUNDS_US: [u64; 16] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000,
];

/// Pairs of backends that [`PoolCounters`] keeps apart in `rehomes_total`; beyond it they count as `other`.
const REHOME_PAIRS: usize = 4096;

/// A counter with a single writer.
#[derive(Debug, Default)]
pub struct Single(AtomicU64);

impl Single {
    /// Adds without a locked instruction; only the shard's own worker may call it.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }

    /// The value as of some moment ago.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One worker's counters of one backend, alone on its cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct BackendShard {
    codes: CodeTable,
    /// Connections opened.
    pub connections_new: Single,
    /// Requests sent over a connection that was already open.
    pub connections_reused: Single,
}

#[derive(Debug)]
struct CodeTable([Single; CODES.len() + CODE_CLASSES.len()]);

impl Default for CodeTable {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Single::default()))
    }
}

impl BackendShard {
    /// Counts one reply.
    pub fn replied(&self, code: u16) {
        self.codes.0[code_index(code)].add(1);
    }
}

/// Where a code is counted. The common ones come first in a `match`, which compiles to a jump.
fn code_index(code: u16) -> usize {
    match CODES.binary_search(&code) {
        Ok(index) => index,
        Err(_) => CODES.len() + (usize::from(code / 100).clamp(1, 5) - 1),
    }
}

/// Counters of one backend.
#[derive(Debug)]
pub struct BackendCounters {
    shards: Box<[BackendShard]>,
}

impl BackendCounters {
    /// Zeroes, for this many workers.
    pub fn new(workers: usize) -> Self {
        Self { shards: (0..workers).map(|_| BackendShard::default()).collect() }
    }

    /// The shard of one worker.
    pub fn shard(&self, worker: usize) -> &BackendShard {
        &self.shards[worker]
    }

    /// Replies by code label; only labels that occurred.
    pub fn replies(&self) -> Vec<(String, u64)> {
        (0..CODES.len() + CODE_CLASSES.len())
            .map(|index| {
                let label = CODES
                    .get(index)
                    .map_or_else(|| CODE_CLASSES[index - CODES.len()].to_owned(), |code| code.to_string());
                (label, self.shards.iter().map(|shard| shard.codes.0[index].value()).sum())
            })
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Connections opened, and requests sent over an open one.
    pub fn connections(&self) -> (u64, u64) {
        let sum = |of: fn(&BackendShard) -> &Single| self.shards.iter().map(|shard| of(shard).value()).sum();
        (sum(|shard| &shard.connections_new), sum(|shard| &shard.connections_reused))
    }
}

/// One worker's counters of one pool, alone on its cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct PoolShard {
    placements: [Single; Placement::ALL.len()],
    verdicts: [Single; PinVerdict::ALL.len()],
    retries: [Single; RetryReason::ALL.len()],
    durations: [Single; DURATION_BOUNDS_US.len() + 1],
    duration_sum_us: Single,
    /// Pins whose session was lost with their home.
    pub sessions_lost: Single,
    /// Replies made by Stickpin itself because no backend gave one, by code.
    own_replies: CodeTable,
}

impl PoolShard {
    /// Counts where a request went.
    pub fn placed(&self, placement: Placement) {
        self.placements[placement.index()].add(1);
    }

    /// Counts what a pin turned out to be.
    pub fn judged(&self, verdict: PinVerdict) {
        self.verdicts[verdict as usize].add(1);
    }

    /// Counts one attempt after the first.
    pub fn retried(&self, reason: RetryReason) {
        self.retries[reason as usize].add(1);
    }

    /// Counts one finished request.
    pub fn took(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.durations[DURATION_BOUNDS_US.partition_point(|bound| *bound < us)].add(1);
        self.duration_sum_us.add(us);
    }

    /// Counts a reply that Stickpin made itself.
    pub fn replied_itself(&self, code: u16) {
        self.own_replies.0[code_index(code)].add(1);
    }
}

/// Counters of one pool.
#[derive(Debug)]
pub struct PoolCounters {
    shards: Box<[PoolShard]>,
    /// Rare, so a lock is good enough: a pin moves once, and its next request does not come here again.
    rehomes: Mutex<HashMap<RehomeLabels, u64>>,
}

/// From, to, reason.
type RehomeLabels = (Arc<str>, Arc<str>, RehomeReason);

impl PoolCounters {
    /// Zeroes, for this many workers.
    pub fn new(workers: usize) -> Self {
        Self { shards: (0..workers).map(|_| PoolShard::default()).collect(), rehomes: Mutex::default() }
    }

    /// The shard of one worker.
    pub fn shard(&self, worker: usize) -> &PoolShard {
        &self.shards[worker]
    }

    /// Counts one moved pin.
    pub fn rehomed(&self, from: &Arc<str>, to: &Arc<str>, reason: RehomeReason) {
        let mut rehomes = self.rehomes.lock().unwrap_or_else(PoisonError::into_inner);
        let labels = (Arc::clone(from), Arc::clone(to), reason);
        if rehomes.len() < REHOME_PAIRS || rehomes.contains_key(&labels) {
            *rehomes.entry(labels).or_default() += 1;
        } else {
            *rehomes.entry(("other".into(), "other".into(), reason)).or_default() += 1;
        }
    }

    /// Moved pins by from, to and reason.
    pub fn rehomes(&self) -> Vec<(RehomeLabels, u64)> {
        let rehomes = self.rehomes.lock().unwrap_or_else(PoisonError::into_inner);
        rehomes.iter().map(|(labels, count)| (labels.clone(), *count)).collect()
    }

    /// Requests by placement, in the order of [`Placement::ALL`].
    pub fn placements(&self) -> [u64; Placement::ALL.len()] {
        std::array::from_fn(|index| self.sum(|shard| &shard.placements[index]))
    }

    /// Pins by verdict, in the order of [`PinVerdict::ALL`].
    pub fn verdicts(&self) -> [u64; PinVerdict::ALL.len()] {
        std::array::from_fn(|index| self.sum(|shard| &shard.verdicts[index]))
    }

    /// Retries by reason, in the order of [`RetryReason::ALL`].
    pub fn retries(&self) -> [u64; RetryReason::ALL.len()] {
        std::array::from_fn(|index| self.sum(|shard| &shard.retries[index]))
    }

    /// Requests by duration, one bucket for each bound of [`DURATION_BOUNDS_US`] and one beyond; not cumulative.
    pub fn durations(&self) -> [u64; DURATION_BOUNDS_US.len() + 1] {
        std::array::from_fn(|index| self.sum(|shard| &shard.durations[index]))
    }

    /// Sum of all durations.
    pub fn duration_sum(&self) -> Duration {
        Duration::from_micros(self.sum(|shard| &shard.duration_sum_us))
    }

    /// Pins whose session was lost with their home.
    pub fn sessions_lost(&self) -> u64 {
        self.sum(|shard| &shard.sessions_lost)
    }

    /// Replies made by Stickpin itself, by code; only codes that occurred.
    pub fn own_replies(&self) -> Vec<(u16, u64)> {
        CODES
            .into_iter()
            .enumerate()
            .map(|(index, code)| (code, self.sum(|shard| &shard.own_replies.0[index])))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    fn sum<'a>(&'a self, of: impl Fn(&'a PoolShard) -> &'a Single) -> u64 {
        self.shards.iter().map(|shard| of(shard).value()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_sorted_so_that_a_code_is_found() {
        assert!(CODES.is_sorted());
        for code in CODES {
            assert_eq!(CODES[code_index(code)], code);
        }
        assert_eq!(code_index(299), CODES.len() + 1);
        assert_eq!(code_index(999), CODES.len() + 4);
        assert_eq!(code_index(0), CODES.len());
    }

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        let counters = PoolCounters::new(2);
        counters.shard(0).took(Duration::from_micros(250));
        counters.shard(1).took(Duration::from_micros(251));
        counters.shard(1).took(Duration::from_secs(31));
        let durations = counters.durations();
        assert_eq!((durations[0], durations[1], durations[DURATION_BOUNDS_US.len()]), (1, 1, 1));
        assert_eq!(counters.duration_sum(), Duration::from_micros(31_000_501));
    }

    #[test]
    fn rehomes_between_too_many_pairs_are_counted_together() {
        let counters = PoolCounters::new(1);
        let to: Arc<str> = "to".into();
        for n in 0..REHOME_PAIRS + 10 {
            counters.rehomed(&n.to_string().into(), &to, RehomeReason::Gone);
        }
        assert_eq!(counters.rehomes().len(), REHOME_PAIRS + 1);
        assert_eq!(counters.rehomes().iter().map(|(_, count)| count).sum::<u64>(), REHOME_PAIRS as u64 + 10);
    }
}
