//! What requests saw of a backend, noted by each worker for itself; [`super::outliers`] says what it amounts to.
//!
//! A good reply costs two additions to counters with a single writer, no lock and no cache line that another worker
//! writes to. Only what went wrong is noted with the client that met it, under a lock of the worker's own.

use std::mem;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::outliers::Cause;
use crate::telemetry::counters::Single;

/// Clients that one worker keeps apart between two looks, for each backend; further ones only add to the totals.
const WORKER_CLIENTS: usize = 32;

/// Buckets of latency: 0 ms, 1 ms, 2 to 3, 4 to 7 and so on; the last one holds 16 s and more.
pub const BUCKETS: usize = 16;

/// One backend's, by worker.
#[derive(Debug)]
pub struct Traffic {
    shards: Box<[TrafficShard]>,
    /// How often it was put out, by [`Cause`]. Written by the control plane only.
    outs: [Single; Cause::ALL.len()],
}

/// One worker's notes about one backend, alone on its cache lines.
#[derive(Debug)]
#[repr(align(128))]
pub struct TrafficShard {
    replies: Single,
    latency: [Single; BUCKETS],
    /// A reply is slow that took more milliseconds. Set by the control plane, rarely.
    slow_above: AtomicU32,
    /// Nothing is kept until something goes wrong.
    bad: Mutex<Option<Box<Bad>>>,
}

impl Default for TrafficShard {
    fn default() -> Self {
        Self {
            replies: Single::default(),
            latency: Default::default(),
            slow_above: AtomicU32::new(u32::MAX),
            bad: Mutex::default(),
        }
    }
}

/// What went wrong, by client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bad {
    /// Of everybody, by [`Cause`].
    pub totals: [u32; Cause::ALL.len()],
    /// Of those that are kept apart.
    pub clients: Vec<(u64, [u32; Cause::ALL.len()])>,
}

impl Bad {
    /// Adds `count` of a client's; beyond `most` clients only to the totals. O(clients).
    pub fn add(&mut self, client: u64, cause: Cause, count: u32, most: usize) {
        let total = &mut self.totals[cause as usize];
        *total = total.saturating_add(count);
        let place = self.clients.iter().position(|(known, _)| *known == client);
        let place = place.or_else(|| {
            (self.clients.len() < most).then(|| {
                self.clients.push((client, Default::default()));
                self.clients.len() - 1
            })
        });
        if let Some(place) = place {
            let count_of = &mut self.clients[place].1[cause as usize];
            *count_of = count_of.saturating_add(count);
        }
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self, most: usize) {
        for cause in Cause::ALL {
            let kept: u32 = other.clients.iter().fold(0, |sum, (_, counts)| sum.saturating_add(counts[cause as usize]));
            let unkept = other.totals[cause as usize].saturating_sub(kept);
            self.totals[cause as usize] = self.totals[cause as usize].saturating_add(unkept);
            for (client, counts) in other.clients.iter().filter(|(_, counts)| counts[cause as usize] > 0) {
                self.add(*client, cause, counts[cause as usize], most);
            }
        }
    }
}

/// What all workers noted so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Replies, and requests that broke off before one.
    pub replies: u64,
    /// Replies by time to their first byte, those to requests with a body left out.
    pub latency: [u64; BUCKETS],
}

impl Traffic {
    /// Nothing noted yet, for this many workers.
    pub fn new(workers: usize) -> Self {
        Self { shards: (0..workers).map(|_| TrafficShard::default()).collect(), outs: Default::default() }
    }

    /// The notes of one worker.
    pub fn shard(&self, worker: usize) -> &TrafficShard {
        &self.shards[worker]
    }

    /// All counts so far, and what went wrong since this was last called. For one caller: the control plane.
    pub fn take(&self, most_clients: usize) -> (Counts, Bad) {
        let (mut counts, mut bad) = (Counts::default(), Bad::default());
        for shard in &self.shards {
            counts.replies += shard.replies.value();
            for (sum, bucket) in counts.latency.iter_mut().zip(&shard.latency) {
                *sum += bucket.value();
            }
            let noted = mem::take(&mut *shard.bad.lock().unwrap_or_else(PoisonError::into_inner));
            if let Some(noted) = noted {
                bad.merge(&noted, most_clients);
            }
        }
        (counts, bad)
    }

    /// Counts that it was put out. For one caller: the control plane.
    pub fn count_out(&self, cause: Cause) {
        self.outs[cause as usize].add(1);
    }

    /// How often it was put out, in the order of [`Cause::ALL`].
    pub fn outs(&self) -> [u64; Cause::ALL.len()] {
        std::array::from_fn(|cause| self.outs[cause].value())
    }

    /// From now on a reply is slow that takes longer; `None`: none is.
    pub fn set_slow_above(&self, limit: Option<Duration>) {
        let limit = limit.map_or(u32::MAX, |limit| u32::try_from(limit.as_millis()).unwrap_or(u32::MAX));
        for shard in &self.shards {
            // Relaxed: a request that sees it a moment late is judged by the limit before.
            if shard.slow_above.load(Ordering::Relaxed) != limit {
                shard.slow_above.store(limit, Ordering::Relaxed);
            }
        }
    }
}

impl TrafficShard {
    /// Notes a reply. `took` is the time to its first byte, `None` where the client had a part in that; `client` is asked
    /// only when the reply is a bad one. Only the shard's own worker may call it.
    pub fn replied(&self, status: u16, took: Option<Duration>, client: impl FnOnce() -> IpAddr) {
        self.replies.add(1);
        let mut is_slow = false;
        if let Some(took) = took {
            let ms = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
            self.latency[bucket_of(ms)].add(1);
            is_slow = ms > self.slow_above.load(Ordering::Relaxed);
        }
        if is_error(status) {
            self.note(client(), Cause::Errors);
        } else if is_slow {
            self.note(client(), Cause::Slow);
        }
    }

