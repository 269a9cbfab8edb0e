//! Our cookie in a request: finding its values, and taking it out before the backend sees the request.
//!
//! Reads what browsers and other clients really send: pairs between semicolons, blanks around them, values in quotes, any
//! bytes, empty pairs, several `Cookie` lines. Takes one pass, and allocates nothing of its own.

use std::fmt;
use std::iter;
use std::ops::Range;

use http::HeaderMap;
use http::header::{COOKIE, HeaderValue};
use memchr::memchr;
use memchr::memmem::Finder;

/// A browser sends one cookie of a name for each path and domain it was set for. Who sends more than this is not one.
const MOST_VALUES: usize = 16;

/// The name of our cookie, with a search for it prepared. Names are case-sensitive.
#[derive(Clone)]
pub struct CookieName {
    name: Box<str>,
    finder: Finder<'static>,
}

impl CookieName {
    /// Prepares the search.
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), finder: Finder::new(name).into_owned() }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The values of our cookie in all `Cookie` lines, in order, out of their quotes; at most the first 16.
    pub fn find<'a>(&'a self, headers: &'a HeaderMap) -> impl Iterator<Item = &'a [u8]> {
        let lines = headers.get_all(COOKIE).into_iter().map(HeaderValue::as_bytes);
        lines.flat_map(|line| self.values(line)).take(MOST_VALUES)
    }

    /// Whether a `Cookie` line holds our cookie. Most lines that do not are known by one search for the name.
    pub fn contains(&self, line: &[u8]) -> bool {
        self.places(line).next().is_some()
    }

    /// Appends a `Cookie` line without our cookies to `out`; says whether anything was left to append.
    ///
    /// Other cookies stay byte for byte and in order; what stands between them becomes `; `.
    pub fn strip_into(&self, line: &[u8], out: &mut Vec<u8>) -> bool {
        let begin = out.len();
        for pair in pairs(line) {
            if pair.is_empty() || self.place(pair).is_some() {
                continue;
            }
            if out.len() > begin {
                out.extend_from_slice(b"; ");
            }
            out.extend_from_slice(pair);
        }
        out.len() > begin
    }

    /// Where the values of our cookie stand in a `Cookie` line, without their quotes.
    ///
    /// Goes from one mention of the name to the next, and takes those that stand where a name does.
    pub(super) fn places<'a>(&'a self, line: &'a [u8]) -> impl Iterator<Item = Range<usize>> {
        let mut from = 0;
        iter::from_fn(move || {
            loop {
                let start = from + self.finder.find(line.get(from..)?)?;
                from = start + self.name.len().max(1);
                if !matches!(line[..start].trim_ascii_end().last(), None | Some(b';')) {
                    continue;
                }
                let pair = &line[start..start + memchr(b';', &line[start..]).unwrap_or(line.len() - start)];
                if let Some(value) = self.place(pair.trim_ascii_end()) {
                    from = start + pair.len();
                    return Some(start + value.start..start + value.end);
                }
            }
        })
    }

    /// Where the value stands in a pair without blanks around it. `Some` when the pair is ours.
    pub(super) fn place(&self, pair: &[u8]) -> Option<Range<usize>> {
        let after_name = pair.strip_prefix(self.name.as_bytes())?.trim_ascii_start();
        let value = after_name.strip_prefix(b"=")?.trim_ascii_start();
        let start = pair.len() - value.len();
        Some(match value {
            [b'"', .., b'"'] => start + 1..pair.len() - 1,
            _ => start..pair.len(),
        })
    }

    fn values<'a>(&'a self, line: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.places(line).map(|place| &line[place])
    }
}

impl fmt::Debug for CookieName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CookieName").field(&self.name).finish()
    }
}

