//! A byte a second: a reply that takes its time is no failure, and holds up nobody else.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Scene;
use crate::crowd::{Crowd, Customer, customers};
use crate::shop::{client_at, is_logged_in_at, who_am_i};
use crate::verdict::{assert_nothing_failed, parted};

/// Longer than a byte takes, shorter than the reply, and shorter than its head.
const DEADLINES: &str = "timeouts: { first_byte: 2500ms, idle: 2500ms }";

/// How long a byte a second goes on.
const SLOW: Duration = Duration::from_secs(6);

#[tokio::test]
async fn a_byte_a_second_is_not_cut_and_holds_up_nobody() {
    let mut scene = Scene::open("local", |shop| shop.pool(DEADLINES)).await;
    let (at_red, others) = parted(customers(&scene.stickpin, 45).await, "red");
    let begun = Instant::now();
    scene.backends[0].set_flaw("slow&ms=1000").await;
    let (slow, others) = (Crowd::start(at_red), Crowd::start(others));
    // They get on while the slow ones have not had one reply.
    others.rounds(50).await;
    sleep(SLOW.saturating_sub(begun.elapsed())).await;
    others.rounds(5).await;
    scene.backends[0].set_flaw("none").await;
    slow.rounds(3).await;

    let (slow, others) = (slow.stop().await, others.stop().await);
    assert_nothing_failed(&slow);
    assert_nothing_failed(&others);
    slow.iter().chain(&others).for_each(Customer::assert_undisturbed);
    for customer in &slow {
        assert!(customer.longest_wait > SLOW / 2, "{} waited {:?}", customer.user, customer.longest_wait);
    }
    let view = scene.admin.backend("shop", "red").await;
    assert_eq!(view["health"], "healthy", "{view}");
    assert_eq!(scene.admin.metric("stickpin_retries_total", &[]).await, 0.0);
}

/// The same to its end, fifty times as fast.
#[tokio::test]
async fn a_reply_may_take_many_times_the_deadline_between_its_bytes() {
    let scene = Scene::open("local", |shop| shop.pool("timeouts: { first_byte: 400ms, idle: 400ms }")).await;
    let mut client = client_at(&scene.stickpin, "red").await;
    scene.backends[0].set_flaw("slow&ms=20").await;
    let begun = Instant::now();
    let reply = who_am_i(&mut client).await;
    assert!(is_logged_in_at(&reply, "red"), "{}", reply.text());
    // 200 bytes and more; its head alone takes longer than either deadline.
    assert!(begun.elapsed() > Duration::from_secs(2), "{:?}", begun.elapsed());
}
