//! Is this a request that every parser reads the same way? What hyper lets pass and RFC 9112 does not is refused here.

use http::request::Parts;
use http::{HeaderMap, Method, Version, header};

/// Most header lines of a head that is looked at as it came.
const RAW_LINES: usize = 100;

/// Where a request is directed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// The one host: of the request target when that has one, else of the `Host` line.
    pub host: &'a [u8],
    /// Path, always beginning with `/`.
    pub path: &'a str,
    /// Path and query, as it is passed on; `*` for the whole server.
    pub path_and_query: &'a str,
}

/// Why a request is refused. The connection is closed: nobody knows where the next one would begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRequest {
    /// No `Host`, more than one, or not a host; none where one is needed to tell where to go.
    Host,
    /// A target that is not a path.
    Target,
    /// `Transfer-Encoding` that is not just `chunked`, or beside a `Content-Length`.
    Framing,
    /// `CONNECT`, which is for proxies of another kind.
    Connect,
}

/// Checks a request; `raw` is its head as it came, if it is at hand. Without a body there is no framing to check.
///
/// # Errors
/// See [`BadRequest`].
pub fn check<'a>(parts: &'a Parts, has_body: bool, raw: &[u8]) -> Result<Target<'a>, BadRequest> {
    if parts.method == Method::CONNECT {
        return Err(BadRequest::Connect);
    }
    if has_body {
        check_framing(&parts.headers, raw)?;
    }
    let host = host(parts)?;
    let path_and_query = match parts.uri.path_and_query() {
        Some(both) if both.as_str().starts_with('/') => both.as_str(),
        Some(both) if both.as_str() == "*" && parts.method == Method::OPTIONS => "*",
        // `http://host` and `http://host?query` have no path of their own.
        None if parts.uri.scheme().is_some() => "/",
        _ => return Err(BadRequest::Target),
    };
    // `OPTIONS *` asks about the whole server, which is what is routed by `/`.
    let path = if path_and_query == "*" { "/" } else { parts.uri.path() };
    Ok(Target { host, path, path_and_query })
}

fn host(parts: &Parts) -> Result<&[u8], BadRequest> {
    let mut lines = parts.headers.get_all(header::HOST).iter();
    let line = lines.next().map(|line| line.as_bytes().trim_ascii());
    let is_missing = line.is_none()
        && match parts.version {
            Version::HTTP_10 => false,
            Version::HTTP_2 => parts.uri.authority().is_none(),
            _ => true,
        };
    if lines.next().is_some() || is_missing {
        return Err(BadRequest::Host);
    }
    let host = match parts.uri.authority() {
        Some(authority) if authority.as_str().contains('@') => return Err(BadRequest::Target),
        // RFC 9113 §8.3.1. In HTTP/1.1 the target counts, as RFC 9112 §3.2.2 has it.
        Some(authority)
            if parts.version == Version::HTTP_2
                && line.is_some_and(|line| !line.eq_ignore_ascii_case(authority.as_str().as_bytes())) =>
        {
            return Err(BadRequest::Host);
        }
        Some(authority) => authority.as_str().as_bytes(),
        None => line.unwrap_or_default(),
    };
    if line.into_iter().chain([host]).all(is_host) { Ok(host) } else { Err(BadRequest::Host) }
}

/// The characters of a host name or address with a port, and no others: no list, no path, no quotes.
fn is_host(host: &[u8]) -> bool {
    host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+;=".contains(byte)) && host.len() <= 1024
}

fn check_framing(headers: &HeaderMap, raw: &[u8]) -> Result<(), BadRequest> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(()) };
    let is_chunked = coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    let is_only = is_chunked && codings.next().is_none() && !headers.contains_key(header::CONTENT_LENGTH);
    if is_only && is_known_without_length(headers, raw) { Ok(()) } else { Err(BadRequest::Framing) }
}

