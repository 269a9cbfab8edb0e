//! One request's way through the gate of `backup`; see [`super::gate`].

use std::time::Duration;

use tokio::time::Instant;

use super::attempts::Request;
use super::gate::{self, Pass};
use super::snapshot::Pool;
use super::visit::{Destination, Visit};
use crate::config::Sessions;
use crate::telemetry::words::Placement;

/// How far a request is.
pub(super) enum Passage {
    /// It has none to pass, or has passed.
    Free,
    /// It has one to pass, should it leave its home; others are waited for this long.
    Due(Duration),
    /// It goes first, and others wait for it.
    First(Pass),
}

impl Passage {
    pub(super) fn new(pool: &Pool) -> Self {
        let is_gated = pool.settings.sessions == Sessions::Backup && !pool.settings.rehome.gate.is_zero();
        if is_gated { Self::Due(pool.settings.rehome.gate) } else { Self::Free }
    }

    pub(super) fn is_due(&self, destination: &Destination) -> bool {
        matches!(self, Self::Due(_)) && matches!(destination.placement, Placement::Detour(_) | Placement::Rehomed(_))
    }

    /// Passes the gate that is due; says whether there was one.
    pub(super) async fn pass(&mut self, request: &Request<'_>, visit: &Visit, destination: &Destination) -> bool {
        let (Self::Due(limit), Some(pin)) = (&*self, visit.pin_id()) else { return false };
        let heir = request.view.pool(request.pool).members[destination.member].backend.stable_hash();
        let pass = request.view.snapshot.gates.pass(gate::Passage { pin, heir }, Instant::now() + *limit).await;
        *self = pass.map_or(Self::Free, Self::First);
        true
    }

    /// The reply has come: whoever waits may follow.
    pub(super) fn open(&mut self) {
        if let Self::First(pass) = std::mem::replace(self, Self::Free) {
            pass.open(Instant::now());
        }
    }
}
