//! TLS at a listener: which certificate is shown, what is agreed on, what backends learn of it, and who is turned away.

use std::net::SocketAddr;

use rustls::ProtocolVersion;
use rustls::version::{TLS12, TLS13};

use crate::support::made::{Ca, days};
use crate::support::raw::{self, Backend, Peer, Recorder};
use crate::support::tls::{Files, TlsClient, ocsp_response};
use crate::support::{Stickpin, until};

/// A Stickpin with one TLS listener. `settings` is what its `tls` has, in flow style.
pub(crate) fn secured(backend: SocketAddr, settings: &str) -> Stickpin {
    Stickpin::start(&raw::config(backend, &[&format!("tls: {{ {settings} }}")], &[]))
}

/// One with a certificate of no interest.
async fn open(settings: &str) -> (Stickpin, Recorder, Files) {
    let (backend, files) = (Recorder::start().await, Files::new());
    let item = files.certificate("shop", &Ca::new("ca").server(&["shop.example"], days(-1, 1)));
    let stickpin = secured(backend.address(), &format!("certificates: [ {item} ]{settings}"));
    (stickpin, backend, files)
}

async fn until_counted(stickpin: &Stickpin, result: &str, count: f64) {
    let mut admin = stickpin.admin();
    let label = format!("result=\"{result}\"");
    until(&format!("{count} handshakes are {result}"), async || {
        let found = admin.metric("stickpin_tls_handshakes_total", &[&label]).await;
        if found == count { Ok(()) } else { Err(admin.get("/metrics").await.text()) }
    })
    .await;
}

#[tokio::test]
async fn the_name_that_a_client_asks_for_decides_which_certificate_it_sees() {
    let (backend, files, ca) = (Recorder::start().await, Files::new(), Ca::new("ca"));
    let hosts: [&[&str]; 3] = [&["default.example"], &["shop.example.com"], &["*.example.com", "example.org"]];
    let made = hosts.map(|names| ca.server(names, days(-1, 1)));
    let items: Vec<_> = made.iter().enumerate().map(|(at, made)| files.certificate(&at.to_string(), made)).collect();
    let stickpin = secured(backend.address(), &format!("certificates: [ {} ]", items.join(", ")));
    let front = stickpin.front();
    for (name, expected) in [
        ("shop.example.com", 1),
        ("SHOP.example.com", 1),
        ("www.example.com", 2),
        ("example.org", 2),
        ("a.b.example.com", 0),
        ("example.com", 0),
        ("unknown.example", 0),
    ] {
        let peer = TlsClient::new().connect(front, name).await.expect("a connection");
        assert_eq!(peer.certificate(), made[expected].der, "{name}");
    }
    let peer = TlsClient::new().without_name().connect(front, "shop.example.com").await.expect("a connection");
    assert_eq!(peer.certificate(), made[0].der, "no name");
}

