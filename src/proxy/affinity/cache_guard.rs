//! Keeps shared caches from handing one client's pin to another.
//!
//! A cache may store a reply together with its `Set-Cookie` and give both to everybody. So a reply that gets our cookie
//! becomes `private`: browsers still cache it as the app wished, shared caches do not. See RFC 9111 §5.2.2 and, for the
//! headers that speak to one kind of cache only, RFC 9213.

use http::HeaderMap;
use http::header::{CACHE_CONTROL, HeaderValue};

/// Makes a reply with our `Set-Cookie` unfit for shared caches. Call it only for such replies.
///
/// `Cache-Control` that says `private` or `no-store` stays as it is. Otherwise what speaks to shared caches only is taken
/// out, the rest stays, and `private` is put in front.
pub fn guard(headers: &mut HeaderMap) {
    guard_targeted(headers);
    if headers.get_all(CACHE_CONTROL).iter().any(|line| is_closed(line.as_bytes())) {
        return;
    }
    let mut line = b"private".to_vec();
    for directive in headers.get_all(CACHE_CONTROL).iter().flat_map(|line| directives(line.as_bytes())) {
        if is_kept(directive) {
            line.extend_from_slice(b", ");
            line.extend_from_slice(directive);
        }
    }
    // Made of pieces of valid values, so it is one; should it not be, `private` alone is safe.
    let value = HeaderValue::from_maybe_shared(bytes::Bytes::from(line));
    headers.insert(CACHE_CONTROL, value.unwrap_or(HeaderValue::from_static("private")));
}

/// A cache that knows one of these headers no longer looks at `Cache-Control`. They are not added, only answered.
fn guard_targeted(headers: &mut HeaderMap) {
    for (name, value) in headers.iter_mut() {
        // Vendors put their name in front: `Cloudflare-CDN-Cache-Control`.
        let closed = if name.as_str().ends_with("cdn-cache-control") {
            "private"
        } else if name == "surrogate-control" {
            // The Edge Architecture Specification, where it comes from, knows `no-store` and not `private`.
            "no-store"
        } else {
            continue;
        };
        if !is_closed(value.as_bytes()) {
            *value = HeaderValue::from_static(closed);
        }
    }
}

/// Whether no shared cache may store the reply.
fn is_closed(line: &[u8]) -> bool {
    // `private="Set-Cookie"` speaks of single headers, and not every cache reads it so: it does not count.
    directives(line).any(|directive| is(directive, "private") || is(directive, "no-store"))
}

/// Whether a directive says anything to a browser's cache, and nothing that `private` replaces.
fn is_kept(directive: &[u8]) -> bool {
    let name = directive.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
    !["", "public", "private", "s-maxage", "proxy-revalidate"].iter().any(|replaced| is(name, replaced))
}

fn is(directive: &[u8], name: &str) -> bool {
    directive.eq_ignore_ascii_case(name.as_bytes())
}

/// What stands between the commas that are not inside quotes. A quote that never closes takes the rest with it.
fn directives(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    line.split(move |byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ => {}
        }
        *byte == b',' && !quoted
    })
    .map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn guarded(lines: &[(&'static str, &'static str)]) -> Vec<(String, String)> {
        let line = |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let mut headers: HeaderMap = lines.iter().map(line).collect();
        guard(&mut headers);
        headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect()
    }

    fn cache_control(lines: &[&'static str]) -> Vec<String> {
        let lines: Vec<_> = lines.iter().map(|value| ("cache-control", *value)).collect();
        guarded(&lines).into_iter().map(|(_, value)| value).collect()
    }

    #[test]
    fn what_shared_caches_could_store_becomes_private() {
        let table: &[(&[&str], &str)] = &[
            (&[], "private"),
            (&[""], "private"),
            (&["public"], "private"),
            (&["max-age=60"], "private, max-age=60"),
            (&["public, max-age=60, s-maxage=600"], "private, max-age=60"),
            (&["Public,MAX-AGE=60,S-MaxAge = 600,Proxy-Revalidate"], "private, MAX-AGE=60"),
            (&["must-revalidate, proxy-revalidate, no-cache"], "private, must-revalidate, no-cache"),
            (&["no-cache=\"set-cookie, x-a\", max-age=1"], "private, no-cache=\"set-cookie, x-a\", max-age=1"),
            (&["public", "max-age=60, , immutable", "s-maxage=1"], "private, max-age=60, immutable"),
            // Words inside a quoted value, or of single headers, keep nothing out of a cache.
            (&["private=\"x-a, x-b\", max-age=5"], "private, max-age=5"),
            (&["ext=\"a, no-store, b\""], "private, ext=\"a, no-store, b\""),
            (&["ext=\"a\\\", private, b\""], "private, ext=\"a\\\", private, b\""),
            (&["ext=\"open, private"], "private, ext=\"open, private"),
            (&["privately, no-storex"], "private, privately, no-storex"),
        ];
        for (lines, expected) in table {
            assert_eq!(cache_control(lines), [*expected], "{lines:?}");
        }
    }

    #[test]
    fn what_is_closed_already_stays_as_it_is() {
        let table: &[&[&str]] = &[
            &["private"],
            &["no-store"],
            &["max-age=60 ,  PRIVATE"],
            &["no-store, no-cache, must-revalidate", "post-check=0"],
            &["max-age=60", "private"],
        ];
        for lines in table {
            assert_eq!(cache_control(lines), *lines);
        }
    }

    #[test]
    fn headers_for_one_kind_of_cache_are_answered_but_never_added() {
        let lines = guarded(&[
            ("cache-control", "no-store"),
            ("surrogate-control", "max-age=600"),
            ("cdn-cache-control", "max-age=600"),
            ("cloudflare-cdn-cache-control", "max-age=600"),
            ("cloudflare-cdn-cache-control", "no-store"),
            ("x-other", "max-age=600"),
        ]);
        let values: Vec<_> = lines.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(values, ["no-store", "no-store", "private", "private", "no-store", "max-age=600"]);
    }
}
