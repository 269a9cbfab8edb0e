//! A client's request body: streamed, and kept up to a limit so that the request can be sent again.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;

use crate::proxy::client_body::{ClientBody, ClientBodyError};

/// The body of one request, over all its attempts.
#[derive(Debug)]
pub struct RequestBody {
    source: Source,
    /// What was sent and may have to be sent again; sharing the received bytes, not copying them.
    kept: Vec<Bytes>,
    kept_bytes: usize,
    keep_limit: usize,
    /// Everything taken from the client is still in `kept`.
    is_complete_copy: bool,
    /// How many pieces of `kept` the current attempt has taken.
    replayed: usize,
    trailers: Option<HeaderMap>,
    length: Option<u64>,
    received: u64,
}

#[derive(Debug)]
enum Source {
    Empty,
    Client(ClientBody),
    /// The client's body was read to its end.
    Ended,
}

/// One piece of a request body.
#[derive(Debug)]
pub(super) enum BodyPiece {
    Data(Bytes),
    End(Option<HeaderMap>),
}

impl RequestBody {
    /// The body of a request, of which up to `keep_limit` bytes are kept.
    pub fn new(incoming: ClientBody, keep_limit: usize) -> Self {
        let is_empty = incoming.is_end_stream();
        let length = if is_empty { Some(0) } else { incoming.length() };
        Self {
            source: if is_empty { Source::Empty } else { Source::Client(incoming) },
            kept: Vec::new(),
            kept_bytes: 0,
            keep_limit,
            is_complete_copy: true,
            replayed: 0,
            trailers: None,
            length,
            received: 0,
        }
    }

    /// No body.
    pub fn empty() -> Self {
        Self {
            source: Source::Empty,
            kept: Vec::new(),
            kept_bytes: 0,
            keep_limit: 0,
            is_complete_copy: true,
            replayed: 0,
            trailers: None,
            length: Some(0),
            received: 0,
        }
    }

    /// Its length in bytes, `None` when only the end will tell.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// Whether there is none at all.
    pub fn is_empty(&self) -> bool {
        matches!(self.source, Source::Empty)
    }

    /// Bytes received from the client so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Whether the next attempt would send the same bytes as the first.
    pub fn can_be_sent_again(&self) -> bool {
        self.is_complete_copy
    }

    /// Begins again at the first byte. Only when [`RequestBody::can_be_sent_again`].
    pub fn rewind(&mut self) {
        debug_assert!(self.is_complete_copy, "what was let go cannot be sent again");
        self.replayed = 0;
    }

    /// Lets go of what was kept: the reply has begun, so nothing will be sent again.
    pub(super) fn let_go(&mut self) {
        if !self.is_empty() {
            self.keep_limit = 0;
            if self.kept_bytes > 0 {
                self.is_complete_copy = false;
                self.kept.drain(..self.replayed);
                self.replayed = 0;
                self.kept_bytes = 0;
            }
        }
    }

    /// The next piece for the current attempt: kept ones first, then what the client sends.
    ///
    /// # Errors
    /// When the client's connection fails, or its body is not well formed.
    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<BodyPiece, ClientBodyError>> {
        if let Some(piece) = self.kept.get(self.replayed) {
            self.replayed += 1;
            return Poll::Ready(Ok(BodyPiece::Data(piece.clone())));
        }
        loop {
            let Source::Client(incoming) = &mut self.source else {
                return Poll::Ready(Ok(BodyPiece::End(self.trailers.clone())));
            };
            match ready!(incoming.poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => {
                        self.received += data.len() as u64;
                        self.keep(&data);
                        return Poll::Ready(Ok(BodyPiece::Data(data)));
                    }
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => self.source = Source::Ended,
            }
        }
    }

    fn keep(&mut self, data: &Bytes) {
        if self.is_complete_copy && self.kept_bytes + data.len() <= self.keep_limit {
            self.kept_bytes += data.len();
            self.kept.push(data.clone());
            self.replayed = self.kept.len();
        } else {
            self.is_complete_copy = false;
            self.kept = Vec::new();
            self.kept_bytes = 0;
            self.replayed = 0;
        }
    }
}
