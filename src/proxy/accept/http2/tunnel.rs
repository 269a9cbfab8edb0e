//! A tunnel's end at a client of HTTP/2: what is passed on to it earns it the frames by which it acknowledges.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::PIECE;
use super::wire::Wire;
use crate::proxy::duplex::Duplex;

/// A stream, and the connection that it belongs to.
pub(super) struct Acknowledged {
    stream: Duplex,
    wire: Wire,
}

impl Acknowledged {
    pub(super) fn new(stream: Duplex, wire: Wire) -> Self {
        Self { stream, wire }
    }
}

impl AsyncRead for Acknowledged {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Acknowledged {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.wire.earn(1 + u32::try_from(count / PIECE).unwrap_or(u32::MAX - 1));
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