    /// Notes that a request broke off before its reply began.
    pub fn broke_off(&self, client: IpAddr) {
        self.replies.add(1);
        self.note(client, Cause::Errors);
    }

    /// Notes that no connection could be opened.
    pub fn not_connected(&self, client: IpAddr) {
        self.note(client, Cause::ConnectFailures);
    }

    fn note(&self, client: IpAddr, cause: Cause) {
        let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        bad.get_or_insert_default().add(number_of(client), cause, 1, WORKER_CLIENTS);
    }
}

/// A status that is the backend's fault. 501 and 505 tell of the request.
fn is_error(status: u16) -> bool {
    (500..600).contains(&status) && status != 501 && status != 505
}

/// One client: an IPv4 address, or the half of an IPv6 address that a site has for itself. Nothing that a client can choose
/// at will, as it could a cookie.
fn number_of(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
    }
}

fn bucket_of(ms: u32) -> usize {
    (u32::BITS - ms.leading_zeros()).min(BUCKETS as u32 - 1) as usize
}

/// The median of counts by [`BUCKETS`], evenly spread within its bucket; `None` without any. Exact to a factor of two at
/// worst.
pub fn median(latency: &[u64; BUCKETS]) -> Option<Duration> {
    let total: u64 = latency.iter().sum();
    let mut before = 0;
    for (bucket, count) in latency.iter().copied().enumerate() {
        if count > 0 && (before + count) * 2 >= total {
            let low = if bucket == 0 { 0.0 } else { f64::from(1_u32 << (bucket - 1)) };
            let width = if bucket == 0 { 1.0 } else { low };
            let share = (total as f64 / 2.0 - before as f64) / count as f64;
            return Some(Duration::from_secs_f64((low + width * share) / 1e3));
        }
        before += count;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn client(number: u8) -> IpAddr {
        [192, 0, 2, number].into()
    }

    #[test]
    fn a_good_reply_is_counted_and_nobody_is_asked_who_it_was_for() {
        let traffic = Traffic::new(2);
        for (worker, status) in [(0, 200), (1, 404), (1, 501), (0, 505), (1, 101)] {
            traffic.shard(worker).replied(status, Some(Duration::from_millis(3)), || unreachable!());
        }
        traffic.shard(0).replied(200, None, || unreachable!());
        let (counts, bad) = traffic.take(64);
        assert_eq!((counts.replies, counts.latency[2], bad), (6, 5, Bad::default()));
    }

    #[test]
    fn what_went_wrong_is_kept_by_client_and_told_once() {
        let traffic = Traffic::new(2);
        traffic.shard(0).replied(503, None, || client(1));
        traffic.shard(1).replied(500, None, || client(1));
        traffic.shard(1).broke_off(client(2));
        traffic.shard(1).not_connected(client(2));
        traffic.set_slow_above(Some(Duration::from_millis(300)));
        traffic.shard(0).replied(200, Some(Duration::from_millis(300)), || unreachable!());
        traffic.shard(0).replied(200, Some(Duration::from_millis(301)), || client(3));
        let (counts, mut bad) = traffic.take(64);
        bad.clients.sort_unstable();
        let number = |client| number_of(client);
        let expected = [(number(client(1)), [0, 2, 0]), (number(client(2)), [1, 1, 0]), (number(client(3)), [0, 0, 1])];
        assert_eq!((counts.replies, bad.totals, bad.clients), (5, [1, 3, 1], expected.to_vec()));
        assert_eq!(traffic.take(64), (counts, Bad::default()));
    }

    #[test]
    fn clients_beyond_the_bound_only_add_to_the_totals() {
        let shard = TrafficShard::default();
        for number in 0..100 {
            shard.broke_off(client(number));
        }
        let noted = shard.bad.lock().unwrap().take().unwrap();
        assert_eq!((noted.totals[Cause::Errors as usize], noted.clients.len()), (100, WORKER_CLIENTS));
        let mut merged = Bad::default();
        merged.merge(&noted, 10);
        merged.merge(&noted, 10);
        assert_eq!((merged.totals[Cause::Errors as usize], merged.clients.len()), (200, 10));
    }

    #[test]
    fn one_site_is_one_client() {
        let of = |text: &str| number_of(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(number_of(Ipv6Addr::LOCALHOST.into()), of("127.0.0.1"));
    }

    #[test]
    fn the_median_is_found_within_its_bucket() {
        let of = |pairs: &[(u32, u64)]| {
            let mut latency = [0; BUCKETS];
            for (ms, count) in pairs {
                latency[bucket_of(*ms)] += count;
            }
            median(&latency).map(|median| median.as_secs_f64() * 1e3)
        };
        assert_eq!(of(&[]), None);
        for (pairs, low, high) in [
            (&[(0, 10)][..], 0.0, 1.0),
            (&[(0, 10), (1000, 9)], 0.0, 1.0),
            (&[(100, 5), (1000, 4)], 64.0, 128.0),
            (&[(100, 5), (1000, 6)], 512.0, 1024.0),
            (&[(u32::MAX, 1)], 16384.0, 32768.0),
        ] {
            let median = of(pairs).unwrap();
            assert!((low..=high).contains(&median), "{median} of {pairs:?}");
        }
    }
}
