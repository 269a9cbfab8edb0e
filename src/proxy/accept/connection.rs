//! One client connection: its socket as hyper sees it, and its life from the first byte to the last.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;

use super::preface::Beginning;
use crate::proxy::client_body::ClientBody;
use crate::proxy::client_connection::{Conversation, Phase, Tunnel};
use crate::proxy::forward::tunnel::{self, PassedOn};
use crate::proxy::journal::Journal;
use crate::proxy::stream::ClientStream;
use crate::telemetry::with_causes;

/// How much is read from a client at once.
const READ_SIZE: usize = 64 * 1024;

/// Pieces that are this short together are written as one.
const SMALL_WRITE: usize = 1024;

/// The smallest buffer hyper accepts.
const MIN_BUFFER: usize = 8 * 1024;

/// How long an idle connection stays open when its worker is closing. A request that is on its way already would be
/// lost if it were closed at once; this way it is answered, and told that it was the last.
pub(in crate::proxy) const LINGER: Duration = Duration::from_millis(500);

/// How long the last bytes of a connection may take, whoever it is may be gone.
const LAST_WORDS: Duration = Duration::from_secs(1);

const REQUEST_TIMEOUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// What all connections of one worker share.
#[derive(Debug)]
pub struct Shared {
    /// Everything from a client passes through here on its way to hyper, so that it can be looked at.
    scratch: RefCell<Box<[u8]>>,
    /// Connections are to end after their current request.
    pub closing: Cell<bool>,
}

impl Default for Shared {
    fn default() -> Self {
        Self { scratch: RefCell::new(vec![0; READ_SIZE].into_boxed_slice()), closing: Cell::new(false) }
    }
}

/// How a connection ended, as far as it takes a decision.
enum End {
    /// hyper is done with it.
    Over(Result<(), hyper::Error>),
    /// Its deadline passed.
    Late(Phase),
    /// It began with the preface of HTTP/2.
    Http2,
}

/// Which protocols a connection may begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 as well, to whoever begins with its preface.
    Either,
}

/// A connection that turned out to be of HTTP/2, and what was read from it.
#[derive(Debug)]
pub struct BegunHttp2 {
    /// The rest of it.
    pub io: ClientStream,
    /// The preface, and what came with it.
    pub read: Vec<u8>,
}

/// Serves requests on one connection until it ends, the worker is closing, or a deadline passes.
///
/// `handle` answers one request; `head_limit` bounds a request's head in bytes. Gives the connection back when it is not
/// of HTTP/1.1.
pub async fn serve<H, F, B>(
    io: ClientStream,
    client: Rc<Conversation>,
    shared: Rc<Shared>,
    (speaks, head_limit): (Speaks, usize),
    handle: H,
) -> Option<BegunHttp2>
where
    H: Fn(Rc<Conversation>, Request<ClientBody>) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let service = service_fn(|request: Request<Incoming>| {
        let reply = handle(Rc::clone(&client), request.map(ClientBody::Http1));
        async move { Ok::<_, std::convert::Infallible>(reply.await) }
    });
    let beginning = match speaks {
        Speaks::Http1 => Beginning::Http1,
        Speaks::Either => Beginning::Open(Vec::new()),
    };
    let io = ClientIo { io, client: Rc::clone(&client), shared: Rc::clone(&shared), beginning };
    let mut connection = http1::Builder::new()
        .max_header_size(head_limit)
        .max_buf_size(head_limit.max(MIN_BUFFER))
        .serve_connection(io, &service);
    let (mut lingers, mut was_told) = (false, false);
    let end = poll_fn(|cx| {
        if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(End::Over(result));
        }
        if client.is_of_http2() {
            return Poll::Ready(End::Http2);
        }
        if shared.closing.get() && !lingers {
            lingers = true;
            client.linger(LINGER);
        }
        // Only now: hyper closes a connection at once when it has not been handed a whole head.
        if lingers && !was_told && matches!(client.phase(), Phase::Request | Phase::Reply) {
            was_told = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        match client.phase() {
            Phase::Request => Poll::Pending,
            phase => client.deadline.poll(cx).map(|()| End::Late(phase)),
        }
    })
    .await;
    let parts = connection.into_parts();
    let mut io = parts.io.io;
    match end {
        End::Http2 => {
            let Beginning::Http2(read) = parts.io.beginning else { return None };
            return Some(BegunHttp2 { io, read });
        }
        End::Over(Ok(())) => {
            if let Some(tunnel) = client.take_tunnel() {
                // Boxed, so that the task of every other connection need not have room for it.
                Box::pin(run_tunnel(io, parts.read_buf, &client, tunnel)).await;
            }
        }
        End::Over(Err(error)) => {
            tracing::debug!(peer = %client.peer, error = %with_causes(&error), "client connection failed");
            if client.is_broken() {
                reset(&io);
            }
        }
        // Closed in order, what is left of a reply would be missed by nobody.
        End::Late(_) if !client.is_flushed() => reset(&io),
        End::Late(Phase::Head) if client.has_received_any() => {
            // Best effort: whoever is this slow may be gone.
            let answer = async {
                io.write_all(REQUEST_TIMEOUT).await?;
                io.shutdown().await
            };
            let _ = tokio::time::timeout(LAST_WORDS, answer).await;
        }
        End::Late(Phase::Reply) => reset(&io),
        // TLS ends with a word, too.
        End::Late(Phase::Idle) if io.is_tls() => {
            let _ = tokio::time::timeout(LAST_WORDS, io.shutdown()).await;
        }
        End::Late(Phase::Idle | Phase::Head | Phase::Request) => {}
    }
    None
}

