//! Single cases that went wrong once, played without a socket.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use super::{Arrival, Crowd, Destination, Next, Visit, pin_owner};
use crate::config::Config;
use crate::pool::{AdminState, Backend, Evidence, Failure, Registry, Thresholds};
use crate::proxy::affinity::KeyRing;
use crate::proxy::balance::{Balancer, Tried};
use crate::proxy::snapshot::{Affinity, Lasting, Snapshot};
use crate::telemetry::words::{DetourReason, Placement, RehomeReason};

const ONCE: Thresholds = Thresholds { healthy_after: 1, unhealthy_after: 1 };
const WALL: u32 = 1_800_000_000;
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const OLD: &str = "000102030405060708090a0b0c0d0e0f";
const NEW: &str = "f0e1d2c3b4a5968778695a4b3c2d1e0f";

struct Site {
    lasting: Lasting,
    snapshot: Snapshot,
    now: Instant,
    wall: u32,
}

fn snapshot(pool: &str, ring: &str, lasting: &Lasting, now: Instant) -> Snapshot {
    let text = format!(
        "listeners: [127.0.0.1:0]\npools: {{ shop: {{ {pool}, backends: [{{ name: app0, address: 127.0.0.1:20000 }}, \
         {{ name: app1, address: 127.0.0.1:20001 }}, {{ name: app2, address: 127.0.0.1:20002 }}] }} }}"
    );
    let config = Config::parse("test.yaml", &text).unwrap_or_else(|problems| panic!("{problems}"));
    Snapshot::new(&config, &KeyRing::parse(ring).unwrap(), lasting, 1, now)
}

impl Site {
    fn new(pool: &str) -> Self {
        let lasting = Lasting::for_tests(&Arc::new(Registry::new(1)));
        let now = Instant::now();
        let snapshot = snapshot(pool, OLD, &lasting, now);
        let site = Self { lasting, snapshot, now, wall: WALL };
        for member in &site.snapshot.pools[0].members {
            member.backend.observe(Evidence::ProbeOk, ONCE, now);
        }
        site
    }

    fn pass(&mut self, seconds: u32) {
        self.now += Duration::from_secs(seconds.into());
        self.wall += seconds;
    }

    fn backend(&self, member: usize) -> &Arc<Backend> {
        &self.snapshot.pools[0].members[member].backend
    }

    fn observe(&self, member: usize, evidence: Evidence, unhealthy_after: u32) {
        self.backend(member).observe(evidence, Thresholds { healthy_after: 1, unhealthy_after }, self.now);
    }

    fn go(&self, cookie: &str, tried: &Tried) -> (Visit, Destination, HeaderMap) {
        let pool = &self.snapshot.pools[0];
        let mut headers = HeaderMap::new();
        if !cookie.is_empty() {
            headers.insert(COOKIE, HeaderValue::from_str(cookie).unwrap());
        }
        let arrival = Arrival { client: &|| CLIENT, headers: &headers, path: "/", path_and_query: "/", now: self.wall };
        let visit = Visit::begin(pool, true, arrival);
        let mut balancer = Balancer::new(pool.settings.balance, &pool.members, 0);
        let next = visit.next(pool, &mut balancer, (tried, &Crowd::default()), true, &mut Rng::with_seed(1), self.now);
        let Next::Go(destination) = next else { panic!("{next:?}") };
        (visit, destination, headers)
    }

    /// What `Proxy::finish` does.
    fn end(
        &self,
        (mut visit, destination, request): (Visit, Destination, HeaderMap),
        set: &str,
        word: Option<&[u8]>,
    ) -> (Destination, HeaderMap) {
        let pool = &self.snapshot.pools[0];
        visit.served(pool, &destination, self.now, || 42);
        let mut reply = HeaderMap::new();
        if !set.is_empty() {
            reply.insert(SET_COOKIE, HeaderValue::from_str(set).unwrap());
        }
        let on_detour = matches!(destination.placement, Placement::Detour(_));
        let begins = (on_detour || pool.looks_for_sessions())
            && visit.begins_session(pool, &request, &reply, destination.member);
        let is_pinned = visit.obey(pool, word, begins);
        if is_pinned && on_detour && begins {
            visit.settle(pool, destination.member, self.now);
        }
        visit.leave(pool, &mut reply, false, || pin_owner(CLIENT));
        (destination, reply)
    }

    fn visit(&self, cookie: &str) -> (Destination, HeaderMap) {
        self.end(self.go(cookie, &Tried::default()), "", None)
    }
}

