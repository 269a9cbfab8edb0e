//! The admin endpoint.
//!
//! | | |
//! |---|---|
//! | `GET /` | the list of endpoints, as text |
//! | `GET /live` | 200 as long as the process answers |
//! | `GET /ready` | 200 when it may receive traffic, else 503 with the reason |
//! | `GET /metrics` | OpenMetrics text for Prometheus |
//! | `GET /api/v1/openapi.json` | this list for programs |
//! | `GET /api/v1/pools` | every pool with its backends |
//! | `GET /api/v1/pools/{pool}` | one pool |
//! | `GET /api/v1/pools/{pool}/backends/{backend}` | one backend |
//! | `POST /api/v1/pools/{pool}/backends` | add a backend |
//! | `DELETE /api/v1/pools/{pool}/backends/{backend}` | remove a backend that was added here |
//! | `PUT /api/v1/pools/{pool}/backends/{backend}/state` | enable, drain or disable it |
//! | `PUT /api/v1/pools/{pool}/backends/{backend}/weight` | order a weight, or take the order back |
//! | `POST /api/v1/reload` | read the file again |
//! | `GET /api/v1/events` | what happens, as it happens (server-sent events) |
//! | `POST /api/v1/explain` | what a pin says, where it would go, and why |
//!
//! `/live` and `/ready` are open to everybody; who may use the others is decided in `auth`. Errors are JSON:
//! `{"error": "…"}`. Runs on the control thread and never touches a request.

mod auth;

mod backends;

mod error;

mod events;

mod explain;

mod openapi;

mod orders;

mod reload;

mod scrape;

mod server;

mod view;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::{Duration, SystemTime};

use axum::extract::rejection::PathRejection;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

pub use auth::read_token;
pub use reload::ReloadRequest;
pub use server::serve;

use super::discovery::{ChangeOrder, Standings};
use crate::drain;
use crate::pool::Member;
use crate::proxy::accept::http2::flood::Http2Counts;
use crate::proxy::snapshot::{Pool, Published, Snapshot};
use crate::telemetry::events::Events;
use crate::telemetry::metrics;
use crate::tls::listener::TlsListener;
use auth::Access;
use error::ApiError;
use view::{BackendView, LiveView, PoolView, PoolsView, ReadyView};

/// Largest request body.
const BODY_LIMIT: usize = 64 * 1024;

/// A request that is not answered by then gets 408.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// What the admin endpoint shares with the rest of the control plane.
#[derive(Debug)]
pub struct Shared {
    /// The snapshots; each request looks at the current one.
    pub published: Arc<Published>,
    /// Whoever reloads takes orders here, and answers each.
    pub reload: mpsc::Sender<ReloadRequest>,
    /// Open client connections by listener, and what is counted of HTTP/2 there.
    pub connections: Vec<(String, Arc<AtomicUsize>, Arc<Http2Counts>)>,
    /// TLS, by listener; `None` where it is plain HTTP.
    pub tls: Arc<[Option<Arc<TlsListener>>]>,
    /// How reloads ended, by signal or by request; counted by whoever reloads.
    pub reloads: Arc<ReloadCounters>,
    /// Becomes true, for good, once every backend has been measured for the first time.
    pub settled: watch::Receiver<bool>,
    /// Told after each order of the operator; the order is answered once tables were built anew and it was saved.
    pub ordered: mpsc::Sender<OrderNotice>,
    /// Whoever reloads takes orders to add or remove backends here, and answers each.
    pub change: mpsc::Sender<ChangeOrder>,
    /// How things stand with the sources of backends.
    pub standings: Standings,
    /// What happens, for those who listen.
    pub events: Events,
    /// Lines that the access log dropped.
    pub access_log_dropped: Arc<AtomicU64>,
    /// When the process started.
    pub started: SystemTime,
}

/// Asks that the orders in force be kept; answered with what went wrong, if anything did.
pub type OrderNotice = oneshot::Sender<Result<(), String>>;

/// How reloads ended.
#[derive(Debug, Default)]
pub struct ReloadCounters {
    /// A new snapshot was published.
    pub ok: AtomicU64,
    /// Nothing was changed.
    pub failed: AtomicU64,
}

