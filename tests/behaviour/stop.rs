//! Stopping: what is under way ends well, nothing new begins, and there is an end to patience.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::crowd::{Crowd, customers};
use crate::shop::{Shop, who_am_i};
use crate::support::{Backend, Client, ClientError, PATIENCE, Reply, StickpinProcess, until};

#[tokio::test]
async fn a_stop_under_load_fails_nothing_that_was_accepted() {
    let backends = ["red", "green"].map(Backend::start);
    let mut stickpin = Shop::of(backends.iter().map(Backend::yaml)).open().await;
    let crowd = Crowd::start(customers(&stickpin, 40).await);
    let slow: Vec<_> = (0..10).map(|_| ask(&stickpin, "/slow?ms=1500")).collect();
    let long = ask(&stickpin, "/chunks?n=15&delay_ms=100");
    until("the slow requests are under way", async || {
        match backends.iter().map(|backend| backend.in_flight()).sum::<u64>() {
            10.. => Ok(()),
            count => Err(count),
        }
    })
    .await;
    crowd.rounds(3).await;
    let status = stickpin.terminate().await;
    assert_eq!(status.code(), Some(0), "{}", stickpin.stderr());
    for reply in slow {
        let reply = reply.await.unwrap().unwrap();
        assert_eq!((reply.status.as_u16(), reply.header("connection")), (200, "close"));
    }
    assert_eq!(long.await.unwrap().unwrap().status, 200);
    for customer in crowd.stop().await {
        let failures = customer.failures();
        assert!(failures.iter().all(|failure| failure.starts_with("connecting: ")), "{failures:?}");
        assert!(customer.seen.len() > failures.len());
    }
    let (logged, seen) = (stickpin.stdout().lines().count(), backends.iter().map(|it| it.requests()).sum::<u64>());
    assert_eq!(logged as u64, seen, "the last lines of the access log are written");
}

/// A connection that is closed as soon as it is idle fails the request that is already on its way.
#[tokio::test]
async fn a_request_that_meets_the_stop_on_an_open_connection_is_answered() {
    let app = Backend::start("app");
    let mut stickpin = Shop::of([app.yaml()]).open().await;
    let (mut used, mut fresh) = (connect(&stickpin).await, connect(&stickpin).await);
    used.write_all(REQUEST).await.unwrap();
    assert!(read_reply(&mut used).await.starts_with("HTTP/1.1 200"));
    // It stands still, so that the signal and the requests find it in the same moment.
    stickpin.signal("STOP");
    stickpin.signal("TERM");
    used.write_all(REQUEST).await.unwrap();
    fresh.write_all(REQUEST).await.unwrap();
    stickpin.signal("CONT");
    for connection in [&mut used, &mut fresh] {
        let reply = read_to_end(connection).await;
        assert!(reply.starts_with("HTTP/1.1 200"), "{reply:?}");
    }
    assert!(stickpin.ended().await.success());
}

