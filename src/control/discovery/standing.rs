//! How things stand with each source, for those who look: the API, the metrics, readiness.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::config::Source;

/// One source of one pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// What is looked at, as in `a app.example port 8080`.
    pub subject: String,
    /// Backends of its last good list.
    pub backends: usize,
    /// Looks that gave no list.
    pub failures: u64,
    /// When the last good list was had; `None` in this process not yet.
    pub last_success: Option<SystemTime>,
    /// Why the latest look gave none; `None` when it did.
    pub error: Option<String>,
    /// Its list was had by an earlier process.
    pub is_restored: bool,
}

/// Every source of every pool, in the order of names. Clones share it. Written by whoever reloads; never on the path of a
/// request.
#[derive(Clone, Debug, Default)]
pub struct Standings(Arc<Mutex<BySource>>);

type BySource = BTreeMap<(Arc<str>, Source), Standing>;

impl Standings {
    /// The sources of one pool.
    pub fn of(&self, pool: &str) -> Vec<(Source, Standing)> {
        let all = self.lock();
        let from = (Arc::from(pool), Source::File);
        let of_pool = all.range(from..).take_while(|((name, _), _)| **name == *pool);
        of_pool.map(|((_, source), standing)| (*source, standing.clone())).collect()
    }

    /// Whether every source has given a list, now or to an earlier process.
    pub fn are_in(&self) -> bool {
        self.lock().values().all(|standing| standing.last_success.is_some() || standing.is_restored)
    }

    /// Keeps those that are asked for, and begins with the others.
    pub(super) fn follow(&self, asked: impl Iterator<Item = ((Arc<str>, Source), String)>) {
        let mut all = self.lock();
        let mut before = std::mem::take(&mut *all);
        for (key, subject) in asked {
            let standing = Standing { subject, ..before.remove(&key).unwrap_or_default() };
            all.insert(key, standing);
        }
    }

    /// Changes one, if it is still asked for.
    pub(super) fn change<T>(
        &self,
        pool: &Arc<str>,
        source: Source,
        change: impl FnOnce(&mut Standing) -> T,
    ) -> Option<T> {
        self.lock().get_mut(&(Arc::clone(pool), source)).map(change)
    }

    fn lock(&self) -> MutexGuard<'_, BySource> {
        // Every holder only assigns plain values, so a poisoned lock still guards a consistent state.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
