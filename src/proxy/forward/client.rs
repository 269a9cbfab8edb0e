//! One worker's connections to backends, and one attempt to send a request over one of them.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::task::{Poll, ready};
use std::time::Duration;

use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::time::Instant;

use super::connect::{self, Offer};
use super::connection::Connection;
use super::exchange::{Exchange, ExchangeError, Http1Exchange, Version};
use super::head::{HeadError, ReplyHead};
use super::http2::exchange::{Http2Exchange, can_be_sent};
use super::http2::links::{AllLinks, Taken};
use super::http2::{self, Addressed, WEBSOCKET};
use super::request_body::RequestBody;
use super::request_head::Hop;
use crate::config::{Address, Protocol, Timeouts};
use crate::pool::{AdminState, Backend, Failure, Member, Transport};
use crate::proxy::client_body::ClientBodyError;
use crate::proxy::deadline::{Deadline, Deadlines};
use crate::proxy::websocket;
use crate::proxy_protocol::Ends;

/// An idle connection is closed after this long: sooner than common app servers close theirs, so that a request
/// rarely meets a connection that is being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// One to a backend that is being drained is closed sooner; while its clients still come, it is of use.
const DRAINING_IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// A request that must not be sent twice only uses a connection that was in use this recently.
pub(super) const FRESH: Duration = Duration::from_secs(1);

/// Idle connections kept for each backend.
const IDLE_LIMIT: usize = 256;

/// Buffers kept for heads that are yet to be written.
const BUFFER_LIMIT: usize = 256;

/// A buffer that grew beyond this is not kept.
const BUFFER_CAPACITY_LIMIT: usize = 16 * 1024;

/// Interim replies to one request that are passed on; a backend that sends more is broken.
const INTERIM_LIMIT: u32 = 64;

/// One worker's idle connections to every backend.
#[derive(Debug)]
pub struct Client {
    clock: Rc<Deadlines>,
    /// By the backend's serial number.
    idle: RefCell<Vec<Idle>>,
    buffers: RefCell<Vec<Vec<u8>>>,
    /// Connections of HTTP/2, idle or not.
    links: AllLinks,
}

/// The idle connections to one backend, all to the same address and made in the same way.
#[derive(Debug, Default)]
struct Idle {
    backend: Weak<Backend>,
    /// `None` before the first.
    address: Option<Address>,
    /// How they were made.
    transport: Arc<Transport>,
    /// The youngest is last, and is used first.
    connections: Vec<Connection>,
}

impl Idle {
    /// Whether they lead to where the backend is, in the way that it is spoken to now.
    fn fits(&self, member: &Member) -> bool {
        let is_same = Arc::ptr_eq(&self.transport, &member.transport) || self.transport.fits(&member.transport);
        is_same && self.address.as_ref() == Some(&member.address)
    }
}

/// Why an attempt failed before a reply began.
#[derive(Debug)]
pub enum AttemptError {
    /// Nothing was sent, so any method may be tried elsewhere.
    Connect(io::Error),
    /// No connection within the deadline; nothing was sent.
    ConnectTimeout,
    /// The connection broke before the reply.
    Broken {
        /// Whether a byte of the request may have reached the backend.
        anything_sent: bool,
        /// What happened.
        source: io::Error,
    },
    /// The backend said that it did not process the request: it goes away, or has too much to do.
    Refused(io::Error),
    /// The protocol that the client wants to switch to cannot be had over HTTP/2 with this backend.
    NoUpgrade,
    /// What came is not a reply.
    Reply(HeadError),
    /// No reply within the deadline.
    FirstByteTimeout,
    /// No reply within the time of one attempt, which was given up for another.
    AttemptTimeout,
    /// The client's own body failed.
    ClientBody(ClientBodyError),
    /// The client stopped sending its body.
    ClientStalled,
}

