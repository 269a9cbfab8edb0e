//! Affinity in its three ways, and what browsers ask of the cookie.

use std::time::Duration;

use super::{items, non_zero, not_empty, secs};
use crate::config::read::{Given, Report, Short};
use crate::config::tree::Path;
use crate::config::units::{
    ClaimName, CookieDomain, CookieName, CookiePath, Header, NonZeroTime, ParameterName, Ratio, written,
};
use crate::config::words::{BoundedLoad, HomeByWord, KeyWord, Off, Separator};
use crate::config::{
    Affinity, AppSessionAffinity, CookieAffinity, HashAffinity, HomeBy, HomeHash, KeySource, PinOn, SameSite, Secure,
    SessionSource, TokenSource, WithoutKey, yaml,
};

pub(super) fn affinity(report: &Report<'_>, at: &Path<'_>, given: Given<Short<Off, yaml::Affinity>>) -> Affinity {
    let yaml = match given.option() {
        Some(Short::Short(_)) => return Affinity::Off,
        Some(Short::Full(yaml)) => yaml,
        None => yaml::Affinity::default(),
    };
    let ways = [
        ("cookie", !yaml.cookie.is_absent()),
        ("app_session", !yaml.app_session.is_absent()),
        ("hash", !yaml.hash.is_absent()),
    ];
    let found: Vec<&str> = ways.iter().filter(|(_, is_there)| *is_there).map(|(way, _)| *way).collect();
    if found.len() > 1 {
        report.wrong(at, format!("expected one of cookie, app_session and hash, found {}", found.join(" and ")));
    }
    // What is wrong in the others is worth saying too.
    let by_cookie = !yaml.cookie.is_absent() || found.is_empty();
    let by_cookie = by_cookie.then(|| cookie(report, &at.key("cookie"), yaml.cookie.or(yaml::Cookie::default())));
    let by_session =
        way(yaml.app_session, yaml::AppSession::default).map(|yaml| app_session(report, &at.key("app_session"), yaml));
    let by_hash = way(yaml.hash, yaml::Hash::default).map(|yaml| hash(report, &at.key("hash"), yaml));
    match (by_cookie, by_session, by_hash) {
        (Some(cookie), ..) => Affinity::Cookie(cookie),
        (None, Some(session), _) => Affinity::AppSession(session),
        (None, None, Some(hash)) => Affinity::Hash(hash),
        // One that could not be read, and was reported.
        (None, None, None) => Affinity::Off,
    }
}

/// The settings of a way that is there. An empty one lacks what is needed, which is worth saying.
fn way<T>(given: Given<T>, empty: impl FnOnce() -> T) -> Option<T> {
    match given {
        Given::Is(yaml) => Some(yaml),
        Given::Empty => Some(empty()),
        Given::Absent | Given::Wrong => None,
    }
}

fn app_session(report: &Report<'_>, at: &Path<'_>, yaml: yaml::AppSession) -> AppSessionAffinity {
    let (idle_timeout, max_lifetime) = lives(report, at, yaml.idle_timeout, yaml.max_lifetime);
    let sources_known = !yaml.cookie.is_wrong()
        && !yaml.header.is_wrong()
        && !yaml.path_parameter.is_wrong()
        && !yaml.query_parameter.is_wrong();
    let sources: Vec<SessionSource> = [
        yaml.cookie.option().map(|CookieName(name)| SessionSource::Cookie(name)),
        yaml.header.option().map(|Header(name)| SessionSource::Header(name)),
        yaml.path_parameter.option().map(|ParameterName(name)| SessionSource::PathParameter(name)),
        yaml.query_parameter.option().map(|ParameterName(name)| SessionSource::QueryParameter(name)),
    ]
    .into_iter()
    .flatten()
    .collect();
    if sources.is_empty() && sources_known {
        report.expected(at, "cookie, header, path_parameter or query_parameter");
    }
    let home_known = !yaml.home_by.is_wrong() && !yaml.separator.is_wrong();
    let separator_given = !yaml.separator.is_missing();
    let home_by = match yaml.home_by.or(HomeByWord::Learn) {
        // Without its separator there is nothing to check names against.
        HomeByWord::RouteSuffix if !home_known => HomeBy::Learn,
        HomeByWord::Learn => HomeBy::Learn,
        HomeByWord::Prefix => HomeBy::Prefix,
        HomeByWord::RouteSuffix => HomeBy::RouteSuffix(match yaml.separator.or(Separator::Point) {
            Separator::Point => '.',
            Separator::ExclamationMark => '!',
        }),
    };
    if home_known && separator_given && !matches!(home_by, HomeBy::RouteSuffix(_)) {
        report.expected(&at.key("separator"), "no separator, because home_by is not route_suffix");
    }
    if home_by == HomeBy::Prefix && sources_known && !matches!(sources[..], [] | [SessionSource::Cookie(_)]) {
        let why =
            "learn or route_suffix, because only the value of a cookie can get a prefix, and there are other sources";
        report.expected(&at.key("home_by"), why);
    }
    AppSessionAffinity { sources, home_by, idle_timeout, max_lifetime }
}

fn hash(report: &Report<'_>, at: &Path<'_>, yaml: yaml::Hash) -> HashAffinity {
    let path = at.key("keys");
    not_empty(report, &path, &yaml.keys, "at least one key such as path or { header: X-User }");
    let keys = items(report, &path, yaml.keys, "a key such as path or { header: X-User }").into_iter();
    let keys = keys.filter_map(|(index, key)| match key.option()? {
        Short::Short(KeyWord::Path) => Some(KeySource::Path),
        Short::Short(KeyWord::ClientAddress) => Some(client_address(yaml::ClientAddress::default())),
        Short::Full(yaml) => key_source(report, &path.item(index), yaml),
    });
    HashAffinity {
        keys: keys.collect(),
        without_key: yaml.without_key.or(WithoutKey::Balance),
        // What `balance` says of it is not known here.
        home_hash: HomeHash::Rendezvous,
        bounded_load: match yaml.bounded_load.or(BoundedLoad::Off) {
            BoundedLoad::Off => None,
            BoundedLoad::On => Some(1.25),
            BoundedLoad::Ratio(Ratio(ratio)) => Some(ratio),
        },
    }
}

