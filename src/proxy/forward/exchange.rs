//! One request and its reply over one connection.
//!
//! Both directions are driven by the same task, without channels: [`Exchange::poll_reply`] sends while it waits for the
//! head of the reply, [`Exchange::poll_body`] keeps sending while the reply's body comes in. So a backend may answer
//! before it has read the whole request, and the request's end is still delivered.

use std::fmt;
use std::io::{self, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use hyper::body::Frame;
use tokio::time::Sleep;

use super::chunked::Piece;
use super::connection::Connection;
use super::head::{self, Framing, HeadError, ReplyHead};
use super::hop_by_hop::is_trailer;
use super::http2::exchange::Http2Exchange;
use super::request_body::{BodyPiece, RequestBody};
use crate::proxy::client_body::ClientBodyError;

/// How long a body is held back for the backend's `100 Continue`.
pub(super) const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// A request that is being sent over a connection of HTTP/1.1, and its reply.
#[derive(Debug)]
pub(super) struct Http1Exchange {
    connection: Connection,
    method: Method,
    /// Head and chunk framing not yet written, from `written` on.
    buffer: Vec<u8>,
    written: usize,
    /// Body data that follows `buffer`.
    chunk: Bytes,
    body: RequestBody,
    is_chunked: bool,
    /// A chunk was written and its line end is still owed.
    owes_line_end: bool,
    sending: Sending,
    /// Waiting for `100 Continue`, at most until the timer fires.
    held_back: Option<Pin<Box<Sleep>>>,
    /// The connection has served before, so that the backend may have ended it meanwhile.
    is_reused: bool,
    /// Bytes of the request that were written.
    sent: u64,
    /// The first write has waited for its turn.
    has_yielded: bool,
    framing: Framing,
    is_reusable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    Pieces,
    /// Nothing more will come; `buffer` may still have to be flushed.
    Last,
    Done,
    /// Writing failed. The reply may have come nevertheless.
    Broken,
}

/// How an exchange failed before the head of a reply.
#[derive(Debug)]
pub(super) enum ExchangeError {
    /// The backend's connection broke.
    Broken(io::Error),
    /// The backend said that it did not process the request.
    Refused(io::Error),
    /// The reply cannot be understood.
    Reply(HeadError),
    /// The client's own body failed: not the backend's fault.
    ClientBody(ClientBodyError),
}

/// How a reply broke off.
#[derive(Debug)]
pub enum BodyError {
    /// The connection broke, or ended too early.
    Broken(io::Error),
    /// The body's framing is not well formed.
    Framing(HeadError),
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the backend's reply broke off")
    }
}

impl std::error::Error for BodyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Broken(error) => Some(error),
            Self::Framing(error) => Some(error),
        }
    }
}

/// A request that is being sent, and its reply, in whichever version of HTTP.
#[derive(Debug)]
pub struct Exchange(pub(super) Version);

/// See [`Exchange`].
#[derive(Debug)]
pub(super) enum Version {
    Http1(Http1Exchange),
    Http2(Http2Exchange),
}

/// One and the same for either version.
macro_rules! either {
    ($version:expr, $exchange:ident => $result:expr) => {
        match $version {
            Version::Http1($exchange) => $result,
            Version::Http2($exchange) => $result,
        }
    };
}

impl Exchange {
    /// Whether a byte of the request may have reached the backend.
    pub(super) fn anything_sent(&self) -> bool {
        either!(&self.0, it => it.sent() > 0)
    }

    /// The request's body, for another attempt, and the buffer of its head where that can be used again.
    pub(super) fn into_request(self) -> (RequestBody, Vec<u8>) {
        match self.0 {
            Version::Http1(it) => (it.body, it.buffer),
            Version::Http2(it) => (it.into_body(), Vec::new()),
        }
    }

    /// The request's body, for another attempt.
    pub fn into_body(self) -> RequestBody {
        self.into_request().0
    }

    fn body(&self) -> &RequestBody {
        either!(&self.0, it => it.body())
    }

