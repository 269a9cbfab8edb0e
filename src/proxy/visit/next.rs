//! Where each attempt of a request goes.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use super::{Carrier, Destination, Moved, Next, Visit};
use crate::config::Sessions;
use crate::pool::rebalance::{self, Role};
use crate::pool::sessions::HomeState;
use crate::pool::{Member, heir, instance};
use crate::proxy::affinity::rehome::{Course, Policy, course, course_after_drain, home_state};
use crate::proxy::affinity::{Detour, Opened, Pin};
use crate::proxy::balance::{Balancer, Tried};
use crate::proxy::snapshot::Pool;
use crate::telemetry::words::{DetourReason, Placement, RehomeReason};

impl Visit {
    /// Decides where the next attempt goes. `tried` are those that failed this request; `has_waited` whether it has
    /// waited for its home as long as it may.
    pub(in crate::proxy) fn next(
        &self,
        pool: &Pool,
        balancer: &mut Balancer,
        tried: &Tried,
        has_waited: bool,
        rng: &mut Rng,
        now: Instant,
    ) -> Next {
        match self.opened {
            Some(Opened::Valid(pin) | Opened::OldKey(pin)) => self.next_of_pinned(&pin, pool, tried, has_waited, now),
            Some(Opened::UnknownBackend(orphan)) => {
                let course = course(policy(pool), HomeState::Removed, has_waited, false);
                self.follow(course, pool, None, orphan.id, orphan.detour, tried)
            }
            Some(Opened::None | Opened::Expired | Opened::Forged) => match &self.carrier {
                Carrier::Hash | Carrier::KeyMissing => unpinned(pool, balancer, tried, rng),
                Carrier::Cookie | Carrier::Session(_) => self.welcome(pool, balancer, tried, rng, now),
            },
            None => unpinned(pool, balancer, tried, rng),
        }
    }

    fn next_of_pinned(&self, pin: &Pin, pool: &Pool, tried: &Tried, has_waited: bool, now: Instant) -> Next {
        let home = pin.home as usize;
        match self.course(pin, pool, tried, has_waited, now) {
            Course::Home => match self.evened_out(pin, pool, tried) {
                Some(member) => {
                    let reason = RehomeReason::Rebalanced;
                    let moved = Some(Moved { from: Some(home), reason });
                    Next::Go(Destination { moved, ..Destination::plain(member, Placement::Rehomed(reason)) })
                }
                None => Next::Go(self.kept(pin, pool)),
            },
            Course::Wait => Next::Wait { home },
            course => match self.follow(course, pool, Some(home), pin.id, pin.detour, tried) {
                // Nobody else can: a home in doubt is better than none.
                Next::Nobody if serves_pinned(pool, home, tried) => Next::Go(self.kept(pin, pool)),
                next => next,
            },
        }
    }

    /// What the state of its home means for a pinned client.
    pub(super) fn course(&self, pin: &Pin, pool: &Pool, tried: &Tried, has_waited: bool, now: Instant) -> Course {
        let policy = policy(pool);
        let backend = &pool.members[pin.home as usize].backend;
        let state = self.state_of_home(pin, pool, tried, now);
        let is_its_turn = state == HomeState::Draining && backend.is_turn_to_leave(pin.id, now);
        let course = if state == HomeState::Draining && backend.is_drain_over(pin.id, now) {
            course_after_drain(policy)
        } else {
            course(policy, state, has_waited, is_its_turn)
        };
        // A key hashes to its home for ever: whoever is elsewhere is on a detour.
        match course {
            Course::Rehome { .. } if matches!(self.carrier, Carrier::Hash) => Course::Detour(match state {
                HomeState::Draining | HomeState::Disabled => DetourReason::Disabled,
                _ => DetourReason::Unreachable,
            }),
            course => course,
        }
    }

    /// What is the matter with the home of a pin.
    pub(super) fn state_of_home(&self, pin: &Pin, pool: &Pool, tried: &Tried, now: Instant) -> HomeState {
        let home = pin.home as usize;
        match home_state(pool.members[home].backend.standing(), tried.contains(home)) {
            HomeState::Unreachable | HomeState::Disabled if self.is_hold_over(pin, pool, now) => HomeState::HoldOver,
            state => state,
        }
    }

