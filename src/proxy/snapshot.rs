//! Snapshot: all that one request needs, immutable, swapped whole.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::Instant;

use super::accept::route::Routes;
use super::affinity::known_keys::KnownKeys;
use super::affinity::{AffinityKeys, CookieName, KeyRing, Limits, PoolPins, SessionPins, SetCookie};
use super::balance::hash::{Homes, Tables};
use super::balance::newcomers::Newcomers;
use super::gate::Gates;
use crate::config::{
    self, AccessLogTarget, Config, CookieAffinity, HomeBy, PinOn, SendProxyProtocol, TrustedProxies, WithoutKey,
};
use crate::pins::{PinStore, Stores};
use crate::pool::recent::RecentPins;
use crate::pool::sessions::Permits;
use crate::pool::trial::Trial;
use crate::pool::{BackendId, Member, PoolLine, PoolState, Registry, Warming, Wishes};
use crate::telemetry::counters::PoolCounters;

/// A client that is pinned by hash counts as active for this long after its last request.
const HASH_IDLE: Duration = Duration::from_secs(30 * 60);

/// What outlives every snapshot.
#[derive(Clone, Debug)]
pub struct Lasting {
    /// Backends and what is known of them.
    pub registry: Arc<Registry>,
    /// Pin stores.
    pub stores: Arc<Stores>,
    /// Gates for the parallel requests of one client.
    pub gates: Arc<Gates>,
    /// Tables in which keys find their homes.
    pub tables: Arc<Tables>,
    /// Pins whose loss, or whose move from a backend that was removed, was told a moment ago.
    pub told: Arc<Mutex<RecentPins>>,
}

impl Lasting {
    /// For [`Lasting::told`], to begin with.
    pub fn nothing_told() -> Arc<Mutex<RecentPins>> {
        Arc::new(Mutex::new(RecentPins::new(Instant::now())))
    }
}

#[cfg(test)]
impl Lasting {
    /// For a test that has a registry.
    pub(crate) fn for_tests(registry: &Arc<Registry>) -> Self {
        let settings = config::PinStore { max_pins: 1024, max_pins_per_client: 1024, redis: None };
        let stores = Stores::start(&settings).expect("no thread is needed without Redis");
        Self {
            registry: Arc::clone(registry),
            stores: Arc::new(stores),
            gates: Arc::default(),
            tables: Arc::default(),
            told: Self::nothing_told(),
        }
    }
}

/// One generation of the configuration, joined with the lasting state of its backends.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts up from 1 with every publication.
    pub generation: u64,
    /// As bound, with what a reload may change in them.
    pub listeners: Vec<config::Listener>,
    /// Host and path to pool.
    pub routes: Routes,
    /// In file order; routes name them by index.
    pub pools: Vec<Pool>,
    /// Whether there is an access log.
    pub keeps_log: bool,
    /// Who may speak for other clients.
    pub trusted_proxies: Arc<TrustedProxies>,
    /// Where parallel requests of one client wait for the first.
    pub gates: Arc<Gates>,
    /// See [`Lasting::told`].
    pub told: Arc<Mutex<RecentPins>>,
    /// How workers ask one another for connections.
    pub wishes: Arc<Wishes>,
}

/// One pool of a snapshot.
#[derive(Debug)]
pub struct Pool {
    /// What the file says.
    pub settings: config::Pool,
    /// Its backends, in file order.
    pub members: Vec<Member>,
    /// Its counters, which outlive the snapshot.
    pub counters: Arc<PoolCounters>,
    /// What is known of it as a whole, which outlives the snapshot too.
    pub state: Arc<PoolState>,
    /// Where requests wait for any of its backends; outlives the snapshot, too.
    pub line: Arc<PoolLine>,
    /// Any of its backends can be full of requests.
    pub is_bounded: bool,
    /// What may be done to its pinned clients.
    pub permits: Permits,
    /// How its clients keep coming back.
    pub affinity: Affinity,
    /// How long its pins live.
    pub limits: Limits,
    /// A pin unused for this long is not active any more.
    pub idle_timeout: Duration,
    /// A pin that was last sealed so many seconds ago is sealed anew, so that use keeps it alive.
    pub refresh_after: u32,
    /// Clients whose first request is on its way.
    pub newcomers: Newcomers,
    /// The place for a new client at a backend on probation.
    pub trial: Arc<Trial>,
    /// When the snapshot was made.
    pub made_at: Instant,
}

/// Everything that is worked out once for a pool's affinity.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one a pool, and the large one is looked into with every request"
)]
pub enum Affinity {
    /// None.
    Off,
    /// By our own cookie.
    Cookie(Cookie),
    /// By the session id that the app issues.
    AppSession(Box<SessionPins>),
    /// By a hash of something that the request carries.
    Hash(Hash),
}

/// Everything that is worked out once for affinity by hash.
#[derive(Debug)]
pub struct Hash {
    /// Finds and hashes the affinity key of a request.
    pub keys: AffinityKeys,
    /// What happens without one.
    pub without_key: WithoutKey,
    /// Finds the home of a key.
    pub homes: Homes,
    /// With a bound on the load: the keys in use.
    pub bounded: Option<Bounded>,
}

