//! What a server answers to its peers.

use bytes::Bytes;
use http::header::VIA;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use super::body::ReplyBody;
use super::handle::App;
use super::parameters::parameter;
use super::reply::{finish, problem};
use super::sessions::PEERS_PATH;

/// Far above a batch of changes.
const LONGEST_BATCH: usize = 16 << 20;

/// Whether a peer asks. Whatever came through a proxy did not come from a peer: clients find no such page.
pub fn is_from_peer(app: &App, request: &Request<Incoming>) -> bool {
    request.uri().path() == PEERS_PATH && app.sessions.has_peers() && !request.headers().contains_key(VIA)
}

/// `GET ?for=NAME` gives what that peer has to know, `POST` takes changes.
pub async fn answer_peer(app: &App, request: Request<Incoming>) -> Response<ReplyBody> {
    if request.method() == Method::GET {
        let peer = parameter(request.uri().query().unwrap_or_default(), "for").unwrap_or_default();
        let known = serde_json::to_vec(&app.sessions.all_for(&peer)).expect("texts and numbers");
        return finish(Response::builder(), "application/json", known.into());
    }
    let changes = Limited::new(request.into_body(), LONGEST_BATCH).collect().await.ok();
    match changes.and_then(|changes| serde_json::from_slice(&changes.to_bytes()).ok()) {
        Some(changes) => {
            app.sessions.take(changes);
            finish(Response::builder(), "application/json", Bytes::new())
        }
        None => problem(app, StatusCode::BAD_REQUEST, "unreadable changes"),
    }
}
