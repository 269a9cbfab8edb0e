//! Changes that are still to be written, in the order they came; of one pin, only what they add up to.
//!
//! Pure, and bounded: beyond its capacity the oldest goes and is counted.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::oneshot;

use crate::pins::shelf::{Limits, Shelf};
use crate::pins::{Owner, PinKey, Record};

/// What is to become of a pin in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pins) enum Change {
    /// It is to be this.
    Put {
        /// The pin.
        record: Record,
        /// When it may be written.
        basis: Basis,
        /// Whose it is.
        owner: Owner,
        /// How long it lives.
        limits: Limits,
    },
    /// It is to be forgotten.
    Remove,
}

/// What the writer believes to be stored; when it is not so, the change gives way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pins) enum Basis {
    /// Nothing. A pin with another home stays if it was issued no earlier.
    Learned,
    /// A pin with this home. One with yet another stays.
    From(u64),
    /// Whatever there is was to be removed first.
    Anew,
}

impl Change {
    /// This one and an earlier one of the same pin, as one.
    fn after(self, earlier: Self) -> Self {
        let Self::Put { record, basis, owner, limits } = self else { return self };
        let basis = match (earlier, basis) {
            (Self::Remove, _) | (Self::Put { basis: Basis::Anew, .. }, Basis::Learned) => Basis::Anew,
            // The earlier one was never written, so what it was based on is what is stored.
            (Self::Put { record, basis, .. }, Basis::From(home)) if record.home == home => basis,
            (Self::Put { .. }, basis) => basis,
        };
        Self::Put { record, basis, owner, limits }
    }
}

/// A change of one pin, and who waits for its outcome.
#[derive(Debug)]
pub(in crate::pins) struct Write {
    pub(super) change: Change,
    pub(super) pending: Pending,
    /// Told what is then stored. Dropped without, the asker goes by its own decision.
    pub(super) answers: Vec<oneshot::Sender<Record>>,
}

impl Write {
    /// A change that nobody waits for.
    pub(in crate::pins) fn new(shelf: &Arc<Shelf>, change: Change) -> Self {
        Self { change, pending: Pending::new(shelf), answers: Vec::new() }
    }

    /// A change with somebody waiting for what is then stored.
    pub(in crate::pins) fn asking(shelf: &Arc<Shelf>, change: Change) -> (Self, oneshot::Receiver<Record>) {
        let (answer, stored) = oneshot::channel();
        (Self { answers: vec![answer], ..Self::new(shelf, change) }, stored)
    }

    pub(super) fn shelf(&self) -> &Arc<Shelf> {
        &self.pending.0
    }

    /// Counts it as one that will never be written.
    pub(in crate::pins) fn give_up(self) {
        self.shelf().dropped.fetch_add(1, Relaxed);
    }

    fn after(mut self, mut earlier: Self) -> Self {
        self.change = self.change.after(earlier.change);
        self.answers.append(&mut earlier.answers);
        self
    }
}

/// One pending write of a pool, until dropped.
#[derive(Debug)]
pub(super) struct Pending(Arc<Shelf>);

impl Pending {
    fn new(shelf: &Arc<Shelf>) -> Self {
        shelf.pending.fetch_add(1, Relaxed);
        Self(Arc::clone(shelf))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Relaxed);
    }
}

/// See the module's doc.
#[derive(Debug)]
pub(super) struct Queue {
    capacity: usize,
    writes: HashMap<PinKey, Write>,
    /// Every key of `writes`, once.
    order: VecDeque<PinKey>,
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, writes: HashMap::new(), order: VecDeque::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(super) fn change(&self, key: PinKey) -> Option<&Change> {
        self.writes.get(&key).map(|write| &write.change)
    }

    /// The last to be written; before that, with the other changes of its pin.
    pub(super) fn push(&mut self, key: PinKey, write: Write) {
        match self.writes.remove(&key) {
            Some(earlier) => {
                self.writes.insert(key, write.after(earlier));
            }
            None => {
                self.make_room();
                self.order.push_back(key);
                self.writes.insert(key, write);
            }
        }
    }

    /// The next to be written: somebody waits.
    pub(super) fn push_urgent(&mut self, key: PinKey, write: Write) {
        let write = match self.writes.remove(&key) {
            Some(earlier) => {
                // Rare: a pin that moves in the millisecond after it was put.
                self.order.retain(|other| *other != key);
                write.after(earlier)
            }
            None => write,
        };
        self.make_room();
        self.order.push_front(key);
        self.writes.insert(key, write);
    }

    /// Takes back one that was taken and could not be written. What has been pushed since comes on top of it.
    pub(super) fn put_back(&mut self, key: PinKey, earlier: Write) {
        match self.writes.remove(&key) {
            Some(later) => {
                self.writes.insert(key, later.after(earlier));
            }
            // It is the oldest of all, so when there is no room it is the one to go.
            None if self.order.len() >= self.capacity => earlier.give_up(),
            None => {
                self.order.push_front(key);
                self.writes.insert(key, earlier);
            }
        }
    }

    /// The next ones, at most so many.
    pub(super) fn take(&mut self, most: usize) -> Vec<(PinKey, Write)> {
        let keys = self.order.drain(..most.min(self.order.len()));
        keys.filter_map(|key| Some((key, self.writes.remove(&key)?))).collect()
    }

    /// Tells whoever waits for this pin that nobody will answer.
    pub(super) fn drop_answers(&mut self, key: PinKey) {
        if let Some(write) = self.writes.get_mut(&key) {
            write.answers.clear();
        }
    }

    /// Tells it everybody who waits.
    pub(super) fn drop_all_answers(&mut self) {
        self.writes.values_mut().for_each(|write| write.answers.clear());
    }

