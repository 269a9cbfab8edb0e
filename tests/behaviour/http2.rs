//! HTTP/2 from clients, to backends that speak HTTP/1.1.

use std::time::Duration;

use bytes::Bytes;
use h2::{Ping, Reason};
use http::{HeaderMap, HeaderValue, Request};

use crate::support::http2::{
    END_HEADERS, END_STREAM, Frames, Http2Client, block, frame, get, get_frame, head, kind, whole,
};
use crate::support::made::{Ca, days};
use crate::support::raw::{Backend, Peer, Recorder, config, front};
use crate::support::tls::{Files, TlsClient};
use crate::support::{PATIENCE, Stickpin};

use super::tls::secured;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn a_client_that_knows_of_http2_begins_with_its_preface() {
    let backend = Recorder::start().await;
    let stickpin = front(backend.address());
    let mut client = Http2Client::connect(stickpin.front()).await;
    for path in ["/a?b=c", "/d"] {
        let reply = client.get(path).await;
        assert_eq!((reply.status, &*reply.body), (200, &b"ok"[..]));
        assert_eq!(reply.value("content-length"), Some("2"));
        assert_eq!(reply.value("connection"), None);
        assert_eq!(backend.last_head().first_line(), format!("GET {path} HTTP/1.1"));
    }
    assert_eq!(
        (backend.last_head().value("host"), backend.last_head().value("via")),
        (Some("x"), Some("2.0 stickpin"))
    );
    let mut client = Peer::connect(stickpin.front()).await;
    assert_eq!(client.reply_to("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await, 200, "HTTP/1.1 goes on at the same port");
}

#[tokio::test]
async fn within_tls_the_protocol_is_agreed_on() {
    let (backend, files) = (Recorder::start().await, Files::new());
    let item = files.certificate("shop", &Ca::new("ca").server(&["shop.example"], days(-1, 1)));
    let stickpin = secured(backend.address(), &format!("certificates: [ {item} ]"));
    let connecting = TlsClient::new().offering(&["h2", "http/1.1"]);
    let peer = connecting.connect(stickpin.front(), "shop.example").await.expect("a connection");
    assert_eq!(peer.protocol(), Some(&b"h2"[..]));
    let mut client = Http2Client::over(peer.into_io(), &mut h2::client::Builder::new()).await;
    let request = Request::builder().uri("https://shop.example/a").body(()).expect("a request");
    let reply = client.ask(request).await.expect("a reply");
    assert_eq!((reply.status, &*reply.body), (200, &b"ok"[..]));
    let head = backend.last_head();
    assert_eq!((head.value("host"), head.value("x-forwarded-proto")), (Some("shop.example"), Some("https")));
    let older = TlsClient::new().connect(stickpin.front(), "shop.example").await.expect("a connection");
    assert_eq!(older.protocol(), Some(&b"http/1.1"[..]));
}

/// A request with these lines.
fn asking(method: &str, uri: &str, lines: &[(&str, &str)]) -> Request<()> {
    let request = Request::builder().method(method).uri(uri);
    lines.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(()).expect("a request")
}

fn post(lines: &[(&str, &str)]) -> Request<()> {
    asking("POST", "http://x/", lines)
}

#[tokio::test]
async fn a_listener_without_http2_takes_no_preface_and_offers_none() {
    let (backend, files) = (Recorder::start().await, Files::new());
    let item = files.certificate("shop", &Ca::new("ca").server(&["shop.example"], days(-1, 1)));
    let tls = format!("tls: {{ certificates: [ {item} ] }}");
    let secured = Stickpin::start(&config(backend.address(), &[&tls, "http2: off"], &[]));
    let connecting = TlsClient::new().offering(&["h2", "http/1.1"]);
    let peer = connecting.connect(secured.front(), "shop.example").await.expect("a connection");
    assert_eq!(peer.protocol(), Some(&b"http/1.1"[..]));
    let plain = Stickpin::start(&config(backend.address(), &["http2: off"], &[]));
    let mut peer = Peer::sending(plain.front(), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let (read, _) = peer.end().await;
    assert!(read.is_empty() || read.starts_with(b"HTTP/1.1 "), "{}", read.escape_ascii());
}

#[tokio::test]
async fn replies_overtake_one_another() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = Http2Client::connect(stickpin.front()).await;
    let (first, _) = client.begin(get("/first"), true).await;
    let (mut at_first, _) = backend.request().await;
    let (second, _) = client.begin(get("/second"), true).await;
    let (mut at_second, head) = backend.request().await;
    assert_eq!(head.first_line(), "GET /second HTTP/1.1");
    at_second.send(OK).await;
    assert_eq!(whole(second).await.expect("a reply").status, 200);
    at_first.send(OK).await;
    assert_eq!(whole(first).await.expect("a reply").status, 200);
}

#[tokio::test]
async fn bodies_and_trailers_stream_both_ways_at_once() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = Http2Client::connect(stickpin.front()).await;
    let (reply, mut body) = client.begin(post(&[("te", "trailers")]), false).await;
    body.send_data(Bytes::from_static(b"one"), false).expect("an open stream");
    let (mut at_backend, request) = backend.request().await;
    assert_eq!((request.value("transfer-encoding"), request.value("te")), (Some("chunked"), Some("trailers")));
    assert_eq!(at_backend.exactly(6).await, b"3\r\none");
    at_backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n3\r\nuno\r\n").await;
    let mut reply = head(reply).await.expect("a head").into_body();
    assert_eq!(reply.data().await.expect("a piece").expect("an open stream"), "uno");
    body.send_data(Bytes::from_static(b"two"), false).expect("an open stream");
    assert_eq!(at_backend.exactly(8).await, b"\r\n3\r\ntwo");
    at_backend.send("3\r\ndue\r\n").await;
    assert_eq!(reply.data().await.expect("a piece").expect("an open stream"), "due");
    body.send_trailers(HeaderMap::from_iter([("x-end".parse().expect("a name"), HeaderValue::from_static("1"))]))
        .expect("an open stream");
    assert_eq!(at_backend.through(b"\r\n\r\n").await, b"\r\n0\r\nx-end: 1\r\n\r\n");
    // What is for one hop only has no place in HTTP/2, and would end the stream in an error.
    at_backend.send("0\r\nx-sum: 6\r\nConnection: close\r\nTE: gzip\r\n\r\n").await;
    while let Some(data) = reply.data().await {
        assert!(data.expect("an open stream").is_empty());
    }
    assert_eq!(reply.trailers().await.expect("an open stream").expect("trailers")["x-sum"], "6");
}

#[tokio::test]
async fn a_request_of_known_length_is_passed_on_as_such() {
    let backend = Recorder::start().await;
    let stickpin = front(backend.address());
    let mut client = Http2Client::connect(stickpin.front()).await;
    let (reply, mut body) = client.begin(post(&[("content-length", "5")]), false).await;
    body.send_data(Bytes::from_static(b"hello"), true).expect("an open stream");
    assert_eq!(whole(reply).await.expect("a reply").status, 200);
    let (head, body) = backend.heard().requests.pop().expect("a request");
    assert_eq!(
        (head.value("content-length"), head.value("transfer-encoding"), &*body),
        (Some("5"), None, &b"hello"[..])
    );
}

#[tokio::test]
async fn a_length_that_does_not_hold_is_an_error_of_the_stream_alone() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = Http2Client::connect(stickpin.front()).await;
    let (reply, mut body) = client.begin(post(&[("content-length", "5")]), false).await;
    body.send_data(Bytes::from_static(b"hi"), true).expect("an open stream");
    let error = whole(reply).await.expect_err("not a request");
    assert_eq!(error.reason(), Some(Reason::PROTOCOL_ERROR));
    let (reply, _) = client.begin(get("/"), true).await;
    loop {
        let (mut at_backend, head) = backend.request().await;
        if head.first_line().starts_with("GET") {
            at_backend.send(OK).await;
            break;
        }
    }
    assert_eq!(whole(reply).await.expect("a reply").status, 200);
}

