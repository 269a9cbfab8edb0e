//! The head of a request as the backend sees it, written here and by nobody else.
//!
//! Nothing that frames or routes a message is copied from the client: one `Host`, one framing header, one set of
//! `X-Forwarded-*`. What only concerns the hop from the client is left out, and so is whatever claims to come from us
//! (`hop_by_hop`); where the request came from is said anew, by `origin`.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};

use super::hop_by_hop::{Class, NamedHopByHop, class};
use super::origin::{Origin, VIA_NAME, node, usual_port};
use super::request_body::RequestBody;
use super::told;

/// What the hop to the backend speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// WebSocket on a stream of HTTP/2 (RFC 8441).
    WebSocket,
}

/// What is written into a head.
#[derive(Debug)]
pub struct RequestHead<'a> {
    /// The client's method.
    pub method: &'a Method,
    /// Path and query, `*` for a server-wide `OPTIONS`.
    pub target: &'a str,
    /// The one host.
    pub host: &'a [u8],
    /// The client's protocol version.
    pub version: Version,
    /// The client's header lines.
    pub headers: &'a HeaderMap,
    /// Where it came from.
    pub origin: &'a Origin,
    /// The protocol to switch to, when the client asks for that.
    pub upgrade: Option<&'a HeaderValue>,
    /// Our own lines to the backend, each with its line end.
    pub own_lines: &'a [u8],
}