    fn make_room(&mut self) {
        while self.order.len() >= self.capacity {
            let Some(oldest) = self.order.pop_front() else { return };
            if let Some(write) = self.writes.remove(&oldest) {
                write.give_up();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pins::memory::Memory;

    const LIMITS: Limits = Limits { idle_timeout: 60, max_lifetime: 600 };

    fn shelf() -> Arc<Shelf> {
        Arc::new(Shelf::new(&"shop".into(), Memory::new(10, 10)))
    }

    fn put(home: u64, refreshed: u32, basis: Basis) -> Change {
        let record = Record { home, pin: 0, instance: 0, issued: 1, refreshed, detour: None };
        Change::Put { record, basis, owner: Owner(0), limits: LIMITS }
    }

    fn pending(shelf: &Shelf) -> (usize, u64) {
        (shelf.pending.load(Relaxed), shelf.dropped.load(Relaxed))
    }

    #[test]
    fn changes_of_one_pin_add_up() {
        use Basis::{Anew, From, Learned};
        let cases = [
            ("a refresh of what was learned", put(1, 5, Learned), put(1, 9, From(1)), put(1, 9, Learned)),
            ("two moves in a row", put(2, 5, From(1)), put(3, 9, From(2)), put(3, 9, From(1))),
            ("a move from elsewhere", put(2, 5, From(1)), put(4, 9, From(3)), put(4, 9, From(3))),
            ("learned again", put(1, 5, From(1)), put(1, 9, Learned), put(1, 9, Learned)),
            ("removed", put(1, 5, Learned), Change::Remove, Change::Remove),
            ("learned after it was removed", Change::Remove, put(1, 9, Learned), put(1, 9, Anew)),
            ("learned again after that", put(1, 5, Anew), put(2, 9, Learned), put(2, 9, Anew)),
            ("moved after that", put(1, 5, Anew), put(2, 9, From(1)), put(2, 9, Anew)),
            ("removed twice", Change::Remove, Change::Remove, Change::Remove),
        ];
        for (what, earlier, later, expected) in cases {
            assert_eq!(later.after(earlier), expected, "{what}");
        }
    }

    #[test]
    fn the_same_pin_keeps_its_turn_and_counts_once() {
        let (shelf, mut queue) = (shelf(), Queue::new(10));
        for (key, home) in [(1, 1), (2, 1), (1, 2)] {
            queue.push(PinKey(key), Write::new(&shelf, put(home, 5, Basis::Learned)));
        }
        assert_eq!(pending(&shelf), (2, 0));
        let taken = queue.take(10);
        let order: Vec<PinKey> = taken.iter().map(|(key, _)| *key).collect();
        assert_eq!(order, [PinKey(1), PinKey(2)]);
        assert_eq!(taken[0].1.change, put(2, 5, Basis::Learned));
        assert_eq!(pending(&shelf), (2, 0), "taken is not written yet");
        drop(taken);
        assert_eq!(pending(&shelf), (0, 0));
        assert!(queue.is_empty());
    }

    #[test]
    fn beyond_its_capacity_the_oldest_goes_and_is_counted() {
        let (shelf, mut queue) = (shelf(), Queue::new(3));
        for key in 0..5 {
            queue.push(PinKey(key), Write::new(&shelf, put(1, 5, Basis::Learned)));
        }
        assert_eq!((queue.len(), pending(&shelf)), (3, (3, 2)));
        assert!(queue.change(PinKey(1)).is_none());
        assert!(queue.change(PinKey(2)).is_some());
        let mut taken = queue.take(1);
        queue.push(PinKey(9), Write::new(&shelf, Change::Remove));
        let (key, write) = taken.pop().expect("one was taken");
        queue.put_back(key, write);
        assert_eq!((queue.len(), pending(&shelf)), (3, (3, 3)), "what comes back is the oldest");
    }

    #[test]
    fn whoever_waits_is_served_first_and_told_with_the_rest() {
        let (shelf, mut queue) = (shelf(), Queue::new(10));
        queue.push(PinKey(1), Write::new(&shelf, Change::Remove));
        queue.push(PinKey(2), Write::new(&shelf, put(1, 5, Basis::From(1))));
        let (write, mut stored) = Write::asking(&shelf, put(2, 5, Basis::From(1)));
        queue.push_urgent(PinKey(2), write);
        queue.push(PinKey(2), Write::new(&shelf, put(2, 6, Basis::From(2))));
        let mut taken = queue.take(10);
        assert_eq!(taken.iter().map(|(key, _)| key.0).collect::<Vec<_>>(), [2, 1]);
        let (_, write) = taken.swap_remove(0);
        assert_eq!(write.change, put(2, 6, Basis::From(1)));
        let record = Record { home: 2, pin: 0, instance: 0, issued: 1, refreshed: 6, detour: None };
        for answer in write.answers {
            answer.send(record).expect("somebody waits");
        }
        assert_eq!(stored.try_recv(), Ok(record));
    }

    #[test]
    fn what_could_not_be_written_goes_under_what_came_since() {
        let (shelf, mut queue) = (shelf(), Queue::new(10));
        queue.push(PinKey(1), Write::new(&shelf, put(2, 5, Basis::From(1))));
        let mut taken = queue.take(1);
        queue.push(PinKey(1), Write::new(&shelf, put(2, 6, Basis::From(2))));
        let (key, write) = taken.pop().expect("one was taken");
        queue.put_back(key, write);
        assert_eq!(queue.change(PinKey(1)), Some(&put(2, 6, Basis::From(1))));
        assert_eq!(pending(&shelf), (1, 0));
    }
}
