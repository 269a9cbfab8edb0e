//! Our cookie in a reply: the `Set-Cookie` line.
//!
//! Attributes never change between two reloads and are written once. The one that depends on the time, `Max-Age`, is
//! worked out for each reply; `Expires` is never sent, since it would go stale and depend on the browser's clock.

use bytes::Bytes;
use cookie::Cookie;
use http::HeaderValue;

use super::pin::{Limits, Pin};
use super::token::Token;
use crate::config::{CookieAffinity, SameSite, Secure};

/// Writes the `Set-Cookie` line of one pool.
#[derive(Clone, Debug)]
pub struct SetCookie {
    /// Name and equals sign.
    name: Box<str>,
    secure: Secure,
    /// Attributes from the first semicolon on.
    plain_attributes: Box<str>,
    secure_attributes: Box<str>,
    /// `None`: the cookie ends with the browser session.
    max_age: Option<Limits>,
}

impl SetCookie {
    /// Writes the attributes.
    pub fn new(settings: &CookieAffinity) -> Self {
        Self {
            name: header_text(&format!("{}=", settings.name)),
            secure: settings.secure,
            plain_attributes: attributes(settings, false),
            secure_attributes: attributes(settings, true),
            max_age: settings.persistent.then(|| Limits::from(settings)),
        }
    }

    /// The line that gives the client this token, sealed from this pin. `https` tells how the client reached us; `now` is
    /// in seconds since the Unix epoch. One allocation.
    pub fn render(&self, token: &Token, pin: &Pin, https: bool, now: u32) -> HeaderValue {
        self.line(token.as_str(), self.max_age.map(|limits| limits.remaining(pin.issued, now)), https)
    }

    /// The line that makes the client forget its token.
    pub fn render_removal(&self, https: bool) -> HeaderValue {
        self.line("", Some(0), https)
    }

    fn line(&self, value: &str, max_age: Option<u32>, https: bool) -> HeaderValue {
        let secure = match self.secure {
            Secure::Auto => https,
            Secure::Always => true,
            Secure::Never => false,
        };
        let attributes = if secure { &self.secure_attributes } else { &self.plain_attributes };
        let mut line =
            String::with_capacity(self.name.len() + value.len() + attributes.len() + "; Max-Age=".len() + 10);
        line.push_str(&self.name);
        line.push_str(value);
        line.push_str(attributes);
        if let Some(seconds) = max_age {
            line.push_str("; Max-Age=");
            line.push_str(itoa::Buffer::new().format(seconds));
        }
        HeaderValue::from_maybe_shared(Bytes::from(line)).expect("no part of the line has a control character")
    }
}

fn attributes(settings: &CookieAffinity, secure: bool) -> Box<str> {
    let same_site = match settings.same_site {
        SameSite::Lax => cookie::SameSite::Lax,
        SameSite::Strict => cookie::SameSite::Strict,
        SameSite::None => cookie::SameSite::None,
    };
    let mut cookie = Cookie::build(("", ""))
        .path(&*settings.path)
        .http_only(settings.http_only)
        .same_site(same_site)
        .secure(secure)
        .build();
    if let Some(domain) = &settings.domain {
        cookie.set_domain(&**domain);
    }
    let line = cookie.to_string();
    header_text(line.strip_prefix('=').unwrap_or(&line))
}

