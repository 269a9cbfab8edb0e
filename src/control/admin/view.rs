//! What the API shows: serialised types, apart from the internal ones, so that either can change without the other.
//!
//! Here is what stands around backends: pools, and the short answers. [`backend`] is one backend, [`words`] are the words
//! that a value can be, and [`clock`] is how times are shown.

mod backend;

mod words;

mod clock;

use schemars::JsonSchema;
use serde::Serialize;

use crate::config::Source;
use crate::control::discovery::{Standing, Standings};
use crate::pins::Standing as PinsStanding;
use crate::proxy::snapshot::{Pool, Snapshot};
use crate::telemetry::words::Placement;
pub(super) use backend::BackendView;
pub(super) use clock::{Now, date};
pub(super) use words::AdminStateView;
use words::{AffinityView, BalanceView, SessionsView, SourceView};

/// The process answers.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct LiveView {
    /// Always true.
    pub(super) live: bool,
}

/// The process may receive traffic.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ReadyView {
    /// Always true; otherwise there is an error.
    pub(super) ready: bool,
}

/// The configuration was read again.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ReloadView {
    /// Number of the snapshot that took effect.
    pub(super) generation: u64,
}

/// What went wrong.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ErrorView {
    /// In words.
    pub(super) error: String,
    /// Why the process is not ready: `starting` or `draining`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<&'static str>,
    /// Names that would have been found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) known: Vec<String>,
    /// What is wrong with the configuration file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) problems: Vec<ProblemView>,
}

/// One thing that is wrong with the configuration file.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ProblemView {
    /// Where in the tree, as in `pools.shop.backends[2].weight`.
    pub(super) path: String,
    /// Counted from 1; `null` when no line is to blame.
    pub(super) line: Option<usize>,
    /// What was expected and what was found.
    pub(super) message: String,
}

/// Every pool.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct PoolsView {
    /// Number of the snapshot that is in effect.
    generation: u64,
    /// In the order of the file.
    pools: Vec<PoolView>,
}

impl PoolsView {
    pub(super) fn of(snapshot: &Snapshot, standings: &Standings, now: Now) -> Self {
        let pools = snapshot.pools.iter().map(|pool| PoolView::of(pool, standings, now)).collect();
        Self { generation: snapshot.generation, pools }
    }
}

/// One pool.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct PoolView {
    name: String,
    sessions: SessionsView,
    balance: BalanceView,
    affinity: AffinityView,
    /// The tier that new clients are placed in: the first one with an available backend.
    tier_in_use: u8,
    /// Whether too few backends are available, so that health is ignored for spreading new clients.
    panicking: bool,
    /// Those of the file in its order, then those that were added, then those that were found.
    backends: Vec<BackendView>,
    /// Where more backends are looked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    backends_from: Vec<SourceStandingView>,
    /// Requests that wait for any of them.
    queued: u32,
    /// Requests so far by what was decided for them; only what occurred.
    placements: Vec<PlacementView>,
    /// Pins by the app's session id, where the pool has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pin_store: Option<PinStoreView>,
}

/// The pins of a pool by the app's session id.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct PinStoreView {
    /// In memory.
    pins: usize,
    /// Those that had to go for want of room, so far.
    evictions: u64,
    /// The store that replicas share, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    redis: Option<RedisView>,
}

/// How things stand with the store that replicas share.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct RedisView {
    /// Whether it is there.
    connected: bool,
    /// Changes that it has not got yet.
    pending: usize,
    /// Changes that it never got.
    dropped: u64,
    /// Lookups and moves that it did not answer in time.
    timeouts: u64,
}

impl PinStoreView {
    fn of(standing: PinsStanding) -> Self {
        let redis = standing.shared.map(|shared| RedisView {
            connected: shared.connected,
            pending: shared.pending,
            dropped: shared.dropped,
            timeouts: shared.lookups_timed_out,
        });
        Self { pins: standing.pins, evictions: standing.evictions, redis }
    }
}

impl PoolView {
    pub(super) fn of(pool: &Pool, standings: &Standings, now: Now) -> Self {
        let counts = Placement::ALL.into_iter().zip(pool.counters.placements());
        Self {
            name: pool.settings.name.as_ref().to_owned(),
            sessions: pool.settings.sessions.into(),
            balance: (&pool.settings).into(),
            affinity: (&pool.settings.affinity).into(),
            tier_in_use: pool.state.spread().tier,
            panicking: pool.state.spread().is_panicking(),
            backends: pool
                .members
                .iter()
                .zip(&pool.settings.backends)
                .map(|(member, settings)| BackendView::from_source(settings.source, pool, member, now))
                .collect(),
            backends_from: standings
                .of(&pool.settings.name)
                .into_iter()
                .map(|(source, standing)| SourceStandingView::of(source, standing))
                .collect(),
            queued: pool.line.line.len(),
            pin_store: pool.pin_store().map(|store| PinStoreView::of(store.standing())),
            placements: counts
                .filter(|(_, requests)| *requests > 0)
                .map(|(placement, requests)| PlacementView {
                    placement: placement.as_str(),
                    reason: placement.reason(),
                    requests,
                })
                .collect(),
        }
    }
}

/// How things stand with a source of backends.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct SourceStandingView {
    source: SourceView,
    /// What is looked at, as in `a app.example port 8080`.
    looks_at: String,
    /// Backends in its last good list.
    backends: usize,
    /// When the last good list was had, in RFC 3339; `null` when this process has had none.
    last_success: Option<String>,
    /// Looks that gave no list, so far.
    failures: u64,
    /// Why the latest look gave none, while that is so; the last good list is in force.
    error: Option<String>,
}

impl SourceStandingView {
    fn of(source: Source, standing: Standing) -> Self {
        Self {
            source: source.into(),
            looks_at: standing.subject,
            backends: standing.backends,
            last_success: standing.last_success.map(date),
            failures: standing.failures,
            error: standing.error,
        }
    }
}

/// Requests with the same placement.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct PlacementView {
    placement: &'static str,
    /// Empty for placements that need none.
    reason: &'static str,
    requests: u64,
}
