//! Nobody waits for ever, and nobody who makes progress is cut off. Only whether a limit acts is tested, not how exactly:
//! limits that must act are short, limits that must not are long.

use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::time::Instant;

use crate::support::raw::{Backend, End, Peer, Recorder, config, front};
use crate::support::{Stickpin, until};

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn with(backend: &Backend, listener: &[&str], timeouts: &str) -> Stickpin {
    Stickpin::start(&config(backend.address(), listener, &[&format!("timeouts: {{ {timeouts} }}")]))
}

/// A reply with `408`, and the end.
async fn is_told_408(client: &mut Peer) {
    let (rest, _) = client.end().await;
    let text = String::from_utf8_lossy(&rest);
    assert!(text.starts_with("HTTP/1.1 408 ") && text.contains("connection: close"), "{text:?}");
}

#[tokio::test]
async fn a_head_that_does_not_come_to_its_end_is_told_408_however_it_trickles() {
    let backend = Recorder::start().await;
    let stickpin = Stickpin::start(&config(backend.address(), &["header_timeout: 300ms"], &[]));
    let mut client = Peer::sending(stickpin.front(), "GET /evil HTTP/1.1\r\nHo").await;
    is_told_408(&mut client).await;
    // On a connection that had a request before, too.
    let mut client = Peer::sending(stickpin.front(), GET).await;
    client.reply().await;
    client.send("GET /evil HTTP/1.1\r\nHo").await;
    is_told_408(&mut client).await;
    // A byte now and then does not help.
    let mut client = Peer::sending(stickpin.front(), "GET /evil HTTP/1.1\r\nA: ").await;
    for _ in 0..1000 {
        if !client.is_silent() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        let _ = client.try_send("a").await;
    }
    client.gone().await;
    assert!(backend.heard().requests.iter().all(|(head, _)| !head.0.contains("evil")));
}

#[tokio::test]
async fn a_client_that_never_says_anything_is_let_go_without_a_word() {
    let backend = Backend::start().await;
    let stickpin = with(&backend, &["header_timeout: 200ms"], "connect: 1s");
    let mut client = Peer::connect(stickpin.front()).await;
    assert_eq!(client.end().await, (Vec::new(), End::Closed));
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_order() {
    let backend = Recorder::start().await;
    let stickpin = Stickpin::start(&config(backend.address(), &["keep_alive_timeout: 200ms"], &[]));
    for request in [GET, "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"] {
        let mut client = Peer::sending(stickpin.front(), request).await;
        client.head().await;
        assert_eq!(client.end().await.1, End::Closed, "{request}");
    }
}

#[tokio::test]
async fn a_backend_that_does_not_begin_to_reply_costs_504_and_no_second_try() {
    let backend = Backend::start().await;
    let stickpin = with(&backend, &[], "first_byte: 200ms");
    for request in [GET, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"] {
        let mut client = Peer::sending(stickpin.front(), request).await;
        let (mut at_backend, _) = backend.request().await;
        let (head, body) = client.reply().await;
        assert_eq!((head.status(), &*body), (504, "504 Gateway Timeout\n"));
        at_backend.gone().await;
        assert!(backend.is_untouched().await);
        // The client's connection is in order.
        client.send("GET /next HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let (mut at_backend, _) = backend.request().await;
        at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        assert_eq!(client.head().await.status(), 200);
    }
}

#[tokio::test]
async fn a_reply_that_stands_still_is_broken_off_with_a_reset() {
    let backend = Backend::start().await;
    let stickpin = with(&backend, &[], "idle: 200ms");
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked", "X-Until: close"] {
        for request in [GET, "GET / HTTP/1.0\r\n\r\n"] {
            let mut client = Peer::sending(stickpin.front(), request).await;
            let (mut at_backend, _) = backend.request().await;
            at_backend.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n5\r\nhello\r\n")).await;
            client.through(b"hello").await;
            assert_eq!(client.end().await.1, End::Reset, "{framing} {request}");
            at_backend.gone().await;
        }
    }
}

#[tokio::test]
async fn a_client_that_stops_sending_its_body_is_told_408() {
    let backend = Backend::start().await;
    let stickpin = with(&backend, &[], "idle: 200ms");
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let request = format!("POST / HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n5\r\nhello\r\n");
        let mut client = Peer::sending(stickpin.front(), request).await;
        let (mut at_backend, _) = backend.request().await;
        at_backend.through(b"hello").await;
        is_told_408(&mut client).await;
        let (rest, _) = at_backend.end().await;
        assert!(memchr::memmem::find(&rest, b"0\r\n\r\n").is_none(), "{}", rest.escape_ascii());
    }
}

#[tokio::test]
async fn a_backend_that_stops_reading_a_body_is_to_blame_and_not_the_client() {
    let backend = Backend::start().await;
    let stickpin = with(&backend, &[], "idle: 1s");
    // Made first: a client that is busy with that looks like one that has stopped.
    let body = vec![b'a'; 32 * 1024 * 1024];
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut client = Peer::sending(stickpin.front(), head).await;
    let (at_backend, _) = backend.request().await;
    let _ = client.try_send(body).await;
    let (rest, _) = client.end().await;
    let text = String::from_utf8_lossy(&rest);
    assert!(text.starts_with("HTTP/1.1 504 "), "{text:?}");
    drop(at_backend);
}