#[tokio::test]
async fn a_client_in_the_accept_queue_is_served() {
    let app = Backend::start("app");
    let mut stickpin = Shop::of([app.yaml()]).open().await;
    stickpin.signal("STOP");
    let mut queued = Vec::new();
    for _ in 0..50 {
        let mut connection = connect(&stickpin).await;
        connection.write_all(REQUEST).await.unwrap();
        queued.push(connection);
    }
    stickpin.signal("TERM");
    stickpin.signal("CONT");
    for (index, connection) in queued.iter_mut().enumerate() {
        let reply = read_to_end(connection).await;
        assert!(reply.starts_with("HTTP/1.1 200"), "number {index}: {reply:?}");
    }
    assert!(stickpin.ended().await.success());
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_a_stop() {
    let app = Backend::start("app");
    let mut stickpin = Shop::of([app.yaml()]).top("stop_deadline: 10m").open().await;
    let (mut idle, mut silent) = (stickpin.client(), connect(&stickpin).await);
    who_am_i(&mut idle).await;
    assert!(stickpin.terminate().await.success());
    assert_eq!(silent.read(&mut [0; 16]).await.unwrap(), 0, "closed, not reset");
    assert!(matches!(idle.get("/whoami").await, Err(ClientError::Connect(_))));
}

#[tokio::test]
async fn while_it_drains_it_says_so_and_accepts_nobody() {
    let app = Backend::start("app");
    let mut stickpin = Shop::of([app.yaml()]).open().await;
    let (slow, mut admin) = (ask(&stickpin, "/slow?ms=2000"), stickpin.admin());
    under_way(&app).await;
    assert_eq!(admin.get("/ready").await.status, 200);
    stickpin.signal("TERM");
    until("/ready is 503", async || match admin.get("/ready").await {
        reply if reply.status == 503 && reply.field("reason") == "draining" => Ok(()),
        reply => Err(reply.text()),
    })
    .await;
    assert_eq!(admin.get("/live").await.status, 200);
    until("connecting is refused", async || match TcpStream::connect(stickpin.front()).await {
        Err(_) => Ok(()),
        Ok(_) => Err("connected"),
    })
    .await;
    assert_eq!(slow.await.unwrap().unwrap().status, 200);
    assert!(stickpin.ended().await.success());
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    for signals in [["TERM", "TERM"], ["INT", "TERM"]] {
        let app = Backend::start("app");
        let mut stickpin = Shop::of([app.yaml()]).top("stop_deadline: 10m").open().await;
        let (slow, mut admin) = (ask(&stickpin, "/slow?ms=600000"), stickpin.admin());
        under_way(&app).await;
        stickpin.signal(signals[0]);
        until("it drains", async || match admin.get("/ready").await {
            reply if reply.status == 503 => Ok(()),
            reply => Err(reply.text()),
        })
        .await;
        stickpin.signal(signals[1]);
        stickpin.ended().await;
        assert!(slow.await.unwrap().is_err(), "cut off");
        until("the backend is rid of it", async || match app.in_flight() {
            0 => Ok(()),
            count => Err(count),
        })
        .await;
    }
}

#[tokio::test]
async fn the_deadline_cuts_off_what_is_left() {
    let app = Backend::start("app");
    let mut stickpin = Shop::of([app.yaml()]).top("stop_deadline: 1s").open().await;
    let (slow, endless) = (ask(&stickpin, "/slow?ms=600000"), ask(&stickpin, "/chunks?n=100000&delay_ms=20"));
    under_way(&app).await;
    let quick = ask(&stickpin, "/slow?ms=300");
    until("both are under way", async || match app.in_flight() {
        2.. => Ok(()),
        count => Err(count),
    })
    .await;
    assert!(stickpin.terminate().await.success());
    assert_eq!(quick.await.unwrap().unwrap().status, 200, "done in time");
    assert!(slow.await.unwrap().is_err());
    let endless = endless.await.unwrap();
    assert!(matches!(endless, Err(ClientError::Broken { .. })), "broken off, not complete: {endless:?}");
}

const REQUEST: &[u8] = b"GET /whoami HTTP/1.1\r\nhost: shop\r\n\r\n";

/// One request by a client of its own.
fn ask(stickpin: &StickpinProcess, path: &'static str) -> JoinHandle<Result<Reply, ClientError>> {
    let mut client: Client = stickpin.client();
    client.timeout = Duration::from_secs(60);
    tokio::spawn(async move { client.get(path).await })
}

async fn under_way(app: &Backend) {
    until("a request is under way", async || match app.in_flight() {
        0 => Err(0),
        _ => Ok(()),
    })
    .await;
}

async fn connect(stickpin: &StickpinProcess) -> TcpStream {
    TcpStream::connect(stickpin.front()).await.unwrap()
}

/// What comes until the connection is closed; how it failed, if it does.
async fn read_to_end(connection: &mut TcpStream) -> String {
    let mut reply = Vec::new();
    match tokio::time::timeout(PATIENCE, connection.read_to_end(&mut reply)).await {
        Ok(Ok(_)) => String::from_utf8_lossy(&reply).into_owned(),
        failed => format!("{failed:?} after {:?}", String::from_utf8_lossy(&reply)),
    }
}

/// A reply that fits into one read and has come when its object is closed.
async fn read_reply(connection: &mut TcpStream) -> String {
    let mut reply = String::new();
    let mut buffer = [0; 4096];
    while !reply.ends_with('}') {
        let count = connection.read(&mut buffer).await.unwrap();
        assert!(count > 0, "closed after {reply:?}");
        reply.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    reply
}