/// `None` when that was reported.
fn key_source(report: &Report<'_>, at: &Path<'_>, yaml: yaml::Key) -> Option<KeySource> {
    let found = [
        ("header", !yaml.header.is_absent()),
        ("cookie", !yaml.cookie.is_absent()),
        ("query_parameter", !yaml.query_parameter.is_absent()),
        ("client_address", !yaml.client_address.is_absent()),
        ("jwt_claim", !yaml.jwt_claim.is_absent()),
    ];
    let found: Vec<&str> = found.into_iter().filter(|(_, is_there)| *is_there).map(|(key, _)| key).collect();
    let [key] = found[..] else {
        const EXPECTED: &str = "expected one of header, cookie, query_parameter, client_address and jwt_claim";
        let found = if found.is_empty() { "none".to_owned() } else { found.join(" and ") };
        report.wrong(at, format!("{EXPECTED}, found {found}"));
        return None;
    };
    let at = at.key(key);
    match key {
        "header" => {
            report.required(&at, yaml.header, "the name of a header").map(|Header(name)| KeySource::Header(name))
        }
        "cookie" => {
            report.required(&at, yaml.cookie, "the name of a cookie").map(|CookieName(name)| KeySource::Cookie(name))
        }
        "query_parameter" => report
            .required(&at, yaml.query_parameter, "the name of a parameter")
            .map(|ParameterName(name)| KeySource::QueryParameter(name)),
        "client_address" => Some(client_address(yaml.client_address.or(yaml::ClientAddress::default()))),
        _ => jwt_claim(report, &at, yaml.jwt_claim),
    }
}

fn client_address(yaml: yaml::ClientAddress) -> KeySource {
    // Both are at most 128.
    let bits = |given: Option<u32>, default| given.map_or(default, |bits| bits as u8);
    KeySource::ClientAddress {
        ipv4_prefix: bits(yaml.ipv4_prefix.option().map(|bits| bits.get()), 32),
        ipv6_prefix: bits(yaml.ipv6_prefix.option().map(|bits| bits.get()), 64),
    }
}

fn jwt_claim(report: &Report<'_>, at: &Path<'_>, given: Given<Short<ClaimName, yaml::JwtClaim>>) -> Option<KeySource> {
    const EXPECTED: &str = "the name of a claim such as sub";
    let yaml = match report.required(at, given, EXPECTED)? {
        Short::Short(ClaimName(claim)) => {
            return Some(KeySource::JwtClaim { claim, token: TokenSource::Header(http::header::AUTHORIZATION) });
        }
        Short::Full(yaml) => yaml,
    };
    let ClaimName(claim) = report.required(&at.key("claim"), yaml.claim, EXPECTED)?;
    let token = match (yaml.header.option(), yaml.cookie.option()) {
        (None, None) => TokenSource::Header(http::header::AUTHORIZATION),
        (Some(Header(name)), None) => TokenSource::Header(name),
        (None, Some(CookieName(name))) => TokenSource::Cookie(name),
        (Some(_), Some(_)) => {
            report.wrong(at, "expected either header or cookie, found both".to_owned());
            return None;
        }
    };
    Some(KeySource::JwtClaim { claim, token })
}

fn cookie(report: &Report<'_>, at: &Path<'_>, yaml: yaml::Cookie) -> CookieAffinity {
    let (idle_timeout, max_lifetime) = lives(report, at, yaml.idle_timeout, yaml.max_lifetime);
    let rules_known = !yaml.secure.is_wrong() && !yaml.path.is_wrong();
    let cookie = CookieAffinity {
        name: yaml.name.option().map_or_else(|| "stickpin".into(), |CookieName(name)| name),
        idle_timeout,
        max_lifetime,
        domain: yaml.domain.option().map(|CookieDomain(domain)| domain),
        path: yaml.path.option().map_or_else(|| "/".into(), |CookiePath(path)| path),
        secure: yaml.secure.or(Secure::Auto),
        http_only: yaml.http_only.or(true),
        same_site: yaml.same_site.or(SameSite::Lax),
        pin_on: yaml.pin_on.or(PinOn::FirstRequest),
        persistent: yaml.persistent.or(false),
    };
    if rules_known {
        browser_rules(report, at, &cookie);
    }
    cookie
}

/// How long a pin lives: unused, and at most.
fn lives(
    report: &Report<'_>,
    at: &Path<'_>,
    idle_timeout: Given<NonZeroTime>,
    max_lifetime: Given<NonZeroTime>,
) -> (Duration, Duration) {
    let both_known = !idle_timeout.is_wrong() && !max_lifetime.is_wrong();
    let idle_given = !idle_timeout.is_missing();
    let (idle, most) = (non_zero(idle_timeout, secs(30 * 60)), non_zero(max_lifetime, secs(12 * 3600)));
    if both_known && idle > most {
        if idle_given {
            report.expected(&at.key("idle_timeout"), format!("at most max_lifetime, which is {}", written(most)));
        } else {
            report.expected(&at.key("max_lifetime"), format!("at least idle_timeout, which is {}", written(idle)));
        }
    }
    (idle, most)
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
