//! One request's way through the gate; see [`super::gate`] and [`super::at_home`].

use std::time::Duration;

use tokio::time::Instant;

use super::at_home::Inside;
use super::attempts::Request;
use super::gate::{self, Pass};
use super::snapshot::Pool;
use super::visit::{Destination, Visit};
use crate::config::Sessions;
use crate::telemetry::words::{DetourReason, Placement, RehomeReason};

/// How far a request is.
pub(super) enum Passage<'a> {
    /// It has none to pass, or has passed.
    Free,
    /// It has one to pass, should it leave its home; others are waited for this long.
    Due(Duration),
    /// The same, and it is at home, where others wait for it to end.
    Home { limit: Duration, _inside: Inside<'a> },
    /// It goes alone, and others wait for it.
    Alone(Pass),
}

impl<'a> Passage<'a> {
    pub(super) fn new(pool: &Pool) -> Self {
        let is_copied = matches!(pool.settings.sessions, Sessions::Backup | Sessions::Replicated);
        if is_copied && !pool.settings.rehome.gate.is_zero() {
            Self::Due(pool.settings.rehome.gate)
        } else {
            Self::Free
        }
    }

    /// It is about to be sent: home, perhaps.
    pub(super) fn settle(&mut self, request: &'a Request<'_>, visit: &Visit, destination: &Destination) {
        if let (Self::Due(limit), Placement::Kept, Some(pin)) = (&*self, destination.placement, visit.pin_id()) {
            let _inside = request.view.snapshot.gates.at_home.enter(pin);
            *self = Self::Home { limit: *limit, _inside };
        } else if destination.placement != Placement::Kept {
            // It may have failed there.
            self.leave_home();
        }
    }

    fn leave_home(&mut self) {
        if let Self::Home { limit, .. } = *self {
            *self = Self::Due(limit);
        }
    }

    /// Where every node has the session, all that matters is that nobody uses it where it is taken from.
    pub(super) fn is_due(&self, request: &Request<'_>, visit: &Visit, destination: &Destination, now: Instant) -> bool {
        let has_one_copy = || request.view.pool(request.pool).settings.sessions == Sessions::Backup;
        matches!(self, Self::Due(_) | Self::Home { .. })
            && match destination.placement {
                Placement::Rehomed(_) if leaves_a_living_home(destination.placement) => true,
                Placement::Detour(_) | Placement::Rehomed(_) => has_one_copy(),
                // It may have come there by the request before this one.
                Placement::Kept => {
                    has_one_copy()
                        && visit.pin_id().is_some_and(|pin| {
                            let gates = &request.view.snapshot.gates;
                            gates.may_be_ajar(through(request, pin, destination), now)
                        })
                }
                _ => false,
            }
    }

    /// Passes the gate that is due; says whether there was one.
    pub(super) async fn pass(&mut self, request: &Request<'_>, visit: &Visit, destination: &Destination) -> bool {
        // Not to wait for itself.
        self.leave_home();
        let (Self::Due(limit), Some(pin)) = (&*self, visit.pin_id()) else { return false };
        let deadline = Instant::now() + *limit;
        let gates = &request.view.snapshot.gates;
        let pass = gates.pass(through(request, pin, destination), deadline).await;
        if pass.is_some() && leaves_a_living_home(destination.placement) {
            gates.at_home.left(pin, deadline).await;
        }
        *self = pass.map_or(Self::Free, Self::Alone);
        true
    }

    /// The reply has come: whoever waits may follow. `adopted` is only asked of one that went alone.
    pub(super) fn open(&mut self, adopted: impl FnOnce() -> bool) {
        if let Self::Alone(pass) = std::mem::replace(self, Self::Free) {
            pass.open(adopted(), Instant::now());
        }
    }
}

fn through(request: &Request<'_>, pin: u64, destination: &Destination) -> gate::Passage {
    let heir = request.view.pool(request.pool).members[destination.member].backend.stable_hash();
    gate::Passage { pin, heir }
}

/// Whether requests that are under way at home will be answered there soon. Where a home may hang it is not waited for.
fn leaves_a_living_home(placement: Placement) -> bool {
    use DetourReason as D;
    use RehomeReason as R;
    matches!(
        placement,
        Placement::Rehomed(R::Drained | R::Disabled | R::Rebalanced) | Placement::Detour(D::Busy | D::Disabled)
    )
}
