//! What each endpoint answers.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, LOCATION, SET_COOKIE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::body::{Checksum, ReplyBody};
use super::counts::Counts;
use super::logins::{COOKIE, Logins, Session, new_id};
use super::page::Page;
use super::parameters::{number, parameter};

/// A form is short; beyond it the login is refused.
const LONGEST_FORM: usize = 4096;

/// Everything one life of the server remembers.
#[derive(Debug)]
pub struct App {
    pub name: String,
    pub counts: Counts,
    instance: String,
    health: AtomicU16,
    logins: Mutex<Logins>,
}

impl App {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            counts: Counts::default(),
            instance: new_id(),
            health: AtomicU16::new(StatusCode::OK.as_u16()),
            logins: Mutex::default(),
        }
    }

    pub fn set_health(&self, status: StatusCode) {
        self.health.store(status.as_u16(), Relaxed);
    }

    fn health(&self) -> StatusCode {
        StatusCode::from_u16(self.health.load(Relaxed)).expect("it was stored as one")
    }

    /// Logins stay whole even if a holder panicked.
    fn logins(&self) -> MutexGuard<'_, Logins> {
        self.logins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn visit(&self, headers: &HeaderMap) -> Session {
        self.logins().visit(cookie(headers, COOKIE))
    }
}

/// Answers one request.
pub async fn handle(app: Arc<App>, request: Request<Incoming>) -> Result<Response<ReplyBody>, Infallible> {
    if request.uri().path() == "/health" {
        return Ok(health(&app));
    }
    let _in_flight = app.counts.begin_one();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let reply = match (request.method(), request.uri().path()) {
        (_, "/echo") => echo(&app, request).await,
        (&Method::POST, "/login") => log_in(&app, &query, request).await,
        (&Method::POST | &Method::PUT, "/upload") => upload(&app, request.into_body()).await,
        (&Method::GET | &Method::HEAD, path) => match path {
            "/" => page(&app, request.headers()),
            "/whoami" => who_am_i(&app, request.headers()),
            "/bytes" => stream(ReplyBody::pattern(number(&query, "n").unwrap_or(0))),
            "/broken" => stream(ReplyBody::broken(number(&query, "n").unwrap_or(0))),
            "/chunks" => stream(ReplyBody::chunks(
                number(&query, "n").unwrap_or(0),
                Duration::from_millis(number(&query, "delay_ms").unwrap_or(0)),
            )),
            "/slow" => slow(&app, number(&query, "ms").unwrap_or(0)).await,
            _ => problem(&app, StatusCode::NOT_FOUND, "no such page"),
        },
        _ => problem(&app, StatusCode::METHOD_NOT_ALLOWED, "not here"),
    };
    Ok(reply)
}

fn health(app: &App) -> Response<ReplyBody> {
    let builder = Response::builder().status(app.health()).header("X-Instance", &app.instance);
    finish(builder, "text/plain", "session app\n".into())
}

/// A script gets JSON, a browser its page.
async fn log_in(app: &App, query: &str, request: Request<Incoming>) -> Response<ReplyBody> {
    let for_browser = header(request.headers(), ACCEPT.as_str()).contains("text/html");
    let Ok(form) = Limited::new(request.into_body(), LONGEST_FORM).collect().await else {
        return problem(app, StatusCode::BAD_REQUEST, "unreadable form");
    };
    let form = form.to_bytes();
    let user = parameter(query, "user").or_else(|| parameter(str::from_utf8(&form).ok()?, "user"));
    let Some(user) = user.filter(|user| !user.is_empty()) else {
        return problem(app, StatusCode::BAD_REQUEST, "expected user=NAME");
    };
    let id = new_id();
    app.logins().begin(id.clone(), user.clone());
    let reply = Response::builder().header(SET_COOKIE, format!("{COOKIE}={id}; Path=/; HttpOnly; SameSite=Lax"));
    if for_browser {
        finish(reply.status(StatusCode::SEE_OTHER).header(LOCATION, "/"), "text/plain", Bytes::new())
    } else {
        let told = json!({ "user": user, "served_by": app.name, "session": "new" });
        finish(reply, "application/json", told.to_string().into())
    }
}

