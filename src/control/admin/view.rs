//! What the API shows: serialised types, apart from the internal ones, so that either can change without the other.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use crate::config::{self, Affinity, Balance, HomeHash, Sessions, Source};
use crate::control::discovery::{Standing, Standings};
use crate::pins::Standing as PinsStanding;
use crate::pool::agent::Agent;
use crate::pool::drain::{Drain, Leaving};
use crate::pool::outliers::{Out, Stage};
use crate::pool::sessions::{HomeState, Permit};
use crate::pool::{AdminState, AgentWord, Health, Member, Memory, slow_start};
use crate::proxy::snapshot::{Pool, Snapshot};
use crate::telemetry::words::Placement;

/// Both clocks, read once a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) monotonic: Instant,
    pub(super) wall: SystemTime,
}

impl Now {
    pub(super) fn read() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }

    /// RFC 3339 in UTC, to the second; `None` beyond what a calendar can show.
    fn date(self, at: Instant) -> Option<String> {
        let since = self.wall.duration_since(UNIX_EPOCH).ok()?;
        let since = match at.checked_duration_since(self.monotonic) {
            Some(ahead) => since.checked_add(ahead)?,
            None => since.checked_sub(self.monotonic.duration_since(at))?,
        };
        // Rounded, because the two clocks are read one after the other.
        let seconds = (since + Duration::from_millis(500)).as_secs();
        OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()?.format(&Rfc3339).ok()
    }
}

/// RFC 3339 in UTC, to the millisecond.
pub(super) fn date(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    let at = at.replace_millisecond(at.millisecond()).unwrap_or(at);
    at.format(&Rfc3339).unwrap_or_default()
}

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

/// Where a backend comes from.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum SourceView {
    /// `backends` of the configuration file.
    File,
    /// The admin API.
    Api,
    /// The file that `backends_from` names.
    WatchedFile,
    /// The name that `backends_from` gives.
    Dns,
}

impl From<Source> for SourceView {
    fn from(source: Source) -> Self {
        match source {
            Source::File => Self::File,
            Source::Api => Self::Api,
            Source::WatchedFile => Self::WatchedFile,
            Source::Dns => Self::Dns,
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

/// One backend.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct BackendView {
    name: String,
    address: String,
    /// Who named it.
    source: SourceView,
    /// In effect: what was ordered, else what the file says.
    weight: u32,
    /// What the file says, while an order or the agent's word stands in for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    file_weight: Option<u32>,
    /// Used for new clients and orphans when the tiers before have no available backend.
    tier: u8,
    health: HealthView,
    admin_state: AdminStateView,
    /// Clients that used their pin here within the idle timeout.
    active_pins: u64,
    /// Most of them with which it still gets new clients, where the file has a bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_pins: Option<u64>,
    /// Requests sent whose reply has not fully ended.
    in_flight: u32,
    /// Those of them that are tunnels, such as WebSockets.
    tunnels: u32,
    /// Most of them, where the file has a bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_requests: Option<u32>,
    /// Requests that wait for this very backend.
    queued: u32,
    /// Open connections, idle ones included.
    connections: u32,
    /// Most of them, where the file has a bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_connections: Option<u32>,
    /// Seconds since `health` changed.
    changed_seconds_ago: u64,
    /// Seconds until it gets its whole share of new clients and orphans; only while its slow start goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    slow_start_seconds_left: Option<u64>,
    /// Whether it may still hold its sessions; only while unhealthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<MemoryView>,
    /// Only while draining.
    #[serde(skip_serializing_if = "Option::is_none")]
    drain: Option<DrainView>,
    /// What the backend's own agent says, once it has said anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<AgentView>,
    /// Only while it is out by what requests met there.
    #[serde(skip_serializing_if = "Option::is_none")]
    outlier: Option<OutlierView>,
}

impl BackendView {
    /// Looks for its source in the whole pool.
    pub(super) fn of(pool: &Pool, member: &Member, now: Now) -> Self {
        let name = &member.backend.id().name;
        let settings = pool.settings.backends.iter().find(|settings| settings.name == *name);
        Self::from_source(settings.map_or(Source::File, |settings| settings.source), pool, member, now)
    }

    fn from_source(source: Source, pool: &Pool, member: &Member, now: Now) -> Self {
        let backend = &member.backend;
        let standing = backend.standing();
        Self {
            name: backend.id().name.as_ref().to_owned(),
            address: member.address.to_string(),
            source: source.into(),
            weight: backend.weight(),
            file_weight: backend.stood_in_for_weight(),
            tier: member.tier,
            health: standing.health.into(),
            admin_state: standing.admin.into(),
            active_pins: backend.active_pins(),
            max_pins: member.max_pins,
            in_flight: backend.in_flight(),
            tunnels: backend.room().tunnels(),
            max_requests: backend.room().max_requests(),
            queued: backend.room().queued(),
            connections: backend.room().connections(),
            max_connections: backend.room().max_connections(),
            changed_seconds_ago: now.monotonic.saturating_duration_since(backend.health_changed_at()).as_secs(),
            slow_start_seconds_left: slow_start::left(backend, pool.settings.slow_start, now.monotonic)
                .filter(|_| standing.is_in_use())
                .map(|left| left.as_secs_f64().ceil() as u64),
            memory: (standing.health == Health::Unhealthy).then(|| standing.memory.into()),
            drain: backend.drain().map(|drain| DrainView::of(drain, pool, member, now)),
            agent: AgentView::of(backend.agent()),
            outlier: backend.out().map(|out| OutlierView::of(out, now)),
        }
    }
}

/// What a backend's own agent says.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct AgentView {
    /// Who may come; `null` when it did not say.
    admin_state: Option<AdminStateView>,
    /// Share of the weight in the file, 0 to 100; `null` when it did not say.
    weight_percent: Option<u8>,
    /// The operator enabled the backend against its word.
    overruled: bool,
}

impl AgentView {
    fn of(agent: Agent) -> Option<Self> {
        let Agent { said, is_overruled } = agent;
        (said != AgentWord::default()).then(|| Self {
            admin_state: said.admin.map(Into::into),
            weight_percent: said.weight_percent,
            overruled: is_overruled,
        })
    }
}

/// A backend that is out by what requests met there.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct OutlierView {
    /// What it was: `connect_failures`, `errors` or `slow`.
    cause: &'static str,
    /// Since when, in RFC 3339.
    since: Option<String>,
    /// Until when, in RFC 3339; `null` while it is on probation: a good reply brings it back.
    until: Option<String>,
}

