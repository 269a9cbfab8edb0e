//! Pins on their way from one backend to another.
//!
//! Requests of one client that come with the pin as it was, while the first of them moves it or a moment after, go the same
//! way: whatever has become of the home meanwhile, their session is no longer there, or is being fetched from there. And
//! what they would say of the pin on their own way home is not said, since it might be the client's last word of it.
//!
//! To even out the load, a move counts from the decision on, and not only when it is answered: others that are to move
//! meanwhile have to know, or more go than are too many.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Backend;
use crate::telemetry::words::RehomeReason;

/// So long a move is known: what a client has sent before it had its new pin has come by then.
const MEMORY: Duration = Duration::from_secs(10);

/// Pins that are looked for at the same time by many threads.
const SHARDS: usize = 16;

/// Moves of a shard that are known. With more at once, the latest ones go uncounted, and each request by itself.
const MOST: usize = 1024;

/// How often a full shard makes room.
const PRUNE_EVERY: Duration = Duration::from_secs(1);

/// A pin that moves, or moved a moment ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The stable hash of where to.
    pub to: u64,
    /// Why.
    pub reason: RehomeReason,
    /// Its session is gone.
    pub session_lost: bool,
}

/// Moves of pins from and to one backend.
#[derive(Debug)]
pub(super) struct Moves {
    /// Pins about to come, to even out the load.
    coming: AtomicU32,
    /// Pins about to go, to even out the load.
    going: AtomicU32,
    made_at: Instant,
    /// Until when some pin is known that went: milliseconds since `made_at`.
    known_until: AtomicU64,
    /// Those that go, or went a moment ago.
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    known: HashMap<u64, Known>,
    /// When it was last looked for those that are forgotten.
    pruned_at: Option<Instant>,
}

#[derive(Debug)]
struct Known {
    it: Move,
    /// Under way to even out the load.
    requests: u32,
    /// When it began, or had moved to even out the load.
    last: Instant,
    /// The serial of where it is counted as about to come. One that only follows moves no pin any more.
    counted_at: Option<u32>,
    /// A request has been answered there.
    is_made: bool,
    /// The pin has come back since, or nobody was there.
    is_over: bool,
}

impl Moves {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            coming: AtomicU32::new(0),
            going: AtomicU32::new(0),
            made_at: now,
            known_until: AtomicU64::new(0),
            shards: Default::default(),
        }
    }

    /// How many are about to come, and to go.
    pub(super) fn expected(&self) -> (u32, u32) {
        (self.coming.load(Ordering::Relaxed), self.going.load(Ordering::Relaxed))
    }

    /// Where this pin goes or went a moment ago. Looks at nothing but a number when nobody has gone in the last seconds, else
    /// takes a lock for a look into a map.
    pub(super) fn of(&self, pin_id: u64, now: Instant) -> Option<Move> {
        // Relaxed is enough: who comes a moment earlier was not after the move.
        let known_until = self.known_until.load(Ordering::Relaxed);
        if known_until == 0 || known_until <= self.time(now) {
            return None;
        }
        self.shard(pin_id).known.get(&pin_id).filter(|known| known.is_known(now)).map(|known| known.it)
    }

    /// Notes where a pin goes, for its other requests.
    pub(super) fn note(&self, pin_id: u64, it: Move, now: Instant) {
        let mut shard = self.shard(pin_id);
        let is_full = shard.make_room(now);
        match shard.known.get_mut(&pin_id) {
            // While it moves to even out the load, that is where it goes; and who follows makes nothing known for longer.
            Some(known) if known.requests > 0 || known.is_known(now) && known.it.to == it.to => return,
            None if is_full => return,
            _ => {
                shard.known.insert(pin_id, Known::new(it, now));
            }
        }
        self.extend(now);
    }

    /// Notes that a request that moved this pin has its reply, or has failed.
    pub(super) fn note_end(&self, pin_id: u64, is_answered: bool) {
        if let Some(known) = self.shard(pin_id).known.get_mut(&pin_id) {
            known.is_made |= is_answered;
            known.is_over |= !known.is_made;
        }
    }

    /// Notes that a pin comes here, or stays after all.
    pub(super) fn forget(&self, pin_id: u64, now: Instant) {
        if self.of(pin_id, now).is_some()
            && let Some(known) = self.shard(pin_id).known.get_mut(&pin_id)
        {
            known.is_over = true;
        }
    }

    fn extend(&self, now: Instant) {
        self.known_until.fetch_max(self.time(now + MEMORY), Ordering::Relaxed);
    }

    fn time(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.made_at).as_millis()).unwrap_or(u64::MAX)
    }

    fn shard(&self, pin_id: u64) -> MutexGuard<'_, Shard> {
        // Ids are random.
        self.shards[pin_id as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn new(it: Move, now: Instant) -> Self {
        Self { it, requests: 0, last: now, counted_at: None, is_made: false, is_over: false }
    }

    fn is_known(&self, now: Instant) -> bool {
        !self.is_over && (self.requests > 0 || now.saturating_duration_since(self.last) < MEMORY)
    }
}

impl Shard {
    /// Looks at everything, and so once a second at the most. Says whether there is none.
    fn make_room(&mut self, now: Instant) -> bool {
        let was_pruned = |at: Instant| now.saturating_duration_since(at) < PRUNE_EVERY;
        if self.known.len() >= MOST && !self.pruned_at.is_some_and(was_pruned) {
            self.known.retain(|_, known| known.requests > 0 || known.is_known(now));
            self.pruned_at = Some(now);
        }
        self.known.len() >= MOST
    }
}

