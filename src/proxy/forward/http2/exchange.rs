//! One request and its reply on one stream of HTTP/2. As in HTTP/1.1, one task drives both directions.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Frame;
use tokio::time::Sleep;

use super::super::exchange::{BodyError, CONTINUE_TIMEOUT, ExchangeError, without_own};
use super::super::head::{HeadError, ReplyHead};
use super::super::hop_by_hop::is_trailer;
use super::super::request_body::{BodyPiece, RequestBody};
use super::connection::{Place, broken};
use super::head;
use crate::proxy::client_body::ClientBodyError;
use crate::proxy::duplex::Duplex;

/// A request that is being sent, and its reply.
#[derive(Debug)]
pub(in super::super) struct Http2Exchange {
    // Before the place, so that the stream has ended when it is given to another.
    send: SendStream<Bytes>,
    reply: Reply,
    place: Place,
    body: RequestBody,
    /// Body data that waits for room in the backend's window.
    chunk: Bytes,
    sending: Sending,
    /// Waiting for `100 Continue`, at most until the timer fires.
    held_back: Option<Pin<Box<Sleep>>>,
    sent: u64,
    /// The stream becomes a tunnel if the backend agrees, as `101` with this line.
    accept: Option<HeaderValue>,
    /// The body's length, as the head of the reply says.
    left: Option<u64>,
    /// Read, and not yet told to the backend, which goes on sending when it is.
    unreleased: usize,
}

#[derive(Debug)]
enum Reply {
    Head(ResponseFuture),
    Data(RecvStream),
    Trailers(RecvStream),
    Over,
    /// A tunnel's, for whoever runs it.
    Tunnel(RecvStream),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    Pieces,
    /// The body is what goes through the tunnel.
    Tunnel,
    Done,
    /// The backend takes no more.
    Broken,
}

impl Http2Exchange {
    /// Sends the head.
    ///
    /// # Errors
    /// With the body, when the connection cannot take it (any more); nothing was sent then.
    pub(in super::super) fn begin(
        mut place: Place,
        request: Request<()>,
        body: RequestBody,
        expects_continue: bool,
        accept: Option<HeaderValue>,
    ) -> Result<Self, Box<(io::Error, RequestBody)>> {
        let is_whole = body.is_empty() && accept.is_none();
        match place.sender.send_request(request, is_whole) {
            Ok((reply, send)) => {
                let sending = if accept.is_some() {
                    Sending::Tunnel
                } else if is_whole {
                    Sending::Done
                } else {
                    Sending::Pieces
                };
                let held_back = expects_continue.then(|| Box::pin(tokio::time::sleep(CONTINUE_TIMEOUT)));
                Ok(Self {
                    send,
                    reply: Reply::Head(reply),
                    place,
                    body,
                    chunk: Bytes::new(),
                    sending,
                    held_back,
                    sent: 1,
                    accept,
                    left: None,
                    unreleased: 0,
                })
            }
            Err(error) => Err(Box::new((broken(error), body))),
        }
    }

    pub(in super::super) fn into_body(self) -> RequestBody {
        self.body
    }

    pub(in super::super) fn body(&self) -> &RequestBody {
        &self.body
    }

    pub(in super::super) fn body_mut(&mut self) -> &mut RequestBody {
        &mut self.body
    }

    pub(in super::super) fn sent(&self) -> u64 {
        self.sent
    }

    pub(in super::super) fn is_sent(&self) -> bool {
        matches!(self.sending, Sending::Done | Sending::Tunnel)
    }

    pub(in super::super) fn leaves_body_unsent(&self) -> bool {
        self.sending == Sending::Broken
    }

    pub(in super::super) fn is_held_up(&self) -> bool {
        !self.chunk.is_empty()
    }

