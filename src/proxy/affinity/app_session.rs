//! The app's own session id: finding it in a request, and noticing that a reply issues one or takes it away.
//!
//! Ids are read as bytes of whoever sent them. Finding one takes one pass over each source, and allocates nothing.
//!
//! With [`HomeBy::Prefix`] the client's cookie holds the name of its home in front of the app's value. The app never sees
//! that name: it is put in front of what the app sets, and cut off what the client sends.

use bytes::Bytes;
use cookie::Cookie;
use http::header::{Entry, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::cookie::CookieName;
use super::id_parts::split_prefix;
use super::parameter::{PathParameter, QueryParameter};
use crate::config::{AppSessionAffinity, HomeBy, SessionSource};

/// Every id is looked up, so a request may not carry any number of them.
const MOST_IDS: usize = 16;

/// Longer than any session id. What is longer holds the session itself, and needs no pin.
const LONGEST_ID: usize = 512;

/// Finds the session ids of one pool's app, with the searches for them prepared. Made once a snapshot.
#[derive(Clone, Debug)]
pub struct SessionReader {
    sources: Vec<Source>,
    home_by: HomeBy,
}

#[derive(Clone, Debug)]
enum Source {
    Cookie(CookieName),
    Header(HeaderName),
    Path(PathParameter),
    Query(QueryParameter),
}

/// A session id that a reply issues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IssuedId<'a> {
    /// The id as the client will send it, but for a prefix of ours.
    pub id: &'a [u8],
    /// How it came.
    pub by: IssuedBy,
}

/// What a session id was issued by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IssuedBy {
    /// A `Set-Cookie`.
    Cookie,
    /// A header of its own.
    Header,
}

impl SessionReader {
    /// Prepares the searches.
    pub fn new(settings: &AppSessionAffinity) -> Self {
        let source = |source: &SessionSource| match source {
            SessionSource::Cookie(name) => Source::Cookie(CookieName::new(name)),
            SessionSource::Header(name) => Source::Header(name.clone()),
            SessionSource::PathParameter(name) => Source::Path(PathParameter::new(name)),
            SessionSource::QueryParameter(name) => Source::Query(QueryParameter::new(name)),
        };
        Self { sources: settings.sources.iter().map(source).collect(), home_by: settings.home_by }
    }

    /// The ids that a request carries, at most the first 16, in the order of the sources. What has no byte, or more than
    /// 512, is no id.
    ///
    /// With [`HomeBy::Prefix`] they are the whole values of the cookie, prefix included, and of any length: nothing is kept
    /// of them, and an app's cookie may hold the session itself.
    pub fn ids<'a>(&'a self, headers: &'a HeaderMap, path_and_query: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let values = self.sources.iter().flat_map(move |source| source.values(headers, path_and_query));
        values.filter(|value| self.is_id(value)).take(MOST_IDS)
    }

    /// The id that a reply issues: by the first source that does, and of several `Set-Cookie` or header lines by the last.
    /// `now` is in seconds since the Unix epoch, for a `Set-Cookie` that only expires an old one.
    ///
    /// An id in a path or query is issued inside a body; such apps issue it in a cookie first.
    pub fn id_of_reply<'a>(&'a self, headers: &'a HeaderMap, now: u32) -> Option<IssuedId<'a>> {
        self.sources.iter().find_map(|source| {
            let (id, by) = match source {
                Source::Cookie(name) => {
                    let kept = sets(name, headers).filter(|set| !set.takes_away(now)).map(|set| set.value());
                    (kept.filter(|value| self.is_id(value)).last(), IssuedBy::Cookie)
                }
                Source::Header(name) => {
                    (header_values(name, headers).filter(|value| self.is_id(value)).last(), IssuedBy::Header)
                }
                Source::Path(_) | Source::Query(_) => return None,
            };
            id.map(|id| IssuedId { id, by })
        })
    }

    /// Whether a reply ends the client's session: it takes the session cookie away, and issues no other id in its place.
    pub fn ended(&self, headers: &HeaderMap, now: u32) -> bool {
        let mut names = self.sources.iter().filter_map(Source::cookie);
        names.any(|name| sets(name, headers).any(|set| set.takes_away(now))) && self.id_of_reply(headers, now).is_none()
    }

    /// Appends a request's `Cookie` line to `out`, with the prefix cut off the values of our session cookie and everything
    /// else byte for byte. Without [`HomeBy::Prefix`] nothing is cut off. Says whether there was anything to append.
    pub fn strip_prefix_into(&self, line: &[u8], out: &mut Vec<u8>) -> bool {
        let mut copied = 0;
        for place in self.prefixed().into_iter().flat_map(|name| name.places(line)) {
            if let Some((_, rest)) = split_prefix(&line[place.clone()]) {
                out.extend_from_slice(&line[copied..place.start]);
                copied = place.end - rest.len();
            }
        }
        out.extend_from_slice(&line[copied..]);
        !line.is_empty()
    }

    /// Puts a backend's name in front of each value that a reply gives to the session cookie: `app1~VALUE`. A cookie that
    /// is taken away stays as it is, and so does everything without [`HomeBy::Prefix`].
    ///
    /// The app never sees a prefix, so what looks like one in its reply is part of its value.
    pub fn prefix_reply(&self, headers: &mut HeaderMap, backend: &str, now: u32) {
        let Some(name) = self.prefixed() else { return };
        let Entry::Occupied(mut lines) = headers.entry(SET_COOKIE) else { return };
        for line in lines.iter_mut() {
            let Some(set) = Set::read(name, line.as_bytes()).filter(|set| !set.takes_away(now)) else { continue };
            let (before, after) = set.line.split_at(set.value_start);
            let prefixed = Bytes::from([before, backend.as_bytes(), b"~", after].concat());
            *line = HeaderValue::from_maybe_shared(prefixed).expect("a backend's name has no control character");
        }
    }

    /// The cookie whose values hold the home's name.
    fn prefixed(&self) -> Option<&CookieName> {
        if self.home_by == HomeBy::Prefix { self.sources.iter().find_map(Source::cookie) } else { None }
    }

    fn is_id(&self, value: &[u8]) -> bool {
        !value.is_empty() && (value.len() <= LONGEST_ID || self.home_by == HomeBy::Prefix)
    }
}

