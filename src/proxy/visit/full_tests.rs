//! Where requests go while backends are full, case by case and without a socket.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use super::{Arrival, Crowd, Destination, Next, Visit, pin_owner};
use crate::config::Config;
use crate::pool::outliers::{Cause, Out, Stage};
use crate::pool::{AdminState, Evidence, Failure, Registry, Spread, Thresholds};
use crate::proxy::affinity::KeyRing;
use crate::proxy::balance::{Balancer, Tried};
use crate::proxy::snapshot::{Lasting, Pool, Snapshot};
use crate::telemetry::words::{DetourReason, Placement, RehomeReason};

const ONCE: Thresholds = Thresholds { healthy_after: 1, unhealthy_after: 1 };
const WALL: u32 = 1_800_000_000;
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A pool of three healthy backends that take one request at a time, and a client that is pinned to one of them.
struct Site {
    snapshot: Snapshot,
    now: Instant,
    cookie: HeaderValue,
    home: usize,
    /// The two others, in the pin's own order.
    heirs: [usize; 2],
}

impl Site {
    /// Without a client.
    fn without_client(pool: &str) -> Self {
        let text = format!(
            "listeners: [127.0.0.1:0]\npools: {{ shop: {{ {pool}, max_requests: 1, \
             backends: [127.0.0.1:20000, 127.0.0.1:20001, 127.0.0.1:20002] }} }}"
        );
        let config = Config::parse("test.yaml", &text).unwrap_or_else(|problems| panic!("{problems}"));
        let (lasting, now) = (Lasting::for_tests(&Arc::new(Registry::new(1))), Instant::now());
        let keys = KeyRing::parse("000102030405060708090a0b0c0d0e0f").unwrap();
        let snapshot = Snapshot::new(&config, &keys, &lasting, 1, now);
        for member in &snapshot.pools[0].members {
            member.backend.observe(Evidence::ProbeOk, ONCE, now);
        }
        Self { snapshot, now, cookie: HeaderValue::from_static("none=1"), home: 0, heirs: [1, 2] }
    }

    fn of(pool: &str) -> Self {
        let mut site = Self::without_client(pool);
        let (mut visit, next) = site.next(&Tried::default(), &Crowd::default());
        let Next::Go(destination) = next else { panic!("{next:?}") };
        visit.served(site.pool(), &destination, site.now, || 42);
        let mut reply = HeaderMap::new();
        assert!(visit.obey(site.pool(), None, false));
        visit.leave(site.pool(), &mut reply, false, || pin_owner(CLIENT));
        site.cookie = reply.remove(SET_COOKIE).expect("it is new");
        site.home = destination.member;
        let mut tried = Tried::default();
        let visit = site.next(&tried, &Crowd::default()).0;
        site.heirs = [(); 2].map(|()| {
            let heir = visit.heir_of(42, site.pool(), Some(site.home), &tried, site.now).expect("there are two");
            tried.insert(heir);
            heir
        });
        site
    }

    fn pool(&self) -> &Pool {
        &self.snapshot.pools[0]
    }

    /// It has a request, and so is full.
    fn fill(&self, member: usize) {
        assert!(self.pool().members[member].backend.try_begin_request());
    }

    fn next(&self, tried: &Tried, crowd: &Crowd) -> (Visit, Next) {
        let headers: HeaderMap = [(COOKIE, self.cookie.clone())].into_iter().collect();
        let arrival = Arrival { client: &|| CLIENT, headers: &headers, path: "/", path_and_query: "/", now: WALL };
        let visit = Visit::begin(self.pool(), true, arrival);
        let mut balancer = Balancer::new(self.pool().settings.balance, &self.pool().members, 0);
        let next = visit.next(self.pool(), &mut balancer, (tried, crowd), true, &mut Rng::with_seed(5), self.now);
        (visit, next)
    }

    /// What comes next for a request that found these full, before and after it has waited.
    fn decisions(&self, full: &[usize]) -> (Next, Next) {
        let mut crowd = Crowd::default();
        full.iter().for_each(|member| crowd.found_full(*member));
        let before = self.next(&Tried::default(), &crowd).1;
        crowd.give_up_waiting();
        (before, self.next(&Tried::default(), &crowd).1)
    }
}

fn queue_at(member: usize) -> Next {
    Next::QueueAt { member, placement: None }
}