    pub(in super::super) fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Result<ReplyHead, ExchangeError>> {
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            return Poll::Ready(Err(ExchangeError::ClientBody(error)));
        }
        let Reply::Head(future) = &mut self.reply else {
            return Poll::Ready(Err(ExchangeError::Reply(HeadError::Malformed)));
        };
        match future.poll_informational(cx) {
            Poll::Ready(Some(Ok(interim))) => {
                let (head, ()) = head::reply(interim);
                if head.status == StatusCode::CONTINUE {
                    self.held_back = None;
                }
                // `101` means nothing here, and what follows is HTTP/2 as before.
                if head.status == StatusCode::SWITCHING_PROTOCOLS {
                    return Poll::Ready(Err(ExchangeError::Reply(HeadError::Malformed)));
                }
                return Poll::Ready(Ok(head));
            }
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(self.failed(error))),
            Poll::Ready(None) | Poll::Pending => {}
        }
        match ready!(Pin::new(future).poll(cx)) {
            Ok(reply) => Poll::Ready(Ok(self.begin_reply(reply))),
            Err(error) => Poll::Ready(Err(self.failed(error))),
        }
    }

    fn begin_reply(&mut self, reply: http::Response<RecvStream>) -> ReplyHead {
        let (mut head, receive) = head::reply(reply);
        if self.held_back.take().is_some() {
            // The backend decided without the body; the client will not send it.
            self.sending = Sending::Broken;
        }
        if let Some(accept) = self.accept.take() {
            if head.status == StatusCode::OK {
                head.status = StatusCode::SWITCHING_PROTOCOLS;
                head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                head.headers.insert(header::UPGRADE, HeaderValue::from_static(head::WEBSOCKET));
                head.headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
                head.headers.remove(header::CONTENT_LENGTH);
                self.reply = Reply::Tunnel(receive);
                return head;
            }
            self.sending = Sending::Done;
            let _ = self.send.send_data(Bytes::new(), true);
        }
        let length = head.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        self.left = length;
        self.reply = if receive.is_end_stream() { Reply::Over } else { Reply::Data(receive) };
        head
    }

    fn failed(&self, error: h2::Error) -> ExchangeError {
        // RFC 9113 §6.8 and §8.7: such a stream was not processed.
        let is_refused = error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM);
        if error.is_remote() && is_refused {
            if error.is_go_away() {
                self.place.retire();
            }
            return ExchangeError::Refused(broken(error));
        }
        ExchangeError::Broken(broken(error))
    }

    pub(in super::super) fn reply_length(&self) -> Option<u64> {
        match self.reply {
            Reply::Over => Some(0),
            _ => self.left,
        }
    }

    pub(in super::super) fn is_over(&self) -> bool {
        matches!(self.reply, Reply::Over)
    }

    pub(in super::super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(Err(_)) = self.poll_send(cx) {
            self.sending = Sending::Broken;
        }
        if let Reply::Data(receive) = &mut self.reply {
            // What was given out last is being written to the client, who wants more.
            let released = std::mem::take(&mut self.unreleased);
            if released > 0 {
                // Fails only on a stream that is over, which is seen below.
                let _ = receive.flow_control().release_capacity(released);
            }
            loop {
                match ready!(receive.poll_data(cx)) {
                    Some(Ok(data)) if data.is_empty() && !receive.is_end_stream() => {}
                    Some(Ok(data)) => {
                        self.unreleased = data.len();
                        self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                        if receive.is_end_stream() {
                            self.reply = Reply::Over;
                            if data.is_empty() {
                                return Poll::Ready(None);
                            }
                        }
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    Some(Err(error)) => return self.ended(error),
                    None => break,
                }
            }
            if let Reply::Data(receive) = std::mem::replace(&mut self.reply, Reply::Over) {
                self.reply = Reply::Trailers(receive);
            }
        }
        let Reply::Trailers(receive) = &mut self.reply else { return Poll::Ready(None) };
        match ready!(receive.poll_trailers(cx)) {
            Ok(trailers) => {
                self.reply = Reply::Over;
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(without_own(&trailers)))))
            }
            Err(error) => self.ended(error),
        }
    }

    /// A reset without an error follows a reply that is whole, of a backend that wants no more of the request.
    fn ended<T>(&mut self, error: h2::Error) -> Poll<Option<Result<T, BodyError>>> {
        let is_whole = error.is_remote() && error.is_reset() && error.reason() == Some(Reason::NO_ERROR);
        if is_whole && self.left.is_none_or(|left| left == 0) {
            self.reply = Reply::Over;
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Err(BodyError::Broken(broken(error)))))
    }

    /// Both directions of a stream that became a tunnel, and its place.
    pub(in super::super) fn into_tunnel(self) -> Option<(Duplex, Place)> {
        match self.reply {
            Reply::Tunnel(receive) => Some((Duplex::new(self.send, receive), self.place)),
            Reply::Head(_) | Reply::Data(_) | Reply::Trailers(_) | Reply::Over => None,
        }
    }

    /// Sends what can be sent. An error is the client's; a failing backend shows in [`Sending::Broken`], since its reply
    /// may be on the way.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientBodyError>> {
        while self.sending == Sending::Pieces {
            if self.chunk.is_empty() {
                if let Some(timer) = &mut self.held_back {
                    ready!(timer.as_mut().poll(cx));
                    self.held_back = None;
                }
                match ready!(self.body.poll_piece(cx))? {
                    BodyPiece::Data(data) => {
                        self.send.reserve_capacity(data.len());
                        self.chunk = data;
                    }
                    BodyPiece::End(trailers) => {
                        let trailers = trailers.as_ref().and_then(passed_on);
                        let is_taken = match trailers {
                            Some(trailers) => self.send.send_trailers(trailers).is_ok(),
                            None => self.send.send_data(Bytes::new(), true).is_ok(),
                        };
                        self.sending = if is_taken { Sending::Done } else { Sending::Broken };
                    }
                }
                continue;
            }
            let mut room = self.send.capacity();
            if room == 0 {
                match ready!(self.send.poll_capacity(cx)) {
                    Some(Ok(more)) => room = more,
                    Some(Err(_)) | None => {
                        self.sending = Sending::Broken;
                        break;
                    }
                }
            }
            let piece = self.chunk.split_to(room.min(self.chunk.len()));
            if piece.is_empty() {
                continue;
            }
            self.sent += piece.len() as u64;
            if self.send.send_data(piece, false).is_err() {
                self.sending = Sending::Broken;
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The trailers that are passed on; `None` when there are none.
fn passed_on(trailers: &HeaderMap) -> Option<HeaderMap> {
    let kept = trailers.iter().filter(|(name, _)| is_trailer(name));
    let kept: HeaderMap = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
    (!kept.is_empty()).then_some(kept)
}

/// Whether a method means a request of its own on a stream: `CONNECT` does not.
pub(in super::super) fn can_be_sent(method: &Method) -> bool {
    *method != Method::CONNECT
}
