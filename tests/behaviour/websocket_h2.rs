//! WebSockets over HTTP/2 (RFC 8441), to backends that speak HTTP/1.1 or HTTP/2.

use std::future::poll_fn;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::Request;
use tokio::net::TcpStream;

use crate::support::http2::{Http2Client, head, whole};
use crate::support::http2_backend::{Allows, Http2Backend};
use crate::support::raw::{Backend, Head, Peer, config, front};
use crate::support::{PATIENCE, Stickpin, until};

/// A client that has heard that it may ask for WebSockets.
async fn client(stickpin: &Stickpin) -> Http2Client {
    let io = TcpStream::connect(stickpin.front()).await.expect("somebody listens");
    let mut client = Http2Client::over(io, &mut h2::client::Builder::new()).await;
    until("extended CONNECT is offered", async || if client.may_connect() { Ok(()) } else { Err("not yet") }).await;
    // Whoever asks next has one stream less to wait for.
    client.ready().await;
    client
}

fn connect(protocol: &'static str) -> Request<()> {
    Request::builder()
        .method("CONNECT")
        .uri("http://x/chat")
        .extension(Protocol::from_static(protocol))
        .header("sec-websocket-version", "13")
        .body(())
        .expect("a request")
}

/// The answer to the key of a request.
fn switching(request: &Head) -> String {
    let key = request.value("sec-websocket-key").expect("a key");
    let mut digest = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes());
    let accept = STANDARD.encode(digest.finish());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

/// Both ends of an open tunnel.
async fn tunnel(client: &mut Http2Client, backend: &Backend) -> (SendStream<Bytes>, RecvStream, Peer) {
    let (reply, send) = client.begin(connect("websocket"), false).await;
    let (mut at_backend, request) = backend.request().await;
    assert_eq!(request.first_line(), "GET /chat HTTP/1.1");
    assert_eq!((request.value("connection"), request.value("upgrade")), (Some("upgrade"), Some("websocket")));
    assert_eq!(request.value("sec-websocket-version"), Some("13"));
    at_backend.send(switching(&request)).await;
    let reply = head(reply).await.expect("a reply");
    assert_eq!(reply.status(), 200);
    for name in ["connection", "upgrade", "sec-websocket-accept", "content-length"] {
        assert!(!reply.headers().contains_key(name), "{name}");
    }
    assert!(reply.headers().contains_key("set-cookie"), "a WebSocket can be a client's first request");
    (send, reply.into_body(), at_backend)
}

async fn hear(receive: &mut RecvStream, expected: &[u8]) {
    let mut heard = Vec::new();
    while heard.len() < expected.len() {
        let data = tokio::time::timeout(PATIENCE, receive.data()).await.expect("something comes");
        let data = data.expect("not the end").expect("an open stream");
        let _ = receive.flow_control().release_capacity(data.len());
        heard.extend_from_slice(&data);
    }
    assert_eq!(heard, expected);
}

#[tokio::test]
async fn a_stream_becomes_a_tunnel_beside_others() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = client(&stickpin).await;
    let (mut send, mut receive, mut at_backend) = tunnel(&mut client, &backend).await;
    let (mut send2, mut receive2, mut at_backend2) = tunnel(&mut client, &backend).await;
    stickpin.until_in_flight(2).await;
    for _ in 0..3 {
        send.send_data(Bytes::from_static(b"ping\0"), false).expect("an open stream");
        assert_eq!(at_backend.exactly(5).await, b"ping\0");
        at_backend.send("pong\0").await;
        hear(&mut receive, b"pong\0").await;
    }
    send2.send_data(Bytes::from_static(b"bye"), true).expect("an open stream");
    assert_eq!(at_backend2.end().await.0, b"bye", "either side may end first");
    at_backend2.send("and more").await;
    hear(&mut receive2, b"and more").await;
    drop(at_backend2);
    assert!(poll_fn(|cx| receive2.poll_data(cx)).await.is_none_or(|data| data.is_ok()));
    stickpin.until_in_flight(1).await;
    send.send_reset(h2::Reason::CANCEL);
    at_backend.gone().await;
    stickpin.until_in_flight(0).await;
}

