//! One client connection of HTTP/2: its streams, its deadlines and limits, and its end.
//!
//! Each stream is a task of its own, bounded by `max_streams`. Replies are handed to h2, and leave with whatever else is
//! ready at the end of the connection's turn.

pub mod flood;

mod stream;

mod tunnel;

mod websocket;

mod wire;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection};
use h2::{Reason, RecvStream};
use http::{Request, Response};
use hyper::body::Body;
use tokio::task::JoinSet;

use super::connection::{LINGER, Shared, reset};
use crate::config;
use crate::proxy::client_body::ClientBody;
use crate::proxy::client_connection::{ClientConnection, Conversation};
use crate::proxy::deadline::{Deadline, Deadlines};
use crate::proxy::stream::ClientStream;
use flood::{Flood, Http2Counts};
use wire::Wire;

/// Bytes of a body that count as one piece; see [`flood::Budget::earn`].
const PIECE: usize = 1024;

/// How much of a reply waits in h2 for the connection's turn.
const SEND_BUFFER: usize = 128 * 1024;

/// Streams that may end in an error over the life of a connection, beside as many as may be open: who opens too many
/// before it has read our settings does no wrong.
const ERRORS: usize = 256;

/// Streams that were reset before they were looked at. All that one read brings are looked at at once.
const RESET_UNSEEN: usize = 64;

/// For how long the last frames of a stream that we reset are ignored. They come when its client has not yet heard of it:
/// each counts as an error later, and uploads that a backend refuses early are none.
const RESET_REMEMBERED: Duration = Duration::from_secs(3);

/// How long the last bytes of a connection may take, whoever it is may be gone.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A connection that is of HTTP/2.
#[derive(Debug)]
pub struct Http2 {
    /// What carries it.
    pub io: ClientStream,
    /// Read from it already.
    pub early: Vec<u8>,
    /// Who it is.
    pub client: Rc<ClientConnection>,
    /// What it shares with the others of the worker.
    pub shared: Rc<Shared>,
    /// For deadlines.
    pub clock: Rc<Deadlines>,
}

/// Why a connection's turns are over.
enum End {
    /// It was closed, by whoever.
    Closed,
    Failed(h2::Error),
    /// The client does not take what is written.
    Stuck,
    /// Nobody answers the last words.
    Late,
}

impl Http2 {
    /// Serves streams until the connection ends, the worker is closing, or a deadline passes.
    pub async fn serve<H, F, B>(
        self,
        listener: &config::Listener,
        settings: config::Http2,
        counts: &Http2Counts,
        handle: H,
    ) where
        H: Fn(Rc<Conversation>, Request<ClientBody>) -> F + Clone + 'static,
        F: Future<Output = Response<B>> + 'static,
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: std::fmt::Debug,
    {
        let Self { io, early, client, shared, clock } = self;
        let _open = counts.enter();
        let wire = Wire::new(io, early, &clock, listener.header_timeout);
        let deadline = clock.place();
        deadline.set(listener.header_timeout);
        let begun = {
            let mut handshake = pin!(builder(settings, listener.head_limit).handshake::<_, Bytes>(wire.clone()));
            let mut lingers = false;
            poll_fn(|cx| {
                // A stop does not wait for the preface of somebody who has nothing to ask.
                if shared.closing.get() && !std::mem::replace(&mut lingers, true) {
                    deadline.set(LINGER.min(listener.header_timeout));
                }
                let begun = handshake.as_mut().poll(cx);
                // What was written waits for this.
                let _ = wire.poll_drain(cx);
                match begun {
                    Poll::Ready(begun) => Poll::Ready(begun.ok()),
                    Poll::Pending => deadline.poll(cx).map(|()| None),
                }
            })
            .await
        };
        let Some(connection) = begun else { return };
        let mut turns = Turns {
            connection,
            streams: JoinSet::new(),
            wire,
            deadline,
            state: State::Unused,
            first: listener.header_timeout,
            keep_alive: listener.keep_alive_timeout,
            is_closing: false,
            is_calmed: false,
        };
        let end = poll_fn(|cx| {
            let begin = |request, respond| {
                let conversation = Conversation::on_stream(Rc::clone(&client), clock.place(), respond);
                (Rc::new(conversation), request)
            };
            turns.poll(cx, &shared, begin, &handle)
        })
        .await;
        // What was seen here says more than what h2 made of it, which may have been faster.
        let seen = turns.wire.flood();
        let is_told = matches!(&end, End::Failed(error)
            if error.is_library() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM));
        if let Some(flood) = seen.or(is_told.then_some(Flood::Streams)) {
            tracing::debug!(peer = %client.peer, kind = flood.as_str(), "client connection closed: too many frames");
            counts.note(flood);
        }
        match end {
            End::Closed | End::Late => {}
            End::Failed(error) => tracing::debug!(peer = %client.peer, %error, "client connection failed"),
            End::Stuck => turns.wire.with_io(reset),
        }
    }
}