fn pair(reply: &HeaderMap) -> String {
    reply.get(SET_COOKIE).unwrap().to_str().unwrap().split(';').next().unwrap().to_owned()
}

/// A note of an earlier detour, whose cause is long over, makes a home that is silent since a second "away too long".
#[test]
fn an_old_detour_does_not_end_the_hold_of_a_home_that_was_back_meanwhile() {
    let mut site = Site::new("sessions: local");
    let (first, reply) = site.visit("");
    let (home, mut cookie) = (first.member, pair(&reply));
    site.observe(home, Evidence::ProbeFailed(Failure::Silent), 1);
    site.pass(2);
    let (detour, reply) = site.visit(&cookie);
    assert_eq!(detour.placement, Placement::Detour(DetourReason::Unreachable));
    cookie = pair(&reply);
    site.pass(3);
    site.observe(home, Evidence::ProbeOk, 1); // back after five seconds
    site.pass(11 * 60); // the client reads; the home serves the others
    site.observe(home, Evidence::ProbeFailed(Failure::Silent), 1); // a hiccup
    site.pass(1);
    let (again, _) = site.visit(&cookie);
    assert_eq!(again.placement, Placement::Detour(DetourReason::Unreachable), "lost: {:?}", again.session_lost);
}

/// One request that failed there, and the client stayed with whoever served it instead: a third place.
#[test]
fn a_long_detour_stays_where_it_is_though_a_request_fails_there() {
    let mut site = Site::new("sessions: local");
    let (first, reply) = site.visit("");
    site.observe(first.member, Evidence::ProbeFailed(Failure::Silent), 1);
    site.pass(2);
    let (detour, reply) = site.visit(&pair(&reply));
    let cookie = pair(&reply);
    let mut tried = Tried::default();
    tried.insert(detour.member);
    let (other, reply) = site.end(site.go(&cookie, &tried), "", None);
    assert!(![first.member, detour.member].contains(&other.member));
    assert!(reply.get(SET_COOKIE).is_none(), "{reply:?}");
    // Until it cannot serve.
    site.observe(detour.member, Evidence::ProbeFailed(Failure::Silent), 1);
    let (other_again, reply) = site.visit(&cookie);
    assert_eq!((other_again.member, site.visit(&pair(&reply)).0.member), (other.member, other.member));
    site.observe(detour.member, Evidence::ProbeOk, 1);
    assert_eq!(site.visit(&pair(&reply)).0.member, other.member, "and stays there then");
}

const WEBLOGIC: &str =
    "sessions: backup, affinity: { app_session: { cookie: SID, home_by: route_suffix, separator: '!' } }";

/// Under `backup` only the secondary that the id names has the copy.
#[test]
fn a_drain_moves_a_backup_session_to_the_secondary_that_its_id_names() {
    let mut site = Site::new(WEBLOGIC);
    site.backend(0).set_admin_state(AdminState::Draining, None, site.now);
    site.pass(3600);
    for number in 0..40 {
        for heir in [1, 2] {
            let (to, _) = site.visit(&format!("SID=id{number}!app0!app{heir}"));
            assert_eq!((to.placement, to.member), (Placement::Rehomed(RehomeReason::Drained), heir));
        }
    }
}

/// Where the heir of the last request is suspect or has reached its `max_pins`, it still is the only one with the copy.
#[test]
fn under_backup_a_suspect_heir_still_has_the_only_copy() {
    let site = Site::new("sessions: backup");
    let (first, reply) = site.visit("");
    let cookie = pair(&reply);
    let (visit, ..) = site.go(&cookie, &Tried::default());
    let told = visit.heir(&site.snapshot.pools[0], first.member, site.now).unwrap(); // Stickpin-Heir
    site.observe(told, Evidence::TrafficFailed(Failure::Silent), 3); // suspect: still available
    site.observe(first.member, Evidence::ProbeFailed(Failure::Refused), 1);
    assert_eq!(site.visit(&cookie).0.member, told);
}