/// What a bound on the load of hashing takes.
#[derive(Debug)]
pub struct Bounded {
    /// A backend with more than this many times the average gets no new key.
    pub ratio: f64,
    /// Where the keys in use live.
    pub known: KnownKeys,
}

/// Everything that is worked out once for a pool's cookie.
#[derive(Debug)]
pub struct Cookie {
    /// Finds and strips it.
    pub name: CookieName,
    /// Seals and opens pins.
    pub pins: PoolPins,
    /// When a client without a pin gets one.
    pub pin_on: PinOn,
    /// Writes it.
    pub set: SetCookie,
}

impl Snapshot {
    /// Joins a configuration with what the registry knows; forgets the backends and pools that are no longer in it.
    pub fn new(config: &Config, keys: &KeyRing, lasting: &Lasting, generation: u64, now: Instant) -> Self {
        let pools: Vec<_> =
            config.pools.iter().map(|pool| Pool::new(pool, &config.pin_store, keys, lasting, now)).collect();
        let backends: HashSet<_> =
            pools.iter().flat_map(|pool| &pool.members).map(|member| member.backend.id().clone()).collect();
        let names: HashSet<_> = pools.iter().map(|pool| Arc::clone(&pool.settings.name)).collect();
        lasting.registry.retain(&backends, &names);
        lasting.stores.retain(&names);
        lasting.tables.retain(&names);
        Self {
            generation,
            listeners: config.listeners.clone(),
            routes: Routes::new(&config.routes),
            pools,
            keeps_log: config.access_log.target != AccessLogTarget::Off,
            trusted_proxies: Arc::clone(&config.trusted_proxies),
            gates: Arc::clone(&lasting.gates),
            told: Arc::clone(&lasting.told),
            wishes: Arc::clone(lasting.registry.wishes()),
        }
    }

    /// Whether nothing was told of this pin a moment ago. Takes a lock: not for every request.
    pub fn is_first_told(&self, pin_id: u64, now: Instant) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).note(pin_id, now)
    }
}

impl Pool {
    /// Time since this snapshot was made.
    pub fn uptime(&self, now: Instant) -> Duration {
        now.duration_since(self.made_at)
    }

    /// `Some` while one of its backends may be warming.
    pub fn warming(&self, now: Instant) -> Option<Warming> {
        self.state.warming(self.settings.slow_start, now)
    }

    /// How long a client counts as active after its last request; zero where there are no pins.
    pub fn active_for(&self) -> Duration {
        if matches!(self.affinity, Affinity::Off) { Duration::ZERO } else { self.idle_timeout }
    }

    /// Whether replies are looked through for the begin of a session, also where the client is at home.
    pub fn looks_for_sessions(&self) -> bool {
        match &self.affinity {
            Affinity::Cookie(cookie) => cookie.pin_on == PinOn::SessionStart,
            Affinity::AppSession(_) => true,
            Affinity::Off | Affinity::Hash(_) => false,
        }
    }

    /// Whether the pin store counts its pins, each by name.
    pub fn counts_in_store(&self) -> bool {
        match &self.affinity {
            Affinity::AppSession(session) => session.home_by == HomeBy::Learn,
            Affinity::Hash(hash) => hash.bounded.is_some(),
            Affinity::Off | Affinity::Cookie(_) => false,
        }
    }

    /// The pin store, where it is used.
    pub fn pin_store(&self) -> Option<&Arc<PinStore>> {
        match &self.affinity {
            Affinity::AppSession(session) => Some(&session.store),
            Affinity::Hash(hash) => hash.bounded.as_ref().map(|bounded| &bounded.known.store),
            Affinity::Off | Affinity::Cookie(_) => None,
        }
    }

    /// Whether lives of backends are told apart by a header of the probe's reply.
    pub fn has_instance_names(&self) -> bool {
        matches!(&self.settings.health.probe, config::Probe::Http(probe) if probe.instance_header.is_some())
    }

    /// Copies the value of a `Cookie` line without what is ours in it; tells whether anything is left.
    pub fn strip_cookies(&self, line: &[u8], out: &mut Vec<u8>) -> bool {
        match &self.affinity {
            Affinity::Cookie(cookie) if cookie.name.contains(line) => cookie.name.strip_into(line, out),
            Affinity::AppSession(session) if session.home_by == HomeBy::Prefix => {
                session.reader.strip_prefix_into(line, out)
            }
            Affinity::Off | Affinity::Cookie(_) | Affinity::AppSession(_) | Affinity::Hash(_) => {
                out.extend_from_slice(line);
                !line.is_empty()
            }
        }
    }

