//! Tiers, slow start and panic, played without a socket.

use std::collections::BTreeMap;

use super::Next;
use super::tests::{Client, Site, name};
use crate::config::Sessions;
use crate::pool::{AdminState, Evidence, Failure, Thresholds};
use crate::telemetry::words::{DetourReason, Placement, RehomeReason};

const KINDS: [Sessions; 4] = [Sessions::Local, Sessions::Replicated, Sessions::Backup, Sessions::External];

/// Two backends of tier 0, two of tier 1.
fn two_tiers(sessions: Sessions, keys: &'static str) -> Site {
    let mut site = Site::with(sessions, 4, 11, keys);
    site.later_from = 2;
    site.publish();
    site
}

/// Where new clients go, by backend.
fn arrive(site: &mut Site, count: usize) -> (Vec<Client>, BTreeMap<String, usize>) {
    let mut clients = vec![Client::default(); count];
    let places = places(site, &mut clients);
    (clients, places)
}

fn places(site: &mut Site, clients: &mut [Client]) -> BTreeMap<String, usize> {
    let mut places = BTreeMap::new();
    for client in clients {
        *places.entry(site.visit(client).0).or_default() += 1;
    }
    places
}

fn names(places: &BTreeMap<String, usize>) -> Vec<&str> {
    places.keys().map(String::as_str).collect()
}

#[test]
fn new_clients_and_orphans_go_to_the_first_tier_that_has_somebody_and_stay_where_they_are() {
    for sessions in KINDS {
        let mut site = two_tiers(sessions, "");
        let (mut clients, at) = arrive(&mut site, 100);
        assert_eq!(names(&at), ["app0", "app1"], "{sessions}");
        site.kill("app0");
        assert_eq!(names(&places(&mut site, &mut clients)), ["app1"], "{sessions}: orphans");
        assert_eq!(names(&arrive(&mut site, 50).1), ["app1"], "{sessions}");
        // In doubt, but there.
        let fails = Evidence::TrafficFailed(Failure::Broken);
        let rarely = Thresholds { healthy_after: 1, unhealthy_after: 3 };
        site.backend("app1").observe(fails, rarely, site.now);
        site.follow();
        assert_eq!(names(&arrive(&mut site, 50).1), ["app1"], "{sessions}: suspect");
        site.kill("app1");
        assert_eq!(names(&places(&mut site, &mut clients)), ["app2", "app3"], "{sessions}: orphans");
        let (mut late, at) = arrive(&mut site, 50);
        assert_eq!(names(&at), ["app2", "app3"], "{sessions}");
        // Back again: new clients go there, those with a home stay at home.
        site.pass(5);
        site.recover("app0");
        assert_eq!(names(&arrive(&mut site, 50).1), ["app0"], "{sessions}");
        for (client, before) in late.iter_mut().map(|client| (client.clone(), client)) {
            let mut client = client;
            assert_eq!(site.visit(&mut client), (site.visit(before).0, Placement::Kept), "{sessions}");
        }
    }
}

#[test]
fn a_suspect_heir_of_an_earlier_tier_comes_before_a_healthy_one_of_a_later_one() {
    for sessions in KINDS {
        let mut site = two_tiers(sessions, "");
        let (mut clients, _) = arrive(&mut site, 60);
        let rarely = Thresholds { healthy_after: 1, unhealthy_after: 3 };
        site.backend("app1").observe(Evidence::TrafficFailed(Failure::Broken), rarely, site.now);
        site.kill("app0");
        clients.retain(|client| {
            let mut client = client.clone();
            site.visit(&mut client).1 == Placement::Rehomed(RehomeReason::Gone)
        });
        assert!(!clients.is_empty());
        assert_eq!(names(&places(&mut site, &mut clients)), ["app1"], "{sessions}");
    }
}

#[test]
fn a_drained_tier_is_left_for_the_next_one_and_comes_before_nobody() {
    let mut site = two_tiers(Sessions::Local, "");
    for number in 0..2 {
        site.backend(&name(number)).set_admin_state(AdminState::Draining, None, site.now);
    }
    site.follow();
    assert_eq!(names(&arrive(&mut site, 50).1), ["app2", "app3"]);
    for number in 2..4 {
        site.backend(&name(number)).set_admin_state(AdminState::Draining, None, site.now);
    }
    site.follow();
    assert_eq!(names(&arrive(&mut site, 50).1), ["app0", "app1"], "all are draining, the first tier is first again");
}

