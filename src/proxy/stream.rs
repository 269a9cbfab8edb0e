//! A connection as HTTP sees it, to a client or to a backend: plain, or within TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

use crate::tls::HTTP_2;

/// A connection, and what TLS is spoken by within it.
///
/// An enum and no trait object: a plain connection pays a comparison for each system call.
#[derive(Debug)]
pub enum Stream<T> {
    /// As it comes.
    Plain(TcpStream),
    /// Boxed, so that the plain one stays small.
    Tls(Box<T>),
}

/// A client's.
pub type ClientStream = Stream<server::TlsStream<TcpStream>>;

/// A backend's.
pub(super) type BackendStream = Stream<client::TlsStream<TcpStream>>;

impl ClientStream {
    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(io) => io,
            Self::Tls(io) => io.get_ref().0,
        }
    }

    /// Whether HTTP/2 was agreed on within TLS.
    pub fn agreed_on_http2(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(io) => io.get_ref().1.alpn_protocol() == Some(HTTP_2),
        }
    }

    /// Whether what was written may wait here for a flush.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

impl BackendStream {
    /// Whether the other side has ended it, or sent what nobody asked for. No system call unless something came.
    pub(super) fn is_stale(&mut self) -> bool {
        let mut unasked = [0; 1];
        match self {
            Self::Plain(io) => {
                !matches!(io.try_read(&mut unasked), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            Self::Tls(io) => {
                // Tickets come unasked, and are no data: what is not one is either data or the end.
                let mut cx = Context::from_waker(Waker::noop());
                Pin::new(io).poll_read(&mut cx, &mut ReadBuf::new(&mut unasked)).is_ready()
            }
        }
    }

    /// Whether a part of what was written waits here.
    pub(super) fn is_held_up(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(io) => io.get_ref().1.wants_write(),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Stream<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Stream<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
