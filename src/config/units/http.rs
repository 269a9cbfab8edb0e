//! Pieces of HTTP messages.

use std::borrow::Cow;
use std::sync::Arc;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, HeaderValue};
use schemars::{Schema, json_schema};

use super::{Scalar, scalar};

/// The name of a header.
pub(in crate::config) struct Header(pub(in crate::config) HeaderName);

impl Scalar for Header {
    fn expected() -> Cow<'static, str> {
        "the name of a header such as X-Instance".into()
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        text.parse().map(Self).map_err(|_| Self::expected())
    }
}

scalar!(Header);

/// The value of a header that is sent with probes.
pub(in crate::config) struct HeaderText(pub(in crate::config) HeaderValue);

impl Scalar for HeaderText {
    fn expected() -> Cow<'static, str> {
        "the value of a header, in quotes if it is a number".into()
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        text.parse().map(Self).map_err(|_| Self::expected())
    }
}

scalar!(HeaderText);

/// Text that has to occur somewhere.
pub(in crate::config) struct Text(pub(in crate::config) Arc<str>);

impl Scalar for Text {
    fn expected() -> Cow<'static, str> {
        "1 to 1024 bytes of text, in quotes if it is a number".into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": 1024 })
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        if (1..=1024).contains(&text.len()) { Ok(Self(text.into())) } else { Err(Self::expected()) }
    }
}

scalar!(Text);

/// The name of a gRPC service.
pub(in crate::config) struct ServiceName(pub(in crate::config) Arc<str>);

impl Scalar for ServiceName {
    fn expected() -> Cow<'static, str> {
        "the name of a gRPC service such as shop.v1.Carts, or nothing for the server".into()
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        let allowed = |byte: u8| byte.is_ascii_graphic();
        if text.len() <= 256 && text.bytes().all(allowed) { Ok(Self(text.into())) } else { Err(Self::expected()) }
    }
}

scalar!(ServiceName);

/// The value of a `Host` header.
pub(in crate::config) struct HostHeader(pub(in crate::config) Arc<str>);

impl Scalar for HostHeader {
    fn expected() -> Cow<'static, str> {
        "a host, with a port or without, such as shop.example.com".into()
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        match text.parse::<Authority>() {
            Ok(host) if !text.contains('@') && !host.host().is_empty() => Ok(Self(text.into())),
            Ok(_) | Err(_) => Err(Self::expected()),
        }
    }
}

scalar!(HostHeader);

/// What a probe asks for: a path, with a query or without.
pub(in crate::config) struct RequestTarget(pub(in crate::config) Arc<str>);

impl Scalar for RequestTarget {
    fn expected() -> Cow<'static, str> {
        "a path that begins with /, such as /health".into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^/" })
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        if is_target(text) { Ok(Self(text.into())) } else { Err(Self::expected()) }
    }
}

scalar!(RequestTarget);

/// The beginning of the paths a route serves.
pub(in crate::config) struct PathPrefix(pub(in crate::config) Arc<str>);

impl Scalar for PathPrefix {
    fn expected() -> Cow<'static, str> {
        "a path that begins with /, without a query, such as /shop".into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^/[^?#]*$" })
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        if is_target(text) && !text.contains('?') { Ok(Self(text.into())) } else { Err(Self::expected()) }
    }
}

scalar!(PathPrefix);

/// Visible ASCII only: it is written into a request line as it is. The parser alone would cut off a fragment.
fn is_target(text: &str) -> bool {
    let written_as_is = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    text.starts_with('/') && written_as_is && text.parse::<PathAndQuery>().is_ok()
}

/// A cookie's name.
pub(in crate::config) struct CookieName(pub(in crate::config) Arc<str>);

impl Scalar for CookieName {
    fn expected() -> Cow<'static, str> {
        "a cookie name of 1 to 128 letters, digits and !#$%&'*+-.^_`|~".into()
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        // RFC 6265 takes its `token` from RFC 2616; it is the same as in RFC 9110.
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if (1..=128).contains(&text.len()) && text.bytes().all(is_token) {
            Ok(Self(text.into()))
        } else {
            Err(Self::expected())
        }
    }
}

scalar!(CookieName);

/// The name of a parameter in a path or a query: what stands there without being encoded.
pub(in crate::config) struct ParameterName(pub(in crate::config) Arc<str>);

