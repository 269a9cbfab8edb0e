//! Balance by latency: who replies slowly, or fails fast, gets less.

use tokio::task::JoinSet;

use crate::shop::Shop;
use crate::support::raw::Recorder;
use crate::support::{Backend, StickpinProcess};

/// Connections that open are all that is asked of a backend.
const CONNECTS: &str = "{ tcp: { interval: 1s, timeout: 5s } }";

const POOL: &str = "affinity: off\n    balance: peak_ewma";

/// Twenty clients at once, fifteen requests each, all told; how many replies had this status.
async fn replies_with(stickpin: &StickpinProcess, status: u16) -> usize {
    let mut clients = JoinSet::new();
    for _ in 0..20 {
        let mut client = stickpin.client();
        clients.spawn(async move {
            let mut counted = 0;
            for _ in 0..15 {
                let reply = client.get("/slow?ms=20").await.unwrap_or_else(|error| panic!("GET /slow: {error}"));
                counted += usize::from(reply.status == status);
            }
            counted
        });
    }
    clients.join_all().await.into_iter().sum()
}

/// It is the least busy one and the fastest: two choices by requests in flight would give it most of them.
#[tokio::test]
async fn a_backend_that_fails_at_once_does_not_attract_requests() {
    for reply in [
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
    ] {
        let (one, other, failing) = (Backend::start("one"), Backend::start("other"), Recorder::replying(reply).await);
        let failing = format!("{{ name: failing, address: \"{}\" }}", failing.address());
        let stickpin = Shop::of([one.yaml(), other.yaml(), failing]).probed(CONNECTS).pool(POOL).open().await;
        let status = reply[9..12].parse().unwrap();
        let failed = replies_with(&stickpin, status).await;
        // The first ones come all at once, before anybody has replied.
        assert!((1..=60).contains(&failed), "{failed} of 300 went to it: {reply}");
    }
}

/// A refused connection comes back faster than any reply.
#[tokio::test]
async fn a_failed_attempt_counts_as_slow() {
    let one = Backend::start("one");
    let gone = Recorder::start().await;
    let line = format!("{{ name: gone, address: \"{}\" }}", gone.address());
    let pool = format!("{POOL}\n    retry: {{ attempts: 1 }}");
    let stickpin = Shop::of([one.yaml(), line]).probed("off").pool(&pool).open().await;
    drop(gone);
    assert_eq!(replies_with(&stickpin, 200).await, 300, "every request is served by the other one");
    let retries = stickpin.admin().metric("stickpin_retries_total", &["reason=\"connect\""]).await;
    assert!((1.0..=60.0).contains(&retries), "{retries} of 300 were tried there first");
}
