//! Host and path to pool.

use std::collections::HashMap;

use crate::config::{self, HostPattern};

/// Longest host name that is looked at (RFC 1035 allows 255).
const HOST_LIMIT: usize = 256;

/// Routes, arranged for look-up: the exact host first, then the longest wildcard, then routes for any host; within a
/// host the longest path prefix. A host whose prefixes do not match falls through to the less exact ones.
#[derive(Debug, Default)]
pub struct Routes {
    exact: HashMap<Box<str>, Vec<Route>>,
    /// By `.example.com`.
    wildcard: HashMap<Box<str>, Vec<Route>>,
    any: Vec<Route>,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    prefix: Box<str>,
    /// Index of the pool.
    pub pool: usize,
    /// Whether pins count here.
    pub affinity: bool,
}

impl Routes {
    /// Arranges the routes of a file.
    pub fn new(routes: &[config::Route]) -> Self {
        let mut arranged = Self::default();
        for route in routes {
            let found = Route { prefix: (*route.path_prefix).into(), pool: route.pool, affinity: route.affinity };
            match &route.host {
                HostPattern::Any => arranged.any.push(found),
                HostPattern::Exact(host) => arranged.exact.entry((**host).into()).or_default().push(found),
                HostPattern::Wildcard(host) => arranged.wildcard.entry((**host).into()).or_default().push(found),
            }
        }
        let lists = arranged.exact.values_mut().chain(arranged.wildcard.values_mut()).chain([&mut arranged.any]);
        for list in lists {
            list.sort_by_key(|route| std::cmp::Reverse(route.prefix.len()));
        }
        arranged
    }

    /// The route of a request. Constant in the number of hosts, linear in the prefixes of one; no allocation.
    pub fn find(&self, host: &[u8], path: &str) -> Option<&Route> {
        if self.exact.is_empty() && self.wildcard.is_empty() {
            return longest(&self.any, path);
        }
        let mut lower = [0; HOST_LIMIT];
        let host = normal(host, &mut lower).unwrap_or_default();
        let exact = self.exact.get(host).and_then(|routes| longest(routes, path));
        exact.or_else(|| self.by_wildcard(host, path)).or_else(|| longest(&self.any, path))
    }

    fn by_wildcard(&self, host: &str, path: &str) -> Option<&Route> {
        if self.wildcard.is_empty() {
            return None;
        }
        let dots = host.bytes().enumerate().filter(|(_, byte)| *byte == b'.').map(|(at, _)| at);
        dots.filter(|at| *at > 0).find_map(|at| self.wildcard.get(&host[at..]).and_then(|routes| longest(routes, path)))
    }
}

/// Lower case, without port and trailing dot; `None` for what cannot be a host name.
fn normal<'a>(host: &[u8], lower: &'a mut [u8; HOST_LIMIT]) -> Option<&'a str> {
    let end = match memchr::memrchr(b':', host) {
        // The colons of an IPv6 address stand within brackets.
        Some(colon) if host[colon..].iter().skip(1).all(u8::is_ascii_digit) => colon,
        _ => host.len(),
    };
    let host = host[..end].strip_suffix(b".").unwrap_or(&host[..end]);
    let lower = lower.get_mut(..host.len())?;
    lower.copy_from_slice(host);
    lower.make_ascii_lowercase();
    std::str::from_utf8(lower).ok()
}

fn longest<'a>(routes: &'a [Route], path: &str) -> Option<&'a Route> {
    routes.iter().find(|route| is_below(path, &route.prefix))
}

/// Whether `path` is `prefix` or lies below it: `/shop` holds `/shop` and `/shop/x`, not `/shopping`.
fn is_below(path: &str, prefix: &str) -> bool {
    match path.strip_prefix(prefix) {
        Some(rest) => rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(list: &[(HostPattern, &str)]) -> Routes {
        let route = |(pool, (host, prefix)): (usize, &(HostPattern, &str))| config::Route {
            host: host.clone(),
            path_prefix: (*prefix).into(),
            pool,
            affinity: true,
        };
        Routes::new(&list.iter().enumerate().map(route).collect::<Vec<_>>())
    }

    #[test]
    fn the_most_exact_host_wins_and_then_the_longest_prefix() {
        let routes = routes(&[
            (HostPattern::Any, "/"),
            (HostPattern::Exact("shop.example.com".into()), "/"),
            (HostPattern::Exact("shop.example.com".into()), "/api"),
            (HostPattern::Wildcard(".example.com".into()), "/"),
            (HostPattern::Wildcard(".eu.example.com".into()), "/deep/"),
            (HostPattern::Exact("only.example.org".into()), "/only"),
        ]);
        let table = [
            ("shop.example.com", "/", 1),
            ("SHOP.example.COM:8080", "/x", 1),
            ("shop.example.com.", "/api", 2),
            ("shop.example.com", "/api/v1", 2),
            ("shop.example.com", "/apiary", 1),
            ("a.example.com", "/", 3),
            ("a.b.example.com", "/", 3),
            ("a.eu.example.com", "/deep/x", 4),
            ("a.eu.example.com", "/deep", 3),
            ("example.com", "/", 0),
            (".example.com", "/", 0),
            ("other.org", "/", 0),
            ("only.example.org", "/else", 0),
            ("only.example.org", "/only", 5),
            ("", "/", 0),
            ("[::1]:80", "/", 0),
            ("\u{ff}.example.com", "/", 3),
        ];
        for (host, path, expected) in table {
            let found = routes.find(host.as_bytes(), path).map(|route| route.pool);
            assert_eq!(found, Some(expected), "{host} {path}");
        }
        assert_eq!(routes.find(&[b'a'; 5000], "/").map(|route| route.pool), Some(0));
        assert_eq!(routes.find(b"\xff\xfe", "/").map(|route| route.pool), Some(0));
    }

    #[test]
    fn no_match_is_no_route() {
        let routes = routes(&[(HostPattern::Exact("shop.example.com".into()), "/shop")]);
        assert_eq!(routes.find(b"shop.example.com", "/"), None);
        assert_eq!(routes.find(b"other.example.com", "/shop"), None);
    }
}
