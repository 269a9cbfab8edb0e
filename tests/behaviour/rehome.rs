//! What moves a pinned client and what does not: the home is slow, refuses, hangs, dies, is disabled, is removed.

use std::fs;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::crowd::{Crowd, Customer, customers};
use crate::gate::Gate;
use crate::shop::{
    IMPATIENT, SUSPECTING, Shop, assert_placed, client_at, is_logged_in_at, log_in, processes, told, until_gone,
    weighing, who_am_i,
};
use crate::support::{Backend, BackendProcess, until};

#[tokio::test]
async fn a_refused_connect_moves_nobody() {
    let (app, other) = (Backend::start("app"), Backend::start("other"));
    let mut gate = Gate::before(app.address()).await;
    let stickpin = Shop::of([gate.yaml("app"), other.yaml()]).probed(SUSPECTING).open().await;
    let mut client = client_at(&stickpin, "app").await;
    let pin = client.cookies.value("stickpin").unwrap().to_owned();

    gate.shut().await;
    for _ in 0..3 {
        let away = who_am_i(&mut client).await;
        assert_eq!((away.served_by(), told(&away)), ("other".into(), [""; 3].map(str::to_owned)));
        assert_eq!(away.header("set-cookie"), "", "the pin is as it was");
    }
    gate.open().await;
    assert!(is_logged_in_at(&who_am_i(&mut client).await, "app"), "even before a probe says that it is well");
    assert_eq!(client.cookies.value("stickpin"), Some(&*pin));
    assert_placed(&stickpin, "detour", "connect_failed", 3).await;
    assert_placed(&stickpin, "rehomed", "", 0).await;
}

