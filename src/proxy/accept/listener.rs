//! Accepting: limits, trouble with file descriptors, and spreading connections over the workers.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::http2::flood::Http2Counts;
use crate::config::Address;
use crate::socket;
use crate::tls::listener::TlsListener;

/// Connections the kernel keeps for us until we accept them.
pub(super) const BACKLOG: i32 = 4096;

/// How long accepting pauses when there is no room or no file descriptor.
const PAUSE: Duration = Duration::from_millis(20);

/// Trouble that has not come up for this long is said again.
const QUIET: Duration = Duration::from_secs(10);

/// Up to this many connections a worker gives away any that another has less of; beyond it only when it has a quarter
/// more than the least busy one, since handing over costs two system calls.
const EVEN_UP_TO: usize = 64;

/// One address, accepted on by every worker.
#[derive(Debug)]
pub struct Listening {
    /// As bound; port 0 has become a real one.
    pub address: Address,
    /// Open client connections, over all workers.
    pub connections: Arc<AtomicUsize>,
    /// Accepting pauses beyond this many.
    pub max_connections: usize,
    /// Of all workers together.
    pub trouble: Trouble,
    /// `None`: plain HTTP.
    pub tls: Option<Arc<TlsListener>>,
    /// What is counted about HTTP/2.
    pub http2: Arc<Http2Counts>,
    /// Connections that did not begin as they must.
    pub header_trouble: Trouble,
}

/// Opens a socket for one worker. The first one of an address with port 0 decides the port for the others.
///
/// # Errors
/// When the address cannot be bound, another process holding it included.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket_for(address)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Looks whether an address can be had: `SO_REUSEPORT` lets two processes share a port without a word.
///
/// # Errors
/// When it cannot be bound.
pub fn look(address: SocketAddr) -> io::Result<()> {
    let socket = socket_for(address)?;
    socket.bind(&address.into())?;
    socket.listen(1)
}

/// An address means what it says: `[::]` takes IPv6 only, and `0.0.0.0` may stand beside it.
fn socket_for(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A socket that listens for streams.
#[derive(Debug)]
pub enum ListeningSocket {
    /// At an IP address.
    Ip(std::net::TcpListener),
    /// At a path.
    Unix(std::os::unix::net::UnixListener),
}

impl ListeningSocket {
    /// One more of the same, for another worker: where there is no `SO_REUSEPORT`, all of them accept from one queue.
    ///
    /// # Errors
    /// When there is no file descriptor left.
    pub fn another(&self) -> io::Result<Self> {
        match self {
            Self::Ip(socket) => socket.try_clone().map(Self::Ip),
            Self::Unix(socket) => socket.try_clone().map(Self::Unix),
        }
    }

    /// What it listens on.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> io::Result<Address> {
        Ok(match self {
            Self::Ip(socket) => socket.local_addr()?.into(),
            // One of the abstract namespace has no path to show.
            Self::Unix(socket) => Address::Unix(socket.local_addr()?.as_pathname().unwrap_or(Path::new("@")).into()),
        })
    }

    /// Ready for a runtime.
    ///
    /// # Errors
    /// When the runtime cannot be told of it.
    fn registered(self) -> io::Result<Acceptor> {
        match self {
            Self::Ip(socket) => {
                socket.set_nonblocking(true)?;
                TcpListener::from_std(socket).map(Acceptor::Ip)
            }
            Self::Unix(socket) => {
                socket.set_nonblocking(true)?;
                UnixListener::from_std(socket).map(Acceptor::Unix)
            }
        }
    }

    fn accept(&self) -> io::Result<(std::net::TcpStream, Option<SocketAddr>)> {
        match self {
            Self::Ip(socket) => socket.accept().map(|(io, peer)| (io, Some(peer))),
            Self::Unix(socket) => socket.accept().map(|(io, _)| (socket::carried(io), None)),
        }
    }
}