    /// Whether the request could be sent once more.
    pub fn can_be_sent_again(&self) -> bool {
        self.body().can_be_sent_again()
    }

    /// Lets go of what is kept of the request's body: its reply is the one for the client.
    pub fn let_go_of_request(&mut self) {
        either!(&mut self.0, it => it.body_mut().let_go());
    }

    /// Bytes received from the client so far.
    pub fn received(&self) -> u64 {
        self.body().received()
    }

    /// Whether the request has been sent whole.
    pub fn is_sent(&self) -> bool {
        either!(&self.0, it => it.is_sent())
    }

    /// Grows whenever a piece of the request came from the client, or went to the backend.
    pub(super) fn progress(&self) -> u64 {
        self.received() + either!(&self.0, it => it.sent())
    }

    /// Bytes that came of a head which is not whole yet; heads of HTTP/2 come whole.
    pub(super) fn head_bytes(&self) -> usize {
        match &self.0 {
            Version::Http1(it) => it.connection.read.len(),
            Version::Http2(_) => 0,
        }
    }

    /// Whether the backend takes no more of the request, though it was not sent whole.
    pub fn leaves_body_unsent(&self) -> bool {
        either!(&self.0, it => it.leaves_body_unsent())
    }

    /// Whether the next step is the backend's: it has not taken what was written so far.
    pub(super) fn is_held_up(&self) -> bool {
        either!(&self.0, it => it.is_held_up())
    }

    /// Sends, and waits for a head: of an interim reply, or of the final one, whose body then follows.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub(super) fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Result<ReplyHead, ExchangeError>> {
        either!(&mut self.0, it => it.poll_reply(cx))
    }

    /// Length of the reply's body, as far as it is known.
    pub fn reply_length(&self) -> Option<u64> {
        either!(&self.0, it => it.reply_length())
    }

    /// The next piece of the reply's body, `None` after its last.
    ///
    /// # Errors
    /// When the reply breaks off; what came so far must not be taken for the whole.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        either!(&mut self.0, it => it.poll_body(cx))
    }

    /// Whether the reply has been read to its end.
    pub fn is_over(&self) -> bool {
        either!(&self.0, it => it.is_over())
    }

    /// The connection, if another request may be sent on it by whoever has it alone.
    pub(super) fn into_reusable(self) -> Option<(Connection, Vec<u8>)> {
        match self.0 {
            Version::Http1(it) => it.into_reusable(),
            Version::Http2(_) => None,
        }
    }
}

impl Http1Exchange {
    /// `head` is the request's head, ready to be written; `is_chunked` whether it announces chunked coding.
    pub(super) fn new(
        (connection, is_reused): (Connection, bool),
        method: Method,
        head: Vec<u8>,
        body: RequestBody,
        is_chunked: bool,
        expects_continue: bool,
    ) -> Self {
        let sending = if body.is_empty() { Sending::Last } else { Sending::Pieces };
        Self {
            connection,
            method,
            buffer: head,
            written: 0,
            chunk: Bytes::new(),
            body,
            is_chunked,
            owes_line_end: false,
            sending,
            held_back: expects_continue.then(|| Box::pin(tokio::time::sleep(CONTINUE_TIMEOUT))),
            is_reused,
            sent: 0,
            has_yielded: false,
            framing: Framing::Empty,
            is_reusable: false,
        }
    }

    fn body(&self) -> &RequestBody {
        &self.body
    }

    fn body_mut(&mut self) -> &mut RequestBody {
        &mut self.body
    }

    /// Bytes of the request that were written.
    fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether the request has been sent whole.
    fn is_sent(&self) -> bool {
        matches!(self.sending, Sending::Done)
    }

    /// Whether the backend takes no more of the request, though it was not sent whole.
    fn leaves_body_unsent(&self) -> bool {
        self.sending == Sending::Broken
    }

    /// Whether the next step is the backend's: it has not taken what was written so far.
    pub(super) fn is_held_up(&self) -> bool {
        self.written < self.buffer.len() || !self.chunk.is_empty() || self.connection.is_held_up()
    }