#[tokio::test]
async fn a_pause_of_200_ms_moves_nobody() {
    let backends = processes(["red", "green", "blue"]);
    let stickpin = Shop::of(backends.iter().map(|backend| backend.yaml())).open().await;
    let crowd = Crowd::start(customers(&stickpin, 60).await);
    crowd.rounds(3).await;
    backends[1].pause().await.unwrap();
    sleep(Duration::from_millis(200)).await;
    backends[1].resume().unwrap();
    crowd.rounds(3).await;
    let customers = crowd.stop().await;
    assert!(customers.iter().any(|customer| customer.home == "green"));
    customers.iter().for_each(Customer::assert_undisturbed);
    assert_eq!(stickpin.admin().metric("stickpin_rehomes_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_local_home_that_hangs_gets_its_clients_back_still_logged_in() {
    let (home, other) = (BackendProcess::start("home"), Backend::start("other"));
    let stickpin = Shop::of([home.yaml(), other.yaml()]).probed(IMPATIENT).open().await;
    let (mut client, mut admin) = (client_at(&stickpin, "home").await, stickpin.admin());

    home.pause().await.unwrap();
    admin.until_health("shop", "home", "unhealthy").await;
    assert_eq!(admin.backend("shop", "home").await["memory"], "may_hold");
    for _ in 0..3 {
        let away = who_am_i(&mut client).await;
        assert_eq!((away.served_by(), told(&away)), ("other".into(), [""; 3].map(str::to_owned)));
    }
    home.resume().unwrap();
    admin.until_health("shop", "home", "healthy").await;
    assert!(is_logged_in_at(&who_am_i(&mut client).await, "home"));
    assert_placed(&stickpin, "detour", "unreachable", 3).await;
    assert_placed(&stickpin, "rehomed", "", 0).await;
}

#[tokio::test]
async fn a_local_home_that_hung_and_then_died_has_lost_its_sessions() {
    let (mut home, other) = (BackendProcess::start("home"), Backend::start("other"));
    let stickpin = Shop::of([home.yaml(), other.yaml()]).probed(IMPATIENT).open().await;
    let (mut client, mut admin) = (client_at(&stickpin, "home").await, stickpin.admin());
    home.pause().await.unwrap();
    admin.until_health("shop", "home", "unhealthy").await;
    assert_eq!(told(&who_am_i(&mut client).await), [""; 3]);
    home.kill();
    until_gone(&mut admin, "home").await;
    assert_eq!(told(&who_am_i(&mut client).await), ["home", "gone", "gone"]);
    assert_eq!(told(&who_am_i(&mut client).await), [""; 3]);
}

#[tokio::test]
async fn an_external_session_takes_a_detour_while_its_home_is_suspect() {
    let (app, other) = (Backend::start("app"), Backend::start("other"));
    let mut gate = Gate::before(app.address()).await;
    let shop = Shop::of([gate.yaml("app"), other.yaml()]).probed(SUSPECTING).pool("sessions: external");
    let stickpin = shop.open().await;
    let (mut client, mut admin) = (client_at(&stickpin, "app").await, stickpin.admin());

    gate.shut().await;
    admin.until_health("shop", "app", "suspect").await;
    assert_eq!(who_am_i(&mut client).await.served_by(), "other");
    assert_placed(&stickpin, "detour", "suspect", 1).await;
    gate.open().await;
    admin.until_health("shop", "app", "healthy").await;
    assert!(is_logged_in_at(&who_am_i(&mut client).await, "app"));
    assert_placed(&stickpin, "rehomed", "", 0).await;
}

#[tokio::test]
async fn an_external_session_is_rehomed_without_a_loss_when_its_home_hangs_or_dies() {
    for (kills, reason) in [(false, "unreachable"), (true, "gone")] {
        let (mut home, other) = (BackendProcess::start("home"), Backend::start("other"));
        let shop = Shop::of([home.yaml(), other.yaml()]).probed(IMPATIENT).pool("sessions: external");
        let stickpin = shop.open().await;
        let (mut client, mut admin) = (client_at(&stickpin, "home").await, stickpin.admin());
        if kills {
            home.kill();
            until_gone(&mut admin, "home").await;
        } else {
            home.pause().await.unwrap();
            admin.until_health("shop", "home", "unhealthy").await;
        }
        assert_eq!(told(&who_am_i(&mut client).await), ["home", reason, ""]);
        if kills {
            home.restart().unwrap();
        } else {
            home.resume().unwrap();
        }
        admin.until_health("shop", "home", "healthy").await;
        let after = who_am_i(&mut client).await;
        assert_eq!((after.served_by(), told(&after)), ("other".into(), [""; 3].map(str::to_owned)), "{reason}");
        assert_eq!(admin.metric("stickpin_sessions_lost_total", &[]).await, 0.0);
    }
}

/// A blip of the only backend must not cost requests that it could serve.
#[tokio::test]
async fn a_suspect_home_serves_its_clients_when_nobody_else_can() {
    let app = Backend::start("app");
    let mut gate = Gate::before(app.address()).await;
    let health = "{ http: { path: /health, interval: 60s, suspect_interval: 60s, timeout: 5s } }";
    let stickpin = Shop::of([gate.yaml("app")]).probed(health).pool("sessions: external").open().await;
    let (mut client, mut admin) = (client_at(&stickpin, "app").await, stickpin.admin());
    gate.shut().await;
    assert_eq!(client.get("/whoami").await.unwrap().status, 503);
    admin.until_health("shop", "app", "suspect").await;
    gate.open().await;
    assert!(is_logged_in_at(&who_am_i(&mut client).await, "app"));
}

#[tokio::test]
async fn the_policy_detour_never_moves_a_pin() {
    let mut backends = processes(["red", "green", "blue"]);
    let shop = Shop::of(backends.iter().map(|it| it.yaml())).pool("rehome: { when_unavailable: detour }");
    let stickpin = shop.open().await;
    let (mut client, mut admin) = (client_at(&stickpin, "green").await, stickpin.admin());
    backends[1].kill();
    admin.until_health("shop", "green", "unhealthy").await;
    let away = who_am_i(&mut client).await.served_by();
    for _ in 0..5 {
        let reply = who_am_i(&mut client).await;
        assert_eq!((reply.served_by(), told(&reply)), (away.clone(), [""; 3].map(str::to_owned)), "one heir");
    }
    backends[1].restart().unwrap();
    admin.until_health("shop", "green", "healthy").await;
    assert_eq!(who_am_i(&mut client).await.served_by(), "green");
    assert_eq!(admin.metric("stickpin_rehomes_total", &[]).await, 0.0);
}

#[tokio::test]
async fn the_policy_refuse_answers_503_until_the_home_is_back() {
    let (mut home, other) = (BackendProcess::start("home"), Backend::start("other"));
    let shop = Shop::of([home.yaml(), other.yaml()]).pool("rehome: { when_unavailable: refuse }");
    let stickpin = shop.open().await;
    let (mut client, mut admin) = (client_at(&stickpin, "home").await, stickpin.admin());
    home.kill();
    admin.until_health("shop", "home", "unhealthy").await;
    let refused = client.get("/whoami").await.unwrap();
    assert_eq!((refused.status.as_u16(), refused.header("set-cookie")), (503, ""));
    assert!(!refused.text().contains("home") && !refused.text().contains("127.0.0.1"), "{}", refused.text());
    assert_placed(&stickpin, "refused", "", 1).await;
    assert_eq!(log_in(&mut stickpin.client()).await, "other", "who has no home is not refused");
    home.restart().unwrap();
    admin.until_health("shop", "home", "healthy").await;
    assert_eq!(who_am_i(&mut client).await.served_by(), "home");
}

#[tokio::test]
async fn a_request_waits_for_its_home() {
    for policy in ["rehome", "refuse"] {
        let (app, other) = (Backend::start("app"), Backend::start("other"));
        let mut gate = Gate::before(app.address()).await;
        let keys = format!("rehome: {{ when_unavailable: {policy}, wait: 15s }}");
        let stickpin = Shop::of([gate.yaml("app"), other.yaml()]).probed(SUSPECTING).pool(&keys).open().await;
        let (mut client, mut admin) = (client_at(&stickpin, "app").await, stickpin.admin());
        gate.shut().await;
        let waiting = tokio::spawn(async move { who_am_i(&mut client).await });
        admin.until_health("shop", "app", "suspect").await;
        until("it has tried more than once", async || match admin.metric("stickpin_retries_total", &[]).await {
            retries if retries >= 2.0 => Ok(()),
            retries => Err(retries),
        })
        .await;
        gate.open().await;
        assert!(is_logged_in_at(&waiting.await.unwrap(), "app"), "{policy}");
        assert_placed(&stickpin, "kept", "", 1).await;
        assert_placed(&stickpin, "detour", "", 0).await;
    }
}

#[tokio::test]
async fn a_request_waits_no_longer_than_it_may() {
    let (app, other) = (Backend::start("app"), Backend::start("other"));
    let mut gate = Gate::before(app.address()).await;
    let shop = Shop::of([gate.yaml("app"), other.yaml()]).probed(SUSPECTING);
    let stickpin = shop.pool("rehome: { wait: 300ms }").open().await;
    let mut client = client_at(&stickpin, "app").await;
    gate.shut().await;
    let begun = Instant::now();
    assert_eq!(who_am_i(&mut client).await.served_by(), "other");
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    assert_placed(&stickpin, "detour", "connect_failed", 1).await;
}

#[tokio::test]
async fn clients_of_a_disabled_home_take_detours_and_come_back_logged_in() {
    let (home, other) = (Backend::start("home"), Backend::start("other"));
    let stickpin = Shop::of([home.yaml(), other.yaml()]).open().await;
    let (mut client, mut admin) = (client_at(&stickpin, "home").await, stickpin.admin());
    admin.set_state("shop", "home", "disabled").await;
    let before = home.requests();
    assert_eq!(told(&who_am_i(&mut client).await), [""; 3]);
    assert_eq!(log_in(&mut stickpin.client()).await, "other");
    assert_eq!(home.requests(), before, "disabled: nobody");
    assert_placed(&stickpin, "detour", "disabled", 1).await;
    admin.set_state("shop", "home", "enabled").await;
    assert!(is_logged_in_at(&who_am_i(&mut client).await, "home"));
}

#[tokio::test]
async fn a_pool_overrides_single_cells_of_the_table() {
    let (home, other) = (Backend::start("home"), Backend::start("other"));
    let when = "rehome: { when: { disabled: rehome, draining: rehome, suspect: detour } }";
    let stickpin = Shop::of([home.yaml(), other.yaml()]).pool(when).open().await;
    let (mut disabled, mut drained) = (client_at(&stickpin, "home").await, client_at(&stickpin, "other").await);
    let mut admin = stickpin.admin();
    admin.set_state("shop", "home", "disabled").await;
    assert_eq!(told(&who_am_i(&mut disabled).await), ["home", "disabled", "disabled"].map(str::to_owned));
    admin.set_state("shop", "home", "enabled").await;
    assert_eq!(who_am_i(&mut disabled).await.served_by(), "other", "the pin has moved, though its sessions are local");

    let path = "/api/v1/pools/shop/backends/other/state";
    let order = serde_json::json!({ "state": "draining", "pace": "100%/s" });
    assert_eq!(admin.put(path, &order).await.status, 200);
    let moved = until("its turn has come", async || {
        let reply = who_am_i(&mut drained).await;
        if reply.served_by() == "home" { Ok(reply) } else { Err(reply.text()) }
    })
    .await;
    assert_eq!(told(&moved), ["other", "drained", "drained"].map(str::to_owned));
}

#[tokio::test]
async fn external_sessions_leave_a_disabled_home_for_good() {
    let (home, other) = (Backend::start("home"), Backend::start("other"));
    let stickpin = Shop::of([home.yaml(), other.yaml()]).pool("sessions: external").open().await;
    let (mut client, mut admin) = (client_at(&stickpin, "home").await, stickpin.admin());
    admin.set_state("shop", "home", "disabled").await;
    assert_eq!(told(&who_am_i(&mut client).await), ["home", "disabled", ""]);
    admin.set_state("shop", "home", "enabled").await;
    assert_eq!(who_am_i(&mut client).await.served_by(), "other");
}

#[tokio::test]
async fn weight_0_keeps_its_clients_and_gets_no_new_ones() {
    let (home, other) = (Backend::start("home"), Backend::start("other"));
    let stickpin = Shop::of([home.yaml(), other.yaml()]).open().await;
    let mut client = client_at(&stickpin, "home").await;
    Shop::of([weighing("home", home.address(), 0), other.yaml()]).write_to(&stickpin);
    assert_eq!(stickpin.admin().reload().await.status, 200);
    for _ in 0..20 {
        assert_eq!(log_in(&mut stickpin.client()).await, "other");
        assert!(is_logged_in_at(&who_am_i(&mut client).await, "home"));
    }
}

#[tokio::test]
async fn replicas_with_the_same_keys_name_the_same_heirs() {
    let mut backends = processes(["red", "green", "blue", "black"]);
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("cookie.keys");
    fs::write(&keys, "00112233445566778899aabbccddeeff\n").unwrap();
    let shop = Shop::of(backends.iter().map(|it| it.yaml())).top(&format!("cookie_keys_file: {}", keys.display()));
    let (one, other) = (shop.open().await, shop.open().await);
    let everybody = customers(&one, 60).await;
    backends[0].kill();
    for stickpin in [&one, &other] {
        until_gone(&mut stickpin.admin(), "red").await;
    }
    let mut heirs = Vec::new();
    for customer in everybody.into_iter().filter(|customer| customer.home == "red") {
        let mut elsewhere = other.client();
        elsewhere.cookies = customer.client.cookies.clone();
        let mut here = customer.client;
        let (here, elsewhere) = (who_am_i(&mut here).await, who_am_i(&mut elsewhere).await);
        assert_eq!(here.field("rehomed_from"), "red");
        assert_eq!(here.served_by(), elsewhere.served_by());
        heirs.push(here.served_by());
    }
    heirs.sort();
    heirs.dedup();
    assert!(heirs.len() > 1, "one heir would be a coincidence: {heirs:?}");
}
