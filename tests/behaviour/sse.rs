//! Events that a backend sends one by one arrive one by one: over plain HTTP and TLS, chunked and until the end.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::made::{Ca, days};
use crate::support::raw::{Backend, Head, Peer, front};
use crate::support::tls::{Files, TlsClient, TlsPeer};
use crate::tls::secured;

/// A browser, or whatever it is.
enum Client {
    Plain(Peer),
    Tls(Box<TlsPeer>),
}

impl Client {
    async fn send(&mut self, bytes: &str) {
        match self {
            Self::Plain(peer) => peer.send(bytes).await,
            Self::Tls(peer) => peer.send(bytes).await.expect("it is read"),
        }
    }

    async fn head(&mut self) -> Head {
        match self {
            Self::Plain(peer) => peer.head().await,
            Self::Tls(peer) => peer.head().await.expect("a head"),
        }
    }

    async fn exactly(&mut self, count: usize) -> Vec<u8> {
        match self {
            Self::Plain(peer) => peer.exactly(count).await,
            Self::Tls(peer) => peer.exactly(count).await.expect("more comes"),
        }
    }

    /// Of a chunked body, whose chunks may be cut in any way.
    async fn chunk(&mut self) -> Vec<u8> {
        let mut line = String::new();
        while !line.ends_with("\r\n") {
            line.push(char::from(self.exactly(1).await[0]));
        }
        let size = usize::from_str_radix(line.trim_end(), 16).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        let mut chunk = self.exactly(size + 2).await;
        assert_eq!(chunk.split_off(size), b"\r\n");
        chunk
    }

    /// So many bytes of the body, and not one more.
    async fn body(&mut self, is_chunked: bool, count: usize) -> Vec<u8> {
        if !is_chunked {
            return self.exactly(count).await;
        }
        let mut body = Vec::new();
        while body.len() < count {
            body.extend(self.chunk().await);
        }
        body
    }
}

/// What a backend sends: of any length, one that no buffer holds included.
fn events() -> Vec<String> {
    let mut rng = fastrand::Rng::with_seed(11);
    let lengths = [1, 1, 10, 100, 1460, 4096, 8192, 16_384, 65_536, 300_000, 1];
    let text = |length: usize| (0..length).map(|_| rng.alphanumeric()).collect::<String>();
    lengths.map(text).iter().map(|text| format!("id: 7\ndata: {text}\n\n")).chain([": \n\n".to_owned()]).collect()
}

#[tokio::test]
async fn each_event_arrives_before_the_backend_sends_the_next() {
    let (backend, files) = (Backend::start().await, Files::new());
    let item = files.certificate("shop", &Ca::new("ca").server(&["shop.example"], days(-1, 1)));
    let (plain, tls) = (front(backend.address()), secured(backend.address(), &format!("certificates: [ {item} ]")));
    for is_tls in [false, true] {
        for (version, sent_chunked) in [("1.1", true), ("1.1", false), ("1.0", true), ("1.0", false)] {
            let case = format!("tls {is_tls}, to {version}, chunked by the backend {sent_chunked}");
            let mut client = match is_tls {
                false => Client::Plain(Peer::connect(plain.front()).await),
                true => {
                    let peer = TlsClient::new().connect(tls.front(), "shop.example").await;
                    Client::Tls(Box::new(peer.expect("a connection")))
                }
            };
            let accept = "Accept: text/event-stream\r\nCache-Control: no-cache";
            client.send(&format!("GET /events HTTP/{version}\r\nHost: shop.example\r\n{accept}\r\n\r\n")).await;
            let (mut at_backend, _) = backend.request().await;
            let framing = if sent_chunked { "Transfer-Encoding: chunked" } else { "Connection: close" };
            at_backend.send(format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{framing}\r\n\r\n")).await;
            // The head alone, too: an `EventSource` is open then.
            let head = client.head().await;
            assert_eq!((head.status(), head.value("content-type")), (200, Some("text/event-stream")), "{case}");
            let is_chunked = head.value("transfer-encoding").is_some();
            assert_eq!(is_chunked, version == "1.1", "{case}");
            for event in events() {
                if sent_chunked {
                    at_backend.send(format!("{:x}\r\n{event}\r\n", event.len())).await;
                } else {
                    at_backend.send(&event).await;
                }
                // The backend sends nothing more until this is here: anything that is held back would hang.
                let body = client.body(is_chunked, event.len()).await;
                assert!(body == event.as_bytes(), "{case}: an event of {} bytes came otherwise", event.len());
            }
            if sent_chunked {
                at_backend.send("0\r\n\r\n").await;
            } else {
                at_backend.finish().await;
            }
            if is_chunked {
                assert_eq!(client.chunk().await, b"", "{case}: its end");
            } else {
                match client {
                    Client::Plain(mut peer) => peer.gone().await,
                    Client::Tls(mut peer) => peer.end().await.expect("TLS ends in order"),
                }
            }
        }
    }
}

const EVENT: &[u8] = b"data: now\n\n";

/// A backend on a thread of its own that sends an event whenever it is told to, to each of its clients.
fn clock() -> (SocketAddr, mpsc::Receiver<mpsc::Sender<()>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port is free");
    let address = listener.local_addr().expect("a bound socket");
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(mut client), (tick, ticks)) = (client, mpsc::channel()) else { return };
            let mut head = [0; 4096];
            if !client.read(&mut head).is_ok_and(|count| count > 0) {
                continue;
            }
            client.set_nodelay(true).expect("an open socket");
            client.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").expect("it is read");
            if tell.send(tick).is_err() {
                return;
            }
            thread::spawn(move || ticks.into_iter().all(|()| client.write_all(EVENT).is_ok()));
        }
    });
    (address, told)
}

/// Both ways in turn, in one run: whatever this machine is busy with delays both.
#[tokio::test]
async fn an_event_comes_about_as_soon_as_over_a_direct_connection() {
    const ROUNDS: usize = 200;
    let (address, told) = clock();
    let stickpin = front(address);
    let mut ways = Vec::new();
    for way in [address, stickpin.front()] {
        let mut client = Peer::sending(way, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        client.head().await;
        ways.push((client, told.recv_timeout(Duration::from_secs(20)).expect("it was asked"), Vec::new()));
    }
    for _ in 0..ROUNDS {
        for (client, tick, took) in &mut ways {
            let sent = Instant::now();
            tick.send(()).expect("it goes on");
            client.through(EVENT).await;
            took.push(sent.elapsed());
        }
    }
    // Something that holds events back does so with each of them; a thread that had to wait is another matter.
    let quartiles: Vec<Duration> = ways
        .iter_mut()
        .map(|(.., took)| {
            took.sort_unstable();
            took[ROUNDS / 4]
        })
        .collect();
    assert!(quartiles[1] < quartiles[0] * 20, "direct and through Stickpin: {quartiles:?}");
}