/// Also repeats what Stickpin told this server, so that a client sees it.
fn who_am_i(app: &App, headers: &HeaderMap) -> Response<ReplyBody> {
    let session = app.visit(headers);
    let (user, visits) = match &session {
        Session::Known(login) => (Some(login.user.as_str()), login.visits),
        Session::None | Session::Unknown => (None, 0),
    };
    let mut told = json!({ "user": user, "served_by": app.name, "visits": visits, "session": session.as_str() });
    for (field, name) in [
        ("rehomed_from", "stickpin-rehomed-from"),
        ("rehome_reason", "stickpin-rehome-reason"),
        ("session_lost", "stickpin-session-lost"),
    ] {
        if headers.contains_key(name) {
            told[field] = header(headers, name).into();
        }
    }
    json_reply(StatusCode::OK, &told)
}

fn page(app: &App, headers: &HeaderMap) -> Response<ReplyBody> {
    let session = app.visit(headers);
    let rehomed_from = header(headers, "stickpin-rehomed-from");
    let html = Page { served_by: &app.name, session: &session, rehomed_from }.html();
    let reply = Response::builder().header("Cache-Control", "no-store");
    finish(reply, "text/html; charset=utf-8", html.into())
}

/// Headers in the order of arrival, values of one name together.
async fn echo(app: &App, request: Request<Incoming>) -> Response<ReplyBody> {
    let (head, body) = request.into_parts();
    let Ok((length, _)) = measure(body).await else {
        return problem(app, StatusCode::BAD_REQUEST, "unreadable body");
    };
    let headers: Vec<[String; 2]> = head
        .headers
        .iter()
        .map(|(name, value)| [name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()])
        .collect();
    let seen = json!({
        "served_by": app.name,
        "method": head.method.as_str(),
        "path": head.uri.to_string(),
        "version": format!("{:?}", head.version),
        "headers": headers,
        "body_length": length,
    });
    json_reply(StatusCode::OK, &seen)
}

async fn upload(app: &App, body: Incoming) -> Response<ReplyBody> {
    let Ok((length, checksum)) = measure(body).await else {
        return problem(app, StatusCode::BAD_REQUEST, "unreadable body");
    };
    json_reply(StatusCode::OK, &json!({ "served_by": app.name, "length": length, "checksum": checksum.hex() }))
}

async fn slow(app: &App, ms: u64) -> Response<ReplyBody> {
    sleep(Duration::from_millis(ms)).await;
    json_reply(StatusCode::OK, &json!({ "served_by": app.name, "waited_ms": ms }))
}

async fn measure(mut body: Incoming) -> Result<(u64, Checksum), hyper::Error> {
    let (mut length, mut checksum) = (0, Checksum::default());
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            length += data.len() as u64;
            checksum.add(&data);
        }
    }
    Ok((length, checksum))
}

fn stream(body: ReplyBody) -> Response<ReplyBody> {
    Response::builder().header(CONTENT_TYPE, "application/octet-stream").body(body).expect("every part is valid")
}

fn problem(app: &App, status: StatusCode, why: &str) -> Response<ReplyBody> {
    json_reply(status, &json!({ "error": why, "served_by": app.name }))
}

fn json_reply(status: StatusCode, value: &Value) -> Response<ReplyBody> {
    finish(Response::builder().status(status), "application/json", value.to_string().into())
}

fn finish(builder: http::response::Builder, content_type: &str, body: Bytes) -> Response<ReplyBody> {
    builder.header(CONTENT_TYPE, content_type).body(ReplyBody::Whole(body)).expect("every part is valid")
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let values = headers.get_all("cookie").iter().filter_map(|value| value.to_str().ok());
    let mut pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(known, _)| *known == name).map(|(_, value)| value)
}
