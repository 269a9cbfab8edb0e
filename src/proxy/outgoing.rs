//! What goes out beside the request itself: the lines that tell a backend of a client's pin, the protocol that a client
//! wants to switch to, and the interim replies that a client is passed.

use std::io::Write as _;

use http::request::Parts;
use http::{HeaderValue, StatusCode, Version, header};
use tokio::time::Instant;

use super::attempts::Request;
use super::client_connection::Conversation;
use super::forward::ReplyHead;
use super::respond::headers;
use super::visit::{Destination, Visit};
use super::websocket;
use crate::config::Sessions;

/// What a backend is told: a new home about the client that was moved to it, and where sessions have one copy, who is to
/// have it.
pub(super) fn own_lines(request: &Request<'_>, visit: &Visit, destination: &Destination, now: Instant) -> Vec<u8> {
    let mut lines = Vec::new();
    let pool = request.view.pool(request.pool);
    if pool.settings.sessions == Sessions::Backup
        && let Some(heir) = visit.told_heir(pool, destination, now)
    {
        let _ = write!(lines, "stickpin-heir: {}\r\n", pool.members[heir].backend.id().name);
    }
    if let Some(moved) = destination.moved {
        let members = &request.view.pool(request.pool).members;
        let from = moved.from.map_or("removed", |from| &*members[from].backend.id().name);
        let reason = moved.reason.as_str();
        // Writing to a `Vec` cannot fail.
        let _ = write!(lines, "stickpin-rehomed-from: {from}\r\nstickpin-rehome-reason: {reason}\r\n");
    }
    if let Some(reason) = destination.session_lost {
        let _ = write!(lines, "stickpin-session-lost: {}\r\n", reason.as_str());
    }
    lines
}

/// The protocol a client wants to switch to. Not `h2c`, not even in a list: that is a matter of each hop, and what would
/// follow could not be looked at. A stream of HTTP/2 has told it otherwise, and come with the line alone.
pub(super) fn wanted_upgrade(parts: &Parts) -> Option<&HeaderValue> {
    let has_option = |value: &HeaderValue, wanted: &[u8]| {
        value.as_bytes().split(|byte| *byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(wanted))
    };
    let protocol = parts.headers.get(header::UPGRADE)?;
    if parts.version == Version::HTTP_2 {
        return Some(protocol);
    }
    let names_it = parts.headers.get_all(header::CONNECTION).iter().any(|value| has_option(value, b"upgrade"));
    (names_it && !has_option(protocol, b"h2c") && parts.version == Version::HTTP_11).then_some(protocol)
}

/// Whether a `101` is what the client asked for. In HTTP/2 the client has no key to check the answer by, so it is done here.
pub(super) fn may_switch(parts: &Parts, reply: &ReplyHead) -> bool {
    wanted_upgrade(parts).is_some()
        && (parts.version != Version::HTTP_2 || websocket::is_answer(&parts.headers, &reply.headers))
}

/// Passes a 1xx reply on. `100` is not among them: it is sent when the body is first asked for.
pub(super) fn pass_interim(client: &Conversation, version: Version, head: &ReplyHead) {
    if !matches!(version, Version::HTTP_11 | Version::HTTP_2) || head.status == StatusCode::CONTINUE {
        return;
    }
    let mut headers = head.headers.clone();
    headers::strip(&mut headers, false);
    client.send_interim(head.status, headers);
}
