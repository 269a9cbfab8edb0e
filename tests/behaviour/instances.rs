//! One backend, several lives: who still has a session, who has lost it, and who is told.

use crate::shop::{IMPATIENT, Shop, assert_placed, client_at, is_logged_in_at, log_in, told, until_gone, who_am_i};
use crate::support::{Backend, BackendProcess, until};

/// Probes that read which life answers.
const NAMED: &str = "{ http: { path: /health, interval: 100ms, suspect_interval: 50ms, timeout: 5s, \
                     instance_header: X-Instance, unhealthy_after: 1000 } }";

#[tokio::test]
async fn a_client_that_was_away_while_its_home_was_killed_and_came_back_is_told_once_and_stays() {
    let (mut home, other) = (BackendProcess::start("home"), Backend::start("other"));
    let stickpin = Shop::of([home.yaml(), other.yaml()]).open().await;
    let (mut client, mut admin) = (client_at(&stickpin, "home").await, stickpin.admin());
    // The pin is sealed in one second and the process is born in a later one.
    let sealed_in = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();

    home.kill();
    until_gone(&mut admin, "home").await;
    until("the next second", async || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        if now > sealed_in { Ok(()) } else { Err(now) }
    })
    .await;
    home.restart().unwrap();
    admin.until_health("shop", "home", "healthy").await;

    let back = who_am_i(&mut client).await;
    assert_eq!(back.served_by(), "home");
    assert_eq!(told(&back), ["", "", "gone"].map(str::to_owned));
    let again = who_am_i(&mut client).await;
    assert_eq!((again.served_by(), told(&again)), ("home".into(), [""; 3].map(str::to_owned)));
    assert_eq!(admin.metric("stickpin_sessions_lost_total", &[]).await, 1.0);
    assert_placed(&stickpin, "rehomed", "", 0).await;
}

#[tokio::test]
async fn a_restart_that_no_probe_saw_is_known_by_the_instance_header() {
    let (mut home, other) = (BackendProcess::start("home"), Backend::start("other"));
    let stickpin = Shop::of([home.yaml(), other.yaml()]).probed(NAMED).open().await;
    let (mut client, mut admin) = (client_at(&stickpin, "home").await, stickpin.admin());

    // With these thresholds the process is never known to be gone.
    home.kill();
    home.restart().unwrap();
    until("the new life is known", async || {
        let reply = who_am_i(&mut client).await;
        if told(&reply)[2] == "gone" { Ok(()) } else { Err(reply.text()) }
    })
    .await;
    let again = who_am_i(&mut client).await;
    assert_eq!((again.served_by(), told(&again)), ("home".into(), [""; 3].map(str::to_owned)));
    assert_eq!(admin.metric("stickpin_sessions_lost_total", &[]).await, 1.0);
}

#[tokio::test]
async fn a_client_that_logs_in_anew_on_its_detour_stays_there() {
    let (home, other) = (BackendProcess::start("home"), Backend::start("other"));
    let shop = Shop::of([home.yaml(), other.yaml()]).pool("session_cookie: APPSESSION").probed(IMPATIENT);
    let stickpin = shop.open().await;
    let (mut moves, mut waits) = (client_at(&stickpin, "home").await, client_at(&stickpin, "home").await);
    let mut admin = stickpin.admin();

    home.pause().await.unwrap();
    admin.until_health("shop", "home", "unhealthy").await;
    assert_eq!(who_am_i(&mut moves).await.served_by(), "other");
    assert_eq!(who_am_i(&mut waits).await.served_by(), "other");
    assert_eq!(log_in(&mut moves).await, "other");
    assert_placed(&stickpin, "rehomed", "new_session", 1).await;

    home.resume().unwrap();
    admin.until_health("shop", "home", "healthy").await;
    assert!(is_logged_in_at(&who_am_i(&mut moves).await, "other"), "its session is there");
    assert!(is_logged_in_at(&who_am_i(&mut waits).await, "home"), "its session is still here");
}

#[tokio::test]
async fn a_home_that_is_out_of_reach_is_remembered_for_hold_home_and_no_longer() {
    let (home, other) = (BackendProcess::start("home"), Backend::start("other"));
    let shop = Shop::of([home.yaml(), other.yaml()]).pool("rehome: { hold_home: 2s }").probed(IMPATIENT);
    let stickpin = shop.open().await;
    let (mut client, mut admin) = (client_at(&stickpin, "home").await, stickpin.admin());

    home.pause().await.unwrap();
    admin.until_health("shop", "home", "unhealthy").await;
    let moved = until("the home is given up", async || {
        let reply = who_am_i(&mut client).await;
        if told(&reply)[0].is_empty() { Err(reply.text()) } else { Ok(reply) }
    })
    .await;
    assert_eq!(told(&moved), ["home", "hold_over", "hold_over"].map(str::to_owned));
    home.resume().unwrap();
    admin.until_health("shop", "home", "healthy").await;
    assert_eq!(who_am_i(&mut client).await.served_by(), "other", "the pin has moved");
}
