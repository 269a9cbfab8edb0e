//! What a backend's reply loses on its way: whatever concerns only the hop to us, and words that were meant for us.

use http::{HeaderMap, HeaderName, header};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Removes hop-by-hop header lines, those that `Connection` names included, and every `Stickpin-*` line.
///
/// `is_switching`: for a `101`, whose `Connection` and `Upgrade` are the message.
pub fn strip(headers: &mut HeaderMap, is_switching: bool) {
    let (mut has_hop, mut has_own) = (false, false);
    for name in headers.keys() {
        has_hop |= is_hop_by_hop(name);
        has_own |= name.as_str().starts_with("stickpin-");
    }
    if has_hop && !is_switching {
        remove_hop_by_hop(headers);
    }
    if has_own {
        remove_own(headers);
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION | header::TRANSFER_ENCODING | header::UPGRADE | header::TE | header::PROXY_AUTHENTICATE
    ) || name == KEEP_ALIVE
        || name == PROXY_CONNECTION
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let mut values = headers.get_all(header::CONNECTION).iter();
    let usual: [&[u8]; 4] = [b"close", b"keep-alive", b"upgrade", b""];
    if values.any(|value| options(value.as_bytes()).any(|option| !usual.iter().any(|u| option.eq_ignore_ascii_case(u))))
    {
        remove_named(headers);
    }
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::TE, header::PROXY_AUTHENTICATE]
    {
        headers.remove(name);
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
}

#[cold]
fn remove_named(headers: &mut HeaderMap) {
    let values = headers.get_all(header::CONNECTION).iter();
    let named: Vec<_> = values
        .flat_map(|value| options(value.as_bytes()))
        .filter_map(|option| HeaderName::from_bytes(option).ok())
        // These frame or pin the reply: naming them must not take them away.
        .filter(|name| !matches!(*name, header::CONTENT_LENGTH | header::SET_COOKIE | header::CACHE_CONTROL))
        .collect();
    for name in named {
        headers.remove(name);
    }
}

#[cold]
fn remove_own(headers: &mut HeaderMap) {
    let own: Vec<_> = headers.keys().filter(|name| name.as_str().starts_with("stickpin-")).cloned().collect();
    for name in own {
        headers.remove(name);
    }
}

fn options(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(lines: &[(&str, &str)], is_switching: bool) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_bytes(name.as_bytes()).expect("a name"), value.parse().expect("a value"));
        }
        strip(&mut headers, is_switching);
        let mut names: Vec<_> = headers.keys().map(ToString::to_string).collect();
        names.sort();
        names
    }

    #[test]
    fn hop_by_hop_lines_and_our_own_are_removed() {
        let lines = [
            ("connection", "keep-alive, X-Hop"),
            ("keep-alive", "timeout=5"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("proxy-connection", "keep-alive"),
            ("stickpin-pin", "release"),
            ("content-length", "5"),
            ("x-kept", "1"),
        ];
        assert_eq!(stripped(&lines, false), ["content-length", "x-kept"]);
    }

    #[test]
    fn a_switch_of_protocols_keeps_what_says_so() {
        let lines = [("connection", "upgrade"), ("upgrade", "websocket"), ("stickpin-pin", "keep")];
        assert_eq!(stripped(&lines, true), ["connection", "upgrade"]);
    }

    #[test]
    fn naming_the_framing_does_not_take_it_away() {
        let lines = [("connection", "content-length, set-cookie"), ("content-length", "5"), ("set-cookie", "a=b")];
        assert_eq!(stripped(&lines, false), ["content-length", "set-cookie"]);
    }
}
