//! What clients of gRPC need: streams both ways, trailers, and words of ours that they understand.

use bytes::Bytes;
use http::Request;

use crate::support::http2::{Http2Client, head, whole};
use crate::support::raw::{Backend, front};

/// The head of a call.
fn call(path: &str) -> Request<()> {
    Request::builder()
        .method("POST")
        .uri(format!("http://x{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a request")
}

/// A message as gRPC frames it.
fn message(text: &str) -> Bytes {
    let length = u32::try_from(text.len()).expect("a short text").to_be_bytes();
    [&[0], &length[..], text.as_bytes()].concat().into()
}

/// The same as a chunk whose line end is yet to come: that goes with the next one.
fn begun(text: &str) -> Vec<u8> {
    let chunk = chunk(text);
    chunk[..chunk.len() - 2].to_vec()
}

/// The same as a chunk.
fn chunk(text: &str) -> Vec<u8> {
    let message = message(text);
    [format!("{:x}\r\n", message.len()).as_bytes(), &message, b"\r\n"].concat()
}

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\
                    Trailer: grpc-status\r\n\r\n";

const END: &str = "0\r\ngrpc-status: 0\r\n\r\n";

#[tokio::test]
async fn a_call_and_its_answer_take_turns_for_as_long_as_they_like() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = Http2Client::connect(stickpin.front()).await;
    let (reply, mut calls) = client.begin(call("/chat.Chat/Talk"), false).await;
    let (mut at_backend, request) = backend.request().await;
    assert_eq!((request.value("te"), request.value("content-type")), (Some("trailers"), Some("application/grpc")));
    at_backend.send(HEAD).await;
    let mut answers = head(reply).await.expect("a head").into_body();
    for (count, word) in ["one", "two", "three"].into_iter().enumerate() {
        calls.send_data(message(word), false).expect("an open stream");
        if count > 0 {
            assert_eq!(at_backend.exactly(2).await, b"\r\n");
        }
        assert_eq!(at_backend.exactly(begun(word).len()).await, begun(word));
        at_backend.send(chunk(word)).await;
        assert_eq!(answers.data().await.expect("an answer").expect("an open stream"), message(word));
    }
    calls.send_data(Bytes::new(), true).expect("an open stream");
    assert_eq!(at_backend.through(b"0\r\n\r\n").await, b"\r\n0\r\n\r\n");
    at_backend.send(END).await;
    while answers.data().await.is_some() {}
    assert_eq!(answers.trailers().await.expect("an open stream").expect("trailers")["grpc-status"], "0");
}

#[tokio::test]
async fn a_unary_call_ends_with_its_trailers() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = Http2Client::connect(stickpin.front()).await;
    let (reply, mut calls) = client.begin(call("/shop.Cart/Add"), false).await;
    calls.send_data(message("apple"), true).expect("an open stream");
    let (mut at_backend, _) = backend.request().await;
    at_backend.through(b"0\r\n\r\n").await;
    at_backend.send([HEAD.as_bytes(), &chunk("added"), END.as_bytes()].concat()).await;
    let reply = whole(reply).await.expect("a reply");
    assert_eq!((reply.status, Bytes::from(reply.body.clone())), (200, message("added")));
    assert_eq!(reply.trailer("grpc-status"), Some("0"));
}

#[tokio::test]
async fn where_stickpin_answers_itself_it_says_so_in_the_words_of_grpc() {
    let stickpin = front("127.0.0.1:1");
    let mut client = Http2Client::connect(stickpin.front()).await;
    let (reply, mut calls) = client.begin(call("/shop.Cart/Add"), false).await;
    calls.send_data(message("apple"), true).expect("an open stream");
    let reply = whole(reply).await.expect("a reply");
    assert_eq!((reply.status, reply.value("content-type")), (200, Some("application/grpc")));
    assert_eq!(
        (reply.value("grpc-status"), &*reply.body),
        (Some("14"), &b""[..]),
        "UNAVAILABLE, and nothing but a head"
    );
}
