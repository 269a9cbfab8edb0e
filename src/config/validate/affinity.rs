//! Affinity, and what browsers ask of its cookie.

use super::{non_zero, secs};
use crate::config::read::{Given, Report, Short};
use crate::config::tree::Path;
use crate::config::units::{CookieDomain, CookieName, CookiePath, written};
use crate::config::words::Off;
use crate::config::{Affinity, CookieAffinity, PinOn, SameSite, Secure, yaml};

pub(super) fn affinity(report: &Report<'_>, at: &Path<'_>, given: Given<Short<Off, yaml::Affinity>>) -> Affinity {
    match given.option() {
        Some(Short::Short(_)) => Affinity::Off,
        Some(Short::Full(yaml)) => {
            Affinity::Cookie(cookie(report, &at.key("cookie"), yaml.cookie.or(yaml::Cookie::default())))
        }
        None => Affinity::Cookie(cookie(report, &at.key("cookie"), yaml::Cookie::default())),
    }
}

fn cookie(report: &Report<'_>, at: &Path<'_>, yaml: yaml::Cookie) -> CookieAffinity {
    let lives_known = !yaml.idle_timeout.is_wrong() && !yaml.max_lifetime.is_wrong();
    let idle_given = !yaml.idle_timeout.is_missing();
    let rules_known = !yaml.secure.is_wrong() && !yaml.path.is_wrong();
    let cookie = CookieAffinity {
        name: yaml.name.option().map_or_else(|| "stickpin".into(), |CookieName(name)| name),
        idle_timeout: non_zero(yaml.idle_timeout, secs(30 * 60)),
        max_lifetime: non_zero(yaml.max_lifetime, secs(12 * 3600)),
        domain: yaml.domain.option().map(|CookieDomain(domain)| domain),
        path: yaml.path.option().map_or_else(|| "/".into(), |CookiePath(path)| path),
        secure: yaml.secure.or(Secure::Auto),
        http_only: yaml.http_only.or(true),
        same_site: yaml.same_site.or(SameSite::Lax),
        pin_on: yaml.pin_on.or(PinOn::FirstRequest),
        persistent: yaml.persistent.or(false),
    };
    if lives_known && cookie.idle_timeout > cookie.max_lifetime {
        if idle_given {
            let most = written(cookie.max_lifetime);
            report.expected(&at.key("idle_timeout"), format!("at most max_lifetime, which is {most}"));
        } else {
            let least = written(cookie.idle_timeout);
            report.expected(&at.key("max_lifetime"), format!("at least idle_timeout, which is {least}"));
        }
    }
    if rules_known {
        browser_rules(report, at, &cookie);
    }
    cookie
}

/// Combinations that browsers refuse in silence: the client would come back without its pin each time.
fn browser_rules(report: &Report<'_>, at: &Path<'_>, cookie: &CookieAffinity) {
    // Browsers ignore the case of the prefixes.
    let has_prefix =
        |prefix: &str| cookie.name.get(..prefix.len()).is_some_and(|name| name.eq_ignore_ascii_case(prefix));
    let is_host_only = has_prefix("__Host-");
    if cookie.secure == Secure::Never {
        let why = match cookie.same_site {
            _ if is_host_only => Some("a name that begins with __Host-"),
            _ if has_prefix("__Secure-") => Some("a name that begins with __Secure-"),
            SameSite::None => Some("same_site: none"),
            SameSite::Lax | SameSite::Strict => None,
        };
        if let Some(why) = why {
            report.expected(&at.key("secure"), format!("always or auto, because browsers ask it of {why}"));
        }
    }
    if is_host_only && cookie.path.as_ref() != "/" {
        report.expected(&at.key("path"), "/, because browsers ask it of a name that begins with __Host-");
    }
    if is_host_only && cookie.domain.is_some() {
        report
            .expected(&at.key("domain"), "no domain, because browsers refuse one with a name that begins with __Host-");
    }
}
