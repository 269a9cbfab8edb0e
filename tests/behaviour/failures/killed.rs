//! `SIGKILL`: the process is gone, and with it what only it had in memory.

use super::{KINDS, Scene};
use crate::crowd::{Crowd, Customer, customers};
use crate::shop::until_gone;
use crate::verdict::{assert_lost_once, assert_moved_with_its_session, assert_nothing_failed, parted};

/// `local`: exactly its sessions are lost, once each, and that is told. Otherwise nobody loses anything.
#[tokio::test]
async fn a_killed_backend_costs_what_only_it_had() {
    for kind in KINDS {
        let mut scene = Scene::open(kind, |shop| shop).await;
        let crowd = Crowd::start(customers(&scene.stickpin, 45).await);
        crowd.rounds(3).await;
        scene.backends[0].kill();
        until_gone(&mut scene.admin, "red").await;
        crowd.rounds(5).await;
        scene.backends[0].restart().unwrap();
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
}