fn builder(settings: config::Http2, head_limit: usize) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(settings.max_streams)
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_header_list_size(u32::try_from(head_limit).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        // All that may be open, twice over: others follow while the first are still on their way.
        .max_concurrent_reset_streams(2 * settings.max_streams as usize)
        .reset_stream_duration(RESET_REMEMBERED)
        .max_pending_accept_reset_streams(RESET_UNSEEN)
        .max_local_error_reset_streams(Some(ERRORS + settings.max_streams as usize))
        // Small messages that a slow backend has not taken are as ordinary as large ones.
        .data_frame_budget(4 * settings.connection_window as usize)
        .enable_connect_protocol();
    builder
}

/// What a connection is doing, which decides what its deadline means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Waiting for its first request.
    Unused,
    /// Waiting for another one.
    Idle,
    /// Streams are open, and each minds its own deadline.
    Busy,
    /// The client has not taken what is written, of which it has this much.
    Stuck(u64),
    /// The last words are being said.
    Ending,
}

struct Turns {
    connection: Connection<Wire, Bytes>,
    streams: JoinSet<()>,
    wire: Wire,
    deadline: Deadline,
    state: State,
    /// How long the first request may be on its way.
    first: Duration,
    keep_alive: Duration,
    is_closing: bool,
    /// The client was told to be calm.
    is_calmed: bool,
}

impl Turns {
    fn poll<H, F, B>(
        &mut self,
        cx: &mut Context<'_>,
        shared: &Shared,
        begin: impl Fn(Request<RecvStream>, h2::server::SendResponse<Bytes>) -> (Rc<Conversation>, Request<RecvStream>),
        handle: &H,
    ) -> Poll<End>
    where
        H: Fn(Rc<Conversation>, Request<ClientBody>) -> F + Clone + 'static,
        F: Future<Output = Response<B>> + 'static,
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: std::fmt::Debug,
    {
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    let (conversation, request) = begin(request, respond);
                    let (wire, handle) = (self.wire.clone(), handle.clone());
                    // Boxed: a task is moved about until it is spawned, and this one is large.
                    self.streams.spawn_local(Box::pin(stream::serve(conversation, request, wire, handle)));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(End::Failed(error)),
                Poll::Ready(None) => return Poll::Ready(End::Closed),
                Poll::Pending => break,
            }
        }
        while let Poll::Ready(Some(_)) = self.streams.poll_join_next(cx) {}
        // An error shows in h2's next turn, too.
        let _ = self.wire.poll_drain(cx);
        if !self.is_calmed && self.wire.flood().is_some() {
            self.is_calmed = true;
            self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            self.end(cx);
        }
        if shared.closing.get() && !self.is_closing {
            self.is_closing = true;
            self.keep_alive = LINGER.min(self.keep_alive);
            self.connection.graceful_shutdown();
            cx.waker().wake_by_ref();
            if self.state == State::Idle {
                self.deadline.set(self.keep_alive);
            }
        }
        self.note_state();
        match self.deadline.poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => match self.state {
                State::Stuck(_) => Poll::Ready(End::Stuck),
                State::Ending | State::Busy => Poll::Ready(End::Late),
                State::Unused | State::Idle => {
                    // No request is lost by that: whatever it opens now is not looked at, and it is told so.
                    self.connection.abrupt_shutdown(Reason::NO_ERROR);
                    self.end(cx);
                    Poll::Pending
                }
            },
        }
    }

    /// Whatever is left to say, is said within a moment.
    fn end(&mut self, cx: &Context<'_>) {
        self.state = State::Ending;
        self.deadline.set(LAST_WORDS);
        let _ = self.deadline.poll(cx);
        cx.waker().wake_by_ref();
    }

    fn note_state(&mut self) {
        let state = match (self.state, self.wire.stuck_at()) {
            (State::Ending, _) => State::Ending,
            (_, Some(total)) => State::Stuck(total),
            (State::Unused, None) if self.streams.is_empty() && !self.is_closing => State::Unused,
            (_, None) if self.streams.is_empty() => State::Idle,
            (_, None) => State::Busy,
        };
        if state == self.state {
            return;
        }
        self.state = state;
        match state {
            State::Idle => {
                self.wire.rest();
                self.deadline.set(self.keep_alive);
            }
            State::Stuck(_) => self.deadline.set(self.wire.patience()),
            State::Unused => self.deadline.set(self.first),
            State::Busy => self.deadline.clear(),
            State::Ending => {}
        }
    }
}