#[tokio::test]
async fn what_a_request_may_not_be_is_refused() {
    let backend = Recorder::start().await;
    let stickpin = front(backend.address());
    let mut client = Http2Client::connect(stickpin.front()).await;
    let status = async |client: &mut Http2Client, request| client.ask(request).await.expect("a reply").status;
    assert_eq!(status(&mut client, asking("GET", "http://x/", &[("host", "x")])).await, 200);
    assert_eq!(status(&mut client, asking("GET", "http://x/", &[("host", "y")])).await, 400);
    assert_eq!(status(&mut client, asking("CONNECT", "x:443", &[])).await, 405);
    assert_eq!(backend.heard().requests.len(), 1);
    for (name, value) in [("connection", "close"), ("transfer-encoding", "chunked"), ("upgrade", "x"), ("te", "gzip")] {
        let mut frames = Frames::connect(stickpin.front()).await;
        let lines = [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", "/"), (name, value)];
        let request = frame(kind::HEADERS, END_STREAM | END_HEADERS, 1, &block(&lines));
        frames.send(&request).await.expect("an open connection");
        let reset = frames.next_of(kind::RST_STREAM).await.expect("the stream is reset");
        assert_eq!(reset.payload, 1_u32.to_be_bytes(), "PROTOCOL_ERROR for {name}");
    }
    assert_eq!(backend.heard().requests.len(), 1);
}

#[tokio::test]
async fn crumbs_of_a_cookie_are_one_line_and_the_pin_is_found_among_them() {
    let backend = Recorder::start().await;
    let stickpin = front(backend.address());
    let mut client = Http2Client::connect(stickpin.front()).await;
    let pin = client.get("/").await.value("set-cookie").expect("a pin").split(';').next().expect("a cookie").to_owned();
    let request = asking("GET", "http://x/", &[("cookie", "a=1"), ("cookie", &pin), ("cookie", "b=2")]);
    let reply = client.ask(request).await.expect("a reply");
    assert_eq!(reply.value("set-cookie"), None, "the pin was found");
    assert_eq!(backend.last_head().values("cookie"), ["a=1; b=2"]);
}

#[tokio::test]
async fn each_stream_goes_to_the_home_of_its_own_pin() {
    let (red, green) = (Recorder::start().await, Recorder::start().await);
    let stickpin = Stickpin::start(&format!(
        "workers: 1\naccess_log: off\nlisteners: [ 127.0.0.1:0 ]\npools:\n  app:\n    health: off\n    \
         balance: round_robin\n    backends:\n      - {{ name: red, address: \"{}\" }}\n      - {{ name: green, address: \
         \"{}\" }}\n",
        red.address(),
        green.address()
    ));
    let mut client = Http2Client::connect(stickpin.front()).await;
    let mut pins = Vec::new();
    for _ in 0..2 {
        let reply = client.get("/").await;
        pins.push(reply.value("set-cookie").expect("a pin").split(';').next().expect("a cookie").to_owned());
    }
    let begun = (red.heard().requests.len(), green.heard().requests.len());
    assert_eq!(begun, (1, 1));
    for (count, pin) in [(5, &pins[0]), (3, &pins[1])] {
        for _ in 0..count {
            client.ask(asking("GET", "http://x/", &[("cookie", pin)])).await.expect("a reply");
        }
    }
    let mut seen = [red.heard().requests.len(), green.heard().requests.len()];
    seen.sort_unstable();
    assert_eq!(seen, [4, 6]);
}

#[tokio::test]
async fn replies_without_a_body_have_none() {
    for (method, reply, status, length) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, Some("5")),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", 204, None),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, Some("5")),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\nKeep-Alive: x\r\n\r\n", 200, Some("0")),
    ] {
        let backend = Recorder::replying(reply).await;
        let stickpin = front(backend.address());
        let mut client = Http2Client::connect(stickpin.front()).await;
        let found = client.ask(asking(method, "http://x/", &[])).await.expect("a reply");
        assert_eq!((found.status, &*found.body, found.value("content-length")), (status, &b""[..], length), "{reply}");
        assert!(found.value("connection").is_none() && found.value("keep-alive").is_none());
    }
    let stickpin = front("127.0.0.1:1");
    let mut client = Http2Client::connect(stickpin.front()).await;
    let reply = client.ask(asking("HEAD", "http://x/", &[])).await.expect("a reply");
    assert_eq!((reply.status, &*reply.body), (503, &b""[..]));
    assert_eq!(client.get("/").await.body, b"503 Service Unavailable\n");
}

