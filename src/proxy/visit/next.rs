//! Where each attempt of a request goes.

use std::cmp::Ordering;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use super::{Carrier, Crowd, Destination, Moved, Next, Visit};
use crate::config::{HomeBy, Sessions};
use crate::pool::backend::CouldInherit;
use crate::pool::moves::Move;
use crate::pool::rebalance::{self, Role};
use crate::pool::sessions::HomeState;
use crate::pool::{AdminState, Health, Member, Panic, Warming, by_tier, heir, heir_of_rank, instance};
use crate::proxy::affinity::rehome::{Course, Policy, course, course_after_drain, home_state};
use crate::proxy::affinity::{Detour, Opened, Pin};
use crate::proxy::balance::{Balancer, Circumstances, Tried};
use crate::proxy::snapshot::{Affinity, Pool};
use crate::telemetry::words::{DetourReason, Placement, RehomeReason};

impl Visit {
    /// Decides where the next attempt goes. `tried` are those that failed this request, `crowd` those that were full;
    /// `has_waited` whether it has waited as long as it may for a home that is away.
    pub(in crate::proxy) fn next(
        &self,
        pool: &Pool,
        balancer: &mut Balancer,
        (tried, crowd): (&Tried, &Crowd),
        has_waited: bool,
        rng: &mut Rng,
        now: Instant,
    ) -> Next {
        match self.opened {
            Some(Opened::Valid(pin) | Opened::OldKey(pin)) => {
                self.next_of_pinned(&pin, pool, (tried, crowd), has_waited, now)
            }
            Some(Opened::UnknownBackend(orphan)) => {
                let course = course(policy(pool), HomeState::Removed, has_waited, false);
                let orphan = Away { home: None, pin_id: orphan.id, detour: orphan.detour };
                self.follow(course, pool, orphan, (tried, crowd), now)
            }
            Some(Opened::None | Opened::Expired | Opened::Forged) => match &self.carrier {
                Carrier::Hash | Carrier::Bounded(_) | Carrier::KeyMissing => {
                    unpinned(pool, balancer, (tried, crowd), rng, now)
                }
                Carrier::Cookie | Carrier::Session(_) => self.welcome(pool, balancer, (tried, crowd), rng, now),
            },
            None => unpinned(pool, balancer, (tried, crowd), rng, now),
        }
    }

    fn next_of_pinned(
        &self,
        pin: &Pin,
        pool: &Pool,
        (tried, crowd): (&Tried, &Crowd),
        has_waited: bool,
        now: Instant,
    ) -> Next {
        if let Some(next) = self.next_along_with_others(pin, pool, (tried, crowd), now) {
            return next;
        }
        let home = pin.home as usize;
        let away = Away { home: Some(home), pin_id: pin.id, detour: pin.detour };
        match self.course(pin, pool, tried, has_waited, now) {
            // Where all requests have a key there are no new clients of whom one could be let through.
            Course::Detour(DetourReason::Suspect) if self.is_let_through(pool, home, (tried, crowd)) => {
                Next::Go(self.kept(pin, pool))
            }
            Course::Home if crowd.found(home, &pool.members[home]) => {
                self.next_of_busy_home(home, pool, away, (tried, crowd), now)
            }
            Course::Home => match self.evened_out(pin, pool, tried, now) {
                Some(member) if !crowd.found(member, &pool.members[member]) => {
                    let reason = RehomeReason::Rebalanced;
                    let moved = Some(Moved { from: Some(home), reason });
                    Next::Go(Destination { moved, ..Destination::plain(member, Placement::Rehomed(reason)) })
                }
                _ => Next::Go(self.kept(pin, pool)),
            },
            Course::Wait => Next::Wait { home },
            course => match self.follow(course, pool, away, (tried, crowd), now) {
                // Nobody else can: a home in doubt is better than none.
                Next::Nobody if serves_pinned(pool, home, tried) || is_last_hope(pool, home, tried) => {
                    match crowd.found(home, &pool.members[home]) {
                        true => queue_at(home, crowd),
                        false => Next::Go(self.kept(pin, pool)),
                    }
                }
                next => next,
            },
        }
    }

