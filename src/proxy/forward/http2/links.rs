//! Where a request finds a place on a connection of HTTP/2: one worker's connections to each backend.
//!
//! A request takes the first connection with a free place. When there is none, connections are opened by tasks of their own,
//! not more of them than those who wait need, so that a request that goes away takes nothing from the others.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout, timeout_at};

use super::super::client::{AttemptError, FRESH, Owner, idle_timeout};
use super::super::connect::{self, Offer};
use super::super::connection::Connection as Http1Connection;
use super::connection::{Connection, Place};
use crate::config::{Address, Protocol};
use crate::pool::{Backend, Member, OpenConnection, Transport};
use crate::proxy::deadline::Deadlines;
use crate::proxy::stream::BackendStream;
use crate::tls::HTTP_2;

/// As many places a connection is thought to have before one was seen.
const EXPECTED: usize = 100;

/// Connections of HTTP/1.1 kept for those who asked for either: what is more is closed.
const HTTP1_LIMIT: usize = 16;

/// What a request goes over.
#[derive(Debug)]
pub(in super::super) enum Taken {
    Http2(Place),
    /// The backend preferred it, where it had the choice.
    Http1(Http1Connection),
}

/// One worker's connections to all backends, by serial number.
#[derive(Debug, Default)]
pub(in super::super) struct AllLinks(RefCell<Vec<Option<Rc<Links>>>>);

/// Those to one backend, all to the same address and made in the same way.
#[derive(Debug)]
struct Links {
    backend: Weak<Backend>,
    address: Address,
    transport: Arc<Transport>,
    connections: RefCell<Vec<Rc<Connection>>>,
    http1: RefCell<Vec<Http1Connection>>,
    /// Requests that wait for a place.
    waiting: Cell<usize>,
    /// Connections that are being opened.
    opening: Cell<usize>,
    /// Places of the connection that was opened last.
    expected: Cell<usize>,
    /// How often a connection could not be opened, and why the last time.
    failures: Cell<u64>,
    failure: RefCell<Option<Failure>>,
    /// A place is free, or a connection was opened, or could not be.
    changed: Rc<Notify>,
}

/// Why a connection could not be opened, for all who wait for it.
#[derive(Debug)]
enum Failure {
    Timeout,
    Error(io::Error),
}

impl AllLinks {
    /// A place for a request, on a connection that is there or is opened for it.
    ///
    /// # Errors
    /// When no connection can be opened in time. Nothing was sent.
    pub(in super::super) async fn take(
        &self,
        clock: &Rc<Deadlines>,
        member: &Member,
        (owner, is_idempotent): (Option<Owner>, bool),
        patience: Duration,
    ) -> Result<Taken, AttemptError> {
        let links = self.to(member);
        let end = Instant::now() + patience;
        while let Some((connection, place)) = links.place(owner) {
            // One that was silent may be gone, and what must not be sent twice is not sent there to find out.
            if is_idempotent || connection.is_fresh(FRESH) || connection.answers(patience).await {
                return Ok(Taken::Http2(place));
            }
            connection.retire();
        }
        let failures = links.failures.get();
        let _waiting = Waiting::begin(&links);
        let mut has_opened = false;
        loop {
            if let Some((_, place)) = links.place(owner) {
                return Ok(Taken::Http2(place));
            }
            let http1 = {
                let mut kept = links.http1.borrow_mut();
                let at = kept.iter().position(|connection| connection.owner == owner);
                at.map(|at| kept.swap_remove(at))
            };
            if let Some(connection) = http1 {
                return Ok(Taken::Http1(connection));
            }
            if links.failures.get() != failures && links.opening.get() == 0 {
                return Err(links.failed());
            }
            // Nobody else's place would do for an owner of his own.
            let is_wanted = match owner {
                Some(_) => !has_opened,
                None => links.opening.get() * links.expected.get() < links.waiting.get(),
            };
            if is_wanted && links.may_open(member) {
                has_opened = true;
                links.open(clock, member, owner, patience);
            }
            if timeout_at(end, links.changed.notified()).await.is_err() {
                let busy = || AttemptError::Connect(io::ErrorKind::ResourceBusy.into());
                return Err(if links.opening.get() > 0 { AttemptError::ConnectTimeout } else { busy() });
            }
        }
    }

    /// Whether there is no connection of HTTP/2.
    pub(in super::super) fn has_none(&self, member: &Member) -> bool {
        self.to(member).connections.borrow().is_empty()
    }

    /// Closes connections that are idle for too long, and all to a backend that is to be shut down.
    pub(in super::super) fn sweep(&self, now: Instant) {
        for kept in self.0.borrow_mut().iter_mut() {
            let Some(links) = kept else { continue };
            let Some(backend) = links.backend.upgrade() else {
                *kept = None;
                continue;
            };
            let timeout = idle_timeout(&backend);
            let then = now.checked_sub(timeout).unwrap_or(now);
            links.keep(|connection| !connection.is_idle_since(then) && !connection.is_of_no_use());
            links.http1.borrow_mut().clear();
        }
    }

    /// Closes every idle connection.
    pub(in super::super) fn close_idle(&self) {
        for links in self.0.borrow().iter().flatten() {
            links.keep(|connection| !connection.is_idle());
        }
    }

