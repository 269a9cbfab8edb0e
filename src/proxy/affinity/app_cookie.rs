//! The app's own session cookie: did a reply begin a new session?
//!
//! Not to pin by it, but to notice that a client which is only on a detour has a session where it is now: its old one is
//! out of its browser's hands, so sending it home would do it no good.

use http::HeaderMap;
use http::header::{COOKIE, SET_COOKIE};

use super::app_session::is_expired;

/// Names that common frameworks give to their session cookie.
const WELL_KNOWN: [&str; 12] = [
    "JSESSIONID",
    "PHPSESSID",
    "connect.sid",
    "session",
    "sessionid",
    "_session_id",
    "laravel_session",
    "ASP.NET_SessionId",
    ".AspNetCore.Session",
    "CFID",
    "SESSION",
    "rack.session",
];

/// Whether `reply` sets the app's session cookie to another value than `request` carried. `name`: the app's, when it is
/// told; else the well-known ones. Taking the cookie away begins nothing; `now` is in seconds since the Unix epoch.
pub fn begins_session(name: Option<&str>, request: &HeaderMap, reply: &HeaderMap, now: u32) -> bool {
    reply.get_all(SET_COOKIE).iter().any(|line| {
        let Some((set, value)) = pair(first(line.as_bytes())) else { return false };
        let is_apps = match name {
            Some(name) => set == name.as_bytes(),
            None => WELL_KNOWN.iter().any(|known| set == known.as_bytes()),
        };
        let is_empty = value.iter().all(|byte| *byte == b'"');
        is_apps && !is_empty && !carries(request, set, value) && !is_expired(line.as_bytes(), now)
    })
}

fn carries(request: &HeaderMap, name: &[u8], value: &[u8]) -> bool {
    let lines = request.get_all(COOKIE).into_iter();
    let mut pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';')).filter_map(pair);
    pairs.any(|(carried, of)| carried == name && of == value)
}

/// What stands before the attributes.
fn first(line: &[u8]) -> &[u8] {
    &line[..memchr::memchr(b';', line).unwrap_or(line.len())]
}

fn pair(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(b'=', text)?;
    Some((text[..at].trim_ascii(), text[at + 1..].trim_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_begins_with_another_value_of_the_apps_cookie() {
        let table: [(Option<&str>, &str, &[&str], bool); 11] = [
            (None, "", &["JSESSIONID=new; Path=/; HttpOnly"], true),
            (None, "JSESSIONID=old", &["JSESSIONID=new; Path=/"], true),
            (None, "a=1; JSESSIONID=old", &["JSESSIONID=old"], false),
            (None, "JSESSIONID=old", &["JSESSIONID=; Max-Age=0"], false),
            (None, "", &["theme=dark"], false),
            // As Django and PHP take theirs away.
            (None, "sessionid=a", &["sessionid=\"\"; expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=0; Path=/"], false),
            (None, "PHPSESSID=b", &["PHPSESSID=deleted; expires=Thu, 01-Jan-1970 00:00:01 GMT; path=/"], false),
            (Some("sid"), "", &["JSESSIONID=new"], false),
            (Some("sid"), "sid=1", &["theme=dark", "sid=2; Secure"], true),
            (Some("sid"), "sid=1;sid=2", &["sid=2"], false),
            (None, "JSESSIONID", &["JSESSIONID", ";;", "="], false),
        ];
        for (name, cookie, set, expected) in table {
            let mut request = HeaderMap::new();
            request.insert(COOKIE, cookie.parse().expect("a value"));
            let mut reply = HeaderMap::new();
            set.iter().for_each(|line| {
                reply.append(SET_COOKIE, line.parse().expect("a value"));
            });
            assert_eq!(begins_session(name, &request, &reply, 1_700_000_000), expected, "{name:?} {cookie:?} {set:?}");
        }
    }
}
