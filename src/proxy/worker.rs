//! One thread of the data plane: its own runtime, its own listening sockets, its own idle connections to backends.

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fastrand::Rng;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet, spawn_local};
use tokio::time::{Instant, MissedTickBehavior, timeout};

use super::Proxy;
use super::accept::connection::{self, BegunHttp2, LINGER, Shared, Speaks};
use super::accept::http2::Http2;
use super::accept::listener::{self, Accepted, Counted, Inboxes, Listening, ListeningSocket};
use super::accept::proxy_header::{self, HeaderError};
use super::accept::tls::{self, Handshakes};
use super::client_connection::{ClientConnection, Conversation};
use super::deadline::{Deadlines, TICK};
use super::forward::{Client, Origin};
use super::snapshot::Published;
use super::stream::ClientStream;
use super::view::View;
use crate::config::{self, ProxyProtocol, TrustedProxies};
use crate::drain;
use crate::proxy_protocol::Ends;
use crate::telemetry::access_log::WorkerLog;
use crate::telemetry::with_causes;

/// How often idle connections are looked through, and the access log is flushed at the latest.
const SWEEP: Duration = Duration::from_millis(500);

/// What a worker is made of.
#[derive(Debug)]
pub struct Setup {
    /// Its number.
    pub index: usize,
    /// Its sockets, one for each listener, bound and listening.
    pub sockets: Vec<ListeningSocket>,
    /// What it shares with the other workers about each listener, and each listener's settings.
    pub listeners: Arc<[(Listening, config::Listener)]>,
    /// Where connections are handed over.
    pub inboxes: Inboxes,
    /// Where it gets its own.
    pub inbox: mpsc::UnboundedReceiver<Accepted>,
    /// The snapshots.
    pub published: Arc<Published>,
    /// Its part of the access log.
    pub log: WorkerLog,
    /// Chance.
    pub rng: Rng,
    /// When to stop.
    pub drain: drain::Watcher,
}

/// Runs a worker on the current thread until it is told to stop and its connections have ended, or the deadline passes.
///
/// # Errors
/// When the runtime cannot be made.
pub fn run(setup: Setup) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default())?;
    runtime.block_on(serve(setup))
}

async fn serve(setup: Setup) -> std::io::Result<()> {
    let Setup { index, sockets, listeners, inboxes, mut inbox, published, log, rng, mut drain } = setup;
    let clock = Rc::new(Deadlines::new(Instant::now(), SystemTime::now()));
    let view = View::new(published.load(), index);
    let proxy = Rc::new(Proxy {
        worker: index,
        generation: Cell::new(view.snapshot.generation),
        published,
        current: RefCell::new(Rc::new(view)),
        client: Client::new(Rc::clone(&clock)),
        clock,
        rng: RefCell::new(rng),
        log: RefCell::new(log),
    });
    let shared = Rc::new(Shared::default());
    spawn_local(tick(Rc::clone(&proxy)));
    let mut acceptors = JoinSet::new();
    for (number, socket) in sockets.into_iter().enumerate() {
        let (listeners, inboxes, mut drain) = (Arc::clone(&listeners), inboxes.clone(), drain.clone());
        acceptors.spawn_local(async move {
            listener::run(socket, (number, &listeners[number].0), (index, &inboxes), drain.draining()).await
        });
    }
    let (running, handshakes) = (JoinSet::new(), Rc::new(Handshakes::new(drain.clone())));
    let mut connections = Connections { running, proxy, shared, listeners, drain: drain.clone(), count: 0, handshakes };
    loop {
        tokio::select! {
            Some(accepted) = inbox.recv() => connections.begin(accepted),
            Some(_) = connections.running.join_next() => {}
            Some(ended) = acceptors.join_next() => accepted_until(ended)?,
            () = drain.draining() => break,
        }
    }
    // Whoever was queued in the kernel is still accepted, by any worker, and handed over.
    drop(inboxes);
    let finish = async {
        while acceptors.join_next().await.is_some() {}
        connections.shared.closing.set(true);
        connections.proxy.clock.wake_all();
        loop {
            tokio::select! {
                biased;
                accepted = inbox.recv() => match accepted {
                    Some(accepted) => connections.begin(accepted),
                    None => break,
                },
                Some(_) = connections.running.join_next() => {}
            }
        }
        while connections.running.join_next().await.is_some() {}
    };
    tokio::select! {
        () = finish => {}
        () = drain.stopped() => {}
    }
    connections.proxy.log.borrow_mut().flush();
    Ok(())
}

