//! One thread of the data plane: its own runtime, its own listening sockets, its own idle connections to backends.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fastrand::Rng;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{Instant, MissedTickBehavior};

use super::Proxy;
use super::accept::connection::{self, Shared};
use super::accept::listener::{self, Accepted, Inboxes, Listening};
use super::accept::stream::ClientStream;
use super::accept::tls::{self, Handshakes};
use super::client_connection::ClientConnection;
use super::deadline::{Deadlines, TICK};
use super::forward::{Client, Origin};
use super::snapshot::Published;
use super::view::View;
use crate::config;
use crate::drain;
use crate::telemetry::access_log::WorkerLog;

/// How often idle connections are looked through, and the access log is flushed at the latest.
const SWEEP: Duration = Duration::from_millis(500);

/// What a worker is made of.
#[derive(Debug)]
pub struct Setup {
    /// Its number.
    pub index: usize,
    /// Its sockets, one for each listener, bound and listening.
    pub sockets: Vec<std::net::TcpListener>,
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
    let handshakes = Rc::<Handshakes>::default();
    let begin = |connections: &mut JoinSet<()>, accepted| {
        begin(connections, (&proxy, &shared, &handshakes), &listeners, accepted);
    };
    spawn_local(tick(Rc::clone(&proxy)));
    let mut acceptors = JoinSet::new();
    for (number, socket) in sockets.into_iter().enumerate() {
        let socket = TcpListener::from_std(socket)?;
        let (listeners, inboxes, mut drain) = (Arc::clone(&listeners), inboxes.clone(), drain.clone());
        acceptors.spawn_local(async move {
            listener::run(socket, (number, &listeners[number].0), (index, &inboxes), drain.draining()).await;
        });
    }
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(accepted) = inbox.recv() => {
                begin(&mut connections, accepted);
            }
            Some(_) = connections.join_next() => {}
            () = drain.draining() => break,
        }
    }
    // Whoever was queued in the kernel is still accepted, by any worker, and handed over.
    drop(inboxes);
    let finish = async {
        while acceptors.join_next().await.is_some() {}
        shared.closing.set(true);
        proxy.clock.wake_all();
        loop {
            tokio::select! {
                biased;
                accepted = inbox.recv() => match accepted {
                    Some(accepted) => begin(&mut connections, accepted),
                    None => break,
                },
                Some(_) = connections.join_next() => {}
            }
        }
        while connections.join_next().await.is_some() {}
    };
    tokio::select! {
        () = finish => {}
        () = drain.stopped() => {}
    }
    proxy.log.borrow_mut().flush();
    Ok(())
}

fn begin(
    connections: &mut JoinSet<()>,
    (proxy, shared, handshakes): (&Rc<Proxy>, &Rc<Shared>, &Rc<Handshakes>),
    listeners: &[(Listening, config::Listener)],
    accepted: Accepted,
) {
    let Accepted { io, peer, listener, counted } = accepted;
    let (listening, settings) = &listeners[listener];
    // A socket that cannot be registered is closed by being dropped.
    let Ok(io) = TcpStream::from_std(io) else { return };
    let local = io.local_addr().unwrap_or(listening.address);
    let timeouts = (settings.header_timeout, settings.keep_alive_timeout);
    let (proxy, shared, head_limit) = (Rc::clone(proxy), Rc::clone(shared), settings.head_limit);
    let tls = listening.tls.as_ref().map(|tls| (Arc::clone(tls), Rc::clone(handshakes)));
    connections.spawn_local(async move {
        let is_tls = tls.is_some();
        let (io, certificate) = match tls {
            None => (ClientStream::Plain(io), None),
            // Boxed, so that the task of a plain connection need not have room for a handshake.
            Some((tls, handshakes)) => match Box::pin(tls::secure(io, &tls, proxy.worker, &handshakes)).await {
                Some(secured) => (ClientStream::Tls(secured.io), secured.certificate),
                None => return,
            },
        };
        let is_trusted = proxy.view().snapshot.trusts(peer.ip());
        let mut origin = Origin::new(peer.ip(), local, is_tls, is_trusted);
        if let Some(certificate) = certificate {
            origin = origin.with_certificate(certificate.lines);
        }
        let peer = (listener, peer.ip().to_canonical());
        let client = Rc::new(ClientConnection::new(peer, origin, proxy.clock.place(), timeouts));
        let handle = |request| Rc::clone(&proxy).handle(Rc::clone(&client), request);
        connection::serve(io, Rc::clone(&client), shared, head_limit, handle).await;
        drop(counted);
    });
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
