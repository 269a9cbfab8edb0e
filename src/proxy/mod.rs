//! The data path: from a client's request to a backend's reply.
//!
//! `Proxy::handle` is the story; the folders sort in the order in which a request meets them. One [`Proxy`] belongs to
//! one worker and is used by that worker's thread alone: cells, no locks. What workers share comes in through
//! [`snapshot::Published`] and the atomics of [`crate::pool::Backend`].

pub mod accept;

pub mod affinity;

pub mod balance;

pub mod forward;

pub mod respond;

pub mod snapshot;

pub mod worker;

mod admission;

mod attempts;

mod client_body;

mod client_connection;

mod deadline;

mod duplex;

mod error;

pub mod gate;

pub mod at_home;

mod evidence;

mod hedge;

mod journal;

mod outgoing;

mod passage;

mod relay;

mod reply_times;

mod retry;

mod stopwatch;

pub mod stream;

mod view;

pub mod visit;

mod wait;

mod websocket;

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use fastrand::Rng;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use tokio::time::Instant;

use crate::config::Sessions;
use crate::telemetry::access_log::WorkerLog;
use crate::telemetry::words::{Placement, RefuseReason};
use accept::request::{BadRequest, Target, check};
use attempts::Served;
use client_body::ClientBody;
use client_connection::{Conversation, Tunnel};
use deadline::Deadlines;
use error::ProxyError;
use forward::RequestBody;
use forward::tunnel::BackendEnd;
use journal::Journal;
use relay::{Page, Relay, ReplyBody};
use respond::{error_page, headers};
use snapshot::{Affinity, Published};
use view::View;
use visit::{Arrival, Destination, Visit, pin_owner};

/// One worker's data path.
#[derive(Debug)]
pub struct Proxy {
    /// Which worker.
    worker: usize,
    published: Arc<Published>,
    /// The generation this worker has, and its number.
    current: RefCell<Rc<View>>,
    generation: Cell<u64>,
    client: forward::Client,
    clock: Rc<Deadlines>,
    rng: RefCell<Rng>,
    log: RefCell<WorkerLog>,
}

impl Proxy {
    /// Answers one request.
    async fn handle(self: Rc<Self>, client: Rc<Conversation>, request: Request<ClientBody>) -> Response<ReplyBody> {
        let view = self.view(); // one generation, from here to the last byte
        let mut journal = Journal::new(&self, &view, Instant::now());
        let (parts, body) = request.into_parts();
        if view.snapshot.keeps_log {
            journal.keep_line(SystemTime::now(), client.origin.client(&parts.headers), &parts);
        }
        match self.place_and_send(&view, &client, &parts, body, &mut journal).await {
            Ok((visit, Some(served))) => self.finish(&view, &client, &parts, (visit, served), journal),
            Ok((visit, None)) => tell_session_lost(&view, &client, &parts, &visit, journal),
            Err(error) => refuse(error, journal, &client, (&view, &parts)),
        }
    }

