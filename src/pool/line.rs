//! A line of requests that wait for something of which there is not enough: first come, first served.
//!
//! What they wait for is handed over, not announced: whoever gives it back gives it to the first in the line, and nobody
//! who comes later can be faster. Who leaves the line, or is given something the moment it leaves, loses nothing for
//! those behind: what was not taken drops, and so goes on to the next.
//!
//! The lock is for those who wait. Whoever finds the line empty reads one atomic.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// A line. `T` is what is waited for: a guard, which gives it back when it is dropped.
#[derive(Debug)]
pub struct Line<T> {
    /// How many wait; stored while `inner` is locked.
    waiting: AtomicU32,
    /// Counts those who came or changed their mind; stored while `inner` is locked.
    changes: AtomicU64,
    inner: Mutex<Inner<T>>,
}

#[derive(Debug)]
struct Inner<T> {
    next_ticket: u64,
    /// By ticket, so that the first is who has waited longest.
    entries: BTreeMap<u64, Entry<T>>,
}

#[derive(Debug)]
struct Entry<T> {
    turn: oneshot::Sender<T>,
    /// Serial numbers of the backends it would go to, sorted; `None` for any.
    goes_to: Option<Box<[u32]>>,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self {
            waiting: AtomicU32::new(0),
            changes: AtomicU64::new(0),
            inner: Mutex::new(Inner { next_ticket: 0, entries: BTreeMap::new() }),
        }
    }
}

impl<T> Line<T> {
    /// How many wait.
    pub fn len(&self) -> u32 {
        // Sequentially consistent, here and at every count of what is waited for: whoever joins looks at that count after
        // this one was stored, whoever lowers that count looks here after; so one of them sees the other.
        self.waiting.load(Ordering::SeqCst)
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Changes whenever somebody came or changed its mind.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Takes a place at the end; `None` when as many as `most` wait already. `goes_to` as in [`Place::goes_to`].
    pub fn join(self: &Arc<Self>, most: u32, goes_to: Option<Box<[u32]>>) -> Option<Place<T>> {
        let (turn, receiver) = oneshot::channel();
        let mut inner = self.lock();
        if inner.entries.len() >= most as usize {
            return None;
        }
        let ticket = inner.next_ticket;
        inner.next_ticket += 1;
        inner.entries.insert(ticket, Entry { turn, goes_to });
        self.note(&inner);
        Some(Place { line: Arc::clone(self), ticket, turn: receiver })
    }

    /// Takes out the first who would go to this backend. Linear in those before it.
    pub(super) fn take_first(&self, serial: u32) -> Option<oneshot::Sender<T>> {
        let mut inner = self.lock();
        let would_go = |entry: &Entry<T>| entry.goes_to.as_ref().is_none_or(|to| to.binary_search(&serial).is_ok());
        let ticket = *inner.entries.iter().find(|(_, entry)| would_go(entry))?.0;
        let entry = inner.entries.remove(&ticket);
        self.waiting.store(inner.entries.len() as u32, Ordering::SeqCst);
        entry.map(|entry| entry.turn)
    }

    fn note(&self, inner: &Inner<T>) {
        self.waiting.store(inner.entries.len() as u32, Ordering::SeqCst);
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        // Every holder leaves a whole map behind.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in a line. Dropping it leaves the line, and passes on what was just handed over.
#[derive(Debug)]
pub struct Place<T> {
    line: Arc<Line<T>>,
    ticket: u64,
    turn: oneshot::Receiver<T>,
}

impl<T> Place<T> {
    /// From now on it would go to the backends of these serial numbers, which are sorted; its place stays.
    pub fn goes_to(&self, serials: Box<[u32]>) {
        let mut inner = self.line.lock();
        if let Some(entry) = inner.entries.get_mut(&self.ticket) {
            entry.goes_to = Some(serials);
            self.line.note(&inner);
        }
    }

    /// Waits for its turn. Safe to cancel; not to be called again once the turn has come.
    pub async fn turn(&mut self) -> Option<T> {
        // Whoever takes a sender out of the line uses it.
        (&mut self.turn).await.ok()
    }
}

impl<T> Drop for Place<T> {
    fn drop(&mut self) {
        let mut inner = self.line.lock();
        if inner.entries.remove(&self.ticket).is_some() {
            self.line.waiting.store(inner.entries.len() as u32, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(line: &Line<u32>, serial: u32, what: u32) -> bool {
        line.take_first(serial).is_some_and(|turn| turn.send(what).is_ok())
    }

    #[tokio::test]
    async fn who_came_first_is_served_first_and_nobody_beyond_the_bound_waits() {
        let line = Arc::<Line<u32>>::default();
        let mut places: Vec<_> = (0..3).map(|_| line.join(3, None).expect("there is room for three")).collect();
        assert!(line.join(3, None).is_none() && line.join(0, None).is_none());
        assert_eq!(line.len(), 3);
        for what in 0..3 {
            assert!(served(&line, 7, what));
        }
        assert!(line.is_empty() && !served(&line, 7, 3));
        for (what, place) in (0..).zip(&mut places) {
            assert_eq!(place.turn().await, Some(what));
        }
    }

    #[tokio::test]
    async fn who_leaves_is_passed_over_and_who_would_not_go_there_keeps_its_place() {
        let line = Arc::<Line<u32>>::default();
        let mut to_two = line.join(9, Some([2].into())).expect("room");
        let left = line.join(9, None).expect("room");
        let mut to_any = line.join(9, None).expect("room");
        drop(left);
        assert_eq!(line.len(), 2);
        assert!(served(&line, 1, 10));
        assert_eq!(to_any.turn().await, Some(10));
        assert!(!served(&line, 1, 11), "the first one would not go there");
        let before = line.changes();
        to_two.goes_to([1, 2].into());
        assert_ne!(line.changes(), before);
        assert!(served(&line, 1, 12));
        assert_eq!(to_two.turn().await, Some(12));
    }
}
