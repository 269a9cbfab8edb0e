//! Backends and what is known of them: the state that requests and the control plane share.

pub mod condition;

pub mod sessions;

pub mod instance;

pub mod backend;

pub mod registry;

pub mod heir;

pub mod active_pins;

mod departures;

pub mod recent;

pub mod drain;

pub mod rebalance;

use std::sync::Arc;

use crate::config::Address;
pub use active_pins::ActivePins;
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
    pub address: Address,
    /// Whether connections begin with the header of the PROXY protocol.
    pub sends_proxy_protocol: bool,
    /// Most active pins with which it still gets new clients; `None` for no bound.
    pub max_pins: Option<u64>,
}

impl Member {
    /// Whether it has as many clients as it may: pinned ones stay, new ones go elsewhere.
    pub fn is_full(&self) -> bool {
        self.max_pins.is_some_and(|most| self.backend.active_pins() >= most)
    }
}
