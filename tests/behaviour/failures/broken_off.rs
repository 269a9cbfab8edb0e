//! Half an answer, then a reset, while every probe is answered well.

use super::{KINDS, Scene};
use crate::crowd::{Crowd, Customer, Seen, customers};
use crate::verdict::{assert_moved_with_its_session, assert_nothing_failed, assert_sound, ends_logged_in_at, parted};

/// A third of all requests is tried again, which is more than the budget of 20 % allows for long.
const BUDGET: &str = "retry: { budget: 100% }";

/// Nothing of the reply had begun for the client, so a `GET` is tried elsewhere. `local`: the client looks logged out there,
/// and is at home again when the backend is well. `backup`: it moves with its session.
#[tokio::test]
async fn a_reply_that_breaks_off_within_its_head_fails_no_request() {
    for kind in KINDS {
        let mut scene = Scene::open(kind, |shop| shop.pool(BUDGET)).await;
        let crowd = Crowd::start(customers(&scene.stickpin, 45).await);
        crowd.rounds(3).await;
        scene.backends[0].set_flaw("half_head").await;
        crowd.rounds(10).await;
        scene.backends[0].set_flaw("none").await;
        crowd.rounds(5).await;

        let everybody = crowd.stop().await;
        assert_nothing_failed(&everybody);
        let (detoured, others) = parted(everybody, "red");
        others.iter().for_each(Customer::assert_undisturbed);
        for customer in &detoured {
            match kind {
                "backup" => assert_moved_with_its_session(customer),
                _ => assert!(ends_logged_in_at(customer, "red"), "{kind} {}: {:?}", customer.user, customer.seen),
            }
        }
        let moved = if kind == "backup" { detoured.len() } else { 0 };
        assert_eq!((scene.rehomes().await, scene.sessions_lost().await), (moved, 0), "{kind}");
    }
}

/// The client has the beginning already: all that is left is to say that it is not whole.
#[tokio::test]
async fn a_reply_that_breaks_off_within_its_body_is_never_taken_for_a_whole_one() {
    let mut scene = Scene::open("local", |shop| shop).await;
    let crowd = Crowd::start(customers(&scene.stickpin, 45).await);
    crowd.rounds(3).await;
    scene.backends[0].set_flaw("half_body").await;
    crowd.rounds(10).await;
    scene.backends[0].set_flaw("none").await;
    crowd.rounds(5).await;

    let everybody = crowd.stop().await;
    assert_sound(&everybody);
    let (broken, others) = parted(everybody, "red");
    others.iter().for_each(Customer::assert_undisturbed);
    for customer in &broken {
        let is_whole = |seen: &&Seen| seen.answer().is_some_and(|answer| answer["served_by"].is_string());
        let (whole, failed) = (customer.seen.iter().filter(is_whole).count(), customer.failures());
        assert_eq!(whole + failed.len(), customer.seen.len(), "{}: {:?}", customer.user, customer.seen);
        // The connection is broken off, or the reply on it: nobody made up an answer.
        let is_broken = |failure: &&str| failure.contains("broken off") || failure.contains("connection error");
        assert!(failed.len() >= 5 && failed.iter().all(is_broken), "{}: {failed:?}", customer.user);
        assert!(ends_logged_in_at(customer, "red"), "{}: {:?}", customer.user, customer.seen);
    }
    assert_eq!((scene.rehomes().await, scene.sessions_lost().await), (0, 0));
}
