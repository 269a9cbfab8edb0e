//! One connection to a backend: a socket and what was read from it beyond the last reply.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::time::Instant;

use super::client::Owner;
use crate::pool::OpenConnection;
use crate::proxy::stream::BackendStream;

/// What the first read of a reply has room for.
const FIRST_READ: usize = 4 * 1024;

/// What a read of a long body has room for: fewer, larger reads are what makes a long reply cheap.
const LARGE_READ: usize = 256 * 1024;

/// An open connection to a backend.
#[derive(Debug)]
pub(super) struct Connection {
    io: BackendStream,
    /// Counts it; after `io`, so that it is closed before another may be opened.
    counted: OpenConnection,
    pub(super) read: BytesMut,
    /// Whose requests it carries, when the backend was told so.
    pub(super) owner: Option<Owner>,
    /// When it was last put back, for those that are idle.
    pub(super) idle_since: Instant,
}

impl Connection {
    pub(super) fn new((io, counted): (BackendStream, OpenConnection), owner: Option<Owner>, now: Instant) -> Self {
        Self { io, counted, read: BytesMut::new(), owner, idle_since: now }
    }

    /// Whether the backend has closed it, or sent what nobody asked for. No system call unless something came.
    pub(super) fn is_stale(&mut self) -> bool {
        !self.read.is_empty() || self.io.is_stale()
    }

    /// Whether a part of what was written waits for the backend to take it.
    pub(super) fn is_held_up(&self) -> bool {
        self.io.is_held_up()
    }

    /// Waits until the socket has everything that was written.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Reads more; `Ok(0)` at the end of the stream. `body_left` sizes the buffer when a long body is under way.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, body_left: u64) -> Poll<io::Result<usize>> {
        let wanted = usize::try_from(body_left).unwrap_or(LARGE_READ).clamp(FIRST_READ, LARGE_READ);
        if self.read.capacity() - self.read.len() < FIRST_READ / 2 || wanted > FIRST_READ {
            self.read.reserve(wanted);
        }
        // The future holds no state of its own, so dropping it between two polls loses nothing.
        pin!(self.io.read_buf(&mut self.read)).poll(cx)
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, first: &[u8], second: &[u8]) -> Poll<io::Result<usize>> {
        let io = Pin::new(&mut self.io);
        let written = ready!(if second.is_empty() {
            io.poll_write(cx, first)
        } else if first.is_empty() {
            io.poll_write(cx, second)
        } else {
            io.poll_write_vectored(cx, &[io::IoSlice::new(first), io::IoSlice::new(second)])
        })?;
        Poll::Ready(if written == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(written) })
    }

    /// The socket, what counts it, and what was read from it already.
    pub(super) fn into_parts(self) -> (BackendStream, OpenConnection, BytesMut) {
        (self.io, self.counted, self.read)
    }
}
