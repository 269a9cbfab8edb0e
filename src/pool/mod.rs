//! Backends and what is known of them: the state that requests and the control plane share.

pub mod condition;

pub mod sessions;

pub mod instance;

pub mod agent;

pub mod traffic;

pub mod outliers;

pub mod trial;

pub mod backend;

pub mod registry;

pub mod heir;

pub mod active_pins;

mod departures;

pub mod recent;

pub mod drain;

pub mod rebalance;

use std::net::SocketAddr;
use std::sync::Arc;

pub use active_pins::ActivePins;
pub use agent::AgentWord;
pub use backend::{Backend, BackendId, Standing};
pub use condition::{AdminState, Evidence, Failure, Health, Memory, Thresholds};
pub use drain::{Drain, DrainOrder};
pub use heir::heir;
pub use registry::Registry;

/// A backend as one snapshot sees it: its lasting state, and the settings of this generation.
#[derive(Clone, Debug)]
pub struct Member {
    /// Identity and state.
    pub backend: Arc<Backend>,
    /// Where to connect.
    pub address: SocketAddr,
    /// Where its probes go; `None` for its address, with the port of the pool's probes if they have one.
    pub probe_address: Option<SocketAddr>,
    /// Most active pins with which it still gets new clients; `None` for no bound.
    pub max_pins: Option<u64>,
}

impl Member {
    /// Whether it has as many clients as it may: pinned ones stay, new ones go elsewhere.
    pub fn is_full(&self) -> bool {
        self.max_pins.is_some_and(|most| self.backend.active_pins() >= most)
    }
}