/// An acceptor ends by itself only when it could not begin.
fn accepted_until(ended: Result<std::io::Result<()>, JoinError>) -> std::io::Result<()> {
    ended.map_err(std::io::Error::other)?
}

/// The client connections of a worker.
struct Connections {
    running: JoinSet<()>,
    proxy: Rc<Proxy>,
    shared: Rc<Shared>,
    listeners: Arc<[(Listening, config::Listener)]>,
    drain: drain::Watcher,
    /// How many there have been, which numbers them.
    count: u64,
    handshakes: Rc<Handshakes>,
}

impl Connections {
    fn begin(&mut self, accepted: Accepted) {
        let Accepted { io, peer, listener, counted } = accepted;
        // A socket that cannot be registered is closed by being dropped.
        let Ok(io) = TcpStream::from_std(io) else { return };
        self.count += 1;
        let handshakes = Rc::clone(&self.handshakes);
        let listeners = Arc::clone(&self.listeners);
        let beginning = Beginning { number: self.count, io, peer, listener, counted, listeners, handshakes };
        let (proxy, shared) = (Rc::clone(&self.proxy), Rc::clone(&self.shared));
        match self.listeners[listener].1.proxy_protocol {
            ProxyProtocol::Off => {
                let ends = beginning.ends();
                self.running.spawn_local(beginning.serve(proxy, shared, ends));
            }
            setting => {
                let drain = self.drain.clone();
                self.running.spawn_local(beginning.serve_whom_proxy_tells(proxy, shared, setting, drain));
            }
        }
    }
}

/// A connection of which nothing has been read.
struct Beginning {
    number: u64,
    io: TcpStream,
    peer: Option<SocketAddr>,
    /// Index of the listener.
    listener: usize,
    counted: Counted,
    listeners: Arc<[(Listening, config::Listener)]>,
    handshakes: Rc<Handshakes>,
}

impl Beginning {
    /// Its ends as the socket has them. Whoever comes by a Unix socket is on this machine.
    fn ends(&self) -> Ends {
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let bound = || self.listeners[self.listener].0.address.ip().unwrap_or(here);
        let destination = self.peer.map(|_| self.io.local_addr().unwrap_or_else(|_| bound()));
        Ends { source: self.peer.unwrap_or(here), destination: destination.unwrap_or(here) }
    }

    /// Whether the other end may speak for others.
    fn is_trusted(&self, trusted: &TrustedProxies) -> bool {
        self.peer.map_or(trusted.unix, |peer| trusted.contains(peer.ip()))
    }

    /// As [`Beginning::serve`], for the client that the PROXY protocol tells of.
    async fn serve_whom_proxy_tells(
        mut self,
        proxy: Rc<Proxy>,
        shared: Rc<Shared>,
        setting: ProxyProtocol,
        mut drain: drain::Watcher,
    ) {
        let is_trusted = self.is_trusted(&proxy.view().snapshot.trusted_proxies);
        let listeners = Arc::clone(&self.listeners);
        let (listening, settings) = &listeners[self.listener];
        let told = {
            let mut receive = pin!(proxy_header::receive(&mut self.io, setting, is_trusted));
            let late = |_| Err(HeaderError::Broken(std::io::ErrorKind::TimedOut.into()));
            tokio::select! {
                told = timeout(settings.header_timeout, &mut receive) => told.unwrap_or_else(late),
                () = drain.draining() => timeout(LINGER, &mut receive).await.unwrap_or_else(late),
            }
        };
        let ends = match told {
            Ok(told) => told.unwrap_or_else(|| self.ends()),
            Err(error) => {
                tracing::debug!(peer = ?self.peer, error = %with_causes(&error), "client connection closed");
                // Whoever connects and goes away again only looks whether we are there.
                if !matches!(error, HeaderError::Broken(_)) {
                    let what = format!("a connection was closed: {error}");
                    listening.header_trouble.tell(&listening.address, &what);
                }
                return;
            }
        };
        self.serve(proxy, shared, ends).await;
    }

