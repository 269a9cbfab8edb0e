//! What goes on for a while: a drain that is waited for, and events.

use std::io::Write;
use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::Value;
use tokio::time::Instant;

use super::client::Client;
use super::{CtlError, Output, Target, text};
use crate::config::Pace;
use crate::pool::drain::time_for;

/// How often a drain is asked after.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// What a count may be behind, when a drain ought to be over.
const GRACE: Duration = Duration::from_secs(5);

/// The endpoint says every fifteen seconds that it is still there.
const SILENCE: Duration = Duration::from_secs(60);

/// The longest event that is read.
const LONGEST: usize = 4 * 1024 * 1024;

/// Follows a drain until nobody is left, a line a change.
pub(super) async fn drain<W: Write>(
    client: &Client<'_>,
    target: &Target,
    deadline: Option<Duration>,
    out: &mut Output<'_, W>,
) -> Result<(), CtlError> {
    let ordered = Instant::now();
    let mut shown = None;
    loop {
        let view = client.get(&target.path()).await?;
        let (state, drain) = (&view["admin_state"], &view["drain"]);
        if state != "draining" {
            let state = state.as_str().unwrap_or("something else");
            return Err(CtlError::NotDrained(format!("somebody else ordered it to be {state}")));
        }
        let progress = (drain["pins_left"].clone(), drain["drained"].clone());
        if shown.as_ref() != Some(&progress) {
            out.show(&view, |view| text::drain(&view["drain"]))?;
            shown = Some(progress);
        }
        if drain["drained"] == true {
            return Ok(());
        }
        // At the deadline they begin to leave, at the drain's pace.
        let pace = drain["pace"].as_str().and_then(|pace| pace.parse().ok()).unwrap_or(Pace::DRAIN);
        if deadline.is_some_and(|deadline| ordered.elapsed() > deadline + time_for(1.0, pace.per_second()) + GRACE) {
            let left = text::drain(drain);
            return Err(CtlError::NotDrained(format!(
                "the deadline has passed: {left}; those have not come since, and move with their next request"
            )));
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Shows events until the endpoint ends, a line each.
pub(super) async fn events<W: Write>(client: &Client<'_>, out: &mut Output<'_, W>) -> Result<(), CtlError> {
    let mut stream = client.stream("/api/v1/events").await?;
    let listening = || "listening to events".to_owned();
    let mut read = Vec::new();
    while let Some(frame) = client.within(SILENCE, stream.frame()).await? {
        let frame = frame.map_err(CtlError::failed(listening))?;
        read.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        if read.len() > LONGEST {
            return Err(CtlError::failed(listening)("an event without an end"));
        }
        while let Some(end) = memchr::memmem::find(&read, b"\n\n") {
            let block: Vec<u8> = read.drain(..end + 2).collect();
            if let Some((name, data)) = event(&String::from_utf8_lossy(&block)) {
                out.show(&named(&name, data.clone()), |_| text::event(&name, &data))?;
            }
        }
    }
    Err(CtlError::failed(listening)("the endpoint ended the stream"))
}

/// One event: its name and data. `None` for a comment, and for what is not understood.
fn event(block: &str) -> Option<(String, Value)> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    Some((field("event")?.to_owned(), serde_json::from_str(field("data")?).ok()?))
}

/// The data with the event's name among it.
fn named(name: &str, mut data: Value) -> Value {
    if let Some(fields) = data.as_object_mut() {
        fields.insert("event".to_owned(), name.into());
    }
    data
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_has_a_name_and_data_and_a_comment_has_not() {
        let block = "id: 7\nevent: drained\ndata: {\"pool\":\"shop\"}\n\n";
        assert_eq!(event(block), Some(("drained".to_owned(), json!({ "pool": "shop" }))));
        for block in [": still here\n\n", "\n\n", "event: x\n\n", "event: x\ndata: {\n\n"] {
            assert_eq!(event(block), None, "{block:?}");
        }
        assert_eq!(named("drained", json!({ "a": 1 })), json!({ "a": 1, "event": "drained" }));
    }
}
