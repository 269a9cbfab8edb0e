//! The gate of `backup`: at a rehome the first request of a client goes alone, the others wait for its reply, and not for
//! ever.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::raw::{Backend, Peer};
use crate::support::{Stickpin, until};

/// Closed each time, so that every request comes over a connection of its own.
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

/// A client with a pin whose home is not there any more, and the only heir, played by the test.
struct Orphan {
    stickpin: Stickpin,
    heir: Backend,
    pin: String,
}

impl Orphan {
    async fn new(gate: &str) -> Self {
        let (home, heir) = (Backend::start().await, Backend::start().await);
        let yaml = format!(
            "workers: 2\naccess_log: off\nlisteners: ['127.0.0.1:0']\nadmin: {{ address: '127.0.0.1:0' }}\npools:\n  app:\n    \
             sessions: backup\n    rehome: {{ gate: {gate} }}\n    health: {{ tcp: {{ interval: 100ms }} }}\n    backends:\n      \
             - {{ name: home, address: '{}' }}\n      - {{ name: heir, address: '{}', weight: 0 }}\n",
            home.address(),
            heir.address()
        );
        let stickpin = Stickpin::start(&yaml);
        stickpin.admin().until_health("app", "home", "healthy").await;
        let mut first = Peer::sending(stickpin.front(), "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let (mut at_home, head) = home.request().await;
        assert_eq!(head.value("stickpin-heir"), Some("heir"));
        at_home.send(OK).await;
        let reply = first.reply().await.0;
        let pin = reply.values("set-cookie")[0].split(';').next().unwrap().to_owned();
        drop((at_home, home));
        let mut admin = stickpin.admin();
        until("the home is gone", async || {
            let view = admin.backend("app", "home").await;
            if view["memory"] == "gone" { Ok(()) } else { Err(view) }
        })
        .await;
        Self { stickpin, heir, pin }
    }

    async fn ask(&self) -> Peer {
        let request = format!("GET / HTTP/1.1\r\nHost: x\r\nCookie: {}\r\n\r\n", self.pin);
        Peer::sending(self.stickpin.front(), request).await
    }
}

#[tokio::test]
async fn the_first_request_goes_alone_and_the_others_follow_its_reply() {
    let orphan = Orphan::new("15s").await;
    let mut clients = vec![orphan.ask().await];
    let (mut first, head) = orphan.heir.request().await;
    assert_eq!(head.value("stickpin-rehome-reason"), Some("gone"));
    for _ in 0..4 {
        clients.push(orphan.ask().await);
    }
    // A request of somebody else passes by those that wait, so they have been looked at by then.
    let mut other = Peer::sending(orphan.stickpin.front(), "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let (mut passing, head) = orphan.heir.request().await;
    assert_eq!(head.value("stickpin-rehome-reason"), None, "it has no pin");
    passing.send(OK).await;
    other.reply().await;
    assert!(orphan.heir.is_untouched().await, "nobody goes while the first one is on its way");

    first.send(OK).await;
    for _ in 0..4 {
        orphan.heir.request().await.0.send(OK).await;
    }
    for client in &mut clients {
        assert_eq!(client.reply().await.0.status(), 200);
    }
}

#[tokio::test]
async fn nobody_waits_longer_than_the_gate_says() {
    let orphan = Orphan::new("300ms").await;
    let begun = Instant::now();
    let (mut one, mut two) = (orphan.ask().await, orphan.ask().await);
    let (mut first, _) = orphan.heir.request().await;
    let (mut second, _) = orphan.heir.request().await;
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    first.send(OK).await;
    second.send(OK).await;
    for client in [&mut one, &mut two] {
        assert_eq!(client.reply().await.0.status(), 200);
    }
}

#[tokio::test]
async fn when_the_first_one_fails_the_next_takes_its_place() {
    let orphan = Orphan::new("15s").await;
    let mut one = orphan.ask().await;
    let (first, _) = orphan.heir.request().await;
    let mut two = orphan.ask().await;
    // The client is gone, so nobody tries again for it.
    one.finish().await;
    drop(one);
    first.reset();
    let (mut second, _) = orphan.heir.request().await;
    second.send(OK).await;
    assert_eq!(two.reply().await.0.status(), 200);
}
