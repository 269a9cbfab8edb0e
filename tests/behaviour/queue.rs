//! Requests that find a backend full wait their turn: first come, first served, for so long and so many.

use serde_json::json;
use tokio::task::JoinHandle;

use crate::events::Listener;
use crate::shop::{QUICK, Shop, assert_placed, client_at};
use crate::support::raw::Peer;
use crate::support::{Client, Reply, StickpinProcess, until};
use crate::turnstile::Turnstile;

/// A request that is under way, and comes back with its client.
type UnderWay = JoinHandle<(Client, Reply)>;

fn ask(mut client: Client, path: &str) -> UnderWay {
    let path = path.to_owned();
    tokio::spawn(async move {
        let reply = client.get(&path).await.unwrap_or_else(|error| panic!("GET {path}: {error}"));
        (client, reply)
    })
}

async fn answered(under_way: UnderWay) -> (Client, Reply) {
    let (client, reply) = under_way.await.expect("the request is answered");
    assert_eq!(reply.status, 200, "{}", reply.text());
    (client, reply)
}

/// Waits until so many requests wait for this backend.
async fn until_queued(stickpin: &StickpinProcess, backend: &str, count: u32) {
    let mut admin = stickpin.admin();
    until(&format!("{count} wait for {backend}"), async || {
        let view = admin.backend("shop", backend).await;
        if view["queued"] == count { Ok(()) } else { Err(view) }
    })
    .await;
}

/// Waits until so many requests wait for any backend.
async fn until_queued_for_any(stickpin: &StickpinProcess, count: u32) {
    let mut admin = stickpin.admin();
    until(&format!("{count} wait for any backend"), async || {
        let view = admin.get("/api/v1/pools/shop").await.json();
        if view["queued"] == count { Ok(()) } else { Err(view) }
    })
    .await;
}

/// Nobody waits any more, and nobody is counted who is not there.
async fn assert_at_rest(stickpin: &StickpinProcess, backends: &[&Turnstile]) {
    let mut admin = stickpin.admin();
    until("nothing is left behind", async || {
        let view = admin.get("/api/v1/pools/shop").await.json();
        let at_rest = |backend: &serde_json::Value| backend["queued"] == 0 && backend["in_flight"] == 0;
        let is_over = view["queued"] == 0 && view["backends"].as_array().is_some_and(|all| all.iter().all(at_rest));
        if is_over { Ok(()) } else { Err(view) }
    })
    .await;
    assert!(backends.iter().all(|backend| backend.in_flight() == 0));
}

/// Two backends that take one request at a time, and let everybody go.
async fn two() -> (Turnstile, Turnstile) {
    let (red, green) = (Turnstile::holding("red").await, Turnstile::holding("green").await);
    red.open();
    green.open();
    (red, green)
}

fn shop_of(red: &Turnstile, green: &Turnstile) -> Shop {
    Shop::of([red.yaml(""), green.yaml("")]).pool("max_requests: 1")
}

/// A client with its home at `red`, which is full from now on with another one's request.
async fn client_of_full(stickpin: &StickpinProcess, red: &Turnstile) -> (Client, UnderWay) {
    let (client, other) = (client_at(stickpin, "red").await, client_at(stickpin, "red").await);
    red.hold();
    let occupies = ask(other, "/occupies");
    red.until_in_flight(1).await;
    (client, occupies)
}

#[tokio::test]
async fn whoever_came_first_is_served_first() {
    let red = Turnstile::holding("red").await;
    let shop = Shop::of([red.yaml("max_requests: 1")]).pool("affinity: off");
    let stickpin = shop.open().await;
    let mut under_way = vec![ask(stickpin.client(), "/0")];
    red.until_in_flight(1).await;
    for n in 1..8 {
        under_way.push(ask(stickpin.client(), &format!("/{n}")));
        until_queued_for_any(&stickpin, n).await;
    }
    for under_way in under_way {
        red.let_go(1);
        answered(under_way).await;
    }
    assert_eq!(red.arrived(), (0..8).map(|n| format!("/{n}")).collect::<Vec<_>>());
    assert_eq!(red.most_in_flight(), 1);
    assert_at_rest(&stickpin, &[&red]).await;
}