impl OutlierView {
    fn of(out: Out, now: Now) -> Self {
        let until = match out.stage {
            Stage::Until(until) => now.date(until),
            Stage::Probation => None,
        };
        Self { cause: out.cause.as_str(), since: now.date(out.since), until }
    }
}

/// A drain in progress.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct DrainView {
    /// When whoever is left has to go, in RFC 3339; `null`: never.
    deadline: Option<String>,
    /// The share of its clients that moves in a time, as in `5%/s`.
    pace: String,
    /// Clients that used their pin here within the idle timeout.
    pins_left: u64,
    /// When the last one is expected to be gone, in RFC 3339; `null` when there is no telling, or nobody is left.
    eta: Option<String>,
    /// Whether nobody is left: no pin, and no request under way.
    drained: bool,
    /// Since when, in RFC 3339.
    drained_since: Option<String>,
}

impl DrainView {
    fn of(drain: Drain, pool: &Pool, member: &Member, now: Now) -> Self {
        let pins_left = member.backend.active_pins();
        let idle_timeout = pool.active_for();
        let eta = drain.eta(pins_left, leaving(pool, member), idle_timeout, now.monotonic);
        Self {
            deadline: drain.deadline.and_then(|deadline| now.date(deadline)),
            pace: drain.pace.to_string(),
            pins_left,
            eta: eta.and_then(|eta| now.date(eta)),
            drained: drain.drained.is_some(),
            drained_since: drain.drained.and_then(|drained| now.date(drained)),
        }
    }
}

/// How the clients of a draining backend leave it, as requests decide it one by one.
fn leaving(pool: &Pool, member: &Member) -> Leaving {
    let is_heir =
        |other: &Member| other.backend.id() != member.backend.id() && other.backend.standing().is_available_for_new();
    if !pool.members.iter().any(is_heir) {
        return Leaving::Never;
    }
    match pool.permits.of(HomeState::Draining) {
        Permit::RehomePaced | Permit::RehomePacedLost => Leaving::InTurn,
        _ => Leaving::AtDeadline,
    }
}

/// What we measured.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum HealthView {
    /// Not measured yet.
    Starting,
    /// It works.
    Healthy,
    /// It failed once.
    Suspect,
    /// It failed often enough.
    Unhealthy,
}

impl From<Health> for HealthView {
    fn from(health: Health) -> Self {
        match health {
            Health::Starting => Self::Starting,
            Health::Healthy => Self::Healthy,
            Health::Suspect => Self::Suspect,
            Health::Unhealthy => Self::Unhealthy,
        }
    }
}

/// What the operator ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum AdminStateView {
    /// Serves everybody.
    Enabled,
    /// Serves pinned clients only.
    Draining,
    /// Serves nobody.
    Disabled,
}

