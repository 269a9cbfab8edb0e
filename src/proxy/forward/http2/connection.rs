//! One connection of HTTP/2, and the task that drives it.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};

use super::super::client::Owner;
use super::super::head::REPLY_HEAD_LIMIT;
use crate::pool::OpenConnection;
use crate::proxy::deadline::Deadlines;
use crate::proxy::stream::BackendStream;

/// Most streams on one connection, whatever the backend allows.
const STREAMS: usize = 100;

/// What a backend may send ahead on one stream: so much is held for a client that does not read.
const STREAM_WINDOW: u32 = 128 * 1024;

/// Room for all streams at once, so that no stream waits for the client of another.
const CONNECTION_WINDOW: u32 = STREAMS as u32 * STREAM_WINDOW;

/// What is held of a request's body on its way.
const SEND_BUFFER: usize = 128 * 1024;

/// A backend that has been silent for so long while requests wait is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(5);

/// One that does not answer within this time is not.
const PONG: Duration = Duration::from_secs(5);

/// A connection to a backend.
#[derive(Debug)]
pub(in super::super) struct Connection {
    sender: RefCell<SendRequest<Bytes>>,
    /// Whose requests it carries, when the backend was told so.
    pub(super) owner: Option<Owner>,
    shared: Rc<Shared>,
    /// Told when a stream ends: somebody may wait for its place.
    freed: Rc<Notify>,
}

/// What a connection and its task share.
#[derive(Debug)]
struct Shared {
    clock: Rc<Deadlines>,
    /// Requests on it.
    streams: Cell<usize>,
    /// When the last of them ended.
    idle_since: Cell<Instant>,
    /// When something came last.
    heard_at: Cell<Instant>,
    has_served: Cell<bool>,
    /// Nothing more is to be sent on it.
    is_retired: Cell<bool>,
    has_ended: Cell<bool>,
    asked: Notify,
    answered: Notify,
}

/// A place on a connection for one request. Dropping it gives the place back.
#[derive(Debug)]
pub(in super::super) struct Place {
    connection: Rc<Connection>,
    pub(super) sender: SendRequest<Bytes>,
    /// The connection had served before.
    pub(in super::super) reused: bool,
}

impl Connection {
    /// Speaks HTTP/2 on a connection; returns when the other side was heard to do so, too, and what it allows is known.
    ///
    /// # Errors
    /// When the other side speaks something else.
    pub(super) async fn open(
        (io, counted): (BackendStream, OpenConnection),
        owner: Option<Owner>,
        clock: &Rc<Deadlines>,
        freed: &Rc<Notify>,
    ) -> io::Result<Self> {
        let now = clock.coarse_now();
        let shared = Rc::new(Shared {
            clock: Rc::clone(clock),
            streams: Cell::new(0),
            idle_since: Cell::new(now),
            heard_at: Cell::new(now),
            has_served: Cell::new(false),
            is_retired: Cell::new(false),
            has_ended: Cell::new(false),
            asked: Notify::new(),
            answered: Notify::new(),
        });
        let io = Heard { io, shared: Rc::clone(&shared) };
        let mut builder = Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(REPLY_HEAD_LIMIT as u32)
            .max_send_buffer_size(SEND_BUFFER)
            .enable_push(false);
        let (sender, mut connection) = builder.handshake::<_, Bytes>(io).await.map_err(broken)?;
        let mut pings = connection.ping_pong().expect("nobody has taken it");
        let answer = {
            let mut pong = pin!(pings.ping(Ping::opaque()));
            tokio::select! {
                biased;
                ended = &mut connection => Err(ended.err().map_or_else(not_http2, broken)),
                // Settings go in front of it.
                pong = &mut pong => pong.map(|_| ()).map_err(broken),
            }
        };
        answer?;
        spawn_local(drive(connection, pings, Rc::clone(&shared), counted));
        Ok(Self { sender: RefCell::new(sender), owner, shared, freed: Rc::clone(freed) })
    }

    /// How many requests it may carry at a time.
    pub(super) fn most_streams(&self) -> usize {
        self.sender.borrow().current_max_send_streams().min(STREAMS)
    }