#[tokio::test]
async fn a_pinned_request_waits_and_goes_home_though_others_are_free() {
    let (red, green) = two().await;
    let stickpin = shop_of(&red, &green).pool("queue: { timeout: 20s }").open().await;
    let (client, occupies) = client_of_full(&stickpin, &red).await;
    let pin = client.cookies.value("stickpin").map(str::to_owned);
    let waits = ask(client, "/waits");
    until_queued(&stickpin, "red", 1).await;
    assert_eq!(stickpin.admin().metric("stickpin_backend_queued", &["backend=\"red\""]).await, 1.0);
    red.open();
    answered(occupies).await;
    let (client, reply) = answered(waits).await;
    assert_eq!((reply.served_by(), client.cookies.value("stickpin").map(str::to_owned)), ("red".into(), pin));
    assert_placed(&stickpin, "detour", "", 0).await;
    assert_at_rest(&stickpin, &[&red, &green]).await;
}

#[tokio::test]
async fn local_sessions_take_a_detour_after_the_wait_and_others_at_once_and_the_pin_stays() {
    // A wait that is over soon where one is due, and a test that never ends where none is.
    for (sessions, queue) in
        [("local", "{ timeout: 200ms }"), ("local", "{ length: 0 }"), ("external", "{ timeout: 1000s }")]
    {
        let (red, green) = two().await;
        let shop = shop_of(&red, &green).pool(&format!("sessions: {sessions}"));
        let stickpin = shop.pool(&format!("queue: {queue}")).open().await;
        let (client, occupies) = client_of_full(&stickpin, &red).await;
        let pin = client.cookies.value("stickpin").map(str::to_owned);
        let (client, reply) = answered(ask(client, "/detour")).await;
        assert_eq!(reply.served_by(), "green", "{sessions}");
        assert_placed(&stickpin, "detour", "busy", 1).await;
        assert_eq!((reply.header("set-cookie"), client.cookies.value("stickpin").map(str::to_owned)), ("", pin));
        red.open();
        answered(occupies).await;
        assert_eq!(answered(ask(client, "/home")).await.1.served_by(), "red");
        assert_placed(&stickpin, "rehomed", "", 0).await;
        assert_at_rest(&stickpin, &[&red, &green]).await;
    }
}

#[tokio::test]
async fn the_pool_says_otherwise_of_a_busy_home() {
    let (red, green) = two().await;
    let shop = shop_of(&red, &green).pool("rehome: { when: { busy: refuse } }").pool("queue: { timeout: 200ms }");
    let stickpin = shop.open().await;
    let (client, occupies) = client_of_full(&stickpin, &red).await;
    let (_, refused) = ask(client, "/refused").await.unwrap();
    assert_eq!((&*refused.status.as_str().to_owned(), refused.header("retry-after")), ("503", "1"));
    assert_placed(&stickpin, "refused", "queue_timeout", 1).await;
    red.open();
    answered(occupies).await;
}

#[tokio::test]
async fn when_everybody_is_full_a_pinned_request_waits_at_home_and_is_turned_away_in_the_end() {
    for sessions in ["local", "external", "backup"] {
        let (red, green) = two().await;
        let shop = shop_of(&red, &green).pool(&format!("sessions: {sessions}"));
        let stickpin = shop.pool("queue: { length: 1, timeout: 1500ms }").open().await;
        let (client, occupies) = client_of_full(&stickpin, &red).await;
        let second = client_at(&stickpin, "green").await;
        green.hold();
        let also_occupies = ask(second, "/occupies");
        green.until_in_flight(1).await;
        let pin = client.cookies.value("stickpin").map(str::to_owned);
        let (client, refused) = ask(client, "/").await.unwrap();
        assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (503, "2"), "{sessions}");
        assert_placed(&stickpin, "refused", "queue_timeout", 1).await;
        assert_eq!(client.cookies.value("stickpin").map(str::to_owned), pin);
        // With room again at home, it is served there.
        let waits = ask(client, "/waits");
        until_queued(&stickpin, "red", 1).await;
        red.open();
        assert_eq!(answered(waits).await.1.served_by(), "red");
        green.open();
        answered(occupies).await;
        answered(also_occupies).await;
        assert_at_rest(&stickpin, &[&red, &green]).await;
    }
}

