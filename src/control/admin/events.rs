//! `GET /api/v1/events`: what happens, as it happens, as server-sent events.
//!
//! One small task a listener turns events into text; it is as fast as the client reads, and a client that reads too
//! slowly is told what it missed. Source of the format: WHATWG HTML, "Server-sent events".

use std::convert::Infallible;
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::Frame;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, MissedTickBehavior};

use super::error::ApiError;
use super::{Context, view};
use crate::telemetry::events::{Entry, Event, Heard, Listener};

/// The media type of the stream.
pub(super) const CONTENT_TYPE: &str = "text/event-stream";

/// Clients that may listen at once.
pub(super) const LISTENERS: usize = 64;

/// How often a silent stream says that it is still there.
const HEARTBEAT: Duration = Duration::from_secs(15);

pub(super) async fn events(State(context): State<Arc<Context>>) -> Result<Response, ApiError> {
    let Ok(permit) = Arc::clone(&context.listeners).try_acquire_owned() else {
        let message = format!("{LISTENERS} clients listen already, which is as many as there may be");
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message));
    };
    // One piece at a time: what a slow client has not read yet waits where it can be counted.
    let (pieces, received) = mpsc::channel(1);
    tokio::spawn(write(context.shared.events.listen(), pieces));
    let body = Body::new(Stream { received, _permit: permit });
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], body).into_response())
}

/// Writes pieces until the client is gone.
async fn write(mut listener: Listener, pieces: mpsc::Sender<Bytes>) {
    let mut heartbeat = tokio::time::interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // At once, so that a client knows that it listens now.
    let mut piece = ": listening\n\n".to_owned();
    loop {
        if pieces.send(piece.into()).await.is_err() {
            return;
        }
        piece = tokio::select! {
            heard = listener.next() => match heard {
                Some(Heard::Event(entry)) => written(&entry),
                Some(Heard::Missed(missed)) => format!("event: lagged\ndata: {}\n\n", json!({ "missed": missed })),
                None => return,
            },
            _ = heartbeat.tick() => ": still here\n\n".to_owned(),
            () = pieces.closed() => return,
        };
    }
}

fn written(entry: &Entry) -> String {
    let mut data = fields(&entry.event);
    data["time"] = view::date(entry.at).into();
    let mut text = String::new();
    // JSON on one line; writing to a `String` cannot fail.
    let _ = write!(text, "id: {}\nevent: {}\ndata: {data}\n\n", entry.id, entry.event.name());
    text
}

fn fields(event: &Event) -> Value {
    match event {
        Event::Health { pool, backend, from, to, cause } => {
            json!({ "pool": **pool, "backend": **backend, "from": from, "to": to, "cause": cause })
        }
        Event::AdminState { pool, backend, from, to } => {
            json!({ "pool": **pool, "backend": **backend, "from": from, "to": to })
        }
        Event::Drained { pool, backend } => json!({ "pool": **pool, "backend": **backend }),
        Event::Panic { pool, panicking } => json!({ "pool": **pool, "panicking": panicking }),
        Event::Fullness { pool, bound, is_full } => json!({ "pool": **pool, "bound": bound, "full": is_full }),
        Event::Discovery { pool, source, error } => json!({ "pool": **pool, "source": source, "error": error }),
        Event::Backends { pool, source, added, removed, added_count, removed_count } => {
            let names = |list: &[Arc<str>]| list.iter().map(|name| name.as_ref().to_owned()).collect::<Vec<_>>();
            json!({
                "pool": **pool, "source": source, "added": names(added), "removed": names(removed),
                "added_count": added_count, "removed_count": removed_count,
            })
        }
        Event::Reload(Ok(generation)) => json!({ "result": "ok", "generation": generation }),
        Event::Reload(Err(error)) => json!({ "result": "failed", "error": error }),
    }
}

/// The body of the reply. Its end frees the place of its listener.
struct Stream {
    received: mpsc::Receiver<Bytes>,
    _permit: OwnedSemaphorePermit,
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.received.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn each_kind_has_its_own_fields() {
        let (pool, backend): (Arc<str>, Arc<str>) = ("shop".into(), "app1".into());
        let of = |event| {
            let entry = Entry { id: 7, at: UNIX_EPOCH + Duration::from_millis(1_700_000_000_250), event };
            written(&entry)
        };
        let text = of(Event::Health { pool, backend, from: "healthy", to: "suspect", cause: Some("refused") });
        let expected = "id: 7\nevent: health\ndata: {\"backend\":\"app1\",\"cause\":\"refused\",\"from\":\"healthy\",\
                        \"pool\":\"shop\",\"time\":\"2023-11-14T22:13:20.25Z\",\"to\":\"suspect\"}\n\n";
        assert_eq!(text, expected);
        let text = of(Event::Reload(Err("two\nlines".to_owned())));
        assert!(text.contains(r#""error":"two\nlines""#) && text.lines().count() == 4, "{text}");
        let text = of(Event::Fullness { pool: "shop".into(), bound: "max_pins", is_full: true });
        assert!(text.contains(r#"data: {"bound":"max_pins","full":true,"pool":"shop""#), "{text}");
        assert!(of(Event::Reload(Ok(3))).contains(r#""generation":3"#));
    }
}