/// Trap: whoever was moved to a backup stays there for ever.
#[test]
fn evening_out_takes_back_whom_a_later_tier_stood_in_for() {
    const REBALANCE: &str = "rebalance: { when_above: 1.25, pace: 10%/m, idle_for: 30s },";
    for sessions in KINDS {
        let mut site = two_tiers(sessions, REBALANCE);
        site.kill("app0");
        site.kill("app1");
        let (mut clients, at) = arrive(&mut site, 80);
        assert_eq!(names(&at), ["app2", "app3"]);
        site.pass(60);
        site.recover("app0");
        site.recover("app1");
        let mut homes: Vec<String> = clients.iter_mut().map(|client| site.visit(client).0).collect();
        for _ in 0..120 {
            site.pass(60);
            site.give_roles(&homes);
            homes = clients.iter_mut().map(|client| site.visit(client).0).collect();
        }
        let back = homes.iter().filter(|home| ["app0", "app1"].contains(&&***home)).count();
        let expected = if sessions == Sessions::Local { 0 } else { 80 };
        assert_eq!(back, expected, "{sessions}");
    }
}

/// Trap: panic that also ignores health for pinned clients.
#[test]
fn in_panic_new_clients_go_everywhere_and_pinned_ones_keep_and_inherit_living_homes() {
    for sessions in KINDS {
        let mut site = Site::new(sessions, 5, 21);
        let (mut clients, _) = arrive(&mut site, 200);
        for number in 1..4 {
            site.fail(&name(number), Failure::Unexpected);
        }
        assert_eq!(names(&arrive(&mut site, 100).1), ["app0", "app4"], "{sessions}: two of five are enough");
        site.fail("app4", Failure::Unexpected);
        assert_eq!(names(&arrive(&mut site, 200).1).len(), 5, "{sessions}: one is not");
        assert_eq!(names(&places(&mut site, &mut clients)), ["app0"], "{sessions}: pinned ones");
        for _ in 0..20 {
            let (served_by, _) = site.visit_after(&mut Client::default(), &["app3"]).expect("somebody lives");
            assert_eq!(served_by, "app0", "{sessions}: the second try goes to somebody who lives");
        }
        for number in 1..5 {
            site.recover(&name(number));
        }
        assert!(!site.snapshot.pools[0].state.spread().is_panicking(), "{sessions}");
    }
}

#[test]
fn who_was_placed_in_panic_stays_there_while_it_is_served() {
    for sessions in KINDS {
        let mut site = Site::new(sessions, 4, 22);
        for number in 1..4 {
            site.fail(&name(number), Failure::Unexpected);
        }
        site.pass(10);
        let mut client = loop {
            let mut client = Client::default();
            if site.visit(&mut client).0 == "app2" {
                break client;
            }
        };
        site.pass(3);
        assert_eq!(site.visit(&mut client), ("app2".to_owned(), Placement::Kept), "{sessions}");
        let (elsewhere, placement) = site.visit_after(&mut client.clone(), &["app2"]).expect("somebody lives");
        assert_eq!(elsewhere, "app0", "{sessions}: {placement:?}");
        // Its process is gone, and the session with it.
        let mut orphan = client.clone();
        site.kill("app2");
        assert_eq!(site.visit(&mut orphan), ("app0".to_owned(), Placement::Rehomed(RehomeReason::Gone)), "{sessions}");
        // Enough are well again, and it is not.
        site.fail("app2", Failure::Unexpected);
        site.recover("app1");
        site.recover("app3");
        assert_ne!(site.visit(&mut client).0, "app2", "{sessions}");
    }
}

#[test]
fn with_nobody_left_those_that_answer_are_tried_and_silent_ones_are_not() {
    for sessions in KINDS {
        let mut site = Site::new(sessions, 3, 23);
        let clients: Vec<_> =
            arrive(&mut site, 60).0.into_iter().map(|client| (site.visit(&mut client.clone()).0, client)).collect();
        site.fail("app0", Failure::Unexpected);
        site.fail("app1", Failure::Silent);
        site.fail("app2", Failure::Refused);
        assert_eq!(names(&arrive(&mut site, 30).1), ["app0"], "{sessions}");
        for (home, mut client) in clients {
            // A home that answers is better than none; a silent one would only hang.
            let kept = Ok((home.clone(), Placement::Kept));
            let expected = if home == "app0" { kept } else { Err(Next::Nobody) };
            assert_eq!(site.visit_after(&mut client, &[]), expected, "{sessions}");
        }
        site.fail("app0", Failure::Silent);
        assert_eq!(site.visit_after(&mut Client::default(), &[]), Err(Next::Nobody), "{sessions}");
        // The first good probe is enough.
        site.recover("app1");
        assert_eq!(site.visit(&mut Client::default()).0, "app1", "{sessions}");
    }
}

