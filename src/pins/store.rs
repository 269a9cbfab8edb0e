//! The pins of each pool as the data path sees them: in memory, and shared with other replicas where that is wanted.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, iter};

use arc_swap::ArcSwapOption;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::memory::Memory;
use super::redis::{Basis, Change, Fetch, Link, Settings, Write};
pub use super::shelf::Limits;
use super::shelf::Shelf;
use super::{Owner, PinKey, Record};
use crate::config;

/// Every pool's pin store, by name. What they know outlives reloads.
#[derive(Debug)]
pub struct Stores {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    pools: HashMap<Arc<str>, Arc<PinStore>>,
    shared: Option<Shared>,
}

/// The store that is shared, and the connection to it: one for the whole process.
#[derive(Clone, Debug)]
struct Shared {
    settings: Settings,
    way: Arc<Way>,
}

/// The way to the shared store, and how long a request may wait on it.
#[derive(Debug)]
struct Way {
    link: Arc<Link>,
    lookup_timeout: Duration,
}

impl Stores {
    /// None yet. With a shared store among the settings, its thread is started and connects; that is not waited for, as
    /// everything works without it.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(settings: &config::PinStore) -> io::Result<Self> {
        let shared = settings.redis.as_ref().map(|redis| Shared::start(redis, iter::empty())).transpose()?;
        Ok(Self { inner: Mutex::new(Inner { pools: HashMap::new(), shared }) })
    }

    /// Takes over the shared store of a reload, for the pools there are and those to come. Another shared store is given what
    /// is in memory here; what waits to be written to the old one still is, within a second.
    ///
    /// # Errors
    /// When the thread for another shared store cannot be started. Nothing has changed then.
    pub fn configure(&self, settings: &config::PinStore) -> io::Result<()> {
        let mut inner = self.inner();
        let shared = match (&settings.redis, &inner.shared) {
            (Some(redis), Some(known)) if Settings::from(redis) == known.settings => Some(known.waiting(redis)),
            (Some(redis), _) => Some(Shared::start(redis, inner.pools.values().map(|pool| Arc::clone(&pool.shelf)))?),
            (None, _) => None,
        };
        inner.shared = shared;
        for pool in inner.pools.values() {
            pool.configure(inner.shared.as_ref());
        }
        Ok(())
    }

    /// The store of the pool of this name, the same one at every call. The bounds are those of its beginning: pins do not move
    /// to a larger or smaller room.
    pub fn pool(&self, name: &Arc<str>, settings: &config::PinStore) -> Arc<PinStore> {
        let mut inner = self.inner();
        let shared = inner.shared.clone();
        let pool = inner.pools.entry(Arc::clone(name)).or_insert_with(|| {
            let memory = Memory::new(settings.max_pins, settings.max_pins_per_client);
            Arc::new(PinStore { shelf: Arc::new(Shelf::new(name, memory)), way: ArcSwapOption::empty() })
        });
        pool.configure(shared.as_ref());
        Arc::clone(pool)
    }

    /// Forgets the pools that are not named here, once their last request has ended. Their pins stay in the shared store.
    pub fn retain(&self, names: &HashSet<Arc<str>>) {
        let mut inner = self.inner();
        inner.pools.retain(|name, _| names.contains(name));
        if let Some(shared) = &inner.shared {
            shared.way.link.retain(|name| names.contains(name));
        }
    }

    /// Writes what is pending to the shared store, for as long as that, and lets go of it. What is put afterwards stays in
    /// memory.
    pub async fn stop(&self, within: Duration) {
        let link = self.inner().shared.as_ref().map(|shared| Arc::clone(&shared.way.link));
        if let Some(link) = link {
            link.stop(within).await;
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn start(redis: &config::RedisStore, shelves: impl Iterator<Item = Arc<Shelf>>) -> io::Result<Self> {
        let settings = Settings::from(redis);
        let link = Arc::new(Link::start(settings.clone(), shelves)?);
        Ok(Self { settings, way: Arc::new(Way { link, lookup_timeout: redis.lookup_timeout }) })
    }

    /// The same one, with another time to wait.
    fn waiting(&self, redis: &config::RedisStore) -> Self {
        let way = Way { link: Arc::clone(&self.way.link), lookup_timeout: redis.lookup_timeout };
        Self { settings: self.settings.clone(), way: Arc::new(way) }
    }
}

impl From<&config::RedisStore> for Settings {
    fn from(redis: &config::RedisStore) -> Self {
        Self { url: Arc::clone(&redis.url), password_file: redis.password_file.clone() }
    }
}

/// The pins of one pool.
///
/// Times in records are wall-clock seconds. Whether a record is expired is the caller's business; where the store is
/// shared, one that is expired here may have been used at another replica since, so it is worth a [`PinStore::fetch`].
#[derive(Debug)]
pub struct PinStore {
    shelf: Arc<Shelf>,
    /// `None`: the pins are this process's own.
    way: ArcSwapOption<Way>,
}

impl PinStore {
    /// What is known of a pin in this process. Constant time; neither waits nor asks anybody.
    pub fn get(&self, key: PinKey) -> Option<Record> {
        self.shelf.memory.get(key)
    }

    /// From now on moves that other replicas tell of are kept, also of pins that are not known here.
    pub fn follow_moves(&self) {
        self.shelf.follows_moves.store(true, Relaxed);
    }

    /// How long a request may wait for the shared store; zero without one.
    pub fn lookup_timeout(&self) -> Duration {
        self.way.load().as_ref().map_or(Duration::ZERO, |way| way.lookup_timeout)
    }

    /// Whether other replicas share the pins, so that one that is not known here is worth a [`PinStore::fetch`].
    pub fn is_shared(&self) -> bool {
        self.way.load().is_some()
    }

    /// Asks the shared store for a pin, and keeps what it finds in memory, as this owner's.
    ///
    /// Waits for the lookup time-out at most, and not at all while the store is known to be away. `None`: not known, or no
    /// answer.
    pub async fn fetch(&self, key: PinKey, owner: Owner, limits: Limits) -> Option<Record> {
        let way = self.way.load_full()?;
        if !way.link.is_connected() {
            return None;
        }
        let (answer, found) = oneshot::channel();
        let known = self.shelf.memory.get(key);
        way.link.fetch(Fetch { shelf: Arc::clone(&self.shelf), key, known, owner, limits, answer });
        match timeout(way.lookup_timeout, found).await {
            Ok(found) => found.ok().flatten(),
            Err(_) => {
                self.shelf.lookups_timed_out.fetch_add(1, Relaxed);
                None
            }
        }
    }

    /// Keeps a pin: in memory at once, in the shared store soon. Where another replica has moved the pin meanwhile, its
    /// word holds, and memory is put right.
    pub fn put(&self, key: PinKey, record: Record, owner: Owner, limits: Limits) {
        let basis = self.shelf.memory.get(key).map_or(Basis::Learned, |known| Basis::From(known.home));
        self.shelf.put(key, record, owner, limits);
        self.write(key, Change::Put { record, basis, owner, limits });
    }

    /// Gives a pin another home, if it still has the one it is believed to have, and returns what holds then: `to`, or
    /// where another replica has moved it meanwhile.
    ///
    /// Waits for the lookup time-out at most. Without an answer `to` holds, and is written later, under the same condition.
    pub async fn rehome(&self, key: PinKey, from: u64, to: Record, owner: Owner, limits: Limits) -> Record {
        let change = Change::Put { record: to, basis: Basis::From(from), owner, limits };
        if let Some(way) = self.way.load_full() {
            if way.link.is_connected() {
                let (write, stored) = Write::asking(&self.shelf, change);
                way.link.write(key, write);
                match timeout(way.lookup_timeout, stored).await {
                    Ok(Ok(stored)) => return stored,
                    Ok(Err(_)) => {}
                    Err(_) => {
                        self.shelf.lookups_timed_out.fetch_add(1, Relaxed);
                    }
                }
            } else {
                way.link.write(key, Write::new(&self.shelf, change));
            }
        }
        self.decide(key, from, to, owner, limits)
    }

    /// Gives a key that has no pin, as far as is known here, this one made just now, and returns what holds then: `wanted`, or what
    /// somebody else has given it meanwhile, in this process or at another replica.
    ///
    /// Waits for the lookup time-out at most, and only where the store is shared.
    pub async fn claim(&self, key: PinKey, wanted: Record, owner: Owner, limits: Limits) -> Record {
        let way = self.way.load_full();
        self.shelf.drop_expired(key, limits, wanted.refreshed);
        // Who believes that the pin is where it is to be gives way to every other home, and to none if there is no pin.
        let change = Change::Put { record: wanted, basis: Basis::From(wanted.home), owner, limits };
        if let Some(way) = way.as_ref().filter(|way| way.link.is_connected()) {
            let (write, stored) = Write::asking(&self.shelf, change);
            way.link.write(key, write);
            match timeout(way.lookup_timeout, stored).await {
                Ok(Ok(stored)) => return stored,
                Ok(Err(_)) => {}
                Err(_) => {
                    self.shelf.lookups_timed_out.fetch_add(1, Relaxed);
                }
            }
            return self.shelf.claim(key, wanted, owner, limits);
        }
        let claimed = self.shelf.claim(key, wanted, owner, limits);
        if let Some(way) = way.filter(|_| claimed == wanted) {
            way.link.write(key, Write::new(&self.shelf, change));
        }
        claimed
    }

    /// Forgets a pin, everywhere.
    pub fn remove(&self, key: PinKey) {
        self.shelf.memory.remove(key);
        self.write(key, Change::Remove);
    }

    /// How many pins each home has in this process, of those that are active.
    pub fn count_by_home(&self, is_active: impl Fn(&Record) -> bool) -> HashMap<u64, u64> {
        self.shelf.memory.count_by_home(is_active)
    }

    /// How things stand, for metrics and the admin endpoint.
    pub fn standing(&self) -> Standing {
        let shelf = &self.shelf;
        Standing {
            pins: shelf.memory.len(),
            evictions: shelf.memory.evictions(),
            shared: self.way.load().as_ref().map(|way| SharedStanding {
                connected: way.link.is_connected(),
                pending: shelf.pending.load(Relaxed),
                dropped: shelf.dropped.load(Relaxed),
                lookups_timed_out: shelf.lookups_timed_out.load(Relaxed),
            }),
        }
    }

    /// Goes by this process's own decision, unless it has heard of another replica's by now.
    fn decide(&self, key: PinKey, from: u64, to: Record, owner: Owner, limits: Limits) -> Record {
        match self.shelf.memory.get(key) {
            Some(known) if known.home != from => known,
            _ => {
                self.shelf.put(key, to, owner, limits);
                to
            }
        }
    }

    fn write(&self, key: PinKey, change: Change) {
        if let Some(way) = &*self.way.load() {
            way.link.write(key, Write::new(&self.shelf, change));
        }
    }

    fn configure(&self, shared: Option<&Shared>) {
        if let Some(shared) = shared {
            shared.way.link.add(&self.shelf);
        }
        self.way.store(shared.map(|shared| Arc::clone(&shared.way)));
    }
}

/// See [`PinStore::standing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Pins in memory.
    pub pins: usize,
    /// Pins that had to go from memory for want of room.
    pub evictions: u64,
    /// `None` when the pins are this process's own.
    pub shared: Option<SharedStanding>,
}

/// How things stand with the shared store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedStanding {
    /// Whether it is there.
    pub connected: bool,
    /// Changes of this pool that are not written yet.
    pub pending: usize,
    /// Changes that were given up, because too many were waiting or the store did not take them.
    pub dropped: u64,
    /// Lookups and moves that had no answer in time.
    pub lookups_timed_out: u64,
}