fn go(member: usize, placement: Placement) -> Next {
    Next::Go(Destination { member, placement, moved: None, session_lost: None })
}

/// Where a request goes, whatever else is said of it.
fn place(next: Next) -> Option<(usize, Placement)> {
    match next {
        Next::Go(Destination { member, placement, .. }) => Some((member, placement)),
        _ => None,
    }
}

#[test]
fn a_full_home_is_waited_for_or_left_for_a_while_as_sessions_says() {
    let busy = Placement::Detour(DetourReason::Busy);
    for (pool, waits, refuses) in [
        ("sessions: local", true, false),
        ("sessions: replicated", false, false),
        ("sessions: backup", false, false),
        ("sessions: external", false, false),
        ("sessions: external, rehome: { when: { busy: wait } }", true, false),
        ("sessions: local, rehome: { when: { busy: detour } }", false, false),
        ("sessions: local, rehome: { when_unavailable: detour }", true, false),
        ("sessions: external, rehome: { when: { busy: refuse } }", true, true),
        ("sessions: external, rehome: { when_unavailable: refuse }", true, true),
    ] {
        let site = Site::of(pool);
        let [first, second] = site.heirs;
        let detour = go(first, busy);
        let before = if waits { queue_at(site.home) } else { detour };
        let after = if refuses { Next::Full } else { detour };
        site.fill(site.home);
        assert_eq!(site.decisions(&[site.home]), (before, after), "{pool}");

        // The best of those with room; where only one has the copy, that one.
        site.fill(first);
        let is_backup = pool.contains("backup");
        let detour = if is_backup { queue_at(site.home) } else { go(second, busy) };
        let before = if waits { queue_at(site.home) } else { detour };
        let after = if refuses || is_backup { Next::Full } else { go(second, busy) };
        assert_eq!(site.decisions(&[site.home]), (before, after), "{pool}");

        // Nobody has room: if anybody, the home is to serve it.
        site.fill(second);
        assert_eq!(site.decisions(&[site.home]), (queue_at(site.home), Next::Full), "{pool}");
    }
}

#[test]
fn all_requests_of_an_orphan_wait_for_the_same_heir_unless_its_sessions_are_everywhere() {
    for sessions in ["local", "replicated", "backup", "external"] {
        let site = Site::of(&format!("sessions: {sessions}"));
        let [first, second] = site.heirs;
        let backend = &site.pool().members[site.home].backend;
        backend.observe(Evidence::ProbeFailed(Failure::Refused), ONCE, site.now);
        site.fill(first);
        let rehomed = Placement::Rehomed(RehomeReason::Gone);
        let found = site.next(&Tried::default(), &Crowd::default()).1;
        assert_eq!(place(found), Some((first, rehomed)), "whether it has room is found out there");
        let (before, after) = site.decisions(&[first]);
        match sessions {
            "external" => assert_eq!((place(before), place(after)), (Some((second, rehomed)), Some((second, rehomed)))),
            "backup" => assert_eq!((before, after), (queue_at(first), Next::Full)),
            _ => assert_eq!((before, place(after)), (queue_at(first), Some((second, rehomed))), "{sessions}"),
        }
        site.fill(second);
        assert_eq!(site.decisions(&[first, second]), (queue_at(first), Next::Full), "{sessions}");
    }
}

/// Its clients waited for an heir that was full, and were refused, though nothing was the matter with their home.
#[test]
fn a_drained_home_is_not_left_for_an_heir_that_is_full() {
    for sessions in ["replicated", "backup", "external"] {
        let mut site = Site::of(&format!("sessions: {sessions}"));
        let [first, second] = site.heirs;
        site.pool().members[site.home].backend.set_admin_state(AdminState::Draining, None, site.now);
        site.now += Duration::from_secs(60);
        let (kept, moved) = (go(site.home, Placement::Kept), Placement::Rehomed(RehomeReason::Drained));
        assert_eq!(place(site.next(&Tried::default(), &Crowd::default()).1), Some((first, moved)), "{sessions}");
        site.fill(first);
        let (before, after) = site.decisions(&[first]);
        match sessions {
            "external" => assert_eq!(place(before), Some((second, moved))),
            _ => assert_eq!(before, kept, "{sessions}"),
        }
        if sessions == "backup" {
            assert_eq!(after, kept);
        }
        site.fill(second);
        assert_eq!(site.decisions(&[first, second]), (kept, kept), "{sessions}");
        // Where the home is full as well, it is waited for.
        site.fill(site.home);
        let full = [first, second, site.home];
        assert_eq!(site.decisions(&full), (queue_at(site.home), Next::Full), "{sessions}");
    }
}