#[test]
fn a_pool_may_never_panic() {
    let mut site = Site::with(Sessions::Local, 4, 24, "panic_below: 0%,");
    for number in 1..4 {
        site.fail(&name(number), Failure::Unexpected);
    }
    assert_eq!(names(&arrive(&mut site, 50).1), ["app0"]);
    site.fail("app0", Failure::Unexpected);
    assert_eq!(site.visit_after(&mut Client::default(), &[]), Err(Next::Nobody));
}

/// 400 orphans of a backend whose heirs are one that is warm and one that has just come. Bound: five standard deviations.
#[test]
fn a_warming_heir_gets_a_share_that_rises_and_every_replica_agrees_who_that_is() {
    const SLOW: &str = "slow_start: 30s,";
    for (seconds, part) in [(0, 0.1), (10, 0.4), (20, 0.7), (30, 1.0)] {
        let (mut site, mut replica) =
            (Site::with(Sessions::External, 3, 31, SLOW), Site::with(Sessions::External, 3, 32, SLOW));
        let mut clients = arrive(&mut site, 1200).0;
        clients.retain(|client| site.visit(&mut client.clone()).0 == "app0");
        for site in [&mut site, &mut replica] {
            site.pass(100);
            site.fail("app1", Failure::Unexpected);
            site.recover("app1");
            site.pass(seconds);
            site.kill("app0");
        }
        let counted = clients.len() as f64;
        let mut at_warming = 0.0;
        for client in &clients {
            let (here, there) = (site.visit(&mut client.clone()), replica.visit(&mut client.clone()));
            assert_eq!(here, there);
            at_warming += f64::from(u8::from(here.0 == "app1"));
        }
        let share = at_warming / counted;
        assert!((share - part / 2.0).abs() < 0.12, "{share} at {seconds} s, not {}", part / 2.0);
    }
}

#[test]
fn the_heir_that_has_the_only_copy_is_the_heir_while_it_is_warming_too() {
    let mut site = Site::with(Sessions::Backup, 3, 33, "slow_start: 30s,");
    // Time is told in whole seconds.
    site.pass(1);
    let mut clients = arrive(&mut site, 200).0;
    clients.retain(|client| site.visit(&mut client.clone()).0 == "app0");
    let told: Vec<Option<String>> = clients.iter().map(|client| site.heir_of(client)).collect();
    site.pass(100);
    site.fail("app1", Failure::Unexpected);
    site.recover("app1");
    site.kill("app0");
    for (client, told) in clients.iter_mut().zip(told) {
        assert_eq!(Some(site.visit(client).0), told);
    }
}

/// Trap: an heir that came after the client's last request, and has no copy.
#[test]
fn the_copy_is_where_the_last_request_told_of_the_heir_whoever_has_come_since() {
    let mut site = Site::new(Sessions::Backup, 3, 35);
    site.fail("app2", Failure::Unexpected);
    site.pass(1);
    let mut clients = arrive(&mut site, 200).0;
    clients.retain(|client| site.visit(&mut client.clone()).0 == "app0");
    site.pass(100);
    // One is back, and one is new.
    site.recover("app2");
    site.weights.insert(3, 1);
    site.publish();
    site.recover("app3");
    site.pass(100);
    let (asked, silent) = clients.split_at_mut(50);
    let told: Vec<Option<String>> = asked
        .iter_mut()
        .map(|client| {
            site.visit(client);
            site.heir_of(client)
        })
        .collect();
    site.pass(1);
    site.kill("app0");
    for client in silent {
        assert_eq!(site.visit(client).0, "app1", "there was nobody else");
    }
    let went: Vec<Option<String>> = asked.iter_mut().map(|client| Some(site.visit(client).0)).collect();
    assert_eq!(went, told);
    assert!(["app1", "app2", "app3"].iter().all(|name| told.iter().flatten().any(|told| told == name)), "{told:?}");
}

#[test]
fn a_detour_while_an_heir_warms_stays_where_it_began() {
    let mut site = Site::with(Sessions::Local, 3, 34, "slow_start: 30s,");
    let mut clients = arrive(&mut site, 300).0;
    clients.retain(|client| site.visit(&mut client.clone()).0 == "app0");
    site.pass(100);
    site.fail("app1", Failure::Unexpected);
    site.recover("app1");
    site.fail("app0", Failure::Silent);
    let first: Vec<String> = clients.iter_mut().map(|client| site.visit(client).0).collect();
    site.pass(25);
    for (client, first) in clients.iter_mut().zip(first) {
        assert_eq!(site.visit(client), (first, Placement::Detour(DetourReason::Unreachable)));
    }
}

