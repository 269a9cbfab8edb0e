//! `SIGSTOP`: connections open, nobody answers, and nothing is lost.

use super::{KINDS, Scene};
use crate::crowd::{Crowd, Customer, customers};
use crate::shop::IMPATIENT;
use crate::verdict::{
    assert_answered, assert_moved_with_its_session, assert_nothing_failed, ends_logged_in_at, parted,
};

/// Whoever was waiting is answered when it goes on. Who comes meanwhile takes a detour and comes home, with `local`
/// sessions, or has moved with its session for good.
#[tokio::test]
async fn a_hung_backend_costs_nobody_anything_but_time() {
    for kind in KINDS {
        let mut scene = Scene::open(kind, |shop| shop.probed(IMPATIENT)).await;
        let waiting = Crowd::start(customers(&scene.stickpin, 30).await);
        waiting.rounds(3).await;
        let later = customers(&scene.stickpin, 30).await;
        scene.backends[0].pause().await.unwrap();
        scene.admin.until_health("shop", "red", "unhealthy").await;
        let later = Crowd::start(later);
        later.rounds(5).await;
        scene.backends[0].resume().unwrap();
        scene.admin.until_health("shop", "red", "healthy").await;
        waiting.rounds(5).await;
        later.rounds(5).await;

        let (waiting, others) = parted(waiting.stop().await, "red");
        let (later, more) = parted(later.stop().await, "red");
        for customers in [&others, &later, &more] {
            assert_nothing_failed(customers);
        }
        match kind {
            // What it did when it went on, as to answer who was waiting, it copies a moment later: who has been sent
            // elsewhere by then may be a click behind.
            "replicated" => assert_answered(&waiting),
            _ => assert_nothing_failed(&waiting),
        }
        others.iter().chain(&more).for_each(Customer::assert_undisturbed);
        for customer in waiting.iter().chain(&later) {
            if kind == "local" {
                assert!(ends_logged_in_at(customer, "red"), "{}: {:?}", customer.user, customer.seen);
                assert!(customer.told().is_empty(), "{}: {:?}", customer.user, customer.told());
            }
        }
        match kind {
            "local" => assert_eq!(scene.rehomes().await, 0),
            _ => later.iter().for_each(assert_moved_with_its_session),
        }
        assert_eq!(scene.sessions_lost().await, 0, "{kind}");
    }
}
