//! Up for a second, down for a second, over and over.

use std::time::Duration;

use tokio::time::sleep;

use super::{KINDS, Scene};
use crate::crowd::{Crowd, customers};

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
    scene.assert_cost_what_only_the_first_had(kind, crowd.stop().await).await;
}