#[tokio::test]
async fn a_body_that_moves_keeps_a_waiting_reply_alive() {
    let backend = Backend::start().await;
    let stickpin = with(&backend, &[], "idle: 2s");
    let request = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = Peer::sending(stickpin.front(), request).await;
    let (mut at_backend, _) = backend.request().await;
    at_backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.head().await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        client.send("4\r\ntick\r\n").await;
        at_backend.through(b"tick").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    client.send("0\r\n\r\n").await;
    at_backend.through(b"0\r\n\r\n").await;
    at_backend.send("2\r\nok\r\n0\r\n\r\n").await;
    assert_eq!(client.exactly(12).await, b"2\r\nok\r\n0\r\n\r\n");
}

#[tokio::test]
async fn the_limit_for_the_whole_request_holds_before_and_within_the_reply() {
    let backend = Backend::start().await;
    let stickpin = with(&backend, &[], "request: 500ms");
    let mut client = Peer::sending(stickpin.front(), GET).await;
    let (mut at_backend, _) = backend.request().await;
    assert_eq!(client.reply().await.0.status(), 504);
    at_backend.gone().await;
    let mut client = Peer::sending(stickpin.front(), GET).await;
    let (mut at_backend, _) = backend.request().await;
    at_backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.head().await;
    // It moves all the time, and that does not help.
    let ticking = async {
        while at_backend.try_send("4\r\ntick\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ((), (_, end)) = tokio::join!(ticking, client.end());
    assert_eq!(end, End::Reset);
}

#[tokio::test]
async fn a_backend_that_takes_no_connection_costs_503() {
    // A listener whose queue is full: the system drops whoever comes next, as a host that is gone would.
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    full.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a loopback port is free");
    full.listen(0).expect("a bound socket");
    let address = full.local_addr().ok().and_then(|address| address.as_socket()).expect("an IPv4 address");
    let patience = Duration::from_millis(500);
    let queued: Vec<_> =
        std::iter::from_fn(|| std::net::TcpStream::connect_timeout(&address, patience).ok()).take(100).collect();
    assert!(queued.len() < 100, "the queue has no end");
    let stickpin = Stickpin::start(&config(address, &[], &["timeouts: { connect: 300ms }"]));
    let mut client = Peer::sending(stickpin.front(), GET).await;
    let (head, body) = client.reply().await;
    assert_eq!((head.status(), &*body), (503, "503 Service Unavailable\n"));
}

#[tokio::test]
async fn a_client_that_reads_slowly_but_steadily_gets_all_of_a_long_reply() {
    const LENGTH: usize = 32 * 1024 * 1024;
    let backend = Backend::start().await;
    let stickpin = with(&backend, &["keep_alive_timeout: 200ms", "header_timeout: 200ms"], "idle: 3s");
    let mut client = Peer::connect(stickpin.front()).await;
    client.take_little();
    client.send(GET).await;
    let (mut at_backend, _) = backend.request().await;
    let sending = async {
        at_backend.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n")).await;
        at_backend.send(vec![b'a'; LENGTH]).await;
    };
    let reading = async {
        client.head().await;
        for _ in 0..LENGTH / (64 * 1024) {
            client.exactly(64 * 1024).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::join!(sending, reading);
}

#[tokio::test]
async fn a_client_that_stops_reading_is_let_go() {
    let backend = Backend::start().await;
    let stickpin = with(&backend, &[], "idle: 300ms");
    let client = Peer::connect(stickpin.front()).await;
    client.take_little();
    let mut client = client;
    client.send(GET).await;
    let (mut at_backend, _) = backend.request().await;
    at_backend.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 256 * 1024 * 1024)).await;
    let piece = vec![b'a'; 1024 * 1024];
    for _ in 0..256 {
        if at_backend.try_send(&piece).await.is_err() {
            break;
        }
    }
    at_backend.gone().await;
    assert_eq!(client.end().await.1, End::Reset);
}

/// Where a client stops reading close to the end, all of the reply may have been handed over, and only what was not
/// written yet is lost. Whatever the system's buffers hold, a part must not look like the whole.
#[tokio::test]
async fn a_client_that_stops_reading_near_the_end_never_takes_a_part_for_the_whole() {
    let backend = Backend::start().await;
    let stickpin = with(&backend, &["keep_alive_timeout: 200ms"], "idle: 200ms");
    let mut stuck = Vec::new();
    for step in 1..=24 {
        let length = step * 150 * 1024;
        let mut client = Peer::connect(stickpin.front()).await;
        client.take_little();
        client.send("GET / HTTP/1.0\r\n\r\n").await;
        let (mut at_backend, _) = backend.request().await;
        // Without a length towards the client, only the end of the connection tells the end of the reply.
        at_backend.send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n")).await;
        let _ = at_backend.try_send(vec![b'a'; length]).await;
        let _ = at_backend.try_send("\r\n0\r\n\r\n").await;
        stuck.push((client, length));
    }
    let mut admin = stickpin.admin();
    until("Stickpin has let go of every client", async || {
        let open = admin.metric("stickpin_connections", &[]).await;
        if open == 0.0 { Ok(()) } else { Err(open) }
    })
    .await;
    for (mut client, length) in stuck {
        let (reply, end) = client.end().await;
        let head = memchr::memmem::find(&reply, b"\r\n\r\n").map_or(0, |at| at + 4);
        let received = reply.len() - head;
        assert!(end == End::Reset || received == length, "{received} of {length} bytes, and then {end:?}");
    }
}

#[tokio::test]
async fn within_the_limits_nothing_is_cut() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = Peer::connect(stickpin.front()).await;
    let mut connection = None;
    for _ in 0..3 {
        for piece in GET.as_bytes().chunks(7) {
            client.send(piece).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let at_backend = match &mut connection {
            Some(connection) => connection,
            None => connection.insert(backend.accept().await),
        };
        at_backend.head().await;
        for piece in OK.as_bytes().chunks(7) {
            at_backend.send(piece).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(client.reply().await.1, "ok");
    }
}