impl Source {
    fn cookie(&self) -> Option<&CookieName> {
        if let Self::Cookie(name) = self { Some(name) } else { None }
    }

    /// What a request carries here, in order.
    fn values<'a>(&'a self, headers: &'a HeaderMap, path_and_query: &'a str) -> impl Iterator<Item = &'a [u8]> {
        // One of the four has values. That keeps it one type without a box.
        let (cookie, header, path, query) = match self {
            Self::Cookie(name) => (Some(name.find(headers)), None, None, None),
            Self::Header(name) => (None, Some(header_values(name, headers)), None, None),
            Self::Path(parameter) => (None, None, Some(parameter.values(path_and_query)), None),
            Self::Query(parameter) => (None, None, None, Some(parameter.values(path_and_query))),
        };
        let of_headers = cookie.into_iter().flatten().chain(header.into_iter().flatten());
        of_headers.chain(path.into_iter().flatten()).chain(query.into_iter().flatten())
    }
}

fn header_values<'a>(name: &HeaderName, headers: &'a HeaderMap) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    headers.get_all(name).into_iter().map(|value| value.as_bytes().trim_ascii())
}

/// The `Set-Cookie` lines of a cookie, in order.
fn sets<'a>(name: &CookieName, headers: &'a HeaderMap) -> impl Iterator<Item = Set<'a>> {
    headers.get_all(SET_COOKIE).into_iter().filter_map(|line| Set::read(name, line.as_bytes()))
}

/// A `Set-Cookie` line.
struct Set<'a> {
    line: &'a [u8],
    /// The value, out of its quotes.
    value_start: usize,
    value_end: usize,
}

impl<'a> Set<'a> {
    /// `Some` when the line is of this cookie.
    fn read(name: &CookieName, line: &'a [u8]) -> Option<Self> {
        let pair = &line[..memchr::memchr(b';', line).unwrap_or(line.len())];
        let start = pair.len() - pair.trim_ascii_start().len();
        let value = name.place(pair.trim_ascii())?;
        Some(Self { line, value_start: start + value.start, value_end: start + value.end })
    }

    fn value(&self) -> &'a [u8] {
        &self.line[self.value_start..self.value_end]
    }

    /// Whether the client will not send the cookie again: it has no value, or no time to live.
    fn takes_away(&self, now: u32) -> bool {
        self.value().is_empty() || is_expired(self.line, now)
    }
}

