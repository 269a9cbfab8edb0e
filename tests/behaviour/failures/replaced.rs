//! Another server where one was: under another name, or under the same one.

use super::Scene;
use crate::crowd::{Crowd, Customer, customers};
use crate::shop::{Shop, until_gone};
use crate::support::{SessionApp, StickpinProcess};
use crate::verdict::{assert_lost_once, assert_nothing_failed, parted};

/// Probes that read which life answers, and never say that it is over.
const NAMED: &str = "{ http: { path: /health, interval: 100ms, suspect_interval: 50ms, timeout: 5s, \
                     instance_header: X-Instance, unhealthy_after: 1000 } }";

/// The pins of `red` name `red`, not its address: they find their heirs, and are told that they lost their home.
#[tokio::test]
async fn a_backend_of_another_name_at_the_same_address_inherits_nobody() {
    let mut scene = Scene::open("local", |shop| shop).await;
    let crowd = Crowd::start(customers(&scene.stickpin, 45).await);
    crowd.rounds(3).await;
    let address = scene.backends[0].address();
    scene.backends[0].kill();
    until_gone(&mut scene.admin, "red").await;
    let violet = SessionApp::start("violet", address).unwrap();
    let violet_line = format!("{{ name: violet, address: \"{address}\" }}");
    let lines = [violet_line, scene.backends[1].yaml(), scene.backends[2].yaml()];
    Shop::of(lines).pool("sessions: local").write_to(&scene.stickpin);
    assert_eq!(scene.admin.reload().await.status, 200);
    scene.admin.until_health("shop", "violet", "healthy").await;
    crowd.rounds(5).await;
    let newcomers = customers(&scene.stickpin, 15).await;

    let everybody = crowd.stop().await;
    assert_nothing_failed(&everybody);
    let (orphans, others) = parted(everybody, "red");
    others.iter().for_each(Customer::assert_undisturbed);
    orphans.iter().for_each(assert_lost_once);
    assert_eq!(scene.sessions_lost().await, orphans.len());
    assert!(newcomers.iter().any(|customer| customer.home == violet.name()), "it serves, too");
}

/// The same, while the old server still runs and its connections are still open: not one request goes to it any more.
#[tokio::test]
async fn whoever_has_lost_its_name_gets_no_request_over_a_connection_that_is_still_open() {
    let mut scene = Scene::open("local", |shop| shop).await;
    let crowd = Crowd::start(customers(&scene.stickpin, 30).await);
    crowd.rounds(3).await;
    let lines = [scene.backends[1].yaml(), scene.backends[2].yaml()];
    Shop::of(lines).pool("sessions: local").write_to(&scene.stickpin);
    assert_eq!(scene.admin.reload().await.status, 200);
    crowd.rounds(1).await;
    let everybody = crowd.stop().await;
    assert_nothing_failed(&everybody);
    let (orphans, others) = parted(everybody, "red");
    others.iter().for_each(Customer::assert_undisturbed);
    for orphan in &orphans {
        assert_lost_once(orphan);
        assert_eq!(orphan.told()[0]["rehome_reason"], "removed");
    }
}

/// Whoever lived there is told once that the session is gone, and stays: it is still its home.
#[tokio::test]
async fn another_instance_under_the_same_name_keeps_the_clients_and_says_that_their_sessions_are_lost() {
    let mut scene = Scene::open("local", |shop| shop.probed(NAMED)).await;
    let crowd = Crowd::start(customers(&scene.stickpin, 45).await);
    crowd.rounds(3).await;
    let dead = &mut scene.backends[0];
    dead.kill();
    dead.restart().unwrap();
    until_told(&scene.stickpin).await;
    crowd.rounds(5).await;

    let everybody = crowd.stop().await;
    assert_nothing_failed(&everybody);
    let (orphans, others) = parted(everybody, "red");
    others.iter().for_each(Customer::assert_undisturbed);
    for orphan in &orphans {
        assert_eq!(orphan.path().last(), Some(&"red"), "{}", orphan.user);
        let lost = |seen: &&crate::crowd::Seen| seen.answer().is_some_and(|answer| answer["session_lost"] == "gone");
        assert_eq!(orphan.seen.iter().filter(lost).count(), 1, "{}: {:?}", orphan.user, orphan.seen);
    }
    assert_eq!((scene.rehomes().await, scene.sessions_lost().await), (0, orphans.len()));
}

async fn until_told(stickpin: &StickpinProcess) {
    crate::support::until("the new life is known", async || {
        let log = stickpin.stderr();
        if log.contains("another instance answers") { Ok(()) } else { Err(log) }
    })
    .await;
}
