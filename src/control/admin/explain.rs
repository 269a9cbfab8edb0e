//! What a pin says, where a request with it would go now, and why.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::ApiError;
use super::orders::order;
use super::view::Now;
use super::{Context, find_pool};
use crate::clock::unix_seconds;
use crate::config::{self, Affinity, HomeBy, KeySource, SessionSource, TokenSource};
use crate::pool::sessions::HomeState;
use crate::pool::{AdminState, Health, Member};
use crate::proxy::affinity::Pin;
use crate::proxy::snapshot::Pool;
use crate::proxy::visit::{Answer, Explanation, Question, explain};
use crate::telemetry::words::{PinVerdict, Placement, RefuseReason, RehomeReason};

/// What is asked. Name one of `cookie`, `session_id` and `key`, or the headers and path of a whole request.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ExplainQuestion {
    /// The pool's name. May be left out when there is only one.
    pool: Option<String>,
    /// The value of the pool's cookie, or a whole `Cookie` header.
    cookie: Option<String>,
    /// A session id of the app's, for pools with `app_session`.
    session_id: Option<String>,
    /// The value of the first affinity key, for pools with `hash`.
    key: Option<String>,
    /// Header lines of the request.
    headers: std::collections::BTreeMap<String, String>,
    /// Its path and query; default `/`.
    path: Option<String>,
    /// The client's address; default 127.0.0.1.
    client: Option<IpAddr>,
}

/// What would be done.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ExplainView {
    pool: String,
    /// What the pin turned out to be; `null` where pins do not count.
    verdict: Option<&'static str>,
    pin: Option<ExplainedPin>,
    /// Who takes over when the home is lost.
    heir: Option<String>,
    /// Where a request with this pin would go now; `null` when that is up to the balancer, or nobody could serve it.
    to: Option<String>,
    placement: Option<&'static str>,
    /// Empty for placements that need none.
    reason: &'static str,
    /// The session would be said to be lost, for this reason.
    session_lost: Option<&'static str>,
    /// All of it as one answer to read.
    summary: String,
}

/// The pin as it is.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ExplainedPin {
    /// As in the access log.
    id: String,
    /// The backend that it names.
    home: String,
    /// What is the matter with that.
    home_state: &'static str,
    /// Seconds since it was made; `null` where nobody keeps that.
    age_seconds: Option<u32>,
    /// Seconds since it was last known to be in use; `null` where nobody keeps that.
    idle_seconds: Option<u32>,
    /// Where its client is served while the home is out of reach.
    detour: Option<String>,
    /// Whether the home has been restarted since.
    is_another_instance: bool,
}

pub(super) async fn post(
    State(context): State<Arc<Context>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<ExplainView>, ApiError> {
    let question: ExplainQuestion = order(&body?)?;
    let snapshot = context.shared.published.load();
    let pool = match (&question.pool, &*snapshot.pools) {
        (Some(name), _) => find_pool(&snapshot, name)?,
        (None, [only]) => only,
        (None, _) => return Err(refused("pool: needed, because there are several")),
    };
    let request = request(pool, &question)?;
    let now = Now::read();
    let wall = unix_seconds(now.wall);
    let explanation = explain(pool, &request, now.monotonic, wall).await;
    Ok(Json(view(pool, &explanation, wall)))
}

fn refused(message: &str) -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, message)
}

/// The request that the question amounts to.
fn request(pool: &Pool, question: &ExplainQuestion) -> Result<Question, ApiError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &question.headers {
        let name = HeaderName::try_from(name).map_err(|_| refused("headers: a name is not one"))?;
        put(&mut headers, name, value)?;
    }
    let mut path_and_query = question.path.clone().unwrap_or_else(|| "/".to_owned());
    if !path_and_query.starts_with('/') {
        return Err(refused("path: expected one that begins with /"));
    }
    let affinity = &pool.settings.affinity;
    if let Some(cookie) = &question.cookie {
        if !matches!(affinity, Affinity::Cookie(_)) && !cookie.contains('=') {
            return Err(refused(
                "cookie: the pool does not pin by our cookie; give a whole Cookie header, or session_id or key",
            ));
        }
        let line = match affinity {
            // A token has no equals sign within, a `Cookie` header has.
            Affinity::Cookie(settings) if !cookie.contains('=') => format!("{}={cookie}", settings.name),
            _ => cookie.clone(),
        };
        put(&mut headers, header::COOKIE, &line)?;
    }
    if let Some(id) = &question.session_id {
        let Affinity::AppSession(settings) = affinity else {
            return Err(refused("session_id: the pool does not pin by the app's session id"));
        };
        match &settings.sources[0] {
            SessionSource::Cookie(name) => put(&mut headers, header::COOKIE, &format!("{name}={id}"))?,
            SessionSource::Header(name) => put(&mut headers, name.clone(), id)?,
            SessionSource::PathParameter(name) => {
                let end = path_and_query.find('?').unwrap_or(path_and_query.len());
                path_and_query.insert_str(end, &format!(";{name}={id}"));
            }
            SessionSource::QueryParameter(name) => put_query(&mut path_and_query, name, id),
        }
    }
    if let Some(key) = &question.key {
        let Affinity::Hash(settings) = affinity else {
            return Err(refused("key: the pool does not place requests by hash"));
        };
        match &settings.keys[0] {
            KeySource::Header(name) => put(&mut headers, name.clone(), key)?,
            KeySource::Cookie(name) => put(&mut headers, header::COOKIE, &format!("{name}={key}"))?,
            KeySource::QueryParameter(name) => put_query(&mut path_and_query, name, key),
            KeySource::JwtClaim { claim, token: TokenSource::Header(name) } => {
                put(&mut headers, name.clone(), &format!("Bearer {}", token(claim, key)))?;
            }
            KeySource::JwtClaim { claim, token: TokenSource::Cookie(name) } => {
                put(&mut headers, header::COOKIE, &format!("{name}={}", token(claim, key)))?;
            }
            KeySource::Path | KeySource::ClientAddress { .. } => {
                return Err(refused("key: the pool's first one is asked about by path or client"));
            }
        }
    }
    let client = question.client.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    Ok(Question { client, headers, path_and_query })
}

