//! The PROXY protocol, in from trusted proxies and out to backends.

use std::time::Duration;

use stickpin::config::Address;
use stickpin::proxy_protocol::{Ends, Outcome, parse, write};
use stickpin::socket;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use crate::support::made::{Ca, days};
use crate::support::raw::{Backend, End, Peer, Recorder, config};
use crate::support::tls::{Files, TlsClient};
use crate::support::{Stickpin, StickpinProcess, until};

const LINE: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

fn binary(source: &str, destination: &str) -> Vec<u8> {
    let parse = |text: &str| text.parse().expect("an address");
    let mut header = Vec::new();
    write(&mut header, Some(Ends { source: parse(source), destination: parse(destination) }));
    header
}

/// In front of this backend; `setting` is that of the listener, and whoever is on this machine a trusted proxy.
fn behind_a_proxy(backend: &Recorder, setting: &str) -> Stickpin {
    let setting = format!("proxy_protocol: {setting}");
    let trusted = "trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]\n";
    Stickpin::start(&format!("{trusted}{}", config(backend.address(), &[&setting], &[])))
}

#[tokio::test]
async fn the_client_is_whom_the_proxy_tells() {
    let backend = Recorder::start().await;
    let ipv6 = binary("[2001:db8::7]:4711", "[2001:db8::1]:443");
    let rows = [
        (LINE.as_bytes().to_vec(), "192.0.2.7", "for=192.0.2.7;", "443"),
        (binary("192.0.2.7:56324", "198.51.100.1:8443"), "192.0.2.7", "for=192.0.2.7;", "8443"),
        (ipv6, "2001:db8::7", "for=\"[2001:db8::7]\";", "443"),
    ];
    for setting in ["required", "optional"] {
        let stickpin = behind_a_proxy(&backend, setting);
        for (header, client, node, port) in &rows {
            let mut peer = Peer::connect(stickpin.front()).await;
            for piece in header.chunks(5) {
                peer.send(piece).await;
            }
            for _ in 0..2 {
                peer.send(GET).await;
                assert_eq!(peer.reply().await.0.status(), 200);
                let head = backend.last_head();
                assert_eq!(head.value("x-forwarded-for"), Some(*client));
                assert_eq!(head.value("x-forwarded-port"), Some(*port));
                assert!(head.value("forwarded").expect("it is there").starts_with(node), "{head:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_proxy_that_speaks_for_itself_is_the_client() {
    let backend = Recorder::start().await;
    let mut local = Vec::new();
    write(&mut local, None);
    let unix = [&local[..12], &[0x21, 0x31, 0, 216], &[b'x'; 216]].concat();
    for header in [&local[..], b"PROXY UNKNOWN\r\n", &unix] {
        let stickpin = behind_a_proxy(&backend, "required");
        let mut peer = Peer::sending(stickpin.front(), [header, GET.as_bytes()].concat()).await;
        assert_eq!(peer.reply().await.0.status(), 200);
        assert_eq!(backend.last_head().value("x-forwarded-for"), Some("127.0.0.1"));
    }
}

#[tokio::test]
async fn where_it_is_optional_a_connection_may_begin_with_a_request() {
    let backend = Recorder::start().await;
    let stickpin = behind_a_proxy(&backend, "optional");
    for request in [GET, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", &format!("\r\n{GET}")] {
        let mut peer = Peer::connect(stickpin.front()).await;
        for piece in request.as_bytes().chunks(1) {
            peer.send(piece).await;
        }
        assert_eq!(peer.reply().await.0.status(), 200);
        assert_eq!(backend.last_head().value("x-forwarded-for"), Some("127.0.0.1"));
    }
}

#[tokio::test]
async fn where_it_is_required_nothing_else_gets_in() {
    let backend = Recorder::start().await;
    let stickpin = behind_a_proxy(&backend, "required");
    let mut checksum = binary("192.0.2.7:1", "198.51.100.1:2");
    checksum[15] += 7;
    checksum.extend_from_slice(&[3, 0, 4, 1, 2, 3, 4]);
    for begun in [GET.as_bytes(), b"\x16\x03\x01\x02\x00", b"PROXY TCP4 nonsense\r\n", &checksum] {
        let mut peer = Peer::sending(stickpin.front(), [begun, GET.as_bytes()].concat()).await;
        assert_eq!(peer.end().await.0, b"", "not a word");
    }
    assert!(backend.heard().requests.is_empty());
}

#[tokio::test]
async fn strangers_cannot_say_who_they_are() {
    let backend = Recorder::start().await;
    let start = |setting: &str| {
        let setting = format!("proxy_protocol: {setting}");
        Stickpin::start(&format!("trusted_proxies: [10.0.0.0/8]\n{}", config(backend.address(), &[&setting], &[])))
    };
    let stickpin = start("required");
    let mut peer = Peer::connect(stickpin.front()).await;
    // It may be gone already.
    let _ = peer.try_send(format!("{LINE}{GET}")).await;
    assert_eq!(peer.end().await.0, b"", "not a word");

    for setting in ["optional", "off"] {
        let stickpin = start(setting);
        let mut peer = Peer::sending(stickpin.front(), format!("{LINE}{GET}")).await;
        assert_eq!(peer.head().await.status(), 400, "it is a bad request");
        assert!(backend.heard().requests.is_empty());
    }
    let stickpin = start("optional");
    let mut peer = Peer::sending(stickpin.front(), GET).await;
    assert_eq!(peer.reply().await.0.status(), 200);
    assert_eq!(backend.last_head().value("x-forwarded-for"), Some("127.0.0.1"));
}

#[tokio::test]
async fn a_header_has_a_deadline_and_does_not_hold_up_a_stop() {
    let backend = Recorder::start().await;
    let settings = ["proxy_protocol: required", "header_timeout: 300ms"];
    let trusted = "trusted_proxies: [127.0.0.1]\n";
    let stickpin = Stickpin::start(&format!("{trusted}{}", config(backend.address(), &settings, &[])));
    for begun in ["", "PRO", &LINE[..LINE.len() - 1]] {
        let mut peer = Peer::sending(stickpin.front(), begun).await;
        assert_eq!(peer.end().await.0, b"");
    }

    let patient = ["proxy_protocol: required", "header_timeout: 1h"];
    let stickpin = Stickpin::start(&format!("{trusted}{}", config(backend.address(), &patient, &[])));
    let mut waiting = Peer::sending(stickpin.front(), &LINE[..20]).await;
    let mut admin = stickpin.admin();
    until("the connection is there", async || {
        let connections = admin.metric("stickpin_connections", &[]).await;
        if connections == 1.0 { Ok(()) } else { Err(connections) }
    })
    .await;
    let began = Instant::now();
    tokio::task::spawn_blocking(move || stickpin.stop(Duration::from_secs(3600))).await.expect("it stops");
    assert!(began.elapsed() < Duration::from_secs(60), "it did not wait for the hour");
    waiting.gone().await;
}

#[tokio::test]
async fn a_trusted_proxy_behind_another_is_believed_as_well() {
    let backend = Recorder::start().await;
    let stickpin = behind_a_proxy(&backend, "required");
    let told = "GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 6.6.6.6, 203.0.113.9\r\n\r\n";
    for (between, expected) in [("10.0.0.2", "6.6.6.6, 203.0.113.9, 10.0.0.2"), ("192.0.2.7", "192.0.2.7")] {
        let line = format!("PROXY TCP4 {between} 198.51.100.1 56324 443\r\n");
        let mut peer = Peer::sending(stickpin.front(), format!("{line}{told}")).await;
        assert_eq!(peer.reply().await.0.status(), 200);
        assert_eq!(backend.last_head().value("x-forwarded-for"), Some(expected));
    }
}

#[tokio::test]
async fn the_log_and_the_hash_go_by_the_client() {
    let backends = [Recorder::start().await, Recorder::start().await];
    let [one, two] = backends.each_ref().map(Recorder::address);
    let stickpin = StickpinProcess::start(|front, admin| {
        format!(
            "trusted_proxies: [127.0.0.1]\nlisteners: [{{ address: \"{front}\", proxy_protocol: required }}]\n\
             admin: {{ address: \"{admin}\" }}\npools:\n  app:\n    health: off\n    \
             affinity: {{ hash: {{ keys: [client_address] }} }}\n    backends: [\"{one}\", \"{two}\"]\n"
        )
    })
    .await;
    for last in 1..=40 {
        let before = backends[0].heard().requests.len();
        for _ in 0..2 {
            let line = format!("PROXY TCP4 192.0.2.{last} 198.51.100.1 56324 443\r\n");
            let mut peer = Peer::connect(stickpin.front()).await;
            assert_eq!(peer.reply_to(&format!("{line}{GET}")).await, 200);
        }
        let more = backends[0].heard().requests.len() - before;
        assert!(matches!(more, 0 | 2), "one address, one home");
    }
    let counts = backends.each_ref().map(|backend| backend.heard().requests.len());
    assert!(counts[0] > 10 && counts[1] > 10, "many addresses, both homes: {counts:?}");
    until("the log names the clients", async || {
        let log = stickpin.stdout();
        let named = (1..=40).all(|last| log.contains(&format!("\"client\":\"192.0.2.{last}\"")));
        if named && !log.contains("\"client\":\"127.0.0.1\"") { Ok(()) } else { Err(log) }
    })
    .await;
}

/// Over TCP and by a path: what is told comes in front of TLS, and what is within TLS is told for that client.
#[tokio::test]
async fn the_header_stands_in_front_of_tls() {
    let (backend, files) = (Recorder::start().await, Files::new());
    let item = files.certificate("shop", &Ca::new("ca").server(&["shop.example"], days(-1, 1)));
    let listener = [format!("tls: {{ certificates: [ {item} ] }}"), "proxy_protocol: optional".to_owned()];
    let listener = listener.each_ref().map(String::as_str);
    let yaml = format!("trusted_proxies: [127.0.0.1, unix]\n{}", config(backend.address(), &listener, &[]));
    let path = Address::Unix(files.path("front.sock").into());
    for at in [None, Some(path)] {
        let bound = at.as_ref().map_or("127.0.0.1:0".to_owned(), Address::to_string);
        let stickpin = Stickpin::start(
            &yaml.replace("listeners:\n  - address: 127.0.0.1:0", &format!("listeners:\n  - address: {bound}")),
        );
        let to = at.unwrap_or_else(|| stickpin.front().into());
        for (header, client, port) in [
            (LINE.as_bytes().to_vec(), "192.0.2.7", "443"),
            (binary("[2001:db8::7]:1", "[2001:db8::1]:8443"), "2001:db8::7", "8443"),
        ] {
            let mut io = socket::connect(&to).await.expect("somebody listens");
            for byte in header {
                io.write_all(&[byte]).await.expect("it is read");
            }
            let mut peer = TlsClient::new().over(io, "shop.example").await.expect("a handshake");
            peer.get("/", "").await.expect("a reply");
            let head = backend.last_head();
            assert_eq!(head.value("x-forwarded-for"), Some(client));
            assert_eq!((head.value("x-forwarded-proto"), head.value("x-forwarded-port")), (Some("https"), Some(port)));
        }
        // Without one it is TLS from the first byte on.
        let io = socket::connect(&to).await.expect("somebody listens");
        TlsClient::new().over(io, "shop.example").await.expect("a handshake").get("/", "").await.expect("a reply");
        assert_eq!(backend.last_head().value("x-forwarded-for"), Some("127.0.0.1"));
    }
}

/// The header at the beginning of a connection to a backend, which is asked for bytes as it needs them.
async fn header(peer: &mut Peer) -> Option<Ends> {
    let mut bytes = Vec::new();
    loop {
        match parse(&bytes) {
            Outcome::Incomplete { at_least } => bytes.extend(peer.exactly(at_least).await),
            Outcome::Header { length, ends } => {
                assert_eq!(length, bytes.len());
                return ends;
            }
            Outcome::Invalid(fault) => panic!("{fault}: {}", bytes.escape_ascii()),
        }
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn a_backend_is_told_the_client_once_a_connection_which_nobody_else_uses() {
    let backend = Backend::start().await;
    let stickpin = Stickpin::start(&config(backend.address(), &[], &["send_proxy_protocol: v2"]));
    let mut first = Peer::sending(stickpin.front(), GET).await;
    let mut at_backend = backend.accept().await;
    let ends = header(&mut at_backend).await.expect("the client's");
    assert_eq!((ends.source.ip().to_string(), ends.destination), ("127.0.0.1".to_owned(), stickpin.front()));
    for turn in 0..3 {
        if turn > 0 {
            first.send(GET).await;
        }
        assert_eq!(at_backend.head().await.first_line(), "GET / HTTP/1.1");
        at_backend.send(OK).await;
        first.reply().await;
    }

    // The connection is idle, and there is a worker only.
    let mut second = Peer::sending(stickpin.front(), GET).await;
    let mut another = backend.accept().await;
    let others = header(&mut another).await.expect("the client's");
    assert_ne!(others.source, ends.source);
    another.head().await;
    another.send(OK).await;
    second.reply().await;
    assert!(at_backend.is_silent(), "the first client's connection is its own");
}

#[tokio::test]
async fn each_client_of_a_trusted_proxy_is_told_for_itself() {
    let backend = Backend::start().await;
    let yaml = config(backend.address(), &[], &["send_proxy_protocol: v2"]);
    let stickpin = Stickpin::start(&format!("trusted_proxies: [127.0.0.1]\n{yaml}"));
    let mut proxy = Peer::connect(stickpin.front()).await;
    let mut connections = Vec::new();
    for (turn, client) in ["192.0.2.1", "192.0.2.2", "192.0.2.1"].into_iter().enumerate() {
        proxy.send(format!("GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {client}\r\n\r\n")).await;
        if turn < 2 {
            let mut peer = backend.accept().await;
            let ends = header(&mut peer).await.expect("the client's");
            assert_eq!(ends.source.to_string(), format!("{client}:0"));
            connections.push(peer);
        }
        let peer = &mut connections[turn % 2];
        peer.head().await;
        peer.send(OK).await;
        proxy.reply().await;
    }
}

/// Another client's idle connection is in the way, and cannot be used.
#[tokio::test]
async fn where_a_backend_takes_one_connection_each_client_has_it_in_turn() {
    let backend = Backend::start().await;
    let settings = ["send_proxy_protocol: v2", "max_connections: 1"];
    let stickpin = Stickpin::start(&config(backend.address(), &[], &settings));
    let mut clients = [Peer::connect(stickpin.front()).await, Peer::connect(stickpin.front()).await];
    let mut told = Vec::new();
    let mut before: Option<Peer> = None;
    for turn in 0..4 {
        let client = &mut clients[turn % 2];
        client.send(GET).await;
        if let Some(mut before) = before.take() {
            assert_eq!(before.end().await, (Vec::new(), End::Closed), "it makes room");
        }
        let mut peer = backend.accept().await;
        told.push(header(&mut peer).await.expect("the client's").source);
        peer.head().await;
        peer.send(OK).await;
        client.reply().await;
        before = Some(peer);
    }
    assert_eq!((told[0], told[1]), (told[2], told[3]));
    assert_ne!(told[0], told[1]);
}

#[tokio::test]
async fn what_is_sent_again_begins_with_the_header_as_well() {
    let (one, two) = (Backend::start().await, Backend::start().await);
    let yaml = config(one.address(), &[], &["send_proxy_protocol: v2", "retry: { attempts: 2 }"]);
    let both = format!("\"{}\" }}, {{ name: app2, address: \"{}\" }}", one.address(), two.address());
    let stickpin = Stickpin::start(&yaml.replace(&format!("\"{}\" }}", one.address()), &both));
    let mut client = Peer::sending(stickpin.front(), GET).await;
    let (mut peer, other) = tokio::select! {
        peer = one.accept() => (peer, &two),
        peer = two.accept() => (peer, &one),
    };
    let told = header(&mut peer).await.expect("the client's");
    peer.head().await;
    peer.reset();
    let mut peer = other.accept().await;
    assert_eq!(header(&mut peer).await, Some(told), "by a retry");
    peer.head().await;
    peer.send(OK).await;
    assert_eq!(client.reply().await.0.status(), 200);

    let stickpin = Stickpin::start(&config(one.address(), &[], &["send_proxy_protocol: v2"]));
    let mut client = Peer::sending(stickpin.front(), GET).await;
    let (mut peer, told) = asked(&one).await;
    peer.send(OK).await;
    assert_eq!(client.reply().await.0.status(), 200);
    client.send(GET).await;
    peer.head().await;
    peer.reset();
    let (mut peer, again) = asked(&one).await;
    assert_eq!(again, told, "over a new connection, since the backend was closing the one before");
    peer.send(OK).await;
    assert_eq!(client.reply().await.0.status(), 200);
}

/// The next connection with a request on it, and the client that its header tells of: one that was broken is probed.
async fn asked(backend: &Backend) -> (Peer, Ends) {
    loop {
        let mut peer = backend.accept().await;
        if let Some(ends) = header(&mut peer).await {
            peer.head().await;
            return (peer, ends);
        }
    }
}

#[tokio::test]
async fn probes_say_that_they_are_our_own() {
    for health in ["http: { path: /health, interval: 100ms }", "tcp: { interval: 100ms }"] {
        let backend = Backend::start().await;
        let yaml = config(backend.address(), &[], &["send_proxy_protocol: v2"])
            .replace("health: off", &format!("health: {{ {health} }}"));
        let stickpin = Stickpin::start(&yaml);
        let mut peer = backend.accept().await;
        assert_eq!(header(&mut peer).await, None, "LOCAL");
        if health.starts_with("http") {
            assert_eq!(peer.head().await.first_line(), "GET /health HTTP/1.1");
        } else {
            assert_eq!(peer.end().await, (Vec::new(), End::Closed));
        }
        drop(stickpin);
    }
}

#[tokio::test]
async fn without_the_setting_backends_see_requests_only() {
    let backend = Backend::start().await;
    let stickpin = Stickpin::start(&config(backend.address(), &[], &[]));
    let _client = Peer::sending(stickpin.front(), GET).await;
    assert_eq!(backend.accept().await.head().await.first_line(), "GET / HTTP/1.1");
}
