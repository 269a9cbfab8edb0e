//! The words of the API, each from the internal type that it stands for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{self, Affinity, Balance, HomeHash, Sessions, Source};
use crate::pool::{AdminState, Health, Memory};

/// Where a backend comes from.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::control::admin) enum SourceView {
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

/// What we measured.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::control::admin) enum HealthView {
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
pub(in crate::control::admin) enum AdminStateView {
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
pub(in crate::control::admin) enum MemoryView {
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
pub(in crate::control::admin) enum SessionsView {
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
pub(in crate::control::admin) enum BalanceView {
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
pub(in crate::control::admin) enum AffinityView {
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
