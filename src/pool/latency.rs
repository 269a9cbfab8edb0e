//! How long a backend takes to begin a reply: the measure that `balance: peak_ewma` goes by.
//!
//! A peak-sensitive average: it takes on a slower reply at once, and comes down from it with time. Failures are counted as
//! slow, or a backend that fails at once would look like the fastest and attract everybody.
//!
//! It is kept with the backend, not by each worker. With several workers each sees a part of the replies only, so its
//! own average would be older and noisier by their number, and would be gone with every snapshot; and the cache line
//! that it would spare is shared anyway, by the count of requests in flight, which every request of every worker writes
//! twice. One atomic exchange a reply, in pools with this `balance` only.
//!
//! Sources: Twitter's Finagle, `PeakEwma.scala`, from which tower's `load/peak_ewma.rs` descends; the penalty for
//! failures from linkerd, where a fast-failing endpoint attracted traffic. Other than theirs, an old measure does not fade
//! to nothing, which would flood a backend that nobody has asked for long; see [`weigh`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Time after which a measure counts a third (1/e) of what it did. Finagle's and linkerd's default.
const MEMORY: Duration = Duration::from_secs(10);

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a reply.
    Replied,
    /// With a failure, or a reply that says so: it counts as slow. A reply may take this long in the pool.
    Failed {
        /// `timeouts.first_byte`.
        limit: Duration,
    },
}

/// The measure of one backend. Empty until the first reply.
#[derive(Debug, Default)]
pub(super) struct Latency {
    /// The average as the bits of an `f32` in seconds, never 0, and below them when that was, in milliseconds of
    /// the backend's own time, modulo 49 days. All 0: never measured.
    known: AtomicU64,
}

/// What is known of a backend's latency at a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measure {
    /// Seconds, as last measured.
    pub seconds: f64,
    /// How much of that still counts: 1 for a measure of this moment, falling to 0.
    pub freshness: f64,
}

impl Latency {
    /// Takes in how long an attempt took; `at` counts from any moment that stays the same.
    pub(super) fn note(&self, took: Duration, outcome: Outcome, at: Duration) {
        let took = took.as_secs_f64();
        let next = |known: u64| {
            let seconds = match measure(known, at) {
                None => first(took, outcome),
                Some(before) => following(before, took, outcome),
            };
            pack(seconds, known, at)
        };
        // Relaxed: the figure is whole in itself, and nothing is published through it.
        let _ = self.known.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |known| Some(next(known)));
    }

    /// What is known; `None` before the first reply.
    pub(super) fn measure(&self, at: Duration) -> Option<Measure> {
        measure(self.known.load(Ordering::Relaxed), at)
    }
}

fn first(took: f64, outcome: Outcome) -> f64 {
    match outcome {
        Outcome::Replied => took,
        Outcome::Failed { limit } => took.max(limit.as_secs_f64() / 10.0),
    }
}

/// A success counts with what it took. A failure counts as four times what was expected, at least a tenth of what a reply
/// may take and at most all of it. Failures enter the average only, so one in a hundred makes a backend a little
/// unpopular; where all fail, the measure at least doubles every few seconds.
fn following(before: Measure, took: f64, outcome: Outcome) -> f64 {
    let counted = match outcome {
        Outcome::Replied => took,
        Outcome::Failed { limit } => {
            let limit = limit.as_secs_f64();
            took.max((4.0 * before.seconds).clamp(limit / 10.0, limit)).max(before.seconds)
        }
    };
    let average = before.seconds * before.freshness + counted * (1.0 - before.freshness);
    average.max(took)
}

/// The shorter a reply, the finer it is measured: down to a microsecond, below which all are alike.
fn pack(seconds: f64, known: u64, at: Duration) -> u64 {
    let millis = at.as_millis() as u32;
    // A clock of another core may be a moment behind; time does not go back here.
    let is_later = known == 0 || millis.wrapping_sub(known as u32) < u32::MAX / 2;
    let stamp = if is_later { millis } else { known as u32 };
    u64::from((seconds.max(1e-6) as f32).to_bits()) << 32 | u64::from(stamp)
}

fn measure(known: u64, at: Duration) -> Option<Measure> {
    if known == 0 {
        return None;
    }
    let age = (at.as_millis() as u32).wrapping_sub(known as u32);
    let age = if age < u32::MAX / 2 { age } else { 0 };
    let freshness = (-f64::from(age) / MEMORY.as_millis() as f64).exp();
    Some(Measure { seconds: f64::from(f32::from_bits((known >> 32) as u32)), freshness })
}

