//! What a client's connection and the requests on it tell each other. Each request has one task, so plain cells.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Response, StatusCode};
use tokio::time::Instant;

use super::deadline::Deadline;
use super::forward::Origin;
use super::forward::tunnel::BackendEnd;
use super::journal::Journal;
use super::view::Slot;
use crate::pool::OpenTunnel;

/// Longest part of a request head that is remembered as it came: the highest limit there can be, and one read more.
const RAW_LIMIT: usize = (1024 + 64) * 1024;

/// A buffer that grew beyond this is not kept for the next head.
const RAW_KEPT: usize = 2 * 1024;

/// What a conversation is doing, which decides what its deadline means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for a request.
    Idle,
    /// Receiving the head of one.
    Head,
    /// A request is being placed and sent; whoever does that minds the deadline.
    Request,
    /// The reply is on its way to the client.
    Reply,
}

/// One client connection, as all requests on it see it.
#[derive(Debug)]
pub struct ClientConnection {
    /// Its number among the worker's.
    pub number: u64,
    /// Index of the listener that it came by.
    pub listener: usize,
    /// The client's address, as far as the connection tells.
    pub peer: IpAddr,
    /// Lines about it for backends.
    pub origin: Origin,
}

/// What carries one request after the other: a connection of HTTP/1.1, which is used again and again, or one stream of
/// HTTP/2, which sees a single request.
#[derive(Debug)]
pub struct Conversation {
    connection: Rc<ClientConnection>,
    /// Its deadline; see [`Phase`].
    pub deadline: Deadline,
    phase: Cell<Phase>,
    /// How long a reply may stand still.
    reply_idle: Cell<Duration>,
    /// When the reply has to be over, whether it moves or not.
    ends_at: Cell<Option<Instant>>,
    /// Everything that hyper had to write has been written, so this is a place between two messages.
    is_flushed: Cell<bool>,
    header_timeout: Duration,
    keep_alive_timeout: Cell<Duration>,
    /// The bytes of the current head as they came: hyper keeps no trace of framing lines that it resolved.
    raw: RefCell<Vec<u8>>,
    /// `raw` belongs to a request that was already handed over.
    is_raw_old: Cell<bool>,
    /// 1xx heads to be written before whatever hyper writes next.
    interim: RefCell<Vec<u8>>,
    /// The reply broke off: the connection is to be reset, so that nobody takes its end for the end of the reply.
    is_broken: Cell<bool>,
    /// Boxed: few connections ever have one.
    tunnel: RefCell<Option<Box<Tunnel>>>,
    /// The client began with the preface of HTTP/2.
    is_of_http2: Cell<bool>,
    /// Of a stream: what nobody wants of the request's body.
    unheard: RefCell<Option<RecvStream>>,
    /// Of a stream: where its reply goes.
    respond: Option<RefCell<SendResponse<Bytes>>>,
}

impl Deref for Conversation {
    type Target = ClientConnection;

    fn deref(&self) -> &ClientConnection {
        &self.connection
    }
}

/// What is left to do when a connection has switched protocols.
#[derive(Debug)]
pub struct Tunnel {
    /// The other end.
    pub backend: BackendEnd,
    /// Counts the tunnel as one.
    pub counted: OpenTunnel,
    /// Counts the tunnel as in flight.
    pub slot: Slot,
    /// How long nothing may move.
    pub idle: Duration,
    /// The client's pin, whose turn it may be to leave a drained backend.
    pub pin_id: Option<u64>,
    /// The record of the request that it came of.
    pub(super) journal: Journal,
}

impl Conversation {
    /// A connection of HTTP/1.1 that waits for its first request.
    pub fn new(
        connection: Rc<ClientConnection>,
        deadline: Deadline,
        (header_timeout, keep_alive_timeout): (Duration, Duration),
    ) -> Self {
        // The first head is due at once: who connects has something to ask.
        deadline.set(header_timeout);
        Self {
            connection,
            deadline,
            phase: Cell::new(Phase::Head),
            reply_idle: Cell::new(header_timeout),
            ends_at: Cell::new(None),
            is_flushed: Cell::new(true),
            header_timeout,
            keep_alive_timeout: Cell::new(keep_alive_timeout),
            raw: RefCell::default(),
            is_raw_old: Cell::new(false),
            interim: RefCell::default(),
            is_broken: Cell::new(false),
            tunnel: RefCell::default(),
            is_of_http2: Cell::new(false),
            unheard: RefCell::default(),
            respond: None,
        }
    }

    /// A stream of HTTP/2, whose request is at hand.
    pub fn on_stream(connection: Rc<ClientConnection>, deadline: Deadline, respond: SendResponse<Bytes>) -> Self {
        // Neither head nor keep-alive is a matter of the stream: its connection minds those.
        let respond = Some(RefCell::new(respond));
        Self { respond, ..Self::new(connection, deadline, (Duration::ZERO, Duration::ZERO)) }
    }

    /// The connection that it belongs to.
    pub fn connection(&self) -> &Rc<ClientConnection> {
        &self.connection
    }

    /// Where the reply of a stream goes; `None` of HTTP/1.1.
    pub fn respond(&self) -> Option<&RefCell<SendResponse<Bytes>>> {
        self.respond.as_ref()
    }