/// hyper drops a `Content-Length` beside a `Transfer-Encoding`, so the head as it came has to tell. One that was not seen
/// whole, since a part of it came ahead of its turn, has other lines than hyper found, and is not trusted.
fn is_known_without_length(headers: &HeaderMap, raw: &[u8]) -> bool {
    let mut lines = [httparse::EMPTY_HEADER; RAW_LINES];
    let mut request = httparse::Request::new(&mut lines);
    matches!(request.parse(raw), Ok(httparse::Status::Complete(_)))
        && request.headers.len() == headers.len()
        && !request.headers.iter().any(|line| line.name.eq_ignore_ascii_case("content-length"))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue, Request};

    use super::*;

    fn checked(
        method: &str,
        uri: &str,
        version: Version,
        lines: &[(&str, &str)],
    ) -> Result<(String, String), BadRequest> {
        let mut request = Request::builder().method(method).uri(uri).version(version);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        check(&parts, true, b"")
            .map(|target| (String::from_utf8_lossy(target.host).into(), target.path_and_query.into()))
    }

    #[test]
    fn the_host_is_the_one_of_the_target_or_of_its_single_line() {
        let ok = |host: &str, path: &str| Ok((host.to_owned(), path.to_owned()));
        let v11 = Version::HTTP_11;
        type Lines = &'static [(&'static str, &'static str)];
        let table: [(&str, &str, Version, Lines, _); 14] = [
            ("GET", "/a?b", v11, &[("host", "x")], ok("x", "/a?b")),
            ("GET", "/", v11, &[], Err(BadRequest::Host)),
            ("GET", "/", Version::HTTP_10, &[], ok("", "/")),
            ("GET", "/", v11, &[("host", "")], ok("", "/")),
            ("GET", "/", v11, &[("host", "x"), ("host", "x")], Err(BadRequest::Host)),
            ("GET", "/", v11, &[("host", "x, y")], Err(BadRequest::Host)),
            ("GET", "/", v11, &[("host", "x/y")], Err(BadRequest::Host)),
            ("GET", "/", v11, &[("host", "x\"y")], Err(BadRequest::Host)),
            ("GET", "/", v11, &[("host", "u@x")], Err(BadRequest::Host)),
            ("GET", "http://y:81/p", v11, &[("host", "x")], ok("y:81", "/p")),
            ("GET", "http://y", v11, &[("host", "x")], ok("y", "/")),
            ("GET", "http://u@y/", v11, &[("host", "x")], Err(BadRequest::Target)),
            ("OPTIONS", "*", v11, &[("host", "x")], ok("x", "*")),
            ("CONNECT", "y:443", v11, &[("host", "y")], Err(BadRequest::Connect)),
        ];
        for (method, uri, version, lines, expected) in table {
            assert_eq!(checked(method, uri, version, lines), expected, "{method} {uri} {lines:?}");
        }
        assert_eq!(checked("GET", "*", v11, &[("host", "x")]), Err(BadRequest::Target));
    }

    #[test]
    fn in_http2_the_authority_is_the_host_and_a_line_may_only_repeat_it() {
        let ok = |host: &str| Ok((host.to_owned(), "/p".to_owned()));
        type Lines = &'static [(&'static str, &'static str)];
        let table: [(&str, Lines, _); 6] = [
            ("http://y:81/p", &[], ok("y:81")),
            ("http://y/p", &[("host", "Y")], ok("y")),
            ("http://y/p", &[("host", "x")], Err(BadRequest::Host)),
            ("http://y/p", &[("host", "y"), ("host", "y")], Err(BadRequest::Host)),
            ("/p", &[("host", "x")], ok("x")),
            ("/p", &[], Err(BadRequest::Host)),
        ];
        for (uri, lines, expected) in table {
            assert_eq!(checked("GET", uri, Version::HTTP_2, lines), expected, "{uri} {lines:?}");
        }
    }

    #[test]
    fn a_body_has_one_framing() {
        let framed = |lines: &[(&str, &str)], raw: &[u8]| {
            let headers =
                lines.iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")));
            let mut map = HeaderMap::new();
            headers.for_each(|(name, value): (HeaderName, HeaderValue)| {
                map.append(name, value);
            });
            check_framing(&map, raw)
        };
        let chunked = ("transfer-encoding", "chunked");
        assert_eq!(framed(&[("content-length", "5")], b""), Ok(()));
        assert_eq!(framed(&[chunked], b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), Ok(()));
        assert_eq!(framed(&[chunked, ("content-length", "5")], b""), Err(BadRequest::Framing));
        assert_eq!(framed(&[chunked, chunked], b""), Err(BadRequest::Framing));
        assert_eq!(framed(&[("transfer-encoding", "gzip, chunked")], b""), Err(BadRequest::Framing));
        let raw = b"POST / HTTP/1.1\r\nContent-LENGTH: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(framed(&[chunked], raw), Err(BadRequest::Framing));
        let in_body = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n14\r\nContent-Length: 5\r\n\r\n0\r\n\r\n";
        assert_eq!(framed(&[chunked], in_body), Ok(()));
    }

    #[test]
    fn a_coding_in_a_head_that_was_not_seen_whole_is_refused() {
        let headers = |lines: &[(&'static str, &'static str)]| -> HeaderMap {
            lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
        };
        let chunked = ("transfer-encoding", "chunked");
        assert_eq!(check_framing(&headers(&[chunked]), b""), Err(BadRequest::Framing));
        let half = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n";
        assert_eq!(check_framing(&headers(&[chunked]), half), Err(BadRequest::Framing));
        // The end of a head can look like a whole one: `X: a` was sent ahead, with a length in front of it.
        let end = b"GET /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(check_framing(&headers(&[("x", "aGET /x HTTP/1.1"), chunked]), end), Err(BadRequest::Framing));
    }
}
