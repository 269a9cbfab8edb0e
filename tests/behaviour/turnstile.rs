//! A backend in this process that counts, for itself, how many requests and connections it has at a time, and holds each
//! request until the test lets it go.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{SockRef, Socket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::support::until;

/// See the module.
#[derive(Debug)]
pub(crate) struct Turnstile {
    name: String,
    address: SocketAddr,
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    /// Requests that may still go.
    let_go: Semaphore,
    /// How long each takes by itself, once it may go.
    pace: Duration,
    /// It dies when there are more at a time.
    dies_above: Option<usize>,
    counts: Mutex<Counts>,
    /// Notified when it has to die.
    overloaded: tokio::sync::Notify,
}

#[derive(Debug, Default)]
struct Counts {
    in_flight: usize,
    most_in_flight: usize,
    /// Connections that have carried a request, as far as they are known to be open.
    open: Vec<Socket>,
    most_open: usize,
    /// Paths, in the order in which they came.
    arrived: Vec<String>,
    served: usize,
}

impl Turnstile {
    /// One that holds every request until it is let go.
    pub(crate) async fn holding(name: &str) -> Self {
        Self::start(name, Semaphore::new(0), Duration::ZERO, None).await
    }

    /// One that answers every request after this long.
    pub(crate) async fn taking(name: &str, pace: Duration) -> Self {
        Self::start(name, Semaphore::new(Semaphore::MAX_PERMITS), pace, None).await
    }

    /// One that answers every request after this long, and dies when it has more than so many at a time: it breaks every
    /// connection and listens no more.
    pub(crate) async fn dying_above(name: &str, most: usize, pace: Duration) -> Self {
        Self::start(name, Semaphore::new(Semaphore::MAX_PERMITS), pace, Some(most)).await
    }

    async fn start(name: &str, let_go: Semaphore, pace: Duration, dies_above: Option<usize>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a loopback port is free");
        let address = listener.local_addr().expect("a bound socket");
        let (counts, overloaded) = (Mutex::default(), tokio::sync::Notify::new());
        let shared = Arc::new(Shared { name: name.to_owned(), let_go, pace, dies_above, counts, overloaded });
        let task = Some(tokio::spawn(serve(listener, Arc::clone(&shared))));
        Self { name: name.to_owned(), address, shared, task }
    }

    /// Its line in a pool's `backends`, with more settings.
    pub(crate) fn yaml(&self, settings: &str) -> String {
        format!("{{ name: {}, address: \"{}\", {settings} }}", self.name, self.address)
    }

    /// Lets so many requests go, the next to come included.
    pub(crate) fn let_go(&self, count: usize) {
        self.shared.let_go.add_permits(count);
    }

    /// Lets everybody go from now on.
    pub(crate) fn open(&self) {
        self.shared.let_go.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    /// Holds everybody from now on.
    pub(crate) fn hold(&self) {
        self.shared.let_go.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// Breaks every connection, and refuses new ones from then on.
    pub(crate) async fn die(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            // Cancelled, as it should be: what it held is closed then.
            let _ = task.await;
            self.shared.counts().open.clear();
        }
    }

    /// Whether it died.
    pub(crate) fn is_dead(&self) -> bool {
        self.task.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until so many requests are there.
    pub(crate) async fn until_in_flight(&self, count: usize) {
        until(&format!("{count} requests are at {}", self.name), async || {
            let seen = self.shared.counts().in_flight;
            if seen == count { Ok(()) } else { Err(seen) }
        })
        .await;
    }

    /// Requests that are there.
    pub(crate) fn in_flight(&self) -> usize {
        self.shared.counts().in_flight
    }

    /// Most requests that were there at a time.
    pub(crate) fn most_in_flight(&self) -> usize {
        self.shared.counts().most_in_flight
    }

    /// Most connections that were open at a time.
    pub(crate) fn most_open(&self) -> usize {
        self.shared.counts().most_open
    }

    /// Requests answered.
    pub(crate) fn served(&self) -> usize {
        self.shared.counts().served
    }

    /// The paths of requests, in the order in which they came.
    pub(crate) fn arrived(&self) -> Vec<String> {
        self.shared.counts().arrived.clone()
    }
}

impl Drop for Turnstile {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Shared {
    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().expect("nobody panics with it")
    }

    fn comes(&self, path: &str) {
        let mut counts = self.counts();
        counts.in_flight += 1;
        counts.most_in_flight = counts.most_in_flight.max(counts.in_flight);
        counts.arrived.push(path.to_owned());
        if self.dies_above.is_some_and(|most| counts.in_flight > most) {
            self.overloaded.notify_one();
        }
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((mut io, _)) = accepted else { return };
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let end = connection(&mut io, shared).await;
                    // Whoever counts has another handle on it.
                    let _ = SockRef::from(&io).shutdown(std::net::Shutdown::Both);
                    end
                });
            }
            Some(_) = connections.join_next() => {}
            () = shared.overloaded.notified() => {
                shared.counts().open.clear();
                return;
            }
        }
    }
}

/// A request that is here, until its reply is about to be written or its connection breaks.
struct Inside<'a>(&'a Shared);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.counts().in_flight -= 1;
    }
}

/// Reads requests without a body. The first one makes it count: a probe that only connects does not.
async fn connection(io: &mut TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    let mut read = Vec::new();
    let mut is_counted = false;
    loop {
        let Some(end) = memchr::memmem::find(&read, b"\r\n\r\n") else {
            if io.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let head = String::from_utf8_lossy(&read.drain(..end + 4).collect::<Vec<u8>>()).into_owned();
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        if path == "/health" {
            io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
            continue;
        }
        if !std::mem::replace(&mut is_counted, true) {
            count_open(io, &shared)?;
        }
        shared.comes(&path);
        let inside = Inside(&shared);
        if head.to_ascii_lowercase().contains("\r\nupgrade:") {
            io.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n").await?;
            while io.read_buf(&mut read).await? > 0 {}
            return Ok(());
        }
        let mut rest = [0; 1];
        tokio::select! {
            permit = shared.let_go.acquire() => permit.expect("it is never closed").forget(),
            // Nobody sends anything ahead: whoever asked is gone.
            _ = io.read(&mut rest) => return Ok(()),
        }
        tokio::time::sleep(shared.pace).await;
        let body = format!("{{\"served_by\":\"{}\"}}", shared.name);
        let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        shared.counts().served += 1;
        // Before the reply, behind which the next one may come.
        drop(inside);
        io.write_all(reply.as_bytes()).await?;
    }
}

/// Counts the connections that are open now. One that was closed before this one was opened has its end in its socket by
/// now, whether the task that reads it knows of it or not.
fn count_open(io: &TcpStream, shared: &Shared) -> io::Result<()> {
    let is_open = |socket: &Socket| {
        let mut byte = [std::mem::MaybeUninit::uninit(); 1];
        match socket.peek(&mut byte) {
            Ok(count) => count > 0,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    };
    let socket = SockRef::from(io).try_clone()?;
    let mut counts = shared.counts();
    counts.open.retain(is_open);
    counts.open.push(socket);
    counts.most_open = counts.most_open.max(counts.open.len());
    Ok(())
}