    async fn place_and_send(
        &self,
        view: &Rc<View>,
        client: &Rc<Conversation>,
        parts: &Parts,
        body: ClientBody,
        journal: &mut Journal,
    ) -> Result<(Visit, Option<Served>), ProxyError> {
        let target =
            client.begin_request(|raw| check(parts, !body.is_end_stream(), raw)).map_err(ProxyError::BadRequest)?;
        let https = view.https(client.listener);
        if https.redirects() && !client.origin.is_https(&parts.headers) {
            let to = https.redirect(&target).map_or(ProxyError::BadRequest(BadRequest::Host), ProxyError::ToHttps);
            return Err(to);
        }
        let route = view.snapshot.routes.find(target.host, target.path).ok_or(ProxyError::NoRoute)?;
        journal.pool = Some(route.pool);
        let pool = view.pool(route.pool);
        let arrival = Arrival {
            client: &|| client.origin.client(&parts.headers),
            headers: &parts.headers,
            path: target.path,
            path_and_query: target.path_and_query,
            now: self.clock.wall_seconds(),
        };
        let mut visit = Visit::begin(pool, route.affinity, arrival);
        let unknown = visit.unknown_here(pool, &arrival);
        if !unknown.is_empty() {
            // Boxed, as all that is rare here: what an ordinary request does not need, it does not carry about.
            Box::pin(visit.ask_others(pool, unknown, pin_owner(client.origin.client(&parts.headers)))).await;
        }
        if visit.needs_home() {
            let owner = || pin_owner(client.origin.client(&parts.headers));
            Box::pin(visit.take_home(pool, owner, journal.started())).await;
        }
        journal.verdict = visit.verdict();
        if visit.lacks_key() {
            journal.placement = Some(Placement::Refused(RefuseReason::Policy));
            return Err(ProxyError::NoAffinityKey);
        }
        let body = RequestBody::new(body, pool.settings.retry.body_limit);
        let request = attempts::Request { view, client, parts, target, pool: route.pool };
        let served = {
            // Pinned where it is made: it is large, and would be moved for each way to wait for it.
            let attempt = pin!(self.attempt(&request, &mut visit, body, journal));
            match pool.settings.timeouts.request {
                None => attempt.await,
                Some(limit) => tokio::time::timeout(limit, attempt).await.unwrap_or(Err(ProxyError::RequestTimeout)),
            }
        };
        match served {
            Ok(served) => Ok((visit, served)),
            Err(error) => {
                visit.take_back(pool);
                Err(error)
            }
        }
    }