    /// Where another request of this client moves the pin, or moved it a moment ago: this one was sent before its client had
    /// the new one. So it goes whatever is the matter with the home by now.
    fn next_along_with_others(
        &self,
        pin: &Pin,
        pool: &Pool,
        (tried, crowd): (&Tried, &Crowd),
        now: Instant,
    ) -> Option<Next> {
        let home = pin.home as usize;
        let known = pool.members[home].backend.move_of(pin.id, now)?;
        let to = place_of(&known, pool, tried)?;
        if crowd.found(to, &pool.members[to]) {
            // The others may have gone there before it was full, and the session with them.
            let has_to_wait = pool.settings.sessions != Sessions::External && !crowd.has_waited();
            return has_to_wait.then(|| queue_at(to, crowd));
        }
        let course = Course::Rehome { reason: known.reason, session_lost: known.session_lost };
        let detour = Some(Detour { to: to as u32, since: self.now });
        Some(self.follow(course, pool, Away { home: Some(home), pin_id: pin.id, detour }, (tried, crowd), now))
    }

    /// Whether this is the one request by a key that is let through to its home, which is on probation.
    fn is_let_through(&self, pool: &Pool, home: usize, (tried, crowd): (&Tried, &Crowd)) -> bool {
        let backend = &pool.members[home].backend;
        self.carrier.is_by_key()
            && tried.is_empty()
            && !crowd.is_onlooker()
            && !backend.room().is_full()
            && backend.standing().is_available_for_new()
            && pool.trial.take_at(backend.serial())
    }

    /// The home would serve its client, but is full: the client waits there, or takes a detour to where there is room. Its
    /// pin stays.
    fn next_of_busy_home(
        &self,
        home: usize,
        pool: &Pool,
        away: Away,
        (tried, crowd): (&Tried, &Crowd),
        now: Instant,
    ) -> Next {
        match course(policy(pool), HomeState::Busy, crowd.has_waited(), false) {
            Course::Detour(reason) => match self.heir_with_room(pool, away, (tried, crowd), now) {
                Some(member) => Next::Go(Destination::plain(member, Placement::Detour(reason))),
                // Everybody is full, and if anybody, the home should serve it.
                None => queue_at(home, crowd),
            },
            Course::Refuse => Next::Full,
            Course::Home | Course::Wait | Course::Rehome { .. } => queue_at(home, crowd),
        }
    }

    /// What the state of its home means for a pinned client.
    pub(super) fn course(&self, pin: &Pin, pool: &Pool, tried: &Tried, has_waited: bool, now: Instant) -> Course {
        let policy = policy(pool);
        let backend = &pool.members[pin.home as usize].backend;
        let state = self.state_of_home(pin, pool, tried, now);
        if self.was_placed_in_panic(pin, pool, state, tried, now) {
            return Course::Home;
        }
        let is_its_turn = state == HomeState::Draining && backend.is_turn_to_leave(pin.id, now);
        let course = if state == HomeState::Draining && backend.is_drain_over(pin.id, now) {
            course_after_drain(policy)
        } else {
            course(policy, state, has_waited, is_its_turn)
        };
        // A key hashes to its home for ever: whoever is elsewhere is on a detour.
        match course {
            Course::Rehome { .. } if self.carrier.is_by_key() => Course::Detour(match state {
                HomeState::Draining | HomeState::Disabled => DetourReason::Disabled,
                _ => DetourReason::Unreachable,
            }),
            course => course,
        }
    }

