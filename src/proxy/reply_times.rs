//! When is a request slow enough to ask a second backend? Pure.

use std::time::Duration;

use crate::config::HedgeAfter;

/// Replies to be seen before a percentile means anything.
const ENOUGH: u32 = 100;

/// Replies after which what was seen before counts half.
const MEMORY: u32 = 2000;

/// Buckets a doubling.
const STEPS: usize = 4;

/// The first bucket ends here, in microseconds.
const SHORTEST_US: f64 = 100.0;

/// The last one begins at some 200 s.
const BUCKETS: usize = 84;

/// How long one worker's replies of one pool take to begin: a histogram that forgets.
///
/// A bucket is a fifth wide, so a percentile is at most that much too long, never too short. 340 bytes; noting a time
/// is constant, and a percentile costs a pass over the buckets.
#[derive(Debug)]
pub struct ReplyTimes {
    after: HedgeAfter,
    buckets: [u32; BUCKETS],
    total: u32,
}

impl ReplyTimes {
    /// None seen yet.
    pub fn new(after: HedgeAfter) -> Self {
        Self { after, buckets: [0; BUCKETS], total: 0 }
    }

    /// Notes how long a reply took to begin.
    pub fn note(&mut self, time: Duration) {
        if self.total >= MEMORY {
            self.buckets.iter_mut().for_each(|count| *count /= 2);
            self.total = self.buckets.iter().sum();
        }
        self.buckets[bucket(time)] += 1;
        self.total += 1;
    }

    /// After which time without a reply a second backend is asked; `None` as long as too little is known.
    pub fn hedge_after(&self) -> Option<Duration> {
        match self.after {
            HedgeAfter::Time(time) => Some(time),
            HedgeAfter::Percentile(percentile) => self.percentile(percentile),
        }
    }

    fn percentile(&self, percentile: u8) -> Option<Duration> {
        if self.total < ENOUGH {
            return None;
        }
        let rank = (u64::from(self.total) * u64::from(percentile)).div_ceil(100);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += u64::from(*count);
            seen >= rank
        });
        bucket.map(end)
    }
}

fn bucket(time: Duration) -> usize {
    let us = time.as_secs_f64() * 1e6;
    if us <= SHORTEST_US {
        return 0;
    }
    (((us / SHORTEST_US).log2() * STEPS as f64).ceil() as usize).min(BUCKETS - 1)
}

/// Where a bucket ends.
fn end(bucket: usize) -> Duration {
    Duration::from_secs_f64(SHORTEST_US * (bucket as f64 / STEPS as f64).exp2() / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Bound: one bucket too long, which is a fifth.
    #[test]
    fn a_percentile_is_found_within_a_fifth() {
        for percentile in [50, 90, 95, 99] {
            let mut times = ReplyTimes::new(HedgeAfter::Percentile(percentile));
            for round in 0..10 {
                for step in 1..=100 {
                    times.note(ms(step * 7 % 101 + round / 10));
                }
            }
            let exact = ms(u64::from(percentile));
            let found = times.hedge_after().expect("enough were seen");
            assert!(found >= exact && found <= exact.mul_f64(1.2), "p{percentile}: {found:?}");
        }
    }

    #[test]
    fn nothing_is_hedged_before_enough_is_known() {
        let mut times = ReplyTimes::new(HedgeAfter::Percentile(95));
        for _ in 0..ENOUGH - 1 {
            assert_eq!(times.hedge_after(), None);
            times.note(ms(1));
        }
        times.note(ms(1));
        assert!(times.hedge_after().is_some());
        assert_eq!(ReplyTimes::new(HedgeAfter::Time(ms(200))).hedge_after(), Some(ms(200)));
    }

    #[test]
    fn a_pool_that_becomes_slow_is_known_as_slow_soon() {
        let mut times = ReplyTimes::new(HedgeAfter::Percentile(50));
        (0..100_000).for_each(|_| times.note(ms(1)));
        assert!(times.hedge_after() < Some(ms(2)));
        (0..3 * MEMORY).for_each(|_| times.note(ms(500)));
        assert!(times.hedge_after() >= Some(ms(500)));
    }

    #[test]
    fn any_time_has_a_bucket_and_none_overflows() {
        for time in [Duration::ZERO, Duration::from_nanos(1), ms(200), Duration::from_secs(3600), Duration::MAX] {
            assert!(bucket(time) < BUCKETS);
        }
        for bucket_index in 1..BUCKETS {
            assert_eq!(bucket(end(bucket_index).mul_f64(0.999)), bucket_index);
        }
    }
}
