//! What a backend's reply loses on its way to the client, beside what reading its head has left out already: lines that
//! its `Connection` names, and words that were meant for us.

use http::{HeaderMap, HeaderName, header};

/// Removes lines that `Connection` names, and every `Stickpin-*` line.
///
/// `is_switching`: for a `101`, whose `Connection` and `Upgrade` are the message.
pub fn strip(headers: &mut HeaderMap, is_switching: bool) {
    let (mut has_connection, mut has_own) = (false, false);
    for name in headers.keys() {
        has_connection |= *name == header::CONNECTION;
        has_own |= name.as_str().starts_with("stickpin-");
    }
    if has_connection && !is_switching {
        remove_named(headers);
        headers.remove(header::CONNECTION);
    }
    if has_own {
        remove_own(headers);
    }
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
    fn named_lines_and_our_own_are_removed() {
        let lines = [
            ("connection", "keep-alive, X-Hop"),
            ("x-hop", "1"),
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
