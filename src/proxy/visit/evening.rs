//! Who is moved to even out the load, and where to, in cases that are easily decided wrongly; played without a socket.

use super::tests::{Client, Site};
use super::{Crowd, Next};
use crate::config::Sessions;
use crate::pool::rebalance::{self, Role};
use crate::pool::{Evening, Member};
use crate::telemetry::words::{Placement, RehomeReason};

const REBALANCE: &str = "rebalance: { when_above: 1.25, pace: 10%/m, idle_for: 30s },";
const MOVED: Placement = Placement::Rehomed(RehomeReason::Rebalanced);

/// So many clients of three backends, a fourth of which has just come, and nobody of whom has asked for a minute.
fn scaled_out(sessions: Sessions, clients: usize) -> (Site, Vec<Client>) {
    let mut site = Site::with(sessions, 3, 5, REBALANCE);
    let mut clients = vec![Client::default(); clients];
    visit(&mut site, &mut clients);
    site.weights.insert(3, 1);
    site.publish();
    site.recover("app3");
    site.pass(60);
    (site, clients)
}

fn visit(site: &mut Site, clients: &mut [Client]) -> Vec<String> {
    clients.iter_mut().map(|client| site.visit(client).0).collect()
}

/// A backend of weight 0 keeps its clients and takes no part. Counted among those who have a share, they made the share of
/// the others so large that nobody had too many.
#[test]
fn clients_of_a_backend_without_weight_keep_nobody_from_being_moved() {
    for sessions in [Sessions::Replicated, Sessions::Backup, Sessions::External] {
        let (mut site, mut clients) = scaled_out(sessions, 300);
        site.backend("app2").order_weight(Some(0), site.now);
        let mut homes = visit(&mut site, &mut clients);
        for _ in 0..120 {
            site.pass(60);
            site.give_roles(&homes);
            homes = visit(&mut site, &mut clients);
        }
        let at = |name: &str| homes.iter().filter(|home| *home == name).count();
        // Two thirds of all share them; the others stay where they are.
        let counts = ["app0", "app1", "app3"].map(at);
        assert!(counts.iter().all(|count| (58..=75).contains(count)), "{sessions}: {counts:?}");
    }
}

/// The first of parallel requests moves the last pin that was too many. Those that were decided after the count went home,
/// where the session was taken from them.
#[test]
fn parallel_requests_follow_the_first_one_though_nobody_has_too_many_any_more() {
    for sessions in [Sessions::Replicated, Sessions::Backup, Sessions::External] {
        let (mut site, mut clients) = scaled_out(sessions, 300);
        let mut homes = visit(&mut site, &mut clients);
        let (client, home, heir) = 'found: {
            for _ in 0..60 {
                site.pass(60);
                site.give_roles(&homes);
                for (client, home) in clients.iter_mut().zip(&mut homes) {
                    let before = client.clone();
                    let (served_by, placement) = site.visit(client);
                    if placement == MOVED {
                        break 'found (before, home.clone(), served_by);
                    }
                    *home = served_by;
                }
            }
            panic!("{sessions}: nobody is moved");
        };
        let pin = site.begin(&client).pin_id().expect("it has one");
        let (from, to) = (site.backend(&home).clone(), site.backend(&heir).clone());
        let first = Evening::begin(&from, &to, pin, site.now).expect("nobody else moves it");
        // Nobody has too many; then somebody does once more, and the next moment nobody again.
        for role in [Role::Settled, Role::Sheds, Role::Settled] {
            site.pass(1);
            site.snapshot.pools[0].members.iter().for_each(|member| member.backend.set_role(role, site.wall));
            let second = site.visit(&mut client.clone());
            assert_eq!(second, (heir.clone(), MOVED), "{sessions} {role:?}");
        }
        drop(first);
        // Nobody is moved anew.
        for (client, home) in clients.iter_mut().zip(&homes) {
            if site.begin(client).pin_id() != Some(pin) {
                assert_eq!(site.visit(&mut client.clone()).0, *home, "{sessions}");
            }
        }
    }
}