/// A token that says this. Nobody verifies it.
fn token(claim: &str, value: &str) -> String {
    let claims = serde_json::json!({ claim: value }).to_string();
    format!("{}.{}.", URL_SAFE_NO_PAD.encode("{}"), URL_SAFE_NO_PAD.encode(claims))
}

fn put_query(path_and_query: &mut String, name: &str, value: &str) {
    let mark = if path_and_query.contains('?') { '&' } else { '?' };
    path_and_query.push_str(&format!("{mark}{name}={value}"));
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) -> Result<(), ApiError> {
    let value = HeaderValue::from_str(value).map_err(|_| refused("a value has characters that no header can have"))?;
    headers.append(name, value);
    Ok(())
}

fn view(pool: &Pool, explanation: &Explanation, now: u32) -> ExplainView {
    let name = |member: usize| pool.members[member].backend.id().name.to_string();
    let (to, placement, session_lost) = match explanation.course {
        Answer::Go { to, placement, session_lost } => (Some(to), Some(placement), session_lost),
        Answer::Refuse => (None, Some(Placement::Refused(RefuseReason::Policy)), None),
        Answer::Wait { .. } | Answer::Queue { .. } | Answer::Nobody | Answer::Balanced => (None, None, None),
    };
    ExplainView {
        pool: pool.settings.name.to_string(),
        verdict: explanation.verdict.map(PinVerdict::as_str),
        pin: explanation.pin.map(|pin| ExplainedPin {
            id: format!("{:016x}", pin.id),
            home: name(pin.home as usize),
            home_state: explanation.home_state.map_or("", |state| state.as_str()),
            age_seconds: has_times(pool).then_some(now.saturating_sub(pin.issued)),
            idle_seconds: has_times(pool).then_some(now.saturating_sub(pin.refreshed)),
            detour: pin.detour.map(|detour| name(detour.to as usize)),
            is_another_instance: explanation.is_another_instance,
        }),
        heir: explanation.heir.map(name),
        to: to.map(name),
        placement: placement.map(Placement::as_str),
        reason: placement.map_or("", Placement::reason),
        session_lost: session_lost.map(|reason| reason.as_str()),
        summary: summary(pool, explanation, now),
    }
}

/// One answer of a few lines: what was presented, what it says, what is the matter with its home, and what follows.
fn summary(pool: &Pool, explanation: &Explanation, now: u32) -> String {
    let mut lines = vec![presented(pool, explanation)];
    lines.extend(explanation.pin.map(|pin| pinned(pool, explanation, &pin, now)));
    let is_lost = matches!(explanation.home_state, Some(HomeState::Gone | HomeState::HoldOver | HomeState::Removed));
    if let Some(heir) = explanation.heir.filter(|_| !is_lost) {
        lines.push(format!("Should its home be lost, {} takes over.", pool.members[heir].backend.id().name));
    }
    lines.push(course(pool, explanation));
    lines.join("\n")
}

