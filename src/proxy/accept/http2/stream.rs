//! One stream: a request, and its reply or the tunnel that it becomes.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Body;

use super::PIECE;
use super::tunnel::Acknowledged;
use super::websocket;
use super::wire::Wire;
use crate::proxy::accept::connection::run_tunnel;
use crate::proxy::client_body::{ClientBody, StreamBody};
use crate::proxy::client_connection::{Conversation, Phase};
use crate::proxy::duplex::Duplex;

/// How long a client may go on with a body after the reply to it is over.
const UNHEARD: Duration = Duration::from_secs(5);

/// Lines that have no place in HTTP/2 (RFC 9113 §8.2.2).
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Answers the request of one stream.
pub(super) async fn serve<H, F, B>(conversation: Rc<Conversation>, request: Request<RecvStream>, wire: Wire, handle: H)
where
    H: Fn(Rc<Conversation>, Request<ClientBody>) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Debug,
{
    let (mut parts, stream) = request.into_parts();
    join_cookies(&mut parts);
    let is_head = parts.method == Method::HEAD;
    let (body, for_tunnel) = if websocket::begin(&mut parts) {
        (ClientBody::Empty, Some(stream))
    } else if stream.is_end_stream() {
        (ClientBody::Empty, None)
    } else {
        (ClientBody::Http2(Box::new(StreamBody::new(stream, &parts.headers, &conversation))), None)
    };
    let Some(respond) = conversation.respond() else { return };
    let reply = {
        let mut reply = pin!(handle(Rc::clone(&conversation), Request::from_parts(parts, body)));
        poll_fn(|cx| match reply.as_mut().poll(cx) {
            Poll::Ready(reply) => Poll::Ready(Some(reply)),
            // A client that goes away takes its request along.
            Poll::Pending => respond.borrow_mut().poll_reset(cx).map(|_| None),
        })
        .await
    };
    let Some(reply) = reply else { return };
    wire.began(conversation.reply_idle());
    let (mut head, body) = reply.into_parts();
    if let Some((tunnel, stream)) = conversation.take_tunnel().zip(for_tunnel) {
        drop(body);
        head.status = StatusCode::OK;
        head.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
        tidy(&mut head.headers);
        let Ok(send) = respond.borrow_mut().send_response(Response::from_parts(head, ()), false) else { return };
        let io = Acknowledged::new(Duplex::new(send, stream), wire);
        Box::pin(run_tunnel(io, Bytes::new(), &conversation, tunnel)).await;
        return;
    }
    tidy(&mut head.headers);
    let has_no_body = is_head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let length = body.size_hint().exact().filter(|length| *length > 0);
    if let Some(length) = length
        && !head.headers.contains_key(header::CONTENT_LENGTH)
        && !matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    {
        head.headers.insert(header::CONTENT_LENGTH, length.into());
    }
    let ends = has_no_body || body.is_end_stream();
    let sent = respond.borrow_mut().send_response(Response::from_parts(head, ()), ends);
    let mut stream = match sent {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(peer = %conversation.peer, %error, "a reply could not be sent");
            respond.borrow_mut().send_reset(Reason::INTERNAL_ERROR);
            return;
        }
    };
    if ends {
        drop(body);
    } else if Sending::new(&mut stream, body, &conversation, &wire).await.is_err() {
        return;
    }
    wire.earn(1);
    wire.answered();
    if let Some(rest) = conversation.take_unheard() {
        Box::pin(hear_out(rest, &conversation)).await;
    }
}

/// The reply is over, and the client still sends a body that nobody wants. It may, for a while: a reset at once would be in
/// order (RFC 9113 §8.1), but there are clients that forget the reply over it.
async fn hear_out(mut rest: RecvStream, conversation: &Conversation) {
    conversation.deadline.set(UNHEARD);
    poll_fn(|cx| {
        while let Poll::Ready(data) = rest.poll_data(cx) {
            let Some(Ok(data)) = data else { return Poll::Ready(()) };
            // Fails only on a stream that is over, which the next turn tells.
            let _ = rest.flow_control().release_capacity(data.len());
        }
        conversation.deadline.poll(cx)
    })
    .await;
}

