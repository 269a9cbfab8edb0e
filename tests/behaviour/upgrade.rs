//! A connection that switches to another protocol becomes a tunnel.

use crate::support::Stickpin;
use crate::support::raw::{Backend, End, Peer, config, front};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Both ends of an open tunnel.
async fn tunnel(stickpin: &Stickpin, backend: &Backend) -> (Peer, Peer) {
    let mut client = Peer::sending(stickpin.front(), UPGRADE).await;
    let (mut at_backend, _) = backend.request().await;
    at_backend.send(SWITCHING).await;
    assert_eq!(client.head().await.status(), 101);
    (client, at_backend)
}

#[tokio::test]
async fn after_101_bytes_pass_both_ways_those_right_behind_the_heads_included() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = Peer::sending(stickpin.front(), format!("{UPGRADE}early client")).await;
    let (mut at_backend, head) = backend.request().await;
    assert_eq!((head.value("connection"), head.value("upgrade")), (Some("upgrade"), Some("websocket")));
    assert_eq!(head.value("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    at_backend.send(format!("{SWITCHING}early backend")).await;
    let head = client.head().await;
    assert_eq!(head.status(), 101);
    assert_eq!((head.value("connection"), head.value("upgrade")), (Some("Upgrade"), Some("websocket")));
    assert_eq!(head.value("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!((head.value("content-length"), head.value("transfer-encoding")), (None, None));
    assert!(head.value("set-cookie").is_some(), "a WebSocket can be a client's first request");
    assert_eq!(client.exactly(13).await, b"early backend");
    assert_eq!(at_backend.exactly(12).await, b"early client");
    for _ in 0..3 {
        client.send("\x01ping\0\r\n\r\n").await;
        assert_eq!(at_backend.exactly(10).await, b"\x01ping\0\r\n\r\n");
        at_backend.send("\x01pong\0\r\n\r\n").await;
        assert_eq!(client.exactly(10).await, b"\x01pong\0\r\n\r\n");
    }
}

#[tokio::test]
async fn a_tunnel_counts_as_in_flight_until_it_is_closed() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let (client, mut at_backend) = tunnel(&stickpin, &backend).await;
    stickpin.until_in_flight(1).await;
    let (second, _) = tunnel(&stickpin, &backend).await;
    stickpin.until_in_flight(2).await;
    drop(client);
    at_backend.gone().await;
    drop(at_backend);
    stickpin.until_in_flight(1).await;
    drop(second);
    stickpin.until_in_flight(0).await;
}

#[tokio::test]
async fn either_side_can_stop_sending_and_go_on_reading() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let (mut client, mut at_backend) = tunnel(&stickpin, &backend).await;
    client.send("last words").await;
    client.finish().await;
    assert_eq!(at_backend.end().await, (b"last words".to_vec(), End::Closed));
    at_backend.send("an answer").await;
    at_backend.finish().await;
    assert_eq!(client.end().await, (b"an answer".to_vec(), End::Closed));
    stickpin.until_in_flight(0).await;

    let (mut client, mut at_backend) = tunnel(&stickpin, &backend).await;
    at_backend.send("last words").await;
    at_backend.finish().await;
    assert_eq!(client.end().await, (b"last words".to_vec(), End::Closed));
    client.send("an answer").await;
    client.finish().await;
    assert_eq!(at_backend.end().await, (b"an answer".to_vec(), End::Closed));
    stickpin.until_in_flight(0).await;
}

#[tokio::test]
async fn a_tunnel_carries_megabytes_at_once_in_both_directions() {
    const LENGTH: usize = 4 * 1024 * 1024;
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let (mut client, mut at_backend) = tunnel(&stickpin, &backend).await;
    let (there, back) = (vec![b'>'; LENGTH], vec![b'<'; LENGTH]);
    let from_client = async {
        client.send(&there[..LENGTH / 2]).await;
        client.exactly(LENGTH).await
    };
    let from_backend = async {
        at_backend.exactly(LENGTH / 2).await;
        at_backend.send(&back).await;
    };
    let (received, ()) = tokio::join!(from_client, from_backend);
    assert!(received == back);
}

#[tokio::test]
async fn a_tunnel_in_which_nothing_moves_is_closed() {
    let backend = Backend::start().await;
    let stickpin = Stickpin::start(&config(backend.address(), &[], &["timeouts: { tunnel_idle: 300ms }"]));
    let (mut client, mut at_backend) = tunnel(&stickpin, &backend).await;
    client.gone().await;
    at_backend.gone().await;
    stickpin.until_in_flight(0).await;
}

#[tokio::test]
async fn a_tunnel_in_which_one_direction_moves_stays_open() {
    let backend = Backend::start().await;
    let stickpin = Stickpin::start(&config(
        backend.address(),
        &["keep_alive_timeout: 100ms", "header_timeout: 5s"],
        &["timeouts: { tunnel_idle: 2s, idle: 100ms, request: 1s }"],
    ));
    let (mut client, mut at_backend) = tunnel(&stickpin, &backend).await;
    // Longer than any of the times, in steps far shorter than the one that counts.
    for _ in 0..30 {
        at_backend.send("tick").await;
        assert_eq!(client.exactly(4).await, b"tick");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_backend_that_does_not_switch_answers_as_always() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = Peer::sending(stickpin.front(), UPGRADE).await;
    let (mut at_backend, _) = backend.request().await;
    for n in 0..2 {
        at_backend
            .send("HTTP/1.1 200 OK\r\nUpgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\nno")
            .await;
        let (head, body) = client.reply().await;
        assert_eq!((head.status(), head.value("upgrade"), head.value("connection"), &*body), (200, None, None, "no"));
        if n == 0 {
            client.send(UPGRADE).await;
            at_backend.head().await;
        }
    }
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_answered_with_502() {
    for request in [
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        let backend = Backend::start().await;
        let stickpin = Stickpin::start(&config(backend.address(), &[], &["retry: { attempts: 0 }"]));
        let mut client = Peer::sending(stickpin.front(), request).await;
        let (mut at_backend, head) = backend.request().await;
        assert_eq!((head.value("connection"), head.value("upgrade")), (None, None));
        at_backend.send(format!("{SWITCHING}evil")).await;
        assert_eq!(client.reply().await.0.status(), 502, "{request}");
        at_backend.gone().await;
    }
}

#[tokio::test]
async fn h2c_is_never_asked_for() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = Peer::connect(stickpin.front()).await;
    let mut connection = None;
    for protocol in ["h2c", "H2C", "websocket, h2c", "h2c,websocket"] {
        client
            .send(format!(
                "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {protocol}\r\n\
                 HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n"
            ))
            .await;
        let at_backend = match &mut connection {
            Some(connection) => connection,
            None => connection.insert(backend.accept().await),
        };
        let head = at_backend.head().await;
        for name in ["connection", "upgrade", "http2-settings"] {
            assert_eq!(head.value(name), None, "{protocol}");
        }
        at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        assert_eq!(client.reply().await.0.status(), 200);
    }
}