/// What a handler sees.
struct Context {
    shared: Arc<Shared>,
    drain: drain::Watcher,
    /// Places for those who listen to events.
    listeners: Arc<Semaphore>,
}

fn router(access: Access, shared: Arc<Shared>, drain: drain::Watcher) -> Router {
    let guarded = Router::new()
        .route("/", get(index))
        .route("/metrics", get(scrape_metrics))
        .route("/api/v1/openapi.json", get(openapi))
        .route("/api/v1/pools", get(pools))
        .route("/api/v1/pools/{pool}", get(pool))
        .route("/api/v1/pools/{pool}/backends", post(backends::add))
        .route("/api/v1/pools/{pool}/backends/{backend}", get(backend).delete(backends::remove))
        .route("/api/v1/pools/{pool}/backends/{backend}/state", put(orders::state))
        .route("/api/v1/pools/{pool}/backends/{backend}/weight", put(orders::weight))
        .route("/api/v1/reload", post(reload::reload))
        .route("/api/v1/events", get(events::events))
        .route("/api/v1/explain", post(explain::post))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn_with_state(Arc::new(access), auth::guard));
    Router::new()
        .route("/live", get(live))
        .route("/ready", get(ready))
        .method_not_allowed_fallback(unknown_method)
        .merge(guarded)
        .layer(middleware::from_fn(finish))
        .with_state(Arc::new(Context { shared, drain, listeners: Arc::new(Semaphore::new(events::LISTENERS)) }))
}

/// Bounds the time of a request until its reply begins, and says how that may be used.
async fn finish(request: Request, next: Next) -> Response {
    let reply = tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await;
    let mut reply = reply.unwrap_or_else(|_| {
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "the request was not complete in time").into_response()
    });
    reply.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}

async fn index() -> String {
    openapi::list()
}

async fn openapi() -> Response {
    Json(openapi::document()).into_response()
}

async fn live() -> Json<LiveView> {
    Json(LiveView { live: true })
}

async fn ready(State(context): State<Arc<Context>>) -> Result<Json<ReadyView>, ApiError> {
    if context.drain.is_draining() {
        Err(ApiError::not_ready("draining"))
    } else if !*context.shared.settled.borrow() {
        Err(ApiError::not_ready("starting"))
    } else {
        Ok(Json(ReadyView { ready: true }))
    }
}

async fn scrape_metrics(State(context): State<Arc<Context>>) -> Response {
    let text = scrape::scrape(&context.shared).into_text();
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

async fn pools(State(context): State<Arc<Context>>) -> Json<PoolsView> {
    let snapshot = context.shared.published.load();
    Json(PoolsView::of(&snapshot, &context.shared.standings, view::Now::read()))
}

async fn pool(
    State(context): State<Arc<Context>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<PoolView>, ApiError> {
    let Path(name) = path?;
    let snapshot = context.shared.published.load();
    Ok(Json(PoolView::of(find_pool(&snapshot, &name)?, &context.shared.standings, view::Now::read())))
}

async fn backend(
    State(context): State<Arc<Context>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<BackendView>, ApiError> {
    let Path((pool, backend)) = path?;
    let snapshot = context.shared.published.load();
    let pool = find_pool(&snapshot, &pool)?;
    Ok(Json(BackendView::of(pool, find_member(pool, &backend)?, view::Now::read())))
}

async fn unknown_path() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "no such endpoint; GET / lists them")
}

async fn unknown_method() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this endpoint does not have that method; GET / lists them")
}

fn find_pool<'a>(snapshot: &'a Snapshot, name: &str) -> Result<&'a Pool, ApiError> {
    let found = snapshot.pools.iter().find(|pool| *pool.settings.name == *name);
    found.ok_or_else(|| ApiError::unknown("pool", name, snapshot.pools.iter().map(|pool| &*pool.settings.name)))
}

fn find_member<'a>(pool: &'a Pool, name: &str) -> Result<&'a Member, ApiError> {
    let found = pool.members.iter().find(|member| *member.backend.id().name == *name);
    found
        .ok_or_else(|| ApiError::unknown("backend", name, pool.members.iter().map(|member| &*member.backend.id().name)))
}
