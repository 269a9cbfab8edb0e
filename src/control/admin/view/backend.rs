//! One backend: what it is set to, how it is, and what is going on with it.

use schemars::JsonSchema;
use serde::Serialize;

use super::clock::Now;
use super::words::{AdminStateView, HealthView, MemoryView, SourceView};
use crate::config::Source;
use crate::pool::agent::Agent;
use crate::pool::drain::{Drain, Leaving};
use crate::pool::outliers::{Out, Stage};
use crate::pool::sessions::{HomeState, Permit};
use crate::pool::{AgentWord, Health, Member, slow_start};
use crate::proxy::snapshot::Pool;

/// One backend.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::control::admin) struct BackendView {
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
    pub(in crate::control::admin) fn of(pool: &Pool, member: &Member, now: Now) -> Self {
        let name = &member.backend.id().name;
        let settings = pool.settings.backends.iter().find(|settings| settings.name == *name);
        Self::from_source(settings.map_or(Source::File, |settings| settings.source), pool, member, now)
    }

    pub(super) fn from_source(source: Source, pool: &Pool, member: &Member, now: Now) -> Self {
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
pub(in crate::control::admin) struct AgentView {
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
pub(in crate::control::admin) struct OutlierView {
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
pub(in crate::control::admin) struct DrainView {
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
