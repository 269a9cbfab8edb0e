//! Replies that are at hand as a whole.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::response::Builder;
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};

use super::body::ReplyBody;
use super::handle::App;

/// An error, as JSON.
pub fn problem(app: &App, status: StatusCode, why: &str) -> Response<ReplyBody> {
    json_reply(Response::builder().status(status), &json!({ "error": why, "served_by": app.name() }))
}

/// JSON.
pub fn json_reply(builder: Builder, value: &Value) -> Response<ReplyBody> {
    finish(builder, "application/json", value.to_string().into())
}

/// Any content.
pub fn finish(builder: Builder, content_type: &str, body: Bytes) -> Response<ReplyBody> {
    builder.header(CONTENT_TYPE, content_type).body(ReplyBody::Whole(body)).expect("every part is valid")
}

/// A request header's first value; empty when there is none.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