    /// Sends, and waits for a head: of an interim reply, or of the final one, whose body then follows.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub(super) fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Result<ReplyHead, ExchangeError>> {
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            return Poll::Ready(Err(ExchangeError::ClientBody(error)));
        }
        if self.sent == 0 {
            // What comes before the request was sent is no answer to it.
            return match self.sending {
                Sending::Broken => {
                    let error = io::Error::new(io::ErrorKind::ConnectionAborted, "not open any more");
                    Poll::Ready(Err(ExchangeError::Broken(error)))
                }
                Sending::Pieces | Sending::Last | Sending::Done => Poll::Pending,
            };
        }
        loop {
            if !self.connection.read.is_empty()
                && let Some(head) = head::parse(&mut self.connection.read).map_err(ExchangeError::Reply)?
            {
                return Poll::Ready(self.begin(head).map_err(ExchangeError::Reply));
            }
            match ready!(self.connection.poll_read(cx, 0)) {
                Ok(0) => {
                    let error = io::Error::new(io::ErrorKind::UnexpectedEof, "closed before the reply");
                    return Poll::Ready(Err(ExchangeError::Broken(error)));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(ExchangeError::Broken(error))),
            }
        }
    }

    fn begin(&mut self, head: ReplyHead) -> Result<ReplyHead, HeadError> {
        if head.status == StatusCode::CONTINUE {
            self.held_back = None;
        }
        if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(head);
        }
        self.framing = head::framing(&head, &self.method)?;
        self.is_reusable = head::keeps_alive(&head) && !matches!(self.framing, Framing::UntilClose);
        if self.held_back.take().is_some() {
            // The backend decided without the body; the client will not send it.
            self.sending = Sending::Broken;
        }
        Ok(head)
    }

    /// Length of the reply's body, as far as it is known.
    fn reply_length(&self) -> Option<u64> {
        match self.framing {
            Framing::Empty => Some(0),
            Framing::Length(left) => Some(left),
            Framing::Chunked(_) | Framing::UntilClose => None,
        }
    }

    /// The next piece of the reply's body, `None` after its last.
    ///
    /// # Errors
    /// When the reply breaks off; what came so far must not be taken for the whole.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !matches!(self.sending, Sending::Done | Sending::Broken)
            && let Poll::Ready(Err(_)) = self.poll_send(cx)
        {
            self.sending = Sending::Broken;
        }
        loop {
            let left = match &mut self.framing {
                Framing::Empty => return Poll::Ready(None),
                Framing::Length(left) if !self.connection.read.is_empty() => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(self.connection.read.len());
                    *left -= taken as u64;
                    if *left == 0 {
                        self.framing = Framing::Empty;
                    }
                    return Poll::Ready(Some(Ok(Frame::data(self.connection.read.split_to(taken).freeze()))));
                }
                Framing::Length(left) => *left,
                Framing::Chunked(decoder) => match decoder.decode(&mut self.connection.read) {
                    Ok(Piece::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                    Ok(Piece::End(trailers)) => {
                        self.framing = Framing::Empty;
                        return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(without_own(&trailers)))));
                    }
                    Ok(Piece::Incomplete) => 0,
                    Err(error) => return self.broken(BodyError::Framing(error)),
                },
                Framing::UntilClose if !self.connection.read.is_empty() => {
                    return Poll::Ready(Some(Ok(Frame::data(self.connection.read.split().freeze()))));
                }
                Framing::UntilClose => u64::MAX,
            };
            match ready!(self.connection.poll_read(cx, left)) {
                Ok(0) if matches!(self.framing, Framing::UntilClose) => self.framing = Framing::Empty,
                Ok(0) => {
                    let error = io::Error::new(io::ErrorKind::UnexpectedEof, "closed within the reply");
                    return self.broken(BodyError::Broken(error));
                }
                Ok(_) => {}
                Err(error) => return self.broken(BodyError::Broken(error)),
            }
        }
    }

    fn broken<T>(&mut self, error: BodyError) -> Poll<Option<Result<T, BodyError>>> {
        self.is_reusable = false;
        Poll::Ready(Some(Err(error)))
    }

    /// Whether the reply has been read to its end.
    fn is_over(&self) -> bool {
        matches!(self.framing, Framing::Empty)
    }

    /// The connection, if another request may be sent on it.
    pub(super) fn into_reusable(self) -> Option<(Connection, Vec<u8>)> {
        let is_clean = self.is_over() && self.is_sent() && self.connection.read.is_empty();
        (self.is_reusable && is_clean).then_some((self.connection, self.buffer))
    }

    /// The connection, for a tunnel.
    pub(super) fn into_connection(self) -> Connection {
        self.connection
    }

    /// Sends what can be sent. An error is the client's; a failing backend only shows in [`Sending::Broken`], since its
    /// reply may be on the way.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientBodyError>> {
        loop {
            let mut is_waiting = false;
            if self.chunk.is_empty() && self.sending == Sending::Pieces {
                match self.poll_next_piece(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => is_waiting = true,
                }
            }
            if ready!(self.poll_flush(cx)).is_err() {
                self.sending = Sending::Broken;
            }
            match self.sending {
                Sending::Last => self.sending = Sending::Done,
                Sending::Pieces if is_waiting => return Poll::Pending,
                Sending::Pieces => {}
                Sending::Done | Sending::Broken => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_next_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientBodyError>> {
        if let Some(timer) = &mut self.held_back {
            ready!(timer.as_mut().poll(cx));
            self.held_back = None;
        }
        match ready!(self.body.poll_piece(cx))? {
            BodyPiece::Data(data) => {
                if self.is_chunked {
                    self.end_line();
                    // Writing to a `Vec` cannot fail.
                    let _ = write!(self.buffer, "{:x}\r\n", data.len());
                    self.owes_line_end = true;
                }
                self.chunk = data;
            }
            BodyPiece::End(trailers) => {
                if self.is_chunked {
                    self.end_line();
                    self.buffer.extend_from_slice(b"0\r\n");
                    write_trailers(&mut self.buffer, trailers.as_ref());
                    self.buffer.extend_from_slice(b"\r\n");
                }
                self.sending = Sending::Last;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn end_line(&mut self) {
        if std::mem::take(&mut self.owes_line_end) {
            self.buffer.extend_from_slice(b"\r\n");
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.has_yielded {
            // Whoever can read now reads first, then everybody writes: a burst of writes finds the backend awake, where
            // single ones would wake it each time. That is a twentieth of the processor time of a small request.
            self.has_yielded = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.is_reused && self.sent == 0 && self.connection.is_stale() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        while self.written < self.buffer.len() || !self.chunk.is_empty() {
            let mut count = ready!(self.connection.poll_write(cx, &self.buffer[self.written..], &self.chunk))?;
            self.sent += count as u64;
            let from_buffer = count.min(self.buffer.len() - self.written);
            self.written += from_buffer;
            count -= from_buffer;
            // `advance` on `Bytes` keeps sharing the client's buffer.
            bytes::Buf::advance(&mut self.chunk, count);
        }
        ready!(self.connection.poll_flush(cx))?;
        self.buffer.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

fn write_trailers(buffer: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
    for (name, value) in trailers.into_iter().flatten() {
        if is_trailer(name) {
            buffer.extend_from_slice(name.as_str().as_bytes());
            buffer.extend_from_slice(b": ");
            buffer.extend_from_slice(value.as_bytes());
            buffer.extend_from_slice(b"\r\n");
        }
    }
}

/// hyper passes on those that the reply has announced; words meant for us are not among them.
pub(super) fn without_own(trailers: &HeaderMap) -> HeaderMap {
    let lines = trailers.iter().filter(|(name, _)| !name.as_str().starts_with("stickpin-"));
    lines.map(|(name, value)| (name.clone(), value.clone())).collect()
}
