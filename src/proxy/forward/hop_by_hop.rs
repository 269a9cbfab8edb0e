//! Which of a client's header lines go on to the backend, and which only concern this hop or are not the client's to say.

use http::{HeaderMap, HeaderName, header};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Class {
    EndToEnd,
    Cookie,
    Te,
    Via,
    /// Hop-by-hop, written anew, or a claim that only we may make.
    Dropped,
}

pub(super) fn class(name: &HeaderName) -> Class {
    match *name {
        header::COOKIE => Class::Cookie,
        header::TE => Class::Te,
        header::VIA => Class::Via,
        header::HOST
        | header::CONNECTION
        | header::CONTENT_LENGTH
        | header::TRANSFER_ENCODING
        | header::UPGRADE
        | header::EXPECT
        | header::FORWARDED
        | header::PROXY_AUTHORIZATION => Class::Dropped,
        _ => {
            let name = name.as_str();
            match name.as_bytes()[0] {
                b'x' | b's' | b'k' | b'p' | b'h' if is_reserved(name) => Class::Dropped,
                _ => Class::EndToEnd,
            }
        }
    }
}

/// Names that have no constant. Servers that turn `_` into `-`, or whatever is no letter into `_` (as CGI variables have
/// it), would take one for the other.
fn is_reserved(name: &str) -> bool {
    const PREFIXES: [&str; 2] = ["x-forwarded-", "stickpin-"];
    const NAMES: [&str; 3] = ["keep-alive", "proxy-connection", "http2-settings"];
    let same = |a: &[u8], b: &str| {
        a.len() == b.len() && a.iter().zip(b.bytes()).all(|(a, b)| *a == b || (b == b'-' && !a.is_ascii_alphanumeric()))
    };
    let bytes = name.as_bytes();
    PREFIXES.iter().any(|prefix| bytes.len() > prefix.len() && same(&bytes[..prefix.len()], prefix))
        || NAMES.iter().any(|reserved| same(bytes, reserved))
}

/// Whether a client's trailer is passed on: not when it would be left out of the head, nor when it frames, routes,
/// authorizes or describes the message (RFC 9110 §6.5.1). A backend that merges trailers into the headers would believe it.
pub(super) fn is_trailer(name: &HeaderName) -> bool {
    let is_for_heads = matches!(
        *name,
        header::AUTHORIZATION
            | header::CACHE_CONTROL
            | header::CONTENT_ENCODING
            | header::CONTENT_RANGE
            | header::CONTENT_TYPE
            | header::MAX_FORWARDS
            | header::RANGE
            | header::TRAILER
    );
    class(name) == Class::EndToEnd && !is_for_heads
}

/// Header names that the client's `Connection` names as meant for this hop only.
pub(super) struct NamedHopByHop<'a> {
    headers: &'a HeaderMap,
    names_any: bool,
}

impl<'a> NamedHopByHop<'a> {
    pub(super) fn of(headers: &'a HeaderMap) -> Self {
        let found = Self { headers, names_any: false };
        if !headers.contains_key(header::CONNECTION) {
            return found;
        }
        let names_any = found.options().any(|option| {
            ![&b"close"[..], b"keep-alive", b"upgrade", b"te", b""]
                .iter()
                .any(|usual| option.eq_ignore_ascii_case(usual))
        });
        Self { names_any, ..found }
    }

    pub(super) fn contains(&self, name: &HeaderName) -> bool {
        self.names_any && self.options().any(|option| option.eq_ignore_ascii_case(name.as_str().as_bytes()))
    }

    fn options(&self) -> impl Iterator<Item = &'a [u8]> {
        let values = self.headers.get_all(header::CONNECTION).into_iter();
        values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii))
    }
}