/// A request that moves its pin to even out the load, for as long as it is under way.
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
        to.note_return(pin_id, now);
        let mut shard = from.moves().shard(pin_id);
        let is_full = shard.make_room(now);
        let it = Move { to: to.stable_hash(), reason: RehomeReason::Rebalanced, session_lost: false };
        let is_noted = match shard.known.get_mut(&pin_id) {
            // Not with one to a backend of the same name that was removed since.
            Some(known)
                if known.it == it
                    && known.is_known(now)
                    && known.counted_at.is_none_or(|serial| serial == to.serial()) =>
            {
                known.requests += 1;
                true
            }
            Some(known) if known.requests > 0 && known.it != it && !known.is_over => return None,
            Some(known) if known.requests > 0 => false,
            None if is_full => false,
            _ => {
                let counted_at = Some(to.serial());
                shard.known.insert(pin_id, Known { requests: 1, counted_at, ..Known::new(it, now) });
                from.moves().going.fetch_add(1, Ordering::Relaxed);
                to.moves().coming.fetch_add(1, Ordering::Relaxed);
                true
            }
        };
        drop(shard);
        from.moves().extend(now);
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
        let Some(known) = shard.known.get_mut(&self.pin_id) else { return };
        known.requests -= 1;
        if known.requests == 0 && known.counted_at.take().is_some() {
            known.last = Instant::now();
            self.from.moves().extend(known.last);
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
        let to_of = |from: &Backend| from.move_of(7, Instant::now()).map(|it| it.to);
        assert_eq!(to_of(red), None);

        let (first, second) = (begin(green).unwrap(), begin(green).unwrap());
        assert!(begin(blue).is_none(), "another was quicker");
        assert_eq!(expected(&backends), [9, 11, 10]);
        assert_eq!(to_of(red), Some(green.stable_hash()));
        drop(first);
        assert_eq!(expected(&backends), [9, 11, 10], "one is under way");
        drop(second);
        assert_eq!(expected(&backends), [10, 10, 10], "counted where it lives now");

        // One that comes late follows, and moves no pin.
        tokio::time::advance(MEMORY / 2).await;
        assert_eq!(to_of(red), Some(green.stable_hash()));
        drop(begin(green).unwrap());
        let late = begin(green).unwrap();
        assert_eq!(expected(&backends), [10, 10, 10]);
        drop(late);

        tokio::time::advance(MEMORY).await;
        assert_eq!(to_of(red), None);
        let _anew = begin(blue).unwrap();
        assert_eq!(expected(&backends), [9, 10, 11]);
    }

    #[tokio::test(start_paused = true)]
    async fn other_moves_are_known_for_a_while_too_and_until_the_pin_comes_back() {
        let backends = backends(["red", "green", "blue"], Instant::now());
        let [red, green, blue] = &backends;
        let gone = |to: &Backend| Move { to: to.stable_hash(), reason: RehomeReason::Gone, session_lost: true };
        red.note_move(green, 7, RehomeReason::Gone, true, Instant::now());
        assert_eq!(red.move_of(7, Instant::now()), Some(gone(green)));
        assert_eq!(red.move_of(8, Instant::now()), None, "another pin");
        assert_eq!(green.move_of(7, Instant::now()), None, "it is there");
        tokio::time::advance(MEMORY / 2).await;
        green.note_move(red, 7, RehomeReason::Gone, true, Instant::now());
        assert_eq!(red.move_of(7, Instant::now()), None, "it is back");
        red.note_move(blue, 7, RehomeReason::Gone, true, Instant::now());
        assert_eq!(red.move_of(7, Instant::now()), Some(gone(blue)));
        tokio::time::advance(MEMORY).await;
        assert_eq!(red.move_of(7, Instant::now()), None, "long ago");

        // Nobody follows to where nobody was answered.
        let note = || red.note_move(blue, 7, RehomeReason::Gone, true, Instant::now());
        note();
        red.note_move_ended(7, false);
        assert_eq!(red.move_of(7, Instant::now()), None, "failed");
        note();
        red.note_move_ended(7, true);
        red.note_move_ended(7, false);
        assert_eq!(red.move_of(7, Instant::now()), Some(gone(blue)), "one has been answered");
        tokio::time::advance(MEMORY).await;

        // Who moves to even out the load goes on, and what it counts is counted to its end.
        let evening = Evening::begin(red, green, 7, Instant::now()).unwrap();
        red.note_move(blue, 7, RehomeReason::Gone, true, Instant::now());
        assert_eq!(red.move_of(7, Instant::now()).map(|it| it.to), Some(green.stable_hash()));
        blue.note_move(red, 7, RehomeReason::Gone, true, Instant::now());
        assert_eq!(red.move_of(7, Instant::now()), None);
        assert_eq!(green.expected_pins(), 1);
        drop(evening);
        assert_eq!(green.expected_pins(), 0);
    }

    /// What was counted at the one that was removed was taken off the one of its name that came after it.
    #[tokio::test(start_paused = true)]
    async fn a_backend_that_is_removed_and_added_again_is_counted_by_itself() {
        let registry = Registry::new(1);
        let backend =
            |name: &str| registry.backend(&BackendId { pool: "shop".into(), name: name.into() }, Instant::now());
        let (red, old) = (backend("red"), backend("green"));
        let first = Evening::begin(&red, &old, 7, Instant::now()).expect("nobody else moves it");
        registry.retain(&[red.id().clone()].into(), &["shop".into()].into());
        let new = backend("green");
        let second = Evening::begin(&red, &new, 7, Instant::now());
        drop(first);
        drop(second);
        assert_eq!((red.expected_pins(), old.expected_pins(), new.expected_pins()), (0, 0, 0));
        let _anew = Evening::begin(&red, &new, 8, Instant::now()).expect("nobody else moves it");
        assert_eq!(new.expected_pins(), 1);
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
