//! One client's request as far as affinity is concerned: the pin it came with, where that sends it, and the pin it
//! leaves with. Joins `affinity` with what is known of the backends.

use fastrand::Rng;
use http::{HeaderMap, header};
use tokio::time::Instant;

use super::affinity::rehome::{Course, Policy, course, home_state};
use super::affinity::{Opened, Pin, cache_guard};
use super::balance::{Balancer, Tried};
use super::snapshot::Pool;
use crate::pool::sessions::HomeState;
use crate::pool::{AdminState, Member, heir};
use crate::telemetry::words::{PinVerdict, Placement, RehomeReason};

/// A visit of one client.
#[derive(Debug)]
pub(super) struct Visit {
    /// `None` where pins do not count: no affinity in the pool, or none on the route.
    opened: Option<Opened>,
    /// Wall clock, in seconds.
    now: u32,
    /// The pin to leave with, when the client has to be told.
    leaves_with: Option<Pin>,
    /// The id of the pin, old or new.
    pin_id: Option<u64>,
}

/// Where one attempt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    /// Index of the backend.
    pub member: usize,
    /// What that is.
    pub placement: Placement,
    /// Who the client was with, when its pin moves.
    pub moved: Option<Moved>,
}

/// A pin that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    /// Index of the old home; `None` when it is no longer in the pool.
    pub from: Option<usize>,
    /// Why.
    pub reason: RehomeReason,
    /// Its session is gone.
    pub session_lost: bool,
}

/// What to do next with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Try this one.
    Go(Destination),
    /// Wait for the home, then ask again.
    Wait {
        /// Index of the home.
        home: usize,
    },
    /// The policy says no.
    Refuse,
    /// There is nobody.
    Nobody,
}

impl Visit {
    /// Reads the pin of a request. No allocation.
    pub(super) fn begin(pool: &Pool, route_has_affinity: bool, headers: &HeaderMap, now: u32) -> Self {
        let opened = match &pool.cookie {
            Some(cookie) if route_has_affinity => {
                Some(cookie.pins.open_first(cookie.name.find(headers), now, cookie.limits))
            }
            Some(_) | None => None,
        };
        let pin_id = match opened {
            Some(Opened::Valid(pin) | Opened::OldKey(pin)) => Some(pin.id),
            Some(Opened::UnknownBackend(orphan)) => Some(orphan.id),
            Some(Opened::None | Opened::Expired | Opened::Forged) | None => None,
        };
        Self { opened, now, leaves_with: None, pin_id }
    }

    /// What the pin turned out to be; `None` where pins do not count.
    pub(super) fn verdict(&self) -> Option<PinVerdict> {
        self.opened.as_ref().map(Opened::verdict)
    }

    /// The pin's id.
    pub(super) fn pin_id(&self) -> Option<u64> {
        self.pin_id
    }

    /// Decides where the next attempt goes. `tried` are those that failed this request; `has_waited` whether it has
    /// waited for its home as long as it may.
    pub(super) fn next(
        &self,
        pool: &Pool,
        balancer: &mut Balancer,
        tried: &Tried,
        has_waited: bool,
        rng: &mut Rng,
        now: Instant,
    ) -> Next {
        let policy =
            Policy { sessions: pool.settings.sessions, when_unavailable: pool.settings.rehome.when_unavailable };
        match self.opened {
            Some(Opened::Valid(pin) | Opened::OldKey(pin)) => {
                let home = pin.home as usize;
                let backend = &pool.members[home].backend;
                let state = home_state(backend.standing(), tried.contains(home));
                let is_its_turn = state == HomeState::Draining && backend.is_turn_to_leave(pin.id, now);
                let course = course(policy, state, has_waited, is_its_turn);
                self.follow(course, pool, Some(home), pin.id, tried)
            }
            Some(Opened::UnknownBackend(orphan)) => {
                self.follow(course(policy, HomeState::Removed, has_waited, false), pool, None, orphan.id, tried)
            }
            Some(Opened::None | Opened::Expired | Opened::Forged) => pick(pool, balancer, tried, rng, Placement::New),
            None => pick(pool, balancer, tried, rng, Placement::Unpinned),
        }
    }

