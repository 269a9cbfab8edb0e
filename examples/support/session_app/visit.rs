//! What the endpoints about sessions answer.

use bytes::Bytes;
use http::header::{ACCEPT, LOCATION};
use http::request::Parts;
use http::response::Builder;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::json;

use super::body::ReplyBody;
use super::handle::App;
use super::ids::{Ids, SessionId};
use super::logins::new_id;
use super::page::Page;
use super::parameters::parameter;
use super::reply::{finish, header, json_reply, problem};
use super::sessions::{Session, StoreError, Visit};

/// A form is short; beyond it the login is refused.
const LONGEST_FORM: usize = 4096;

/// What a request says of its session.
#[derive(Debug)]
pub struct Asked {
    id: Option<SessionId>,
    heir: Option<String>,
}

impl Asked {
    /// Reads it. `path_id` is the id that stood in the path.
    pub fn of(ids: &Ids, head: &Parts, path_id: Option<&str>) -> Self {
        let heir = head.headers.get("stickpin-heir").and_then(|value| value.to_str().ok());
        Self {
            id: ids.find(&head.headers, path_id, head.uri.query().unwrap_or_default()),
            heir: heir.map(str::to_owned),
        }
    }

    fn bare_id(&self) -> Option<&str> {
        self.id.as_ref().map(SessionId::bare)
    }
}

/// A script gets JSON, a browser its page.
pub async fn log_in(app: &App, asked: &Asked, head: &Parts, body: Incoming) -> Response<ReplyBody> {
    let Ok(form) = Limited::new(body, LONGEST_FORM).collect().await else {
        return problem(app, StatusCode::BAD_REQUEST, "unreadable form");
    };
    let (query, form) = (head.uri.query().unwrap_or_default(), form.to_bytes());
    let user = parameter(query, "user").or_else(|| parameter(str::from_utf8(&form).ok()?, "user"));
    let Some(user) = user.filter(|user| (1..=LONGEST_FORM).contains(&user.len())) else {
        return problem(app, StatusCode::BAD_REQUEST, "expected user=NAME");
    };
    let bare = new_id();
    let copied_to = match app.sessions.begin(&bare, user.clone(), asked.heir.as_deref()).await {
        Ok(copied_to) => copied_to,
        Err(error) => return unavailable(app, &error),
    };
    let (name, value) = app.ids().set(&app.ids().issue(&bare, copied_to.as_deref()));
    let reply = Response::builder().header(name, value);
    if is_browser(&head.headers) {
        to_page(reply)
    } else {
        let told = json!({ "user": user, "served_by": app.name(), "session": "new", "copied_to": copied_to });
        json_reply(reply, &told)
    }
}

/// Ends the session, and the pin with it.
pub async fn log_out(app: &App, asked: &Asked, headers: &HeaderMap) -> Response<ReplyBody> {
    if let Some(id) = asked.bare_id()
        && let Err(error) = app.sessions.end(id).await
    {
        return unavailable(app, &error);
    }
    let mut reply = Response::builder().header("Stickpin-Pin", "release");
    if let Some((name, value)) = app.ids().clear() {
        reply = reply.header(name, value);
    }
    if is_browser(headers) {
        to_page(reply)
    } else {
        json_reply(reply, &json!({ "user": null, "served_by": app.name(), "session": "none" }))
    }
}

/// Also repeats what Stickpin told this server, so that a client sees it.
pub async fn who_am_i(app: &App, asked: &Asked, headers: &HeaderMap) -> Response<ReplyBody> {
    let (reply, Visit { session, copied_to }) = match visit(app, asked).await {
        Ok(visited) => visited,
        Err(error) => return unavailable(app, &error),
    };
    let (user, visits) = match &session {
        Session::Known(login) => (Some(login.user.as_str()), login.visits),
        Session::None | Session::Unknown => (None, 0),
    };
    let mut told = json!({
        "user": user,
        "served_by": app.name(),
        "visits": visits,
        "session": session.as_str(),
        "heir": asked.heir,
        "copied_to": copied_to,
    });
    for (field, name) in [
        ("rehomed_from", "stickpin-rehomed-from"),
        ("rehome_reason", "stickpin-rehome-reason"),
        ("session_lost", "stickpin-session-lost"),
    ] {
        if headers.contains_key(name) {
            told[field] = header(headers, name).into();
        }
    }
    json_reply(reply, &told)
}

/// The page for a browser.
pub async fn page(app: &App, asked: &Asked, headers: &HeaderMap) -> Response<ReplyBody> {
    let (reply, Visit { session, .. }) = match visit(app, asked).await {
        Ok(visited) => visited,
        Err(error) => return unavailable(app, &error),
    };
    let rehomed_from = header(headers, "stickpin-rehomed-from");
    let html = Page { served_by: app.name(), keeping: app.keeping(), session: &session, rehomed_from }.html();
    finish(reply.header("Cache-Control", "no-store"), "text/html; charset=utf-8", html.into())
}

/// Counts the visit, and begins a reply that corrects the client's id.
async fn visit(app: &App, asked: &Asked) -> Result<(Builder, Visit), StoreError> {
    let visit = app.sessions.visit(asked.bare_id(), asked.heir.as_deref()).await?;
    let mut reply = Response::builder();
    if let (Some(id), Session::Known(_)) = (&asked.id, &visit.session)
        && let Some(right) = app.ids().reissue(id, visit.copied_to.as_deref())
    {
        let (name, value) = app.ids().set(&right);
        reply = reply.header(name, value);
    }
    Ok((reply, visit))
}

fn is_browser(headers: &HeaderMap) -> bool {
    header(headers, ACCEPT.as_str()).contains("text/html")
}

fn to_page(reply: Builder) -> Response<ReplyBody> {
    finish(reply.status(StatusCode::SEE_OTHER).header(LOCATION, "/"), "text/plain", Bytes::new())
}

fn unavailable(app: &App, error: &StoreError) -> Response<ReplyBody> {
    problem(app, StatusCode::SERVICE_UNAVAILABLE, &error.to_string())
}