    /// Whether a pool in panic placed this client where it is, though its home was known to be unhealthy: it was served
    /// there, so it stays while that goes on, and its session with it. Only where pins tell when they were made.
    fn was_placed_in_panic(&self, pin: &Pin, pool: &Pool, state: HomeState, tried: &Tried, now: Instant) -> bool {
        let is_away = matches!(state, HomeState::Unreachable | HomeState::HoldOver);
        if !is_away || tried.contains(pin.home as usize) || !pool.state.spread().is_panicking() {
            return false;
        }
        let home = &pool.members[pin.home as usize];
        let away_for = home.backend.unavailable_for(now).as_secs();
        // In whole seconds nobody who came before is taken for one who came since; who came in the first two seconds may be
        // taken for one who came before, and is on a detour from then on.
        let was_placed_since = u64::from(self.now.saturating_sub(pin.issued)) < away_for && pin.detour.is_none();
        tells_age(pool) && was_placed_since && home.backend.standing().admin == AdminState::Enabled
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
    fn welcome(
        &self,
        pool: &Pool,
        balancer: &mut Balancer,
        (tried, crowd): (&Tried, &Crowd),
        rng: &mut Rng,
        now: Instant,
    ) -> Next {
        let new = |member| Next::Go(Destination::plain(member, Placement::New));
        let spread = pool.state.spread();
        let is_found_full = |member: usize| crowd.found(member, &pool.members[member]);
        let is_good = |member: &usize| {
            let serves_new =
                |found: &Member| found.backend.standing().is_available_for_new() || spread.ignores_health_of(found);
            pool.members.get(*member).is_some_and(serves_new) && !tried.contains(*member)
        };
        // A session that began before we knew of it: all its requests, through every replica, find one place.
        if let Some(presented) = self.presented()
            && let Some(member) = place_of_unknown(presented.pin_id, pool, tried, now)
        {
            return if is_found_full(member) { queue_as_new(member, crowd) } else { new(member) };
        }
        let Some(newcomer) = self.newcomer else { return Next::Nobody };
        if let Some(member) = pool.newcomers.home_of(newcomer, pool.uptime(now)).filter(is_good) {
            // Its other first requests are there, so it waits for that one like for a home.
            return if is_found_full(member) { queue_as_new(member, crowd) } else { new(member) };
        }
        let circumstances = Circumstances { is_home: true, ..circumstances(pool, tried, now) };
        match pick(pool, balancer, &circumstances, rng, now) {
            Some(member) if must_queue(pool, member) => queue_for_any(Placement::New, crowd),
            Some(member) => {
                let claimed = pool.newcomers.claim(newcomer, member, pool.uptime(now));
                new(if is_good(&claimed) { claimed } else { member })
            }
            None => Next::Nobody,
        }
    }

    /// A client without a pin got room here: its other first requests are to come, too.
    pub(in crate::proxy) fn claim(&self, pool: &Pool, member: usize, now: Instant) {
        if let Some(newcomer) = self.newcomer {
            pool.newcomers.claim(newcomer, member, pool.uptime(now));
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
    fn evened_out(&self, pin: &Pin, pool: &Pool, tried: &Tried, now: Instant) -> Option<usize> {
        let settings = pool.settings.rebalance.as_ref()?;
        let home = pin.home as usize;
        let backend = &pool.members[home].backend;
        if backend.role() != Role::Sheds || self.carrier.is_by_key() {
            return None;
        }
        // Not in the middle of a burst of requests, some of which would still go to the old home.
        let is_idle = u64::from(self.now.saturating_sub(pin.refreshed)) >= settings.idle_for.as_secs();
        // A client that was away for long has not saved up turns of a time when all was even.
        let used = (pin.refreshed.max(backend.sheds_since()), self.now);
        if !is_idle || !rebalance::is_turn(pin.id, backend.stable_hash(), used, settings.pace.per_second()) {
            return None;
        }
        // As many as they have at this moment, and those under way: until pins are counted again, more would come or go than
        // the share, and move twice.
        let share = Share::of(pool);
        if !share.is_below(&pool.members[home]) {
            return None;
        }
        let receives = |member: &Member| {
            member.backend.role() == Role::Receives
                && is_good_heir(member)
                && !member.backend.room().is_full()
                && share.is_above(member)
                && !self.has_missed_some(pool, member, now)
        };
        let untried = |index: usize| !tried.contains(index);
        match pool.settings.sessions {
            // Its session cannot follow; it is placed anew once it has ended.
            Sessions::Local => None,
            // Only the heir has a copy, once it was told of as the heir: a client that has not asked since somebody came or
            // went has it elsewhere. When that one failed this request, nobody else has it.
            Sessions::Backup => {
                let heir = self.heir_of(pin.id, pool, Some(home), &Tried::default(), now)?;
                let has_copy = untried(heir) && self.was_told_heir(pool, pin.refreshed, now);
                (has_copy && receives(&pool.members[heir])).then_some(heir)
            }
            Sessions::Replicated | Sessions::External => {
                heir(pin.id, &pool.members, Some(home), |index, member| untried(index) && receives(member))
            }
        }
    }

    /// Where a request goes that does not go home; nobody, where the home is better than whoever is left.
    fn follow(&self, course: Course, pool: &Pool, away: Away, (tried, crowd): (&Tried, &Crowd), now: Instant) -> Next {
        let Away { home, pin_id, detour } = away;
        let (placement, moved, session_lost) = match course {
            Course::Home | Course::Wait | Course::Refuse => return Next::Refuse,
            Course::Detour(reason) => (Placement::Detour(reason), None, None),
            Course::Rehome { reason, session_lost } => {
                let moved = Moved { from: home, reason };
                (Placement::Rehomed(reason), Some(moved), session_lost.then_some(reason))
            }
        };
        let is_drained = matches!(course, Course::Rehome { reason: RehomeReason::Drained, .. });
        let heir_but = |tried: &Tried| {
            // Where the client has been detoured to already, it stays: what it did there may be there only.
            let noted = detour.map(|detour| detour.to as usize).filter(|to| serves_pinned(pool, *to, tried));
            noted.or_else(|| match is_drained {
                true => self.heir_of_drained(pin_id, pool, home, tried, now),
                false => self.copy_of(pin_id, pool, home, tried, now),
            })
        };
        let Some(mut member) = heir_but(tried) else { return Next::Nobody };
        let home_serves = || home.is_some_and(|home| serves_pinned(pool, home, tried));
        // The heir, which has the only copy, failed this request too: whoever is left may serve it, but is no new home.
        let lacks_copy = pool.settings.sessions == Sessions::Backup
            && !tried.is_empty()
            && heir_but(&Tried::default()).is_some_and(|heir| heir != member && tried.contains(heir));
        if lacks_copy && home_serves() {
            return Next::Nobody;
        }
        let is_without_copy = lacks_copy && moved.is_some();
        if crowd.found(member, &pool.members[member]) {
            match self.instead_of_full_heir(pool, away, (tried, crowd), now) {
                Some(other) => member = other,
                // Nothing is the matter with a home that is drained: it is left later.
                None if is_drained && home_serves() => return Next::Nobody,
                None => return queue_at(member, crowd),
            }
        }
        Next::Go(if is_without_copy {
            Destination::plain(member, Placement::Detour(DetourReason::ConnectFailed))
        } else {
            Destination { member, placement, moved, session_lost }
        })
    }

    /// Who takes over instead of an heir that is full. Nobody at first: all requests of one client, through every
    /// replica, are to find the same heir, so they wait for it. Where sessions are external it does not matter who it is.
    /// After the wait, anybody with room is better than an error, except where only the heir has a copy.
    fn instead_of_full_heir(
        &self,
        pool: &Pool,
        away: Away,
        (tried, crowd): (&Tried, &Crowd),
        now: Instant,
    ) -> Option<usize> {
        let may_be_another = match pool.settings.sessions {
            Sessions::External => true,
            Sessions::Local | Sessions::Replicated => crowd.has_waited(),
            Sessions::Backup => false,
        };
        if may_be_another { self.heir_with_room(pool, away, (tried, crowd), now) } else { None }
    }

    /// The best in the pin's own order that has room, where it is detoured to already before all others; with one copy of
    /// each session, only who has that.
    fn heir_with_room(&self, pool: &Pool, away: Away, (tried, crowd): (&Tried, &Crowd), now: Instant) -> Option<usize> {
        let Away { home, pin_id, detour } = away;
        let has_room = |member: &usize| crowd.may_have_room(*member, &pool.members[*member]);
        let is_other = |member: &usize| Some(*member) != home && serves_pinned(pool, *member, tried);
        let known = detour.map(|detour| detour.to as usize).filter(is_other).or(self.named_heir().filter(is_other));
        if pool.settings.sessions == Sessions::Backup {
            return known.or_else(|| self.copy_in_service(pin_id, pool, home, tried, now)).filter(has_room);
        }
        let warming = pool.warming(now);
        known.filter(has_room).or_else(|| {
            heir_of_rank(pin_id, &pool.members, home, |index, member| {
                let is_free = !tried.contains(index) && crowd.may_have_room(index, member);
                if is_free { self.rank(pool, member, pin_id, warming.as_ref(), now) } else { None }
            })
        })
    }

    /// The backend that takes over: the one that the session id names, else one in service, or at least one that is only
    /// draining.
    pub(super) fn heir_of(
        &self,
        pin_id: u64,
        pool: &Pool,
        home: Option<usize>,
        tried: &Tried,
        now: Instant,
    ) -> Option<usize> {
        let in_service = || self.heir_in_service(pin_id, pool, home, tried, now);
        self.named_or(in_service, pin_id, pool, home, tried)
    }

    /// Who takes over now, and has the copy where there is one: as [`Visit::heir_of`], but whoever may have been told of as
    /// the heir with the client's last request comes before those who came since.
    fn copy_of(&self, pin_id: u64, pool: &Pool, home: Option<usize>, tried: &Tried, now: Instant) -> Option<usize> {
        let in_service = || self.copy_in_service(pin_id, pool, home, tried, now);
        self.named_or(in_service, pin_id, pool, home, tried)
    }

    /// The heir that the session id names, else the one `in_service`, else one that is only draining.
    fn named_or(
        &self,
        in_service: impl FnOnce() -> Option<usize>,
        pin_id: u64,
        pool: &Pool,
        home: Option<usize>,
        tried: &Tried,
    ) -> Option<usize> {
        let is_other = |heir: &usize| Some(*heir) != home && serves_pinned(pool, *heir, tried);
        self.named_heir().filter(is_other).or_else(in_service).or_else(|| {
            // Everybody else is draining: better there than nowhere.
            heir(pin_id, &pool.members, home, |index, member| {
                !tried.contains(index) && member.backend.standing().is_available_for_pinned()
            })
        })
    }

    /// The same, of those in service; and of those that are drained, who was told to keep the copy.
    fn copy_in_service(
        &self,
        pin_id: u64,
        pool: &Pool,
        home: Option<usize>,
        tried: &Tried,
        now: Instant,
    ) -> Option<usize> {
        let Some(unused_for) = self.unused_for(pool) else {
            return self.heir_in_service(pin_id, pool, home, tried, now);
        };
        heir_of_rank(pin_id, &pool.members, home, |index, member| {
            let could_inherit = member.backend.could_inherit(unused_for, now);
            let standing = member.backend.standing();
            let takes_over = standing.is_available_for_new()
                || (could_inherit == CouldInherit::Yes && standing.is_available_for_pinned());
            (takes_over && !tried.contains(index)).then(|| copy_rank(member, could_inherit))
        })
    }

    /// Who takes over the client of a home that is drained, and lives: nobody but those in service, or it would only have to
    /// move again; and where there is one copy, nobody but who has that, while the client may stay where it is. Its next
    /// request finds the copy where this one tells the home to have it.
    fn heir_of_drained(
        &self,
        pin_id: u64,
        pool: &Pool,
        home: Option<usize>,
        tried: &Tried,
        now: Instant,
    ) -> Option<usize> {
        let takes_over = |heir: &usize| {
            let standing = pool.members[*heir].backend.standing();
            Some(*heir) != home && !tried.contains(*heir) && standing.is_available_for_new()
        };
        let has_to_go = || home.is_none_or(|home| pool.members[home].backend.is_drain_over(pin_id, now));
        let was_told = |heir: usize, unused_for: u64| {
            // Of those that were removed nothing is known, nor of other weights than those of now.
            let known_for = pool.state.weights_stand_for(now).min(now.duration_since(pool.made_at));
            known_for.as_secs() > unused_for && told_heir_then(pin_id, pool, home, unused_for, now) == Some(heir)
        };
        let has_copy =
            |heir: &usize| self.unused_for(pool).is_none_or(|unused_for| was_told(*heir, unused_for)) || has_to_go();
        let in_service = || self.copy_in_service(pin_id, pool, home, tried, now).filter(takes_over).filter(has_copy);
        self.named_heir().filter(takes_over).or_else(in_service).or_else(|| {
            let is_last_resort = pool.settings.sessions == Sessions::Backup && has_to_go();
            is_last_resort.then(|| self.heir_in_service(pin_id, pool, home, tried, now))?
        })
    }

    /// Where the pin tells who was told to keep the copy: for how many seconds it has not been sealed.
    fn unused_for(&self, pool: &Pool) -> Option<u64> {
        let refreshed = self.refreshed().filter(|_| pool.settings.sessions == Sessions::Backup)?;
        Some(u64::from(self.now.saturating_sub(refreshed)))
    }

    /// When the pin was last sealed.
    fn refreshed(&self) -> Option<u32> {
        match self.opened? {
            Opened::Valid(pin) | Opened::OldKey(pin) => Some(pin.refreshed),
            Opened::UnknownBackend(orphan) => Some(orphan.refreshed),
            Opened::None | Opened::Expired | Opened::Forged => None,
        }
    }

    /// Whether the heir of now was the heir already when the pin was last sealed, and so was told of.
    pub(super) fn was_told_heir(&self, pool: &Pool, refreshed: u32, now: Instant) -> bool {
        let stand_for = pool.state.heirs_stand_for(now).min(now.duration_since(pool.made_at));
        stand_for.as_secs() > u64::from(self.now.saturating_sub(refreshed))
    }

    /// The first in the pin's own order among those that serve new clients at all: those with room first, of these the ones
    /// that have missed nothing, of these the lowest tier, of these the ones in good health.
    fn heir_in_service(
        &self,
        pin_id: u64,
        pool: &Pool,
        home: Option<usize>,
        tried: &Tried,
        now: Instant,
    ) -> Option<usize> {
        // Where there is one copy, whoever was told to keep it has it, in best health or not, warm or not.
        if pool.settings.sessions == Sessions::Backup {
            return heir(pin_id, &pool.members, home, |index, member| {
                !tried.contains(index) && member.backend.standing().is_available_for_new()
            });
        }
        let warming = pool.warming(now);
        heir_of_rank(pin_id, &pool.members, home, |index, member| {
            if tried.contains(index) { None } else { self.rank(pool, member, pin_id, warming.as_ref(), now) }
        })
    }

    /// As [`rank`], with those that may know the session as it once was after those that do not.
    fn rank(&self, pool: &Pool, member: &Member, pin_id: u64, warming: Option<&Warming>, now: Instant) -> Option<u32> {
        let has_missed = self.has_missed_some(pool, member, now);
        rank(member, pin_id, warming).map(|rank| if has_missed { rank | MISSED } else { rank })
    }

    /// Whether changes of this session may have been copied to all while that one could not be reached: nobody tells it of
    /// them after that. Where pins do not tell when they were made, all are old.
    fn has_missed_some(&self, pool: &Pool, member: &Member, now: Instant) -> bool {
        if pool.settings.sessions != Sessions::Replicated {
            return false;
        }
        let age = self.pin().filter(|_| tells_age(pool)).map(|pin| u64::from(self.now.saturating_sub(pin.issued)));
        // In whole seconds, and rather one too old.
        let is_older = |back_for: Duration| age.is_none_or(|age| Duration::from_secs(age + 1) >= back_for);
        member.backend.back_for(now).is_some_and(is_older)
    }

    /// The heir that the session id names.
    fn named_heir(&self) -> Option<usize> {
        self.presented().and_then(|presented| presented.heir).map(|heir| heir as usize)
    }

    /// What `Stickpin-Heir` tells the backend that serves this request: who else is to have the session. On a detour that is
    /// the home, to which the client goes back.
    pub(in crate::proxy) fn told_heir(&self, pool: &Pool, destination: &Destination, now: Instant) -> Option<usize> {
        let is_on_detour = matches!(destination.placement, Placement::Detour(_));
        let home = self.pin().filter(|_| is_on_detour).map(|pin| pin.home as usize);
        home.filter(|home| *home != destination.member && serves_pinned(pool, *home, &Tried::default()))
            .or_else(|| self.heir(pool, destination.member, now))
    }

    /// Who takes over when the backend that serves this request is lost.
    pub(in crate::proxy) fn heir(&self, pool: &Pool, served_by: usize, now: Instant) -> Option<usize> {
        self.heir_of(self.pin_id?, pool, Some(served_by), &Tried::default(), now)
    }
}

/// Where a pin moves to that is known to move, if its client can be sent there.
pub(super) fn place_of(known: &Move, pool: &Pool, tried: &Tried) -> Option<usize> {
    let is_there = |member: &Member| member.backend.stable_hash() == known.to;
    pool.members.iter().position(is_there).filter(|to| serves_pinned(pool, *to, tried))
}

/// Who was told to keep the copy so many seconds ago, whatever has become of it.
fn told_heir_then(pin_id: u64, pool: &Pool, home: Option<usize>, seconds_ago: u64, now: Instant) -> Option<usize> {
    let rank = |member: &Member| copy_rank(member, member.backend.could_inherit(seconds_ago, now));
    heir_of_rank(pin_id, &pool.members, home, |_, member| Some(rank(member)))
}

/// Above the rank of a member of weight 0.
fn copy_rank(member: &Member, could_inherit: CouldInherit) -> u32 {
    (could_inherit as u32) << 9 | by_tier(member)
}

/// What a backend should have of the pool's active pins. O(N) to work out; for a pin whose turn it is to move.
struct Share {
    /// The tier in use.
    tier: u8,
    pins: u64,
    weights: u64,
}

impl Share {
    fn of(pool: &Pool) -> Self {
        let tier = pool.state.spread().tier;
        // As for [`rebalance::roles`]: one without weight keeps its clients, who are none of the others' business.
        let takes_part = |member: &&Member| {
            let standing = member.backend.standing();
            let is_in_service = standing.is_available_for_new() && standing.health != Health::Starting;
            is_in_service && member.backend.weight() > 0
        };
        let add = |Self { pins, weights, .. }: Self, member: &Member| Self {
            tier,
            pins: pins + member.backend.active_pins(),
            // Those of later tiers have no share.
            weights: weights + if member.tier > tier { 0 } else { u64::from(member.backend.weight()) },
        };
        pool.members.iter().filter(takes_part).fold(Self { tier, pins: 0, weights: 0 }, add)
    }

    /// Whether this backend has less than its share.
    fn is_above(&self, member: &Member) -> bool {
        self.compared_to(member).is_gt()
    }

    /// Whether it has more; on a later tier, whether it has anybody.
    fn is_below(&self, member: &Member) -> bool {
        self.compared_to(member).is_lt() || (member.tier > self.tier && member.backend.expected_pins() > 0)
    }

    fn compared_to(&self, member: &Member) -> Ordering {
        let (has, weight) = (member.backend.expected_pins(), member.backend.weight());
        (u128::from(self.pins) * u128::from(weight)).cmp(&(u128::from(has) * u128::from(self.weights)))
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

/// A pin whose request does not go home.
#[derive(Clone, Copy)]
struct Away {
    home: Option<usize>,
    pin_id: u64,
    detour: Option<Detour>,
}

/// Places a request where pins do not count.
fn unpinned(
    pool: &Pool,
    balancer: &mut Balancer,
    (tried, crowd): (&Tried, &Crowd),
    rng: &mut Rng,
    now: Instant,
) -> Next {
    match pick(pool, balancer, &circumstances(pool, tried, now), rng, now) {
        Some(member) if must_queue(pool, member) => queue_for_any(Placement::Unpinned, crowd),
        Some(member) => Next::Go(Destination::plain(member, Placement::Unpinned)),
        None => Next::Nobody,
    }
}

/// Whoever is on probation, if it is this client's turn, else whom the balancer picks.
fn pick(
    pool: &Pool,
    balancer: &mut Balancer,
    circumstances: &Circumstances<'_>,
    rng: &mut Rng,
    now: Instant,
) -> Option<usize> {
    on_trial(pool, circumstances.tried).or_else(|| balancer.pick_under(circumstances, &pool.members, rng, now))
}

/// What a pick in this pool has to heed, where no home is looked for.
fn circumstances<'a>(pool: &Pool, tried: &'a Tried, now: Instant) -> Circumstances<'a> {
    Circumstances { tried, is_home: false, spread: pool.state.spread(), warming: pool.warming(now) }
}

/// The backend on probation, if there is one and this is the client that is let through to it.
fn on_trial(pool: &Pool, tried: &Tried) -> Option<usize> {
    if !tried.is_empty() {
        return None;
    }
    let serial = pool.trial.take()?;
    let is_meant = |member: &Member| {
        member.backend.serial() == serial
            && member.backend.standing().is_available_for_new()
            && !member.is_full()
            && !member.backend.room().is_full()
    };
    pool.members.iter().position(is_meant)
}

/// Whether nobody is available, and this home at least answers its probes, though not as expected.
fn is_last_hope(pool: &Pool, home: usize, tried: &Tried) -> bool {
    let standing = pool.members[home].backend.standing();
    pool.state.spread().panic == Panic::NobodyLeft
        && !tried.contains(home)
        && standing.admin != AdminState::Disabled
        && !standing.is_gone()
        && !standing.is_silent
}

/// Whether a request that any backend may serve has to wait, when this is whom the balancer picks: it prefers those with
/// room, so all are full; or others came before. Cheap where there are no bounds; the backend's own is looked at whatever
/// this generation says, since a later one may have set it.
fn must_queue(pool: &Pool, member: usize) -> bool {
    pool.members[member].backend.room().is_full() || (pool.is_bounded && !pool.line.line.is_empty())
}

fn queue_at(member: usize, crowd: &Crowd) -> Next {
    if crowd.has_waited() { Next::Full } else { Next::QueueAt { member, placement: None } }
}

/// For a client without a pin: why it should go there may be forgotten by the time it can.
fn queue_as_new(member: usize, crowd: &Crowd) -> Next {
    if crowd.has_waited() { Next::Full } else { Next::QueueAt { member, placement: Some(Placement::New) } }
}

fn queue_for_any(placement: Placement, crowd: &Crowd) -> Next {
    if crowd.has_waited() { Next::Full } else { Next::QueueForAny(placement) }
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

/// Where a session id that nobody knows hashes to: as a new client, not to somebody with as many as it may have.
pub(super) fn place_of_unknown(pin_id: u64, pool: &Pool, tried: &Tried, now: Instant) -> Option<usize> {
    let warming = pool.warming(now);
    heir_of_rank(pin_id, &pool.members, None, |index, member| {
        if tried.contains(index) || member.is_full() { None } else { rank(member, pin_id, warming.as_ref()) }
    })
}

/// Whether pins tell when they were made.
pub(super) fn tells_age(pool: &Pool) -> bool {
    match &pool.affinity {
        Affinity::Cookie(_) => true,
        Affinity::AppSession(session) => session.home_by == HomeBy::Learn,
        Affinity::Hash(_) | Affinity::Off => false,
    }
}

/// Set in the [`rank`] of one that may know a session as it once was: worse than a later tier, better than one without room.
const MISSED: u32 = 1 << 11;

/// Who comes before whom as an heir: those with room; then those with a weight, by tier; then those in good health; then
/// those that are warm, or warm enough for this pin. `None` for those that serve no new clients.
fn rank(member: &Member, pin_id: u64, warming: Option<&Warming>) -> Option<u32> {
    let standing = member.backend.standing();
    if !standing.is_available_for_new() {
        return None;
    }
    let is_cold = warming.is_some_and(|warming| !warming.admits(&member.backend, pin_id));
    let (is_full, is_unproven) = (member.is_full(), !standing.is_first_choice());
    // Nine bits of tier, above two flags; then [`MISSED`].
    Some(u32::from(is_full) << 12 | by_tier(member) << 2 | u32::from(is_unproven) << 1 | u32::from(is_cold))
}
