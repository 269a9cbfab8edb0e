//! What would happen to a request with this pin, and why: the same decisions as for a real one, without their effects. Only
//! what the store that replicas share knows of it is known here from then on.

use std::net::IpAddr;

use fastrand::Rng;
use http::HeaderMap;
use tokio::time::Instant;

use super::next::place_of_unknown;
use super::{Arrival, Carrier, Crowd, Next, Visit, pin_owner};
use crate::config::Balance;
use crate::pool::sessions::HomeState;
use crate::pool::{AdminState, Health, Member};
use crate::proxy::affinity::{Opened, Pin};
use crate::proxy::balance::{Balancer, Tried};
use crate::proxy::snapshot::{Affinity, Pool};
use crate::telemetry::words::{PinVerdict, Placement, RehomeReason};

/// A request that somebody asks about.
#[derive(Debug)]
pub struct Question {
    /// The client's address.
    pub client: IpAddr,
    /// The request's header lines.
    pub headers: HeaderMap,
    /// Its path and query.
    pub path_and_query: String,
}

/// What would be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What its pin turned out to be; `None` where pins do not count.
    pub verdict: Option<PinVerdict>,
    /// The id of its pin.
    pub pin_id: Option<u64>,
    /// The pin, when it is good.
    pub pin: Option<Pin>,
    /// What is the matter with its home.
    pub home_state: Option<HomeState>,
    /// The home lives another life than the pin names: what it had in memory is lost.
    pub is_another_instance: bool,
    /// Who takes over when the home is lost, by index.
    pub heir: Option<usize>,
    /// Where the request would go.
    pub course: Answer,
}

/// See [`Explanation::course`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To this backend.
    Go {
        /// Index of the backend.
        to: usize,
        /// What that would be, and why.
        placement: Placement,
        /// The session would be said to be lost, for this reason.
        session_lost: Option<RehomeReason>,
    },
    /// It would wait for its home; then it would be refused, or served elsewhere.
    Wait {
        /// The pool's policy is to refuse it then.
        then_refused: bool,
    },
    /// It would wait in the queue: of this backend, or of the pool.
    Queue {
        /// Index of the backend.
        at: Option<usize>,
    },
    /// The pool's policy is to refuse it.
    Refuse,
    /// Nobody could serve it.
    Nobody,
    /// The balancer would pick; the client gets a pin if the pool gives one.
    Balanced,
}

/// Explains a request to a pool; `now` and `wall_seconds` are the same moment on both clocks.
pub async fn explain(pool: &Pool, question: &Question, now: Instant, wall_seconds: u32) -> Explanation {
    let path_and_query = &*question.path_and_query;
    let (mut visit, unknown) = {
        let arrival = Arrival {
            client: &|| question.client,
            headers: &question.headers,
            path: path_and_query.split('?').next().unwrap_or_default(),
            path_and_query,
            now: wall_seconds,
        };
        let visit = Visit::begin(pool, true, arrival);
        let unknown = visit.unknown_here(pool, &arrival);
        (visit, unknown)
    };
    visit.ask_others(pool, unknown, pin_owner(question.client)).await;
    visit.look_for_home(pool, pin_owner(question.client)).await;
    visit.explain(pool, now)
}

impl Visit {
    fn explain(&self, pool: &Pool, now: Instant) -> Explanation {
        let tried = Tried::default();
        let pin = self.pin();
        let is_pinned = pin.is_some() || matches!(self.opened, Some(Opened::UnknownBackend(_)));
        let home = pin.map(|pin| pin.home as usize);
        Explanation {
            verdict: self.verdict(),
            pin_id: self.pin_id.filter(|_| is_pinned),
            pin,
            home_state: match pin {
                Some(pin) => Some(match self.state_of_home(&pin, pool, &tried, now) {
                    HomeState::Available if pool.members[pin.home as usize].backend.room().is_full() => HomeState::Busy,
                    state => state,
                }),
                None => is_pinned.then_some(HomeState::Removed),
            },
            is_another_instance: pin.is_some_and(|pin| self.lost_with_instance(&pin, pool)),
            heir: self.pin_id.filter(|_| is_pinned).and_then(|id| self.heir_of(id, pool, home, &tried, now)),
            course: if is_pinned { self.course_of_pinned(pool, now) } else { self.course_of_new(pool, now) },
        }
    }

    fn course_of_pinned(&self, pool: &Pool, now: Instant) -> Answer {
        // Whoever has a pin is not balanced, so neither of them is used.
        let (mut balancer, mut rng) = (Balancer::new(Balance::Random, &pool.members, 0), Rng::with_seed(0));
        let (tried, crowd) = (Tried::default(), Crowd::onlooker());
        let has_waited = pool.settings.rehome.wait.is_zero();
        match self.next(pool, &mut balancer, (&tried, &crowd), has_waited, &mut rng, now) {
            Next::Go(to) => Answer::Go { to: to.member, placement: to.placement, session_lost: to.session_lost },
            Next::Wait { .. } => {
                let after = self.next(pool, &mut balancer, (&tried, &crowd), true, &mut rng, now);
                Answer::Wait { then_refused: after == Next::Refuse }
            }
            Next::QueueAt { member, .. } => Answer::Queue { at: Some(member) },
            Next::QueueForAny(_) => Answer::Queue { at: None },
            Next::Refuse => Answer::Refuse,
            // An onlooker has not waited, so whoever is full has a queue.
            Next::Full | Next::Nobody => Answer::Nobody,
        }
    }

    fn course_of_new(&self, pool: &Pool, now: Instant) -> Answer {
        let known_by = match &self.carrier {
            Carrier::KeyMissing => return Answer::Refuse,
            Carrier::Session(session) => session.presented.map(|presented| presented.pin_id),
            Carrier::Cookie | Carrier::Hash | Carrier::Bounded(_) => None,
        };
        match known_by.and_then(|id| place_of_unknown(id, pool, &Tried::default(), now)) {
            Some(to) => Answer::Go { to, placement: Placement::New, session_lost: None },
            None if !pool.members.iter().any(|member| !member.is_full() && serves_new(pool, member)) => Answer::Nobody,
            None if all_are_full(pool) => Answer::Queue { at: None },
            None => Answer::Balanced,
        }
    }
}

/// Whether nobody who would be picked has room for a request.
fn all_are_full(pool: &Pool) -> bool {
    let candidates = Balancer::candidates(&pool.members, &Tried::default(), !matches!(pool.affinity, Affinity::Off));
    !candidates.is_empty() && candidates.iter().all(|member| pool.members[*member].backend.room().is_full())
}

/// Whether new clients can be placed here, if need be.
fn serves_new(pool: &Pool, member: &Member) -> bool {
    let standing = member.backend.standing();
    (standing.health != Health::Unhealthy && standing.admin != AdminState::Disabled)
        || pool.state.spread().ignores_health_of(member)
}
