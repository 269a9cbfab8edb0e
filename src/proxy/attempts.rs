//! Attempt after attempt until a backend replies: where each goes, and when there may be another.
//!
//! A retry is a detour, never a rehome: only what is known of the home moves a pin. What may be tried again is decided in
//! [`super::retry`]. A reply that another attempt might better is held until that one has been found a backend: when
//! there is none, the client gets it after all.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use http::StatusCode;
use http::request::Parts;
use tokio::time::Instant;

use super::admission::Admission;
use super::balance::Tried;
use super::client_connection::Conversation;
use super::deadline::Deadline;
use super::error::ProxyError;
use super::forward::{
    Addressed, AttemptError, Begun, Exchange, HeadError, Hop, Outgoing, Owner, ReplyHead, RequestBody, RequestHead,
    expects_continue,
};
use super::hedge::Failed;
use super::outgoing::{may_switch, own_lines, pass_interim, wanted_upgrade};
use super::passage::Passage;
use super::snapshot::Pool;
use super::stopwatch::Stopwatch;
use super::view::{Slot, View};
use super::visit::{Destination, Moved, Next, Visit, pin_owner};
use super::wait::Wait;
use super::{Journal, Proxy, Target, retry};
use crate::config::{OnSessionLost, Sessions};
use crate::pool::{Evening, Member};
use crate::telemetry::words::{Placement, RefuseReason, RehomeReason};

/// One request, as all its attempts see it.
pub(super) struct Request<'a> {
    pub(super) view: &'a Rc<View>,
    pub(super) client: &'a Rc<Conversation>,
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

