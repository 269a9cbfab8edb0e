//! One request in a hundred is answered with 503, at random, by every backend.
//!
//! Needs `retry.retry_on`.

use super::{KINDS, Scene};
use crate::crowd::{Crowd, Seen, customers};
use crate::support::until;
use crate::verdict::{assert_nothing_failed, ends_logged_in_at, was_unknown};

const RETRY: &str = "retry: { attempts: 2, retry_on: [connect, reset_before_reply, 503] }";

/// No client sees one. `local`: a request that was tried elsewhere is answered as logged out, and the next one at home.
/// `backup`: so is one that home and heir both refuse; whoever has moved has moved with its session.
#[tokio::test]
async fn a_503_now_and_then_is_seen_by_no_client() {
    for kind in KINDS {
        let mut scene = Scene::open(kind, |shop| shop.pool(RETRY)).await;
        let crowd = Crowd::start(customers(&scene.stickpin, 45).await);
        for backend in &scene.backends {
            backend.set_flaw("unavailable&percent=1").await;
        }
        crowd.rounds(30).await;
        until("some were tried again", async || {
            let retries = scene.admin.metric("stickpin_retries_total", &[]).await;
            if retries >= 5.0 { Ok(()) } else { Err(retries) }
        })
        .await;
        for backend in &scene.backends {
            backend.set_flaw("none").await;
        }
        crowd.rounds(3).await;

        let everybody = crowd.stop().await;
        assert_nothing_failed(&everybody);
        for customer in &everybody {
            match kind {
                "local" => {
                    assert!(ends_logged_in_at(customer, &customer.home), "{}: {:?}", customer.user, customer.seen)
                }
                "backup" => {
                    let last = customer.seen.last().and_then(Seen::answer);
                    assert!(last.is_some_and(|answer| answer["user"] == *customer.user), "{}: {last:?}", customer.user);
                }
                _ => assert!(!was_unknown(customer), "{kind} {}: {:?}", customer.user, customer.seen),
            }
        }
        assert_eq!(scene.sessions_lost().await, 0, "{kind}");
    }
}
