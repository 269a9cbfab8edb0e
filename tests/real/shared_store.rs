//! Failures of a server whose sessions are in a store that all share: nobody loses anything, and whoever has moved stays.

use crate::crowd::{Crowd, Customer, customers};
use crate::support::{BackendProcess, RedisServer, StickpinProcess};
use crate::verdict::{assert_moved_with_its_session, assert_nothing_failed, parted};

#[tokio::test]
async fn a_killed_backend_costs_nobody_anything() {
    let redis = RedisServer::start().await;
    let arguments = ["--sessions", "external", "--redis", &redis.url()];
    let mut backends = ["red", "green", "blue"].map(|name| BackendProcess::start_with(name, &arguments));
    let lines: Vec<_> = backends.iter().map(BackendProcess::yaml).collect();
    let stickpin = StickpinProcess::start(|front, admin| {
        format!(
            "workers: 2\nlisteners: [{{ address: \"{front}\" }}]\nadmin: {{ address: \"{admin}\" }}\npools:\n  shop:\n    \
             sessions: external\n    \
             health: {{ http: {{ path: /health, interval: 100ms, suspect_interval: 50ms, timeout: 5s }} }}\n    \
             backends: [{}]\n",
            lines.join(", ")
        )
    })
    .await;
    let mut admin = stickpin.admin();
    let crowd = Crowd::start(customers(&stickpin, 45).await);
    crowd.rounds(3).await;
    backends[0].kill();
    admin.until_health("shop", "red", "unhealthy").await;
    crowd.rounds(5).await;
    backends[0].restart().unwrap();
    admin.until_health("shop", "red", "healthy").await;
    crowd.rounds(5).await;

    let everybody = crowd.stop().await;
    assert_nothing_failed(&everybody);
    let (orphans, others) = parted(everybody, "red");
    others.iter().for_each(Customer::assert_undisturbed);
    orphans.iter().for_each(assert_moved_with_its_session);
    assert_eq!(admin.metric("stickpin_sessions_lost_total", &[]).await, 0.0);
}