/// What stands between the semicolons, without the blanks around it. A quote does not hide a semicolon: browsers read
/// it so, and so do most servers.
fn pairs(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    iter::from_fn(move || {
        let line = rest?;
        let end = memchr(b';', line);
        rest = end.map(|end| &line[end + 1..]);
        Some(line[..end.unwrap_or(line.len())].trim_ascii())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ours() -> CookieName {
        CookieName::new("stickpin")
    }

    fn headers(lines: &[&[u8]]) -> HeaderMap {
        lines.iter().map(|line| (COOKIE, HeaderValue::from_bytes(line).unwrap())).collect()
    }

    fn strip(line: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        ours().strip_into(line, &mut out).then_some(out)
    }

    /// Line, our values in it, what is left without them.
    type Row = (&'static [u8], &'static [&'static [u8]], Option<&'static [u8]>);

    #[test]
    fn lines_of_every_shape_are_read_and_stripped() {
        let table: &[Row] = &[
            (b"", &[], None),
            (b"stickpin=v", &[b"v"], None),
            (b"stickpin=", &[b""], None),
            (b"a=1; stickpin=v; b=2", &[b"v"], Some(b"a=1; b=2")),
            (b"stickpin=v; a=1", &[b"v"], Some(b"a=1")),
            (b"a=1; stickpin=v", &[b"v"], Some(b"a=1")),
            // No space, too much of it, a tab, a semicolon too many.
            (b"a=1;stickpin=v;b=2", &[b"v"], Some(b"a=1; b=2")),
            (b"  a=1 ;\t stickpin = v  ;  b=2  ", &[b"v"], Some(b"a=1; b=2")),
            (b"a=1; stickpin=v;", &[b"v"], Some(b"a=1")),
            (b";;stickpin=v;; ;a=1;;b=2;", &[b"v"], Some(b"a=1; b=2")),
            (b"; ;;stickpin=v", &[b"v"], None),
            // Several, and quotes.
            (b"stickpin=1; a=1; stickpin=2; stickpin=1", &[b"1", b"2", b"1"], Some(b"a=1")),
            (b"stickpin=\"v\"; a=\"x y\"", &[b"v"], Some(b"a=\"x y\"")),
            (b"stickpin=\"v; a=\"x\"", &[b"\"v"], Some(b"a=\"x\"")),
            (b"stickpin=\"; a=1", &[b"\""], Some(b"a=1")),
            (b"stickpin=\"\"", &[b""], None),
            // Not ours.
            (b"Stickpin=v; STICKPIN=v", &[], Some(b"Stickpin=v; STICKPIN=v")),
            (b"stickpin2=v; xstickpin=v; my-stickpin=v", &[], Some(b"stickpin2=v; xstickpin=v; my-stickpin=v")),
            (b"a=stickpin=v", &[], Some(b"a=stickpin=v")),
            (b"stickpin", &[], Some(b"stickpin")),
            (b"=stickpin; =; a", &[], Some(b"=stickpin; =; a")),
            // Odd bytes stay what they are.
            (
                b"a=\xff\xfe, {\"x\":1}; stickpin=\xff=,; \xc3\xa9=%00",
                &[b"\xff=,"],
                Some(b"a=\xff\xfe, {\"x\":1}; \xc3\xa9=%00"),
            ),
        ];
        for &(line, values, left) in table {
            let shown = String::from_utf8_lossy(line);
            assert_eq!(ours().find(&headers(&[line])).collect::<Vec<_>>(), values, "{shown}");
            assert_eq!(ours().contains(line), !values.is_empty(), "{shown}");
            assert_eq!(strip(line).as_deref(), left, "{shown}");
        }
    }

    #[test]
    fn all_cookie_lines_are_read_in_order() {
        let headers = headers(&[b"stickpin=1; a=1", b"b=2", b"stickpin=2"]);
        let name = ours();
        assert_eq!(name.find(&headers).collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(name.find(&HeaderMap::new()).count(), 0);
    }

    #[test]
    fn no_more_than_sixteen_are_looked_at_but_all_are_stripped() {
        let line = b"stickpin=v; ".repeat(5000);
        assert_eq!(ours().find(&headers(&[&line, &line])).count(), 16);
        assert_eq!(strip(&line), None);
    }

    #[test]
    fn thousands_of_other_cookies_do_not_hide_ours() {
        let mut line: Vec<u8> = (0..5000).flat_map(|n| format!("stickpin{n}=v; ").into_bytes()).collect();
        let others = line[..line.len() - 2].to_vec();
        line.extend_from_slice(b"stickpin=here");
        assert_eq!(ours().find(&headers(&[&line])).collect::<Vec<_>>(), [b"here"]);
        assert_eq!(strip(&line), Some(others));
    }

    #[test]
    fn a_value_of_64_kib_is_read_whole_and_stripped() {
        let value = vec![b'x'; 64 * 1024];
        let line = [b"a=1; stickpin=", value.as_slice(), b"; b=2"].concat();
        assert_eq!(ours().find(&headers(&[&line])).collect::<Vec<_>>(), [value.as_slice()]);
        assert_eq!(strip(&line).unwrap(), b"a=1; b=2");
    }

    #[test]
    fn what_was_in_the_buffer_stays() {
        let mut out = b"Cookie: ".to_vec();
        assert!(!ours().strip_into(b"stickpin=v", &mut out));
        assert_eq!(out, b"Cookie: ");
        assert!(ours().strip_into(b"a=1;stickpin=v;b=2", &mut out));
        assert_eq!(out, b"Cookie: a=1; b=2");
    }

    /// Pieces that make the interesting lines likely.
    fn line() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"stickpin".to_vec()),
            Just(b"stickpin=x".to_vec()),
            Just(b"=".to_vec()),
            Just(b";".to_vec()),
            Just(b"; ".to_vec()),
            Just(b"\"".to_vec()),
            Just(b" \t".to_vec()),
            proptest::collection::vec(prop_oneof![0x20..=0x7eu8, 0x80..=0xffu8], 0..6),
        ];
        proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    /// A second reading of the same grammar, as plain as can be.
    fn parse(line: &[u8]) -> Vec<Vec<u8>> {
        let pairs = line.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        pairs.filter(|pair| !pair.is_empty()).map(<[u8]>::to_vec).collect()
    }

    fn is_ours(pair: &[u8]) -> bool {
        pair.iter().position(|byte| *byte == b'=').is_some_and(|end| pair[..end].trim_ascii_end() == b"stickpin")
    }

    proptest! {
        #[test]
        fn what_is_left_is_the_same_cookies_without_ours(line in line()) {
            let left = strip(&line).unwrap_or_default();
            let expected: Vec<_> = parse(&line).into_iter().filter(|pair| !is_ours(pair)).collect();
            prop_assert_eq!(parse(&left), expected);
            prop_assert!(!ours().contains(&left));
            prop_assert_eq!(strip(&left).unwrap_or_default(), left, "stripping twice changes nothing");
            prop_assert_eq!(ours().contains(&line), parse(&line).iter().any(|pair| is_ours(pair)));
        }
    }
}