impl Scalar for ParameterName {
    fn expected() -> Cow<'static, str> {
        "a parameter name of 1 to 64 letters, digits, -, ., _ and ~".into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Za-z0-9._~-]{1,64}$" })
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(Self::expected())
        }
    }
}

scalar!(ParameterName);

/// The name of a claim in a JSON Web Token; some are URLs.
pub(in crate::config) struct ClaimName(pub(in crate::config) Arc<str>);

impl Scalar for ClaimName {
    fn expected() -> Cow<'static, str> {
        "the name of a claim such as sub".into()
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        if (1..=256).contains(&text.len()) { Ok(Self(text.into())) } else { Err(Self::expected()) }
    }
}

scalar!(ClaimName);

/// The `Path` of a cookie.
pub(in crate::config) struct CookiePath(pub(in crate::config) Arc<str>);

impl Scalar for CookiePath {
    fn expected() -> Cow<'static, str> {
        "a path that begins with /, without ;".into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^/[^;]*$" })
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b';';
        if text.starts_with('/') && text.bytes().all(allowed) { Ok(Self(text.into())) } else { Err(Self::expected()) }
    }
}

scalar!(CookiePath);

/// An inclusive range of status codes: `200`, `200-399` or `2xx`.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::config) struct Statuses(pub(in crate::config) u16, pub(in crate::config) u16);

impl Scalar for Statuses {
    fn expected() -> Cow<'static, str> {
        "status codes from 100 to 599 such as 200, 200-399 or 2xx".into()
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 100, "maximum": 599 },
            { "type": "string", "pattern": "^[1-5]([0-9]{2}|xx)(-[1-5][0-9]{2})?$" },
        ] })
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        let range = match text.split_once('-') {
            Some((first, last)) => read_status(first).zip(read_status(last)),
            None => match text.strip_suffix("xx").map(str::as_bytes) {
                Some([class @ b'1'..=b'5']) => {
                    let first = u16::from(class - b'0') * 100;
                    Some((first, first + 99))
                }
                Some(_) => None,
                None => read_status(text).map(|status| (status, status)),
            },
        };
        range.filter(|(first, last)| first <= last).map(|(first, last)| Self(first, last)).ok_or_else(Self::expected)
    }

    fn from_number(number: u64) -> Option<Self> {
        let status = u16::try_from(number).ok().filter(|status| (100..=599).contains(status))?;
        Some(Self(status, status))
    }
}

scalar!(Statuses);

fn read_status(text: &str) -> Option<u16> {
    let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|status| digits && (100..=599).contains(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_codes_are_one_a_range_or_a_class() {
        for (text, expected) in [("200", (200, 200)), ("200-399", (200, 399)), ("2xx", (200, 299))] {
            assert_eq!(Statuses::from_text(text), Ok(Statuses(expected.0, expected.1)));
        }
        for text in ["", "xx", "6xx", "2XX", "20", "600", "399-200", "200-", "+20", "200-399-400", "22xx"] {
            assert!(Statuses::from_text(text).is_err(), "{text}");
        }
        assert_eq!(Statuses::from_number(204), Some(Statuses(204, 204)));
        assert_eq!(Statuses::from_number(99), None);
    }

    #[test]
    fn nothing_that_would_break_a_message_is_taken() {
        for text in ["", "health", "/a b", "/a\r\nX: y", "/ä", "/a#b"] {
            assert!(RequestTarget::from_text(text).is_err(), "{text}");
        }
        assert!(RequestTarget::from_text("/health?full=1").is_ok());
        assert!(PathPrefix::from_text("/a?b").is_err());
        for text in ["", "a b", "a=b", "a;b", "ä", &"x".repeat(129)] {
            assert!(CookieName::from_text(text).is_err(), "{text}");
        }
        assert!(CookieName::from_text("__Host-stickpin").is_ok());
        for text in ["", "a b", "a=b", "a;b", "a/b", "a&b", "a%62", "ä", &"x".repeat(65)] {
            assert!(ParameterName::from_text(text).is_err(), "{text}");
        }
        assert!(ParameterName::from_text("jsessionid").is_ok());
        assert!(ClaimName::from_text("").is_err());
        assert!(ClaimName::from_text("https://example.com/claims/tenant").is_ok());
        assert!(CookiePath::from_text("/; Secure").is_err());
        assert!(HostHeader::from_text("user@host").is_err());
        assert!(HostHeader::from_text("host:80").is_ok());
        assert!(Header::from_text("X Y").is_err());
    }
}
