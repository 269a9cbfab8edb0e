//! The pages that Stickpin answers with itself. They reveal neither a backend nor what answers.

use crate::config::OnSessionLost;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

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

#[cfg(test)]
mod tests {
    use super::*;

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
