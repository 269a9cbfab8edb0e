//! What a trusted proxy tells of its client: `X-Forwarded-*`, and `Forwarded` (RFC 7239) where it writes only that.
//!
//! Every proxy appends whom it saw. So the list is read from its end: each trusted address vouches for the one before it,
//! and the first that is not trusted is the client, whatever stands further left. What cannot be read (`unknown`, an
//! obfuscated name, garbage) ends the walk at the last address that could.
//! A proxy that writes `X-Forwarded-For` is taken at that alone: most of those pass a client's own `Forwarded` on as it is.
//! Nothing here is asked for a client that speaks for itself. Allocates for `Forwarded` only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::config::TrustedProxies;

pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// The client's address; `None` when nothing is told, or nothing that can be read.
pub(super) fn client(headers: &HeaderMap, trusted: &TrustedProxies) -> Option<IpAddr> {
    let mut client = None;
    let mut look = |hop: Option<IpAddr>| {
        client = hop.or(client);
        hop.is_some_and(|address| trusted.contains(address))
    };
    if headers.contains_key(X_FORWARDED_FOR) {
        let _ = from_the_end(headers, X_FORWARDED_FOR).map(node).all(&mut look);
    } else {
        let _ = forwarded(headers).rev().map(|element| element.node()).all(&mut look);
    }
    client
}

/// `http` or `https`: what the nearest proxy was asked by.
pub(super) fn scheme(headers: &HeaderMap) -> Option<&'static str> {
    if headers.contains_key(X_FORWARDED_PROTO) {
        return known_scheme(from_the_end(headers, X_FORWARDED_PROTO).next()?);
    }
    known_scheme(sole_forwarded(headers)?.proto.as_deref()?)
}

fn known_scheme(text: &[u8]) -> Option<&'static str> {
    let is = |word: &str| text.eq_ignore_ascii_case(word.as_bytes());
    // A proxy in front of WebSockets may name them.
    if is("https") || is("wss") {
        Some("https")
    } else if is("http") || is("ws") {
        Some("http")
    } else {
        None
    }
}

/// The host that the nearest proxy was asked for, with its port if it has one.
pub(super) fn host(headers: &HeaderMap) -> Option<Vec<u8>> {
    let host = if headers.contains_key(X_FORWARDED_HOST) {
        from_the_end(headers, X_FORWARDED_HOST).next()?.to_vec()
    } else {
        sole_forwarded(headers)?.host?
    };
    // It stands in quotes and in lines of ours.
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:[]%".contains(byte);
    (!host.is_empty() && host.iter().all(allowed)).then_some(host)
}

/// The port that the nearest proxy was asked on.
pub(super) fn port(headers: &HeaderMap) -> Option<u16> {
    number(from_the_end(headers, X_FORWARDED_PORT).next()?)
}

/// The port at the end of a host.
pub(super) fn port_of(host: &[u8]) -> Option<u16> {
    let colon = host.iter().rposition(|byte| *byte == b':')?;
    number(&host[colon + 1..])
}

/// A port; 0 is none.
fn number(text: &[u8]) -> Option<u16> {
    let digits = text.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(text).ok()).flatten()?;
    digits.parse().ok().filter(|port| *port != 0)
}

/// Whether the proxy's `Forwarded` is its own: it ends with the address that its `X-Forwarded-For` ends with. One that does
/// not is most likely the client's, passed on unseen.
pub(super) fn is_forwarded_its_own(headers: &HeaderMap) -> bool {
    let Some(last) = forwarded(headers).next_back() else { return false };
    match from_the_end(headers, X_FORWARDED_FOR).next() {
        Some(told) => node(told).is_some_and(|address| last.node() == Some(address)),
        None => true,
    }
}

/// The items of a list over all lines of a header, the last one first. Empty ones are none (RFC 9110 §5.6.1).
fn from_the_end(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(name).into_iter().rev().map(HeaderValue::as_bytes);
    lines.flat_map(|line| line.rsplit(|byte| *byte == b',')).map(<[u8]>::trim_ascii).filter(|item| !item.is_empty())
}