/// A cookie may come in crumbs, which are one line to everybody else (RFC 9113 §8.2.3).
fn join_cookies(parts: &mut Parts) {
    let mut crumbs = parts.headers.get_all(header::COOKIE).iter();
    if crumbs.next().is_none() || crumbs.next().is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = parts.headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    // What was joined from values is one.
    if let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        parts.headers.insert(header::COOKIE, whole);
    }
}

fn tidy(lines: &mut HeaderMap) {
    for name in HOP_BY_HOP {
        lines.remove(name);
    }
}

/// The reply did not reach the client as a whole.
struct Broken;

/// A reply's body on its way to the client. A stream whose client does not open its window holds no piece of the body,
/// and the backend is not read.
struct Sending<'a, B> {
    stream: &'a mut SendStream<Bytes>,
    body: B,
    conversation: &'a Conversation,
    wire: &'a Wire,
    /// A piece that waits for room.
    piece: Bytes,
    /// `piece` is the last one.
    is_last: bool,
    /// The first piece was asked for.
    has_begun: bool,
}

impl<'a, B: Body<Data = Bytes> + Unpin> Sending<'a, B> {
    fn new(stream: &'a mut SendStream<Bytes>, body: B, conversation: &'a Conversation, wire: &'a Wire) -> Self {
        Self { stream, body, conversation, wire, piece: Bytes::new(), is_last: false, has_begun: false }
    }

    /// Sends what can be sent.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>
    where
        B::Error: std::fmt::Debug,
    {
        loop {
            if !self.piece.is_empty() {
                let room = ready!(self.poll_room(cx, self.piece.len()))?;
                let piece = self.piece.split_to(room.min(self.piece.len()));
                self.wire.earn(1 + u32::try_from(piece.len() / PIECE).unwrap_or(u32::MAX));
                let ends = self.is_last && self.piece.is_empty();
                self.stream.send_data(piece, ends).map_err(|_| Broken)?;
                if ends {
                    return Poll::Ready(Ok(()));
                }
                self.conversation.reply_moved();
                continue;
            }
            // What came with the head is sent with it.
            if std::mem::replace(&mut self.has_begun, true) {
                // One byte is enough: room that a stream has and does not use, the others lack.
                ready!(self.poll_room(cx, 1))?;
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.is_last = self.body.is_end_stream();
                        if data.is_empty() && self.is_last {
                            return Poll::Ready(self.stream.send_data(data, true).map_err(|_| Broken));
                        }
                        self.piece = data;
                    }
                    Err(frame) => {
                        if let Ok(mut trailers) = frame.into_trailers() {
                            tidy(&mut trailers);
                            return Poll::Ready(self.stream.send_trailers(trailers).map_err(|_| Broken));
                        }
                    }
                },
                None => return Poll::Ready(self.stream.send_data(Bytes::new(), true).map_err(|_| Broken)),
                Some(Err(_)) => {
                    self.stream.send_reset(Reason::INTERNAL_ERROR);
                    return Poll::Ready(Err(Broken));
                }
            }
        }
    }

    /// Waits until the client takes something, at best so much.
    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<Result<usize, Broken>> {
        self.stream.reserve_capacity(wanted);
        loop {
            match self.stream.capacity() {
                0 => match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Poll::Ready(Err(Broken)),
                },
                room => return Poll::Ready(Ok(room)),
            }
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Future for Sending<'_, B>
where
    B::Error: std::fmt::Debug,
{
    type Output = Result<(), Broken>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Poll::Ready(sent) = this.poll_send(cx) {
            return Poll::Ready(sent);
        }
        if this.stream.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(Broken));
        }
        // Even when the backend has sent all of it, the client may take its time for the rest.
        let is_late = this.conversation.phase() != Phase::Request && this.conversation.deadline.poll(cx).is_ready();
        if is_late {
            this.stream.send_reset(Reason::CANCEL);
            return Poll::Ready(Err(Broken));
        }
        Poll::Pending
    }
}