#[tokio::test]
async fn a_full_queue_turns_away_at_once_which_is_said_once_while_it_lasts() {
    let red = Turnstile::holding("red").await;
    let shop = Shop::of([red.yaml("max_requests: 1")]).pool("affinity: off").pool("queue: { length: 2, timeout: 20s }");
    let stickpin = shop.open().await;
    let mut events = Listener::of(&stickpin).await;
    let under_way: Vec<_> = (0..3).map(|n| ask(stickpin.client(), &format!("/{n}"))).collect();
    until_queued_for_any(&stickpin, 2).await;
    assert_eq!(stickpin.admin().metric("stickpin_pool_queued", &["pool=\"shop\""]).await, 2.0);
    for _ in 0..3 {
        let refused = stickpin.client().get("/").await.unwrap();
        assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (503, "20"));
    }
    assert_placed(&stickpin, "refused", "queue_full", 3).await;
    let event = events.next("fullness").await;
    assert_eq!(
        (&event["pool"], &event["bound"], &event["full"]),
        (&json!("shop"), &json!("max_requests"), &json!(true))
    );
    red.open();
    for under_way in under_way {
        answered(under_way).await;
    }
    let event = events.next("fullness").await;
    assert_eq!((&event["bound"], &event["full"]), (&json!("max_requests"), &json!(false)));
    let log = stickpin.stderr();
    assert_eq!(log.matches("as many requests as they may").count(), 1, "{log}");
    assert_eq!(log.matches("room for requests again").count(), 1, "{log}");
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_the_queue_and_nothing_behind() {
    let red = Turnstile::holding("red").await;
    let shop = Shop::of([red.yaml("max_requests: 1")]).pool("affinity: off");
    let stickpin = shop.pool("queue: { timeout: 1000s }").open().await;
    let first = ask(stickpin.client(), "/first");
    red.until_in_flight(1).await;
    let mut gone = Vec::new();
    for n in 1..=3 {
        gone.push(Peer::sending(stickpin.front(), "GET /gone HTTP/1.1\r\nHost: x\r\n\r\n").await);
        until_queued_for_any(&stickpin, n).await;
    }
    let last = ask(stickpin.client(), "/last");
    until_queued_for_any(&stickpin, 4).await;
    gone.pop().expect("three came").reset();
    until_queued_for_any(&stickpin, 3).await;
    drop(gone);
    until_queued_for_any(&stickpin, 1).await;
    red.open();
    answered(first).await;
    answered(last).await;
    assert_eq!(red.arrived(), ["/first", "/last"]);
    assert_at_rest(&stickpin, &[&red]).await;
}

#[tokio::test]
async fn a_reload_that_raises_the_bound_or_lifts_it_serves_those_who_wait() {
    let red = Turnstile::holding("red").await;
    let of = |bound: &str| Shop::of([red.yaml(bound)]).pool("affinity: off").pool("queue: { timeout: 1000s }");
    let stickpin = of("max_requests: 1").open().await;
    let under_way: Vec<_> = (0..6).map(|n| ask(stickpin.client(), &format!("/{n}"))).collect();
    until_queued_for_any(&stickpin, 5).await;
    of("max_requests: 3").write_to(&stickpin);
    assert_eq!(stickpin.admin().reload().await.status, 200);
    red.until_in_flight(3).await;
    until_queued_for_any(&stickpin, 3).await;
    of("").write_to(&stickpin);
    assert_eq!(stickpin.admin().reload().await.status, 200);
    red.until_in_flight(6).await;
    red.open();
    for under_way in under_way {
        answered(under_way).await;
    }
    assert_at_rest(&stickpin, &[&red]).await;
}

#[tokio::test]
async fn a_home_that_dies_or_is_disabled_while_it_is_waited_for_is_left() {
    for sessions in ["local", "external"] {
        let (mut red, green) = two().await;
        let shop = shop_of(&red, &green).probed(QUICK).pool(&format!("sessions: {sessions}"));
        let stickpin = shop.pool("rehome: { when: { busy: wait } }").pool("queue: { timeout: 1000s }").open().await;
        let mut admin = stickpin.admin();
        let (client, occupies) = client_of_full(&stickpin, &red).await;
        let waits = ask(client, "/waits");
        until_queued(&stickpin, "red", 1).await;
        admin.set_state("shop", "red", "disabled").await;
        let (client, reply) = answered(waits).await;
        assert_eq!(reply.served_by(), "green");
        let placement = if sessions == "local" { "detour" } else { "rehomed" };
        assert_placed(&stickpin, placement, "disabled", 1).await;
        drop(client);
        red.open();
        answered(occupies).await;
        admin.set_state("shop", "red", "enabled").await;

        let (client, occupies) = client_of_full(&stickpin, &red).await;
        let waits = ask(client, "/waits");
        until_queued(&stickpin, "red", 1).await;
        red.die().await;
        assert_eq!(answered(waits).await.1.served_by(), "green", "{sessions}");
        assert_eq!(answered(occupies).await.1.served_by(), "green", "it is safe to repeat");
        assert_at_rest(&stickpin, &[&red, &green]).await;
    }
}