/// The home is out of reach, and its heir failed one request. The third has no copy; a pin that moved there had lost its
/// session.
#[test]
fn under_backup_nobody_moves_to_a_backend_without_the_copy() {
    let site = Site::new("sessions: backup");
    let (first, reply) = site.visit("");
    let cookie = pair(&reply);
    site.observe(first.member, Evidence::ProbeFailed(Failure::Silent), 1);
    let mut tried = Tried::default();
    let (_, heir, _) = site.go(&cookie, &tried);
    assert_eq!(heir.placement, Placement::Rehomed(RehomeReason::Unreachable));
    tried.insert(heir.member);
    let (_, third, _) = site.go(&cookie, &tried);
    assert_eq!(third.placement, Placement::Detour(DetourReason::ConnectFailed));
    assert!(third.moved.is_none() && third.member != first.member && third.member != heir.member);
    // Once the heir is known to be dead as well, there is nothing left to go back to.
    for dead in [first.member, heir.member] {
        site.observe(dead, Evidence::ProbeFailed(Failure::Refused), 1);
    }
    assert_eq!(site.visit(&cookie).0.placement, Placement::Rehomed(RehomeReason::Gone));
}

/// With `prefix`, a reply that releases the pin and sets the cookie anew leaves the client without a home's name.
#[test]
fn a_released_prefix_is_not_put_in_front_again() {
    let site = Site::new("sessions: local, affinity: { app_session: { cookie: SID, home_by: prefix } }");
    for set in ["SID=new; Path=/", "SID=same; Path=/"] {
        let (_, reply) = site.end(site.go("SID=app1~same", &Tried::default()), set, Some(b"release"));
        assert!(!pair(&reply).contains('~'), "still pinned: {}", pair(&reply));
    }
}

/// A key is rotated on top; the app ends the pin of a session that was learned before.
#[test]
fn a_pin_learned_under_an_older_key_can_be_released() {
    let pool = "sessions: local, affinity: { app_session: { cookie: SID } }";
    for uses in [0, 1] {
        let mut site = Site::new(pool);
        site.end(site.go("", &Tried::default()), "SID=abc; Path=/", None);
        site.snapshot = snapshot(pool, &format!("{NEW}\n{OLD}\n"), &site.lasting, site.now);
        (0..uses).for_each(|_| {
            site.visit("SID=abc");
        });
        site.end(site.go("SID=abc", &Tried::default()), "", Some(b"release"));
        let (visit, ..) = site.go("SID=abc", &Tried::default());
        assert_eq!(visit.pin(), None, "after {uses} visits with the new key");
    }
}

/// What is asked of the shared store is the id that the visit goes on with.
#[test]
fn the_key_that_is_asked_for_is_that_of_the_presented_id() {
    let mut site = Site::new("sessions: local, affinity: { app_session: { cookie: SID, idle_timeout: 60s } }");
    site.end(site.go("", &Tried::default()), "SID=b; Path=/", None);
    site.pass(61); // b is expired here, and may be in use at another replica
    let (visit, _, headers) = site.go("SID=a; SID=b", &Tried::default());
    let Affinity::AppSession(session) = &site.snapshot.pools[0].affinity else { panic!() };
    let asked: Vec<_> = session.unknown(&headers, "/").into_iter().map(|id| (id.key, id.found_under)).collect();
    assert_eq!(asked.len(), 2, "both ids, each under its own key");
    assert!(asked.iter().all(|(of_id, key)| of_id == key) && asked[1].1 == visit.presented().unwrap().key);
}

/// `max_pins` caps new clients, and a stale cookie of yesterday is one.
#[test]
fn an_unknown_session_id_is_no_way_around_max_pins() {
    let text = "listeners: [127.0.0.1:0]\npools: { shop: { affinity: { app_session: { cookie: SID } }, backends: [{ name: \
                app0, address: 127.0.0.1:20000, max_pins: 1 }] } }";
    let lasting = Lasting::for_tests(&Arc::new(Registry::new(1)));
    let config = Config::parse("test.yaml", text).unwrap_or_else(|problems| panic!("{problems}"));
    let now = Instant::now();
    let snapshot = Snapshot::new(&config, &KeyRing::parse(OLD).unwrap(), &lasting, 1, now);
    snapshot.pools[0].members[0].backend.observe(Evidence::ProbeOk, ONCE, now);
    snapshot.pools[0].members[0].backend.set_active_pins(1);
    for cookie in ["", "SID=yesterday"] {
        let pool = &snapshot.pools[0];
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_static(cookie));
        let arrival = Arrival { client: &|| CLIENT, headers: &headers, path: "/", path_and_query: "/", now: WALL };
        let visit = Visit::begin(pool, true, arrival);
        let mut balancer = Balancer::new(pool.settings.balance, &pool.members, 0);
        let next =
            visit.next(pool, &mut balancer, (&Tried::default(), &Crowd::default()), true, &mut Rng::with_seed(1), now);
        assert_eq!(next, Next::Nobody, "{cookie:?}");
    }
}

