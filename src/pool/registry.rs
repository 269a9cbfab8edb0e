//! Keeps what we know of backends and pools across reloads, by name and never by a setting.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::backend::{Backend, BackendId};
use super::trial::Trial;
use crate::telemetry::counters::PoolCounters;
use crate::telemetry::events::Events;

/// Every backend and pool this process has come to know. Used by the control plane only.
#[derive(Debug)]
pub struct Registry {
    workers: usize,
    events: Events,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    backends: HashMap<BackendId, Arc<Backend>>,
    pools: HashMap<Arc<str>, Arc<PoolCounters>>,
    trials: HashMap<Arc<str>, Arc<Trial>>,
    next_serial: u32,
}

impl Registry {
    /// An empty one, for this many workers. What happens to its backends is told to nobody.
    pub fn new(workers: usize) -> Self {
        Self::telling(workers, Events::default())
    }

    /// An empty one, whose backends tell here what happens to them.
    pub fn telling(workers: usize, events: Events) -> Self {
        Self { workers, events, inner: Mutex::default() }
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
        let backend = Arc::new(Backend::new(id.clone(), inner.next_serial, self.workers, self.events.clone(), now));
        inner.next_serial += 1;
        inner.backends.insert(id.clone(), Arc::clone(&backend));
        backend
    }

    /// The counters of the pool of this name.
    pub fn pool(&self, name: &Arc<str>) -> Arc<PoolCounters> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(inner.pools.entry(Arc::clone(name)).or_insert_with(|| Arc::new(PoolCounters::new(self.workers))))
    }

    /// The place for a new client at a backend on probation in the pool of this name.
    pub fn trial(&self, name: &Arc<str>) -> Arc<Trial> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(inner.trials.entry(Arc::clone(name)).or_default())
    }

    /// Forgets every backend and pool that is not named here, once their last request has ended.
    pub fn retain(&self, backends: &HashSet<BackendId>, pools: &HashSet<Arc<str>>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.backends.retain(|id, _| backends.contains(id));
        inner.pools.retain(|name, _| pools.contains(name));
        inner.trials.retain(|name, _| pools.contains(name));
    }
}
