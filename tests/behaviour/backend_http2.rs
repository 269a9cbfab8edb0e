//! HTTP/2 to backends: heads, bodies and trailers, streams and their connections, and what a backend takes back.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue};

use crate::support::http2_backend::{Allows, Http2Backend};
use crate::support::made::{Ca, days};
use crate::support::raw::{End, Peer, Recorder, config};
use crate::support::tls_backend::{TlsRecorder, server_config};
use crate::support::{Stickpin, until};

const GET: &str = "GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n";

fn front(backend: SocketAddr, pool: &[&str]) -> Stickpin {
    let pool: Vec<_> = ["protocol: h2"].into_iter().chain(pool.iter().copied()).collect();
    Stickpin::start(&config(backend, &[], &pool))
}

#[tokio::test]
async fn a_request_has_the_same_lines_as_over_http1_and_none_of_the_connection() {
    let recorder = Recorder::start().await;
    let mut backend = Http2Backend::start(Allows::default()).await;
    let head = "PUT /a?b=c HTTP/1.1\r\nHost: shop.example:81\r\nTE: trailers\r\nConnection: X-Hop, te\r\nX-Hop: 1\r\n\
                X-Own: Value\r\nCookie: a=b\r\nX-Forwarded-For: 9.9.9.9\r\nContent-Length: 2\r\n\r\nhi";
    let one = Stickpin::start(&config(recorder.address(), &[], &[]));
    Peer::sending(one.front(), head).await.reply().await;
    let two = front(backend.address(), &[]);
    let mut peer = Peer::sending(two.front(), head).await;
    let mut asked = backend.next().await;
    assert_eq!(asked.body().await.0, b"hi");
    assert_eq!(asked.request.uri().to_string(), "http://shop.example:81/a?b=c");
    let mut over_http2: Vec<_> = asked
        .request
        .headers()
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")))
        .filter(|line| !line.starts_with("x-forwarded-port") && !line.starts_with("host"))
        .collect();
    let mut over_http1: Vec<_> = recorder
        .last_head()
        .lines()
        .map(|(name, value)| format!("{name}: {value}"))
        .filter(|line| !["x-forwarded-port", "host:", "connection:"].iter().any(|start| line.starts_with(start)))
        .collect();
    over_http1.sort_unstable();
    over_http2.sort_unstable();
    assert_eq!(over_http2, over_http1);
    asked.answer("ok");
    let (head, body) = peer.reply().await;
    assert_eq!((head.status(), &*body), (200, "ok"));
}

#[tokio::test]
async fn bodies_and_trailers_pass_both_ways_at_the_same_time() {
    let mut backend = Http2Backend::start(Allows::default()).await;
    let stickpin = front(backend.address(), &[]);
    let mut peer = Peer::sending(
        stickpin.front(),
        "POST /rpc HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\nfirst\r\n",
    )
    .await;
    let mut asked = backend.next().await;
    assert_eq!((asked.value("te"), asked.value("transfer-encoding")), (Some("trailers"), None));
    assert_eq!(asked.piece().await, "first");
    let mut reply = asked.begin(200, &[("content-type", "application/grpc"), ("trailer", "grpc-status")]);
    reply.send_data(Bytes::from_static(b"one"), false).expect("the stream is open");
    assert_eq!(peer.head().await.status(), 200);
    assert_eq!(peer.exactly(8).await, b"3\r\none\r\n");
    // The request goes on, though the reply came.
    peer.send("6\r\nsecond\r\n").await;
    assert_eq!(asked.piece().await, "second");
    reply.send_data(Bytes::from_static(b"two"), false).expect("the stream is open");
    assert_eq!(peer.exactly(8).await, b"3\r\ntwo\r\n");
    peer.send("0\r\nx-checksum: 7\r\n\r\n").await;
    let (rest, trailers) = asked.body().await;
    assert!(rest.is_empty());
    assert_eq!(trailers.expect("trailers").get("x-checksum"), Some(&HeaderValue::from_static("7")));
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    reply.send_trailers(trailers).expect("the stream is open");
    assert_eq!(peer.through(b"\r\n\r\n").await, b"0\r\ngrpc-status: 0\r\n\r\n");
}

