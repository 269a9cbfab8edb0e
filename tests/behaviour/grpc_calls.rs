//! gRPC, spoken by tonic on both sides.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tonic::Code;

use crate::support::Stickpin;
use crate::support::grpc::{GrpcClient, GrpcServer};

/// Calls of every kind by one client; gives the names of those who served them.
async fn calls_of_every_kind(address: SocketAddr) -> Vec<String> {
    let mut client = GrpcClient::connect(address).await;
    for length in [0, 1, 1_000_000] {
        let message = Bytes::from(vec![b'x'; length]);
        assert!(client.unary("/peer/Echo", message.clone()).await.expect("a reply") == message, "{length} bytes");
    }
    let messages: Vec<Bytes> = (0..100).map(|number: u32| number.to_string().into()).collect();
    let joined = client.streaming("/peer/Join", messages.clone()).await.expect("a reply");
    assert_eq!(joined, [messages.concat()]);
    let counted = client.streaming("/peer/Count", vec!["100".into()]).await.expect("a reply");
    assert_eq!(counted, messages);
    let shouted = client.in_turn("/peer/Shout", vec!["one".into(), "two".into(), "three".into()]).await;
    assert_eq!(shouted.expect("a reply"), ["ONE", "TWO", "THREE"]);

    let status = client.unary("/peer/Fail", "9").await.expect_err("as asked");
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "as asked: nicht möglich, 100 %"));
    let detail = status.metadata().get_bin("detail-bin").and_then(|value| value.to_bytes().ok());
    assert_eq!(detail.as_deref(), Some(&b"9"[..]));
    let status = client.streaming("/peer/Nothing", messages).await.expect_err("there is none");
    assert_eq!(status.code(), Code::Unimplemented);
    let status = client.unary_within(Duration::from_millis(300), "/peer/Hang", "").await.expect_err("it hangs");
    assert!(matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded), "{status:?}");
    assert_eq!(client.unary("/peer/Echo", "still there").await.expect("a reply"), "still there");
    client.servers
}

#[tokio::test]
async fn tonic_understands_itself() {
    let server = GrpcServer::start("red").await;
    let servers = calls_of_every_kind(server.address()).await;
    assert_eq!(servers, ["red"; 8]);
}

#[tokio::test]
async fn calls_of_every_kind_pass_and_keep_their_pin() {
    let servers = [GrpcServer::start("red").await, GrpcServer::start("green").await, GrpcServer::start("blue").await];
    let stickpin = Stickpin::start(&format!(
        "workers: 2\naccess_log: off\nlisteners: [ \"127.0.0.1:0\" ]\npools:\n  rpc:\n    protocol: h2\n    \
         health: {{ tcp: {{ interval: 1s }} }}\n    backends: [ {} ]\n",
        servers.each_ref().map(GrpcServer::yaml).join(", ")
    ));
    for _ in 0..5 {
        let homes = calls_of_every_kind(stickpin.front()).await;
        assert!(homes.len() == 8 && homes.iter().all(|home| *home == homes[0]), "{homes:?}");
    }
}
