//! One client's request as far as affinity is concerned: the pin it came with, where that sends it, and the pin it
//! leaves with. Joins `affinity` with what is known of the backends.

use std::time::Duration;

use fastrand::Rng;
use http::{HeaderMap, HeaderValue, header};
use tokio::time::Instant;

use super::affinity::rehome::{Course, Policy, course, course_after_drain, home_state};
use super::affinity::{CookieName, Detour, Opened, Pin, cache_guard};
use super::balance::newcomers::Newcomer;
use super::balance::{Balancer, Tried};
use super::forward::Origin;
use super::snapshot::Pool;
use crate::config::{PinOn, Sessions};
use crate::pool::sessions::HomeState;
use crate::pool::{Member, heir, instance};
use crate::telemetry::words::{DetourReason, PinVerdict, Placement, RehomeReason};

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
    /// Who the client seems to be; only for one without a pin.
    newcomer: Option<Newcomer>,
    /// The client's pin is taken away.
    is_released: bool,
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
    /// The session went with the memory it was in; said to the backend, once.
    pub session_lost: Option<RehomeReason>,
}

/// A pin that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    /// Index of the old home; `None` when it is no longer in the pool.
    pub from: Option<usize>,
    /// Why.
    pub reason: RehomeReason,
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
    pub(super) fn begin(
        pool: &Pool,
        route_has_affinity: bool,
        (origin, headers): (&Origin, &HeaderMap),
        now: u32,
    ) -> Self {
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
        let has_none = matches!(opened, Some(Opened::None | Opened::Expired | Opened::Forged));
        let newcomer = has_none.then(|| Newcomer::new(origin.client(headers), headers));
        Self { opened, now, leaves_with: None, pin_id, newcomer, is_released: false }
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
                let state = match home_state(backend.standing(), tried.contains(home)) {
                    HomeState::Unreachable | HomeState::Disabled if self.is_hold_over(&pin, pool, now) => {
                        HomeState::HoldOver
                    }
                    state => state,
                };
                let is_its_turn = state == HomeState::Draining && backend.is_turn_to_leave(pin.id, now);
                let course = if state == HomeState::Draining && backend.is_drain_over(pin.id, now) {
                    course_after_drain(policy)
                } else {
                    course(policy, state, has_waited, is_its_turn)
                };
                match course {
                    Course::Home => Next::Go(self.kept(&pin, pool)),
                    Course::Wait => Next::Wait { home },
                    course => match self.follow(course, pool, Some(home), pin.id, pin.detour, tried) {
                        // Nobody else can: a home in doubt is better than none.
                        Next::Nobody if serves_pinned(pool, home, tried) => Next::Go(self.kept(&pin, pool)),
                        next => next,
                    },
                }
            }
            Some(Opened::UnknownBackend(orphan)) => {
                let course = course(policy, HomeState::Removed, has_waited, false);
                self.follow(course, pool, None, orphan.id, orphan.detour, tried)
            }
            Some(Opened::None | Opened::Expired | Opened::Forged) => self.welcome(pool, balancer, tried, rng, now),
            None => unpinned(pool, balancer, tried, rng),
        }
    }

    /// Places a client without a pin: where its other first requests went, else where the balancer says.
    fn welcome(&self, pool: &Pool, balancer: &mut Balancer, tried: &Tried, rng: &mut Rng, now: Instant) -> Next {
        let new = |member| Next::Go(Destination { member, placement: Placement::New, moved: None, session_lost: None });
        let is_good = |member: &usize| {
            let found = pool.members.get(*member);
            found.is_some_and(|found| found.backend.standing().is_available_for_new()) && !tried.contains(*member)
        };
        let Some(newcomer) = self.newcomer else { return Next::Nobody };
        if let Some(member) = pool.newcomers.home_of(newcomer, pool.uptime(now)).filter(is_good) {
            return new(member);
        }
        match balancer.pick(&pool.members, tried, rng) {
            Some(member) => {
                let claimed = pool.newcomers.claim(newcomer, member, pool.uptime(now));
                new(if is_good(&claimed) { claimed } else { member })
            }
            None => Next::Nobody,
        }
    }

    /// The reply's word on the pin, and whether it begins a session: the app may end a pin, or ask for one only then.
    /// Says whether the client has a pin now.
    pub(super) fn obey(&mut self, pool: &Pool, word: Option<&[u8]>, begins_session: impl FnOnce() -> bool) -> bool {
        if let Some(newcomer) = self.newcomer {
            pool.newcomers.forget(newcomer);
        }
        let (Some(opened), Some(cookie)) = (self.opened, &pool.cookie) else { return false };
        let is_new = opened.pin().is_none() && !matches!(opened, Opened::UnknownBackend(_));
        let is_early = is_new && cookie.pin_on == PinOn::SessionStart;
        if word.is_some_and(|word| word.eq_ignore_ascii_case(b"release")) {
            self.is_released = !matches!(opened, Opened::None);
            self.leaves_with = None;
        } else if is_early && !word.is_some_and(|word| word.eq_ignore_ascii_case(b"keep")) && !begins_session() {
            self.leaves_with = None;
        } else {
            return true;
        }
        if is_new {
            self.pin_id = None;
        }
        false
    }

    /// Whether the home, which cannot be reached, has been remembered for long enough: by this client's own detour, or by
    /// the time the home has been away.
    fn is_hold_over(&self, pin: &Pin, pool: &Pool, now: Instant) -> bool {
        let hold = pool.settings.rehome.hold_home;
        let since = pin.detour.map_or(self.now, |detour| detour.since);
        let detoured_for = Duration::from_secs(u64::from(self.now.saturating_sub(since)));
        detoured_for.max(pool.members[pin.home as usize].backend.unavailable_for(now)) >= hold
    }

    /// The home serves its client, who may be told that its session is gone.
    fn kept(&self, pin: &Pin, pool: &Pool) -> Destination {
        let session_lost = self.lost_with_instance(pin, pool).then_some(RehomeReason::Gone);
        Destination { member: pin.home as usize, placement: Placement::Kept, moved: None, session_lost }
    }

    /// Whether the home lives another life than the one the pin names, and the session was only in that one's memory.
    fn lost_with_instance(&self, pin: &Pin, pool: &Pool) -> bool {
        let current = pool.members[pin.home as usize].backend.instance();
        pool.settings.sessions == Sessions::Local
            && instance::is_another(pool.has_instance_names(), current, pin.instance, pin.refreshed)
    }

    /// Where a request goes that does not go home.
    fn follow(
        &self,
        course: Course,
        pool: &Pool,
        home: Option<usize>,
        pin_id: u64,
        detour: Option<Detour>,
        tried: &Tried,
    ) -> Next {
        let (placement, moved, session_lost) = match course {
            Course::Home | Course::Wait | Course::Refuse => return Next::Refuse,
            Course::Detour(reason) => (Placement::Detour(reason), None, None),
            Course::Rehome { reason, session_lost } => {
                let moved = Moved { from: home, reason };
                (Placement::Rehomed(reason), Some(moved), session_lost.then_some(reason))
            }
        };
        // Where the client has been detoured to already, it stays: what it did there may be there only.
        let noted = detour.map(|detour| detour.to as usize).filter(|to| serves_pinned(pool, *to, tried));
        let heir = noted.or_else(|| match course {
            // From one drained backend to another it would only have to move again.
            Course::Rehome { reason: RehomeReason::Drained, .. } => heir_in_service(pin_id, pool, home, tried),
            _ => heir_of(pin_id, pool, home, tried),
        });
        match heir {
            Some(member) => Next::Go(Destination { member, placement, moved, session_lost }),
            None => Next::Nobody,
        }
    }

    /// Notes where the request was served: the pin to leave with, if the client has to be told of one. `new_id` draws
    /// the id of a new pin.
    pub(super) fn served(&mut self, pool: &Pool, destination: &Destination, new_id: impl FnOnce() -> u64) {
        let (Some(opened), Some(cookie)) = (self.opened, &pool.cookie) else { return };
        self.leaves_with = match (opened, destination.placement) {
            (_, Placement::New) => Some(self.fresh_pin(pool, destination.member, new_id(), self.now)),
            (Opened::Valid(pin) | Opened::OldKey(pin), Placement::Rehomed(_)) => {
                Some(self.fresh_pin(pool, destination.member, pin.id, pin.issued))
            }
            (Opened::UnknownBackend(orphan), Placement::Rehomed(_)) => {
                Some(self.fresh_pin(pool, destination.member, orphan.id, orphan.issued))
            }
            (Opened::Valid(pin) | Opened::OldKey(pin), placement) => {
                let is_due = matches!(opened, Opened::OldKey(_)) || pin.needs_refresh(self.now, cookie.limits);
                let followed = self.followed(&pin, pool, destination, placement);
                followed.or_else(|| is_due.then(|| self.resealed(&pin, pool)))
            }
            (Opened::None | Opened::Expired | Opened::Forged | Opened::UnknownBackend(_), _) => None,
        };
        if let Some(pin) = &self.leaves_with {
            self.pin_id = Some(pin.id);
        }
    }

    /// The pin as this visit changes it: a long detour is noted, and forgotten at home; a new life of the home is named.
    fn followed(&self, pin: &Pin, pool: &Pool, destination: &Destination, placement: Placement) -> Option<Pin> {
        match placement {
            Placement::Kept if destination.session_lost.is_some() || pin.detour.is_some() => {
                Some(Pin { detour: None, ..self.resealed(pin, pool) })
            }
            Placement::Detour(DetourReason::Unreachable | DetourReason::Disabled) => {
                let to = destination.member as u32;
                let since = pin.detour.map_or(self.now, |detour| detour.since);
                let is_noted = pin.detour.is_some_and(|detour| detour.to == to);
                (!is_noted).then(|| Pin { detour: Some(Detour { to, since }), ..self.resealed(pin, pool) })
            }
            _ => None,
        }
    }

    /// The client began a session where it was only on a detour: that is its home now.
    pub(super) fn settle(&mut self, pool: &Pool, member: usize) -> Option<Moved> {
        let pin = self.opened.and_then(|opened| opened.pin())?;
        self.leaves_with = Some(self.fresh_pin(pool, member, pin.id, pin.issued));
        Some(Moved { from: Some(pin.home as usize), reason: RehomeReason::NewSession })
    }

    fn fresh_pin(&self, pool: &Pool, member: usize, id: u64, issued: u32) -> Pin {
        let instance = pool.members[member].backend.instance();
        Pin { id, home: member as u32, instance, issued, refreshed: self.now, detour: None }
    }

    /// The same pin, used now. Only at home does it take the home's present life: on a detour it keeps naming the life
    /// that holds the session.
    fn resealed(&self, pin: &Pin, pool: &Pool) -> Pin {
        let home = &pool.members[pin.home as usize].backend;
        let is_at_home = home.standing().is_available_for_pinned();
        let instance = if is_at_home { home.instance() } else { pin.instance };
        Pin { instance, refreshed: self.now, ..*pin }
    }

    /// Adds the cookie to the reply, if the client has to be told, and makes sure that there is no other of its name.
    pub(super) fn set_cookie(&self, pool: &Pool, headers: &mut HeaderMap, is_https: bool) {
        let Some(cookie) = &pool.cookie else { return };
        remove_namesakes(headers, &cookie.name);
        let line = match &self.leaves_with {
            Some(pin) => cookie.set.render(&cookie.pins.seal(pin), pin, is_https, self.now),
            None if self.is_released => cookie.set.render_removal(is_https),
            None => return,
        };
        headers.append(header::SET_COOKIE, line);
        cache_guard::guard(headers);
    }
}

