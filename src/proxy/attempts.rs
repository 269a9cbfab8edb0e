//! Attempt after attempt until a backend replies: where each goes, and when there may be another.
//!
//! A retry is a detour, never a rehome: only what is known of the home moves a pin. When nothing was sent, any method may
//! be tried elsewhere; when the connection broke before the first byte of the reply, idempotent methods; else none.

use std::io::Write as _;
use std::net::IpAddr;
use std::rc::Rc;

use http::request::Parts;
use http::{HeaderValue, StatusCode, Version, header};
use tokio::time::Instant;

use super::balance::Tried;
use super::client_connection::ClientConnection;
use super::error::ProxyError;
use super::forward::{
    AttemptError, Begun, Exchange, HeadError, Outgoing, ReplyHead, RequestBody, RequestHead, expects_continue,
    is_idempotent,
};
use super::passage::Passage;
use super::respond::headers;
use super::snapshot::Pool;
use super::view::{Slot, View};
use super::visit::{Destination, Moved, Next, Visit, pin_owner};
use super::wait::Wait;
use super::{Journal, Proxy, Target};
use crate::config::{OnSessionLost, Sessions};
use crate::pool::Member;
use crate::telemetry::words::{Placement, RetryReason};

/// One request, as all its attempts see it.
pub(super) struct Request<'a> {
    pub(super) view: &'a Rc<View>,
    pub(super) client: &'a Rc<ClientConnection>,
    pub(super) parts: &'a Parts,
    pub(super) target: Target<'a>,
    /// Index of the pool.
    pub(super) pool: usize,
}

impl Request<'_> {
    /// The client's address, as far as it can be believed.
    pub(super) fn client_address(&self) -> IpAddr {
        self.client.origin.client(&self.parts.headers)
    }
}

/// A reply, and what it takes to pass it on.
pub(super) struct Served {
    pub(super) head: ReplyHead,
    pub(super) exchange: Box<Exchange>,
    pub(super) slot: Slot,
    /// Where it was served.
    pub(super) destination: Destination,
}

impl Proxy {
    /// Tries backends until one replies; `None` when nobody is asked, because the client is told that its session is lost and
    /// leaves with the pin that says where it begins anew.
    pub(super) async fn attempt(
        &self,
        request: &Request<'_>,
        visit: &mut Visit,
        mut body: RequestBody,
        journal: &mut Journal,
    ) -> Result<Option<Served>, ProxyError> {
        let pool = request.view.pool(request.pool);
        let local = request.view.local(request.pool);
        let retry = pool.settings.retry;
        local.earn_retry();
        journal.pin = visit.pin_id();
        let mut tried = Tried::default();
        let mut wait = Wait::new(pool.settings.rehome.wait);
        let mut failed = None;
        let mut retries = 0;
        let mut passage = Passage::new(pool);
        let mut is_agreed = false;
        loop {
            let next = {
                let (mut balancer, mut rng) = (local.balancer.borrow_mut(), self.rng.borrow_mut());
                let is_first = tried.is_empty() && !wait.has_begun();
                let now = if is_first { journal.started() } else { Instant::now() };
                visit.next(pool, &mut balancer, &tried, wait.is_over(), &mut rng, now)
            };
            let destination = match next {
                Next::Go(destination) => destination,
                Next::Wait { home } => {
                    wait.step(&pool.members[home].backend).await;
                    // After a wait the home may be tried again, however often it has failed before.
                    tried.remove(home);
                    continue;
                }
                Next::Refuse => {
                    journal.placement = Some(Placement::Refused);
                    return Err(ProxyError::Refused);
                }
                Next::Nobody => {
                    if pool.members.iter().any(Member::is_full) {
                        journal.placement = Some(Placement::Refused);
                    }
                    return Err(failed.map_or(ProxyError::NoBackend, ProxyError::Attempt));
                }
            };
            journal.placement = Some(destination.placement);
            // The client is told once; its other requests go on to where it begins anew.
            if destination.session_lost.is_some()
                && pool.settings.rehome.on_session_lost != OnSessionLost::Forward
                && self.is_first_loss(request, visit)
            {
                self.note_placed(request, &destination, visit, true);
                return Ok(None);
            }
            if passage.is_due(&destination) && passage.pass(request, visit, &destination).await {
                // Whoever takes over may have changed meanwhile.
                continue;
            }
            if destination.moved.is_some() && !is_agreed {
                is_agreed = true;
                let owner = || pin_owner(request.client.origin.client(&request.parts.headers));
                if !visit.agree(pool, &destination, owner).await {
                    continue;
                }
            }
            if destination.placement == Placement::New && pool.settings.sessions == Sessions::Backup {
                let mut ids = local.new_ids.borrow_mut();
                visit.name_pin(|| ids.draw(&pool.members, destination.member, &mut self.rng.borrow_mut()));
            }
            journal.attempts += 1;
            let asked = self.asks(&body);
            match self.try_one(request, visit, &destination, body).await {
                Ok((begun, slot)) => {
                    passage.open();
                    self.note_reply(request, &destination, begun.head.status.as_u16(), asked);
                    self.note_success(request, &destination, visit, &begun, journal);
                    let Begun { head, exchange, .. } = begun;
                    return Ok(Some(Served { head, exchange, slot, destination }));
                }
                Err((error, unsent)) => {
                    journal.bytes_in = unsent.received();
                    self.note_failure(request, &destination, &error);
                    tried.insert(destination.member);
                    // Asking a home again while waiting for it is bounded by the wait.
                    let is_waiting = wait.has_begun() && !wait.is_over();
                    let is_left = is_waiting || retries < retry.attempts;
                    if !is_left || !may_retry(request, &error, &unsent) {
                        return Err(ProxyError::Attempt(error));
                    }
                    // Where nothing was sent, nobody's load grows by trying elsewhere.
                    if !error.nothing_was_sent() && !local.spend_retry() {
                        return Err(ProxyError::Attempt(error));
                    }
                    retries += u32::from(!is_waiting);
                    if let Some(reason) = retry_reason(&error) {
                        pool.counters.shard(self.worker).retried(reason);
                    }
                    body = unsent;
                    body.rewind();
                    failed = Some(error);
                }
            }
        }
    }

