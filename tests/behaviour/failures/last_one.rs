//! All but one dead, and all dead.

use std::time::Duration;

use tokio::time::Instant;

use super::Scene;
use crate::crowd::{Crowd, Customer, customers};
use crate::shop::{client_at, log_in, until_gone};
use crate::support::until;
use crate::verdict::{assert_lost_once, assert_moved_with_its_session, assert_nothing_failed};

/// What a busy machine may add to a time that is kept otherwise: so many times as long.
const SLACK: u32 = 3;

#[tokio::test]
async fn the_last_backend_serves_everybody() {
    for kind in ["local", "replicated"] {
        let mut scene = Scene::open(kind, |shop| shop).await;
        let crowd = Crowd::start(customers(&scene.stickpin, 45).await);
        crowd.rounds(3).await;
        for dead in &mut scene.backends[..2] {
            dead.kill();
        }
        until_gone(&mut scene.admin, "red").await;
        until_gone(&mut scene.admin, "green").await;
        crowd.rounds(5).await;

        let everybody = crowd.stop().await;
        assert_nothing_failed(&everybody);
        let (others, orphans): (Vec<_>, Vec<_>) = everybody.into_iter().partition(|customer| customer.home == "blue");
        others.iter().for_each(Customer::assert_undisturbed);
        for orphan in &orphans {
            assert_eq!(orphan.path().last(), Some(&"blue"), "{kind} {}", orphan.user);
            if kind == "local" {
                assert_lost_once(orphan);
            } else {
                assert_moved_with_its_session(orphan);
            }
        }
        assert_eq!(scene.sessions_lost().await, if kind == "local" { orphans.len() } else { 0 }, "{kind}");
    }
}

/// 503 at once, with nothing of a pin lost by it, and service again with the first probe that finds somebody.
#[tokio::test]
async fn with_all_backends_dead_the_answer_is_503_and_the_first_that_is_back_serves() {
    let (connect, interval) = (Duration::from_secs(1), Duration::from_secs(1));
    let health = "{ http: { path: /health, interval: 1s, suspect_interval: 50ms } }";
    let mut scene = Scene::open("local", |shop| shop.probed(health).pool("timeouts: { connect: 1s }")).await;
    let mut client = client_at(&scene.stickpin, "red").await;
    for dead in &mut scene.backends {
        dead.kill();
    }
    // Before anything is known of it, and after.
    for is_known in [false, true] {
        if is_known {
            for name in super::NAMES {
                until_gone(&mut scene.admin, name).await;
            }
        }
        for client in [&mut client, &mut scene.stickpin.client()] {
            let begun = Instant::now();
            let reply = client.get("/whoami").await.unwrap();
            assert_eq!((reply.status.as_u16(), reply.header("set-cookie")), (503, ""));
            assert!(begun.elapsed() < connect * SLACK, "{:?}", begun.elapsed());
        }
    }

    scene.backends[1].restart().unwrap();
    let begun = Instant::now();
    until("somebody serves", async || match client.get("/whoami").await.unwrap() {
        reply if reply.status == 200 => Ok(()),
        reply => Err(reply.text()),
    })
    .await;
    assert!(begun.elapsed() < interval * SLACK, "{:?}", begun.elapsed());
    assert_eq!(log_in(&mut scene.stickpin.client()).await, "green");
}
