//! One stream of HTTP/2 as a connection of its own: what tunnels need of it, whichever end we are.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes handed over in one piece; each is copied once, since who writes keeps its buffer.
const PIECE: usize = 64 * 1024;

/// Both directions of a stream. Dropped before both have ended, it resets the stream.
#[derive(Debug)]
pub(super) struct Duplex {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// Received and not yet read. Its room in the window is given back when it is read, so that a slow reader slows the
    /// writer down.
    unread: Bytes,
}

impl Duplex {
    /// A stream on which the heads have passed.
    pub(super) fn new(send: SendStream<Bytes>, receive: RecvStream) -> Self {
        Self { send, receive, unread: Bytes::new() }
    }
}

impl AsyncRead for Duplex {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.unread.is_empty() {
            match ready!(this.receive.poll_data(cx)) {
                Some(data) => this.unread = data.map_err(broken)?,
                // The end; trailers of a tunnel mean nothing.
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = this.unread.len().min(buf.remaining());
        buf.put_slice(&this.unread[..count]);
        this.unread.advance(count);
        // Fails only on a stream that is over, which the next read will tell.
        let _ = this.receive.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.send.reserve_capacity(buf.len().min(PIECE));
        let room = loop {
            match ready!(self.send.poll_capacity(cx)) {
                // Room that was taken back: there is none.
                Some(Ok(0)) => {}
                Some(Ok(room)) => break room,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        };
        let count = room.min(buf.len()).min(PIECE);
        self.send.send_data(Bytes::copy_from_slice(&buf[..count]), false).map_err(broken)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's own task writes.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.send.send_data(Bytes::new(), true) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(broken(error))),
        }
    }
}

/// An error of the stream as one of a connection.
fn broken(error: h2::Error) -> io::Error {
    match error.reason() {
        Some(Reason::CANCEL | Reason::NO_ERROR) => io::ErrorKind::ConnectionReset.into(),
        _ => io::Error::new(io::ErrorKind::ConnectionReset, error),
    }
}