#[tokio::test]
async fn early_hints_come_before_the_reply() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = Frames::connect(stickpin.front()).await;
    client.send(&get_frame(1, "/")).await.expect("an open connection");
    let (mut at_backend, _) = backend.request().await;
    at_backend.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n").await;
    let hints = client.next_of(kind::HEADERS).await.expect("hints");
    assert_eq!(hints.flags & END_STREAM, 0);
    at_backend.send(OK).await;
    let reply = client.next_of(kind::HEADERS).await.expect("a reply");
    assert_eq!(reply.flags & END_STREAM, 0);
    assert_eq!(client.next_of(kind::DATA).await.expect("a body").payload, b"ok");
}

#[tokio::test]
async fn a_client_that_waits_for_100_gets_it_when_the_backend_wants_the_body() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = Frames::connect(stickpin.front()).await;
    let lines =
        [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", "/"), ("expect", "100-continue")];
    client.send(&frame(kind::HEADERS, END_HEADERS, 1, &block(&lines))).await.expect("an open connection");
    let (mut at_backend, head) = backend.request().await;
    assert_eq!(head.value("expect"), Some("100-continue"));
    at_backend.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    let hint = client.next_of(kind::HEADERS).await.expect("100");
    // `:status` is not in the static table with this value, so it stands there as it is.
    assert!(memchr::memmem::find(&hint.payload, b"100").is_some() || hint.flags & END_STREAM == 0);
    client.send(&frame(kind::DATA, END_STREAM, 1, b"hello")).await.expect("an open connection");
    at_backend.through(b"5\r\nhello\r\n0\r\n\r\n").await;
    at_backend.send(OK).await;
    assert_eq!(client.next_of(kind::DATA).await.expect("a body").payload, b"ok");
}

