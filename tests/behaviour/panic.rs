//! Panic: most backends are unhealthy. New clients are spread as if all were well, pinned ones keep living homes.

use std::collections::HashSet;

use http::StatusCode;
use serde_json::json;

use crate::events::Listener;
use crate::shop::{Shop, client_at, is_logged_in_at, log_in, processes, until_gone, who_am_i};
use crate::support::{Admin, Backend, StickpinProcess, until};

const NAMES: [&str; 4] = ["one", "two", "three", "four"];

async fn until_panicking(admin: &mut Admin, panicking: bool) {
    until(&format!("panicking: {panicking}"), async || {
        let view = admin.get("/api/v1/pools/shop").await.json();
        if view["panicking"] == panicking { Ok(()) } else { Err(view) }
    })
    .await;
    let metric = admin.metric("stickpin_pool_panicking", &["pool=\"shop\""]).await;
    assert_eq!(metric, f64::from(u8::from(panicking)));
}

async fn arrivals(stickpin: &StickpinProcess, count: usize) -> HashSet<String> {
    let mut seen = HashSet::new();
    for _ in 0..count {
        seen.insert(log_in(&mut stickpin.client()).await);
    }
    seen
}

async fn answer_health(backends: &[Backend], admin: &mut Admin, status: StatusCode) {
    let health = if status.is_success() { "healthy" } else { "unhealthy" };
    for backend in backends {
        backend.answer_health_with(status);
        admin.until_health("shop", backend.name(), health).await;
    }
}

#[tokio::test]
async fn when_few_are_left_new_clients_go_everywhere_and_pinned_ones_to_the_living() {
    let backends = NAMES.map(Backend::start);
    let stickpin = Shop::of(backends.iter().map(Backend::yaml)).open().await;
    let (mut admin, mut events) = (stickpin.admin(), Listener::of(&stickpin).await);
    let (mut at_one, mut at_two) = (client_at(&stickpin, "one").await, client_at(&stickpin, "two").await);
    until_panicking(&mut admin, false).await;

    answer_health(&backends[1..], &mut admin, StatusCode::SERVICE_UNAVAILABLE).await;
    until_panicking(&mut admin, true).await;
    let event = events.next("panic").await;
    assert_eq!((&event["pool"], &event["panicking"]), (&json!("shop"), &json!(true)));
    assert_eq!(arrivals(&stickpin, 60).await, NAMES.map(str::to_owned).into());
    assert!(is_logged_in_at(&who_am_i(&mut at_one).await, "one"));
    assert_eq!(who_am_i(&mut at_two).await.served_by(), "one", "its home is unhealthy, and its heir is not");
    // Whoever came meanwhile, and was served, stays where its session is. Pins tell their age in whole seconds.
    until("the outage is two seconds old", async || {
        let view = admin.backend("shop", "three").await;
        if view["changed_seconds_ago"].as_u64() >= Some(2) { Ok(()) } else { Err(view) }
    })
    .await;
    let mut newcomer = client_at(&stickpin, "three").await;
    for _ in 0..3 {
        assert!(is_logged_in_at(&who_am_i(&mut newcomer).await, "three"));
    }

    answer_health(&backends[1..2], &mut admin, StatusCode::OK).await;
    until_panicking(&mut admin, false).await;
    assert_eq!(events.next("panic").await["panicking"], false);
    assert_eq!(arrivals(&stickpin, 30).await, ["one", "two"].map(str::to_owned).into());
    assert!(is_logged_in_at(&who_am_i(&mut at_two).await, "two"), "home again, still logged in");
    let log = stickpin.stderr();
    assert_eq!(log.matches("panicking: health is ignored").count(), 1, "{log}");
    assert_eq!(log.matches("no longer panicking").count(), 1, "{log}");
}

#[tokio::test]
async fn a_probe_that_asks_for_the_wrong_thing_everywhere_does_not_end_the_service() {
    let backends = NAMES.map(Backend::start);
    let shop = Shop::of(backends.iter().map(Backend::yaml));
    let stickpin = shop.open().await;
    let mut admin = stickpin.admin();
    let mut client = client_at(&stickpin, "two").await;
    answer_health(&backends, &mut admin, StatusCode::NOT_FOUND).await;
    until_panicking(&mut admin, true).await;
    assert_eq!(arrivals(&stickpin, 60).await, NAMES.map(str::to_owned).into());
    assert!(is_logged_in_at(&who_am_i(&mut client).await, "two"));

    shop.pool("panic_below: 0%").write_to(&stickpin);
    assert_eq!(admin.reload().await.status, 200);
    until_panicking(&mut admin, false).await;
    assert_eq!(stickpin.client().get("/whoami").await.unwrap().status, 503);
    assert_eq!(client.get("/whoami").await.unwrap().status, 503);
}

#[tokio::test]
async fn the_dead_are_not_tried_however_few_are_left() {
    let mut backends = processes(NAMES);
    let stickpin = Shop::of(backends.iter().map(|backend| backend.yaml())).open().await;
    let mut admin = stickpin.admin();
    for backend in &mut backends[1..] {
        backend.kill();
    }
    for name in &NAMES[1..] {
        until_gone(&mut admin, name).await;
    }
    until_panicking(&mut admin, true).await;
    assert_eq!(arrivals(&stickpin, 30).await, ["one".to_owned()].into());
    assert_eq!(admin.metric("stickpin_retries_total", &[]).await, 0.0, "nobody had to find out");

    backends[0].kill();
    until_gone(&mut admin, "one").await;
    assert_eq!(stickpin.client().get("/whoami").await.unwrap().status, 503);
    backends[3].restart().unwrap();
    admin.until_health("shop", "four", "healthy").await;
    assert_eq!(log_in(&mut stickpin.client()).await, "four");
}