/// A [`ListeningSocket`] that a runtime knows.
enum Acceptor {
    Ip(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    /// `peer` is `None` for somebody without an address: the other end of a Unix socket.
    async fn accept(&self) -> io::Result<(std::net::TcpStream, Option<SocketAddr>)> {
        match self {
            Self::Ip(socket) => {
                let (io, peer) = socket.accept().await?;
                Ok((io.into_std()?, Some(peer)))
            }
            Self::Unix(socket) => Ok((socket::carried(socket.accept().await?.0.into_std()?), None)),
        }
    }

    fn into_std(self) -> io::Result<ListeningSocket> {
        match self {
            Self::Ip(socket) => socket.into_std().map(ListeningSocket::Ip),
            Self::Unix(socket) => socket.into_std().map(ListeningSocket::Unix),
        }
    }
}

/// A connection on its way to the worker that will serve it.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, registered with no runtime.
    pub io: std::net::TcpStream,
    /// Who connected; `None` by a Unix socket.
    pub peer: Option<SocketAddr>,
    /// Index of the listener.
    pub listener: usize,
    /// Counts the connection until dropped.
    pub counted: Counted,
}

/// Counts one connection at its listener and its worker.
#[derive(Debug)]
pub struct Counted {
    listener: Arc<AtomicUsize>,
    worker: Arc<Load>,
}

impl Counted {
    fn new(listener: &Arc<AtomicUsize>, worker: &Arc<Load>) -> Self {
        // Relaxed: figures for limits and balance, nothing is published through them.
        listener.fetch_add(1, Ordering::Relaxed);
        worker.0.fetch_add(1, Ordering::Relaxed);
        Self { listener: Arc::clone(listener), worker: Arc::clone(worker) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.listener.fetch_sub(1, Ordering::Relaxed);
        self.worker.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Connections of one worker, on a cache line of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Load(AtomicUsize);

/// Where each worker takes connections that others accepted.
#[derive(Clone, Debug)]
pub struct Inboxes {
    workers: Arc<[(Arc<Load>, mpsc::UnboundedSender<Accepted>)]>,
}

impl Inboxes {
    /// For this many workers, with the receiving ends in order. Bounded by the listeners' connection limits.
    pub fn new(workers: usize) -> (Self, Vec<mpsc::UnboundedReceiver<Accepted>>) {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..workers)
            .map(|_| {
                let (sender, receiver) = mpsc::unbounded_channel();
                ((Arc::new(Load::default()), sender), receiver)
            })
            .unzip();
        (Self { workers: senders.into() }, receivers)
    }

    /// The worker that should serve a connection accepted by `acceptor`.
    fn target(&self, acceptor: usize) -> usize {
        let load = |worker: usize| self.workers[worker].0.0.load(Ordering::Relaxed);
        let mine = load(acceptor);
        let least = (0..self.workers.len()).min_by_key(|worker| load(*worker)).unwrap_or(acceptor);
        let is_uneven = if mine <= EVEN_UP_TO { mine > load(least) } else { mine > load(least) + load(least) / 4 };
        if is_uneven { least } else { acceptor }
    }
}

/// Accepts until `closing` resolves; then takes what the kernel has queued already, and stops listening.
///
/// # Errors
/// When the runtime cannot be told of the socket.
pub async fn run(
    listener: ListeningSocket,
    (index, listening): (usize, &Listening),
    (worker, inboxes): (usize, &Inboxes),
    closing: impl Future<Output = ()>,
) -> io::Result<()> {
    let listener = listener.registered()?;
    let mut closing = std::pin::pin!(closing);
    let mut is_closing = false;
    loop {
        if listening.connections.load(Ordering::Relaxed) >= listening.max_connections && !is_closing {
            listening.trouble.tell(&listening.address, "the connection limit is reached; accepting pauses");
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => continue,
                () = &mut closing => { is_closing = true; continue },
            }
        }
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = &mut closing, if !is_closing => { is_closing = true; continue },
            () = std::future::ready(()), if is_closing => break,
        };
        match accepted {
            Ok((io, peer)) => hand_over(io, peer, (index, listening), (worker, inboxes)),
            Err(error) if is_clients_doing(&error) => {}
            Err(error) => {
                listening.trouble.tell(&listening.address, &format!("accepting pauses: {error}"));
                tokio::time::sleep(PAUSE).await;
                if is_closing {
                    break;
                }
            }
        }
    }
    // The runtime may not have heard of everybody who is queued, and closing the socket would reset them.
    let listener = listener.into_std()?;
    loop {
        match listener.accept() {
            Ok((io, peer)) if io.set_nonblocking(true).is_ok() => {
                hand_over(io, peer, (index, listening), (worker, inboxes));
            }
            Ok(_) => {}
            Err(error) if is_clients_doing(&error) => {}
            Err(_) => return Ok(()),
        }
    }
}

