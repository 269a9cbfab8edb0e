//! One generation as one worker sees it: the shared snapshot, and what the worker keeps for itself beside it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

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
}

/// What a worker keeps of a pool.
#[derive(Debug)]
pub struct Local {
    /// The balancer with its own position.
    pub balancer: RefCell<Balancer>,
    /// Draws the ids of new pins.
    pub new_ids: RefCell<NewIds>,
    /// How long replies take to begin; only where that decides when a second backend is asked.
    pub reply_times: Option<RefCell<ReplyTimes>>,
    budget: Cell<f64>,
    share: f64,
}

impl View {
    /// Begins a generation.
    pub fn new(snapshot: Arc<Snapshot>, worker: usize) -> Self {
        let local = |pool: &Pool| Local {
            balancer: RefCell::new(Balancer::new(pool.settings.balance, &pool.members, worker)),
            new_ids: RefCell::default(),
            reply_times: pool.settings.retry.hedge_after.map(|after| RefCell::new(ReplyTimes::new(after))),
            budget: Cell::new(BUDGET_FLOOR),
            share: pool.settings.retry.budget.fraction(),
        };
        let locals = snapshot.pools.iter().map(local).collect();
        Self { snapshot, locals }
    }

    /// One pool.
    pub fn pool(&self, index: usize) -> &Pool {
        &self.snapshot.pools[index]
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