    /// Serves the client at the other of these ends.
    async fn serve(self, proxy: Rc<Proxy>, shared: Rc<Shared>, ends: Ends) {
        let (listening, settings) = &self.listeners[self.listener];
        let trusted = Arc::clone(&proxy.view().snapshot.trusted_proxies);
        // Whom the PROXY protocol tells of speaks for others only if it is itself a trusted proxy.
        let is_trusted =
            if ends == self.ends() { self.is_trusted(&trusted) } else { trusted.contains(ends.source.ip()) };
        let (io, certificate) = match &listening.tls {
            None => (ClientStream::Plain(self.io), None),
            // Boxed, so that the task of a plain connection need not have room for a handshake.
            Some(tls) => match Box::pin(tls::secure(self.io, tls, proxy.worker, &self.handshakes)).await {
                Some(secured) => (ClientStream::Tls(secured.io), secured.certificate),
                None => return,
            },
        };
        let mut origin = Origin::new(ends, io.is_tls(), is_trusted.then_some(trusted));
        if let Some(certificate) = certificate {
            origin = origin.with_certificate(certificate.lines);
        }
        let (number, listener) = (self.number, self.listener);
        let peer = ends.source.ip().to_canonical();
        let client = Rc::new(ClientConnection { number, listener, peer, origin });
        let handle = {
            let proxy = Rc::clone(&proxy);
            move |conversation, request| Rc::clone(&proxy).handle(conversation, request)
        };
        let begun = if io.agreed_on_http2() {
            Some(BegunHttp2 { io, read: Vec::new() })
        } else {
            let timeouts = (settings.header_timeout, settings.keep_alive_timeout);
            let conversation = Rc::new(Conversation::new(Rc::clone(&client), proxy.clock.place(), timeouts));
            let speaks = if settings.http2.is_some() { Speaks::Either } else { Speaks::Http1 };
            let limits = (speaks, settings.head_limit);
            connection::serve(io, conversation, Rc::clone(&shared), limits, handle.clone()).await
        };
        if let (Some(BegunHttp2 { io, read }), Some(http2)) = (begun, settings.http2) {
            let clock = Rc::clone(&proxy.clock);
            let connection = Http2 { io, early: read, client, shared, clock };
            // Boxed, so that the task of a connection of HTTP/1.1 need not have room for it.
            Box::pin(connection.serve(settings, http2, &listening.http2, handle)).await;
        }
        drop(self.counted);
    }
}

/// Keeps the worker's coarse clock, and sweeps now and then.
async fn tick(proxy: Rc<Proxy>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut swept = Instant::now();
    let mut generation = proxy.published.generation();
    let wishes = Arc::clone(&proxy.view().snapshot.wishes);
    loop {
        let now = tokio::select! {
            now = interval.tick() => now,
            () = wishes.asked(proxy.worker) => {
                proxy.client.close_wanted();
                continue;
            }
        };
        proxy.clock.tick(Instant::now(), SystemTime::now());
        if now.duration_since(swept) >= SWEEP {
            swept = now;
            proxy.client.sweep(now);
            // An order may have set tunnels a deadline, of which one that is silent would not learn.
            let before = std::mem::replace(&mut generation, proxy.published.generation());
            if before != generation {
                proxy.clock.wake_all();
            }
            proxy.log.borrow_mut().flush();
        }
    }
}