/// A weight says who is whose heir, too. Whoever was moved after an operator had ordered one came to a backend that had
/// never been told to keep a copy.
#[test]
fn with_one_copy_an_ordered_weight_moves_nobody_to_where_no_copy_is() {
    let (mut site, mut clients) = scaled_out(Sessions::Backup, 400);
    let mut homes = visit(&mut site, &mut clients);
    let mut moves = 0;
    for minute in 0..60_u32 {
        let told: Vec<Option<String>> = clients.iter().map(|client| site.heir_of(client)).collect();
        site.pass(30);
        site.backend("app3").order_weight(Some(1 + minute % 3), site.now);
        site.pass(30);
        site.give_roles(&homes);
        for ((client, home), told) in clients.iter_mut().zip(&mut homes).zip(told) {
            let (served_by, placement) = site.visit(client);
            if placement == MOVED {
                assert_eq!(Some(&served_by), told.as_ref(), "minute {minute}");
                moves += 1;
            }
            *home = served_by;
        }
        // Once more, with all as it is now.
        site.pass(40);
        site.give_roles(&homes);
        let told: Vec<Option<String>> = clients.iter().map(|client| site.heir_of(client)).collect();
        for ((client, home), told) in clients.iter_mut().zip(&mut homes).zip(told) {
            let (served_by, placement) = site.visit(client);
            if placement == MOVED {
                assert_eq!(Some(&served_by), told.as_ref(), "minute {minute}, settled");
                moves += 1;
            }
            *home = served_by;
        }
    }
    assert!(moves > 0, "some are moved all the same");
}

/// The request has failed at the heir. The next one in order has no copy.
#[test]
fn with_one_copy_a_request_that_failed_at_the_heir_is_not_moved_to_another() {
    let (mut site, mut clients) = scaled_out(Sessions::Backup, 300);
    let homes = visit(&mut site, &mut clients);
    site.pass(60);
    site.give_roles(&homes);
    for name in ["app0", "app1", "app2", "app3"] {
        site.backend(name).set_role(if name == "app0" { Role::Sheds } else { Role::Receives }, site.wall);
        site.backend(name).set_active_pins(if name == "app0" { 400 } else { 10 });
    }
    site.pass(600);
    for (client, home) in clients.iter().zip(&homes).filter(|(_, home)| *home == "app0") {
        let heir = site.heir_of(client).expect("there are others");
        let (served_by, placement) = site.visit_after(&mut client.clone(), &[&heir]).expect("its home lives");
        assert_eq!((&served_by, placement), (home, Placement::Kept), "the heir was {heir}");
    }
}

/// It has no room: whoever goes with others waits for it, as long as it may, and is not sent there again and again.
#[test]
fn whoever_moves_along_to_a_backend_that_is_full_waits_or_stays() {
    for sessions in [Sessions::Replicated, Sessions::Backup, Sessions::External] {
        let (mut site, clients) = scaled_out(sessions, 60);
        site.snapshot.pools[0].members.iter().for_each(|member| member.backend.set_role(Role::Sheds, site.wall));
        site.pass(600);
        let (home, now) = (site.backend("app0").clone(), site.wall);
        let is_turn = |pin: u64| rebalance::is_turn(pin, home.stable_hash(), (now - 600, now), 0.1 / 60.0);
        let is_one = |client: &&Client| site.begin(client).pin().is_some_and(|pin| pin.home == 0 && is_turn(pin.id));
        let client = clients.iter().find(is_one).expect("it is the turn of some");
        let (home, heir) = ("app0", site.heir_of(client).expect("there are others"));
        let pin = site.begin(client).pin_id().expect("it has one");
        let _first = Evening::begin(site.backend(home), site.backend(&heir), pin, site.now);
        let member = |name: &str| {
            let is_it = |member: &Member| *member.backend.id().name == *name;
            site.snapshot.pools[0].members.iter().position(is_it).expect("it is in the pool")
        };
        let (home, heir) = (member(home), member(&heir));
        let next = |crowd: &Crowd| match site.next(client, crowd) {
            Next::Go(destination) => Ok((destination.member, destination.placement)),
            next => Err(next),
        };
        let mut crowd = Crowd::default();
        assert_eq!(next(&crowd), Ok((heir, MOVED)), "{sessions}");
        crowd.found_full(heir);
        let stays = Ok((home, Placement::Kept));
        let waits = Err(Next::QueueAt { member: heir, placement: None });
        assert_eq!(next(&crowd), if sessions == Sessions::External { stays } else { waits }, "{sessions}");
        crowd.give_up_waiting();
        assert_eq!(next(&crowd), stays, "{sessions}");
    }
}
