//! Bytes both ways after `101 Switching Protocols`, until both sides are done or nothing moves for too long.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::exchange::Exchange;
use crate::proxy::deadline::Deadline;

/// The backend's end of a tunnel, waiting for the client's.
#[derive(Debug)]
pub struct BackendEnd {
    io: TcpStream,
    /// What the backend sent right behind its head.
    early: Bytes,
}

impl BackendEnd {
    /// Takes the connection over which `101` came.
    pub fn new(exchange: Exchange) -> Self {
        let (io, read) = exchange.into_connection().into_parts();
        Self { io, early: read.freeze() }
    }
}

/// Copies until both directions have ended; `early` is what the client sent behind its own head.
///
/// # Errors
/// When either side breaks, or nothing moves for `idle` (`TimedOut`).
pub async fn run(
    client: impl AsyncRead + AsyncWrite + Unpin,
    early: Bytes,
    backend: BackendEnd,
    deadline: &Deadline,
    idle: Duration,
) -> io::Result<(u64, u64)> {
    deadline.set(idle);
    let mut client = End { io: client, early, deadline, idle };
    let mut backend = End { io: backend.io, early: backend.early, deadline, idle };
    let mut copy = pin!(tokio::io::copy_bidirectional(&mut client, &mut backend));
    let result = std::future::poll_fn(|cx| match copy.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(result),
        Poll::Pending => deadline.poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
    })
    .await;
    deadline.clear();
    result
}

/// One end: gives what was read before first, and puts the deadline off whenever something comes.
struct End<'a, S> {
    io: S,
    early: Bytes,
    deadline: &'a Deadline,
    idle: Duration,
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
            self.deadline.set(self.idle);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for End<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