    async fn try_one(
        &self,
        request: &Request<'_>,
        visit: &Visit,
        destination: &Destination,
        body: RequestBody,
    ) -> Result<(Begun, Slot), (AttemptError, RequestBody)> {
        let pool = request.view.pool(request.pool);
        let member = &pool.members[destination.member];
        let slot = Slot::hold(request.view, request.pool, destination.member);
        let (parts, client) = (request.parts, request.client);
        let own_lines = own_lines(request, visit, destination);
        let upgrade = wanted_upgrade(parts);
        let head = RequestHead {
            method: &parts.method,
            target: request.target.path_and_query,
            host: request.target.host,
            version: parts.version,
            headers: &parts.headers,
            origin: &client.origin,
            upgrade,
            own_lines: &own_lines,
        };
        let write_head =
            |out: &mut Vec<u8>, body: &RequestBody| head.write(out, body, |line, out| pool.strip_cookies(line, out));
        let outgoing = Outgoing {
            method: &parts.method,
            expects_continue: !body.is_empty() && expects_continue(parts.version, &parts.headers),
            timeouts: &pool.settings.timeouts,
            deadline: &client.deadline,
        };
        let interim = |head: &ReplyHead| pass_interim(client, parts.version, head);
        let begun = self.client.send(member, &outgoing, body, write_head, interim).await?;
        if begun.head.status == StatusCode::SWITCHING_PROTOCOLS && upgrade.is_none() {
            // Nobody asked for it; what follows is not HTTP any more.
            return Err((AttemptError::Reply(HeadError::Malformed), begun.exchange.into_body()));
        }
        Ok((begun, slot))
    }

    fn note_success(
        &self,
        request: &Request<'_>,
        destination: &Destination,
        visit: &mut Visit,
        begun: &Begun,
        journal: &mut Journal,
    ) {
        let pool = request.view.pool(request.pool);
        let backend = &pool.members[destination.member].backend;
        let shard = backend.counters().shard(self.worker);
        let connections = if begun.reused { &shard.connections_reused } else { &shard.connections_new };
        connections.add(1);
        journal.backend = Some(destination.member);
        let is_lost = destination.session_lost.is_some();
        let is_forwarded = pool.settings.rehome.on_session_lost == OnSessionLost::Forward;
        let is_first_loss = is_lost && is_forwarded && self.is_first_loss(request, visit);
        self.note_placed(request, destination, visit, is_first_loss);
        journal.pin = visit.pin_id();
    }

    /// Counts what the placement did to the pin, and notes it in the pin.
    fn note_placed(&self, request: &Request<'_>, destination: &Destination, visit: &mut Visit, is_first_loss: bool) {
        let pool = request.view.pool(request.pool);
        let mut ids = request.view.local(request.pool).new_ids.borrow_mut();
        visit.served(pool, destination, || ids.draw(&pool.members, destination.member, &mut self.rng.borrow_mut()));
        if let Some(moved) = destination.moved {
            self.note_rehome(request.view, pool, &moved, destination.member, visit.pin_id());
        }
        if is_first_loss {
            pool.counters.shard(self.worker).sessions_lost.add(1);
        }
    }

