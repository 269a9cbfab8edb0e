//! Up for a second, down for a second, over and over.

use std::time::Duration;

use tokio::time::sleep;

use super::{KINDS, Scene};
use crate::crowd::{Crowd, Customer, customers};
use crate::verdict::{assert_lost_once, assert_moved_with_its_session, assert_nothing_failed, parted};

const TIMES: usize = 3;

/// Its first death moves its clients, and whoever has moved never notices the others: nobody goes back to it.
#[tokio::test]
async fn a_flapping_backend_costs_its_clients_one_move() {
    let [local, replicated, backup] = KINDS;
    tokio::join!(flaps(local), flaps(replicated), flaps(backup));
}

async fn flaps(kind: &str) {
    let mut scene = Scene::open(kind, |shop| shop).await;
    let crowd = Crowd::start(customers(&scene.stickpin, 30).await);
    crowd.rounds(3).await;
    for _ in 0..TIMES {
        scene.backends[0].kill();
        sleep(Duration::from_secs(1)).await;
        scene.backends[0].restart().unwrap();
        sleep(Duration::from_secs(1)).await;
    }
    scene.admin.until_health("shop", "red", "healthy").await;
    crowd.rounds(5).await;

    let everybody = crowd.stop().await;
    assert_nothing_failed(&everybody);
    let (orphans, others) = parted(everybody, "red");
    others.iter().for_each(Customer::assert_undisturbed);
    let is_local = kind == "local";
    orphans.iter().for_each(if is_local { assert_lost_once } else { assert_moved_with_its_session });
    assert_eq!(scene.sessions_lost().await, if is_local { orphans.len() } else { 0 }, "{kind}");
    assert_eq!(scene.rehomes().await, orphans.len(), "{kind}");
}
