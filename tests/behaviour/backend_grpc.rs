//! gRPC through HTTP/2 to a backend: unary calls and streams, their trailers, and how they end.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use crate::support::Stickpin;
use crate::support::http2_backend::{Allows, Http2Backend};
use crate::support::raw::{End, Peer, config};

/// One message in gRPC's framing, which here is nobody's business.
const MESSAGE: &[u8] = b"\0\0\0\0\x02hi";

async fn start() -> (Http2Backend, Stickpin) {
    start_with(&[]).await
}

async fn start_with(pool: &[&str]) -> (Http2Backend, Stickpin) {
    let backend = Http2Backend::start(Allows::default()).await;
    let pool: Vec<_> = ["protocol: h2"].into_iter().chain(pool.iter().copied()).collect();
    let stickpin = Stickpin::start(&config(backend.address(), &[], &pool));
    (backend, stickpin)
}

/// Begins a call with this first message; more chunks may follow.
async fn call(stickpin: &Stickpin) -> Peer {
    let mut peer = Peer::sending(
        stickpin.front(),
        "POST /shop.Carts/Get HTTP/1.1\r\nHost: shop.example\r\nTE: trailers\r\nContent-Type: application/grpc\r\n\
         grpc-timeout: 5S\r\nTransfer-Encoding: chunked\r\n\r\n",
    )
    .await;
    chunk(&mut peer, MESSAGE).await;
    peer
}

async fn chunk(peer: &mut Peer, data: &[u8]) {
    peer.send([format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()).await;
}

fn status(code: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    trailers
}

const GRPC: [(&str, &str); 2] = [("content-type", "application/grpc"), ("trailer", "grpc-status")];

#[tokio::test]
async fn a_unary_call_has_its_status_in_the_trailers() {
    let (mut backend, stickpin) = start().await;
    let mut peer = call(&stickpin).await;
    peer.send("0\r\n\r\n").await;
    let mut asked = backend.next().await;
    assert_eq!((asked.value("te"), asked.value("grpc-timeout")), (Some("trailers"), Some("5S")));
    assert_eq!(asked.body().await.0, MESSAGE);
    let mut reply = asked.begin(200, &GRPC);
    reply.send_data(Bytes::from_static(MESSAGE), false).expect("the stream is open");
    reply.send_trailers(status("0")).expect("the stream is open");
    assert_eq!(peer.head().await.status(), 200);
    assert_eq!(
        peer.through(b"0\r\ngrpc-status: 0\r\n\r\n").await,
        b"7\r\n\0\0\0\0\x02hi\r\n0\r\ngrpc-status: 0\r\n\r\n"
    );
}

#[tokio::test]
async fn a_reply_of_trailers_alone_keeps_its_status() {
    let (mut backend, stickpin) = start().await;
    let mut peer = call(&stickpin).await;
    peer.send("0\r\n\r\n").await;
    let mut asked = backend.next().await;
    asked.body().await;
    let reply = http::Response::builder().header("grpc-status", "5").header("content-type", "application/grpc");
    asked.reply.send_response(reply.body(()).expect("a head"), true).expect("the stream is open");
    let (head, body) = peer.reply().await;
    assert_eq!((head.value("grpc-status"), &*body), (Some("5"), ""));
}

#[tokio::test]
async fn a_client_streams_until_it_has_said_all_and_a_server_until_it_has() {
    let (mut backend, stickpin) = start().await;
    let mut peer = call(&stickpin).await;
    let mut asked = backend.next().await;
    assert_eq!(asked.piece().await, MESSAGE);
    for _ in 0..3 {
        chunk(&mut peer, MESSAGE).await;
        assert_eq!(asked.piece().await, MESSAGE, "before the call is over");
    }
    let mut reply = asked.begin(200, &GRPC);
    assert_eq!(peer.head().await.status(), 200);
    for _ in 0..3 {
        reply.send_data(Bytes::from_static(MESSAGE), false).expect("the stream is open");
        assert_eq!(peer.exactly(12).await, b"7\r\n\0\0\0\0\x02hi\r\n", "before the reply is over");
        chunk(&mut peer, MESSAGE).await;
        assert_eq!(asked.piece().await, MESSAGE);
    }
    // The server has said all, though the client has not.
    reply.send_trailers(status("0")).expect("the stream is open");
    assert_eq!(peer.through(b"\r\n\r\n").await, b"0\r\ngrpc-status: 0\r\n\r\n");
}

#[tokio::test]
async fn a_backend_that_answers_early_and_wants_no_more_is_heard() {
    let (mut backend, stickpin) = start().await;
    let mut peer = call(&stickpin).await;
    let mut asked = backend.next().await;
    assert_eq!(asked.piece().await, MESSAGE);
    let mut reply = asked.begin(200, &GRPC);
    reply.send_data(Bytes::from_static(MESSAGE), false).expect("the stream is open");
    reply.send_trailers(status("8")).expect("the stream is open");
    // Its library resets the stream without an error when it is dropped.
    drop((reply, asked));
    assert_eq!(peer.head().await.status(), 200);
    let rest = peer.through(b"\r\n\r\n").await;
    assert!(rest.ends_with(b"0\r\ngrpc-status: 8\r\n\r\n"), "{}", rest.escape_ascii());
}

#[tokio::test]
async fn a_backend_that_hangs_breaks_its_calls_in_bounded_time_and_is_connected_to_anew() {
    let (mut backend, stickpin) = start_with(&["timeouts: { first_byte: 1m, idle: 1m }"]).await;
    let mut peer = call(&stickpin).await;
    let mut asked = backend.next().await;
    let _reply = asked.begin(200, &GRPC);
    assert_eq!(peer.head().await.status(), 200);
    let since = Instant::now();
    backend.hang();
    let (_, end) = peer.end().await;
    assert_eq!(end, End::Reset, "after {:?}", since.elapsed());
    backend.wake();
    let mut peer = call(&stickpin).await;
    peer.send("0\r\n\r\n").await;
    let asked = backend.next().await;
    assert_eq!(asked.connection, 2);
    asked.answer("ok");
    assert_eq!(peer.reply().await.0.status(), 200);
}