impl RequestHead<'_> {
    /// Writes the head; for HTTP/2 only its lines, for whoever makes a head of them. `cookies` copies the value of a `Cookie` line without what is not the backend's, and tells
    /// whether anything is left. Returns whether the body will be chunked.
    pub fn write(
        &self,
        out: &mut Vec<u8>,
        body: &RequestBody,
        hop: Hop,
        mut cookies: impl FnMut(&[u8], &mut Vec<u8>) -> bool,
    ) -> bool {
        if hop == Hop::Http1 {
            out.extend_from_slice(self.method.as_str().as_bytes());
            out.push(b' ');
            out.extend_from_slice(self.target.as_bytes());
            out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
            out.extend_from_slice(self.host);
            out.extend_from_slice(b"\r\n");
        }
        let named = NamedHopByHop::of(self.headers);
        let (mut has_te, mut has_via) = (false, false);
        for (name, value) in self.headers {
            match class(name) {
                Class::EndToEnd if named.contains(name) => {}
                // Of RFC 6455's handshake, which RFC 8441 has no use for.
                Class::EndToEnd if hop == Hop::WebSocket && *name == header::SEC_WEBSOCKET_KEY => {}
                Class::EndToEnd => line(out, name.as_str(), value.as_bytes()),
                Class::Cookie => {
                    let start = out.len();
                    out.extend_from_slice(b"cookie: ");
                    if cookies(value.as_bytes(), out) {
                        out.extend_from_slice(b"\r\n");
                    } else {
                        out.truncate(start);
                    }
                }
                Class::Te => has_te = true,
                Class::Via => has_via = true,
                Class::Dropped => {}
            }
        }
        if self.origin.trusted.is_some() || has_via || self.version == Version::HTTP_10 {
            self.write_told_origin(out);
        } else {
            let start = out.len();
            out.extend_from_slice(&self.origin.lines);
            if self.version == Version::HTTP_2 {
                let version = start + self.origin.via_at;
                out[version..version + 3].copy_from_slice(b"2.0");
            }
            self.write_forwarded_host(out);
            out.extend_from_slice(b"\r\nx-forwarded-host: ");
            out.extend_from_slice(self.host);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(&self.origin.certificate);
        out.extend_from_slice(self.own_lines);
        match hop {
            Hop::Http1 => self.write_hop(out, has_te),
            Hop::Http2 if has_te && self.wants_trailers() => out.extend_from_slice(b"te: trailers\r\n"),
            Hop::Http2 | Hop::WebSocket => {}
        }
        let is_chunked = self.write_framing(out, body, hop);
        if hop == Hop::Http1 {
            out.extend_from_slice(b"\r\n");
        }
        is_chunked
    }

    /// Where the request came from, when others before us have told something.
    #[cold]
    fn write_told_origin(&self, out: &mut Vec<u8>) {
        let (origin, headers) = (self.origin, self.headers);
        let client = origin.told(|trusted| told::client(headers, trusted));
        out.extend_from_slice(b"x-forwarded-for: ");
        if origin.trusted.is_some() {
            let has_list = self.write_values(out, told::X_FORWARDED_FOR);
            // The proxy wrote `Forwarded` only.
            if let (false, Some(client)) = (has_list, client) {
                out.extend_from_slice(format!("{client}, ").as_bytes());
            }
        }
        out.extend_from_slice(origin.address.as_bytes());
        let scheme = origin.told(|_| told::scheme(headers));
        out.extend_from_slice(b"\r\nx-forwarded-proto: ");
        out.extend_from_slice(scheme.unwrap_or(origin.scheme).as_bytes());
        let host = origin.told(|_| told::host(headers));
        let port = origin.told(|_| told::port(headers)).or_else(|| told::port_of(host.as_deref()?));
        // Our own port says nothing about where the client of a proxy went.
        let port = port.unwrap_or_else(|| scheme.map_or(origin.port, |scheme| usual_port(0, scheme)));
        out.extend_from_slice(b"\r\nx-forwarded-port: ");
        out.extend_from_slice(itoa::Buffer::new().format(port).as_bytes());
        out.extend_from_slice(b"\r\nvia: ");
        self.write_values(out, header::VIA);
        out.extend_from_slice(match self.version {
            Version::HTTP_10 => b"1.0 ",
            Version::HTTP_2 => b"2.0 ",
            _ => b"1.1 ",
        });
        out.extend_from_slice(VIA_NAME.as_bytes());
        out.extend_from_slice(b"\r\nforwarded: ");
        if origin.trusted.is_some() {
            if told::is_forwarded_its_own(headers) {
                self.write_values(out, header::FORWARDED);
            } else if let Some(client) = client {
                out.extend_from_slice(format!("for={}, ", node(client)).as_bytes());
            }
        }
        out.extend_from_slice(b"for=");
        out.extend_from_slice(origin.node.as_bytes());
        out.extend_from_slice(b";proto=");
        out.extend_from_slice(origin.scheme.as_bytes());
        self.write_forwarded_host(out);
        out.extend_from_slice(b"\r\nx-forwarded-host: ");
        out.extend_from_slice(host.as_deref().unwrap_or(self.host));
        out.extend_from_slice(b"\r\n");
    }

    /// Writes a header's values, each followed by a comma. Returns whether there are any.
    fn write_values(&self, out: &mut Vec<u8>, name: HeaderName) -> bool {
        let start = out.len();
        for value in self.headers.get_all(name).iter().filter(|value| !value.as_bytes().trim_ascii().is_empty()) {
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b", ");
        }
        out.len() > start
    }

    fn write_forwarded_host(&self, out: &mut Vec<u8>) {
        if !self.host.is_empty() {
            // A host was checked to hold nothing that would end the quotes.
            out.extend_from_slice(b";host=\"");
            out.extend_from_slice(self.host);
            out.push(b'"');
        }
    }

    /// What we ask of the hop to the backend ourselves.
    fn write_hop(&self, out: &mut Vec<u8>, has_te: bool) {
        if let Some(protocol) = self.upgrade {
            out.extend_from_slice(b"connection: upgrade\r\n");
            line(out, "upgrade", protocol.as_bytes());
        } else if has_te && self.wants_trailers() {
            out.extend_from_slice(b"connection: te\r\nte: trailers\r\n");
        }
    }

    fn wants_trailers(&self) -> bool {
        self.headers.get_all(header::TE).iter().any(|value| {
            value
                .as_bytes()
                .split(|byte| *byte == b',')
                .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
        })
    }

    fn write_framing(&self, out: &mut Vec<u8>, body: &RequestBody, hop: Hop) -> bool {
        if hop == Hop::WebSocket {
            return false;
        }
        match body.length() {
            Some(0) => {
                // A method that means a body says that there is none.
                if matches!(*self.method, Method::POST | Method::PUT | Method::PATCH) {
                    out.extend_from_slice(b"content-length: 0\r\n");
                }
                false
            }
            Some(length) => {
                line(out, "content-length", itoa::Buffer::new().format(length).as_bytes());
                self.write_expect(out);
                false
            }
            None => {
                // A stream of HTTP/2 has an end of its own.
                if hop == Hop::Http1 {
                    out.extend_from_slice(b"transfer-encoding: chunked\r\n");
                }
                self.write_expect(out);
                true
            }
        }
    }

    fn write_expect(&self, out: &mut Vec<u8>) {
        if expects_continue(self.version, self.headers) {
            out.extend_from_slice(b"expect: 100-continue\r\n");
        }
    }
}