fn presented(pool: &Pool, explanation: &Explanation) -> String {
    let what = match &pool.settings.affinity {
        Affinity::Off => "pin",
        Affinity::Cookie(_) => "cookie",
        Affinity::AppSession(_) => "session id",
        Affinity::Hash(_) => "affinity key",
    };
    match explanation.verdict {
        None => "The pool has no affinity: pins do not count.".to_owned(),
        Some(PinVerdict::None) => match &pool.settings.affinity {
            Affinity::AppSession(settings) if settings.home_by == HomeBy::Learn => {
                "none: there is no session id, or one that nobody has learned yet.".to_owned()
            }
            Affinity::AppSession(_) => "none: there is no session id, or it names no home.".to_owned(),
            _ => format!("none: there is no {what}."),
        },
        Some(PinVerdict::Valid) => format!("valid: the {what} is good."),
        Some(PinVerdict::OldKey) => format!("old_key: the {what} is good, under a key that no longer signs."),
        Some(PinVerdict::Expired) => format!("expired: the {what} was unused for too long, or is too old."),
        Some(PinVerdict::Forged) => {
            format!("forged: the {what} was not sealed by this ring of keys for this pool, or is no pin at all.")
        }
        Some(PinVerdict::UnknownBackend) => {
            format!("unknown_backend: the {what} names a home that is not in the pool.")
        }
    }
}

fn pinned(pool: &Pool, explanation: &Explanation, pin: &Pin, now: u32) -> String {
    let home = &pool.members[pin.home as usize].backend;
    let standing = home.standing();
    let state = explanation.home_state.map_or("is unknown", |state| state.as_str());
    let mut text = format!("Pin {:016x} lives at {}, which {state}", pin.id, home.id().name);
    if standing.health != Health::Healthy || standing.admin != AdminState::Enabled {
        text.push_str(&format!(" (health {}, admin state {})", standing.health.as_str(), standing.admin.as_str()));
    }
    text.push('.');
    if has_times(pool) {
        let (age, idle) = (written(now.saturating_sub(pin.issued)), written(now.saturating_sub(pin.refreshed)));
        text.push_str(&format!(" It was made {age} ago and last noted in use {idle} ago."));
    }
    if explanation.is_another_instance {
        text.push_str(" The home has been restarted since: the session is lost.");
    }
    if let Some(detour) = pin.detour {
        let (to, since) =
            (&pool.members[detour.to as usize].backend.id().name, written(now.saturating_sub(detour.since)));
        text.push_str(&format!(" It has been on a detour to {to} for {since}."));
    }
    text
}

fn course(pool: &Pool, explanation: &Explanation) -> String {
    let sessions = pool.settings.sessions;
    match explanation.course {
        Answer::Go { to, placement, session_lost } => {
            let to = &pool.members[to].backend.id().name;
            let because = explanation.home_state.map_or_else(String::new, |state| {
                format!(", because its home {} and the pool's sessions are {sessions}", state.as_str())
            });
            let lost = session_lost.map_or("", |_| " The session is lost, and that is said.");
            match placement {
                Placement::Kept => format!("A request goes home to {to}.{lost}"),
                Placement::New => format!("A request goes to {to}, where that session id hashes to."),
                Placement::Detour(reason) => {
                    format!("A request takes a detour to {to} ({}){because}; the pin stays.{lost}", reason.as_str())
                }
                Placement::Rehomed(RehomeReason::Rebalanced) => {
                    format!("The pin moves to {to} (rebalanced), because its home has more clients than its share.")
                }
                Placement::Rehomed(reason) => {
                    format!("The pin moves to {to} ({}){because}.{lost}", reason.as_str())
                }
                Placement::Refused(_) | Placement::Unpinned => format!("A request goes to {to}."),
            }
        }
        Answer::Wait { then_refused } => {
            let wait = config::written(pool.settings.rehome.wait);
            let then = if then_refused { "refused" } else { "served elsewhere" };
            format!("A request waits up to {wait} for its home, and is then {then}.")
        }
        Answer::Queue { at } => {
            let config::Queue { length, timeout } = pool.settings.queue;
            let whose = at.map_or("the pool".into(), |at| Arc::clone(&pool.members[at].backend.id().name));
            let wait = config::written(timeout);
            format!(
                "Whoever could serve a request is full: it waits up to {wait} in the queue of {whose}, which has {length} \
                 places, and is then served elsewhere if it may, or answered with 503."
            )
        }
        Answer::Refuse => "A request is refused: the pool's settings say so.".to_owned(),
        Answer::Nobody if pool.members.iter().any(Member::is_full) && explanation.pin.is_none() => {
            "A request is answered with 503: every backend has as many clients as it may (max_pins), or is away."
                .to_owned()
        }
        Answer::Nobody => "A request is answered with 503: no backend could serve it.".to_owned(),
        Answer::Balanced => format!("A request is balanced by {}.", pool.settings.balance),
    }
}

/// Whether it is known when a pin was made and used: not where it follows from the request.
fn has_times(pool: &Pool) -> bool {
    match &pool.settings.affinity {
        Affinity::Cookie(_) => true,
        Affinity::AppSession(settings) => settings.home_by == HomeBy::Learn,
        Affinity::Off | Affinity::Hash(_) => false,
    }
}

/// Seconds, as the configuration writes times.
fn written(seconds: u32) -> String {
    config::written(std::time::Duration::from_secs(u64::from(seconds)))
}