    /// Makes the client's reply out of the backend's.
    fn finish(
        self: &Rc<Self>,
        view: &Rc<View>,
        client: &Rc<Conversation>,
        parts: &Parts,
        (mut visit, served): (Visit, Served),
        mut journal: Journal,
    ) -> Response<ReplyBody> {
        let Served { head, exchange, slot, destination } = served;
        // A reply only comes from a pool that was found.
        let pool = journal.pool.unwrap_or_default();
        let settings = &view.pool(pool).settings;
        let is_switching = head.status == StatusCode::SWITCHING_PROTOCOLS;
        journal.status = Some(head.status.as_u16());
        let mut reply = Response::new(());
        *reply.status_mut() = head.status;
        *reply.headers_mut() = head.headers;
        if let Some(reason) = head.reason {
            reply.extensions_mut().insert(reason);
        }
        self.settle_pin((view, pool), parts, reply.headers(), &mut visit, &destination, &mut journal);
        headers::strip(reply.headers_mut(), is_switching);
        let owner = || pin_owner(client.origin.client(&parts.headers));
        visit.leave(view.pool(pool), reply.headers_mut(), client.origin.is_https(&parts.headers), owner);
        keep_to_https(view, client, parts, reply.headers_mut());
        if is_switching {
            let backend = BackendEnd::new(*exchange);
            let (idle, pin_id) = (settings.timeouts.tunnel_idle, visit.pin_id());
            let counted = slot.member().backend.room().open_tunnel();
            client.switch_to(Tunnel { backend, counted, slot, idle, pin_id, journal: journal.switched() });
            return reply.map(|()| ReplyBody::Page(Page::empty(client)));
        }
        if exchange.leaves_body_unsent() {
            // What the client still sends of it is not read, so its next request could not be found.
            reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let end = settings.timeouts.request.and_then(|limit| journal.started().checked_add(limit));
        let relay = Relay::new(self, client, (settings.timeouts.idle, end), exchange, slot, journal);
        reply.map(|()| ReplyBody::Relay(relay))
    }

    /// What the reply means for the pin: the app may end or ask for it, and a client on a detour that began a session there
    /// has its home there.
    fn settle_pin(
        &self,
        (view, pool): (&View, usize),
        parts: &Parts,
        reply: &HeaderMap,
        visit: &mut Visit,
        destination: &Destination,
        journal: &mut Journal,
    ) {
        let pool = view.pool(pool);
        let word = reply.get(STICKPIN_PIN).map(|word| word.as_bytes().trim_ascii());
        let is_on_detour = matches!(destination.placement, Placement::Detour(_));
        let begins_session = (is_on_detour || pool.looks_for_sessions())
            && visit.begins_session(pool, &parts.headers, reply, destination.member);
        let is_pinned = visit.obey(pool, word, begins_session);
        journal.pin = visit.pin_id();
        if let Some(home) = visit.released_from(destination) {
            self.note_release(pool, visit, home);
        }
        if !is_pinned {
            if destination.placement == Placement::New && visit.pin_id().is_none() {
                journal.placement = Some(Placement::Unpinned);
            }
            return;
        }
        self.note_pin(pool, visit, destination);
        // What a session that all backends share was given on a detour, its home has, too. One that is named by its id lives
        // where that was issued.
        let may_settle = pool.settings.sessions == Sessions::Local || matches!(pool.affinity, Affinity::AppSession(_));
        let asks_to_stay = word.is_some_and(|word| word.eq_ignore_ascii_case(b"keep"));
        if is_on_detour
            && may_settle
            && (asks_to_stay || begins_session)
            && let Some(moved) = visit.settle(pool, destination.member, self.clock.coarse_now())
        {
            journal.placement = Some(Placement::Rehomed(moved.reason));
            self.note_rehome(view, pool, &moved, destination.member, visit.pin_id());
        }
    }

    /// The current generation as this worker sees it.
    fn view(&self) -> Rc<View> {
        let generation = self.published.generation();
        if generation != self.generation.get() {
            let next = Rc::new(self.current.borrow().next(self.published.load(), self.worker));
            *self.current.borrow_mut() = next;
            self.generation.set(generation);
        }
        Rc::clone(&self.current.borrow())
    }
}

/// The app's word on the pin: `keep` or `release`.
const STICKPIN_PIN: HeaderName = HeaderName::from_static("stickpin-pin");

/// Tells the client that its session is lost, instead of asking a backend; its next request goes where it begins anew.
fn tell_session_lost(
    view: &Rc<View>,
    client: &Rc<Conversation>,
    parts: &Parts,
    visit: &Visit,
    mut journal: Journal,
) -> Response<ReplyBody> {
    // The outcome only comes from a pool that was found.
    let pool = view.pool(journal.pool.unwrap_or_default());
    let mut page = error_page::session_lost(&pool.settings.rehome.on_session_lost);
    if error_page::is_grpc(&parts.headers) {
        page = error_page::for_grpc(page);
    }
    let owner = || pin_owner(client.origin.client(&parts.headers));
    visit.leave(pool, page.headers_mut(), client.origin.is_https(&parts.headers), owner);
    keep_to_https(view, client, parts, page.headers_mut());
    journal.status = Some(page.status().as_u16());
    page.map(|text| ReplyBody::Page(Page::new(text, journal, client)))
}

/// Answers with a page of our own.
fn refuse(
    error: ProxyError,
    mut journal: Journal,
    client: &Rc<Conversation>,
    (view, parts): (&View, &Parts),
) -> Response<ReplyBody> {
    tracing::debug!(peer = %client.peer, ?error, "answered with an error page");
    journal.status = Some(error.status().as_u16());
    let mut page = match &error {
        ProxyError::Full { retry_after } => error_page::full(error.status(), *retry_after),
        _ => error_page::page(error.status(), error.closes()),
    };
    if error_page::is_grpc(&parts.headers) {
        page = error_page::for_grpc(page);
    }
    keep_to_https(view, client, parts, page.headers_mut());
    if let ProxyError::ToHttps(to) = error {
        page.headers_mut().insert(header::LOCATION, to.location);
    }
    page.map(|text| ReplyBody::Page(Page::new(text, journal, client)))
}

/// Tells browsers to come by https only, where the listener says so; a backend's own word on it counts more.
fn keep_to_https(view: &View, client: &Conversation, parts: &Parts, reply: &mut HeaderMap) {
    if let Some(strict) = &view.https(client.listener).strict
        && client.origin.is_https(&parts.headers)
        && !reply.contains_key(header::STRICT_TRANSPORT_SECURITY)
    {
        reply.insert(header::STRICT_TRANSPORT_SECURITY, strict.clone());
    }
}
