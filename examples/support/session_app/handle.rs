//! What each endpoint answers.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use tokio::sync::OnceCell;
use tokio::time::sleep;

use super::body::{Checksum, ReplyBody};
use super::census;
use super::copies::{answer_peer, is_from_peer};
use super::counts::Counts;
use super::flaw::{self, Flaw, Flaws};
use super::ids::{Ids, split_path};
use super::logins::new_id;
use super::parameters::number;
use super::reply::{finish, json_reply, problem};
use super::sessions::Sessions;
use super::settings::{Keeping, Settings};
use super::visit::{Asked, log_in, log_out, page, who_am_i};

/// Everything one life of the server remembers.
#[derive(Debug)]
pub struct App {
    pub settings: Settings,
    pub counts: Counts,
    pub sessions: Sessions,
    pub flaws: Flaws,
    instance: String,
    health: AtomicU16,
    joined: OnceCell<()>,
}

impl App {
    pub fn new(settings: Settings) -> Self {
        Self {
            counts: Counts::default(),
            sessions: Sessions::new(&settings),
            flaws: Flaws::default(),
            instance: new_id(),
            health: AtomicU16::new(StatusCode::OK.as_u16()),
            joined: OnceCell::new(),
            settings,
        }
    }

    pub fn name(&self) -> &str {
        &self.settings.name
    }

    pub fn ids(&self) -> &Ids {
        &self.settings.ids
    }

    pub fn keeping(&self) -> &Keeping {
        &self.settings.keeping
    }

    pub fn set_health(&self, status: StatusCode) {
        self.health.store(status.as_u16(), Relaxed);
    }

    fn health(&self) -> StatusCode {
        StatusCode::from_u16(self.health.load(Relaxed)).expect("it was stored as one")
    }

    /// Joins its peers, once in a life; whoever comes meanwhile waits.
    pub async fn join(&self) {
        self.joined.get_or_init(|| self.sessions.join()).await;
    }
}

/// Answers one request. `is_ill` says how its reply is written.
pub async fn handle(
    app: Arc<App>,
    is_ill: Flaws,
    request: Request<Incoming>,
) -> Result<Response<ReplyBody>, Infallible> {
    is_ill.set(Flaw::None);
    // Before it has joined: two that start at the same time ask each other.
    if is_from_peer(&app, &request) {
        return Ok(answer_peer(&app, request).await);
    }
    app.join().await;
    if request.uri().path() == "/health" {
        return Ok(health(&app));
    }
    if census::is_asked(&request) {
        return Ok(census::census(&app));
    }
    if flaw::is_order(&request) {
        return Ok(flaw::obey(&app, &request));
    }
    let _in_flight = app.counts.begin_one();
    let flaw = app.flaws.current();
    is_ill.set(flaw);
    match flaw {
        Flaw::Silent => std::future::pending().await,
        Flaw::Unavailable(percent) if fastrand::u8(..100) < percent => {
            Ok(problem(&app, StatusCode::SERVICE_UNAVAILABLE, "unavailable, as ordered"))
        }
        _ => Ok(answer(&app, request).await),
    }
}

async fn answer(app: &App, request: Request<Incoming>) -> Response<ReplyBody> {
    let (path, path_id) = split_path(request.uri());
    let (head, body) = request.into_parts();
    let asked = Asked::of(app.ids(), &head, path_id.as_deref());
    let query = head.uri.query().unwrap_or_default();
    match (&head.method, path.as_str()) {
        (_, "/echo") => echo(app, &head, body).await,
        (&Method::POST, "/login") => log_in(app, &asked, &head, body).await,
        (&Method::POST, "/logout") => log_out(app, &asked, &head.headers).await,
        (&Method::POST | &Method::PUT, "/upload") => upload(app, body).await,
        (&Method::GET | &Method::HEAD, path) => match path {
            "/" => page(app, &asked, &head.headers).await,
            "/whoami" => who_am_i(app, &asked, &head.headers).await,
            "/bytes" => stream(ReplyBody::pattern(number(query, "n").unwrap_or(0))),
            "/broken" => stream(ReplyBody::broken(number(query, "n").unwrap_or(0))),
            "/chunks" => stream(ReplyBody::chunks(
                number(query, "n").unwrap_or(0),
                Duration::from_millis(number(query, "delay_ms").unwrap_or(0)),
            )),
            "/slow" => slow(app, number(query, "ms").unwrap_or(0)).await,
            _ => problem(app, StatusCode::NOT_FOUND, "no such page"),
        },
        _ => problem(app, StatusCode::METHOD_NOT_ALLOWED, "not here"),
    }
}

fn health(app: &App) -> Response<ReplyBody> {
    let builder = Response::builder().status(app.health()).header("X-Instance", &app.instance);
    finish(builder, "text/plain", "session app\n".into())
}

/// Headers in the order of arrival, values of one name together.
async fn echo(app: &App, head: &Parts, body: Incoming) -> Response<ReplyBody> {
    let Ok((length, _)) = measure(body).await else {
        return problem(app, StatusCode::BAD_REQUEST, "unreadable body");
    };
    let headers: Vec<[String; 2]> = head
        .headers
        .iter()
        .map(|(name, value)| [name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()])
        .collect();
    let seen = json!({
        "served_by": app.name(),
        "method": head.method.as_str(),
        "path": head.uri.to_string(),
        "version": format!("{:?}", head.version),
        "headers": headers,
        "body_length": length,
    });
    json_reply(Response::builder(), &seen)
}

async fn upload(app: &App, body: Incoming) -> Response<ReplyBody> {
    let Ok((length, checksum)) = measure(body).await else {
        return problem(app, StatusCode::BAD_REQUEST, "unreadable body");
    };
    json_reply(Response::builder(), &json!({ "served_by": app.name(), "length": length, "checksum": checksum.hex() }))
}

async fn slow(app: &App, ms: u64) -> Response<ReplyBody> {
    sleep(Duration::from_millis(ms)).await;
    json_reply(Response::builder(), &json!({ "served_by": app.name(), "waited_ms": ms }))
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