#[tokio::test]
async fn requests_share_a_connection_up_to_what_the_backend_allows() {
    let mut backend = Http2Backend::start(Allows { streams: Some(2), ..Allows::default() }).await;
    let stickpin = front(backend.address(), &[]);
    let mut peers = Vec::new();
    let mut asked = Vec::new();
    for _ in 0..3 {
        peers.push(Peer::sending(stickpin.front(), GET).await);
        asked.push(backend.next().await);
    }
    let connections: Vec<_> = asked.iter().map(|asked| asked.connection).collect();
    assert_eq!(connections, [1, 1, 2]);
    for asked in asked {
        asked.answer("ok");
    }
    for peer in &mut peers {
        assert_eq!(peer.reply().await.0.status(), 200);
    }
    peers[0].send(GET).await;
    backend.next().await.answer("ok");
    assert_eq!((peers[0].reply().await.0.status(), backend.connections()), (200, 2));
}

#[tokio::test]
async fn with_one_connection_a_request_waits_for_a_stream() {
    let mut backend = Http2Backend::start(Allows { streams: Some(1), ..Allows::default() }).await;
    let stickpin = front(backend.address(), &["max_connections: 1"]);
    let mut one = Peer::sending(stickpin.front(), GET).await;
    let first = backend.next().await;
    let mut two = Peer::sending(stickpin.front(), GET).await;
    first.answer("one");
    assert_eq!(one.reply().await.1, "one");
    backend.next().await.answer("two");
    assert_eq!(two.reply().await.1, "two");
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn what_a_backend_did_not_process_is_sent_again_whatever_it_is() {
    let mut backend = Http2Backend::start(Allows::default()).await;
    let stickpin = front(backend.address(), &[]);
    let post = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi";
    let mut peer = Peer::sending(stickpin.front(), post).await;
    let mut refused = backend.next().await;
    refused.reply.send_reset(Reason::REFUSED_STREAM);
    let mut again = backend.next().await;
    assert_eq!(again.body().await.0, b"hi");
    again.answer("ok");
    assert_eq!(peer.reply().await.0.status(), 200);

    // Under way when the backend says goodbye: it goes on. The next one goes over another connection.
    let mut slow = Peer::sending(stickpin.front(), post).await;
    let asked = backend.next().await;
    let connection = asked.connection;
    backend.go_away(connection);
    until("the backend's goodbye is heard", async || {
        peer.send(post).await;
        let asked = backend.next().await;
        let next = asked.connection;
        asked.answer("ok");
        assert_eq!(peer.reply().await.0.status(), 200);
        if next != connection { Ok(()) } else { Err(next) }
    })
    .await;
    asked.answer("late");
    assert_eq!(slow.reply().await.1, "late");
}

#[tokio::test]
async fn a_reply_that_is_reset_is_broken_for_the_client_and_one_that_is_whole_is_not() {
    let mut backend = Http2Backend::start(Allows::default()).await;
    let stickpin = front(backend.address(), &[]);
    let mut peer = Peer::sending(stickpin.front(), GET).await;
    let mut asked = backend.next().await;
    let mut reply = asked.begin(200, &[]);
    reply.send_data(Bytes::from_static(b"half"), false).expect("the stream is open");
    peer.head().await;
    peer.exactly(9).await;
    reply.send_reset(Reason::INTERNAL_ERROR);
    assert_eq!(peer.end().await.1, End::Reset);
}

#[tokio::test]
async fn a_client_that_goes_away_resets_its_stream() {
    let mut backend = Http2Backend::start(Allows::default()).await;
    let stickpin = front(backend.address(), &[]);
    let peer = Peer::sending(stickpin.front(), GET).await;
    let mut asked = backend.next().await;
    drop(peer);
    let reason = std::future::poll_fn(|cx| asked.reply.poll_reset(cx));
    let reason = tokio::time::timeout(crate::support::PATIENCE, reason).await.expect("a reset").expect("it is open");
    assert_eq!(reason, Reason::CANCEL);
}

#[tokio::test]
async fn a_client_that_does_not_read_slows_its_backend_down_and_nobody_else() {
    let mut backend = Http2Backend::start(Allows::default()).await;
    let stickpin = front(backend.address(), &[]);
    let peer = Peer::sending(stickpin.front(), GET).await;
    peer.take_little();
    let mut asked = backend.next().await;
    let mut reply = asked.begin(200, &[]);
    let long = tokio::spawn(async move {
        let mut sent = 0_usize;
        loop {
            reply.reserve_capacity(16 * 1024);
            let room = std::future::poll_fn(|cx| reply.poll_capacity(cx));
            match tokio::time::timeout(std::time::Duration::from_secs(2), room).await {
                Ok(Some(Ok(room))) => {
                    sent += room;
                    reply.send_data(Bytes::from(vec![0; room]), false).expect("the stream is open");
                }
                other => return (sent, other.is_err(), reply),
            }
        }
    });
    let (sent, has_stalled, _reply) = long.await.expect("it ends");
    assert!(has_stalled && sent < 32 << 20, "{sent} bytes");
    let mut other = Peer::sending(stickpin.front(), GET).await;
    let asked = backend.next().await;
    assert_eq!(asked.connection, 1);
    asked.answer("ok");
    assert_eq!(other.reply().await.0.status(), 200);
}

#[tokio::test]
async fn interim_replies_pass() {
    let mut backend = Http2Backend::start(Allows::default()).await;
    let stickpin = front(backend.address(), &[]);
    let mut peer = Peer::sending(stickpin.front(), GET).await;
    let mut asked = backend.next().await;
    let hints = http::Response::builder().status(103).header("link", "</a.css>").body(()).expect("a head");
    asked.reply.send_informational(hints).expect("the stream is open");
    let head = peer.head().await;
    assert_eq!((head.status(), head.value("link")), (103, Some("</a.css>")));
    asked.answer("ok");
    assert_eq!(peer.reply().await.0.status(), 200);
}

#[tokio::test]
async fn a_backend_that_speaks_something_else_is_not_sent_anything() {
    let backend = Recorder::start().await;
    let stickpin = front(backend.address(), &["timeouts: { connect: 1s }"]);
    assert_eq!(Peer::sending(stickpin.front(), GET).await.reply().await.0.status(), 503);
}

#[tokio::test]
async fn within_tls_auto_takes_what_the_backend_prefers() {
    let made = Ca::new("ca").server(&["x"], days(-1, 1));
    let auto = ["protocol: auto", "tls: { verify: false }"];
    let tls = Some(server_config(&made, None, &["h2", "http/1.1"]));
    let mut backend = Http2Backend::start(Allows { tls, ..Allows::default() }).await;
    let stickpin = Stickpin::start(&config(backend.address(), &[], &auto));
    let mut peer = Peer::sending(stickpin.front(), GET).await;
    let asked = backend.next().await;
    assert_eq!(asked.request.uri().scheme_str(), Some("https"));
    asked.answer("ok");
    assert_eq!(peer.reply().await.0.status(), 200);

    let backend = TlsRecorder::start(&made, None).await;
    let stickpin = Stickpin::start(&config(backend.address(), &[], &auto));
    let mut peer = Peer::connect(stickpin.front()).await;
    for _ in 0..3 {
        peer.send(GET).await;
        assert_eq!(peer.reply().await.0.status(), 200);
    }
    assert_eq!(backend.heard().by_connection, [3]);
    let stickpin = Stickpin::start(&config(backend.address(), &[], &["protocol: h2", "tls: { verify: false }"]));
    assert_eq!(Peer::sending(stickpin.front(), GET).await.reply().await.0.status(), 503);
}

#[tokio::test]
async fn a_websocket_goes_over_a_stream_where_the_backend_takes_it() {
    let upgrade = "GET /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut backend = Http2Backend::start(Allows { websockets: true, ..Allows::default() }).await;
    let stickpin = front(backend.address(), &[]);
    let mut peer = Peer::sending(stickpin.front(), upgrade).await;
    let mut asked = backend.next().await;
    assert_eq!(asked.request.method(), http::Method::CONNECT);
    assert_eq!(asked.request.extensions().get::<h2::ext::Protocol>().map(h2::ext::Protocol::as_str), Some("websocket"));
    assert_eq!((asked.value("sec-websocket-version"), asked.value("sec-websocket-key")), (Some("13"), None));
    let mut reply = asked.begin(200, &[]);
    let head = peer.head().await;
    assert_eq!((head.status(), head.value("upgrade")), (101, Some("websocket")));
    assert_eq!(head.value("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    peer.send("ping").await;
    assert_eq!(asked.piece().await, "ping");
    reply.send_data(Bytes::from_static(b"pong"), false).expect("the stream is open");
    assert_eq!(peer.exactly(4).await, b"pong");
    reply.send_data(Bytes::new(), true).expect("the stream is open");
    assert_eq!(peer.end().await.1, End::Closed);

    let backend = Http2Backend::start(Allows::default()).await;
    let stickpin = front(backend.address(), &[]);
    assert_eq!(Peer::sending(stickpin.front(), upgrade).await.reply().await.0.status(), 502);
}

/// Whoever waited for a stream opened one connection after the other.
#[tokio::test]
async fn a_backend_that_allows_no_streams_is_not_asked_again_and_again() {
    let backend = Http2Backend::start(Allows { streams: Some(0), ..Allows::default() }).await;
    let stickpin = front(backend.address(), &[]);
    let (head, _) = Peer::sending(stickpin.front(), GET).await.reply().await;
    assert!([502, 503].contains(&head.status()), "{}", head.status());
    assert!(backend.connections() <= 3, "{} connections", backend.connections());
}
