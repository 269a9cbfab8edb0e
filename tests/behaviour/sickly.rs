//! A backend that is well by its probes, and whatever the test wants towards its clients.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::{Client, Reply};

/// How it answers. `/bad` is answered with 500 by blue, `/garbage` with no HTTP by everybody.
#[derive(Clone, Debug)]
pub(crate) struct Mood {
    /// Status of a reply to a client.
    pub(crate) status: u16,
    /// Before a reply to a client begins.
    pub(crate) delay: Duration,
    /// `X-Load` of the reply to a probe, none when it is empty.
    pub(crate) agent: &'static str,
}

/// One of them.
pub(crate) struct Sickly {
    name: &'static str,
    address: SocketAddr,
    mood: Arc<Mutex<Mood>>,
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Sickly {
    /// Starts one that is well.
    pub(crate) async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port is free");
        let address = listener.local_addr().expect("a bound socket");
        let mood = Arc::new(Mutex::new(Mood { status: 200, delay: Duration::ZERO, agent: "" }));
        let requests = Arc::<AtomicUsize>::default();
        let (shown, counted) = (Arc::clone(&mood), Arc::clone(&requests));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, name, Arc::clone(&shown), Arc::clone(&counted)));
            }
        });
        Self { name, address, mood, requests, task }
    }

    /// Its line in a pool's `backends`.
    pub(crate) fn yaml(&self) -> String {
        format!("{{ name: {}, address: \"{}\", weight: 100 }}", self.name, self.address)
    }

    /// From now on.
    pub(crate) fn feels(&self, change: impl FnOnce(&mut Mood)) {
        change(&mut self.mood.lock().unwrap());
    }

    /// Requests of clients so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }
}

impl Drop for Sickly {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, name: &str, mood: Arc<Mutex<Mood>>, requests: Arc<AtomicUsize>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // A probe may connect and say nothing.
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let mood = mood.lock().unwrap().clone();
    let path = String::from_utf8_lossy(&head).split(' ').nth(1).unwrap_or_default().to_owned();
    let agent = if mood.agent.is_empty() { String::new() } else { format!("X-Load: {}\r\n", mood.agent) };
    let status = match &*path {
        "/health" => 200,
        "/bad" if name == "blue" => 500,
        _ => mood.status,
    };
    let reply = match &*path {
        "/garbage" => "this is no HTTP\r\n\r\n".to_owned(),
        _ => {
            format!("HTTP/1.1 {status} Thus\r\nX-Name: {name}\r\n{agent}Content-Length: 0\r\nConnection: close\r\n\r\n")
        }
    };
    if path != "/health" {
        requests.fetch_add(1, Relaxed);
        tokio::time::sleep(mood.delay).await;
    }
    // Whoever asked may be gone.
    drop(stream.write_all(reply.as_bytes()).await);
}

/// A configuration around a pool's settings. Clients tell their address, as if they came through a proxy.
pub(crate) fn config(front: &str, admin: &str, pool: &str, backends: &[&Sickly]) -> String {
    let backends: Vec<_> = backends.iter().map(|backend| backend.yaml()).collect();
    format!(
        "access_log: off\ntrusted_proxies: [127.0.0.0/8]\nlisteners: [ \"{front}\" ]\nadmin: {{ address: \"{admin}\" }}\n\
         pools:\n  shop: {{ {pool}, retry: {{ attempts: 0 }}, backends: [ {} ] }}\n",
        backends.join(", ")
    )
}

/// Asks as the client of this number.
pub(crate) async fn ask(client: &mut Client, number: usize, path: &str) -> Reply {
    let request = Request::get(path).header("x-forwarded-for", format!("192.0.2.{number}"));
    client.send(request.body(bytes::Bytes::new()).expect("a request")).await.expect("an answer")
}
