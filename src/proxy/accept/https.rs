//! What a listener says about https: where to go instead of http, and never to come without again.

use http::{HeaderValue, StatusCode};

use super::request::Target;
use crate::config::{self, Hsts, RedirectToHttps};

/// What a listener says about https.
#[derive(Debug, Default)]
pub struct Https {
    redirect: Option<RedirectToHttps>,
    /// The value of `Strict-Transport-Security`. Each worker has its own, so that they share no reference count.
    pub strict: Option<HeaderValue>,
}

/// Where a client is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToHttps {
    /// The status of the reply.
    pub status: StatusCode,
    /// The same place by https.
    pub location: HeaderValue,
}

impl Https {
    /// Of one listener.
    pub fn new(listener: &config::Listener) -> Self {
        Self { redirect: listener.redirect_to_https.clone(), strict: listener.hsts.as_ref().map(strict) }
    }

    /// Whether requests that come without https are sent there.
    pub fn redirects(&self) -> bool {
        self.redirect.is_some()
    }

    /// Where this request, which came without, is sent; `None` when it is not, or names no host.
    pub fn redirect(&self, target: &Target<'_>) -> Option<ToHttps> {
        let redirect = self.redirect.as_ref()?;
        let host = without_port(target.host);
        if host.is_empty() {
            return None;
        }
        let mut location = b"https://".to_vec();
        location.extend_from_slice(host);
        if redirect.port != 443 {
            location.push(b':');
            location.extend_from_slice(itoa::Buffer::new().format(redirect.port).as_bytes());
        }
        if target.path_and_query != "*" {
            location.extend_from_slice(target.path_and_query.as_bytes());
        }
        Some(ToHttps { status: redirect.status, location: HeaderValue::from_bytes(&location).ok()? })
    }
}

/// The port that the client used is that of http.
fn without_port(host: &[u8]) -> &[u8] {
    match memchr::memrchr(b':', host) {
        // The colons of an IPv6 address stand within brackets.
        Some(colon) if host[colon + 1..].iter().all(u8::is_ascii_digit) => &host[..colon],
        _ => host,
    }
}

fn strict(hsts: &Hsts) -> HeaderValue {
    let subdomains = if hsts.include_subdomains { "; includeSubDomains" } else { "" };
    let preload = if hsts.preload { "; preload" } else { "" };
    let value = format!("max-age={}{subdomains}{preload}", hsts.max_age.as_secs());
    HeaderValue::from_str(&value).expect("digits and words are a header value")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn https(port: u16) -> Https {
        Https { redirect: Some(RedirectToHttps { port, status: StatusCode::PERMANENT_REDIRECT }), strict: None }
    }

    #[test]
    fn a_redirect_keeps_host_path_and_query_and_changes_the_port() {
        for (host, path_and_query, port, expected) in [
            ("shop.example", "/a?b=c", 443, Some("https://shop.example/a?b=c")),
            ("shop.example:8080", "/", 443, Some("https://shop.example/")),
            ("shop.example:8080", "/", 8443, Some("https://shop.example:8443/")),
            ("shop.example:", "/", 443, Some("https://shop.example/")),
            ("[::1]:80", "/", 8443, Some("https://[::1]:8443/")),
            ("[::1]", "/", 443, Some("https://[::1]/")),
            ("shop.example", "*", 443, Some("https://shop.example")),
            ("shop.example", "//evil.example", 443, Some("https://shop.example//evil.example")),
            ("", "/", 443, None),
            (":80", "/", 443, None),
        ] {
            let target = Target { host: host.as_bytes(), path: "/", path_and_query };
            let found = https(port).redirect(&target);
            assert_eq!(found.as_ref().map(|to| to.location.to_str().expect("ASCII")), expected, "{host}");
        }
        assert_eq!(Https::default().redirect(&Target { host: b"a", path: "/", path_and_query: "/" }), None);
    }

    #[test]
    fn hsts_is_written_as_rfc_6797_says() {
        let hsts = |days: u64, include_subdomains, preload| Hsts {
            max_age: Duration::from_secs(days * 86_400),
            include_subdomains,
            preload,
        };
        for (hsts, expected) in [
            (hsts(365, false, false), "max-age=31536000"),
            (hsts(0, true, false), "max-age=0; includeSubDomains"),
            (hsts(365, true, true), "max-age=31536000; includeSubDomains; preload"),
        ] {
            assert_eq!(strict(&hsts), expected);
        }
    }
}
