//! When a request is tried elsewhere, and when it must not be.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::{Method, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::gate::Gate;
use crate::shop::{SUSPECTING, Shop, assert_placed, client_at, is_logged_in_at, told, who_am_i};
use crate::support::Backend;
use crate::support::session_app::{Checksum, pattern};

/// Connections that open are all that is asked of a backend.
const CONNECTS: &str = "{ tcp: { interval: 100ms, suspect_interval: 50ms, timeout: 5s } }";

#[tokio::test]
async fn what_broke_before_its_reply_is_repeated_only_if_that_is_safe() {
    for keeps_alive in [false, true] {
        let (breaker, other) = (Breaker::start(keeps_alive).await, Backend::start("other"));
        let stickpin = Shop::of([breaker.yaml(), other.yaml()]).probed(CONNECTS).open().await;
        for (method, is_safe) in [
            (Method::GET, true),
            (Method::PUT, true),
            (Method::DELETE, true),
            (Method::OPTIONS, true),
            (Method::POST, false),
            (Method::PATCH, false),
        ] {
            stickpin.admin().until_health("shop", "breaker", "healthy").await;
            let mut client = client_at(&stickpin, "breaker").await;
            let pin = client.cookies.value("stickpin").unwrap().to_owned();
            let before = (breaker.broken(), other.requests());
            let request = Request::builder().method(&method).uri("/echo").body("12345".into()).unwrap();
            let reply = client.send(request).await.unwrap();
            let tried = (breaker.broken() - before.0, other.requests() - before.1);
            // What meets a connection that may have been closed while idle is first sent again to the same backend.
            let at_home = if is_safe && keeps_alive { 1..=2 } else { 1..=1 };
            assert!(at_home.contains(&tried.0), "{method}: {} attempts at home", tried.0);
            assert_eq!(tried.1, u64::from(is_safe), "{method} elsewhere");
            assert_eq!(reply.status, if is_safe { 200 } else { 502 }, "{method}");
            if is_safe {
                assert_eq!(reply.json()["body_length"], 5, "{method}: the body was sent again");
            }
            assert!(!reply.text().contains(&breaker.address.to_string()), "{}", reply.text());
            assert_eq!(client.cookies.value("stickpin"), Some(&*pin), "{method}: the pin is as it was");
        }
        assert_placed(&stickpin, "detour", "connect_failed", 4).await;
        assert_placed(&stickpin, "rehomed", "", 0).await;
    }
}

#[tokio::test]
async fn a_post_whose_connect_was_refused_is_delivered_elsewhere_with_its_body() {
    let (app, other) = (Backend::start("app"), Backend::start("other"));
    let mut gate = Gate::before(app.address()).await;
    let stickpin = Shop::of([gate.yaml("app"), other.yaml()]).probed(SUSPECTING).open().await;
    let mut client = client_at(&stickpin, "app").await;
    gate.shut().await;
    // The last ones are more than is kept for a repetition: nothing of it was read yet, so nothing was lost.
    for length in [0, 5, 64 << 10, (64 << 10) + 1, 5 << 20] {
        let body = pattern(length);
        let checksum = Checksum::of(&body);
        let reply = client.post("/upload", body).await.unwrap();
        assert_eq!((reply.status.as_u16(), reply.served_by()), (200, "other".into()), "{length}");
        assert_eq!(reply.json()["length"], length as u64);
        assert_eq!(reply.field("checksum"), checksum.hex());
    }
    gate.open().await;
    assert!(is_logged_in_at(&who_am_i(&mut client).await, "app"));
}

/// Idle connections that broke with their backend say nothing of a request that was never sent.
#[tokio::test]
async fn a_post_does_not_suffer_from_connections_that_broke_while_idle() {
    let app = Backend::start("app");
    let mut gate = Gate::before(app.address()).await;
    let stickpin = Shop::of([gate.yaml("app")]).probed(SUSPECTING).open().await;
    let mut client = client_at(&stickpin, "app").await;
    for _ in 0..20 {
        who_am_i(&mut client).await;
        gate.shut().await;
        gate.open().await;
        let reply = client.post("/upload", "12345").await.unwrap();
        assert_eq!((reply.status.as_u16(), &reply.json()["length"]), (200, &5.into()), "{}", reply.text());
    }
}

#[tokio::test]
async fn nobody_left_to_try_is_503_and_reveals_nothing() {
    let (app, other) = (Backend::start("app"), Backend::start("other"));
    let (mut one, mut two) = (Gate::before(app.address()).await, Gate::before(other.address()).await);
    let stickpin = Shop::of([one.yaml("app"), two.yaml("other")]).probed(SUSPECTING).open().await;
    let mut client = client_at(&stickpin, "app").await;
    one.shut().await;
    two.shut().await;
    for client in [&mut stickpin.client(), &mut client] {
        let reply = client.get("/whoami").await.unwrap();
        assert_eq!((reply.status.as_u16(), reply.header("set-cookie")), (503, ""));
        assert!(!reply.text().contains("127.0.0.1") && !reply.text().contains("app"), "{}", reply.text());
    }
    one.open().await;
    two.open().await;
    let back = who_am_i(&mut client).await;
    assert!(is_logged_in_at(&back, "app") && told(&back) == [""; 3], "{}", back.text());
}

/// A backend that lets clients log in and breaks every other request: reads it, says nothing, closes.
struct Breaker {
    address: SocketAddr,
    broken: Arc<AtomicU64>,
}

impl Breaker {
    /// `keeps_alive`: the connection stays open after a login, for the request that will break it.
    async fn start(keeps_alive: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (address, broken) = (listener.local_addr().unwrap(), Arc::<AtomicU64>::default());
        let counter = Arc::clone(&broken);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, Arc::clone(&counter), keeps_alive));
            }
        });
        Self { address, broken }
    }

    fn yaml(&self) -> String {
        format!("{{ name: breaker, address: \"{}\" }}", self.address)
    }

    /// Requests broken so far.
    fn broken(&self) -> u64 {
        self.broken.load(Relaxed)
    }
}

async fn converse(mut stream: TcpStream, broken: Arc<AtomicU64>, keeps_alive: bool) -> io::Result<()> {
    let mut request = vec![0; 4096];
    loop {
        let count = stream.read(&mut request).await?;
        if count == 0 {
            // A probe, or the end.
            return Ok(());
        }
        if !request.starts_with(b"POST /login") {
            broken.fetch_add(1, Relaxed);
            return Ok(());
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 23\r\n\r\n{\"served_by\":\"breaker\"}").await?;
        if !keeps_alive {
            return Ok(());
        }
    }
}
