//! Bytes that went over sockets, counted where they are read and written.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Counts of bytes. Plain: nothing is published through them.
#[derive(Debug, Default)]
pub struct Traffic {
    read: AtomicU64,
    written: AtomicU64,
}

impl Traffic {
    /// Bytes read until now.
    pub fn read(&self) -> u64 {
        self.read.load(Relaxed)
    }

    /// Bytes written until now.
    pub fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }
}

/// A connection whose bytes are counted.
#[derive(Debug)]
pub struct CountedStream<S> {
    io: S,
    traffic: Arc<Traffic>,
}

impl<S> CountedStream<S> {
    /// Counts from now on.
    pub fn new(io: S, traffic: Arc<Traffic>) -> Self {
        Self { io, traffic }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CountedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        self.traffic.read.fetch_add((buf.filled().len() - before) as u64, Relaxed);
        polled
    }
}

impl<S: AsyncWrite + Unpin> CountedStream<S> {
    fn counted(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(written)) = polled {
            self.traffic.written.fetch_add(written as u64, Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CountedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.counted(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.counted(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_of_both_ways_are_counted_once_each() {
        let (near, mut far) = tokio::io::duplex(64);
        let traffic = Arc::<Traffic>::default();
        let mut near = CountedStream::new(near, Arc::clone(&traffic));
        near.write_all(b"seven b").await.unwrap();
        assert_eq!((traffic.read(), traffic.written()), (0, 7));
        far.write_all(b"and five").await.unwrap();
        near.read_exact(&mut [0; 8]).await.unwrap();
        assert_eq!((traffic.read(), traffic.written()), (8, 7));
    }
}
