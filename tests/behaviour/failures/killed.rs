//! `SIGKILL`: the process is gone, and with it what only it had in memory.

use super::{KINDS, Scene};
use crate::crowd::{Crowd, customers};
use crate::shop::until_gone;

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
        scene.assert_cost_what_only_the_first_had(kind, crowd.stop().await).await;
    }
}