/// The address of a node: IPv4 or IPv6, in brackets or not, with a port or without.
fn node(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let is_port = |port: &str| {
        // A port may be obfuscated, too.
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        !port.is_empty()
            && (port.bytes().all(|byte| byte.is_ascii_digit()) || port.starts_with('_') && port.bytes().all(allowed))
    };
    let address = if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        let is_whole = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
        is_whole.then(|| address.parse::<Ipv6Addr>().ok()).flatten()?.into()
    } else if let Ok(address) = text.parse::<IpAddr>() {
        address
    } else {
        let (address, port) = text.split_once(':')?;
        is_port(port).then(|| address.parse::<Ipv4Addr>().ok()).flatten()?.into()
    };
    Some(address.to_canonical())
}

/// One hop in `Forwarded`, as far as we use it. Without anything where it could not be read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Element {
    node: Option<Vec<u8>>,
    proto: Option<Vec<u8>>,
    host: Option<Vec<u8>>,
}

impl Element {
    fn node(&self) -> Option<IpAddr> {
        node(self.node.as_deref()?)
    }
}

/// The nearest proxy's own element, when it writes no `X-Forwarded-For`.
fn sole_forwarded(headers: &HeaderMap) -> Option<Element> {
    if headers.contains_key(X_FORWARDED_FOR) { None } else { forwarded(headers).next_back() }
}

/// The elements of `Forwarded` in their order.
fn forwarded(headers: &HeaderMap) -> impl DoubleEndedIterator<Item = Element> {
    let lines = headers.get_all(header::FORWARDED).into_iter().map(HeaderValue::as_bytes);
    lines.flat_map(|line| {
        // A line that cannot be told apart is a hop that cannot be known.
        split(line, b',').map_or_else(
            || vec![Element::default()],
            |elements| elements.into_iter().map(|text| element(text).unwrap_or_default()).collect(),
        )
    })
}

fn element(text: &[u8]) -> Option<Element> {
    let mut element = Element::default();
    for pair in split(text, b';')? {
        let equals = memchr::memchr(b'=', pair)?;
        let (name, value) = (&pair[..equals], value(&pair[equals + 1..])?);
        let place = match name.to_ascii_lowercase().as_slice() {
            b"for" => &mut element.node,
            b"proto" => &mut element.proto,
            b"host" => &mut element.host,
            _ => continue,
        };
        // Each may be there once (RFC 7239 §4).
        if place.replace(value).is_some() {
            return None;
        }
    }
    Some(element)
}

/// A token, or what is in quotes.
fn value(text: &[u8]) -> Option<Vec<u8>> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let is_token = !text.is_empty() && text.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'"');
        return is_token.then(|| text.to_vec());
    };
    let quoted = quoted.strip_suffix(b"\"")?;
    let mut value = Vec::with_capacity(quoted.len());
    let mut bytes = quoted.iter();
    while let Some(byte) = bytes.next() {
        value.push(match byte {
            b'\\' => *bytes.next()?,
            b'"' => return None,
            byte => *byte,
        });
    }
    Some(value)
}

