//! Keeps what we know of backends and pools across reloads, by name and never by a setting.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::backend::{Backend, BackendId};
use super::room::{PoolLine, Room, Wishes};
use super::state::PoolState;
use crate::telemetry::counters::PoolCounters;
use crate::telemetry::events::Events;

/// Every backend and pool this process has come to know. Used by the control plane only.
#[derive(Debug)]
pub struct Registry {
    workers: usize,
    events: Events,
    /// Notified when anything changes that counts for a pool as a whole.
    changed: Arc<Notify>,
    wishes: Arc<Wishes>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    backends: HashMap<BackendId, Arc<Backend>>,
    pools: HashMap<Arc<str>, Arc<PoolCounters>>,
    states: HashMap<Arc<str>, Arc<PoolState>>,
    lines: HashMap<Arc<str>, Arc<PoolLine>>,
    next_serial: u32,
}

impl Registry {
    /// An empty one, for this many workers. What happens to its backends is told to nobody.
    pub fn new(workers: usize) -> Self {
        Self::telling(workers, Events::default())
    }

    /// An empty one, whose backends tell here what happens to them.
    pub fn telling(workers: usize, events: Events) -> Self {
        let wishes = Arc::new(Wishes::new(workers));
        Self { workers, events, changed: Arc::default(), wishes, inner: Mutex::default() }
    }

    /// How many workers the counters are made for.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// The backend of this name, the same one at every call.
    pub fn backend(&self, id: &BackendId, now: Instant) -> Arc<Backend> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(backend) = inner.backends.get(id) {
            return Arc::clone(backend);
        }
        let pool = self.state_in(&mut inner, &id.pool, now);
        let serial = inner.next_serial;
        inner.next_serial += 1;
        let room = Room::new(serial, inner.line(&id.pool), Arc::clone(&self.wishes));
        let backend = Arc::new(Backend::new(id.clone(), room, serial, self.workers, self.events.clone(), pool, now));
        inner.backends.insert(id.clone(), Arc::clone(&backend));
        backend
    }

    /// The counters of the pool of this name.
    pub fn pool(&self, name: &Arc<str>) -> Arc<PoolCounters> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(inner.pools.entry(Arc::clone(name)).or_insert_with(|| Arc::new(PoolCounters::new(self.workers))))
    }

    /// What is known of the pool of this name as a whole.
    pub fn pool_state(&self, name: &Arc<str>, now: Instant) -> Arc<PoolState> {
        self.state_in(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner), name, now)
    }

    fn state_in(&self, inner: &mut Inner, name: &Arc<str>, now: Instant) -> Arc<PoolState> {
        let new = || Arc::new(PoolState::new(Arc::clone(name), self.events.clone(), Arc::clone(&self.changed), now));
        Arc::clone(inner.states.entry(Arc::clone(name)).or_insert_with(new))
    }

    /// Waits until something has changed since it was last asked that counts for a pool as a whole. For one task.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Where requests wait for any backend of the pool of this name.
    pub fn line(&self, name: &Arc<str>) -> Arc<PoolLine> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).line(name)
    }

    /// How workers ask one another for connections.
    pub fn wishes(&self) -> &Arc<Wishes> {
        &self.wishes
    }

    /// Forgets every backend and pool that is not named here, once their last request has ended.
    pub fn retain(&self, backends: &HashSet<BackendId>, pools: &HashSet<Arc<str>>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.backends.retain(|id, _| backends.contains(id));
        inner.pools.retain(|name, _| pools.contains(name));
        inner.states.retain(|name, _| pools.contains(name));
        inner.lines.retain(|name, _| pools.contains(name));
    }
}

impl Inner {
    fn line(&mut self, pool: &Arc<str>) -> Arc<PoolLine> {
        Arc::clone(self.lines.entry(Arc::clone(pool)).or_default())
    }
}
