//! Who may use the admin endpoint.
//!
//! With a token: whoever sends it. Without one: whoever reaches the loopback address, which includes every page in a
//! browser of that machine. So a `Host` that a page could have made resolve to us is refused (DNS rebinding), and with
//! or without a token so is an order that comes from another site's page, or from a form.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body::Body;

use super::error::ApiError;

/// What a request has to show.
pub(super) enum Access {
    /// This token.
    Token(String),
    /// That it was meant for us.
    Local,
}

/// Reads the token from its file: all of it but the white space around it.
///
/// # Errors
/// The file cannot be read, is empty, or holds what cannot be sent in a header.
pub fn read_token(file: &Path) -> io::Result<String> {
    let text = fs::read_to_string(file)?;
    let token = text.trim();
    if token.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "expected a token, found an empty file"));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = "expected one token of printable ASCII characters, without white space in it";
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(token.to_owned())
}

/// Lets a request through, or answers it.
pub(super) async fn guard(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let allowed = match &*access {
        Access::Token(token) => knows_token(request.headers(), token),
        Access::Local => meant_for_us(request.headers()),
    };
    match allowed.and_then(|()| not_from_elsewhere(&request)) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn knows_token(headers: &HeaderMap, token: &str) -> Result<(), ApiError> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().split_at_checked(7));
    match given {
        Some((scheme, given)) if scheme.eq_ignore_ascii_case(b"bearer ") && same(given, token.as_bytes()) => Ok(()),
        _ => Err(ApiError::new(StatusCode::UNAUTHORIZED, "expected the token, as in `Authorization: Bearer TOKEN`")),
    }
}

/// Takes the same time wherever the first difference is, so that a token cannot be guessed byte by byte.
fn same(given: &[u8], token: &[u8]) -> bool {
    // Their lengths may differ visibly: that tells nobody a byte.
    let difference = given.iter().zip(token).fold(0, |all, (a, b)| std::hint::black_box(all | (a ^ b)));
    given.len() == token.len() && difference == 0
}

/// The name in `Host` is one that no foreign page can have: an address, or localhost. A client that sends none is no
/// browser.
fn meant_for_us(headers: &HeaderMap) -> Result<(), ApiError> {
    if headers.get_all(header::HOST).iter().all(|host| is_local_name(host.as_bytes())) {
        return Ok(());
    }
    let message = "without a token, the admin endpoint answers only to its address or to `localhost` in `Host`";
    Err(ApiError::new(StatusCode::FORBIDDEN, message))
}

fn is_local_name(host: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(host) else { return false };
    let name = authority.host();
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

/// No page of another site, and no HTML form, can give an order.
fn not_from_elsewhere(request: &Request) -> Result<(), ApiError> {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(());
    }
    let headers = request.headers();
    let host = headers.get(header::HOST).map_or(&b""[..], |host| host.as_bytes());
    for origin in headers.get_all(header::ORIGIN) {
        let origin = origin.as_bytes();
        let named = [&b"http://"[..], b"https://"].iter().find_map(|scheme| origin.strip_prefix(*scheme));
        if !named.is_some_and(|named| named.eq_ignore_ascii_case(host)) {
            return Err(ApiError::new(StatusCode::FORBIDDEN, "orders from pages of another origin are refused"));
        }
    }
    let media_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let media_type = media_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if !request.body().is_end_stream() && !media_type.eq_ignore_ascii_case(b"application/json") {
        let message = "expected `Content-Type: application/json`";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_the_token() {
        assert!(same(b"secret", b"secret"));
        for given in [&b""[..], b"secre", b"secrets", b"Secret", b"secreT"] {
            assert!(!same(given, b"secret"));
        }
    }

    #[test]
    fn addresses_and_localhost_are_local_names() {
        for host in ["127.0.0.1", "127.0.0.1:9900", "[::1]:9900", "[::1]", "localhost", "LOCALHOST:9900"] {
            assert!(is_local_name(host.as_bytes()), "{host}");
        }
        let others =
            ["evil.example", "evil.example:9900", "localhost.evil.example", "127.0.0.1.evil.example", "", "a b"];
        for host in others {
            assert!(!is_local_name(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn a_token_is_read_without_the_white_space_around_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("admin.token");
        fs::write(&file, "\n s3cret \n").expect("written");
        assert_eq!(read_token(&file).expect("a token"), "s3cret");
        for text in ["", "\n", "two words", "gehe\u{ef}m"] {
            fs::write(&file, text).expect("written");
            assert_eq!(read_token(&file).expect_err(text).kind(), io::ErrorKind::InvalidData);
        }
    }
}