    /// What it is doing.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Bytes came in.
    pub fn received(&self, bytes: &[u8]) {
        match self.phase.get() {
            Phase::Idle => {
                self.phase.set(Phase::Head);
                self.deadline.set(self.header_timeout);
            }
            Phase::Head => {}
            // A body, or requests sent ahead: not what `raw` is for.
            Phase::Request => return,
            Phase::Reply => {
                // The backend may be listening still, and has nothing to say meanwhile.
                self.reply_moved();
                return;
            }
        }
        let mut raw = self.raw.borrow_mut();
        if self.is_raw_old.replace(false) {
            raw.clear();
        }
        if raw.len() + bytes.len() <= RAW_LIMIT {
            raw.extend_from_slice(bytes);
        }
    }

    /// Nobody wants the rest of the request's body.
    pub fn leave_unheard(&self, rest: RecvStream) {
        *self.unheard.borrow_mut() = Some(rest);
    }

    /// What nobody wants of the request's body.
    pub fn take_unheard(&self) -> Option<RecvStream> {
        self.unheard.borrow_mut().take()
    }

    /// What came is the preface of HTTP/2.
    pub fn found_http2(&self) {
        self.is_of_http2.set(true);
    }

    /// Whether the client began with the preface of HTTP/2.
    pub fn is_of_http2(&self) -> bool {
        self.is_of_http2.get()
    }

    /// How long the reply under way may stand still.
    pub fn reply_idle(&self) -> Duration {
        self.reply_idle.get()
    }

    /// Whether a part of a head has come.
    pub fn has_received_any(&self) -> bool {
        !self.is_raw_old.get() && !self.raw.borrow().is_empty()
    }

    /// A request was handed over; `look` gets its head as it came, followed by whatever came with it. It gets nothing
    /// when the head came ahead of its turn, behind another request.
    pub fn begin_request<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        self.phase.set(Phase::Request);
        self.deadline.clear();
        if self.is_raw_old.replace(true) {
            return look(&[]);
        }
        let mut raw = self.raw.borrow_mut();
        let seen = look(&raw);
        if raw.capacity() > RAW_KEPT {
            *raw = Vec::new();
        }
        seen
    }

    /// The reply begins; `idle` bounds the time between two pieces of it.
    /// `end` bounds all of it.
    pub fn begin_reply(&self, idle: Duration, end: Option<Instant>) {
        self.phase.set(Phase::Reply);
        self.reply_idle.set(idle);
        self.ends_at.set(end);
        self.reply_moved();
        if !self.is_flushed.get() {
            // The reply's head will be written together with what is left of the one before: no place between them.
            self.interim.borrow_mut().clear();
        }
    }

    /// Another piece of the reply came: it does not stand still.
    pub fn reply_moved(&self) {
        self.deadline.set_before(self.reply_idle.get(), self.ends_at.get());
    }

    /// The reply has been handed over to its last byte, and is yet to be written.
    pub fn end_reply(&self) {
        self.phase.set(Phase::Idle);
        self.reply_moved();
    }

    /// Something was written. A slow client may take its time even when all of the reply has been handed over.
    pub fn wrote(&self) {
        self.is_flushed.set(false);
        if self.phase.get() != Phase::Request {
            self.reply_moved();
        }
    }

    /// Everything was written.
    pub fn flushed(&self) {
        if self.is_flushed.replace(true) {
            return;
        }
        match self.phase.get() {
            Phase::Idle => self.deadline.set(self.keep_alive_timeout.get()),
            Phase::Head => self.deadline.set(self.header_timeout),
            Phase::Request | Phase::Reply => {}
        }
    }

    /// Whether everything was written.
    pub fn is_flushed(&self) -> bool {
        self.is_flushed.get()
    }

    /// From now on the connection stays open between two requests for this long only.
    pub fn linger(&self, limit: Duration) {
        self.keep_alive_timeout.set(limit.min(self.keep_alive_timeout.get()));
        let waits = match self.phase.get() {
            Phase::Idle => true,
            Phase::Head => !self.has_received_any(),
            Phase::Request | Phase::Reply => false,
        };
        if waits {
            self.deadline.set(self.keep_alive_timeout.get());
        }
    }

    /// Sends a 1xx head before the reply.
    pub fn send_interim(&self, status: StatusCode, headers: HeaderMap) {
        match &self.respond {
            Some(respond) => {
                let mut head = Response::new(());
                *head.status_mut() = status;
                *head.headers_mut() = headers;
                // Fails only on a stream that is over, which its task finds out by itself.
                let _ = respond.borrow_mut().send_informational(head);
            }
            None => write_interim(&mut self.interim.borrow_mut(), status, &headers),
        }
    }

    /// The 1xx heads that are still to be written.
    pub fn interim(&self) -> &RefCell<Vec<u8>> {
        &self.interim
    }

    /// Makes the end of the connection a reset.
    pub fn break_off(&self) {
        self.is_broken.set(true);
    }

    /// Whether the end of the connection has to be a reset.
    pub fn is_broken(&self) -> bool {
        self.is_broken.get()
    }

    /// The connection becomes a tunnel once `101` has been written.
    pub fn switch_to(&self, tunnel: Tunnel) {
        *self.tunnel.borrow_mut() = Some(Box::new(tunnel));
    }

    /// The tunnel to run, if there is one.
    pub fn take_tunnel(&self) -> Option<Box<Tunnel>> {
        self.tunnel.borrow_mut().take()
    }
}

/// Writes a 1xx head as HTTP/1.1 has it.
fn write_interim(out: &mut Vec<u8>, status: StatusCode, headers: &HeaderMap) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or("").as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}