    /// Places a client without a pin: where its other first requests went, else where the balancer says.
    fn welcome(&self, pool: &Pool, balancer: &mut Balancer, tried: &Tried, rng: &mut Rng, now: Instant) -> Next {
        let new = |member| Next::Go(Destination::plain(member, Placement::New));
        let is_good = |member: &usize| {
            let found = pool.members.get(*member);
            found.is_some_and(|found| found.backend.standing().is_available_for_new()) && !tried.contains(*member)
        };
        // A session that began before we knew of it: all its requests, through every replica, find one place.
        if let Some(presented) = self.presented()
            && let Some(member) = place_of_unknown(presented.pin_id, pool, tried)
        {
            return new(member);
        }
        let Some(newcomer) = self.newcomer else { return Next::Nobody };
        if let Some(member) = pool.newcomers.home_of(newcomer, pool.uptime(now)).filter(is_good) {
            return new(member);
        }
        match on_trial(pool, tried).or_else(|| balancer.pick_home(&pool.members, tried, rng)) {
            Some(member) => {
                let claimed = pool.newcomers.claim(newcomer, member, pool.uptime(now));
                new(if is_good(&claimed) { claimed } else { member })
            }
            None => Next::Nobody,
        }
    }

    /// Whether the home, which cannot be reached, has been remembered for long enough: by this client's own detour, or by
    /// the time the home has been away.
    fn is_hold_over(&self, pin: &Pin, pool: &Pool, now: Instant) -> bool {
        let hold = pool.settings.rehome.hold_home;
        let backend = &pool.members[pin.home as usize].backend;
        let away_for = backend.unavailable_for(now);
        if backend.has_seen_outage_begin() {
            // A detour that was noted before is of an earlier one.
            return away_for >= hold;
        }
        let since = pin.detour.map_or(self.now, |detour| detour.since);
        away_for.max(Duration::from_secs(u64::from(self.now.saturating_sub(since)))) >= hold
    }

    /// The home serves its client, who may be told that its session is gone.
    fn kept(&self, pin: &Pin, pool: &Pool) -> Destination {
        let session_lost = self.lost_with_instance(pin, pool).then_some(RehomeReason::Gone);
        Destination { session_lost, ..Destination::plain(pin.home as usize, Placement::Kept) }
    }

    /// Whether the home lives another life than the one the pin names, and the session was only in that one's memory.
    pub(super) fn lost_with_instance(&self, pin: &Pin, pool: &Pool) -> bool {
        let current = pool.members[pin.home as usize].backend.instance();
        pool.settings.sessions == Sessions::Local
            && instance::is_another(pool.has_instance_names(), current, pin.instance, pin.refreshed)
    }

    /// Where a healthy pin moves because its home has too many clients, if it is its turn.
    fn evened_out(&self, pin: &Pin, pool: &Pool, tried: &Tried) -> Option<usize> {
        let settings = pool.settings.rebalance.as_ref()?;
        let home = pin.home as usize;
        let backend = &pool.members[home].backend;
        if backend.role() != Role::Sheds || matches!(self.carrier, Carrier::Hash) {
            return None;
        }
        // Not in the middle of a burst of requests, some of which would still go to the old home.
        let is_idle = u64::from(self.now.saturating_sub(pin.refreshed)) >= settings.idle_for.as_secs();
        // A client that was away for long has not saved up turns of a time when all was even.
        let used = (pin.refreshed.max(backend.sheds_since()), self.now);
        if !is_idle || !rebalance::is_turn(pin.id, backend.stable_hash(), used, settings.pace.per_second()) {
            return None;
        }
        let receives = |member: &Member| member.backend.role() == Role::Receives && is_good_heir(member);
        let untried = |index: usize| !tried.contains(index);
        match pool.settings.sessions {
            // Its session cannot follow; it is placed anew once it has ended.
            Sessions::Local => None,
            // Only the heir has a copy.
            Sessions::Backup => {
                let heir = self.heir_of(pin.id, pool, Some(home), tried)?;
                receives(&pool.members[heir]).then_some(heir)
            }
            Sessions::Replicated | Sessions::External => {
                heir(pin.id, &pool.members, Some(home), |index, member| untried(index) && receives(member))
            }
        }
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
            Course::Rehome { reason: RehomeReason::Drained, .. } => {
                let takes_over = |heir: &usize| {
                    Some(*heir) != home
                        && !tried.contains(*heir)
                        && pool.members[*heir].backend.standing().is_available_for_new()
                };
                self.named_heir().filter(takes_over).or_else(|| heir_in_service(pin_id, pool, home, tried))
            }
            _ => self.heir_of(pin_id, pool, home, tried),
        });
        match heir {
            Some(member) => Next::Go(Destination { member, placement, moved, session_lost }),
            None => Next::Nobody,
        }
    }

    /// The backend that takes over: the one that the session id names, else one in service, or at least one that is only
    /// draining.
    pub(super) fn heir_of(&self, pin_id: u64, pool: &Pool, home: Option<usize>, tried: &Tried) -> Option<usize> {
        self.named_heir()
            .filter(|heir| Some(*heir) != home && serves_pinned(pool, *heir, tried))
            .or_else(|| heir_in_service(pin_id, pool, home, tried))
            .or_else(|| {
                // Everybody else is draining: better there than nowhere.
                heir(pin_id, &pool.members, home, |index, member| {
                    !tried.contains(index) && member.backend.standing().is_available_for_pinned()
                })
            })
    }

    /// The heir that the session id names.
    fn named_heir(&self) -> Option<usize> {
        self.presented().and_then(|presented| presented.heir).map(|heir| heir as usize)
    }

    /// Who takes over when the backend that serves this request is lost: what `Stickpin-Heir` tells.
    pub(in crate::proxy) fn heir(&self, pool: &Pool, served_by: usize) -> Option<usize> {
        self.heir_of(self.pin_id?, pool, Some(served_by), &Tried::default())
    }
}