impl AttemptError {
    /// What it tells about the backend; `None` when it is not the backend's doing.
    pub fn evidence(&self) -> Option<Failure> {
        match self {
            Self::Connect(error) => connect_failure(error),
            Self::ConnectTimeout | Self::FirstByteTimeout | Self::AttemptTimeout => Some(Failure::Silent),
            Self::Broken { .. } | Self::Reply(_) => Some(Failure::Broken),
            Self::Refused(_) | Self::NoUpgrade | Self::ClientBody(_) | Self::ClientStalled => None,
        }
    }

    /// Whether we lacked something ourselves; see [`is_own_trouble`].
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Connect(error) if is_own_trouble(error))
    }

    /// Whether the backend cannot have processed anything of the request: nothing was sent, or it says so.
    pub fn nothing_was_sent(&self) -> bool {
        matches!(
            self,
            Self::Connect(_)
                | Self::ConnectTimeout
                | Self::Refused(_)
                | Self::NoUpgrade
                | Self::Broken { anything_sent: false, .. }
        )
    }
}

/// What a failed connect tells about the other side; `None` when the trouble is our own.
pub fn connect_failure(error: &io::Error) -> Option<Failure> {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Some(Failure::Refused),
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Some(Failure::Silent)
        }
        // The last two are TLS that is not as it has to be, or ends within the handshake.
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::InvalidData
        | io::ErrorKind::UnexpectedEof => Some(Failure::Broken),
        _ => None,
    }
}

/// One request as every attempt sends it.
pub struct Outgoing<'a> {
    /// The method decides what may be sent twice.
    pub method: &'a Method,
    /// Where it is addressed to.
    pub addressed: Addressed<'a>,
    /// The client's header lines.
    pub headers: &'a HeaderMap,
    /// The protocol to switch to, when the client asks for that.
    pub upgrade: Option<&'a HeaderValue>,
    /// Whether to wait for `100 Continue`.
    pub expects_continue: bool,
    /// Deadlines of the pool.
    pub timeouts: &'a Timeouts,
    /// A deadline that this attempt has for itself until its reply is over.
    pub deadline: &'a Deadline,
    /// When it is given up though its own deadlines have not passed.
    pub end: Option<Instant>,
    /// Set when the whole request was sent, for whoever wants to know when that was.
    pub sent_at: Option<&'a Cell<Instant>>,
    /// Whose connection this has to be, when backends are told by the PROXY protocol.
    pub owner: Option<Owner>,
}

/// Whose requests a connection carries that begins with the header of the PROXY protocol. What that said holds for all of
/// them, so nobody else's may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The client connection's number.
    pub connection: u64,
    /// What the header says. Clients of a trusted proxy come over one connection, and each is told for itself.
    pub ends: Ends,
}

/// How often a request is sent once more to the same backend, over another connection of HTTP/2.
const RESENDS: u32 = 2;

/// What came of a request that might go over HTTP/2.
enum Outcome {
    Done(Result<Begun, (AttemptError, RequestBody)>),
    /// It has to go over HTTP/1.1; over this connection if there is one.
    OverHttp1(Option<Connection>, RequestBody),
}

/// A reply that has begun.
#[derive(Debug)]
pub struct Begun {
    /// Its head.
    pub head: ReplyHead,
    /// Its body, yet to be read.
    pub exchange: Box<Exchange>,
    /// Whether the connection had served before.
    pub reused: bool,
}

impl Client {
    /// No connections yet.
    pub fn new(clock: Rc<Deadlines>) -> Self {
        Self { clock, idle: RefCell::default(), buffers: RefCell::default(), links: AllLinks::default() }
    }

