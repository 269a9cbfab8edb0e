//! Heads of HTTP/2, from and to what the rest of the proxy has.

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri, Version};

use super::super::head::ReplyHead;

/// Where a request is addressed to.
#[derive(Clone, Copy, Debug)]
pub struct Addressed<'a> {
    /// Path and query, `*` for a server-wide `OPTIONS`.
    pub target: &'a str,
    /// The one host; empty where a client of HTTP/1.0 names none.
    pub host: &'a [u8],
}

/// The protocol of an extended `CONNECT` (RFC 8441).
pub(in super::super) const WEBSOCKET: &str = "websocket";

/// A head out of the lines that HTTP/1.1 would have, each `name: value` with its line end; `None` for what cannot be said
/// in HTTP/2. With `is_websocket` it is an extended `CONNECT`.
pub(in super::super) fn request(
    (method, addressed): (&Method, Addressed<'_>),
    scheme: &Scheme,
    lines: Vec<u8>,
    is_websocket: bool,
) -> Option<Request<()>> {
    let lines = Bytes::from(lines);
    let mut request = Request::new(());
    *request.version_mut() = Version::HTTP_2;
    *request.method_mut() = if is_websocket { Method::CONNECT } else { method.clone() };
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(scheme.clone());
    let host = if addressed.host.is_empty() { b"localhost" } else { addressed.host };
    uri.authority = Some(Authority::try_from(host).ok()?);
    uri.path_and_query = Some(PathAndQuery::try_from(addressed.target).ok()?);
    *request.uri_mut() = Uri::from_parts(uri).ok()?;
    if is_websocket {
        request.extensions_mut().insert(h2::ext::Protocol::from_static(WEBSOCKET));
    }
    let mut rest = &lines[..];
    while let Some(end) = memchr::memchr(b'\r', rest) {
        let (line, after) = (&rest[..end], rest.get(end + 2..)?);
        let colon = memchr::memchr(b':', line)?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = lines.slice_ref(line.get(colon + 2..)?);
        request.headers_mut().append(name, HeaderValue::from_maybe_shared(value).ok()?);
        rest = after;
    }
    Some(request)
}

/// The head of a reply.
pub(super) fn reply<B>(reply: Response<B>) -> (ReplyHead, B) {
    let (parts, body) = reply.into_parts();
    (ReplyHead { status: parts.status, reason: None, headers: parts.headers, seen: Default::default() }, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_http1_become_a_head_of_http2() {
        let addressed = Addressed { target: "/a?b", host: b"shop.example:81" };
        let lines = b"x-a: b: c\r\ncookie: a=b\r\nx-empty: \r\n".to_vec();
        let head = request((&Method::PUT, addressed), &Scheme::HTTPS, lines, false).expect("a head");
        assert_eq!((head.method(), head.uri().to_string().as_str()), (&Method::PUT, "https://shop.example:81/a?b"));
        let lines: Vec<_> = head.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(lines, [("x-a", &b"b: c"[..]), ("cookie", b"a=b"), ("x-empty", b"")]);
        let star = Addressed { target: "*", host: b"" };
        let head = request((&Method::OPTIONS, star), &Scheme::HTTP, Vec::new(), false).expect("a head");
        assert_eq!(head.uri().path(), "*");
    }
}