#[tokio::test]
async fn a_reply_that_breaks_off_resets_its_stream_and_no_other() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = Http2Client::connect(stickpin.front()).await;
    let (reply, _) = client.begin(get("/broken"), true).await;
    let (mut at_backend, _) = backend.request().await;
    at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    let mut reply = head(reply).await.expect("a head").into_body();
    assert_eq!(reply.data().await.expect("a piece").expect("an open stream"), "half");
    drop(at_backend);
    let error = reply.data().await.expect("not the end").expect_err("broken");
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    let (reply, _) = client.begin(get("/"), true).await;
    let (mut at_backend, _) = backend.request().await;
    at_backend.send(OK).await;
    assert_eq!(whole(reply).await.expect("a reply").status, 200);
}

#[tokio::test]
async fn a_client_that_resets_a_stream_takes_its_request_along() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = Http2Client::connect(stickpin.front()).await;
    for answers in [false, true] {
        let (reply, mut stream) = client.begin(get("/"), true).await;
        let (mut at_backend, _) = backend.request().await;
        if answers {
            at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
            head(reply).await.expect("a head");
        }
        stickpin.until_in_flight(1).await;
        stream.send_reset(Reason::CANCEL);
        at_backend.gone().await;
        stickpin.until_in_flight(0).await;
    }
    assert!(!client.is_over());
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_neither_the_others_nor_the_backend() {
    let backend = Backend::start().await;
    let stickpin = Stickpin::start(&config(backend.address(), &[], &["timeouts: { idle: 1s }"]));
    let mut client = Http2Client::connect(stickpin.front()).await;
    let (reply, _) = client.begin(get("/large"), true).await;
    let (mut at_large, _) = backend.request().await;
    // The window of a stream is less than that of the connection: 65535 bytes are on their way, and no more.
    at_large.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 8 << 20)).await;
    let unread = head(reply).await.expect("a head").into_body();
    let mut others = Http2Client::connect(stickpin.front()).await;
    let (reply, _) = others.begin(get("/"), true).await;
    let (mut at_others, _) = backend.request().await;
    at_others.send(OK).await;
    assert_eq!(whole(reply).await.expect("a reply").status, 200);
    for _ in 0..2 {
        let (reply, _) = others.begin(get("/"), true).await;
        at_others.head().await;
        at_others.send(OK).await;
        assert_eq!(whole(reply).await.expect("a reply").status, 200);
    }
    let sending = tokio::spawn(async move {
        let _ = at_large.try_send(vec![b'x'; 8 << 20]).await;
        at_large.gone().await;
    });
    tokio::time::timeout(PATIENCE, sending).await.expect("the backend is let go").expect("no panic");
    stickpin.until_in_flight(0).await;
    drop(unread);
}

#[tokio::test]
async fn a_slow_backend_slows_its_client_and_not_the_other_streams() {
    let backend = Backend::start().await;
    let stickpin = Stickpin::start(&config(backend.address(), &["http2: { stream_window: 64KiB }"], &[]));
    let mut client = Http2Client::connect(stickpin.front()).await;
    let (reply, mut body) = client.begin(post(&[]), false).await;
    let (mut at_slow, _) = backend.request().await;
    body.reserve_capacity(64 << 20);
    let mut sent = 0;
    // As much as kernel and window take; then the client is told to wait.
    while let Ok(Some(room)) =
        tokio::time::timeout(Duration::from_millis(500), std::future::poll_fn(|cx| body.poll_capacity(cx))).await
    {
        let room = room.expect("an open stream").min(16 << 10);
        body.send_data(Bytes::from(vec![b'x'; room]), false).expect("an open stream");
        sent += room;
        assert!(sent < 60 << 20, "nobody slows the client down");
    }
    let (other, _) = client.begin(get("/"), true).await;
    let (mut at_other, _) = backend.request().await;
    at_other.send(OK).await;
    assert_eq!(whole(other).await.expect("a reply").status, 200);
    body.send_data(Bytes::new(), true).expect("an open stream");
    at_slow.through(b"\r\n0\r\n\r\n").await;
    at_slow.send(OK).await;
    assert_eq!(whole(reply).await.expect("a reply").status, 200);
}

