//! What a request needs to know of a backend, in one word that is read in one load.

use crate::pool::condition::{AdminState, Health, Memory};

/// What a request needs to know of a backend, read in one load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Measured.
    pub health: Health,
    /// Ordered.
    pub admin: AdminState,
    /// Whether its process is gone; only meaningful while unhealthy.
    pub memory: Memory,
    /// Whether the last probe was not answered in time: nobody should have to find out once more.
    pub is_silent: bool,
}

impl Standing {
    /// Serves clients without a pin, and nothing speaks against it.
    pub fn is_first_choice(self) -> bool {
        self.admin == AdminState::Enabled && self.health == Health::Healthy
    }

    /// Could serve clients without a pin when there is no better one.
    pub fn is_available_for_new(self) -> bool {
        self.admin == AdminState::Enabled && self.health != Health::Unhealthy
    }

    /// Serves the clients pinned to it.
    pub fn is_available_for_pinned(self) -> bool {
        self.admin != AdminState::Disabled && self.health != Health::Unhealthy
    }

    /// Its process is known not to run.
    pub fn is_gone(self) -> bool {
        self.health == Health::Unhealthy && self.memory == Memory::Gone
    }

    /// Its clients have come to it, and its caches are warm.
    pub fn is_in_use(self) -> bool {
        self.admin != AdminState::Disabled && matches!(self.health, Health::Healthy | Health::Suspect)
    }

    pub(super) fn pack(self) -> u32 {
        self.health as u32 | (self.admin as u32) << 8 | (self.memory as u32) << 16 | u32::from(self.is_silent) << 24
    }

    pub(super) fn unpack(bits: u32) -> Self {
        let health = match bits & 0xff {
            0 => Health::Starting,
            1 => Health::Healthy,
            2 => Health::Suspect,
            _ => Health::Unhealthy,
        };
        let admin = match bits >> 8 & 0xff {
            0 => AdminState::Enabled,
            1 => AdminState::Draining,
            _ => AdminState::Disabled,
        };
        let memory = if bits >> 16 & 0xff == 0 { Memory::MayHold } else { Memory::Gone };
        Self { health, admin, memory, is_silent: bits >> 24 != 0 }
    }
}
