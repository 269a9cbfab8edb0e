//! The body of a client's request, whichever protocol brings it.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, StatusCode, Version, header};
use hyper::body::{Body as _, Frame, Incoming};

use super::client_connection::Conversation;
use super::forward::expects_continue;

/// Piece by piece, as the client sends it.
#[derive(Debug)]
pub enum ClientBody {
    /// Of HTTP/1.1.
    Http1(Incoming),
    /// Of one stream of HTTP/2. Boxed, so that a request of HTTP/1.1 carries no room for it.
    Http2(Box<StreamBody>),
    /// There is none.
    Empty,
}

impl ClientBody {
    /// Whether nothing (more) comes.
    pub fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(incoming) => incoming.is_end_stream(),
            Self::Http2(body) => body.stream.as_ref().is_none_or(RecvStream::is_end_stream),
            Self::Empty => true,
        }
    }

    /// Its length, as far as the client has told.
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Http1(incoming) => incoming.size_hint().exact(),
            Self::Http2(body) => body.length,
            Self::Empty => Some(0),
        }
    }

    /// The next piece, `None` after the last.
    ///
    /// # Errors
    /// When the client's connection fails, or its body is not well formed.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
        match self {
            Self::Http1(incoming) => {
                Pin::new(incoming).poll_frame(cx).map(|frame| Some(frame?.map_err(ClientBodyError::Http1)))
            }
            Self::Http2(body) => {
                body.poll_frame(cx).map(|frame| Some(frame?.map_err(|error| ClientBodyError::Http2(Box::new(error)))))
            }
            Self::Empty => Poll::Ready(None),
        }
    }
}

/// What a stream brings. Dropped before its end, it leaves the rest to the conversation.
#[derive(Debug)]
pub struct StreamBody {
    /// `None` once it was read to its end.
    stream: Option<RecvStream>,
    length: Option<u64>,
    /// Bytes that were handed out last. Their room in the window is given back when the next ones are asked for, that is
    /// when the backend has taken them: so a slow backend slows the client down, and no more is kept than the window.
    handed_out: usize,
    conversation: Rc<Conversation>,
    /// Waits for `100 Continue` before it sends anything.
    is_expecting: bool,
}

impl StreamBody {
    /// What follows this head. Whether as much comes as it says is checked where the frames are read.
    pub fn new(stream: RecvStream, headers: &HeaderMap, conversation: &Rc<Conversation>) -> Self {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let is_expecting = expects_continue(Version::HTTP_2, headers);
        Self { stream: Some(stream), length, handed_out: 0, conversation: Rc::clone(conversation), is_expecting }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if std::mem::take(&mut self.is_expecting) {
            // As hyper does it: when the body is first asked for.
            self.conversation.send_interim(StatusCode::CONTINUE, HeaderMap::new());
        }
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        let handed_out = std::mem::take(&mut self.handed_out);
        if handed_out > 0 {
            // Fails only on a stream that is over, which the next lines find out.
            let _ = stream.flow_control().release_capacity(handed_out);
        }
        match ready!(stream.poll_data(cx)) {
            Some(Ok(data)) => {
                self.handed_out = data.len();
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => {
                let trailers = ready!(stream.poll_trailers(cx)).transpose();
                self.stream = None;
                Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)))
            }
        }
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        if let Some(mut stream) = self.stream.take().filter(|stream| !stream.is_end_stream()) {
            // Fails only on a stream that is over.
            let _ = stream.flow_control().release_capacity(self.handed_out);
            self.conversation.leave_unheard(stream);
        }
    }
}

/// How a client's body failed.
#[derive(Debug)]
pub enum ClientBodyError {
    /// On a connection of HTTP/1.1.
    Http1(hyper::Error),
    /// On a stream of HTTP/2.
    Http2(Box<h2::Error>),
}

impl fmt::Display for ClientBodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the client's body broke off")
    }
}

impl std::error::Error for ClientBodyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Http1(error) => Some(error),
            Self::Http2(error) => Some(error),
        }
    }
}