#[tokio::test]
async fn more_streams_than_may_be_are_refused_and_may_come_again() {
    let backend = Backend::start().await;
    let stickpin = Stickpin::start(&config(backend.address(), &["http2: { max_streams: 2 }"], &[]));
    let mut client = Frames::connect(stickpin.front()).await;
    let requests = [1, 3, 5].map(|stream| get_frame(stream, "/"));
    client.send(&requests.concat()).await.expect("an open connection");
    let reset = client.next_of(kind::RST_STREAM).await.expect("a refusal");
    assert_eq!((reset.stream, &*reset.payload), (5, &7_u32.to_be_bytes()[..]), "REFUSED_STREAM");
    for _ in 0..2 {
        let (mut at_backend, _) = backend.request().await;
        at_backend.send(OK).await;
        assert_eq!(client.next_of(kind::DATA).await.expect("a body").payload, b"ok");
    }
}

#[tokio::test]
async fn a_connection_that_asks_nothing_is_closed_in_order() {
    let backend = Recorder::start().await;
    let stickpin =
        Stickpin::start(&config(backend.address(), &["keep_alive_timeout: 200ms", "header_timeout: 300ms"], &[]));
    let mut used = Frames::connect(stickpin.front()).await;
    used.send(&get_frame(1, "/")).await.expect("an open connection");
    for mut client in [used, Frames::connect(stickpin.front()).await] {
        let goaway = client.next_of(kind::GOAWAY).await.expect("a word");
        assert_eq!(goaway.payload[4..8], [0; 4], "NO_ERROR");
        while client.next().await.is_some() {}
    }
    let mut silent = Peer::sending(stickpin.front(), "PRI * HT").await;
    silent.gone().await;
}

#[tokio::test]
async fn a_stop_lets_streams_end_and_says_which_were_not_looked_at() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let front = stickpin.front();
    let mut client = Http2Client::connect(front).await;
    let mut idle = Http2Client::connect(front).await;
    let (reply, _) = client.begin(get("/"), true).await;
    let (mut at_backend, _) = backend.request().await;
    let (_, first) = tokio::join!(idle.begin(get("/warm"), true), backend.request());
    let mut at_idle = first.0;
    at_idle.send(OK).await;
    let stop = tokio::task::spawn_blocking(move || stickpin.stop(PATIENCE));
    idle.ended().await.expect("in order");
    at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nla").await;
    let mut reply = head(reply).await.expect("a head").into_body();
    assert_eq!(reply.data().await.expect("a piece").expect("an open stream"), "la");
    at_backend.send("st").await;
    assert_eq!(reply.data().await.expect("a piece").expect("an open stream"), "st");
    client.ended().await.expect("in order");
    stop.await.expect("no panic");
}

#[tokio::test]
async fn a_ping_is_answered() {
    let backend = Recorder::start().await;
    let stickpin = front(backend.address());
    let io = tokio::net::TcpStream::connect(stickpin.front()).await.expect("somebody listens");
    let (_requests, mut connection) = h2::client::handshake(io).await.expect("HTTP/2 is spoken");
    let mut pings = connection.ping_pong().expect("nobody has it");
    let task = tokio::spawn(connection);
    tokio::time::timeout(PATIENCE, pings.ping(Ping::opaque())).await.expect("an answer").expect("an open connection");
    task.abort();
}

#[tokio::test]
async fn a_client_may_end_a_body_that_nobody_wants_any_more() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = Http2Client::connect(stickpin.front()).await;
    let (reply, mut body) = client.begin(post(&[]), false).await;
    let (mut at_backend, _) = backend.request().await;
    at_backend.send("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno").await;
    drop(at_backend);
    let reply = whole(reply).await.expect("a reply");
    assert_eq!((reply.status, &*reply.body), (413, &b"no"[..]));
    // More than the windows have room for.
    for _ in 0..40 {
        body.reserve_capacity(16 << 10);
        let room = std::future::poll_fn(|cx| body.poll_capacity(cx));
        let room = tokio::time::timeout(PATIENCE, room).await.expect("room").expect("a stream").expect("no reset");
        body.send_data(Bytes::from(vec![b'x'; room.min(16 << 10)]), false).expect("an open stream");
    }
    body.send_data(Bytes::new(), true).expect("an open stream");
}