/// Runs a tunnel until it ends; `early` is what the client sent behind its head.
pub(super) async fn run_tunnel(
    io: impl AsyncRead + AsyncWrite + Unpin,
    early: Bytes,
    client: &Conversation,
    tunnel: Box<Tunnel>,
) {
    let Tunnel { backend: backend_end, counted, slot, idle, pin_id, journal } = *tunnel;
    let (backend, opened) = (&slot.member().backend, Instant::now());
    // A tunnel opened when its turn to leave had come is there because nobody else could have it, and stays.
    let ends_at = || backend.drain_over_at(pin_id).filter(|end| *end > opened);
    let record = TunnelRecord { journal, passed_on: PassedOn::default() };
    let result = tunnel::run((io, early), backend_end, &client.deadline, idle, ends_at, &record.passed_on).await;
    if let Err(error) = result {
        tracing::debug!(peer = %client.peer, %error, "tunnel ended");
    }
    drop((record, counted, slot));
}

/// The record of a tunnel, which is complete however it ends: a worker that stops does not wait for it for ever.
struct TunnelRecord {
    journal: Journal,
    passed_on: PassedOn,
}

impl Drop for TunnelRecord {
    fn drop(&mut self) {
        self.journal.bytes_in = self.passed_on.to_backend.get();
        self.journal.bytes_out = self.passed_on.to_client.get();
    }
}

/// Makes closing this socket a reset: its peer must not take the end of the stream for the end of the reply.
pub(super) fn reset(io: &ClientStream) {
    // Fails only on a socket that is broken already, which is a reset for the peer as well.
    let _ = SockRef::from(io.socket()).set_linger(Some(Duration::ZERO));
}

/// A client's socket. Notes what comes in, and writes 1xx heads, which hyper does not, when it is their turn.
struct ClientIo {
    io: ClientStream,
    client: Rc<Conversation>,
    shared: Rc<Shared>,
    beginning: Beginning,
}

impl ClientIo {
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut interim = self.client.interim().borrow_mut();
        while !interim.is_empty() {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, &interim))?;
            interim.drain(..count);
        }
        Poll::Ready(Ok(()))
    }
}

impl Read for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut scratch = this.shared.scratch.borrow_mut();
        loop {
            // What was kept of a beginning comes first.
            let room = cursor.remaining().saturating_sub(this.beginning.kept()).min(scratch.len());
            let mut buffer = ReadBuf::new(&mut scratch[..room]);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut buffer))?;
            let bytes = buffer.filled();
            if !matches!(this.beginning, Beginning::Http1) {
                match this.beginning.look(bytes) {
                    // Room was made for far more than the preface.
                    Some(kept) if !kept.is_empty() => {
                        this.client.received(&kept);
                        cursor.put_slice(&kept);
                    }
                    Some(_) => {}
                    None if matches!(this.beginning, Beginning::Http2(_)) => {
                        // hyper sees nothing of it, and the connection's task takes it from here.
                        this.client.found_http2();
                        return Poll::Pending;
                    }
                    None => continue,
                }
            }
            if !bytes.is_empty() {
                this.client.received(bytes);
                cursor.put_slice(bytes);
            }
            return Poll::Ready(Ok(()));
        }
    }
}

impl Write for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.client.is_flushed() {
            ready!(self.poll_interim(cx))?;
        }
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf));
        self.client.wrote();
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.client.is_flushed() {
            ready!(self.poll_interim(cx))?;
        }
        // The system call for one piece is cheaper than the one for several, by more than copying a small reply costs.
        let total: usize = bufs.iter().map(|piece| piece.len()).sum();
        let written = if total <= SMALL_WRITE {
            let mut whole = [0; SMALL_WRITE];
            let mut at = 0;
            for piece in bufs {
                whole[at..at + piece.len()].copy_from_slice(piece);
                at += piece.len();
            }
            ready!(Pin::new(&mut self.io).poll_write(cx, &whole[..total]))
        } else {
            ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))
        };
        self.client.wrote();
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes once its own buffer is empty; within TLS some of it may still be here.
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.client.flushed();
        ready!(self.poll_interim(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