#[tokio::test]
async fn long_messages_pass_both_ways() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = client(&stickpin).await;
    let (mut send, mut receive, mut at_backend) = tunnel(&mut client, &backend).await;
    let long: Vec<u8> = (0..1 << 20).map(|at: u32| (at % 251) as u8).collect();
    let mut rest = Bytes::from(long.clone());
    let sending = async {
        while !rest.is_empty() {
            send.reserve_capacity(rest.len());
            let room = poll_fn(|cx| send.poll_capacity(cx)).await.expect("an open stream").expect("an open stream");
            send.send_data(rest.split_to(room.min(rest.len())), false).expect("an open stream");
        }
    };
    let ((), there) = tokio::join!(sending, at_backend.exactly(long.len()));
    assert!(there == long);
    tokio::join!(at_backend.send(&long), hear(&mut receive, &long));
}

#[tokio::test]
async fn acknowledging_each_small_message_is_no_flood() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let io = TcpStream::connect(stickpin.front()).await.expect("somebody listens");
    // Room for a single byte: each of them comes alone, and is acknowledged alone.
    let mut client = Http2Client::over(io, h2::client::Builder::new().initial_window_size(1)).await;
    until("extended CONNECT is offered", async || if client.may_connect() { Ok(()) } else { Err("not yet") }).await;
    client.ready().await;
    let (_send, mut receive, mut at_backend) = tunnel(&mut client, &backend).await;
    let long = vec![b'x'; 4000];
    tokio::join!(at_backend.send(&long), hear(&mut receive, &long));
}

#[tokio::test]
async fn an_answer_to_another_key_is_none() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = client(&stickpin).await;
    let (reply, _send) = client.begin(connect("websocket"), false).await;
    let (mut at_backend, request) = backend.request().await;
    let answer = switching(&request);
    let (before, _) = answer.split_once("Sec-WebSocket-Accept: ").expect("a line");
    at_backend.send(format!("{before}Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")).await;
    assert_eq!(whole(reply).await.expect("a reply").status, 502);
}

#[tokio::test]
async fn a_backend_that_wants_no_websocket_is_heard() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = client(&stickpin).await;
    let (reply, _send) = client.begin(connect("websocket"), false).await;
    let (mut at_backend, _) = backend.request().await;
    at_backend.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
    let reply = whole(reply).await.expect("a reply");
    assert_eq!((reply.status, &*reply.body), (403, &b"no"[..]));
}

#[tokio::test]
async fn other_tunnels_are_refused() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = client(&stickpin).await;
    let (reply, _send) = client.begin(connect("connect-udp"), false).await;
    assert_eq!(whole(reply).await.expect("a reply").status, 405);
    assert!(backend.is_untouched().await);
}

#[tokio::test]
async fn a_tunnel_in_which_nothing_moves_ends() {
    let backend = Backend::start().await;
    let stickpin = Stickpin::start(&config(backend.address(), &[], &["timeouts: { tunnel_idle: 300ms }"]));
    let mut client = client(&stickpin).await;
    let (_send, mut receive, mut at_backend) = tunnel(&mut client, &backend).await;
    at_backend.gone().await;
    let end = tokio::time::timeout(PATIENCE, receive.data()).await.expect("an end");
    assert!(end.is_none_or(|data| data.is_err()));
    assert!(!client.is_over());
}

#[tokio::test]
async fn a_stream_of_a_client_becomes_one_of_a_backend_that_speaks_http2() {
    let mut backend = Http2Backend::start(Allows { websockets: true, ..Allows::default() }).await;
    let stickpin = Stickpin::start(&config(backend.address(), &[], &["protocol: h2"]));
    let mut client = client(&stickpin).await;
    let (reply, mut send) = client.begin(connect("websocket"), false).await;
    let mut asked = backend.next().await;
    assert_eq!(asked.request.method(), http::Method::CONNECT);
    assert_eq!(asked.request.extensions().get::<Protocol>().map(Protocol::as_str), Some("websocket"));
    assert_eq!((asked.value("sec-websocket-key"), asked.value("upgrade")), (None, None));
    let mut answer = asked.begin(200, &[]);
    let reply = head(reply).await.expect("a reply");
    assert_eq!(reply.status(), 200);
    assert!(!reply.headers().contains_key("sec-websocket-accept"));
    let mut receive = reply.into_body();
    send.send_data(Bytes::from_static(b"ping"), false).expect("the stream is open");
    assert_eq!(asked.piece().await, "ping");
    answer.send_data(Bytes::from_static(b"pong"), false).expect("the stream is open");
    hear(&mut receive, b"pong").await;
    stickpin.until_in_flight(1).await;
    send.send_data(Bytes::new(), true).expect("the stream is open");
    answer.send_data(Bytes::new(), true).expect("the stream is open");
    stickpin.until_in_flight(0).await;
}