/// A reply that has begun, whether or not it is the one for the client.
pub(super) struct Won {
    pub(super) destination: Destination,
    pub(super) begun: Begun,
    pub(super) slot: Slot,
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
        body: RequestBody,
        journal: &mut Journal,
    ) -> Result<Option<Served>, ProxyError> {
        let pool = request.view.pool(request.pool);
        let local = request.view.local(request.pool);
        let retry = pool.settings.retry;
        local.earn_retry();
        journal.pin = visit.pin_id();
        let is_repeatable = retry::is_repeatable(&request.parts.method, &request.parts.headers);
        let mut body = Some(body);
        let mut tried = Tried::default();
        let mut wait = Wait::new(pool.settings.rehome.wait);
        let mut failed = None;
        // A reply that is tried to better.
        let mut held: Option<Won> = None;
        let mut retries = 0;
        let mut passage = Passage::new(pool);
        let mut is_agreed = false;
        let mut evening = None;
        let mut goes_alone = false;
        let mut admission = Admission::default();
        loop {
            let is_first = tried.is_empty() && !wait.has_begun() && !admission.has_begun();
            let now = if is_first { journal.started() } else { Instant::now() };
            let next = if let Some(destination) = admission.destination() {
                Next::Go(destination)
            } else {
                let (mut balancer, mut rng) = (local.balancer.borrow_mut(), self.rng.borrow_mut());
                visit.next(pool, &mut balancer, (&tried, &admission.crowd), wait.is_over(), &mut rng, now)
            };
            if !matches!(next, Next::Go(_))
                && let Some(won) = held.take()
            {
                // Nobody does better at once.
                return Ok(Some(self.accept(request, visit, won, &mut passage, journal)));
            }
            let destination = match next {
                Next::Go(destination) => destination,
                Next::Wait { home } => {
                    admission.leave();
                    Box::pin(wait.step(&pool.members[home].backend)).await;
                    // After a wait the home may be tried again, however often it has failed before.
                    tried.remove(home);
                    continue;
                }
                Next::QueueAt { member, placement } => {
                    Box::pin(admission.wait_at(request, member, placement)).await;
                    continue;
                }
                Next::QueueForAny(placement) => {
                    Box::pin(admission.wait_for_any(request, visit, &tried, placement)).await;
                    continue;
                }
                Next::Full => {
                    let (reason, error) = admission.refusal(pool);
                    journal.placement = Some(Placement::Refused(reason));
                    return Err(error);
                }
                Next::Refuse => {
                    journal.placement = Some(Placement::Refused(RefuseReason::Policy));
                    return Err(ProxyError::Refused);
                }
                Next::Nobody => {
                    if pool.members.iter().any(Member::is_full) {
                        journal.placement = Some(Placement::Refused(RefuseReason::MaxPins));
                    }
                    return Err(failed.map_or(ProxyError::NoBackend, ProxyError::Attempt));
                }
            };
            journal.placement = Some(destination.placement);
            // Decided anew once: if that leads elsewhere again, where the others go is no place for this one.
            if !goes_with_others(&mut evening, pool, visit, &destination) && !std::mem::replace(&mut goes_alone, true) {
                continue;
            }
            // The client is told once; its other requests go on to where it begins anew.
            if destination.session_lost.is_some()
                && pool.settings.rehome.on_session_lost != OnSessionLost::Forward
                && self.is_first_loss(request, visit)
            {
                self.note_placed(request, &destination, visit, true);
                return Ok(None);
            }
            if passage.is_due(request, visit, &destination, now)
                && Box::pin(passage.pass(request, visit, &destination)).await
            {
                // Whoever takes over may have changed meanwhile.
                continue;
            }
            if destination.moved.is_some() && !is_agreed {
                is_agreed = true;
                let owner = || pin_owner(request.client.origin.client(&request.parts.headers));
                if !Box::pin(visit.agree(pool, &destination, owner)).await {
                    continue;
                }
            }
            if destination.placement == Placement::New && pool.settings.sessions == Sessions::Backup {
                let mut ids = local.new_ids.borrow_mut();
                visit.name_pin(|| ids.draw(&pool.members, destination.member, &mut self.rng.borrow_mut()));
            }
            let Some(slot) = admission.enter(request, destination.member) else { continue };
            passage.settle(request, visit, &destination);
            journal.attempts += 1;
            let body_again = match held.take() {
                // Its connection is closed: the rest of that reply is not worth reading.
                Some(held) => held.begun.exchange.into_body(),
                None => body.take().expect("it comes back with whatever failed"),
            };
            let unsent = rewound(body_again);
            let is_left = retries < retry.attempts && is_repeatable;
            let is_last = !is_left || tried.len() + 1 >= pool.members.len() || !unsent.can_be_sent_again();
            let limit = pool.settings.timeouts.attempt.filter(|_| !is_last);
            let outcome = match self.hedge_after(request, &destination, &unsent).filter(|_| retries == 0) {
                Some(after) => {
                    let first = (destination, unsent, slot);
                    // Boxed, as all that is rare here: what an ordinary request does not need, it does not carry about.
                    Box::pin(self.try_two(request, visit, first, (after, limit), &mut tried, journal)).await
                }
                None => {
                    let deadline = &request.client.deadline;
                    self.try_one(request, visit, (destination, unsent, slot), deadline, limit).await
                }
            };
            match outcome {
                Ok(won) => {
                    self.count_connection(request, &won);
                    let reason = retry::after_reply(retry.retry_on, won.begun.head.status, is_left);
                    let Some(reason) = reason.filter(|_| may_be_bettered(pool, visit, &won) && local.spend_retry())
                    else {
                        return Ok(Some(self.accept(request, visit, won, &mut passage, journal)));
                    };
                    pool.counters.shard(self.worker).retried(reason);
                    retries += 1;
                    if visit.has_session_only_at(pool, &won.destination) {
                        // Nobody else knows the session: it is asked once more, and its place there is free for that.
                        body = Some(won.begun.exchange.into_body());
                    } else {
                        tried.insert(won.destination.member);
                        held = Some(won);
                    }
                    self.back_off(retry.backoff, retries).await;
                }
                Err((destination, error, unsent)) => {
                    journal.bytes_in = unsent.received();
                    self.note_failure(request, &destination, &error);
                    note_move_ended(pool, visit, &destination, false);
                    if error.is_ours() {
                        // Elsewhere there would be no more of it, and the client's session is here.
                        self.client.close_idle();
                    } else {
                        tried.insert(destination.member);
                    }
                    // Asking a home again while waiting for it is bounded by the wait.
                    let is_waiting = wait.has_begun() && !wait.is_over();
                    let is_left = is_waiting || retries < retry.attempts;
                    let reason = retry::after_failure(retry.retry_on, &error, is_repeatable);
                    let Some(reason) = reason.filter(|_| is_left && unsent.can_be_sent_again()) else {
                        return Err(ProxyError::Attempt(error));
                    };
                    // Where nothing was sent, nobody's load grows by trying elsewhere.
                    if !error.nothing_was_sent() && !local.spend_retry() {
                        return Err(ProxyError::Attempt(error));
                    }
                    retries += u32::from(!is_waiting);
                    pool.counters.shard(self.worker).retried(reason);
                    if !error.nothing_was_sent() || error.is_ours() {
                        self.back_off(retry.backoff, retries).await;
                    }
                    body = Some(unsent);
                    failed = Some(error);
                }
            }
        }
    }

    /// The reply is the one that the client gets.
    fn accept(
        &self,
        request: &Request<'_>,
        visit: &mut Visit,
        won: Won,
        passage: &mut Passage<'_>,
        journal: &mut Journal,
    ) -> Served {
        let Won { destination, begun: Begun { head, mut exchange, .. }, slot } = won;
        let pool = request.view.pool(request.pool);
        exchange.let_go_of_request();
        note_move_ended(pool, visit, &destination, true);
        passage.open(|| visit.is_named_anew(pool, &request.parts.headers, &head.headers));
        journal.placement = Some(destination.placement);
        self.note_success(request, &destination, visit, journal);
        Served { head, exchange, slot, destination }
    }

    async fn back_off(&self, backoff: Duration, retry: u32) {
        let pause = retry::pause(backoff, retry, self.rng.borrow_mut().f64());
        if !pause.is_zero() {
            Box::pin(tokio::time::sleep(pause)).await;
        }
    }

    /// One attempt, given up after `limit`. `deadline` is its own until its reply is over.
    pub(super) async fn try_one(
        &self,
        request: &Request<'_>,
        visit: &Visit,
        (destination, body, slot): (Destination, RequestBody, Slot),
        deadline: &Deadline,
        limit: Option<Duration>,
    ) -> Result<Won, Failed> {
        let reply_times = request.view.local(request.pool).reply_times.as_ref();
        // Elsewhere nobody asks how long it takes.
        let begun_at = (limit.is_some() || reply_times.is_some()).then(Instant::now);
        let pool = request.view.pool(request.pool);
        let member = &pool.members[destination.member];
        let (stopwatch, asked) = (Stopwatch::start(pool, &body), self.asks(&body));
        let (parts, client) = (request.parts, request.client);
        let own_lines = own_lines(request, visit, &destination, self.clock.coarse_now());
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
        let write_head = |out: &mut Vec<u8>, body: &RequestBody, hop: Hop| {
            head.write(out, body, hop, |line, out| pool.strip_cookies(line, out))
        };
        let outgoing = Outgoing {
            method: &parts.method,
            addressed: Addressed { target: request.target.path_and_query, host: request.target.host },
            headers: &parts.headers,
            upgrade,
            expects_continue: !body.is_empty() && expects_continue(parts.version, &parts.headers),
            timeouts: &pool.settings.timeouts,
            deadline,
            end: limit.and_then(|limit| begun_at?.checked_add(limit)),
            owner: member
                .transport
                .sends_proxy_protocol
                .then(|| Owner { connection: client.number, ends: client.origin.ends(&parts.headers) }),
            sent_at: stopwatch.when_sent(),
        };
        let interim = |head: &ReplyHead| pass_interim(client, parts.version, head);
        let begun = match self.client.send(member, &outgoing, body, write_head, interim).await {
            // Nobody asked for it; what follows is not HTTP any more.
            Ok(begun) if begun.head.status == StatusCode::SWITCHING_PROTOCOLS && !may_switch(parts, &begun.head) => {
                Err((AttemptError::Reply(HeadError::Malformed), begun.exchange.into_body()))
            }
            outcome => outcome,
        };
        let begun = match begun {
            Ok(begun) => begun,
            Err((error, body)) => {
                stopwatch.failed(pool, member, &error);
                return Err((destination, error, body));
            }
        };
        stopwatch.replied(pool, member, begun.head.status);
        self.note_reply(request, &destination, begun.head.status.as_u16(), asked);
        if let (Some(times), Some(begun_at)) = (reply_times, begun_at) {
            times.borrow_mut().note(begun_at.elapsed());
        }
        Ok(Won { destination, begun, slot })
    }

    fn count_connection(&self, request: &Request<'_>, won: &Won) {
        let backend = &request.view.pool(request.pool).members[won.destination.member].backend;
        let shard = backend.counters().shard(self.worker);
        let connections = if won.begun.reused { &shard.connections_reused } else { &shard.connections_new };
        connections.add(1);
    }

    fn note_success(&self, request: &Request<'_>, destination: &Destination, visit: &mut Visit, journal: &mut Journal) {
        let pool = request.view.pool(request.pool);
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
        let now = self.clock.coarse_now();
        visit
            .served(pool, destination, now, || ids.draw(&pool.members, destination.member, &mut self.rng.borrow_mut()));
        if let Some(moved) = destination.moved {
            self.note_rehome(request.view, pool, &moved, destination.member, visit.pin_id());
        }
        if is_first_loss {
            pool.counters.shard(self.worker).sessions_lost.add(1);
        }
    }

    /// Whether this loss of the client's session was not told a moment ago, by another of its requests.
    fn is_first_loss(&self, request: &Request<'_>, visit: &Visit) -> bool {
        let loss = visit.loss(request.view.pool(request.pool));
        loss.is_none_or(|loss| request.view.snapshot.is_first_told(loss, self.clock.coarse_now()))
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

    /// Counts the client's pin no longer as active where it lived, or a drained backend would be waited for as long as the
    /// idle time after everybody has logged out.
    pub(super) fn note_release(&self, pool: &Pool, visit: &Visit, home: usize) {
        if let Some(pin) = visit.pin_id().filter(|_| !pool.counts_in_store()) {
            pool.members[home].backend.note_departure(pin, self.clock.coarse_now(), pool.idle_timeout);
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
}

/// Where this request moves its pin, its client's other requests know of it. `false` when one of those has begun to move it
/// elsewhere.
fn goes_with_others<'a>(
    evening: &mut Option<Evening<'a>>,
    pool: &'a Pool,
    visit: &Visit,
    destination: &Destination,
) -> bool {
    let backend = |member: usize| &*pool.members[member].backend;
    let (Some(Moved { from: Some(from), reason }), Some(pin)) = (destination.moved, visit.pin_id()) else {
        *evening = None;
        return true;
    };
    let (from, to) = (backend(from), backend(destination.member));
    if reason != RehomeReason::Rebalanced {
        *evening = None;
        from.note_move(to, pin, reason, destination.session_lost.is_some(), Instant::now());
        return true;
    }
    if !evening.as_ref().is_some_and(|evening| evening.goes_to(to)) {
        *evening = Evening::begin(from, to, pin, Instant::now());
    }
    evening.is_some()
}

/// What has become of a move tells the client's other requests whether to follow.
fn note_move_ended(pool: &Pool, visit: &Visit, destination: &Destination, is_answered: bool) {
    if let (Some(Moved { from: Some(from), .. }), Some(pin)) = (destination.moved, visit.pin_id()) {
        pool.members[from].backend.note_move_ended(pin, is_answered);
    }
}

/// Whether another attempt may bring a better reply than this one.
fn may_be_bettered(pool: &Pool, visit: &Visit, won: &Won) -> bool {
    // The only one who could do better, and says when to come back, is not asked at once.
    let is_asked_later =
        visit.has_session_only_at(pool, &won.destination) && retry::says_later(&won.begun.head.headers);
    !is_asked_later && won.begun.exchange.can_be_sent_again()
}

/// The body from its first byte.
fn rewound(mut body: RequestBody) -> RequestBody {
    if body.can_be_sent_again() {
        body.rewind();
    }
    body
}