fn hand_over(
    io: std::net::TcpStream,
    peer: Option<SocketAddr>,
    (index, listening): (usize, &Listening),
    (worker, inboxes): (usize, &Inboxes),
) {
    // Replies are written whole; waiting for more would only delay them. A broken socket tells so later.
    let _ = io.set_nodelay(true);
    let target = inboxes.target(worker);
    let (load, inbox) = &inboxes.workers[target];
    let counted = Counted::new(&listening.connections, load);
    // Fails only when that worker has ended, and then we all are about to.
    let _ = inbox.send(Accepted { io, peer, listener: index, counted });
}

/// Errors of one connection that was gone before it was accepted.
fn is_clients_doing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// Says once that something is wrong, until it is over, however many workers find it so.
#[derive(Debug)]
pub struct Trouble {
    since: Instant,
    /// When it last came up, in milliseconds after `since` plus one; 0: never.
    last: AtomicU64,
}

impl Trouble {
    /// None yet.
    pub fn none(now: Instant) -> Self {
        Self { since: now, last: AtomicU64::new(0) }
    }

    /// Accepting goes on and off at the limit: that is one trouble until it has been quiet for a while.
    pub fn tell(&self, address: &Address, what: &str) {
        if self.is_news(Instant::now()) {
            tracing::warn!(listener = %address, "{what}");
        }
    }

    fn is_news(&self, now: Instant) -> bool {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let now = millis(now.duration_since(self.since)).saturating_add(1);
        // Relaxed: nothing is published through it, and of workers that come at the same moment one finds the old value.
        let last = self.last.swap(now, Ordering::Relaxed);
        last == 0 || now.saturating_sub(last) >= millis(QUIET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_news_once_until_it_has_been_quiet_for_a_while() {
        let start = Instant::now();
        let trouble = Trouble::none(start);
        let after = |millis: u64| start + Duration::from_millis(millis);
        let quiet = QUIET.as_millis() as u64;
        let rows = [(0, true), (0, false), (20, false), (quiet, false), (2 * quiet - 1, false), (3 * quiet, true)];
        for (millis, expected) in rows {
            assert_eq!(trouble.is_news(after(millis)), expected, "at {millis}");
        }
    }

    #[test]
    fn a_worker_gives_away_what_another_has_less_of() {
        let (inboxes, _receivers) = Inboxes::new(3);
        let load =
            |worker: usize, connections: usize| inboxes.workers[worker].0.0.store(connections, Ordering::Relaxed);
        assert_eq!(inboxes.target(1), 1, "all are idle");
        load(1, 1);
        assert_eq!(inboxes.target(1), 0);
        load(0, 1);
        assert_eq!(inboxes.target(1), 2);
        assert_eq!(inboxes.target(2), 2);
        for (worker, connections) in [(0, 100), (1, 110), (2, 120)] {
            load(worker, connections);
        }
        assert_eq!(inboxes.target(2), 2, "a small difference is not worth a hand-over");
        load(2, 130);
        assert_eq!(inboxes.target(2), 0);
    }
}