/// A backend's own cookie of our name would take the place of the pin.
fn remove_namesakes(headers: &mut HeaderMap, name: &CookieName) {
    let is_namesake = |line: &HeaderValue| {
        let pair = line.as_bytes().split(|byte| *byte == b';').next();
        pair.is_some_and(|pair| name.contains(pair))
    };
    if headers.get_all(header::SET_COOKIE).iter().any(is_namesake) {
        let lines = headers.get_all(header::SET_COOKIE).iter();
        let kept: Vec<_> = lines.filter(|line| !is_namesake(line)).cloned().collect();
        headers.remove(header::SET_COOKIE);
        for line in kept {
            headers.append(header::SET_COOKIE, line);
        }
    }
}

/// Places a request where pins do not count.
fn unpinned(pool: &Pool, balancer: &mut Balancer, tried: &Tried, rng: &mut Rng) -> Next {
    let placement = Placement::Unpinned;
    match balancer.pick(&pool.members, tried, rng) {
        Some(member) => Next::Go(Destination { member, placement, moved: None, session_lost: None }),
        None => Next::Nobody,
    }
}

/// Whether a pinned client may be sent to this one.
fn serves_pinned(pool: &Pool, member: usize, tried: &Tried) -> bool {
    let found = pool.members.get(member);
    found.is_some_and(|found| found.backend.standing().is_available_for_pinned()) && !tried.contains(member)
}

/// The backend that takes over: one in service, or at least one that is only draining.
fn heir_of(pin_id: u64, pool: &Pool, home: Option<usize>, tried: &Tried) -> Option<usize> {
    heir_in_service(pin_id, pool, home, tried).or_else(|| {
        // Everybody else is draining: better there than nowhere.
        heir(pin_id, &pool.members, home, |index, member| {
            !tried.contains(index) && member.backend.standing().is_available_for_pinned()
        })
    })
}

/// The best in the pin's own order among those in good health, else among those that serve new clients at all.
fn heir_in_service(pin_id: u64, pool: &Pool, home: Option<usize>, tried: &Tried) -> Option<usize> {
    let untried = |index: usize| !tried.contains(index);
    let members = &pool.members;
    heir(pin_id, members, home, |index, member: &Member| untried(index) && member.backend.standing().is_first_choice())
        .or_else(|| {
            heir(pin_id, members, home, |index, member| {
                untried(index) && member.backend.standing().is_available_for_new()
            })
        })
}
