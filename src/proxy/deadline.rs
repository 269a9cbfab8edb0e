//! Deadlines that cost a request nothing but a store: one ticking task a worker looks at all of them.
//!
//! A timer of the runtime's own takes a lock and a place in a wheel for every wait, though nearly all of them are
//! given up a moment later. Here setting a deadline is writing one field, and [`Deadlines::tick`], called every
//! [`TICK`], wakes whoever is late. So a deadline is kept to within one tick, never early.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use slab::Slab;
use tokio::time::Instant;

use crate::clock::unix_seconds;

/// How late a deadline may be noticed.
pub(super) const TICK: Duration = Duration::from_millis(50);

/// All deadlines of one worker, and its coarse clock.
#[derive(Debug)]
pub struct Deadlines {
    slots: RefCell<Slab<Rc<Slot>>>,
    now: Cell<Instant>,
    wall_seconds: Cell<u32>,
}

#[derive(Debug, Default)]
struct Slot {
    at: Cell<Option<Instant>>,
    waker: RefCell<Option<Waker>>,
}

impl Deadlines {
    /// None yet.
    pub fn new(now: Instant, wall: SystemTime) -> Self {
        Self { slots: RefCell::default(), now: Cell::new(now), wall_seconds: Cell::new(unix_seconds(wall)) }
    }

    /// The time as of the last tick: at most [`TICK`] ago, and free.
    pub fn coarse_now(&self) -> Instant {
        self.now.get()
    }

    /// The wall clock as of the last tick, in whole seconds: pins have to mean the same to every replica and after every
    /// restart.
    pub fn wall_seconds(&self) -> u32 {
        self.wall_seconds.get()
    }

    /// Takes the time, and wakes everybody whose deadline has passed. Linear in the number of deadlines.
    pub fn tick(&self, now: Instant, wall: SystemTime) {
        self.now.set(now);
        self.wall_seconds.set(unix_seconds(wall));
        for (_, slot) in self.slots.borrow().iter() {
            if slot.at.get().is_some_and(|at| at <= now)
                && let Some(waker) = slot.waker.borrow().as_ref()
            {
                waker.wake_by_ref();
            }
        }
    }

    /// Wakes everybody, for a reason of the caller's.
    pub fn wake_all(&self) {
        for (_, slot) in self.slots.borrow().iter() {
            if let Some(waker) = slot.waker.borrow().as_ref() {
                waker.wake_by_ref();
            }
        }
    }

    /// A place for one deadline at a time, not set yet.
    pub fn place(self: &Rc<Self>) -> Deadline {
        let slot = Rc::<Slot>::default();
        let key = self.slots.borrow_mut().insert(Rc::clone(&slot));
        Deadline { all: Rc::clone(self), slot, key }
    }
}

/// One deadline, which can be set again and again. Used by one task.
#[derive(Debug)]
pub struct Deadline {
    all: Rc<Deadlines>,
    slot: Rc<Slot>,
    key: usize,
}

impl Deadline {
    /// Sets it to this long from the last tick, plus one tick, so that it is never early.
    pub fn set(&self, timeout: Duration) {
        self.slot.at.set(self.all.coarse_now().checked_add(timeout + TICK));
    }

    /// Sets it likewise, but no later than `end`.
    pub fn set_before(&self, timeout: Duration, end: Option<Instant>) {
        self.set(timeout);
        if end.is_some() {
            self.slot.at.set(self.slot.at.get().into_iter().chain(end).min());
        }
    }

    /// Takes it back.
    pub fn clear(&self) {
        self.slot.at.set(None);
    }

    /// Whether it has passed.
    pub fn has_passed(&self) -> bool {
        self.slot.at.get().is_some_and(|at| at <= self.all.coarse_now())
    }

    /// Ready once it has passed; otherwise wakes this task when it does.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.has_passed() {
            return Poll::Ready(());
        }
        let mut waker = self.slot.waker.borrow_mut();
        match waker.as_mut() {
            // The common case: a connection's task keeps its waker, and nothing is cloned.
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.all.slots.borrow_mut().remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_noticed_by_the_first_tick_after_it_and_never_before() {
        let start = Instant::now();
        let all = Rc::new(Deadlines::new(start, SystemTime::UNIX_EPOCH));
        let deadline = all.place();
        let cx = Context::from_waker(Waker::noop());
        assert_eq!(deadline.poll(&cx), Poll::Pending);
        deadline.set(Duration::from_secs(1));
        all.tick(start + Duration::from_millis(1000), SystemTime::UNIX_EPOCH);
        assert_eq!(deadline.poll(&cx), Poll::Pending);
        all.tick(start + Duration::from_millis(1050), SystemTime::UNIX_EPOCH);
        assert_eq!(deadline.poll(&cx), Poll::Ready(()));
        deadline.set(Duration::from_secs(1));
        assert_eq!(deadline.poll(&cx), Poll::Pending);
        deadline.clear();
        all.tick(start + Duration::from_secs(60), SystemTime::UNIX_EPOCH);
        assert_eq!(deadline.poll(&cx), Poll::Pending);
    }

    #[test]
    fn a_wall_clock_that_is_set_back_or_forth_moves_no_deadline() {
        let (start, wall) = (Instant::now(), SystemTime::UNIX_EPOCH + Duration::from_secs(100_000));
        let all = Rc::new(Deadlines::new(start, wall));
        let deadline = all.place();
        deadline.set(Duration::from_secs(1));
        let back = wall - Duration::from_secs(3600);
        all.tick(start + Duration::from_millis(1000), back);
        assert!(!deadline.has_passed());
        assert_eq!(all.wall_seconds(), unix_seconds(back));
        all.tick(start + Duration::from_millis(1050), wall + Duration::from_secs(3600));
        assert!(deadline.has_passed());
    }

    #[test]
    fn a_dropped_deadline_leaves_nothing_behind() {
        let all = Rc::new(Deadlines::new(Instant::now(), SystemTime::UNIX_EPOCH));
        let (first, second) = (all.place(), all.place());
        drop(first);
        assert_eq!(all.slots.borrow().len(), 1);
        drop(second);
        assert!(all.slots.borrow().is_empty());
    }

    #[test]
    fn a_timeout_beyond_the_end_of_time_never_comes() {
        let all = Rc::new(Deadlines::new(Instant::now(), SystemTime::UNIX_EPOCH));
        let deadline = all.place();
        deadline.set(Duration::from_secs(u64::MAX / 2));
        assert!(!deadline.has_passed());
    }
}
