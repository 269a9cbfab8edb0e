//! Parameters in the target of a request: `;NAME=VALUE` in its path, `NAME=VALUE` in its query.
//!
//! Names are case-sensitive, and values are taken as they stand, without decoding: whoever sends the same bytes again is
//! known again. Takes one pass, and allocates nothing.

use memchr::memmem::Finder;
use memchr::{memchr, memchr2};

/// A parameter of a path segment, as in `/shop;jsessionid=ABC/cart`.
#[derive(Clone, Debug)]
pub(super) struct PathParameter {
    /// `;NAME=`
    finder: Finder<'static>,
}

impl PathParameter {
    /// Prepares the search.
    pub(super) fn new(name: &str) -> Self {
        Self { finder: Finder::new(&format!(";{name}=")).into_owned() }
    }

    /// The values in all segments, in order.
    pub(super) fn values<'a>(&'a self, path_and_query: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let (path, _) = split(path_and_query);
        self.finder.find_iter(path).map(move |start| {
            let value = &path[start + self.finder.needle().len()..];
            &value[..memchr2(b';', b'/', value).unwrap_or(value.len())]
        })
    }
}

/// A parameter of the query, as in `/cart?sid=ABC&page=2`.
#[derive(Clone, Debug)]
pub(super) struct QueryParameter {
    /// `NAME=`
    finder: Finder<'static>,
}

impl QueryParameter {
    /// Prepares the search.
    pub(super) fn new(name: &str) -> Self {
        Self { finder: Finder::new(&format!("{name}=")).into_owned() }
    }

    /// The values, in order.
    pub(super) fn values<'a>(&'a self, path_and_query: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let (_, query) = split(path_and_query);
        let starts = self.finder.find_iter(query);
        starts.filter(|start| matches!(query[..*start].last(), None | Some(b'&'))).map(move |start| {
            let value = &query[start + self.finder.needle().len()..];
            &value[..memchr(b'&', value).unwrap_or(value.len())]
        })
    }
}

/// What stands before the first `?`, and after it.
fn split(path_and_query: &str) -> (&[u8], &[u8]) {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    (path.as_bytes(), query.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<'a>(values: impl Iterator<Item = &'a [u8]>) -> Vec<&'a str> {
        values.map(|value| str::from_utf8(value).unwrap()).collect()
    }

    #[test]
    fn a_path_parameter_ends_with_its_parameter_its_segment_or_its_path() {
        let table: &[(&str, &[&str])] = &[
            ("/", &[]),
            ("", &[]),
            ("*", &[]),
            ("/cart;jsessionid=ABC", &["ABC"]),
            ("/cart;jsessionid=ABC?jsessionid=X;jsessionid=Y", &["ABC"]),
            ("/shop;jsessionid=ABC.app1/cart;x=1", &["ABC.app1"]),
            ("/shop;a=b;jsessionid=X;c=d", &["X"]),
            ("/a;jsessionid=1/b;jsessionid=2;jsessionid=3", &["1", "2", "3"]),
            ("/a;jsessionid=", &[""]),
            ("/a;jsessionid=;b/", &[""]),
            ("/a;jsessionid==x", &["=x"]),
            ("/a;jsessionid;jsessionid=x", &["x"]),
            // Not it.
            ("/jsessionid=ABC", &[]),
            ("/a;JSESSIONID=ABC;xjsessionid=ABC;jsessionid2=ABC", &[]),
            ("/a?;jsessionid=ABC", &[]),
            ("/a%3Bjsessionid=ABC", &[]),
        ];
        let parameter = PathParameter::new("jsessionid");
        for (target, expected) in table {
            assert_eq!(text(parameter.values(target)), *expected, "{target}");
        }
    }

    #[test]
    fn a_query_parameter_ends_with_the_next_ampersand() {
        let table: &[(&str, &[&str])] = &[
            ("/", &[]),
            ("", &[]),
            ("/?", &[]),
            ("/?sid=ABC", &["ABC"]),
            ("/?a=1&sid=ABC&b=2", &["ABC"]),
            ("/?sid=1&sid=2&&sid=&sid=3", &["1", "2", "", "3"]),
            ("/?sid=a?b;c/d=e", &["a?b;c/d=e"]),
            ("/??sid=1&sid=%41", &["%41"]),
            // Not it.
            ("/sid=ABC", &[]),
            ("/sid=ABC?sid", &[]),
            ("/?sid&SID=1&xsid=1&sid2=1&a=sid=1&my-sid=1", &[]),
        ];
        let parameter = QueryParameter::new("sid");
        for (target, expected) in table {
            assert_eq!(text(parameter.values(target)), *expected, "{target}");
        }
    }

    #[test]
    fn long_targets_are_read_once() {
        let path = "/;jsessionid".repeat(8000) + ";jsessionid=" + &"x".repeat(64 << 10) + "/end";
        assert_eq!(text(PathParameter::new("jsessionid").values(&path)), ["x".repeat(64 << 10)]);
        let query = "/?".to_owned() + &"a=sid=sid=&".repeat(8000) + "sid=" + &"x".repeat(64 << 10);
        assert_eq!(text(QueryParameter::new("sid").values(&query)), ["x".repeat(64 << 10)]);
    }
}
