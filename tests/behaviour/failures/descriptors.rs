//! No file descriptors left.

use std::process::Command;

use super::Scene;
use crate::crowd::{Crowd, Customer, customers};
use crate::shop::log_in;
use crate::support::raw::Peer;
use crate::support::until;
use crate::verdict::{assert_sound, parted};

/// Accepting pauses and says so once, whoever is connected is served, no backend is blamed for it, and all is as before
/// when there are some again.
#[tokio::test]
async fn without_descriptors_accepting_pauses_and_goes_on_later() {
    let mut scene = Scene::open("local", |shop| shop.top("access_log: off")).await;
    let crowd = Crowd::start(customers(&scene.stickpin, 45).await);
    crowd.rounds(3).await;
    limit_open_files(scene.stickpin.pid(), 3);
    // Both workers get some of them.
    let mut waiting = Vec::new();
    for _ in 0..40 {
        waiting.push(Peer::sending(scene.stickpin.front(), "GET /whoami HTTP/1.1\r\nHost: x\r\n\r\n").await);
    }
    until("it says so", async || {
        let log = scene.stickpin.stderr();
        if log.contains("accepting pauses") { Ok(()) } else { Err(log) }
    })
    .await;
    crowd.rounds(10).await;
    assert!(waiting.iter().all(Peer::is_silent), "they wait in the kernel's queue");

    limit_open_files(scene.stickpin.pid(), 1024);
    for client in &mut waiting {
        assert_eq!(client.reply().await.0.status(), 200, "whoever waited is served");
    }
    crowd.rounds(5).await;
    log_in(&mut scene.stickpin.client()).await;

    let everybody = crowd.stop().await;
    assert_sound(&everybody);
    let (red, others) = parted(everybody, "red");
    // A connection that a backend closed meanwhile cannot be replaced: that is an error, and no reason to move.
    for customer in red.iter().chain(&others) {
        let refused = |failure: &&str| failure.contains("503");
        assert!(customer.failures().iter().all(refused), "{}: {:?}", customer.user, customer.failures());
        assert!(customer.told().is_empty(), "{}: {:?}", customer.user, customer.told());
    }
    let undisturbed = red.iter().chain(&others).filter(|customer| customer.failures().is_empty());
    undisturbed.for_each(Customer::assert_undisturbed);
    for name in super::NAMES {
        assert_eq!(scene.admin.backend("shop", name).await["health"], "healthy", "{name}");
    }
    let log = scene.stickpin.stderr();
    assert_eq!(log.matches("accepting pauses").count(), 1, "{log}");
    assert!(!log.contains("unhealthy") && !log.contains("suspect"), "{log}");
}

/// Changes how many files a running process may have open; what it has open, it keeps.
fn limit_open_files(pid: u32, limit: u32) {
    let (pid, limit) = (format!("--pid={pid}"), format!("--nofile={limit}:1024"));
    let status = Command::new("prlimit").args([pid, limit]).status().expect("prlimit of util-linux");
    assert!(status.success(), "{status}");
}