#[tokio::test]
async fn those_who_wait_are_served_by_a_home_that_is_drained() {
    let (red, green) = two().await;
    let shop = shop_of(&red, &green).pool("queue: { timeout: 1000s }");
    let stickpin = shop.open().await;
    let (client, occupies) = client_of_full(&stickpin, &red).await;
    let waits = ask(client, "/waits");
    until_queued(&stickpin, "red", 1).await;
    stickpin.admin().set_state("shop", "red", "draining").await;
    red.let_go(1);
    answered(occupies).await;
    red.until_in_flight(1).await;

    red.open();
    assert_eq!(answered(waits).await.1.served_by(), "red");
    assert_at_rest(&stickpin, &[&red, &green]).await;
}

#[tokio::test]
async fn a_request_that_waits_at_a_home_which_a_reload_removes_is_served_there() {
    let (red, green) = two().await;
    let stickpin = shop_of(&red, &green).pool("queue: { timeout: 1000s }").open().await;
    let (client, occupies) = client_of_full(&stickpin, &red).await;
    let waits = ask(client, "/waits");
    until_queued(&stickpin, "red", 1).await;
    Shop::of([green.yaml("max_requests: 1")]).write_to(&stickpin);
    assert_eq!(stickpin.admin().reload().await.status, 200);
    red.open();
    answered(occupies).await;
    assert_eq!(answered(waits).await.1.served_by(), "red");
}

#[tokio::test]
async fn who_waits_for_any_goes_to_a_backend_that_may_serve_again() {
    let (red, green) = two().await;
    let stickpin = shop_of(&red, &green).pool("affinity: off").pool("queue: { timeout: 1000s }").open().await;
    let mut admin = stickpin.admin();
    admin.set_state("shop", "green", "disabled").await;
    red.hold();
    let occupies = ask(stickpin.client(), "/occupies");
    red.until_in_flight(1).await;
    let waits = ask(stickpin.client(), "/waits");
    until_queued_for_any(&stickpin, 1).await;
    admin.set_state("shop", "green", "enabled").await;
    assert_eq!(answered(waits).await.1.served_by(), "green");

    // When nobody may serve any more, waiting is of no use.
    admin.set_state("shop", "green", "disabled").await;
    let waits = ask(stickpin.client(), "/waits");
    until_queued_for_any(&stickpin, 1).await;
    admin.set_state("shop", "red", "disabled").await;
    assert_eq!(waits.await.unwrap().1.status, 503);
    red.open();
    answered(occupies).await;
    assert_at_rest(&stickpin, &[&red, &green]).await;
}

#[tokio::test]
async fn explain_says_that_a_request_would_wait() {
    let (red, green) = two().await;
    let stickpin = shop_of(&red, &green).open().await;
    let (client, occupies) = client_of_full(&stickpin, &red).await;
    let cookie = client.cookies.value("stickpin").expect("it is pinned");
    let explained = stickpin.admin().post("/api/v1/explain", &json!({ "pool": "shop", "cookie": cookie })).await.json();
    assert_eq!(explained["pin"]["home_state"], "is busy");
    let summary = explained["summary"].as_str().unwrap_or_default().to_owned();
    assert!(summary.contains("waits up to 5s in the queue of red, which has 100 places"), "{summary}");

    let second = client_at(&stickpin, "green").await;
    green.hold();
    let also_occupies = ask(second, "/occupies");
    green.until_in_flight(1).await;
    let explained = stickpin.admin().post("/api/v1/explain", &json!({ "pool": "shop" })).await.json();
    let summary = explained["summary"].as_str().unwrap_or_default().to_owned();
    assert!(summary.contains("in the queue of the pool"), "{summary}");
    red.open();
    green.open();
    answered(occupies).await;
    answered(also_occupies).await;
}