    fn new(
        settings: &config::Pool,
        pin_store: &config::PinStore,
        keys: &KeyRing,
        lasting: &Lasting,
        now: Instant,
    ) -> Self {
        let member = |backend: &config::Backend| {
            let id = BackendId { pool: Arc::clone(&settings.name), name: Arc::clone(&backend.name) };
            let state = lasting.registry.backend(&id, now);
            state.set_file_weight(backend.weight.get());
            let (max_requests, max_connections) = settings.bounds_of(backend);
            state.set_bounds(max_requests, max_connections);
            if settings.health.probe == config::Probe::Off {
                state.assume_healthy(now);
            }
            Member {
                backend: state,
                address: backend.address.clone(),
                probe_address: backend.probe_address.clone(),
                sends_proxy_protocol: settings.send_proxy_protocol == SendProxyProtocol::V2,
                max_pins: backend.max_pins,
                tier: backend.tier,
            }
        };
        let members: Vec<Member> = settings.backends.iter().map(member).collect();
        let state = lasting.registry.pool_state(&settings.name, now);
        state.follow(&members, settings.panic_below.fraction());
        let affinity = match &settings.affinity {
            config::Affinity::Off => Affinity::Off,
            config::Affinity::Cookie(cookie) => Affinity::Cookie(Cookie::new(cookie, settings, keys)),
            config::Affinity::AppSession(session) => {
                let store = lasting.stores.pool(&settings.name, pin_store);
                Affinity::AppSession(Box::new(SessionPins::new(session, settings, &members, keys, store)))
            }
            config::Affinity::Hash(hash) => {
                let known = || {
                    let store = lasting.stores.pool(&settings.name, pin_store);
                    KnownKeys::new(keys, &settings.name, &members, store)
                };
                Affinity::Hash(Hash {
                    keys: AffinityKeys::new(hash),
                    without_key: hash.without_key,
                    homes: lasting.tables.homes(&settings.name, hash.home_hash, &members),
                    bounded: hash.bounded_load.map(|ratio| Bounded { ratio, known: known() }),
                })
            }
        };
        let is_bounded = settings.backends.iter().any(|backend| settings.bounds_of(backend) != (None, None));
        let (idle_timeout, max_lifetime) = match &settings.affinity {
            config::Affinity::Cookie(cookie) => (cookie.idle_timeout, cookie.max_lifetime),
            config::Affinity::AppSession(session) => (session.idle_timeout, session.max_lifetime),
            config::Affinity::Off | config::Affinity::Hash(_) => (HASH_IDLE, Duration::MAX),
        };
        let limits = Limits::new(idle_timeout, max_lifetime);
        Self {
            permits: Permits::new(settings.sessions, &settings.rehome.when),
            settings: settings.clone(),
            members,
            counters: lasting.registry.pool(&settings.name),
            state,
            line: lasting.registry.line(&settings.name),
            is_bounded,
            affinity,
            limits,
            idle_timeout,
            refresh_after: refresh_after(limits, settings.rebalance.as_ref()),
            newcomers: Newcomers::default(),
            trial: lasting.registry.trial(&settings.name),
            made_at: now,
        }
    }
}

/// After an eighth of the idle timeout, so that a reply rarely carries a cookie and an active client loses at most that
/// much of its idle time; sooner where it has to be told who is idle for a moment.
fn refresh_after(limits: Limits, rebalance: Option<&config::Rebalance>) -> u32 {
    let usual = (limits.idle_timeout / 8).max(1);
    let idle_for = rebalance.map(|rebalance| rebalance.idle_for.as_secs()).filter(|seconds| *seconds > 0);
    idle_for.map_or(usual, |seconds| usual.min(u32::try_from(seconds / 4).unwrap_or(u32::MAX).max(1)))
}

impl Cookie {
    fn new(cookie: &CookieAffinity, pool: &config::Pool, keys: &KeyRing) -> Self {
        Self {
            name: CookieName::new(&cookie.name),
            pins: PoolPins::new(keys, &pool.name, pool.backends.iter().map(|backend| &*backend.name)),
            pin_on: cookie.pin_on,
            set: SetCookie::new(cookie),
        }
    }
}

/// Where the control plane publishes snapshots and the workers find them.
#[derive(Debug)]
pub struct Published {
    snapshot: ArcSwap<Snapshot>,
    /// Read by each worker once a request, so that cores share no reference count.
    generation: AtomicU64,
    announced: watch::Sender<u64>,
}

impl Published {
    /// Publishes the first one.
    pub fn new(snapshot: Snapshot) -> Self {
        let generation = snapshot.generation;
        Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            generation: AtomicU64::new(generation),
            announced: watch::Sender::new(generation),
        }
    }

    /// The current one.
    pub fn load(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The number of the current one, or for a moment of the one before.
    pub fn generation(&self) -> u64 {
        // Acquire pairs with the release in `publish`: whoever sees the number finds that snapshot or a later one.
        self.generation.load(Ordering::Acquire)
    }

    /// Replaces the current one. Only the control plane calls it, from one thread.
    pub fn publish(&self, snapshot: Snapshot) {
        let generation = snapshot.generation;
        self.snapshot.store(Arc::new(snapshot));
        self.generation.store(generation, Ordering::Release);
        self.announced.send_replace(generation);
    }

    /// Tells of every publication after this call.
    pub fn announced(&self) -> watch::Receiver<u64> {
        self.announced.subscribe()
    }
}