/// A refresh that falls on a detour must not take the home's new life: then the loss is never said.
#[test]
fn a_detour_does_not_swallow_that_the_home_was_restarted() {
    let mut site = Site::new("sessions: local, health: { http: { path: /, instance_header: X-I } }");
    (0..3).for_each(|member| {
        site.backend(member).set_instance(11);
    });
    let (first, reply) = site.visit("");
    let mut cookie = pair(&reply);
    site.pass(600); // due for a refresh
    site.backend(first.member).set_instance(13);
    let mut tried = Tried::default();
    tried.insert(first.member); // one connect failed
    let (detour, reply) = site.end(site.go(&cookie, &tried), "", None);
    assert_eq!(detour.placement, Placement::Detour(DetourReason::ConnectFailed));
    if reply.contains_key(SET_COOKIE) {
        cookie = pair(&reply);
    }
    assert_eq!(site.visit(&cookie).0.session_lost, Some(RehomeReason::Gone));
}

/// A login gives the session another id; the client is still one.
#[test]
fn a_client_whose_session_id_changes_at_login_is_counted_once() {
    let mut site = Site::new("sessions: local, affinity: { app_session: { cookie: SID } }");
    let (first, _) = site.end(site.go("", &Tried::default()), "SID=before; Path=/", None);
    site.end(site.go("SID=before", &Tried::default()), "SID=after; Path=/", None);
    site.pass(61);
    site.visit("SID=after");
    let Affinity::AppSession(session) = &site.snapshot.pools[0].affinity else { panic!() };
    let counts = session.store.count_by_home(|record| site.wall - record.refreshed <= 1800);
    assert_eq!(counts[&site.backend(first.member).stable_hash()], 1);
}

/// Of parallel requests one finds the home dead and moves the pin, and another, of the same moment, finds it back.
#[test]
fn who_was_sent_before_the_pin_moved_goes_along_though_the_home_is_back() {
    let mut site = Site::new("sessions: backup");
    let (first, reply) = site.visit("");
    let (home, cookie) = (first.member, pair(&reply));
    site.observe(home, Evidence::ProbeFailed(Failure::Silent), 1);
    let (moving, there, request) = site.go(&cookie, &Tried::default());
    assert_eq!(there.placement, Placement::Rehomed(RehomeReason::Unreachable));
    let pin = moving.pin_id().unwrap();
    site.backend(home).note_move(site.backend(there.member), pin, RehomeReason::Unreachable, false, site.now);
    site.observe(home, Evidence::ProbeOk, 1);
    assert_eq!(site.go(&cookie, &Tried::default()).1, there);
    let (_, reply) = site.end((moving, there, request), "", None);
    assert_eq!(site.visit(&pair(&reply)).0.placement, Placement::Kept, "the new pin is of there");

    // Not where that has failed this request; and not for ever, for a client that takes no new pin.
    let mut tried = Tried::default();
    tried.insert(there.member);
    assert_eq!(site.go(&cookie, &tried).1.member, home);
    site.pass(10);
    assert_eq!(site.visit(&cookie).0, Destination::plain(home, Placement::Kept));
}

/// A reply from the old home that comes after the one that moved the pin has the last word on the client's cookie.
#[test]
fn a_late_reply_does_not_take_a_moved_pin_back() {
    let mut site = Site::new("sessions: local, affinity: { cookie: { name: pin, idle_timeout: 60s } }");
    let (first, reply) = site.visit("");
    let (home, cookie) = (first.member, pair(&reply));
    site.pass(50);
    let other = (home + 1) % 3;
    let late = site.go(&cookie, &Tried::default());
    let pin = late.0.pin_id().unwrap();
    let (placed, reply) = site.visit(&cookie);
    assert!(placed.placement == Placement::Kept && reply.contains_key(SET_COOKIE), "a refresh is due");
    site.backend(home).note_move(site.backend(other), pin, RehomeReason::Gone, true, site.now);
    assert!(site.end(late, "", None).1.is_empty());
}

/// Lost, lost again elsewhere, and back at the first one in the same life of it: lost there once more.
#[test]
fn each_session_that_a_client_loses_at_one_home_is_a_loss_of_its_own() {
    let mut site = Site::new("sessions: local");
    let (_, reply) = site.visit("");
    let cookie = pair(&reply);
    let loss = |site: &Site, cookie: &str| site.go(cookie, &Tried::default()).0.loss(&site.snapshot.pools[0]).unwrap();
    assert_eq!(loss(&site, &cookie), loss(&site, &cookie), "parallel requests");
    let first = loss(&site, &cookie);
    site.pass(600);
    let (_, reply) = site.visit(&cookie);
    assert_ne!(loss(&site, &pair(&reply)), first, "by now it has another session there");
}