    fn follow(&self, course: Course, pool: &Pool, home: Option<usize>, pin_id: u64, tried: &Tried) -> Next {
        let (placement, moved) = match course {
            Course::Home => {
                return home.map_or(Next::Nobody, |member| {
                    Next::Go(Destination { member, placement: Placement::Kept, moved: None })
                });
            }
            Course::Wait => return home.map_or(Next::Refuse, |home| Next::Wait { home }),
            Course::Refuse => return Next::Refuse,
            Course::Detour(reason) => (Placement::Detour(reason), None),
            Course::Rehome { reason, session_lost } => {
                (Placement::Rehomed(reason), Some(Moved { from: home, reason, session_lost }))
            }
        };
        match heir_of(pin_id, pool, home, tried) {
            Some(member) => Next::Go(Destination { member, placement, moved }),
            None => Next::Nobody,
        }
    }

    /// Notes where the request was served: the pin to leave with, if the client has to be told of one.
    pub(super) fn served(&mut self, pool: &Pool, destination: &Destination, new_id: u64) {
        let (Some(opened), Some(cookie)) = (&self.opened, &pool.cookie) else { return };
        let home = destination.member as u32;
        let fresh = |id, issued| Pin { id, home, instance: 0, issued, refreshed: self.now, detour: None };
        self.leaves_with = match (opened, destination.placement) {
            (_, Placement::New) => Some(fresh(new_id, self.now)),
            (Opened::Valid(pin) | Opened::OldKey(pin), Placement::Rehomed(_)) => Some(fresh(pin.id, pin.issued)),
            (Opened::UnknownBackend(orphan), Placement::Rehomed(_)) => Some(fresh(orphan.id, orphan.issued)),
            // Sealed anew with the key that signs.
            (Opened::OldKey(pin), _) => Some(Pin { refreshed: self.now, ..*pin }),
            (Opened::Valid(pin), _) if pin.needs_refresh(self.now, cookie.limits) => {
                Some(Pin { refreshed: self.now, ..*pin })
            }
            _ => None,
        };
        if let Some(pin) = &self.leaves_with {
            self.pin_id = Some(pin.id);
        }
    }

    /// Adds the cookie to the reply, if the client has to be told.
    pub(super) fn set_cookie(&self, pool: &Pool, headers: &mut HeaderMap, is_https: bool) {
        let (Some(pin), Some(cookie)) = (&self.leaves_with, &pool.cookie) else { return };
        let token = cookie.pins.seal(pin);
        headers.append(header::SET_COOKIE, cookie.set.render(&token, pin, is_https, self.now));
        cache_guard::guard(headers);
    }
}

fn pick(pool: &Pool, balancer: &mut Balancer, tried: &Tried, rng: &mut Rng, placement: Placement) -> Next {
    match balancer.pick(&pool.members, tried, rng) {
        Some(member) => Next::Go(Destination { member, placement, moved: None }),
        None => Next::Nobody,
    }
}

/// The backend that takes over: the best in the pin's own order among those in good health, else among those that
/// serve at all.
fn heir_of(pin_id: u64, pool: &Pool, home: Option<usize>, tried: &Tried) -> Option<usize> {
    let untried = |index: usize| !tried.contains(index);
    let members = &pool.members;
    heir(pin_id, members, home, |index, member: &Member| untried(index) && member.backend.standing().is_first_choice())
        .or_else(|| {
            heir(pin_id, members, home, |index, member| {
                untried(index) && member.backend.standing().is_available_for_new()
            })
        })
        .or_else(|| {
            // Everybody else is draining: better there than nowhere.
            heir(pin_id, members, home, |index, member| {
                let standing = member.backend.standing();
                untried(index) && standing.admin != AdminState::Disabled && standing.is_available_for_pinned()
            })
        })
}
