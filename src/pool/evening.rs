//! Pins on their way from one backend to another, to even out the load.
//!
//! A move counts from the decision on, and not only when it is answered: others that are to move meanwhile have to know,
//! or more go than are too many. And all requests of one client that come with the pin as it was go the same way, though
//! the first of them has filled the place: at home they would find their session gone.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Backend;

/// So long after its last request a move is known: what a client has sent before it had its new pin has come by then.
const MEMORY: Duration = Duration::from_secs(10);

/// Pins that are looked for at the same time by many threads.
const SHARDS: usize = 16;

/// Moves of a shard that are known. With more at once, the latest ones go uncounted, and each request by itself.
const MOST: usize = 1024;

/// Moves of pins from and to one backend.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Pins about to come.
    coming: AtomicU32,
    /// Pins about to go.
    going: AtomicU32,
    /// Those that go, or went a moment ago.
    shards: [Mutex<HashMap<u64, Move>>; SHARDS],
}

#[derive(Debug)]
struct Move {
    /// The stable hash of where to.
    to: u64,
    /// Under way.
    requests: u32,
    /// When the last one began or ended.
    last: Instant,
    /// One that only follows moves no pin any more.
    is_counted: bool,
}

impl Moves {
    /// How many are about to come, and to go.
    pub(super) fn expected(&self) -> (u32, u32) {
        (self.coming.load(Ordering::Relaxed), self.going.load(Ordering::Relaxed))
    }

    /// Where this pin goes or went a moment ago: the stable hash of that backend. Takes a lock: for pins whose turn it is.
    pub(super) fn destination(&self, pin_id: u64, now: Instant) -> Option<u64> {
        let shard = self.shard(pin_id);
        shard.get(&pin_id).filter(|found| found.is_known(now)).map(|found| found.to)
    }

    fn shard(&self, pin_id: u64) -> MutexGuard<'_, HashMap<u64, Move>> {
        // Ids are random.
        self.shards[pin_id as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Move {
    fn is_known(&self, now: Instant) -> bool {
        self.requests > 0 || now.duration_since(self.last) < MEMORY
    }
}

/// A request that moves its pin, for as long as it is under way.
#[derive(Debug)]
pub struct Evening<'a> {
    from: &'a Backend,
    to: &'a Backend,
    pin_id: u64,
    is_noted: bool,
}

impl<'a> Evening<'a> {
    /// Begins it. `None` when another request of this pin was quicker, and goes elsewhere.
    pub fn begin(from: &'a Backend, to: &'a Backend, pin_id: u64, now: Instant) -> Option<Self> {
        let mut shard = from.moves().shard(pin_id);
        if shard.len() >= MOST {
            shard.retain(|_, other| other.is_known(now));
        }
        let (there, is_full) = (to.stable_hash(), shard.len() >= MOST);
        let is_noted = match shard.get_mut(&pin_id) {
            Some(found) if found.to == there && found.is_known(now) => {
                found.requests += 1;
                true
            }
            Some(found) if found.requests > 0 => return None,
            None if is_full => false,
            _ => {
                shard.insert(pin_id, Move { to: there, requests: 1, last: now, is_counted: true });
                from.moves().going.fetch_add(1, Ordering::Relaxed);
                to.moves().coming.fetch_add(1, Ordering::Relaxed);
                true
            }
        };
        drop(shard);
        // Not before: whoever ends takes the lock.
        Some(Self { from, to, pin_id, is_noted })
    }

    /// Whether the pin moves there.
    pub fn goes_to(&self, backend: &Backend) -> bool {
        self.to.serial() == backend.serial()
    }
}

impl Drop for Evening<'_> {
    fn drop(&mut self) {
        if !self.is_noted {
            return;
        }
        let mut shard = self.from.moves().shard(self.pin_id);
        let Some(found) = shard.get_mut(&self.pin_id) else { return };
        found.requests -= 1;
        found.last = Instant::now();
        if found.requests == 0 && std::mem::take(&mut found.is_counted) {
            self.from.moves().going.fetch_sub(1, Ordering::Relaxed);
            self.to.moves().coming.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pool::{BackendId, Registry};

    fn backends(names: [&str; 3], now: Instant) -> [Arc<Backend>; 3] {
        let registry = Registry::new(1);
        names.map(|name| registry.backend(&BackendId { pool: "shop".into(), name: name.into() }, now))
    }

    fn expected(backends: &[Arc<Backend>; 3]) -> [u64; 3] {
        [0, 1, 2].map(|index: usize| backends[index].expected_pins())
    }

    #[tokio::test(start_paused = true)]
    async fn a_move_counts_once_however_many_requests_make_it_and_all_go_the_same_way() {
        let backends = backends(["red", "green", "blue"], Instant::now());
        backends.iter().for_each(|backend| backend.set_active_pins(10));
        let [red, green, blue] = &backends;
        let begin = |to| Evening::begin(red, to, 7, Instant::now());
        assert_eq!(red.evening_to(7, Instant::now()), None);

        let (first, second) = (begin(green).unwrap(), begin(green).unwrap());
        assert!(begin(blue).is_none(), "another was quicker");
        assert_eq!(expected(&backends), [9, 11, 10]);
        assert_eq!(red.evening_to(7, Instant::now()), Some(green.stable_hash()));
        drop(first);
        assert_eq!(expected(&backends), [9, 11, 10], "one is under way");
        drop(second);
        assert_eq!(expected(&backends), [10, 10, 10], "counted where it lives now");

        // One that comes late follows, and moves no pin.
        tokio::time::advance(MEMORY / 2).await;
        assert_eq!(red.evening_to(7, Instant::now()), Some(green.stable_hash()));
        drop(begin(green).unwrap());
        let late = begin(green).unwrap();
        assert_eq!(expected(&backends), [10, 10, 10]);
        drop(late);

        tokio::time::advance(MEMORY).await;
        assert_eq!(red.evening_to(7, Instant::now()), None);
        let _anew = begin(blue).unwrap();
        assert_eq!(expected(&backends), [9, 10, 11]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_of_moves_is_bounded() {
        let backends = backends(["red", "green", "blue"], Instant::now());
        let [red, green, _] = &backends;
        red.set_active_pins(100_000);
        let begin = |pin| Evening::begin(red, green, pin, Instant::now()).expect("nobody else moves it");
        let all: Vec<_> = (0..20_000).map(begin).collect();
        assert_eq!(green.expected_pins(), (MOST * SHARDS) as u64);
        drop(all);
        assert_eq!(green.expected_pins(), 0);
        // What is over makes room.
        tokio::time::advance(MEMORY).await;
        let _anew: Vec<_> = (20_000..20_100).map(begin).collect();
        assert_eq!(green.expected_pins(), 100);
    }
}