/// Whether a `Set-Cookie` line has no time to live. As RFC 6265 says, `Max-Age` wins over `Expires`.
pub(super) fn is_expired(line: &[u8], now: u32) -> bool {
    // A line without attributes needs no parser.
    if memchr::memchr(b';', line).is_none() {
        return false;
    }
    let Ok(cookie) = Cookie::parse(String::from_utf8_lossy(line)) else { return false };
    match cookie.max_age() {
        Some(age) => !age.is_positive(),
        None => cookie.expires_datetime().is_some_and(|at| at.unix_timestamp() <= i64::from(now)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const NOW: u32 = 1_700_000_000;

    fn reader(home_by: HomeBy, sources: &[SessionSource]) -> SessionReader {
        SessionReader::new(&AppSessionAffinity {
            sources: sources.to_vec(),
            home_by,
            idle_timeout: Duration::from_secs(1800),
            max_lifetime: Duration::from_secs(43_200),
        })
    }

    fn cookie() -> SessionSource {
        SessionSource::Cookie("JSESSIONID".into())
    }

    fn everywhere() -> SessionReader {
        let header = SessionSource::Header(HeaderName::from_static("mcp-session-id"));
        let path = SessionSource::PathParameter("jsessionid".into());
        reader(HomeBy::Learn, &[cookie(), header, path, SessionSource::QueryParameter("sid".into())])
    }

    fn prefixing() -> SessionReader {
        reader(HomeBy::Prefix, &[cookie()])
    }

    fn headers<N: TryInto<HeaderName>>(lines: impl IntoIterator<Item = (N, impl AsRef<[u8]>)>) -> HeaderMap {
        let line = |(name, value): (N, _)| {
            let name = name.try_into().unwrap_or_else(|_| panic!("a header's name"));
            (name, HeaderValue::from_bytes(AsRef::as_ref(&value)).unwrap())
        };
        lines.into_iter().map(line).collect()
    }

    fn ids(reader: &SessionReader, lines: &[(&str, &[u8])], target: &str) -> Vec<Vec<u8>> {
        reader.ids(&headers(lines.iter().copied()), target).map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn ids_are_found_in_the_order_of_the_sources() {
        type Row<'a> = (&'a [(&'a str, &'a [u8])], &'a str, &'a [&'a [u8]]);
        let longest = [b'x'; 512];
        let cookie_line = [b"JSESSIONID=".as_slice(), &longest].concat();
        let one_more = [b"JSESSIONID=x".as_slice(), &longest].concat();
        let long_target = format!("/;jsessionid={}?sid={}", "x".repeat(513), "y".repeat(64 << 10));
        let table: &[Row<'_>] = &[
            (&[], "/", &[]),
            (&[("cookie", b"JSESSIONID=A")], "/", &[b"A"]),
            (
                &[("mcp-session-id", b"B"), ("cookie", b"JSESSIONID=A")],
                "/x;jsessionid=C/y?sid=D",
                &[b"A", b"B", b"C", b"D"],
            ),
            // Duplicates and odd spellings.
            (&[("cookie", b"JSESSIONID=A; JSESSIONID=\"B\";JSESSIONID=A")], "/", &[b"A", b"B", b"A"]),
            (&[("cookie", b"JSESSIONID=A"), ("cookie", b"b=1; JSESSIONID=B")], "/", &[b"A", b"B"]),
            (&[("mcp-session-id", b"A"), ("mcp-session-id", b" B ")], "/", &[b"A", b"B"]),
            (&[("cookie", b"jsessionid=A; JSESSIONID2=B; XJSESSIONID=C")], "/?SID=D", &[]),
            (&[("cookie", b"JSESSIONID=\xff\x80,~")], "/", &[b"\xff\x80,~"]),
            // Empty is no id, and the next one is.
            (&[("cookie", b"JSESSIONID=; JSESSIONID=\"\"; JSESSIONID=A"), ("mcp-session-id", b"")], "/?sid=", &[b"A"]),
            // The longest, and one byte more.
            (&[("cookie", &cookie_line)], "/", &[&longest]),
            (&[("cookie", &one_more)], "/?sid=D", &[b"D"]),
            (&[("mcp-session-id", &[b'x'; 64 << 10])], &long_target, &[]),
        ];
        for (lines, target, expected) in table {
            assert_eq!(ids(&everywhere(), lines, target), *expected, "{target:.99}");
        }
    }

    #[test]
    fn the_order_is_that_of_the_settings() {
        let reader = reader(HomeBy::Learn, &[SessionSource::QueryParameter("sid".into()), cookie()]);
        assert_eq!(ids(&reader, &[("cookie", b"JSESSIONID=A")], "/?sid=D"), [b"D", b"A"]);
    }

    #[test]
    fn no_more_than_sixteen_are_looked_at() {
        let line = b"JSESSIONID=A; ".repeat(5000);
        let target = format!("/{}?sid=D", ";jsessionid=C".repeat(5000));
        assert_eq!(ids(&everywhere(), &[("cookie", &line)], &target), vec![b"A"; 16]);
        assert_eq!(ids(&everywhere(), &[], &target), vec![b"C"; 16]);
    }

    #[test]
    fn thousands_of_other_cookies_hide_nothing() {
        let mut line: Vec<u8> = (0..5000).flat_map(|n| format!("JSESSIONID{n}=v; ").into_bytes()).collect();
        line.extend_from_slice(b"JSESSIONID=here");
        assert_eq!(ids(&everywhere(), &[("cookie", &line)], "/"), [b"here"]);
    }

    #[test]
    fn a_reply_issues_an_id_by_cookie_or_header_or_ends_the_session() {
        enum Says {
            Nothing,
            Cookie(&'static [u8]),
            Header(&'static [u8]),
            Ended,
        }
        type Row<'a> = (&'a [(&'a str, &'a [u8])], Says);
        const SET: &str = "set-cookie";
        const OWN: &str = "mcp-session-id";
        let long = [b"JSESSIONID=".as_slice(), &[b'x'; 64 << 10]].concat();
        let table: &[Row<'_>] = &[
            (&[], Says::Nothing),
            (&[(SET, b"theme=dark")], Says::Nothing),
            (&[(SET, b"JSESSIONID=A; Path=/; HttpOnly")], Says::Cookie(b"A")),
            (&[(SET, b" JSESSIONID = A ;Path=/")], Says::Cookie(b"A")),
            (&[(SET, b"JSESSIONID=\"A\"; Path=/")], Says::Cookie(b"A")),
            (&[(SET, b"JSESSIONID=\xff=\x80; Path=/")], Says::Cookie(b"\xff=\x80")),
            (&[(SET, b"JSESSIONID=A; max-age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT")], Says::Cookie(b"A")),
            (&[(SET, b"JSESSIONID=A; Max-Age=soon; Expires=never")], Says::Cookie(b"A")),
            (&[(SET, b"JSESSIONID=A; Expires=Wed, 15 Nov 2023 00:00:00 GMT")], Says::Cookie(b"A")),
            // The last of several, whatever is taken away beside it.
            (&[(SET, b"JSESSIONID=A"), (SET, b"a=1"), (SET, b"JSESSIONID=B; Path=/x")], Says::Cookie(b"B")),
            (&[(SET, b"JSESSIONID=A"), (SET, b"JSESSIONID=; Max-Age=0; Path=/old")], Says::Cookie(b"A")),
            (&[(OWN, b"A"), (OWN, b"B")], Says::Header(b"B")),
            (&[(OWN, b"B"), (SET, b"JSESSIONID=A")], Says::Cookie(b"A")),
            (&[(OWN, b"B"), (SET, b"JSESSIONID=; Max-Age=0")], Says::Header(b"B")),
            // Taken away.
            (&[(SET, b"JSESSIONID=")], Says::Ended),
            (&[(SET, b"JSESSIONID=\"\"; Path=/")], Says::Ended),
            (&[(SET, b"JSESSIONID=A; Max-Age=0")], Says::Ended),
            (&[(SET, b"JSESSIONID=A; MAX-AGE=-1; Expires=Fri, 01 Jan 2100 00:00:00 GMT")], Says::Ended),
            (&[(SET, b"JSESSIONID=deleted; expires=Thu, 01-Jan-1970 00:00:01 GMT; path=/")], Says::Ended),
            (&[(SET, b"JSESSIONID=A; Expires=Tue, 14 Nov 2023 22:13:20 GMT")], Says::Ended),
            (&[(SET, b"JSESSIONID=\xff; Max-Age=0")], Says::Ended),
            // No id.
            (&[(SET, b"JSESSIONID"), (SET, b";;"), (SET, b"="), (SET, b"")], Says::Nothing),
            (&[(SET, b"jsessionid=A; JSESSIONID=B"), (SET, b"a=JSESSIONID=A")], Says::Nothing),
            (&[(SET, &long), (OWN, b"")], Says::Nothing),
        ];
        for (lines, says) in table {
            let (id, ended) = match *says {
                Says::Nothing => (None, false),
                Says::Cookie(id) => (Some(IssuedId { id, by: IssuedBy::Cookie }), false),
                Says::Header(id) => (Some(IssuedId { id, by: IssuedBy::Header }), false),
                Says::Ended => (None, true),
            };
            let reply = headers(lines.iter().copied());
            let reader = everywhere();
            let shown = lines.iter().map(|(_, line)| String::from_utf8_lossy(&line[..line.len().min(99)]));
            let shown: Vec<_> = shown.collect();
            assert_eq!(reader.id_of_reply(&reply, NOW), id, "{shown:?}");
            assert_eq!(reader.ended(&reply, NOW), ended, "{shown:?}");
        }
    }

    fn strip(reader: &SessionReader, line: &[u8]) -> Vec<u8> {
        let mut out = b"cookie: ".to_vec();
        assert_eq!(reader.strip_prefix_into(line, &mut out), !line.is_empty());
        out.split_off(b"cookie: ".len())
    }

    #[test]
    fn the_prefix_is_cut_off_and_everything_else_stays_as_it_was() {
        let table: &[(&[u8], &[u8])] = &[
            (b"", b""),
            (b"JSESSIONID=app1~v", b"JSESSIONID=v"),
            (b"a=app1~1;  JSESSIONID =\t\"app1~v\" ;;b=2; ", b"a=app1~1;  JSESSIONID =\t\"v\" ;;b=2; "),
            (b"JSESSIONID=app1~a~b", b"JSESSIONID=a~b"),
            (b"JSESSIONID=app1~", b"JSESSIONID="),
            (b"JSESSIONID=app1~1; JSESSIONID=2; JSESSIONID=app2~3", b"JSESSIONID=1; JSESSIONID=2; JSESSIONID=3"),
            (b"JSESSIONID=app1~\xff\x80", b"JSESSIONID=\xff\x80"),
            // No prefix, or not our cookie.
            (b"JSESSIONID=v; JSESSIONID=~v; JSESSIONID=a b~v", b"JSESSIONID=v; JSESSIONID=~v; JSESSIONID=a b~v"),
            (b"jsessionid=app1~v; XJSESSIONID=app1~v", b"jsessionid=app1~v; XJSESSIONID=app1~v"),
            (b"JSESSIONID", b"JSESSIONID"),
        ];
        for (line, expected) in table {
            assert_eq!(strip(&prefixing(), line), *expected, "{}", String::from_utf8_lossy(line));
            assert_eq!(strip(&everywhere(), line), *line, "without the prefix mode");
        }
        let long = [b"JSESSIONID=app1~".as_slice(), &[b'x'; 64 << 10]].concat();
        assert_eq!(strip(&prefixing(), &long).len(), long.len() - b"app1~".len());
        assert_eq!(strip(&prefixing(), &b"JSESSIONID=app1~v; ".repeat(5000)), b"JSESSIONID=v; ".repeat(5000));
    }

    #[test]
    fn the_values_of_a_prefixed_cookie_may_be_of_any_length() {
        let long = [b"JSESSIONID=app1~".as_slice(), &[b'x'; 4000]].concat();
        assert_eq!(ids(&prefixing(), &[("cookie", &long)], "/"), [&long["JSESSIONID=".len()..]]);
    }

    fn prefix(reader: &SessionReader, lines: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut reply = headers(lines.iter().map(|line| ("set-cookie", line)));
        reader.prefix_reply(&mut reply, "app1", NOW);
        reply.get_all(SET_COOKIE).iter().map(|line| line.as_bytes().to_vec()).collect()
    }

    #[test]
    fn a_reply_gets_the_prefix_in_front_of_each_new_value() {
        let table: &[(&[u8], &[u8])] = &[
            (b"JSESSIONID=v", b"JSESSIONID=app1~v"),
            (b"JSESSIONID=v; Path=/; HttpOnly", b"JSESSIONID=app1~v; Path=/; HttpOnly"),
            (b"JSESSIONID=\"v\";Path=/", b"JSESSIONID=\"app1~v\";Path=/"),
            (b"  JSESSIONID = v ; Path=/", b"  JSESSIONID = app1~v ; Path=/"),
            (b"JSESSIONID=\xff\x80", b"JSESSIONID=app1~\xff\x80"),
            (b"JSESSIONID=app1~v", b"JSESSIONID=app1~app1~v"),
            // Taken away, or another cookie.
            (b"JSESSIONID=; Path=/", b"JSESSIONID=; Path=/"),
            (b"JSESSIONID=\"\"", b"JSESSIONID=\"\""),
            (b"JSESSIONID=v; Max-Age=0", b"JSESSIONID=v; Max-Age=0"),
            (
                b"JSESSIONID=deleted; expires=Thu, 01-Jan-1970 00:00:01 GMT",
                b"JSESSIONID=deleted; expires=Thu, 01-Jan-1970 00:00:01 GMT",
            ),
            (b"theme=JSESSIONID=v", b"theme=JSESSIONID=v"),
            (b"jsessionid=v", b"jsessionid=v"),
            (b"JSESSIONID", b"JSESSIONID"),
            (b"", b""),
        ];
        for (line, expected) in table {
            let shown = String::from_utf8_lossy(line);
            assert_eq!(
                prefix(&prefixing(), &[b"a=1", line, b"JSESSIONID=w"]),
                [b"a=1".as_slice(), expected, b"JSESSIONID=app1~w"],
                "{shown}"
            );
            assert_eq!(prefix(&everywhere(), &[line]), [*line], "without the prefix mode: {shown}");
        }
        assert!(prefix(&prefixing(), &[]).is_empty());
    }

    /// Pieces that make the interesting lines likely.
    fn line() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"JSESSIONID".to_vec()),
            Just(b"JSESSIONID=".to_vec()),
            Just(b"JSESSIONID=app1~v".to_vec()),
            Just(b"app2~".to_vec()),
            Just(b"=".to_vec()),
            Just(b"; ".to_vec()),
            Just(b";".to_vec()),
            Just(b"\"".to_vec()),
            Just(b" \t".to_vec()),
            Just(b"; Max-Age=".to_vec()),
            Just(b"; Expires=".to_vec()),
            proptest::collection::vec(prop_oneof![0x20..=0x7eu8, 0x80..=0xffu8], 0..6),
        ];
        proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    /// All values, with no bound on their number.
    fn values(line: &[u8]) -> Vec<Vec<u8>> {
        CookieName::new("JSESSIONID").places(line).map(|place| line[place].to_vec()).collect()
    }

    fn others(line: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        CookieName::new("JSESSIONID").strip_into(line, &mut out).then_some(out)
    }

    proptest! {
        #[test]
        fn stripping_cuts_one_prefix_off_each_of_our_values_and_nothing_else(line in line()) {
            let stripped = strip(&prefixing(), &line);
            let without = |value: Vec<u8>| split_prefix(&value).map_or(value.clone(), |(_, rest)| rest.to_vec());
            // A value may begin with a blank or end a quote once its prefix is gone; a reader takes those off.
            let bare = |value: Vec<u8>| {
                let value = value.trim_ascii();
                value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value).to_vec()
            };
            let expected: Vec<_> = values(&line).into_iter().map(without).map(bare).collect();
            prop_assert_eq!(values(&stripped).into_iter().map(bare).collect::<Vec<_>>(), expected);
            prop_assert_eq!(others(&stripped), others(&line));
        }

        #[test]
        fn a_client_sends_back_what_the_app_set(value in "[!#-+\\--:<-\\[\\]-~]{1,40}", name in "[a-z0-9.:-]{1,20}") {
            let reader = prefixing();
            let mut reply = headers([("set-cookie", format!("JSESSIONID={value}; Path=/"))]);
            reader.prefix_reply(&mut reply, &name, NOW);
            let set = reply[SET_COOKIE].to_str().unwrap().to_owned();
            let sent = format!("a=1; {}", set.split(';').next().unwrap());
            let id = ids(&reader, &[("cookie", sent.as_bytes())], "/").remove(0);
            prop_assert_eq!(split_prefix(&id), Some((name.as_str(), value.as_bytes())));
            prop_assert_eq!(strip(&reader, sent.as_bytes()), format!("a=1; JSESSIONID={value}").into_bytes());
        }

        #[test]
        fn no_line_makes_it_panic(line in line(), target in "[/;?&=a-d]{0,20}(;jsessionid=|sid=|\\?|\\PC){0,8}") {
            for reader in [everywhere(), prefixing()] {
                let mut both = headers([("cookie", &line), ("set-cookie", &line), ("mcp-session-id", &line)]);
                let count = reader.ids(&both, &target).inspect(|id| assert!(!id.is_empty())).count();
                prop_assert!(count <= MOST_IDS);
                let issued = reader.id_of_reply(&both, NOW).is_some();
                prop_assert!(!(issued && reader.ended(&both, NOW)));
                reader.prefix_reply(&mut both, "app1", NOW);
            }
        }
    }
}
