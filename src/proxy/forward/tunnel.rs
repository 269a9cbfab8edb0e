//! Bytes both ways after `101 Switching Protocols`, until both sides are done or nothing moves for too long.

use std::cell::Cell;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::exchange::{Exchange, Version};
use super::http2::connection::Place;
use crate::pool::OpenConnection;
use crate::proxy::deadline::Deadline;
use crate::proxy::duplex::Duplex;
use crate::proxy::stream::BackendStream;

/// The backend's end of a tunnel, waiting for the client's.
#[derive(Debug)]
pub struct BackendEnd {
    io: BackendIo,
    /// What the backend sent right behind its head.
    early: Bytes,
}

impl BackendEnd {
    /// Takes the connection over which `101` came.
    pub fn new(exchange: Exchange) -> Self {
        match exchange.0 {
            Version::Http1(exchange) => {
                let (io, counted, read) = exchange.into_connection().into_parts();
                Self { io: BackendIo::Connection(io, counted), early: read.freeze() }
            }
            Version::Http2(exchange) => {
                let stream = exchange.into_tunnel().map(|(io, place)| (Box::new(io), place));
                Self {
                    io: stream.map_or(BackendIo::None, |(io, place)| BackendIo::Stream(io, place)),
                    early: Bytes::new(),
                }
            }
        }
    }
}

/// What a tunnel goes over, and what counts it until that is closed.
#[derive(Debug)]
enum BackendIo {
    Connection(BackendStream, #[expect(dead_code, reason = "it is dropped")] OpenConnection),
    Stream(Box<Duplex>, #[expect(dead_code, reason = "it is dropped")] Place),
    /// The backend did not agree.
    None,
}

impl AsyncRead for BackendIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Connection(io, _) => Pin::new(io).poll_read(cx, buf),
            Self::Stream(io, _) => Pin::new(io).poll_read(cx, buf),
            Self::None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for BackendIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Connection(io, _) => Pin::new(io).poll_write(cx, buf),
            Self::Stream(io, _) => Pin::new(io).poll_write(cx, buf),
            Self::None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Connection(io, _) => Pin::new(io).poll_flush(cx),
            Self::Stream(io, _) => Pin::new(io).poll_flush(cx),
            Self::None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Connection(io, _) => Pin::new(io).poll_shutdown(cx),
            Self::Stream(io, _) => Pin::new(io).poll_shutdown(cx),
            Self::None => Poll::Ready(Ok(())),
        }
    }
}

/// Bytes that a tunnel has passed on so far.
#[derive(Debug, Default)]
pub struct PassedOn {
    /// What came from the client.
    pub to_backend: Cell<u64>,
    /// What came from the backend.
    pub to_client: Cell<u64>,
}

/// Copies until both directions have ended; the client's end comes with what it sent behind its own head. `ends_at` tells
/// when it has to end whether anything moves or not; it is asked whenever the task is woken, by the worker's sweep too.
///
/// # Errors
/// When either side breaks, nothing moves for `idle`, or it had to end (both `TimedOut`).
pub async fn run(
    (client, early): (impl AsyncRead + AsyncWrite + Unpin, Bytes),
    backend: BackendEnd,
    deadline: &Deadline,
    idle: Duration,
    ends_at: impl Fn() -> Option<Instant>,
    passed_on: &PassedOn,
) -> io::Result<()> {
    let patience = Patience { deadline, idle, end: Cell::new(ends_at()) };
    patience.renew();
    let mut client = End { io: client, early, patience: &patience, taken: &passed_on.to_client };
    let mut backend = End { io: backend.io, early: backend.early, patience: &patience, taken: &passed_on.to_backend };
    let mut copy = pin!(tokio::io::copy_bidirectional(&mut client, &mut backend));
    let result = std::future::poll_fn(|cx| match copy.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(result.map(|_| ())),
        Poll::Pending => {
            let end = ends_at();
            if patience.end.replace(end) != end {
                patience.renew();
            }
            deadline.poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
        }
    })
    .await;
    deadline.clear();
    result
}

/// How long a tunnel goes on.
struct Patience<'a> {
    deadline: &'a Deadline,
    idle: Duration,
    end: Cell<Option<Instant>>,
}

impl Patience<'_> {
    /// Something moved.
    fn renew(&self) {
        self.deadline.set_before(self.idle, self.end.get());
    }
}

/// One end: gives what was read before first, and puts the deadline off whenever something comes.
struct End<'a, S> {
    io: S,
    early: Bytes,
    patience: &'a Patience<'a>,
    /// Bytes that were written to it.
    taken: &'a Cell<u64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for End<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let count = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early[..count]);
            self.early.advance(count);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.patience.renew();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for End<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.taken.set(self.taken.get() + count as u64);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
