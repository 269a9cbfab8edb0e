//! Nobody listens: for a moment, while the process lives, or from the beginning.

use super::{KINDS, NAMES, Scene};
use crate::crowd::{Crowd, Customer, customers};
use crate::gate::Gate;
use crate::shop::{SUSPECTING, Shop, log_in};
use crate::support::{Backend, BackendProcess, ReservedPort, SessionApp, until};
use crate::verdict::{assert_moved_with_its_session, assert_nothing_failed, ends_logged_in_at, parted, was_unknown};

/// `local`: its clients look logged out while it refuses, and are at home again after it. `replicated`: even that is not
/// seen. `backup`: they move with their sessions, for there is one copy only.
#[tokio::test]
async fn a_backend_that_refuses_for_a_moment_loses_nobody() {
    for kind in KINDS {
        let backends = BackendProcess::cluster(NAMES, &["--sessions", kind]);
        let mut gate = Gate::before(backends[0].address()).await;
        let lines = [gate.yaml("red"), backends[1].yaml(), backends[2].yaml()];
        let stickpin = Shop::of(lines).probed(SUSPECTING).pool(&format!("sessions: {kind}")).open().await;
        let admin = stickpin.admin();
        let mut scene = Scene { backends, stickpin, admin };
        let crowd = Crowd::start(customers(&scene.stickpin, 45).await);
        crowd.rounds(3).await;
        gate.shut().await;
        crowd.rounds(10).await;
        gate.open().await;
        scene.admin.until_health("shop", "red", "healthy").await;
        crowd.rounds(5).await;

        let everybody = crowd.stop().await;
        assert_nothing_failed(&everybody);
        let (detoured, others) = parted(everybody, "red");
        others.iter().for_each(Customer::assert_undisturbed);
        for customer in &detoured {
            assert!(customer.path().len() > 1, "{kind} {}: the door was shut", customer.user);
            match kind {
                "backup" => assert_moved_with_its_session(customer),
                _ => assert!(ends_logged_in_at(customer, "red"), "{kind} {}: {:?}", customer.user, customer.seen),
            }
            assert_eq!(was_unknown(customer), kind == "local", "{kind} {}: {:?}", customer.user, customer.seen);
        }
        let moved = if kind == "backup" { detoured.len() } else { 0 };
        assert_eq!((scene.rehomes().await, scene.sessions_lost().await), (moved, 0), "{kind}");
    }
}

#[tokio::test]
async fn a_backend_where_nobody_ever_listened_is_noticed_by_nobody() {
    let (nobody, app) = (ReservedPort::new().unwrap(), Backend::start("app"));
    let shop = Shop::of([format!("{{ name: nobody, address: \"{}\" }}", nobody.address()), app.yaml()]);
    let stickpin = shop.open().await;
    let crowd = Crowd::start(customers(&stickpin, 30).await);
    crowd.rounds(5).await;
    for customer in crowd.stop().await {
        assert_eq!(customer.home, "app");
        customer.assert_undisturbed();
    }
    assert_eq!(stickpin.admin().metric("stickpin_retries_total", &[]).await, 0.0);

    // When somebody does, new clients come.
    let _somebody = SessionApp::start("nobody", nobody.address()).unwrap();
    stickpin.admin().until_health("shop", "nobody", "healthy").await;
    until("it has a client", async || match log_in(&mut stickpin.client()).await {
        home if home == "nobody" => Ok(()),
        home => Err(home),
    })
    .await;
}