/// Whether the client waits for `100 Continue` before it sends its body.
pub fn expects_continue(version: Version, headers: &HeaderMap) -> bool {
    version != Version::HTTP_10
        && headers.get(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::super::origin::tests::{origin, stranger};
    use super::*;
    use crate::proxy_protocol::Ends;

    fn written(origin: &Origin, lines: &[(&str, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_bytes(name.as_bytes()).expect("a name"), value.parse().expect("a value"));
        }
        let head = RequestHead {
            method: &Method::GET,
            target: "/a?b",
            host: b"shop.example",
            version: Version::HTTP_11,
            headers: &headers,
            origin,
            upgrade: None,
            own_lines: b"",
        };
        let mut out = Vec::new();
        head.write(&mut out, &RequestBody::empty(), Hop::Http1, |value, out| {
            out.extend_from_slice(value);
            !value.is_empty()
        });
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn the_head_is_written_anew() {
        let text = written(&stranger(), &[("accept", "*/*"), ("cookie", "a=1"), ("cookie", "")]);
        assert_eq!(
            text,
            "GET /a?b HTTP/1.1\r\nhost: shop.example\r\naccept: */*\r\ncookie: a=1\r\nx-forwarded-for: 192.0.2.7\r\n\
             x-forwarded-proto: http\r\nx-forwarded-port: 8080\r\nvia: 1.1 stickpin\r\n\
             forwarded: for=192.0.2.7;proto=http;host=\"shop.example\"\r\nx-forwarded-host: shop.example\r\n\r\n"
        );
    }

    #[test]
    fn what_concerns_the_hop_and_what_a_stranger_claims_is_left_out() {
        let text = written(
            &stranger(),
            &[
                ("host", "evil.example"),
                ("connection", "close, X-Secret"),
                ("x-secret", "1"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("transfer-encoding", "chunked"),
                ("content-length", "5"),
                ("te", "gzip"),
                ("upgrade", "h2c"),
                ("http2-settings", "AAMAAABkAAQAoAAAAAIAAAAA"),
                ("x-forwarded-for", "10.0.0.1"),
                ("x_forwarded_for", "10.0.0.1"),
                ("x.forwarded~for", "10.0.0.1"),
                ("x-forwarded-prefix", "/admin"),
                ("forwarded", "for=10.0.0.1"),
                ("stickpin-rehomed-from", "app1"),
                ("stickpin_session_lost", "gone"),
                ("stickpin.client.cert.subject", "CN=evil"),
                ("x-kept", "yes"),
            ],
        );
        let names: Vec<_> =
            text.lines().skip(1).filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect();
        let expected = [
            "host",
            "x-kept",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-port",
            "via",
            "forwarded",
            "x-forwarded-host",
        ];
        assert_eq!(names, expected);
        assert!(!text.contains("10.0.0.1") && !text.contains("evil"));
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_added_to() {
        let proxy = origin([10, 0, 0, 2].into(), Some("10.0.0.0/8"));
        let lines = [
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "shop.example:443"),
            ("forwarded", "for=192.0.2.7"),
            ("via", "1.1 edge"),
        ];
        let text = written(&proxy, &lines);
        for expected in [
            "x-forwarded-for: 192.0.2.7, 10.0.0.2\r\n",
            "x-forwarded-proto: https\r\n",
            "x-forwarded-host: shop.example:443\r\n",
            "forwarded: for=192.0.2.7, for=10.0.0.2;proto=http;host=\"shop.example\"\r\n",
            "via: 1.1 edge, 1.1 stickpin\r\n",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in {text}");
        }
        let headers =
            lines.into_iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")));
        let headers: HeaderMap = headers.collect();
        assert_eq!(proxy.client(&headers), IpAddr::from([192, 0, 2, 7]));
        assert!(proxy.is_https(&headers));
        assert_eq!(stranger().client(&headers), IpAddr::from([192, 0, 2, 7]));
        assert!(!stranger().is_https(&headers));
    }

    #[test]
    fn what_a_trusted_proxy_leaves_out_is_filled_in_and_what_it_passes_on_unseen_is_left_out() {
        let proxy = origin([10, 0, 0, 2].into(), Some("10.0.0.0/8"));
        let all = "forwarded: for=192.0.2.7, for=10.0.0.2;proto=http;host=\"shop.example\"\r\n";
        type Lines = &'static [(&'static str, &'static str)];
        let rows: &[(Lines, &[&str])] = &[
            // Nothing told: as from anybody else.
            (&[], &["x-forwarded-for: 10.0.0.2\r\n", "x-forwarded-port: 8080\r\n", "forwarded: for=10.0.0.2;"]),
            (&[("x-forwarded-for", "192.0.2.7"), ("forwarded", "for=6.6.6.6;host=evil")], &[all]),
            (&[("x-forwarded-for", "192.0.2.7")], &["x-forwarded-for: 192.0.2.7, 10.0.0.2\r\n", all]),
            (&[("forwarded", "for=192.0.2.7")], &["x-forwarded-for: 192.0.2.7, 10.0.0.2\r\n", all]),
            (&[("x-forwarded-for", "2001:db8::9")], &["forwarded: for=\"[2001:db8::9]\", for=10.0.0.2;"]),
            (
                &[("x-forwarded-for", " "), ("x-forwarded-for", "192.0.2.7")],
                &["x-forwarded-for: 192.0.2.7, 10.0.0.2\r\n"],
            ),
            // The proxy's port, not ours.
            (&[("x-forwarded-proto", "https")], &["x-forwarded-proto: https\r\n", "x-forwarded-port: 443\r\n"]),
            (&[("x-forwarded-host", "a.example:8443")], &["x-forwarded-port: 8443\r\n"]),
            (&[("x-forwarded-proto", "https"), ("x-forwarded-port", "9443")], &["x-forwarded-port: 9443\r\n"]),
            (
                &[("x-forwarded-proto", "x"), ("x-forwarded-host", "a\"b"), ("x-forwarded-port", "-1")],
                &["x-forwarded-proto: http\r\n", "x-forwarded-host: shop.example\r\n", "x-forwarded-port: 8080\r\n"],
            ),
        ];
        for (lines, expected) in rows {
            let text = written(&proxy, lines);
            for expected in *expected {
                assert!(text.contains(expected), "{expected:?} is not in {text}");
            }
            for unwanted in ["6.6.6.6", "evil"] {
                assert!(!text.contains(unwanted), "{unwanted:?} is in {text}");
            }
        }
    }

    #[test]
    fn a_socket_without_a_port_has_that_of_the_scheme() {
        let ends = Ends { source: ([127, 0, 0, 1], 0).into(), destination: ([127, 0, 0, 1], 0).into() };
        for (is_tls, expected) in [(false, "x-forwarded-port: 80\r\n"), (true, "x-forwarded-port: 443\r\n")] {
            assert!(written(&Origin::new(ends, is_tls, None), &[]).contains(expected));
        }
    }

    #[test]
    fn an_ipv6_peer_is_quoted_in_forwarded() {
        let text = written(&origin(std::net::Ipv6Addr::LOCALHOST.into(), None), &[]);
        assert!(text.contains("for=\"[::1]\";") && text.contains("x-forwarded-for: ::1\r\n"), "{text}");
    }

    #[test]
    fn trailers_are_the_only_te_that_is_passed_on() {
        let text = written(&stranger(), &[("te", "trailers, deflate;q=0.5")]);
        assert!(text.contains("connection: te\r\nte: trailers\r\n"), "{text}");
    }
}