/// What the pool says about pins whose home cannot serve them.
pub(super) fn policy(pool: &Pool) -> Policy {
    Policy {
        sessions: pool.settings.sessions,
        permits: pool.permits,
        when_unavailable: pool.settings.rehome.when_unavailable,
    }
}

/// Places a request where pins do not count.
fn unpinned(pool: &Pool, balancer: &mut Balancer, tried: &Tried, rng: &mut Rng) -> Next {
    match on_trial(pool, tried).or_else(|| balancer.pick(&pool.members, tried, rng)) {
        Some(member) => Next::Go(Destination::plain(member, Placement::Unpinned)),
        None => Next::Nobody,
    }
}

/// The backend on probation, if there is one and this is the client that is let through to it.
fn on_trial(pool: &Pool, tried: &Tried) -> Option<usize> {
    if !tried.is_empty() {
        return None;
    }
    let serial = pool.trial.take()?;
    let is_meant = |member: &Member| {
        member.backend.serial() == serial && member.backend.standing().is_available_for_new() && !member.is_full()
    };
    pool.members.iter().position(is_meant)
}

/// Whether a pinned client may be sent to this one.
pub(super) fn serves_pinned(pool: &Pool, member: usize, tried: &Tried) -> bool {
    let found = pool.members.get(member);
    found.is_some_and(|found| found.backend.standing().is_available_for_pinned()) && !tried.contains(member)
}

/// Whether an orphan does well here: in good health, and with room for it.
fn is_good_heir(member: &Member) -> bool {
    member.backend.standing().is_first_choice() && !member.is_full()
}

/// The best in the pin's own order among those in good health and with room, else among those that serve new clients at
/// all.
fn heir_in_service(pin_id: u64, pool: &Pool, home: Option<usize>, tried: &Tried) -> Option<usize> {
    let untried = |index: usize| !tried.contains(index);
    let members = &pool.members;
    let is_in_service =
        |index: usize, member: &Member| untried(index) && member.backend.standing().is_available_for_new();
    // Where there is one copy, whoever was told to keep it has it, in best health or not.
    if pool.settings.sessions == Sessions::Backup {
        return heir(pin_id, members, home, is_in_service);
    }
    heir(pin_id, members, home, |index, member| untried(index) && is_good_heir(member))
        .or_else(|| heir(pin_id, members, home, is_in_service))
}

/// Where a session id that nobody knows hashes to: as a new client, not to somebody with as many as it may have.
pub(super) fn place_of_unknown(pin_id: u64, pool: &Pool, tried: &Tried) -> Option<usize> {
    let untried = |index: usize| !tried.contains(index);
    let members = &pool.members;
    heir(pin_id, members, None, |index, member: &Member| untried(index) && is_good_heir(member)).or_else(|| {
        heir(pin_id, members, None, |index, member| {
            untried(index) && !member.is_full() && member.backend.standing().is_available_for_new()
        })
    })
}