/// The parts between separators that are not in quotes, without blanks and empty ones; `None` when quotes do not end.
fn split(text: &[u8], separator: u8) -> Option<Vec<&[u8]>> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            byte if *byte == separator && !is_quoted => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    let parts = parts.into_iter().map(<[u8]>::trim_ascii).filter(|part| !part.is_empty());
    (!is_quoted).then(|| parts.collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), value.parse().expect("a value"));
        }
        headers
    }

    /// 10.0.0.0/8, fd00::/8 and 192.0.2.1.
    fn trusted() -> TrustedProxies {
        let networks = ["10.0.0.0/8", "fd00::/8", "192.0.2.1/32"];
        TrustedProxies { networks: networks.map(|network| network.parse().expect("a network")).into(), unix: false }
    }

    const XFF: &str = "x-forwarded-for";
    const FWD: &str = "forwarded";

    #[test]
    fn the_client_is_the_last_address_that_is_not_a_trusted_proxy() {
        type Lines = &'static [(&'static str, &'static str)];
        let rows: &[(Lines, Option<&str>)] = &[
            (&[], None),
            (&[(XFF, "")], None),
            (&[(XFF, "203.0.113.9")], Some("203.0.113.9")),
            (&[(XFF, "203.0.113.9, 10.1.1.1")], Some("203.0.113.9")),
            (&[(XFF, "203.0.113.9,10.1.1.1 ,192.0.2.1")], Some("203.0.113.9")),
            // Whatever the client itself claims stands further left.
            (&[(XFF, "127.0.0.1, 203.0.113.9, 10.1.1.1")], Some("203.0.113.9")),
            (&[(XFF, "10.6.6.6, 203.0.113.9")], Some("203.0.113.9")),
            // Several lines are one list.
            (&[(XFF, "127.0.0.1"), (XFF, "203.0.113.9"), (XFF, "10.1.1.1")], Some("203.0.113.9")),
            // Everybody is trusted: the farthest.
            (&[(XFF, "10.9.9.9, 10.1.1.1")], Some("10.9.9.9")),
            (&[(XFF, ", 203.0.113.9, ,")], Some("203.0.113.9")),
            (&[(XFF, "203.0.113.9:4711")], Some("203.0.113.9")),
            (&[(XFF, "2001:db8::9")], Some("2001:db8::9")),
            (&[(XFF, "[2001:db8::9]")], Some("2001:db8::9")),
            (&[(XFF, "[2001:db8::9]:4711, fd00::1")], Some("2001:db8::9")),
            (&[(XFF, "::ffff:203.0.113.9, ::ffff:10.1.1.1")], Some("203.0.113.9")),
            // Nobody knows who was before these.
            (&[(XFF, "203.0.113.9, unknown")], None),
            (&[(XFF, "203.0.113.9, unknown, 10.1.1.1")], Some("10.1.1.1")),
            (&[(XFF, "203.0.113.9, _hidden, 10.1.1.1")], Some("10.1.1.1")),
            (&[(XFF, "203.0.113.9, 1.2.3, 10.1.1.1")], Some("10.1.1.1")),
            (&[(XFF, "203.0.113.9:")], None),
            (&[(XFF, "203.0.113.9:x")], None),
            (&[(XFF, "[203.0.113.9]")], None),
            (&[(XFF, "[2001:db8::9")], None),
            (&[(XFF, "[2001:db8::9]x")], None),
            (&[(XFF, "fe80::1%eth0")], None),
            (&[(XFF, "\"203.0.113.9\"")], None),
            (&[(XFF, "203.0.113.9\u{e9}")], None),
            (&[(FWD, "for=203.0.113.9")], Some("203.0.113.9")),
            (&[(FWD, "For=203.0.113.9;Proto=https;by=10.1.1.1")], Some("203.0.113.9")),
            (&[(FWD, "for=127.0.0.1, for=203.0.113.9;proto=http, for=10.1.1.1")], Some("203.0.113.9")),
            (&[(FWD, "for=127.0.0.1"), (FWD, "for=203.0.113.9"), (FWD, "for=10.1.1.1")], Some("203.0.113.9")),
            (&[(FWD, r#"for="[2001:db8:cafe::17]:4711""#)], Some("2001:db8:cafe::17")),
            (&[(FWD, r#"for="[2001:db8::9]:_port", for="\1\0.1.1.1:80""#)], Some("2001:db8::9")),
            (&[(FWD, r#"for=203.0.113.9, for="a,b;for=127.0.0.1""#)], None),
            (&[(FWD, "for=203.0.113.9, for=unknown, for=10.1.1.1")], Some("10.1.1.1")),
            (&[(FWD, "for=203.0.113.9, for=_SEVKISEK, for=10.1.1.1")], Some("10.1.1.1")),
            (&[(FWD, "for=203.0.113.9, proto=http, for=10.1.1.1")], Some("10.1.1.1")),
            (&[(FWD, "for=203.0.113.9, for=127.0.0.1;for=127.0.0.2")], None),
            (&[(FWD, r#"for=203.0.113.9, for="10.1.1.1"#)], None),
            (&[(FWD, r#"for=203.0.113.9, for="10.1.1.1\"#)], None),
            (&[(FWD, r#"for=203.0.113.9, for=10."1.1.1""#)], None),
            (&[(FWD, "for=203.0.113.9, nonsense")], None),
            (&[(FWD, "for=203.0.113.9, for=")], None),
            // The one that the proxy certainly wrote.
            (&[(FWD, "for=127.0.0.1"), (XFF, "203.0.113.9")], Some("203.0.113.9")),
            (&[(FWD, "for=127.0.0.1"), (XFF, "unknown")], None),
        ];
        for (lines, expected) in rows {
            let expected = expected.map(|address| address.parse().expect("an address"));
            assert_eq!(client(&headers(lines), &trusted()), expected, "{lines:?}");
        }
    }

    #[test]
    fn scheme_host_and_port_are_those_of_the_nearest_proxy_and_nothing_odd() {
        let (proto, at, on) = ("x-forwarded-proto", "x-forwarded-host", "x-forwarded-port");
        for (lines, expected) in [
            (&[(proto, "https")][..], Some("https")),
            (&[(proto, "HTTPS")], Some("https")),
            (&[(proto, "wss")], Some("https")),
            (&[(proto, "https, http")], Some("http")),
            (&[(proto, "https"), (proto, "http")], Some("http")),
            (&[(proto, "gopher")], None),
            (&[(proto, "")], None),
            (&[(FWD, "for=203.0.113.9;proto=https")], Some("https")),
            (&[(FWD, "proto=https, for=10.1.1.1")], None),
            (&[(FWD, "proto=https"), (XFF, "203.0.113.9")], None),
        ] {
            assert_eq!(scheme(&headers(lines)), expected, "{lines:?}");
        }
        for (lines, expected) in [
            (&[(at, "shop.example")][..], Some("shop.example")),
            (&[(at, "evil, shop.example:8443")], Some("shop.example:8443")),
            (&[(at, "[2001:db8::9]:80")], Some("[2001:db8::9]:80")),
            (&[(at, "a b")], None),
            (&[(at, "a\"b")], None),
            (&[(at, "a/b")], None),
            (&[(FWD, r#"host="shop.example:80""#)], Some("shop.example:80")),
        ] {
            assert_eq!(host(&headers(lines)).as_deref(), expected.map(str::as_bytes), "{lines:?}");
        }
        for (lines, expected) in [
            (&[(on, "443")][..], Some(443)),
            (&[(on, "1, 8443")], Some(8443)),
            (&[(on, "0")], None),
            (&[(on, "65536")], None),
            (&[(on, "+80")], None),
            (&[(on, "80x")], None),
        ] {
            assert_eq!(port(&headers(lines)), expected, "{lines:?}");
        }
        assert_eq!(port_of(b"shop.example:80"), Some(80));
        assert_eq!(port_of(b"[::1]:80"), Some(80));
        assert_eq!((port_of(b"shop.example"), port_of(b"[::1]"), port_of(b"a:")), (None, None, None));
    }

    #[test]
    fn forwarded_is_passed_on_when_the_proxy_wrote_it() {
        for (lines, expected) in [
            (&[][..], false),
            (&[(FWD, "for=203.0.113.9")], true),
            (&[(FWD, "for=203.0.113.9"), (XFF, "203.0.113.9")], true),
            (&[(FWD, "for=127.0.0.1, for=\"[::ffff:203.0.113.9]:80\""), (XFF, "127.0.0.1, 203.0.113.9:80")], true),
            (&[(FWD, "for=203.0.113.9, for=127.0.0.1"), (XFF, "203.0.113.9")], false),
            (&[(FWD, "for=unknown"), (XFF, "unknown")], false),
        ] {
            assert_eq!(is_forwarded_its_own(&headers(lines)), expected, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_too_odd_to_be_looked_at(text in "[ -~]{0,60}", quoted in r#"(for=|;|,|"|\\|[0-9.:\[\]]){0,20}"#) {
            for value in [&text, &quoted] {
                let odd = headers(&[(XFF, value)]);
                let _ = (client(&odd, &trusted()), is_forwarded_its_own(&odd));
                let odd = headers(&[(FWD, value)]);
                let _ = (client(&odd, &trusted()), scheme(&odd), host(&odd));
            }
        }

        #[test]
        fn a_client_cannot_get_past_the_first_stranger(claim in "[ -~]{0,40}", real: Ipv4Addr) {
            prop_assume!(!trusted().contains(real.into()));
            let list = headers(&[(XFF, &format!("{claim}, {real}, 10.1.1.1"))]);
            prop_assert_eq!(client(&list, &trusted()), Some(real.into()));
        }
    }
}