/// A learned session moves, and the app gives it another id with that: who comes with the former one finds it.
#[test]
fn the_former_id_of_a_learned_session_leads_to_where_that_has_moved() {
    for sessions in ["replicated", "backup", "external"] {
        let mut site = Site::new(&format!("sessions: {sessions}, affinity: {{ app_session: {{ cookie: SID }} }}"));
        site.pass(5);
        let (first, _) = site.end(site.go("", &Tried::default()), "SID=a; Path=/", None);
        site.pass(5);
        site.backend(first.member).set_admin_state(AdminState::Draining, None, site.now);
        site.pass(60);
        let (moved, _) = site.end(site.go("SID=a", &Tried::default()), "SID=b; Path=/", None);
        assert_eq!(moved.placement, Placement::Rehomed(RehomeReason::Drained), "{sessions}");
        let home = |cookie| site.go(cookie, &Tried::default()).1.member;
        assert_eq!([home("SID=b"), home("SID=a")], [moved.member; 2], "{sessions}: drained");
        // The operator thinks better of it.
        site.backend(first.member).set_admin_state(AdminState::Enabled, None, site.now);
        assert_eq!([home("SID=b"), home("SID=a")], [moved.member; 2], "{sessions}: enabled");
    }
}

/// Everybody is restarted at once: the home, then whoever was to take over. The client is told at home that its session is
/// lost, and begins a new one there, before the other one is back.
#[test]
fn who_begins_anew_at_home_because_nobody_took_over_stays_there() {
    let mut site = Site::new("sessions: local, health: { http: { path: /, instance_header: X-I } }");
    (0..3).for_each(|member| {
        site.backend(member).set_instance(11);
    });
    let (first, reply) = site.visit("");
    let (home, mut cookie) = (first.member, pair(&reply));
    site.pass(60);
    site.observe(home, Evidence::ProbeFailed(Failure::Refused), 1);
    let (moving, there, _) = site.go(&cookie, &Tried::default());
    let pin = moving.pin_id().unwrap();
    // It is not answered.
    site.backend(home).note_move(site.backend(there.member), pin, RehomeReason::Gone, true, site.now);
    (0..3).filter(|member| *member != home).for_each(|member| {
        site.observe(member, Evidence::ProbeFailed(Failure::Refused), 1);
    });
    site.pass(2);
    site.backend(home).set_instance(13);
    site.observe(home, Evidence::ProbeOk, 1);
    let (told, reply) = site.visit(&cookie);
    assert_eq!((told.member, told.placement, told.session_lost), (home, Placement::Kept, Some(RehomeReason::Gone)));
    assert!(reply.contains_key(SET_COOKIE), "or it would be told again");
    cookie = pair(&reply);
    site.pass(2);
    site.observe(there.member, Evidence::ProbeOk, 1);
    assert_eq!(site.visit(&cookie).0, Destination::plain(home, Placement::Kept));
}

/// Moved away, sent back on a detour for a moment, and logged in there: the first move is over.
#[test]
fn who_begins_a_session_on_a_detour_to_its_former_home_stays_there() {
    let mut site = Site::new("sessions: local");
    let (first, reply) = site.visit("");
    let (home, cookie) = (first.member, pair(&reply));
    site.observe(home, Evidence::ProbeFailed(Failure::Refused), 1);
    let moving = site.go(&cookie, &Tried::default());
    let (there, pin) = (moving.1.member, moving.0.pin_id().unwrap());
    site.backend(home).note_move(site.backend(there), pin, RehomeReason::Gone, true, site.now);
    let cookie = pair(&site.end(moving, "", None).1);
    site.pass(2);
    site.observe(home, Evidence::ProbeOk, 1);
    let third = 3 - home - there;
    let mut tried = Tried::default();
    [there, third].into_iter().for_each(|member| tried.insert(member));
    let detour = site.go(&cookie, &tried);
    assert_eq!(detour.1, Destination::plain(home, Placement::Detour(DetourReason::ConnectFailed)));
    let (_, reply) = site.end(detour, "JSESSIONID=new", None);
    let ours = reply.get_all(SET_COOKIE).iter().next_back().unwrap().to_str().unwrap().split(';').next().unwrap();
    site.pass(2);
    assert_eq!(site.visit(&format!("{ours}; JSESSIONID=new")).0, Destination::plain(home, Placement::Kept));
}