    /// Sends a request to one backend and waits for the head of its reply.
    ///
    /// `write_head` writes the head and tells whether the body is chunked; it may be called twice, since a request that
    /// meets a connection which the backend was just closing is sent once more over a new one, if it may be.
    /// `interim` gets every 1xx reply.
    ///
    /// # Errors
    /// With the body, so that another backend can be tried.
    pub async fn send(
        &self,
        member: &Member,
        request: &Outgoing<'_>,
        mut body: RequestBody,
        mut write_head: impl FnMut(&mut Vec<u8>, &RequestBody, Hop) -> bool,
        mut interim: impl FnMut(&ReplyHead),
    ) -> Result<Begun, (AttemptError, RequestBody)> {
        let mut opened = None;
        if member.transport.may_be_http2() {
            // Boxed, so that requests over HTTP/1.1 need not have room for it.
            match Box::pin(self.send_http2(member, request, body, &mut write_head, &mut interim)).await {
                Outcome::Done(outcome) => return outcome,
                Outcome::OverHttp1(connection, unsent) => (opened, body) = (connection, unsent),
            }
        }
        let mut idle = match opened {
            Some(connection) => Some((connection, false)),
            None => {
                let idle = self.take_idle(member, is_idempotent(request.method), request.owner);
                idle.map(|connection| (connection, true))
            }
        };
        loop {
            let (connection, reused) = match idle.take() {
                Some(idle) => idle,
                None => match self.connect(member, request.owner, connect_timeout(request)).await {
                    Ok(connection) => (connection, false),
                    Err(error) => return Err((error, body)),
                },
            };
            let mut head = self.buffers.borrow_mut().pop().unwrap_or_default();
            let is_chunked = write_head(&mut head, &body, Hop::Http1);
            // Boxed: it is large, and goes through several hands until the last byte of the reply.
            let mut exchange = Box::new(Exchange(Version::Http1(Http1Exchange::new(
                (connection, reused),
                request.method.clone(),
                head,
                body,
                is_chunked,
                request.expects_continue,
            ))));
            match reply(&mut exchange, request, &mut interim).await {
                Ok(head) => return Ok(Begun { head, exchange, reused }),
                Err(error) => {
                    let was_closing = reused && matches!(error, AttemptError::Broken { .. });
                    let may_resend = error.nothing_was_sent() || is_idempotent(request.method);
                    let (mut unsent, buffer) = exchange.into_request();
                    self.keep_buffer(buffer);
                    if !(was_closing && may_resend && unsent.can_be_sent_again()) {
                        return Err((error, unsent));
                    }
                    unsent.rewind();
                    body = unsent;
                }
            }
        }
    }

