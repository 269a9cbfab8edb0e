//! The socket below a connection of HTTP/2: counts what is read, and gathers what is written.
//!
//! h2 flushes whenever its own small buffer is full or a longer frame comes. Here everything waits for the end of the
//! turn, so that the replies that a turn brings leave in one write, however many streams they belong to.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::flood::{Budget, Flood, FrameWatch};
use crate::proxy::deadline::Deadlines;
use crate::proxy::stream::ClientStream;

/// What is gathered before it is written without waiting for the end of the turn.
const GATHERED: usize = 64 * 1024;

/// The connection's own end of it.
#[derive(Clone)]
pub(super) struct Wire(Rc<RefCell<Inner>>);

struct Inner {
    io: ClientStream,
    /// Read before h2 was there.
    early: Vec<u8>,
    clock: Rc<Deadlines>,
    watch: FrameWatch,
    budget: Budget,
    /// What there was too much of. Nothing more is read then.
    flood: Option<Flood>,
    /// To be written, from `written` on.
    out: Vec<u8>,
    written: usize,
    /// Written ever, so that it shows whether anything moves.
    total: u64,
    is_flushed: bool,
    /// How long nothing of that may move.
    patience: Duration,
}

impl Wire {
    /// `early` was read from `io` already; for `patience` see [`Wire::patience`].
    pub(super) fn new(io: ClientStream, early: Vec<u8>, clock: &Rc<Deadlines>, patience: Duration) -> Self {
        let inner = Inner {
            io,
            early,
            clock: Rc::clone(clock),
            watch: FrameWatch::new(),
            budget: Budget::new(clock.coarse_now()),
            flood: None,
            out: Vec::new(),
            written: 0,
            total: 0,
            is_flushed: true,
            patience,
        };
        Self(Rc::new(RefCell::new(inner)))
    }

    /// Writes what was gathered, as far as the socket takes it.
    pub(super) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_drain(cx)
    }

    /// How much was ever written, when something is left that the client does not take.
    pub(super) fn stuck_at(&self) -> Option<u64> {
        let inner = self.0.borrow();
        (inner.written < inner.out.len() || !inner.is_flushed).then_some(inner.total)
    }

    /// How long nothing of what is left may move: as long as the reply that began last allows.
    pub(super) fn patience(&self) -> Duration {
        self.0.borrow().patience
    }

    /// A reply began that may stand still for so long.
    pub(super) fn began(&self, patience: Duration) {
        self.0.borrow_mut().patience = patience;
    }

    /// What there was too much of.
    pub(super) fn flood(&self) -> Option<Flood> {
        self.0.borrow().flood
    }

    /// See [`Budget::earn`].
    pub(super) fn earn(&self, pieces: u32) {
        self.0.borrow_mut().budget.earn(pieces);
    }

    /// See [`Budget::answered`].
    pub(super) fn answered(&self) {
        self.0.borrow_mut().budget.answered();
    }

    /// Lets go of the buffer.
    pub(super) fn rest(&self) {
        let mut inner = self.0.borrow_mut();
        if inner.out.is_empty() {
            inner.out = Vec::new();
        }
    }

    /// Looks at the socket.
    pub(super) fn with_io(&self, look: impl FnOnce(&ClientStream)) {
        look(&self.0.borrow().io);
    }
}

impl Inner {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, &self.out[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.total += count as u64;
        }
        self.out.clear();
        self.written = 0;
        if !self.is_flushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        if inner.flood.is_some() {
            // The connection's task finds it there after this very turn.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        if inner.early.is_empty() {
            ready!(Pin::new(&mut inner.io).poll_read(cx, buf))?;
        } else {
            let count = inner.early.len().min(buf.remaining());
            buf.put_slice(&inner.early[..count]);
            inner.early.drain(..count);
            if inner.early.is_empty() {
                inner.early = Vec::new();
            }
        }
        inner.budget.refill(inner.clock.coarse_now());
        if let Err(flood) = inner.watch.look(&buf.filled()[before..], &mut inner.budget) {
            inner.flood = Some(flood);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let inner = &mut *self.0.borrow_mut();
        if inner.out.len() >= GATHERED {
            ready!(inner.poll_drain(cx))?;
        }
        inner.out.extend_from_slice(buf);
        inner.is_flushed = false;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        ready!(inner.poll_drain(cx))?;
        Pin::new(&mut inner.io).poll_shutdown(cx)
    }
}
