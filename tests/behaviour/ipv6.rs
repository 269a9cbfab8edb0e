//! IPv6 wherever an address may stand. Where the machine has no IPv6 loopback, the tests say so and prove nothing.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use crate::support::raw::{Peer, Recorder, config};
use crate::support::{Stickpin, until};

fn has_ipv6() -> bool {
    let has_it = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    if !has_it {
        eprintln!("skipped: this machine has no IPv6 loopback");
    }
    has_it
}

#[tokio::test]
async fn clients_and_backends_meet_over_ipv6() {
    if !has_ipv6() {
        return;
    }
    let backend = Recorder::at((Ipv6Addr::LOCALHOST, 0).into()).await.expect("there is IPv6");
    let yaml = config(backend.address(), &[], &[])
        .replace("listeners:\n  - address: 127.0.0.1:0", "listeners:\n  - address: \"[::1]:0\"");
    let yaml = yaml.replace("health: off", "health: { http: { path: /health, interval: 100ms } }");
    let stickpin = Stickpin::start(&yaml);
    let mut admin = stickpin.admin();
    admin.until_health("app", "app1", "healthy").await;
    let probed = backend.heard().requests.remove(0).0;
    assert_eq!(probed.value("host"), Some(&*backend.address().to_string()));
    assert_eq!(admin.backend("app", "app1").await["address"], backend.address().to_string());

    let mut peer = Peer::sending(stickpin.front(), "GET /x HTTP/1.1\r\nHost: [::1]:80\r\n\r\n").await;
    assert_eq!(peer.reply().await.0.status(), 200);
    let heard = backend.heard().requests;
    let head = heard.into_iter().map(|(head, _)| head).find(|head| head.first_line().contains("/x"));
    let head = head.expect("it was asked");
    assert_eq!(head.value("x-forwarded-for"), Some("::1"));
    assert_eq!(head.value("forwarded"), Some("for=\"[::1]\";proto=http;host=\"[::1]:80\""));
    assert_eq!(head.value("host"), Some("[::1]:80"));
}

#[tokio::test]
async fn any_ipv6_address_and_any_ipv4_address_are_two_listeners() {
    if !has_ipv6() {
        return;
    }
    let backend = Recorder::start().await;
    let both = until("a port is free for both", async || {
        let port = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))
            .and_then(|free| free.local_addr())
            .expect("a free port")
            .port();
        let yaml = config(backend.address(), &[], &[]).replace(
            "listeners:\n  - address: 127.0.0.1:0",
            &format!("workers: 2\nlisteners:\n  - address: 0.0.0.0:{port}\n  - address: \"[::]:{port}\""),
        );
        let yaml = yaml.replacen("workers: 1\n", "", 1);
        // Somebody else may have had it in between.
        std::panic::catch_unwind(|| Stickpin::start(&yaml)).map_err(|_| port)
    })
    .await;
    for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), (Ipv6Addr::LOCALHOST, 0).into()] {
        let address = SocketAddr::new(address.ip(), both.front().port());
        let mut peer = Peer::sending(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(peer.reply().await.0.status(), 200, "{address}");
        let expected = address.ip().to_string();
        assert_eq!(backend.last_head().value("x-forwarded-for"), Some(&*expected));
    }

    let yaml = config(backend.address(), &[], &[])
        .replace("listeners:\n  - address: 127.0.0.1:0", "listeners:\n  - address: \"[::]:0\"");
    let only = Stickpin::start(&yaml);
    let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, only.front().port()));
    assert!(refused.is_err(), "[::] takes IPv6 only");
}
