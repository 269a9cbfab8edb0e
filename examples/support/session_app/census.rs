//! What a server keeps, and what keeping it costs on the network.
//!
//! `GET /_census` asks the server itself: for requests that came through Stickpin there is no such page.

use http::header::VIA;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use serde_json::json;

use super::body::ReplyBody;
use super::handle::App;
use super::reply::json_reply;

const PATH: &str = "/_census";

/// Whether this asks for it.
pub fn is_asked(request: &Request<Incoming>) -> bool {
    request.uri().path() == PATH && request.method() == Method::GET && !request.headers().contains_key(VIA)
}

/// Sessions and bytes as they are now.
pub fn census(app: &App) -> Response<ReplyBody> {
    let told = json!({
        "served_by": app.name(),
        "sessions": app.sessions.held(),
        "peer_bytes": app.sessions.peer_bytes(),
    });
    json_reply(Response::builder(), &told)
}