/// A client at app0 of three backends, with one copy of its session; whoever was told to keep that, and the third.
fn with_copy(seed: u64) -> (Site, Client, String, String) {
    let mut site = Site::new(Sessions::Backup, 3, seed);
    // Time is told in whole seconds.
    site.pass(5);
    let client = loop {
        let mut client = Client::default();
        if site.visit(&mut client).0 == "app0" {
            break client;
        }
    };
    let heir = site.heir_of(&client).expect("there are two others");
    let third = if heir == "app1" { "app2" } else { "app1" };
    site.pass(60);
    (site, client, heir, third.to_owned())
}

/// The only copy was passed by for a backend in service, which has none.
#[test]
fn a_copy_is_taken_over_at_an_heir_that_is_drained_too() {
    for failure in [Failure::Refused, Failure::Silent] {
        let (mut site, mut client, heir, third) = with_copy(41);
        site.backend(&heir).set_admin_state(AdminState::Draining, None, site.now);
        site.pass(60);
        site.fail("app0", failure);
        let (served_by, placement) = site.visit(&mut client);
        assert_eq!(served_by, heir, "{placement:?}");
        // From there it leaves like everybody: to whoever was told of meanwhile.
        site.pass(60);
        assert_eq!(site.visit(&mut client), (third, Placement::Rehomed(RehomeReason::Drained)));
    }
    // One that came to be drained long before the client last asked was not told of.
    let (mut site, mut client, heir, third) = with_copy(42);
    site.backend(&heir).set_admin_state(AdminState::Draining, None, site.now);
    site.pass(60);
    site.visit(&mut client);
    site.pass(60);
    site.kill("app0");
    assert_eq!(site.visit(&mut client), (third, Placement::Rehomed(RehomeReason::Gone)));
}

/// The home is drained and lives; the heir that had the copy has gone since. The client was moved to where no copy was.
#[test]
fn a_drained_home_is_left_only_once_the_heir_of_now_was_told_of() {
    for fate in ["dead", "disabled", "removed", "outweighed"] {
        let (mut site, mut client, heir, third) = with_copy(43);
        match fate {
            "dead" => site.kill(&heir),
            "disabled" => site.backend(&heir).set_admin_state(AdminState::Disabled, None, site.now),
            "outweighed" => site.backend(&third).order_weight(Some(100_000), site.now),
            _ => {
                site.weights.retain(|number, _| name(*number) != heir);
                site.publish();
            }
        }
        site.backend("app0").set_admin_state(AdminState::Draining, None, site.now);
        site.pass(60);
        let mut late = client.clone();
        assert_eq!(site.visit(&mut client), ("app0".to_owned(), Placement::Kept), "{fate}");
        assert_eq!(site.heir_of(&client).as_ref(), Some(&third));
        site.pass(5);
        assert_eq!(site.visit(&mut client), (third.clone(), Placement::Rehomed(RehomeReason::Drained)));
        // Once everybody has to go, it has to.
        let deadline = Some(site.now);
        site.backend("app0").set_admin_state(AdminState::Draining, deadline, site.now);
        site.pass(60);
        assert_eq!(site.visit(&mut late), (third, Placement::Rehomed(RehomeReason::Drained)));
    }
    // Nothing has happened to the heir: it goes at once.
    let (mut site, mut client, heir, _) = with_copy(44);
    site.backend("app0").set_admin_state(AdminState::Draining, None, site.now);
    site.pass(60);
    assert_eq!(site.visit(&mut client), (heir, Placement::Rehomed(RehomeReason::Drained)));
}

/// The heir failed the request, and the third has no copy: it was asked all the same, though the home lives.
#[test]
fn with_one_copy_a_home_that_lives_comes_before_whoever_has_none() {
    let (mut site, client, heir, _) = with_copy(45);
    let kept = Ok(("app0".to_owned(), Placement::Kept));
    site.backend("app0").observe(
        Evidence::TrafficFailed(Failure::Broken),
        Thresholds { healthy_after: 1, unhealthy_after: 3 },
        site.now,
    );
    assert_eq!(site.visit_after(&mut client.clone(), &[&heir]), kept, "suspect");
    site.recover("app0");
    site.backend("app0").set_admin_state(AdminState::Draining, None, site.now);
    site.pass(60);
    assert_eq!(site.visit_after(&mut client.clone(), &[&heir]), kept, "drained");
}
