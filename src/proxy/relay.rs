//! A backend's reply on its way to the client: piece by piece, never buffered, and broken when it broke.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::Proxy;
use super::client_connection::Conversation;
use super::forward::{BodyError, Exchange};
use super::journal::Journal;
use super::view::Slot;

/// How long a client may take for a page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// The body of any reply.
pub(super) enum ReplyBody {
    /// One of our own pages, and the record of its request.
    Page(Page),
    /// A backend's.
    Relay(Relay),
}

/// One of our own pages, on its way.
pub(super) struct Page {
    text: Option<Bytes>,
    /// `None` when it goes on after the page.
    journal: Option<Journal>,
    client: Rc<Conversation>,
}

impl Page {
    /// Begins to send it.
    pub(super) fn new(text: Bytes, journal: Journal, client: &Rc<Conversation>) -> Self {
        client.begin_reply(PAGE_TIMEOUT, None);
        Self { text: Some(text), journal: Some(journal), client: Rc::clone(client) }
    }

    /// Begins to send nothing: what comes after the head is no part of the reply.
    pub(super) fn empty(client: &Rc<Conversation>) -> Self {
        client.begin_reply(PAGE_TIMEOUT, None);
        Self { text: Some(Bytes::new()), journal: None, client: Rc::clone(client) }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // Not where the text is taken: for `HEAD` it never is.
        self.client.end_reply();
    }
}

/// A reply that is being passed on.
///
/// Everything the request holds ends with its last byte: the slot at the backend, the connection, the record.
pub(super) struct Relay {
    proxy: Rc<Proxy>,
    client: Rc<Conversation>,
    /// `None` once the last byte was passed on.
    under_way: Option<UnderWay>,
}

struct UnderWay {
    exchange: Box<Exchange>,
    slot: Slot,
    journal: Journal,
    /// Bytes of the request's body that had come when the reply was last looked at.
    received: u64,
}

impl Relay {
    /// Begins to pass on the reply whose head was just received; `idle` and `end` as in [`Conversation::begin_reply`].
    pub(super) fn new(
        proxy: &Rc<Proxy>,
        client: &Rc<Conversation>,
        (idle, end): (Duration, Option<Instant>),
        exchange: Box<Exchange>,
        slot: Slot,
        journal: Journal,
    ) -> Self {
        client.begin_reply(idle, end);
        Self {
            proxy: Rc::clone(proxy),
            client: Rc::clone(client),
            under_way: Some(UnderWay { received: exchange.received(), exchange, slot, journal }),
        }
    }

    /// Ends the request, if the reply has been read to its end.
    fn end_if_over(&mut self) {
        if self.under_way.as_ref().is_some_and(|under_way| under_way.exchange.is_over()) {
            self.end();
        }
    }

    fn end(&mut self) {
        let Some(UnderWay { exchange, slot, mut journal, .. }) = self.under_way.take() else { return };
        journal.bytes_in = exchange.received();
        self.client.end_reply();
        self.proxy.client.put_back(slot.member(), exchange);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(under_way) = &mut self.under_way else { return Poll::Ready(None) };
        let polled = under_way.exchange.poll_body(cx);
        let received = under_way.exchange.received();
        if std::mem::replace(&mut under_way.received, received) != received {
            // The backend may be listening still, and has nothing to say meanwhile.
            self.client.reply_moved();
        }
        let frame = ready!(polled);
        match &frame {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                under_way.journal.bytes_out += length as u64;
                self.client.reply_moved();
                self.end_if_over();
            }
            Some(Err(error)) => {
                let backend = under_way.slot.member().backend.id();
                tracing::debug!(%backend, ?error, "the reply broke off");
                self.client.break_off();
            }
            None => self.end_if_over(),
        }
        Poll::Ready(frame)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // A reply without a body is never polled.
        self.end_if_over();
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Page(page) => {
                let text = page.text.take();
                if let Some(journal) = &mut page.journal {
                    journal.bytes_out = text.as_ref().map_or(0, |text| text.len() as u64);
                }
                Poll::Ready(text.map(|text| Ok(Frame::data(text))))
            }
            Self::Relay(relay) => relay.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Page(page) => page.text.is_none(),
            Self::Relay(relay) => relay.under_way.as_ref().is_none_or(|under_way| under_way.exchange.is_over()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Page(page) => SizeHint::with_exact(page.text.as_ref().map_or(0, |text| text.len() as u64)),
            Self::Relay(relay) => {
                match relay.under_way.as_ref().map_or(Some(0), |under_way| under_way.exchange.reply_length()) {
                    Some(length) => SizeHint::with_exact(length),
                    None => SizeHint::default(),
                }
            }
        }
    }
}