    /// Gives up a connection to each backend that other workers want one to and cannot have one: an idle one, else one that
    /// is closed when its requests have ended.
    pub(in super::super) fn close_wanted(&self) {
        for links in self.0.borrow().iter().flatten() {
            let Some(backend) = links.backend.upgrade() else { continue };
            if backend.room().connections_wanted() == 0 {
                continue;
            }
            let mut connections = links.connections.borrow_mut();
            let idle = connections.iter().position(|connection| connection.is_idle());
            if let Some(at) = idle.or_else(|| connections.len().checked_sub(1)) {
                connections.swap_remove(at).retire();
            }
        }
    }

    fn to(&self, member: &Member) -> Rc<Links> {
        let mut all = self.0.borrow_mut();
        let serial = member.backend.serial() as usize;
        if all.len() <= serial {
            all.resize_with(serial + 1, || None);
        }
        // Those that lead to where the backend was before a reload end with their requests.
        let fits = all[serial].as_ref().filter(|links| links.fits(member)).map(Rc::clone);
        fits.unwrap_or_else(|| Rc::clone(all[serial].insert(Rc::new(Links::new(member)))))
    }
}

impl Links {
    fn new(member: &Member) -> Self {
        Self {
            backend: Arc::downgrade(&member.backend),
            address: member.address.clone(),
            transport: Arc::clone(&member.transport),
            connections: RefCell::default(),
            http1: RefCell::default(),
            waiting: Cell::new(0),
            opening: Cell::new(0),
            expected: Cell::new(EXPECTED),
            failures: Cell::new(0),
            failure: RefCell::default(),
            changed: Rc::new(Notify::new()),
        }
    }

    fn fits(&self, member: &Member) -> bool {
        let is_same = Arc::ptr_eq(&self.transport, &member.transport) || self.transport.fits(&member.transport);
        is_same && self.address == member.address && self.backend.as_ptr() == Arc::as_ptr(&member.backend)
    }

    /// A place on a connection that is there.
    fn place(&self, owner: Option<Owner>) -> Option<(Rc<Connection>, Place)> {
        self.keep(|connection| !connection.is_of_no_use());
        let connections = self.connections.borrow();
        let mut fitting = connections.iter().filter(|connection| connection.owner == owner);
        fitting.find_map(|connection| Some((Rc::clone(connection), connection.place()?)))
    }

    fn keep(&self, is_kept: impl Fn(&Connection) -> bool) {
        self.connections.borrow_mut().retain(|connection| {
            let is_kept = is_kept(connection);
            if !is_kept {
                connection.retire();
            }
            is_kept
        });
    }

    /// Whether a connection may be opened, or has to be waited for: where there are as many as there may be, and some of
    /// them are this worker's, a place on these will do.
    fn may_open(&self, member: &Member) -> bool {
        let room = member.backend.room();
        let is_full = room.max_connections().is_some_and(|most| room.connections() >= most);
        !(is_full && (!self.connections.borrow().is_empty() || self.opening.get() > 0))
    }

    fn open(self: &Rc<Self>, clock: &Rc<Deadlines>, member: &Member, owner: Option<Owner>, patience: Duration) {
        self.opening.set(self.opening.get() + 1);
        let (links, clock, member) = (Rc::clone(self), Rc::clone(clock), member.clone());
        spawn_local(async move {
            let opened = timeout(patience, links.opened(&clock, &member, owner)).await;
            links.opening.set(links.opening.get() - 1);
            let failure = match opened {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(Failure::Error(error)),
                Err(_) => Some(Failure::Timeout),
            };
            if let Some(failure) = failure {
                links.failures.set(links.failures.get() + 1);
                *links.failure.borrow_mut() = Some(failure);
            }
            links.changed.notify_waiters();
        });
    }

    async fn opened(&self, clock: &Rc<Deadlines>, member: &Member, owner: Option<Owner>) -> io::Result<()> {
        let room = member.backend.room();
        let counted: OpenConnection = match room.try_connect() {
            Some(counted) => counted,
            None => room.connect().await.ok_or(io::ErrorKind::ResourceBusy)?,
        };
        let io = connect::open(member, owner, Offer::AsSet).await?;
        let speaks_http2 = match &io {
            BackendStream::Plain(_) => true,
            BackendStream::Tls(io) => io.get_ref().1.alpn_protocol() == Some(HTTP_2),
        };
        if !speaks_http2 && member.transport.protocol == Protocol::H2 {
            let what = "it does not agree to HTTP/2 (ALPN)";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        if speaks_http2 {
            let connection = Connection::open((io, counted), owner, clock, &self.changed).await?;
            if connection.most_streams() == 0 {
                // Another one would be no better, and whoever waits would open one after the other.
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, "it allows no streams"));
            }
            self.expected.set(connection.most_streams());
            self.connections.borrow_mut().push(Rc::new(connection));
        } else {
            self.expected.set(1);
            let mut kept = self.http1.borrow_mut();
            if kept.len() >= HTTP1_LIMIT {
                kept.remove(0);
            }
            kept.push(Http1Connection::new((io, counted), owner, clock.coarse_now()));
        }
        Ok(())
    }

    fn failed(&self) -> AttemptError {
        match &*self.failure.borrow() {
            Some(Failure::Error(error)) => AttemptError::Connect(copy(error)),
            Some(Failure::Timeout) | None => AttemptError::ConnectTimeout,
        }
    }
}

/// The same error for another who waits.
fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// Counts one who waits.
struct Waiting<'a>(&'a Links);

impl<'a> Waiting<'a> {
    fn begin(links: &'a Links) -> Self {
        links.waiting.set(links.waiting.get() + 1);
        Self(links)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}