#[tokio::test]
async fn a_request_within_tls_is_https_to_backends_and_cookies() {
    let (backend, files) = (Recorder::start().await, Files::new());
    let item = files.certificate("shop", &Ca::new("ca").server(&["shop.example"], days(-1, 1)));
    let listener =
        [&*format!("tls: {{ certificates: [ {item} ] }}"), "hsts: { max_age: 365d, include_subdomains: true }"];
    let yaml = raw::config(backend.address(), &listener, &["affinity: { cookie: { name: __Host-pin } }"]);
    let stickpin = Stickpin::start(&yaml);
    let mut peer = TlsClient::new().connect(stickpin.front(), "shop.example").await.expect("a connection");
    assert_eq!(peer.protocol(), Some(&b"http/1.1"[..]));
    for _ in 0..2 {
        let (head, body) = peer.get("/", "").await.expect("a reply");
        assert_eq!((head.status(), &*body), (200, "ok"));
        assert_eq!(head.value("strict-transport-security"), Some("max-age=31536000; includeSubDomains"));
        let cookie = head.value("set-cookie").expect("a pin");
        assert!(cookie.starts_with("__Host-pin=") && cookie.contains("; Secure"), "{cookie}");
    }
    let seen = backend.last_head();
    assert_eq!(seen.value("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.value("x-forwarded-port"), Some(&*stickpin.front().port().to_string()));
    assert!(seen.value("forwarded").is_some_and(|value| value.contains("proto=https")));
    assert!(!seen.0.contains("stickpin-"), "{seen:?}");
    let unknown = peer.get("/", "Host: twice\r\n").await.expect("a page").0;
    assert_eq!(unknown.status(), 400);
    assert!(unknown.value("strict-transport-security").is_some(), "pages of our own, too");
    until_counted(&stickpin, "ok", 1.0).await;
    let (mut admin, name) = (stickpin.admin(), "stickpin_tls_certificate_expiry_timestamp_seconds");
    assert!(admin.metric(name, &["name=\"shop.example\""]).await > 1_700_000_000.0);
}

#[tokio::test]
async fn long_bodies_and_tunnels_pass_both_ways() {
    let (backend, files) = (Backend::start().await, Files::new());
    let item = files.certificate("shop", &Ca::new("ca").server(&["shop.example"], days(-1, 1)));
    let stickpin = secured(backend.address(), &format!("certificates: [ {item} ]"));
    let long: Vec<u8> = (0..3_000_000_u32).map(|at| at as u8).collect();
    let mut client = TlsClient::new().connect(stickpin.front(), "shop.example").await.expect("a connection");

    let sent = long.clone();
    let serve = async {
        let (mut peer, head) = backend.request().await;
        assert_eq!(head.value("content-length"), Some("3000000"));
        let body = peer.exactly(long.len()).await;
        assert!(body == long, "what was sent");
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", long.len())).await;
        peer.send(&body).await;
        peer
    };
    let ask = async {
        let head = format!("POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: {}\r\n\r\n", sent.len());
        client.send(head).await.expect("it is read");
        client.send(&sent).await.expect("it is read");
        assert_eq!(client.head().await.expect("a reply").status(), 200);
        assert!(client.exactly(sent.len()).await.expect("a body") == sent, "what came back");
    };
    let (mut backend_peer, ()) = tokio::join!(serve, ask);

    let upgrade = "GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    client.send(upgrade).await.expect("it is read");
    assert_eq!(backend_peer.head().await.value("upgrade"), Some("echo"));
    backend_peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello").await;
    assert_eq!(client.head().await.expect("a reply").status(), 101);
    assert_eq!(client.exactly(5).await.expect("what came behind the head"), b"hello");
    for word in ["ping", "pong"] {
        client.send(word).await.expect("it is read");
        assert_eq!(backend_peer.exactly(4).await, word.as_bytes());
        backend_peer.send(word).await;
        assert_eq!(client.exactly(4).await.expect("an echo"), word.as_bytes());
    }
    backend_peer.finish().await;
    client.end().await.expect("TLS ends in order");
}

#[tokio::test]
async fn an_idle_connection_ends_in_order() {
    let (backend, files) = (Recorder::start().await, Files::new());
    let item = files.certificate("shop", &Ca::new("ca").server(&["shop.example"], days(-1, 1)));
    let tls = format!("tls: {{ certificates: [ {item} ] }}");
    let stickpin = Stickpin::start(&raw::config(backend.address(), &[&tls, "keep_alive_timeout: 200ms"], &[]));
    let mut peer = TlsClient::new().connect(stickpin.front(), "shop.example").await.expect("a connection");
    peer.get("/", "").await.expect("a reply");
    peer.end().await.expect("with a word, not just by closing");
}

#[tokio::test]
async fn only_the_versions_and_suites_of_the_settings_are_agreed_to() {
    let (stickpin, _backend, _files) = open("").await;
    for (version, expected) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let peer = TlsClient::speaking(version).connect(stickpin.front(), "shop.example").await.expect("a connection");
        assert_eq!(peer.version(), expected);
    }
    TlsClient::new().offering(&["h3"]).connect(stickpin.front(), "shop.example").await.expect_err("not spoken here");
    let peer = TlsClient::new().offering(&[]).connect(stickpin.front(), "shop.example").await.expect("a connection");
    assert_eq!(peer.protocol(), None);

    let (stickpin, _backend, _files) =
        open(", min_version: 1.3, cipher_suites: [ TLS_CHACHA20_POLY1305_SHA256 ]").await;
    TlsClient::speaking(&TLS12).connect(stickpin.front(), "shop.example").await.expect_err("too old");
    let peer = TlsClient::new().connect(stickpin.front(), "shop.example").await.expect("a connection");
    assert_eq!(peer.suite(), "TLS13_CHACHA20_POLY1305_SHA256");

    let suites = "TLS_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256";
    let (stickpin, _backend, _files) = open(&format!(", cipher_suites: [ {suites} ]")).await;
    let peer = TlsClient::speaking(&TLS12).connect(stickpin.front(), "shop.example").await.expect("a connection");
    assert_eq!(peer.suite(), "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256");
}

#[tokio::test]
async fn a_handshake_that_is_not_finished_is_given_up_and_nobody_else_waits_for_it() {
    let (stickpin, _backend, _files) = open(", handshake_timeout: 3s").await;
    let mut silent = Peer::connect(stickpin.front()).await;
    // A record that never ends.
    let mut slow = Peer::sending(stickpin.front(), b"\x16\x03\x01\x02\x00\x01\x00").await;
    assert_eq!(TlsClient::new().visit(stickpin.front(), "shop.example").await, rustls::HandshakeKind::Full);
    silent.gone().await;
    slow.gone().await;
    until_counted(&stickpin, "timeout", 2.0).await;
    until_counted(&stickpin, "ok", 1.0).await;
}

/// More than a worker keeps at a time, each with the first bytes of a handshake or none.
#[tokio::test]
async fn a_crowd_of_handshakes_that_go_nowhere_keeps_nobody_out() {
    let (stickpin, _backend, _files) = open(", handshake_timeout: 1h").await;
    let mut crowd = Vec::new();
    for number in 0..1_100 {
        let begun: &[u8] = if number % 2 == 0 { b"" } else { b"\x16\x03\x01\x02\x00\x01" };
        crowd.push(Peer::sending(stickpin.front(), begun).await);
    }
    for _ in 0..3 {
        TlsClient::new().visit(stickpin.front(), "shop.example").await;
    }
    let mut admin = stickpin.admin();
    until("the first ones made room", async || {
        match admin.metric("stickpin_tls_handshakes_total", &["result=\"crowded\""]).await {
            count if count >= 76.0 => Ok(()),
            count => Err(count),
        }
    })
    .await;
    crowd[0].gone().await;
    assert!(crowd[1_099].is_silent(), "the last one has its time");
}

#[tokio::test]
async fn garbage_is_closed_and_plain_http_is_told_so() {
    let (stickpin, _backend, _files) = open("").await;
    for garbage in
        [&b"\x16\x03\x01\x00\x05hello"[..], b"\x16\x03\x01\xff\xff\x01", b"\0\0\0\0", b"\x80\x2e\x01\x00\x02"]
    {
        Peer::sending(stickpin.front(), garbage).await.finish_and_end().await;
    }
    until_counted(&stickpin, "failed", 4.0).await;
    let mut peer = Peer::sending(stickpin.front(), "GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    let (head, text) = peer.reply().await;
    assert_eq!(head.status(), 400);
    assert!(text.contains("https only"), "{text}");
    peer.finish_and_end().await;
    until_counted(&stickpin, "plain_http", 1.0).await;
    Peer::connect(stickpin.front()).await.finish_and_end().await;
    until_counted(&stickpin, "failed", 5.0).await;
}

#[tokio::test]
async fn an_ocsp_response_is_passed_on_while_it_is_good() {
    let (backend, files) = (Recorder::start().await, Files::new());
    let made = Ca::new("ca").issue(|params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("shop.example".try_into().expect("a name"))];
        params.serial_number = Some(vec![0x12, 0x34].into());
    });
    let item = files.certificate("shop", &made);
    for (serial, until, is_passed_on) in [
        (&[0x12, 0x34][..], "20990101000000Z", true),
        (&[0x12, 0x34], "20260102000000Z", false),
        (&[0x12, 0x35], "20990101000000Z", false),
        (&[], "", false),
    ] {
        let response = if serial.is_empty() { b"nonsense".to_vec() } else { ocsp_response(serial, until) };
        let file = files.write("shop.ocsp", &response);
        let item = item.replace(" }", &format!(", ocsp_file: \"{}\" }}", file.display()));
        let stickpin = secured(backend.address(), &format!("certificates: [ {item} ]"));
        for version in [&TLS12, &TLS13] {
            let client = TlsClient::speaking(version);
            client.visit(stickpin.front(), "shop.example").await;
            assert_eq!(client.ocsp(), if is_passed_on { response.clone() } else { Vec::new() }, "{serial:?} {until}");
        }
    }
    // Watched like the rest.
    let file = files.write("shop.ocsp", ocsp_response(&[0x12, 0x34], "20980101000000Z"));
    let item = item.replace(" }", &format!(", ocsp_file: \"{}\" }}", file.display()));
    let stickpin = secured(backend.address(), &format!("certificates: [ {item} ]"));
    let newer = ocsp_response(&[0x12, 0x34], "20990101000000Z");
    files.write("shop.ocsp", &newer);
    until("the newer one is passed on", async || {
        let client = TlsClient::new();
        client.visit(stickpin.front(), "shop.example").await;
        if client.ocsp() == newer { Ok(()) } else { Err(client.ocsp()) }
    })
    .await;
}