    /// As [`Client::send`], over a stream of HTTP/2.
    async fn send_http2(
        &self,
        member: &Member,
        request: &Outgoing<'_>,
        mut body: RequestBody,
        write_head: &mut impl FnMut(&mut Vec<u8>, &RequestBody, Hop) -> bool,
        interim: &mut impl FnMut(&ReplyHead),
    ) -> Outcome {
        let is_auto = member.transport.protocol == Protocol::Auto;
        let wants_websocket =
            request.upgrade.is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()));
        if is_auto && request.upgrade.is_some() && !wants_websocket {
            return Outcome::OverHttp1(None, body);
        }
        let is_idempotent = is_idempotent(request.method);
        if is_auto && self.has_idle(member) && self.links.has_none(member) {
            return Outcome::OverHttp1(None, body);
        }
        let mut resends = 0;
        loop {
            let patience = connect_timeout(request);
            let place = match self.links.take(&self.clock, member, (request.owner, is_idempotent), patience).await {
                Ok(Taken::Http2(place)) => place,
                Ok(Taken::Http1(connection)) => return Outcome::OverHttp1(Some(connection), body),
                Err(error) => return Outcome::Done(Err((error, body))),
            };
            let accept = if wants_websocket { websocket::answer(request.headers) } else { None };
            if wants_websocket && !(place.takes_websockets() && accept.is_some()) {
                if is_auto {
                    return Outcome::OverHttp1(None, body);
                }
                return Outcome::Done(Err((AttemptError::NoUpgrade, body)));
            }
            let mut lines = Vec::new();
            let hop = if accept.is_some() { Hop::WebSocket } else { Hop::Http2 };
            write_head(&mut lines, &body, hop);
            let scheme = if member.transport.tls.is_some() { &Scheme::HTTPS } else { &Scheme::HTTP };
            let head = http2::request((request.method, request.addressed), scheme, lines, accept.is_some());
            let Some(head) = head.filter(|_| can_be_sent(request.method)) else {
                return Outcome::Done(Err((AttemptError::Connect(io::ErrorKind::InvalidInput.into()), body)));
            };
            let reused = place.reused;
            let (error, mut unsent) = match Http2Exchange::begin(place, head, body, request.expects_continue, accept) {
                Ok(exchange) => {
                    let mut exchange = Box::new(Exchange(Version::Http2(exchange)));
                    match reply(&mut exchange, request, interim).await {
                        Ok(head) => return Outcome::Done(Ok(Begun { head, exchange, reused })),
                        Err(error) => (error, exchange.into_body()),
                    }
                }
                Err(failed) => {
                    let (source, body) = *failed;
                    (AttemptError::Broken { anything_sent: false, source }, body)
                }
            };
            let was_closing = reused && matches!(error, AttemptError::Broken { .. });
            let may_resend = error.nothing_was_sent() || is_idempotent;
            let is_worth_it = was_closing || matches!(error, AttemptError::Refused(_));
            if !(is_worth_it && may_resend && resends < RESENDS && unsent.can_be_sent_again()) {
                return Outcome::Done(Err((error, unsent)));
            }
            resends += 1;
            unsent.rewind();
            body = unsent;
        }
    }

    fn has_idle(&self, member: &Member) -> bool {
        let idle = self.idle.borrow();
        idle.get(member.backend.serial() as usize).is_some_and(|idle| !idle.connections.is_empty())
    }

    /// Keeps the connection for the next request, if it is good for one.
    pub fn put_back(&self, member: &Member, exchange: Box<Exchange>) {
        let Some((mut connection, buffer)) = exchange.into_reusable() else { return };
        self.keep_buffer(buffer);
        if idle_timeout(&member.backend).is_zero() || member.backend.room().connections_wanted() > 0 {
            return;
        }
        connection.idle_since = self.clock.coarse_now();
        let mut idle = self.idle.borrow_mut();
        let serial = member.backend.serial() as usize;
        if idle.len() <= serial {
            idle.resize_with(serial + 1, Idle::default);
        }
        let idle = &mut idle[serial];
        if idle.connections.is_empty() {
            idle.backend = Arc::downgrade(&member.backend);
        }
        if !idle.fits(member) {
            // Where the backend was before a reload: of no use to those who come now.
            if !idle.connections.is_empty() {
                return;
            }
            idle.address = Some(member.address.clone());
            idle.transport = Arc::clone(&member.transport);
        }
        if idle.connections.len() < IDLE_LIMIT {
            idle.connections.push(connection);
        }
    }

    /// Closes connections that have been idle for too long, and all to a backend that is to be shut down. Called about
    /// once a second.
    pub fn sweep(&self, now: Instant) {
        self.links.sweep(now);
        for idle in self.idle.borrow_mut().iter_mut().filter(|idle| idle.connections.capacity() > 0) {
            let Some(backend) = idle.backend.upgrade() else {
                // Closes what is left, and frees the memory of a backend that went: of many that come and go it would pile up.
                *idle = Idle::default();
                continue;
            };
            let timeout = idle_timeout(&backend);
            // Put back in order of time, so the old ones are in front.
            let is_old = |since: Instant| now.saturating_duration_since(since) >= timeout;
            let old = idle.connections.partition_point(|connection| is_old(connection.idle_since));
            idle.connections.drain(..old);
        }
    }

    /// Closes every idle connection: there is something that we have too little of.
    pub fn close_idle(&self) {
        self.links.close_idle();
        self.idle.borrow_mut().iter_mut().for_each(|idle| idle.connections.clear());
    }

    fn take_idle(&self, member: &Member, is_idempotent: bool, owner: Option<Owner>) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let idle = idle.get_mut(member.backend.serial() as usize)?;
        if !idle.fits(member) {
            // Where the backend was before a reload.
            idle.connections.clear();
        }
        loop {
            let place = match owner {
                None => idle.connections.len().checked_sub(1)?,
                // Linear in what is idle, for pools that send the PROXY protocol only.
                Some(_) => idle.connections.iter().rposition(|connection| connection.owner == owner)?,
            };
            let connection = &mut idle.connections[place];
            if connection.is_stale() || connection.owner != owner {
                // In order of time they stay.
                idle.connections.remove(place);
                continue;
            }
            let is_fresh = || self.clock.coarse_now().duration_since(connection.idle_since) < FRESH;
            return (is_idempotent || is_fresh()).then(|| idle.connections.remove(place));
        }
    }

    /// Closes idle connections to backends that other requests want a connection to and cannot have one, because as many
    /// are open as there may be. Called when this worker is asked for it.
    pub fn close_wanted(&self) {
        self.links.close_wanted();
        for idle in self.idle.borrow_mut().iter_mut().filter(|idle| !idle.connections.is_empty()) {
            let Some(backend) = idle.backend.upgrade() else { continue };
            // One after the other, for other workers close theirs, too, and each one closed is one less that is wanted.
            while !idle.connections.is_empty() && backend.room().connections_wanted() > 0 {
                idle.connections.remove(0);
            }
        }
    }

    async fn connect(
        &self,
        member: &Member,
        owner: Option<Owner>,
        timeout: Duration,
    ) -> Result<Connection, AttemptError> {
        let room = member.backend.room();
        let counted = match room.try_connect() {
            Some(counted) => counted,
            // An idle one of its own which it may not use, or one of another worker, has to make room. There is one: in use
            // are no more than requests in flight, of which this is one.
            None => {
                self.close_one_idle(&member.backend);
                match tokio::time::timeout(timeout, room.connect()).await {
                    Ok(Some(counted)) => counted,
                    Ok(None) | Err(_) => return Err(AttemptError::Connect(io::ErrorKind::ResourceBusy.into())),
                }
            }
        };
        let io = match tokio::time::timeout(timeout, connect::open(member, owner, Offer::Http1)).await {
            Ok(connected) => connected.map_err(AttemptError::Connect)?,
            Err(_) => return Err(AttemptError::ConnectTimeout),
        };
        Ok(Connection::new((io, counted), owner, self.clock.coarse_now()))
    }

    fn close_one_idle(&self, backend: &Backend) {
        if let Some(idle) = self.idle.borrow_mut().get_mut(backend.serial() as usize)
            && !idle.connections.is_empty()
        {
            idle.connections.remove(0);
        }
    }

    fn keep_buffer(&self, mut buffer: Vec<u8>) {
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() < BUFFER_LIMIT && buffer.capacity() <= BUFFER_CAPACITY_LIMIT {
            buffer.clear();
            buffers.push(buffer);
        }
    }
}

