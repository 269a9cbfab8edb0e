//! One generation as one worker sees it: the shared snapshot, and what the worker keeps for itself beside it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::accept::https::Https;
use super::affinity::NewIds;
use super::balance::Balancer;
use super::reply_times::ReplyTimes;
use super::snapshot::{Pool, Snapshot};
use crate::pool::{Member, Turn};

/// Retries that a pool may always make, however little traffic it has.
const BUDGET_FLOOR: f64 = 50.0;

/// Retries that quiet times can save up.
const BUDGET_CEILING: f64 = 1000.0;

/// A worker's handle on a generation. Cloned for each request, which touches no other core's cache.
#[derive(Debug)]
pub struct View {
    /// What all workers share.
    pub snapshot: Arc<Snapshot>,
    /// By pool.
    locals: Vec<Local>,
    /// By listener.
    https: Vec<Https>,
}

/// What a worker keeps of a pool.
#[derive(Debug)]
pub struct Local {
    /// The balancer with its own position.
    pub balancer: RefCell<Balancer>,
    /// Draws the ids of new pins.
    pub new_ids: RefCell<NewIds>,
    /// How long replies take to begin; only where that decides when a second backend is asked.
    pub reply_times: Option<Rc<RefCell<ReplyTimes>>>,
    /// As the reply times, it is the one of the generation before, if the pool was there: generations may follow one another
    /// as fast as agents change their weights.
    budget: Rc<Cell<f64>>,
    share: f64,
}

impl View {
    /// Begins the first generation.
    pub fn new(snapshot: Arc<Snapshot>, worker: usize) -> Self {
        Self::begin(snapshot, worker, |_| None)
    }

    /// Begins the next one, which goes on with what this one has learned.
    pub fn next(&self, snapshot: Arc<Snapshot>, worker: usize) -> Self {
        let pools: HashMap<_, _> = self
            .snapshot
            .pools
            .iter()
            .zip(&self.locals)
            .map(|(pool, local)| (&*pool.settings.name, (pool, local)))
            .collect();
        Self::begin(snapshot, worker, |pool| pools.get(&*pool.settings.name).copied())
    }

    fn begin<'a>(
        snapshot: Arc<Snapshot>,
        worker: usize,
        before: impl Fn(&Pool) -> Option<(&'a Pool, &'a Local)>,
    ) -> Self {
        let local = |pool: &Pool| {
            let hedge_after = pool.settings.retry.hedge_after;
            let before = before(pool);
            let times_before = before.filter(|(before, _)| before.settings.retry.hedge_after == hedge_after);
            Local {
                balancer: RefCell::new(Balancer::new(pool.settings.balance, &pool.members, worker)),
                new_ids: RefCell::default(),
                reply_times: times_before
                    .and_then(|(_, local)| local.reply_times.clone())
                    .or_else(|| hedge_after.map(|after| Rc::new(RefCell::new(ReplyTimes::new(after))))),
                budget: before.map_or_else(|| Rc::new(Cell::new(BUDGET_FLOOR)), |(_, local)| Rc::clone(&local.budget)),
                share: pool.settings.retry.budget.fraction(),
            }
        };
        let locals = snapshot.pools.iter().map(local).collect();
        let https = snapshot.listeners.iter().map(Https::new).collect();
        Self { snapshot, locals, https }
    }

    /// One pool.
    pub fn pool(&self, index: usize) -> &Pool {
        &self.snapshot.pools[index]
    }

    /// What a listener says about https.
    pub fn https(&self, listener: usize) -> &Https {
        &self.https[listener]
    }

    /// What this worker keeps of it.
    pub fn local(&self, index: usize) -> &Local {
        &self.locals[index]
    }
}

impl Local {
    /// Each request earns a share of a retry.
    pub fn earn_retry(&self) {
        self.budget.set((self.budget.get() + self.share).min(BUDGET_CEILING));
    }

    /// Whether a retry is left; takes it.
    pub fn spend_retry(&self) -> bool {
        let left = self.budget.get();
        if left >= 1.0 {
            self.budget.set(left - 1.0);
        }
        left >= 1.0
    }
}

/// One request in flight at a backend; counted until dropped: by its last byte, an error, or a client that left.
pub struct Slot {
    view: Rc<View>,
    pool: usize,
    member: usize,
}

impl Slot {
    /// Counts one more, if the backend has room for it.
    pub fn try_hold(view: &Rc<View>, pool: usize, member: usize) -> Option<Self> {
        let has_room = view.pool(pool).members[member].backend.try_begin_request();
        has_room.then(|| Self { view: Rc::clone(view), pool, member })
    }

    /// Room that was waited for, and is counted already.
    pub fn of_turn(view: &Rc<View>, pool: usize, member: usize, turn: Turn) -> Self {
        turn.keep();
        Self { view: Rc::clone(view), pool, member }
    }

    /// Where it is.
    pub fn member(&self) -> &Member {
        &self.view.pool(self.pool).members[self.member]
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.member().backend.end_request();
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slot").field(self.member().backend.id()).finish()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::config::Config;
    use crate::pool::Registry;
    use crate::proxy::affinity::KeyRing;
    use crate::proxy::snapshot::Lasting;

    /// Each generation began with a full budget and no times: where agents change weights every second, retries had no
    /// bound, and nobody ever was slower than others.
    #[test]
    fn the_next_generation_goes_on_with_the_budget_and_the_times_of_this_one() {
        let lasting = Lasting::for_tests(&Arc::new(Registry::new(1)));
        let snapshot = |pool: &str| {
            let text = format!(
                "listeners: [127.0.0.1:0]\npools: {{ {pool}: {{ sessions: external, retry: {{ hedge_after: p95, budget: 0% }}, \
                 backends: [127.0.0.1:1] }} }}"
            );
            let config = Config::parse("test.yaml", &text).unwrap_or_else(|problems| panic!("{problems}"));
            let keys = KeyRing::parse("000102030405060708090a0b0c0d0e0f").expect("a ring");
            Arc::new(Snapshot::new(&config, &keys, &lasting, 1, Instant::now()))
        };
        let first = View::new(snapshot("shop"), 0);
        while first.local(0).spend_retry() {}
        let times = |view: &View| view.local(0).reply_times.clone().expect("it hedges");
        let second = first.next(snapshot("shop"), 0);
        assert!(!second.local(0).spend_retry());
        assert!(Rc::ptr_eq(&times(&first), &times(&second)));
        let other = second.next(snapshot("blog"), 0);
        assert!(other.local(0).spend_retry() && !Rc::ptr_eq(&times(&first), &times(&other)));
    }
}