#[tokio::test]
async fn a_listener_that_redirects_sends_everything_to_https() {
    let backend = Recorder::start().await;
    let listener = ["redirect_to_https: { port: 8443, status: 301 }", "hsts: { max_age: 1d }"];
    let stickpin = Stickpin::start(&raw::config(backend.address(), &listener, &[]));
    for request in ["GET /a?b=c", "POST /a?b=c"] {
        let text = format!("{request} HTTP/1.1\r\nHost: shop.example:8080\r\nX-Forwarded-Proto: https\r\n\r\n");
        let mut peer = Peer::sending(stickpin.front(), text).await;
        let (head, _) = peer.reply().await;
        assert_eq!(head.status(), 301);
        assert_eq!(head.value("location"), Some("https://shop.example:8443/a?b=c"));
        assert_eq!(head.value("strict-transport-security"), None, "only within TLS (RFC 6797 §7.2)");
    }
    let mut peer = Peer::sending(stickpin.front(), "GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(peer.reply().await.0.status(), 400, "nobody knows where to");
    assert!(backend.heard().requests.is_empty());

    let yaml = raw::config(backend.address(), &["redirect_to_https: true", "hsts: { max_age: 1d }"], &[]);
    let stickpin = Stickpin::start(&format!("{yaml}trusted_proxies: [ 127.0.0.1 ]\n"));
    let ask = |proto: &str| format!("GET / HTTP/1.1\r\nHost: shop.example\r\nX-Forwarded-Proto: {proto}\r\n\r\n");
    let (head, _) = Peer::sending(stickpin.front(), ask("http")).await.reply().await;
    assert_eq!((head.status(), head.value("location")), (308, Some("https://shop.example/")));
    let (head, _) = Peer::sending(stickpin.front(), ask("https")).await.reply().await;
    assert_eq!(head.status(), 200, "it came by https to the proxy before us");
    assert_eq!(head.value("strict-transport-security"), Some("max-age=86400"));
}
