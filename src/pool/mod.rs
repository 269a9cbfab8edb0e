//! Backends and what is known of them: the state that requests and the control plane share.

pub mod condition;

pub mod sessions;

pub mod instance;

mod line;

pub mod room;

pub mod latency;

pub mod agent;

pub mod traffic;

pub mod outliers;

pub mod trial;

pub mod backend;

pub mod registry;

pub mod heir;

pub mod active_pins;

mod departures;

pub mod moves;

pub mod recent;

pub mod slow_start;

pub mod spread;

pub mod state;

mod transport;

pub mod drain;

pub mod rebalance;

#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;

use crate::config::Address;
pub use active_pins::ActivePins;
pub use agent::AgentWord;
pub use backend::{Backend, BackendId, Standing};
pub use condition::{AdminState, Evidence, Failure, Health, Memory, Thresholds};
pub use drain::{Drain, DrainOrder};
pub use heir::{by_tier, heir, heir_of_rank};
pub use line::Place;
pub use moves::Evening;
pub use registry::Registry;
pub use room::{Carries, OpenConnection, OpenTunnel, PoolLine, Room, Turn, Wishes};
pub use slow_start::Warming;
pub use spread::{Panic, Spread};
pub use state::PoolState;
pub use transport::Transport;

/// A backend as one snapshot sees it: its lasting state, and the settings of this generation.
#[derive(Clone, Debug)]
pub struct Member {
    /// Identity and state.
    pub backend: Arc<Backend>,
    /// Where to connect.
    pub address: Address,
    /// Where its probes go; `None` for its address, with the port of the pool's probes if they have one.
    pub probe_address: Option<Address>,
    /// How connections are made.
    pub transport: Arc<Transport>,
    /// Most active pins with which it still gets new clients; `None` for no bound.
    pub max_pins: Option<u64>,
    /// Used for new clients and orphans when the tiers before have no available backend.
    pub tier: u8,
}

impl Member {
    /// Whether it has as many clients as it may: pinned ones stay, new ones go elsewhere.
    pub fn is_full(&self) -> bool {
        self.max_pins.is_some_and(|most| self.backend.active_pins() >= most)
    }
}

/// Those of the lowest tier in which somebody has a weight, with their indices: they hold the keys of a pool with affinity
/// by hash, whatever their health. Without any weight, those of the lowest tier. Two passes over the pool.
pub fn members_of_first_tier(members: &[Member]) -> impl Iterator<Item = (usize, &Member)> {
    let has_weight = |member: &&Member| member.backend.weight() > 0;
    let lowest = members.iter().filter(has_weight).map(|member| member.tier).min();
    let first = lowest.or_else(|| members.iter().map(|member| member.tier).min());
    members
        .iter()
        .enumerate()
        .filter(move |(_, member)| Some(member.tier) == first && (lowest.is_none() || member.backend.weight() > 0))
}