    /// Whether it carries no request.
    pub(super) fn is_idle(&self) -> bool {
        self.shared.streams.get() == 0
    }

    /// Whether it has carried none since then.
    pub(super) fn is_idle_since(&self, then: Instant) -> bool {
        self.is_idle() && self.shared.idle_since.get() <= then
    }

    /// Whether no further request may be sent on it: it has ended, or the backend has said so.
    pub(super) fn is_of_no_use(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.shared.has_ended.get()
            || self.shared.is_retired.get()
            || !matches!(self.sender.borrow_mut().poll_ready(&mut cx), Poll::Ready(Ok(())))
    }

    /// No further request is sent on it; it is closed when the last one has ended.
    pub(super) fn retire(&self) {
        self.shared.is_retired.set(true);
    }

    /// Whether something came from the backend this recently, so that it is there.
    pub(super) fn is_fresh(&self, within: Duration) -> bool {
        self.shared.clock.coarse_now().saturating_duration_since(self.shared.heard_at.get()) < within
    }

    /// Asks the backend whether it is there, and waits for the answer.
    pub(super) async fn answers(&self, within: Duration) -> bool {
        let answered = self.shared.answered.notified();
        self.shared.asked.notify_one();
        timeout(within.min(PONG), answered).await.is_ok() && !self.shared.has_ended.get()
    }

    /// A place for a request, if there is one.
    pub(super) fn place(self: &Rc<Self>) -> Option<Place> {
        let streams = self.shared.streams.get();
        if streams >= self.most_streams() {
            return None;
        }
        let reused = self.shared.has_served.replace(true);
        self.shared.streams.set(streams + 1);
        Some(Place { connection: Rc::clone(self), sender: self.sender.borrow().clone(), reused })
    }
}

impl Place {
    /// Whether the backend takes WebSockets on streams (RFC 8441).
    pub(in super::super) fn takes_websockets(&self) -> bool {
        self.sender.is_extended_connect_protocol_enabled()
    }

    /// Nothing further is to be sent on this connection.
    pub(in super::super) fn retire(&self) {
        self.connection.retire();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let shared = &self.connection.shared;
        shared.streams.set(shared.streams.get() - 1);
        shared.idle_since.set(shared.clock.coarse_now());
        match self.connection.owner {
            None => self.connection.freed.notify_one(),
            // The first who waits may be another owner's, to whom this place is of no use.
            Some(_) => self.connection.freed.notify_waiters(),
        }
    }
}

/// Drives a connection until it ends, or the backend does not answer any more. `counted` goes after the socket.
async fn drive(
    connection: h2::client::Connection<Heard, Bytes>,
    pings: PingPong,
    shared: Rc<Shared>,
    counted: OpenConnection,
) {
    // The connection goes with this, and whatever is left of its streams breaks.
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            tracing::debug!(%error, "a connection to a backend broke");
        },
        () = keep_asking(pings, &shared) => tracing::debug!("a backend does not answer pings"),
    }
    shared.has_ended.set(true);
    shared.answered.notify_waiters();
    drop(counted);
}

/// Returns when the backend does not answer.
async fn keep_asking(mut pings: PingPong, shared: &Shared) {
    loop {
        let is_asked = timeout(SILENCE, shared.asked.notified()).await.is_ok();
        let is_needed = shared.streams.get() > 0 || shared.is_retired.get();
        let is_silent = shared.clock.coarse_now().saturating_duration_since(shared.heard_at.get()) >= SILENCE;
        let is_due = is_asked || (is_needed && is_silent);
        if !is_due {
            continue;
        }
        match timeout(PONG, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => shared.answered.notify_waiters(),
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// Takes note of when something came.
struct Heard {
    io: BackendStream,
    shared: Rc<Shared>,
}

impl AsyncRead for Heard {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.shared.heard_at.set(self.shared.clock.coarse_now());
        }
        polled
    }
}

impl AsyncWrite for Heard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

fn not_http2() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "closed before a word of HTTP/2")
}

/// An error of HTTP/2 as one of the connection.
pub(super) fn broken(error: h2::Error) -> io::Error {
    let kind = error.get_io().map_or(io::ErrorKind::InvalidData, io::Error::kind);
    io::Error::new(kind, error)
}