    /// Whether the loss of the client's session was not told a moment ago, by another of its requests.
    fn is_first_loss(&self, request: &Request<'_>, visit: &Visit) -> bool {
        visit.pin_id().is_none_or(|pin_id| request.view.snapshot.is_first_told(pin_id, self.clock.coarse_now()))
    }

    /// Counts the client's pin as active where it lives. On a detour it keeps counting at home only.
    pub(super) fn note_pin(&self, pool: &Pool, visit: &Visit, destination: &Destination) {
        let Some(pin) = visit.pin_id() else { return };
        let backend = &pool.members[destination.member].backend;
        let is_on_detour = matches!(destination.placement, Placement::Detour(_));
        if !pool.counts_in_store() && !is_on_detour {
            backend.record_pin(self.worker, pin, self.clock.coarse_now(), pool.idle_timeout);
        }
        if destination.placement == Placement::New {
            backend.pinned_one();
        }
    }

    /// Counts a pin that moved: once, though several requests of its client may find it so at the same moment.
    pub(super) fn note_rehome(&self, view: &View, pool: &Pool, moved: &Moved, to: usize, pin_id: Option<u64>) {
        let now = self.clock.coarse_now();
        let is_first = match (moved.from, pin_id) {
            (Some(from), Some(pin_id)) => pool.members[from].backend.note_departure(pin_id, now, pool.idle_timeout),
            // Apart from losses, which are told of the same pin.
            (None, Some(pin_id)) => view.snapshot.is_first_told(pin_id ^ u64::MAX, now),
            (_, None) => true,
        };
        if !is_first {
            return;
        }
        let removed = "removed".into();
        let name = |member: usize| &pool.members[member].backend.id().name;
        pool.counters.rehomed(moved.from.map_or(&removed, name), name(to), moved.reason);
        if let Some(pin_id) = pin_id {
            pool.members[to].backend.note_arrival(pin_id);
        }
    }

    fn note_failure(&self, request: &Request<'_>, destination: &Destination, error: &AttemptError) {
        let pool = request.view.pool(request.pool);
        let member = &pool.members[destination.member];
        tracing::debug!(backend = %member.backend.id(), ?error, "attempt failed");
        self.note_failed(request, destination, error);
    }
}

/// Whether the request may be sent once more.
fn may_retry(request: &Request<'_>, error: &AttemptError, body: &RequestBody) -> bool {
    let is_clients_fault = matches!(error, AttemptError::ClientBody(_) | AttemptError::ClientStalled);
    // A reply that never came may still be in the making; asking again elsewhere would only add to the load.
    let is_late = matches!(error, AttemptError::FirstByteTimeout);
    let is_safe = error.nothing_was_sent() || (is_idempotent(&request.parts.method) && !is_late);
    is_safe && !is_clients_fault && body.can_be_sent_again()
}

fn retry_reason(error: &AttemptError) -> Option<RetryReason> {
    match error {
        AttemptError::Connect(_) | AttemptError::ConnectTimeout => Some(RetryReason::Connect),
        AttemptError::Broken { .. } | AttemptError::Reply(_) => Some(RetryReason::ResetBeforeReply),
        AttemptError::FirstByteTimeout => Some(RetryReason::FirstByteTimeout),
        AttemptError::ClientBody(_) | AttemptError::ClientStalled => None,
    }
}

/// What a backend is told: a new home about the client that was moved to it, and where sessions have one copy, who is to
/// have it.
fn own_lines(request: &Request<'_>, visit: &Visit, destination: &Destination) -> Vec<u8> {
    let mut lines = Vec::new();
    let pool = request.view.pool(request.pool);
    if pool.settings.sessions == Sessions::Backup
        && let Some(heir) = visit.heir(pool, destination.member)
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
/// follow could not be looked at.
fn wanted_upgrade(parts: &Parts) -> Option<&HeaderValue> {
    let has_option = |value: &HeaderValue, wanted: &[u8]| {
        value.as_bytes().split(|byte| *byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(wanted))
    };
    let protocol = parts.headers.get(header::UPGRADE)?;
    let names_it = parts.headers.get_all(header::CONNECTION).iter().any(|value| has_option(value, b"upgrade"));
    (names_it && !has_option(protocol, b"h2c") && parts.version == Version::HTTP_11).then_some(protocol)
}

/// Passes a 1xx reply on. `100` is not among them: hyper sends it when the body is first asked for.
fn pass_interim(client: &ClientConnection, version: Version, head: &ReplyHead) {
    if version != Version::HTTP_11 || head.status == StatusCode::CONTINUE {
        return;
    }
    let mut headers = head.headers.clone();
    headers::strip(&mut headers, false);
    let mut text =
        format!("HTTP/1.1 {} {}\r\n", head.status.as_str(), head.status.canonical_reason().unwrap_or("")).into_bytes();
    for (name, value) in &headers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    client.send_interim(&text);
}
