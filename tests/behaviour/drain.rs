//! An operator drains a backend, or all of them.

use std::collections::HashSet;

use serde_json::json;

use crate::crowd::{Crowd, Customer, customers};
use crate::shop::{Shop, assert_placed, client_at, is_logged_in_at, log_in, told, who_am_i};
use crate::support::{Backend, until};

#[tokio::test]
async fn a_drained_backend_keeps_its_local_sessions_and_gets_no_new_clients() {
    let (home, other) = (Backend::start("home"), Backend::start("other"));
    let stickpin = Shop::of([home.yaml(), other.yaml()]).open().await;
    let mut admin = stickpin.admin();
    let crowd = Crowd::start(customers(&stickpin, 20).await);
    let path = "/api/v1/pools/shop/backends/home/state";
    let view = admin.put(path, &json!({ "state": "draining", "deadline": "10m" })).await.json();
    assert_eq!(view["admin_state"], "draining");
    assert!(view["drain"]["deadline"].is_string() && view["drain"]["pins_left"].is_u64(), "{view}");
    for _ in 0..20 {
        assert_eq!(log_in(&mut stickpin.client()).await, "other");
    }
    crowd.rounds(3).await;
    crowd.stop().await.iter().for_each(Customer::assert_undisturbed);

    admin.set_state("shop", "home", "enabled").await;
    assert!(admin.backend("shop", "home").await["drain"].is_null());
    client_at(&stickpin, "home").await;
}

#[tokio::test]
async fn whoever_is_left_at_the_deadline_has_to_go_and_is_told() {
    for (sessions, lost) in [("local", "drained"), ("external", "")] {
        let (home, other) = (Backend::start("home"), Backend::start("other"));
        let stickpin = Shop::of([home.yaml(), other.yaml()]).pool(&format!("sessions: {sessions}")).open().await;
        let (mut client, mut admin) = (client_at(&stickpin, "home").await, stickpin.admin());
        let path = "/api/v1/pools/shop/backends/home/state";
        admin.put(path, &json!({ "state": "draining", "deadline": "1s" })).await;
        let moved = until("it has moved", async || {
            let reply = who_am_i(&mut client).await;
            if reply.served_by() == "home" { Err(reply.text()) } else { Ok(reply) }
        })
        .await;
        assert_eq!(told(&moved), ["home", "drained", lost]);
        assert_eq!(told(&who_am_i(&mut client).await), [""; 3]);
        // Nobody else is there: better at home than nowhere.
        admin.set_state("shop", "other", "disabled").await;
        let mut late = stickpin.client();
        assert_eq!(log_in(&mut late).await, "home");
        assert!(is_logged_in_at(&who_am_i(&mut late).await, "home"));
    }
}

#[tokio::test]
async fn external_sessions_leave_a_drained_backend_a_few_at_a_time() {
    let backends = ["red", "green", "blue"].map(Backend::start);
    let stickpin = Shop::of(backends.iter().map(Backend::yaml)).pool("sessions: external").open().await;
    let mut admin = stickpin.admin();
    let everybody = customers(&stickpin, 90).await;
    let pinned = everybody.iter().filter(|customer| customer.home == "green").count() as f64;
    assert!(pinned >= 10.0);
    let crowd = Crowd::start(everybody);
    admin.set_state("shop", "green", "draining").await;
    let mut counts = Vec::new();
    // Everybody within twenty seconds, and then some.
    for (who, goal) in [("half of them have", pinned / 2.0), ("everybody has", pinned)] {
        until(&format!("{who} moved"), async || {
            let moved = admin.metric("stickpin_rehomes_total", &["from=\"green\"", "reason=\"drained\""]).await;
            counts.push(moved as u64);
            if moved < goal { Err(moved) } else { Ok(()) }
        })
        .await;
    }
    crowd.rounds(2).await;
    let steps = counts.iter().collect::<HashSet<_>>().len();
    assert!(steps > 5, "they moved in {steps} steps: {counts:?}");
    for customer in crowd.stop().await {
        assert!(customer.failures().is_empty(), "{customer:?}");
        if customer.home == "green" {
            let [told] = customer.told()[..] else { panic!("told more or less than once: {customer:?}") };
            assert_eq!((&told["rehomed_from"], &told["rehome_reason"]), (&json!("green"), &json!("drained")));
            assert!(told["session_lost"].is_null(), "{told}");
            assert_eq!(customer.path().len(), 2, "{:?}", customer.path());
        } else {
            customer.assert_undisturbed();
        }
    }
    assert_eq!(admin.metric("stickpin_sessions_lost_total", &[]).await, 0.0);
    assert_eq!(admin.metric("stickpin_rehomes_total", &[]).await, pinned);
}

/// Moving from one drained backend to another would only move everybody again.
#[tokio::test]
async fn when_every_backend_is_drained_everybody_is_served_and_stays() {
    for sessions in ["local", "external"] {
        let (one, other) = (Backend::start("one"), Backend::start("other"));
        let shop = Shop::of([one.yaml(), other.yaml()]).pool(&format!("sessions: {sessions}"));
        let stickpin = shop.open().await;
        let mut admin = stickpin.admin();
        let everybody = customers(&stickpin, 20).await;
        for name in ["one", "other"] {
            admin.set_state("shop", name, "draining").await;
        }
        // Long enough for the turn of some to leave to have come: one in ten.
        tokio::time::sleep(std::time::Duration::from_secs(4)).await;
        let crowd = Crowd::start(everybody);
        crowd.rounds(5).await;
        log_in(&mut stickpin.client()).await;
        crowd.stop().await.iter().for_each(Customer::assert_undisturbed);
        assert_placed(&stickpin, "new", "", 21).await;
        assert_placed(&stickpin, "rehomed", "", 0).await;
    }
}

#[tokio::test]
async fn orders_outlive_the_process() {
    let backends = ["red", "green", "blue"].map(Backend::start);
    let state = tempfile::tempdir().unwrap();
    let shop = Shop::of(backends.iter().map(Backend::yaml)).top(&format!("state_dir: {}", state.path().display()));
    let mut first = shop.open().await;
    let mut client = client_at(&first, "red").await;
    let mut admin = first.admin();
    let path = "/api/v1/pools/shop/backends/red/state";
    let drain = json!({ "state": "draining", "deadline": "1h" });
    let deadline = admin.put(path, &drain).await.json()["drain"]["deadline"].clone();
    admin.set_state("shop", "green", "disabled").await;
    admin.put("/api/v1/pools/shop/backends/blue/weight", &json!({ "weight": 7 })).await;
    assert!(first.terminate().await.success());

    let second = shop.open().await;
    let mut admin = second.admin();
    let red = admin.backend("shop", "red").await;
    assert_eq!(red["admin_state"], "draining");
    let seconds = |deadline: &serde_json::Value| deadline.as_str().map(|text| text[..16].to_owned());
    assert_eq!(seconds(&red["drain"]["deadline"]), seconds(&deadline), "to the minute");
    assert_eq!(admin.backend("shop", "green").await["admin_state"], "disabled");
    assert_eq!(admin.backend("shop", "blue").await["weight"], 7);
    for _ in 0..10 {
        assert_eq!(log_in(&mut second.client()).await, "blue");
    }
    let mut again = second.client();
    again.cookies = std::mem::take(&mut client.cookies);
    let reply = who_am_i(&mut again).await;
    assert!(is_logged_in_at(&reply, "red") && told(&reply) == [""; 3], "the key outlives it, too: {}", reply.text());
}