impl From<AdminState> for AdminStateView {
    fn from(state: AdminState) -> Self {
        match state {
            AdminState::Enabled => Self::Enabled,
            AdminState::Draining => Self::Draining,
            AdminState::Disabled => Self::Disabled,
        }
    }
}

impl From<AdminStateView> for AdminState {
    fn from(state: AdminStateView) -> Self {
        match state {
            AdminStateView::Enabled => Self::Enabled,
            AdminStateView::Draining => Self::Draining,
            AdminStateView::Disabled => Self::Disabled,
        }
    }
}

/// What is known of the memory of an unhealthy backend.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum MemoryView {
    /// It is silent at worst.
    MayHold,
    /// Its process is gone, and its sessions with it.
    Gone,
}

impl From<Memory> for MemoryView {
    fn from(memory: Memory) -> Self {
        match memory {
            Memory::MayHold => Self::MayHold,
            Memory::Gone => Self::Gone,
        }
    }
}

/// Where the app keeps its sessions.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum SessionsView {
    /// Only in the memory of the backend that created them.
    Local,
    /// On every backend.
    Replicated,
    /// On a primary and one secondary.
    Backup,
    /// In a store that all backends share.
    External,
}

impl From<Sessions> for SessionsView {
    fn from(sessions: Sessions) -> Self {
        match sessions {
            Sessions::Local => Self::Local,
            Sessions::Replicated => Self::Replicated,
            Sessions::Backup => Self::Backup,
            Sessions::External => Self::External,
        }
    }
}

/// How a client without a pin is placed.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum BalanceView {
    /// Fewest active pins per weight, of two random choices.
    LeastPins,
    /// Fewest in-flight requests per weight.
    LeastRequests,
    /// Lowest expected latency times in-flight requests per weight, of two random choices.
    PeakEwma,
    /// Smooth weighted round robin.
    RoundRobin,
    /// Weighted random.
    Random,
    /// The less loaded of two weighted random choices.
    TwoChoices,
    /// A key has its home at the backend with the best score; a request without one is placed by two choices.
    Rendezvous,
    /// A key has its home where a table says; a request without one is placed by two choices.
    Maglev,
    /// A key has its home where a ring of points says; a request without one is placed by two choices.
    Ring,
}

impl From<&config::Pool> for BalanceView {
    /// The word that says the most: where a key's home is found by a table, or requests without a key are placed by two
    /// choices, how it is found.
    fn from(pool: &config::Pool) -> Self {
        let home_hash = match &pool.affinity {
            Affinity::Hash(hash) => Some(hash.home_hash),
            Affinity::Off | Affinity::Cookie(_) | Affinity::AppSession(_) => None,
        };
        match (home_hash, pool.balance) {
            (Some(HomeHash::Maglev), _) => Self::Maglev,
            (Some(HomeHash::Ring), _) => Self::Ring,
            (Some(HomeHash::Rendezvous), Balance::TwoChoices) => Self::Rendezvous,
            (_, balance) => balance.into(),
        }
    }
}

impl From<Balance> for BalanceView {
    fn from(balance: Balance) -> Self {
        match balance {
            Balance::LeastPins => Self::LeastPins,
            Balance::LeastRequests => Self::LeastRequests,
            Balance::PeakEwma => Self::PeakEwma,
            Balance::RoundRobin => Self::RoundRobin,
            Balance::Random => Self::Random,
            Balance::TwoChoices => Self::TwoChoices,
        }
    }
}

/// How a client keeps coming back.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum AffinityView {
    /// Not at all.
    Off,
    /// By Stickpin's own sealed cookie.
    Cookie,
    /// By the session id that the app itself issues.
    AppSession,
    /// By a hash of something that the request carries.
    Hash,
}

impl From<&Affinity> for AffinityView {
    fn from(affinity: &Affinity) -> Self {
        match affinity {
            Affinity::Off => Self::Off,
            Affinity::Cookie(_) => Self::Cookie,
            Affinity::AppSession(_) => Self::AppSession,
            Affinity::Hash(_) => Self::Hash,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_shown_as_a_date_before_and_after_it_has_passed() {
        let now = Now { monotonic: Instant::now(), wall: UNIX_EPOCH + Duration::from_millis(1_700_000_000_700) };
        let ahead = now.monotonic + Duration::from_secs(600);
        assert_eq!(now.date(ahead).as_deref(), Some("2023-11-14T22:23:21Z"));
        let later = Now { monotonic: ahead + Duration::from_secs(5), wall: now.wall + Duration::from_secs(605) };
        assert_eq!(later.date(ahead).as_deref(), Some("2023-11-14T22:23:21Z"));
    }
}