/// The configuration refuses control characters; leaving them out here too means that no reply can fail over one.
fn header_text(text: &str) -> Box<str> {
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{KeyRing, PoolPins};
    use super::*;

    fn settings() -> CookieAffinity {
        CookieAffinity {
            name: "stickpin".into(),
            idle_timeout: Duration::from_secs(1800),
            max_lifetime: Duration::from_secs(43_200),
            domain: None,
            path: "/".into(),
            secure: Secure::Auto,
            http_only: true,
            same_site: SameSite::Lax,
            pin_on: crate::config::PinOn::FirstRequest,
            persistent: false,
        }
    }

    const PIN: Pin = Pin { id: 7, home: 0, instance: 0, issued: 1_000_000, refreshed: 1_000_000, detour: None };

    fn render(settings: &CookieAffinity, https: bool, now: u32) -> (String, String) {
        let token = PoolPins::new(&KeyRing::from_random([1; 16]), "shop", ["app1"]).seal(&PIN);
        let line = SetCookie::new(settings).render(&token, &PIN, https, now);
        let line = line.to_str().unwrap().to_owned();
        let (pair, attributes) = line.split_once("; ").unwrap_or((&line, ""));
        assert_eq!(pair, format!("{}={}", settings.name, token.as_str()));
        (pair.to_owned(), attributes.to_owned())
    }

    #[test]
    fn by_default_it_is_a_session_cookie_for_the_whole_site_hidden_from_scripts() {
        assert_eq!(render(&settings(), false, 1_000_000).1, "HttpOnly; SameSite=Lax; Path=/");
        assert_eq!(render(&settings(), true, 1_000_000).1, "HttpOnly; SameSite=Lax; Secure; Path=/");
    }

    #[test]
    fn every_attribute_can_be_set() {
        let custom = CookieAffinity {
            name: "__Secure-pin".into(),
            domain: Some("example.com".into()),
            path: "/shop".into(),
            secure: Secure::Always,
            http_only: false,
            same_site: SameSite::None,
            ..settings()
        };
        assert_eq!(render(&custom, false, 1_000_000).1, "SameSite=None; Secure; Path=/shop; Domain=example.com");
        let never = CookieAffinity { secure: Secure::Never, same_site: SameSite::Strict, ..settings() };
        assert_eq!(render(&never, true, 1_000_000).1, "HttpOnly; SameSite=Strict; Path=/");
    }

    #[test]
    fn a_persistent_cookie_lives_as_long_as_its_pin_counted_from_now() {
        let persistent = CookieAffinity { persistent: true, ..settings() };
        let table = [(0, 1800), (30_000, 1800), (42_000, 1200), (43_199, 1), (43_200, 0), (50_000, 0)];
        for (age, max_age) in table {
            let attributes = render(&persistent, false, 1_000_000 + age).1;
            assert_eq!(attributes, format!("HttpOnly; SameSite=Lax; Path=/; Max-Age={max_age}"), "at age {age}");
        }
        assert!(render(&persistent, false, 999_000).1.ends_with("Max-Age=1800"), "a clock that was set back");
    }

    #[test]
    fn the_removal_has_the_same_attributes_so_that_it_meets_the_same_cookie() {
        let custom = CookieAffinity { domain: Some("example.com".into()), path: "/shop".into(), ..settings() };
        let line = SetCookie::new(&custom).render_removal(true);
        let expected = "stickpin=; HttpOnly; SameSite=Lax; Secure; Path=/shop; Domain=example.com; Max-Age=0";
        assert_eq!(line, expected);
    }

    #[test]
    fn what_is_written_reads_back_with_a_parser_of_cookies() {
        let persistent = CookieAffinity { name: "__Host-pin".into(), persistent: true, ..settings() };
        let (pair, attributes) = render(&persistent, true, 1_000_000);
        let cookie = Cookie::parse(format!("{pair}; {attributes}")).unwrap();
        assert_eq!((cookie.name(), cookie.path()), ("__Host-pin", Some("/")));
        assert_eq!((cookie.secure(), cookie.http_only()), (Some(true), Some(true)));
        assert_eq!(cookie.max_age().map(|age| age.whole_seconds()), Some(1800));
        assert_eq!((cookie.expires(), cookie.domain()), (None, None));
    }

    #[test]
    fn a_control_character_in_a_setting_breaks_no_reply() {
        let odd = CookieAffinity { path: "/a\r\nX: y\u{7f}".into(), domain: Some("a\0".into()), ..settings() };
        assert_eq!(render(&odd, false, 1_000_000).0.len(), "stickpin=".len() + 62);
    }
}
