//! Fills in what a scrape shows from the current snapshot.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Shared;
use crate::config::Source;
use crate::control::discovery::{self, Standings};
use crate::pins::{PinStore, SharedStanding, Standing};
use crate::pool::outliers::Cause;
use crate::pool::{Health, Member};
use crate::proxy::snapshot::Pool;
use crate::telemetry::metrics::{
    BackendScrape, ListenerScrape, PinStoreScrape, PoolScrape, Scrape, SharedStoreScrape, SourceScrape, TlsScrape,
};
use crate::tls::listener::{Handshake, TlsListener};

/// Relaxed throughout: each number is right by itself, and a scrape promises no more.
pub(super) fn scrape(shared: &Shared) -> Scrape {
    let snapshot = shared.published.load();
    Scrape {
        pools: snapshot.pools.iter().map(|it| pool(it, &shared.standings)).collect(),
        listeners: shared
            .connections
            .iter()
            .zip(&*shared.tls)
            .map(|((listener, connections, http2), tls)| ListenerScrape {
                listener: listener.clone(),
                connections: connections.load(Ordering::Relaxed),
                http2_connections: http2.connections.load(Ordering::Relaxed),
                http2_floods: http2.floods().into(),
                tls: tls.as_deref().map(self::tls),
            })
            .collect(),
        reloads_ok: shared.reloads.ok.load(Ordering::Relaxed),
        reloads_failed: shared.reloads.failed.load(Ordering::Relaxed),
        access_log_dropped: shared.access_log_dropped.load(Ordering::Relaxed),
        started: shared.started,
        version: env!("CARGO_PKG_VERSION"),
    }
}

fn tls(tls: &TlsListener) -> TlsScrape {
    let handshakes = Handshake::ALL.into_iter().zip(tls.handshakes());
    let [files_ok, files_failed] = tls.file_changes();
    TlsScrape {
        handshakes: handshakes.map(|(it, count)| (it.as_str(), it.is_resumed(), count)).collect(),
        files_ok,
        files_failed,
        expiries: tls.expiries(),
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
        tunnels: backend.room().tunnels(),
        queued: backend.room().queued(),
        connections: backend.room().connections(),
        outliers: std::array::from_fn(|cause| (Cause::ALL[cause].as_str(), backend.traffic().outs()[cause])),
        health: Health::ALL.map(|state| (state.as_str(), state == health)),
    }
}
