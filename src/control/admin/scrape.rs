//! Fills in what a scrape shows from the current snapshot.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Shared;
use crate::config::Source;
use crate::control::discovery::{self, Standings};
use crate::pins::{PinStore, SharedStanding, Standing};
use crate::pool::{Health, Member};
use crate::proxy::snapshot::Pool;
use crate::telemetry::metrics::{
    BackendScrape, ListenerScrape, PinStoreScrape, PoolScrape, Scrape, SharedStoreScrape, SourceScrape,
};

/// Relaxed throughout: each number is right by itself, and a scrape promises no more.
pub(super) fn scrape(shared: &Shared) -> Scrape {
    let snapshot = shared.published.load();
    Scrape {
        pools: snapshot.pools.iter().map(|it| pool(it, &shared.standings)).collect(),
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

fn pool(pool: &Pool, standings: &Standings) -> PoolScrape {
    PoolScrape {
        name: Arc::clone(&pool.settings.name),
        counters: Arc::clone(&pool.counters),
        panicking: pool.state.spread().is_panicking(),
        backends: pool.members.iter().map(backend).collect(),
        queued: pool.line.line.len(),
        pin_store: pool.pin_store().map(|store| pin_store(store)),
        sources: standings.of(&pool.settings.name).into_iter().map(source).collect(),
    }
}

fn source((source, standing): (Source, discovery::Standing)) -> SourceScrape {
    let discovery::Standing { backends, failures, last_success, .. } = standing;
    SourceScrape { source: source.as_str(), backends, failures, last_success }
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
        queued: backend.room().queued(),
        connections: backend.room().connections(),
        health: Health::ALL.map(|state| (state.as_str(), state == health)),
    }
}