/// What a reply of each of two backends is expected to cost. Only their proportion means something.
///
/// A measure that ages fades to half of the better of the two, and a backend never measured is taken for that: so one
/// that was slow is tried again when its measure is old, a new one is tried soon, and neither gets more than twice as
/// much of the load as the one beside it before there is a reply to go by.
pub fn weigh(one: Option<Measure>, other: Option<Measure>) -> (f64, f64) {
    let seconds = [one, other].into_iter().flatten().map(|measure| measure.seconds);
    let Some(unknown) = seconds.reduce(f64::min).map(|better| better / 2.0) else { return (1.0, 1.0) };
    let cost = |measure: Option<Measure>| {
        measure.map_or(unknown, |Measure { seconds, freshness }| seconds * freshness + unknown * (1.0 - freshness))
    };
    (cost(one), cost(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);
    const FAILED: Outcome = Outcome::Failed { limit: LIMIT };

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// What is measured at the end, in milliseconds, when these come in: at, took, outcome.
    fn after(replies: impl IntoIterator<Item = (u64, u64, Outcome)>) -> f64 {
        let latency = Latency::default();
        let mut last = 0;
        for (at, took, outcome) in replies {
            latency.note(millis(took), outcome, millis(at));
            last = at;
        }
        latency.measure(millis(last)).expect("something came in").seconds * 1000.0
    }

    fn is_near(measured: f64, expected: f64) -> bool {
        (measured / expected - 1.0).abs() < 0.001
    }

    #[test]
    fn a_slower_reply_counts_at_once_and_a_faster_one_with_time() {
        use Outcome::Replied;
        for (replies, expected) in [
            (vec![(5, 20, Replied)], 20.0),
            (vec![(5, 20, Replied), (6, 500, Replied)], 500.0),
            // At the same moment a faster one says nothing.
            (vec![(5, 500, Replied), (5, 20, Replied)], 500.0),
            // 1/e of the old measure is left after the memory of 10 s.
            (vec![(5, 500, Replied), (10_005, 20, Replied)], 500.0 / 1f64.exp() + 20.0 * (1.0 - 1.0 / 1f64.exp())),
            (vec![(5, 500, Replied), (3_600_005, 20, Replied)], 20.0),
        ] {
            let measured = after(replies.clone());
            assert!(is_near(measured, expected), "{replies:?}: {measured} for {expected}");
        }
    }

    #[test]
    fn how_often_replies_come_does_not_matter() {
        let coming_down = |every: usize| {
            let replies = (1..=5_000).step_by(every).chain([5_001]).map(|at| (at, 10, Outcome::Replied));
            after([(0, 1000, Outcome::Replied)].into_iter().chain(replies))
        };
        let expected = 1000.0 * (-0.5001f64).exp() + 10.0 * (1.0 - (-0.5001f64).exp());
        for every in [1, 7, 500] {
            assert!((coming_down(every) / expected - 1.0).abs() < 0.01, "{} for {expected}", coming_down(every));
        }
    }

    #[test]
    fn a_failure_counts_as_slow_and_never_makes_a_backend_look_faster() {
        assert!(is_near(after([(5, 1, FAILED)]), 3_000.0), "the first one: a tenth of the limit");
        // Failing at once, all of them, 100 a second, at a backend that took 10 ms.
        let failing = |seconds: u64| {
            after([(0, 10, Outcome::Replied)].into_iter().chain((1..=seconds * 100).map(|n| (n * 10, 1, FAILED))))
        };
        assert!(failing(1) > 250.0 && failing(5) > 1_000.0 && failing(60) > 10_000.0, "{}", failing(5));
        assert!(failing(600) <= 30_000.0);
        // One that takes 20 s gets slower still.
        let slow = after([(0, 20_000, Outcome::Replied)].into_iter().chain((1..500).map(|n| (n * 10, 1, FAILED))));
        assert!(slow > 20_000.0, "{slow}");
    }

    #[test]
    fn one_failure_in_a_hundred_makes_a_backend_only_a_little_unpopular() {
        let replies = (1..=20_000u64).map(|n| (n * 5, 10, if n % 100 == 50 { FAILED } else { Outcome::Replied }));
        let measured = after(replies);
        assert!((20.0..80.0).contains(&measured), "{measured}");
    }

    #[test]
    fn an_old_measure_fades_towards_what_an_unmeasured_backend_is_taken_for() {
        let measured = |seconds, freshness| Some(Measure { seconds, freshness });
        for (one, other, expected) in [
            (None, None, (1.0, 1.0)),
            (measured(0.2, 1.0), None, (0.2, 0.1)),
            (None, measured(0.2, 0.0), (0.1, 0.1)),
            (measured(0.2, 1.0), measured(2.0, 1.0), (0.2, 2.0)),
            (measured(0.2, 1.0), measured(2.0, 0.5), (0.2, 1.05)),
            (measured(0.2, 1.0), measured(2.0, 0.0), (0.2, 0.1)),
            // Equally old: the order stays.
            (measured(0.2, 0.1), measured(2.0, 0.1), (0.11, 0.29)),
        ] {
            let (found, mirrored) = (weigh(one, other), weigh(other, one));
            let is_equal = |one: f64, other: f64| (one - other).abs() < 1e-9;
            assert!(is_equal(found.0, expected.0) && is_equal(found.1, expected.1), "{one:?}, {other:?}: {found:?}");
            assert_eq!((found.1, found.0), mirrored);
        }
    }

    #[test]
    fn time_that_wraps_or_goes_back_a_little_does_no_harm() {
        let latency = Latency::default();
        let wrap = u64::from(u32::MAX) + 1;
        latency.note(millis(100), Outcome::Replied, millis(wrap - 5));
        latency.note(millis(10), Outcome::Replied, millis(wrap + 9_995));
        let measured = latency.measure(millis(wrap + 9_995)).expect("measured");
        assert!(
            is_near(measured.seconds * 1000.0, 10.0 + 90.0 / 1f64.exp()) && measured.freshness == 1.0,
            "{measured:?}"
        );
        latency.note(millis(10), Outcome::Replied, millis(wrap + 9_000));
        assert_eq!(latency.measure(millis(wrap + 9_995)), Some(measured));
    }
}