/// How long a connection to this backend may be idle: not at all once nobody is to come any more, so that its server can
/// be shut down.
pub(super) fn idle_timeout(backend: &Backend) -> Duration {
    match backend.standing().admin {
        AdminState::Enabled => IDLE_TIMEOUT,
        AdminState::Draining if backend.is_drained() => Duration::ZERO,
        AdminState::Draining => DRAINING_IDLE_TIMEOUT,
        AdminState::Disabled => Duration::ZERO,
    }
}

/// Whether a connection could not be opened for want of something of our own, such as a file descriptor: that says nothing
/// of the backend.
pub fn is_own_trouble(error: &io::Error) -> bool {
    // EADDRNOTAVAIL: no free port to connect from.
    const OURS: [i32; 5] = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|errno| OURS.contains(&errno))
}

/// Methods whose effect is the same when a request is sent twice (RFC 9110 §9.2.2).
pub fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE)
}

/// How long a connection may take to open.
fn connect_timeout(request: &Outgoing<'_>) -> Duration {
    let left = request.end.map(|end| end.saturating_duration_since(Instant::now()));
    left.map_or(request.timeouts.connect, |left| left.min(request.timeouts.connect))
}

async fn reply(
    exchange: &mut Exchange,
    request: &Outgoing<'_>,
    interim: &mut impl FnMut(&ReplyHead),
) -> Result<ReplyHead, AttemptError> {
    let timeouts = request.timeouts;
    let mut progress = exchange.progress();
    let mut was_sent = false;
    // Bytes of a head that is not whole yet.
    let mut began = 0;
    let mut interims = 0;
    request.deadline.set_before(timeouts.idle, request.end);
    let result = poll_fn(|cx| {
        loop {
            let polled = exchange.poll_reply(cx);
            if !was_sent && exchange.is_sent() {
                was_sent = true;
                if let Some(sent_at) = request.sent_at {
                    sent_at.set(Instant::now());
                }
                request.deadline.set_before(timeouts.first_byte, request.end);
            } else if !was_sent && exchange.progress() != progress {
                progress = exchange.progress();
                request.deadline.set_before(timeouts.idle, request.end);
            } else if was_sent && exchange.head_bytes() != began {
                // A head that drips in is late only when nothing of it comes any more.
                began = exchange.head_bytes();
                match began {
                    0 => request.deadline.set_before(timeouts.first_byte, request.end),
                    _ => request.deadline.set(timeouts.idle),
                }
            }
            if polled.is_pending() {
                ready!(request.deadline.poll(cx));
                let is_given_up = began == 0 && request.end.is_some_and(|end| end <= Instant::now());
                return Poll::Ready(Err(if is_given_up {
                    AttemptError::AttemptTimeout
                } else if was_sent || exchange.is_held_up() {
                    AttemptError::FirstByteTimeout
                } else {
                    AttemptError::ClientStalled
                }));
            }
            match ready!(polled) {
                Ok(head) if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS => {
                    interims += 1;
                    if interims > INTERIM_LIMIT {
                        return Poll::Ready(Err(AttemptError::Reply(HeadError::Malformed)));
                    }
                    interim(&head);
                }
                Ok(head) => return Poll::Ready(Ok(head)),
                Err(ExchangeError::Broken(source)) => {
                    let anything_sent = exchange.anything_sent();
                    return Poll::Ready(Err(AttemptError::Broken { anything_sent, source }));
                }
                Err(ExchangeError::Refused(error)) => return Poll::Ready(Err(AttemptError::Refused(error))),
                Err(ExchangeError::Reply(error)) => return Poll::Ready(Err(AttemptError::Reply(error))),
                Err(ExchangeError::ClientBody(error)) => return Poll::Ready(Err(AttemptError::ClientBody(error))),
            }
        }
    })
    .await;
    request.deadline.clear();
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{BackendId, Registry};

    #[test]
    fn nothing_is_kept_of_a_backend_that_went() {
        let now = Instant::now();
        let client = Client::new(Rc::new(Deadlines::new(now, std::time::SystemTime::now())));
        let id = BackendId { pool: "shop".into(), name: "app1".into() };
        let backend = Registry::new(1).backend(&id, now);
        let kept =
            Idle { backend: Arc::downgrade(&backend), connections: Vec::with_capacity(IDLE_LIMIT), ..Idle::default() };
        client.idle.borrow_mut().push(kept);
        client.sweep(now);
        assert!(client.idle.borrow()[0].backend.upgrade().is_some());
        drop(backend);
        client.sweep(now);
        assert_eq!(client.idle.borrow()[0].connections.capacity(), 0);
    }

    #[test]
    fn what_we_lack_is_told_from_what_the_backend_does() {
        for errno in [libc::EMFILE, libc::ENFILE, libc::EADDRNOTAVAIL] {
            assert!(is_own_trouble(&io::Error::from_raw_os_error(errno)), "{errno}");
        }
        for errno in [libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ETIMEDOUT] {
            assert!(!is_own_trouble(&io::Error::from_raw_os_error(errno)), "{errno}");
        }
        assert!(!is_own_trouble(&io::ErrorKind::ConnectionRefused.into()));
    }
}
