//! Snapshot: all that one request needs, immutable, swapped whole.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::sync::watch;
use tokio::time::Instant;

use super::accept::route::Routes;
use super::affinity::{CookieName, KeyRing, Limits, PoolPins, SetCookie};
use super::balance::newcomers::Newcomers;
use crate::config::{self, AccessLogTarget, Affinity, Config, CookieAffinity, PinOn};
use crate::pool::{BackendId, Member, Registry};
use crate::telemetry::counters::PoolCounters;

/// One generation of the configuration, joined with the lasting state of its backends.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts up from 1 with every publication.
    pub generation: u64,
    /// Host and path to pool.
    pub routes: Routes,
    /// In file order; routes name them by index.
    pub pools: Vec<Pool>,
    /// Whether there is an access log.
    pub keeps_log: bool,
    /// Peers whose `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<IpNet>,
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
    /// How its pins travel; `None` without affinity.
    pub cookie: Option<Cookie>,
    /// Clients whose first request is on its way.
    pub newcomers: Newcomers,
    /// When the snapshot was made.
    pub made_at: Instant,
}

/// Everything that is worked out once for a pool's cookie.
#[derive(Debug)]
pub struct Cookie {
    /// Finds and strips it.
    pub name: CookieName,
    /// Seals and opens pins.
    pub pins: PoolPins,
    /// How long they live.
    pub limits: Limits,
    /// A pin unused for this long is not active any more.
    pub idle_timeout: Duration,
    /// When a client without a pin gets one.
    pub pin_on: PinOn,
    /// Writes it.
    pub set: SetCookie,
}

impl Snapshot {
    /// Joins a configuration with what the registry knows; forgets the backends and pools that are no longer in it.
    pub fn new(config: &Config, keys: &KeyRing, registry: &Registry, generation: u64, now: Instant) -> Self {
        let pools: Vec<_> = config.pools.iter().map(|pool| Pool::new(pool, keys, registry, now)).collect();
        let backends: HashSet<_> =
            pools.iter().flat_map(|pool| &pool.members).map(|member| member.backend.id().clone()).collect();
        let names: HashSet<_> = pools.iter().map(|pool| Arc::clone(&pool.settings.name)).collect();
        registry.retain(&backends, &names);
        Self {
            generation,
            routes: Routes::new(&config.routes),
            pools,
            keeps_log: config.access_log.target != AccessLogTarget::Off,
            trusted_proxies: config.trusted_proxies.clone(),
        }
    }

    /// Whether this peer is one of the trusted proxies.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted_proxies.iter().any(|net| net.contains(&peer))
    }
}

impl Pool {
    /// Time since this snapshot was made.
    pub fn uptime(&self, now: Instant) -> Duration {
        now.duration_since(self.made_at)
    }

    /// Whether lives of backends are told apart by a header of the probe's reply.
    pub fn has_instance_names(&self) -> bool {
        matches!(&self.settings.health.probe, config::Probe::Http(probe) if probe.instance_header.is_some())
    }

    fn new(settings: &config::Pool, keys: &KeyRing, registry: &Registry, now: Instant) -> Self {
        let member = |backend: &config::Backend| {
            let id = BackendId { pool: Arc::clone(&settings.name), name: Arc::clone(&backend.name) };
            let state = registry.backend(&id, now);
            state.set_file_weight(backend.weight.get());
            if settings.health.probe == config::Probe::Off {
                state.assume_healthy(now);
            }
            Member { backend: state, address: backend.address }
        };
        let cookie = match &settings.affinity {
            Affinity::Off | Affinity::AppSession(_) | Affinity::Hash(_) => None,
            Affinity::Cookie(cookie) => Some(Cookie::new(cookie, settings, keys)),
        };
        Self {
            settings: settings.clone(),
            members: settings.backends.iter().map(member).collect(),
            counters: registry.pool(&settings.name),
            cookie,
            newcomers: Newcomers::default(),
            made_at: now,
        }
    }
}

impl Cookie {
    fn new(cookie: &CookieAffinity, pool: &config::Pool, keys: &KeyRing) -> Self {
        Self {
            name: CookieName::new(&cookie.name),
            pins: PoolPins::new(keys, &pool.name, pool.backends.iter().map(|backend| &*backend.name)),
            limits: Limits::from(cookie),
            idle_timeout: cookie.idle_timeout,
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