#[test]
fn the_pin_of_a_client_on_a_busy_detour_is_not_touched() {
    let site = Site::of("sessions: external");
    let mut crowd = Crowd::default();
    crowd.found_full(site.home);
    let (mut visit, next) = site.next(&Tried::default(), &crowd);
    let Next::Go(destination) = next else { panic!("{next:?}") };
    visit.served(site.pool(), &destination, site.now, || unreachable!("it has a pin"));
    let mut reply = HeaderMap::new();
    assert!(visit.obey(site.pool(), None, false));
    visit.leave(site.pool(), &mut reply, false, || pin_owner(CLIENT));
    assert_eq!((reply.get(SET_COOKIE), visit.pin_id()), (None, Some(42)));
}

#[test]
fn new_clients_go_where_there_is_room_and_wait_for_any_of_the_best_when_there_is_none() {
    for affinity in ["affinity: { cookie: {} }", "affinity: off"] {
        let is_pinned = !affinity.contains("off");
        let placement = if is_pinned { Placement::New } else { Placement::Unpinned };
        let site = Site::without_client(affinity);
        site.fill(0);
        site.fill(1);
        assert_eq!(place(site.next(&Tried::default(), &Crowd::default()).1), Some((2, placement)), "{affinity}");
        site.pool().newcomers.forget_all();
        // One that is draining is not there to take what is too much for the others.
        site.pool().members[2].backend.set_admin_state(AdminState::Draining, None, site.now);
        assert_eq!(site.decisions(&[]), (Next::QueueForAny(placement), Next::Full), "{affinity}");
        let candidates = Balancer::candidates(&site.pool().members, &Tried::default(), is_pinned, Spread::FIRST_TIER);
        assert_eq!(candidates, [0, 1]);
    }
}

#[test]
fn nobody_overtakes_those_who_wait_for_any() {
    let site = Site::without_client("affinity: { cookie: {} }");
    let waits = site.pool().line.line.join(9, Some([u32::MAX].into()));
    assert_eq!(site.next(&Tried::default(), &Crowd::default()).1, Next::QueueForAny(Placement::New));
    drop(waits);
    assert!(place(site.next(&Tried::default(), &Crowd::default()).1).is_some());
}

/// Only new clients were let through. Where sessions are external nobody goes to a home that is suspect, so a backend that
/// was put out in a pool of keys stayed out for ever.
#[test]
fn where_all_requests_have_a_key_one_of_them_is_let_through_to_its_home_on_probation() {
    let site = Site::without_client("sessions: external, affinity: { hash: { keys: [{ cookie: none }] } }");
    let next = || place(site.next(&Tried::default(), &Crowd::default()).1).expect("there are others");
    let (home, placement) = next();
    assert_eq!(placement, Placement::Kept);
    let backend = &site.pool().members[home].backend;
    backend.set_out(Some(Out { cause: Cause::Errors, since: site.now, stage: Stage::Probation }), site.now);
    assert_ne!(next().0, home);
    assert!(site.pool().trial.offer(backend.serial()));
    let onlooker = site.next(&Tried::default(), &Crowd::onlooker()).1;
    assert_ne!(place(onlooker).expect("there are others").0, home);
    assert_eq!(next(), (home, Placement::Kept));
    assert_ne!(next().0, home, "one only");
}

/// A request that is under way when a reload sets the first bounds is of the generation before, which has none. It was sent
/// to a full backend again and again, and its worker did nothing else.
#[test]
fn bounds_that_came_with_a_later_generation_make_one_wait_too() {
    for (affinity, placement) in [("affinity: { cookie: {} }", Placement::New), ("affinity: off", Placement::Unpinned)]
    {
        let mut site = Site::without_client(affinity);
        site.snapshot.pools[0].is_bounded = false;
        (0..3).for_each(|member| site.fill(member));
        assert_eq!(site.decisions(&[]), (Next::QueueForAny(placement), Next::Full), "{affinity}");
    }
}
