//! Fills in what a scrape shows from the current snapshot.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Shared;
use crate::pins::{PinStore, SharedStanding, Standing};
use crate::pool::outliers::Cause;
use crate::pool::{Health, Member};
use crate::proxy::snapshot::{Affinity, Pool};
use crate::telemetry::metrics::{BackendScrape, ListenerScrape, PinStoreScrape, PoolScrape, Scrape, SharedStoreScrape};

/// Relaxed throughout: each number is right by itself, and a scrape promises no more.
pub(super) fn scrape(shared: &Shared) -> Scrape {
    let snapshot = shared.published.load();
    Scrape {
        pools: snapshot.pools.iter().map(pool).collect(),
        listeners: shared
            .connections
            .iter()
            .map(|(listener, connections)| ListenerScrape {
                listener: listener.clone(),
                connections: connections.load(Ordering::Relaxed),
            })
            .collect(),
        reloads_ok: shared.reloads.ok.load(Ordering::Relaxed),
        reloads_failed: shared.reloads.failed.load(Ordering::Relaxed),
        access_log_dropped: shared.access_log_dropped.load(Ordering::Relaxed),
        started: shared.started,
        version: env!("CARGO_PKG_VERSION"),
    }
}

fn pool(pool: &Pool) -> PoolScrape {
    PoolScrape {
        name: Arc::clone(&pool.settings.name),
        counters: Arc::clone(&pool.counters),
        backends: pool.members.iter().map(backend).collect(),
        pin_store: match &pool.affinity {
            Affinity::AppSession(session) => Some(pin_store(&session.store)),
            Affinity::Off | Affinity::Cookie(_) | Affinity::Hash(_) => None,
        },
    }
}

fn pin_store(store: &PinStore) -> PinStoreScrape {
    let Standing { pins, evictions, shared } = store.standing();
    let shared = shared.map(|SharedStanding { connected, pending, dropped, lookups_timed_out }| SharedStoreScrape {
        connected,
        pending,
        dropped,
        timeouts: lookups_timed_out,
    });
    PinStoreScrape { pins, evictions, shared }
}

fn backend(member: &Member) -> BackendScrape {
    let backend = &member.backend;
    let (connections_new, connections_reused) = backend.counters().connections();
    let health = backend.standing().health;
    BackendScrape {
        name: Arc::clone(&backend.id().name),
        replies: backend.counters().replies(),
        connections_new,
        connections_reused,
        active_pins: backend.active_pins(),
        in_flight: backend.in_flight(),
        outliers: std::array::from_fn(|cause| (Cause::ALL[cause].as_str(), backend.traffic().outs()[cause])),
        health: Health::ALL.map(|state| (state.as_str(), state == health)),
    }
}
