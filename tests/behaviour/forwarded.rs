//! Whom a request comes from when proxies are in front: in headers, in the log, as affinity key.

use crate::support::raw::{Peer, Recorder, config};
use crate::support::{Stickpin, StickpinProcess, until};

const TRUSTED: &str = "trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]\n";

#[tokio::test]
async fn the_lists_of_trusted_proxies_go_on_and_what_they_passed_on_unseen_does_not() {
    let backend = Recorder::start().await;
    let stickpin = Stickpin::start(&format!("{TRUSTED}{}", config(backend.address(), &[], &[])));
    let mut peer = Peer::connect(stickpin.front()).await;
    for (lines, list, forwarded) in [
        (
            "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 203.0.113.9:80, 10.0.0.1\r\n",
            "6.6.6.6, 203.0.113.9:80, 10.0.0.1, 127.0.0.1",
            "for=203.0.113.9, for=127.0.0.1;",
        ),
        (
            "X-Forwarded-For: 203.0.113.9\r\nForwarded: for=6.6.6.6;host=evil\r\n",
            "203.0.113.9, 127.0.0.1",
            "for=203.0.113.9, for=127.0.0.1;",
        ),
        (
            "Forwarded: for=6.6.6.6, for=\"[2001:db8::9]:47\";proto=https\r\n",
            "2001:db8::9, 127.0.0.1",
            "for=6.6.6.6, for=\"[2001:db8::9]:47\";proto=https, for=127.0.0.1;",
        ),
        ("X-Forwarded-For: unknown\r\n", "unknown, 127.0.0.1", "for=127.0.0.1;"),
    ] {
        peer.send(format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n")).await;
        assert_eq!(peer.reply().await.0.status(), 200);
        let head = backend.last_head();
        assert_eq!(head.value("x-forwarded-for"), Some(list));
        let told = head.value("forwarded").expect("it is there");
        assert!(told.starts_with(forwarded), "{told}");
    }
}

#[tokio::test]
async fn a_cookie_is_secure_when_the_proxy_was_asked_by_https() {
    let backend = Recorder::start().await;
    let stickpin = Stickpin::start(&format!("{TRUSTED}{}", config(backend.address(), &[], &[])));
    for (lines, is_secure) in [
        ("X-Forwarded-Proto: https\r\n", true),
        ("X-Forwarded-Proto: https\r\nX-Forwarded-Proto: http\r\n", false),
        ("X-Forwarded-Proto: nonsense\r\n", false),
        ("Forwarded: for=203.0.113.9;proto=https\r\n", true),
        ("X-Forwarded-For: 203.0.113.9\r\nForwarded: for=6.6.6.6;proto=https\r\n", false),
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n");
        let mut peer = Peer::sending(stickpin.front(), request).await;
        let (head, _) = peer.reply().await;
        let cookie = head.value("set-cookie").expect("a new client is pinned");
        assert_eq!(cookie.contains("Secure"), is_secure, "{lines}: {cookie}");
    }
}

#[tokio::test]
async fn the_log_names_the_last_address_that_is_not_a_trusted_proxy() {
    let backend = Recorder::start().await;
    let address = backend.address();
    let stickpin = StickpinProcess::start(|front, admin| {
        format!(
            "{TRUSTED}listeners: [\"{front}\"]\nadmin: {{ address: \"{admin}\" }}\npools:\n  app:\n    health: off\n    \
             backends: [\"{address}\"]\n"
        )
    })
    .await;
    let mut peer = Peer::connect(stickpin.front()).await;
    let rows = [
        ("/spoofed", "X-Forwarded-For: 6.6.6.6, 203.0.113.9, 10.0.0.1\r\n", "203.0.113.9"),
        ("/bracketed", "X-Forwarded-For: [2001:db8::9]:80\r\n", "2001:db8::9"),
        ("/unknown", "X-Forwarded-For: 203.0.113.9, unknown\r\n", "127.0.0.1"),
        ("/forwarded", "Forwarded: for=203.0.113.8\r\n", "203.0.113.8"),
        ("/nothing", "", "127.0.0.1"),
    ];
    for (path, lines, _) in rows {
        peer.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n")).await;
        peer.reply().await;
    }
    until("every request is in the log", async || {
        let log = stickpin.stdout();
        let line = |path: &str| log.lines().find(|line| line.contains(&format!("\"path\":\"{path}\"")));
        let is_right = |(path, _, client): &(&str, &str, &str)| {
            line(path).is_some_and(|line| line.contains(&format!("\"client\":\"{client}\"")))
        };
        if rows.iter().all(is_right) { Ok(()) } else { Err(log.clone()) }
    })
    .await;
}
