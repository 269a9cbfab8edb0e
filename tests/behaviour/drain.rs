//! An operator drains a backend, or all of them.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use crate::crowd::{Crowd, Customer, customers};
use crate::events::Listener;
use crate::shop::{Shop, assert_placed, client_at, is_logged_in_at, log_in, told, who_am_i};
use crate::support::raw::{self, Peer};
use crate::support::{Admin, Backend, Stickpin, until};

/// Orders a drain of this backend of the shop, and gives its view.
async fn drain(admin: &mut Admin, backend: &str, deadline: Option<&str>, pace: &str) -> Value {
    let order = json!({ "state": "draining", "deadline": deadline, "pace": pace });
    let reply = admin.put(&format!("/api/v1/pools/shop/backends/{backend}/state"), &order).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// Panics when two dates are more than two seconds apart: a deadline is shown to the second, and a restart may add one.
#[track_caller]
fn assert_about(date: &Value, expected: &Value) {
    let read = |date: &Value| OffsetDateTime::parse(date.as_str().expect("a date"), &Rfc3339).expect("RFC 3339");
    assert!((read(date) - read(expected)).abs() <= Duration::from_secs(2), "expected {expected}, found {date}");
}

/// Waits until nobody is left there, and gives the view of its drain.
async fn until_drained(admin: &mut Admin, backend: &str) -> Value {
    until(&format!("{backend} is drained"), async || {
        let view = admin.backend("shop", backend).await;
        if view["drain"]["drained"] == true { Ok(view["drain"].clone()) } else { Err(view) }
    })
    .await
}

/// Clients that have left a backend so far because it is drained.
async fn moved(admin: &mut Admin, from: &str) -> u64 {
    admin.metric("stickpin_rehomes_total", &[&format!("from=\"{from}\""), "reason=\"drained\""]).await as u64
}

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

/// A pin that the app had ended counted for as long as one that is idle, so that the drain waited for nobody.
#[tokio::test]
async fn whoever_has_logged_out_is_not_waited_for() {
    let (home, other) = (Backend::start("home"), Backend::start("other"));
    let stickpin = Shop::of([home.yaml(), other.yaml()]).open().await;
    let mut admin = stickpin.admin();
    let mut clients = Vec::new();
    for _ in 0..12 {
        clients.push(client_at(&stickpin, "home").await);
    }
    drain(&mut admin, "home", None, "5%/s").await;
    let mut last = clients.pop().unwrap();
    for client in &mut clients {
        assert_eq!(client.post("/logout", "").await.unwrap().served_by(), "home");
    }
    until("one is left", async || match admin.backend("shop", "home").await["drain"].clone() {
        drain if drain["pins_left"] == 1 => Ok(()),
        drain => Err(drain),
    })
    .await;
    assert!(is_logged_in_at(&who_am_i(&mut last).await, "home"));
    last.post("/logout", "").await.unwrap();
    until_drained(&mut admin, "home").await;
}

#[tokio::test]
async fn whoever_is_left_at_the_deadline_has_to_go_and_is_told() {
    for (sessions, lost) in [("local", "drained"), ("external", "")] {
        let (home, other) = (Backend::start("home"), Backend::start("other"));
        let stickpin = Shop::of([home.yaml(), other.yaml()]).pool(&format!("sessions: {sessions}")).open().await;
        let (mut client, mut admin) = (client_at(&stickpin, "home").await, stickpin.admin());
        drain(&mut admin, "home", Some("1s"), "100%/s").await;
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
async fn external_sessions_leave_a_drained_backend_at_the_pace_of_the_order() {
    let backends = ["red", "green", "blue"].map(Backend::start);
    let stickpin = Shop::of(backends.iter().map(Backend::yaml)).pool("sessions: external").open().await;
    let mut admin = stickpin.admin();
    let everybody = customers(&stickpin, 90).await;
    let pinned = everybody.iter().filter(|customer| customer.home == "green").count() as u64;
    assert!(pinned >= 10);
    let crowd = Crowd::start(everybody);
    let mut events = Listener::of(&stickpin).await;
    // Everybody has been seen at home.
    crowd.rounds(1).await;
    let ordered = Instant::now();
    let view = drain(&mut admin, "green", None, "20%/s").await;
    assert_eq!((&view["drain"]["pace"], &view["drain"]["drained"]), (&json!("20%/s"), &json!(false)));
    assert!(view["drain"]["eta"].is_string() && view["drain"]["drained_since"].is_null(), "{view}");
    let mut counts = Vec::new();
    // All of them within five seconds, but not much sooner.
    for (who, goal, soonest) in [("half of them have", pinned / 2, 1.0), ("everybody has", pinned, 3.5)] {
        until(&format!("{who} moved"), async || {
            let moved = moved(&mut admin, "green").await;
            counts.push(moved);
            if moved < goal { Err(moved) } else { Ok(()) }
        })
        .await;
        let took = ordered.elapsed();
        assert!(took.as_secs_f64() > soonest, "{who} moved after {took:?}");
    }
    let steps = counts.iter().collect::<HashSet<_>>().len();
    assert!(steps > 5, "they moved in {steps} steps: {counts:?}");
    // It ends by itself, while the others go on.
    let ended = until_drained(&mut admin, "green").await;
    assert_eq!((&ended["pins_left"], &ended["eta"]), (&json!(0), &Value::Null));
    assert!(ended["drained_since"].as_str().is_some_and(|date| date.ends_with('Z')), "{ended}");
    assert_eq!(admin.backend("shop", "green").await["admin_state"], "draining");
    assert_eq!(stickpin.stderr().matches(" drained ").count(), 1, "said once: {}", stickpin.stderr());
    let event = events.next("drained").await;
    assert_eq!((&event["pool"], &event["backend"]), (&json!("shop"), &json!("green")));
    crowd.rounds(2).await;
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
    assert_eq!(admin.metric("stickpin_rehomes_total", &[]).await, pinned as f64);
}

/// All at once they would overrun the others, just as their sessions are lost.
#[tokio::test]
async fn local_sessions_stay_until_the_deadline_and_then_leave_at_the_pace_of_the_order() {
    let backends = ["red", "green"].map(Backend::start);
    let stickpin = Shop::of(backends.iter().map(Backend::yaml)).open().await;
    let mut admin = stickpin.admin();
    let everybody = customers(&stickpin, 60).await;
    let pinned = everybody.iter().filter(|customer| customer.home == "green").count() as u64;
    let crowd = Crowd::start(everybody);
    let ordered = Instant::now();
    let view = drain(&mut admin, "green", Some("3s"), "25%/s").await;
    assert!(view["drain"]["eta"].is_string(), "{view}");
    for (who, goal, soonest) in [("one has", 1, 3.0), ("half of them have", pinned / 2, 3.8), ("all have", pinned, 5.5)]
    {
        until(&format!("{who} moved"), async || {
            let moved = moved(&mut admin, "green").await;
            if moved < goal { Err(moved) } else { Ok(()) }
        })
        .await;
        let took = ordered.elapsed();
        assert!(took.as_secs_f64() > soonest, "{who} moved after {took:?}");
    }
    until_drained(&mut admin, "green").await;
    for customer in crowd.stop().await {
        assert!(customer.failures().is_empty(), "{customer:?}");
        if customer.home == "green" {
            let [told] = customer.told()[..] else { panic!("told more or less than once: {customer:?}") };
            assert_eq!((&told["rehome_reason"], &told["session_lost"]), (&json!("drained"), &json!("drained")));
        } else {
            customer.assert_undisturbed();
        }
    }
    // Whoever comes there again, for want of anybody else, is shown.
    for name in ["red", "green"] {
        drain(&mut admin, name, None, "5%/s").await;
    }
    // One alone may share its cell of the estimate with somebody who left, and is not seen then; three hardly can.
    for _ in 0..3 {
        client_at(&stickpin, "green").await;
    }
    until("it is not drained any more", async || {
        let view = admin.backend("shop", "green").await;
        if view["drain"]["drained"] == false { Ok(()) } else { Err(view) }
    })
    .await;
}

/// Moving from one drained backend to another would only move everybody again.
#[tokio::test]
async fn when_every_backend_is_drained_everybody_is_served_and_stays() {
    for (sessions, deadline) in [("local", Some("1s")), ("external", None), ("external", Some("1s"))] {
        let (one, other) = (Backend::start("one"), Backend::start("other"));
        let shop = Shop::of([one.yaml(), other.yaml()]).pool(&format!("sessions: {sessions}"));
        let stickpin = shop.open().await;
        let mut admin = stickpin.admin();
        let everybody = customers(&stickpin, 20).await;
        for name in ["one", "other"] {
            let view = drain(&mut admin, name, deadline, "100%/s").await;
            assert!(name == "one" || view["drain"]["eta"].is_null(), "there is no telling: {view}");
        }
        // Long enough for everybody's turn to leave to have come.
        tokio::time::sleep(Duration::from_millis(2200)).await;
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
    let deadline = drain(&mut admin, "red", Some("1h"), "1%/m").await["drain"]["deadline"].clone();
    admin.set_state("shop", "green", "disabled").await;
    admin.put("/api/v1/pools/shop/backends/blue/weight", &json!({ "weight": 7 })).await;
    assert!(first.terminate().await.success());

    let second = shop.open().await;
    let mut admin = second.admin();
    let red = admin.backend("shop", "red").await;
    assert_eq!((&red["admin_state"], &red["drain"]["pace"]), (&json!("draining"), &json!("1%/m")));
    assert_about(&red["drain"]["deadline"], &deadline);
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

/// Connects, sends a request that asks for a tunnel, and gives both ends of it.
async fn tunnel(stickpin: &Stickpin, backend: &raw::Backend) -> (Peer, Peer) {
    let upgrade = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let mut client = Peer::sending(stickpin.front(), upgrade).await;
    let (mut at_backend, _) = backend.request().await;
    at_backend.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 101);
    (client, at_backend)
}

#[tokio::test]
async fn a_tunnel_is_closed_at_the_deadline_and_not_before() {
    let backend = raw::Backend::start().await;
    let stickpin = raw::front(backend.address());
    let path = "/api/v1/pools/app/backends/app1/state";
    let mut admin = stickpin.admin();
    let (mut client, mut at_backend) = tunnel(&stickpin, &backend).await;
    admin.put(path, &json!({ "state": "draining" })).await;
    admin.put(path, &json!({ "state": "disabled" })).await;
    let ordered = Instant::now();
    admin.put(path, &json!({ "state": "draining", "deadline": "1s", "pace": "100%/s" })).await;
    client.send("ping").await;
    assert_eq!(at_backend.exactly(4).await, b"ping");
    client.gone().await;
    at_backend.gone().await;
    assert!(ordered.elapsed() >= Duration::from_secs(1), "{:?}", ordered.elapsed());

    // Nobody else is there: whoever comes when it was everybody's turn to leave stays.
    tokio::time::sleep(Duration::from_millis(2100).saturating_sub(ordered.elapsed())).await;
    let (mut client, mut at_backend) = tunnel(&stickpin, &backend).await;
    for _ in 0..15 {
        client.send("ping").await;
        assert_eq!(at_backend.exactly(4).await, b"ping");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Its server could not be shut down in order while we hold connections to it.
#[tokio::test]
async fn idle_connections_to_a_backend_that_nobody_is_to_use_are_closed() {
    for (order, patience) in [("draining", 3.0), ("disabled", 2.0)] {
        let backend = raw::Backend::start().await;
        let stickpin = raw::front(backend.address());
        let mut client = Peer::sending(stickpin.front(), "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let (mut at_backend, _) = backend.request().await;
        at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        assert_eq!(client.reply().await.0.status(), 200);
        let ordered = Instant::now();
        stickpin.admin().set_state("app", "app1", order).await;
        at_backend.gone().await;
        // One to a backend in service is kept for four seconds.
        assert!(ordered.elapsed().as_secs_f64() < patience, "{order}: {:?}", ordered.elapsed());
    }
}
