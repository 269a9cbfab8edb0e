//! The pages that Stickpin answers with itself. They reveal neither a backend nor what answers.

use crate::config::OnSessionLost;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

/// A short page for a status; `closes` ends the client's connection after it.
pub fn page(status: StatusCode, closes: bool) -> Response<Bytes> {
    let text = format!("{} {}\n", status.as_str(), status.canonical_reason().unwrap_or("Error"));
    let mut page = Response::new(Bytes::from(text));
    *page.status_mut() = status;
    let headers = page.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    }
    if closes {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    page
}

/// The page for a client that may come again after so many seconds.
pub fn full(status: StatusCode, retry_after: u32) -> Response<Bytes> {
    let mut page = page(status, false);
    page.headers_mut().insert(header::RETRY_AFTER, retry_after.into());
    page
}

/// What a client gets instead of a reply when its session is lost.
pub fn session_lost(told: &OnSessionLost) -> Response<Bytes> {
    match told {
        OnSessionLost::Status(status) => page(*status, false),
        OnSessionLost::Redirect(target) => {
            let mut page = page(StatusCode::SEE_OTHER, false);
            // A target of the configuration is visible ASCII; were it not, the status alone would have to do.
            if let Ok(target) = HeaderValue::from_str(target) {
                page.headers_mut().insert(header::LOCATION, target);
            }
            page
        }
        // Nobody asks: the request is served.
        OnSessionLost::Forward => page(StatusCode::SERVICE_UNAVAILABLE, false),
    }
}

/// Whether a request is one of gRPC, whose clients look for the outcome elsewhere.
pub fn is_grpc(request: &HeaderMap) -> bool {
    let kind = request.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    // `application/grpc-web` is carried by plain HTTP.
    kind.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// A page for a client of gRPC: the outcome stands in the trailers, which are sent as the head where there is nothing else.
#[must_use]
pub fn for_grpc(page: Response<Bytes>) -> Response<Bytes> {
    let (mut head, _) = page.into_parts();
    let message = HeaderValue::from_static(head.status.canonical_reason().unwrap_or("Error"));
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    head.headers.insert("grpc-status", HeaderValue::from_static(grpc_status(head.status)));
    head.headers.insert("grpc-message", message);
    head.status = StatusCode::OK;
    Response::from_parts(head, Bytes::new())
}

/// What a status is to clients of gRPC. They take a plain 504 for one that is unavailable, and would try again what took too
/// long: here it is known why there is no reply.
fn grpc_status(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST => INTERNAL,
        StatusCode::UNAUTHORIZED => UNAUTHENTICATED,
        StatusCode::FORBIDDEN => PERMISSION_DENIED,
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => UNIMPLEMENTED,
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => DEADLINE_EXCEEDED,
        // Whom there is no room for may come again.
        StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

const UNKNOWN: &str = "2";
const DEADLINE_EXCEEDED: &str = "4";
const PERMISSION_DENIED: &str = "7";
const UNIMPLEMENTED: &str = "12";
const INTERNAL: &str = "13";
const UNAVAILABLE: &str = "14";
const UNAUTHENTICATED: &str = "16";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stickpin_says_itself_reaches_clients_of_grpc() {
        for (status, expected) in [
            (400, "13"),
            (404, "12"),
            (405, "12"),
            (408, "4"),
            (429, "14"),
            (502, "14"),
            (503, "14"),
            (504, "4"),
            (410, "2"),
        ] {
            let page = for_grpc(page(StatusCode::from_u16(status).expect("a status"), false));
            assert_eq!(
                (page.status(), &page.headers()["grpc-status"]),
                (StatusCode::OK, &HeaderValue::from_static(expected))
            );
            assert!(page.body().is_empty() && page.headers().contains_key("grpc-message"));
            assert_eq!(page.headers()[header::CONTENT_TYPE], "application/grpc");
        }
        for (kind, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x", true),
            ("application/grpc-web", false),
            ("text/plain", false),
        ] {
            let request = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(is_grpc(&request), expected, "{kind}");
        }
    }

    #[test]
    fn a_page_has_these_headers_and_no_others() {
        let allowed = ["content-type", "cache-control", "retry-after", "connection", "allow"];
        for status in [400, 404, 405, 408, 502, 503, 504] {
            let page = page(StatusCode::from_u16(status).expect("a status"), true);
            assert!(page.headers().keys().all(|name| allowed.contains(&name.as_str())), "{:?}", page.headers());
            assert!(page.body().starts_with(status.to_string().as_bytes()));
        }
    }

    #[test]
    fn a_client_that_finds_no_room_is_told_when_to_come_again() {
        let page = full(StatusCode::SERVICE_UNAVAILABLE, 5);
        assert_eq!(page.headers().get_all(header::RETRY_AFTER).iter().collect::<Vec<_>>(), ["5"]);
    }
}
