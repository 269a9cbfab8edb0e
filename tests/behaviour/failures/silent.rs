//! It accepts, takes every request, and never answers, while its probes are answered well.
//!
//! Needs `timeouts.attempt` and `retry.retry_on`.

use std::time::Duration;

use super::{KINDS, Scene};
use crate::crowd::{Crowd, Customer, customers};
use crate::shop::{IMPATIENT, Shop};
use crate::verdict::{assert_moved_with_its_session, assert_nothing_failed, ends_logged_in_at, parted};

/// A third of all requests is tried again, which is more than a budget of 20 % allows for long.
const RETRY: &str = "retry: { attempts: 2, budget: 100%, retry_on: [connect, reset_before_reply, 504] }";

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(2);

/// With a busy machine's slack of three, for every attempt there may be.
const LONGEST_WAIT: Duration = ATTEMPT.saturating_mul(3 * 3);

/// Every `GET` is answered elsewhere after one attempt's time. `local`: the client looks logged out there, and is at home
/// again when the backend is well. `backup`: it moves with its session.
#[tokio::test]
async fn a_backend_that_never_answers_costs_the_time_of_an_attempt() {
    let [local, replicated, backup] = KINDS;
    tokio::join!(never_answers(local), never_answers(replicated), never_answers(backup));
}

async fn never_answers(kind: &str) {
    let change = |shop: Shop| shop.pool(RETRY).pool("timeouts: { attempt: 2s }");
    let mut scene = Scene::open(kind, change).await;
    let crowd = Crowd::start(customers(&scene.stickpin, 30).await);
    crowd.rounds(3).await;
    scene.backends[0].set_flaw("silent").await;
    crowd.rounds(2).await;
    scene.backends[0].set_flaw("none").await;
    crowd.rounds(5).await;

    let everybody = crowd.stop().await;
    assert_nothing_failed(&everybody);
    let (silenced, others) = parted(everybody, "red");
    others.iter().for_each(Customer::assert_undisturbed);
    for customer in &silenced {
        match kind {
            "backup" => assert_moved_with_its_session(customer),
            _ => assert!(ends_logged_in_at(customer, "red"), "{kind} {}: {:?}", customer.user, customer.seen),
        }
        assert!(customer.longest_wait < LONGEST_WAIT, "{kind} {}: {:?}", customer.user, customer.longest_wait);
    }
    assert_eq!(scene.sessions_lost().await, 0, "{kind}");
}

/// The same where nobody answers probes either: `SIGSTOP` for as long as its clients take to ask five times. An attempt
/// has to have more time than a server that copies sessions waits for one that hangs: a second, once.
#[tokio::test]
async fn a_hung_backend_costs_the_time_of_an_attempt() {
    let [local, replicated, backup] = KINDS;
    tokio::join!(hangs(local), hangs(replicated), hangs(backup));
}

async fn hangs(kind: &str) {
    let change = |shop: Shop| shop.probed(IMPATIENT).pool(RETRY).pool("timeouts: { attempt: 2s }");
    let mut scene = Scene::open(kind, change).await;
    let crowd = Crowd::start(customers(&scene.stickpin, 30).await);
    crowd.rounds(3).await;
    scene.backends[0].pause().await.unwrap();
    scene.admin.until_health("shop", "red", "unhealthy").await;
    crowd.rounds(5).await;
    scene.backends[0].resume().unwrap();
    scene.admin.until_health("shop", "red", "healthy").await;
    crowd.rounds(5).await;

    let everybody = crowd.stop().await;
    assert_nothing_failed(&everybody);
    let (hung, others) = parted(everybody, "red");
    others.iter().for_each(Customer::assert_undisturbed);
    for customer in &hung {
        match kind {
            "local" => assert!(ends_logged_in_at(customer, "red"), "{}: {:?}", customer.user, customer.seen),
            _ => assert_moved_with_its_session(customer),
        }
        assert!(customer.longest_wait < LONGEST_WAIT, "{kind} {}: {:?}", customer.user, customer.longest_wait);
    }
    assert_eq!(scene.sessions_lost().await, 0, "{kind}");
}
