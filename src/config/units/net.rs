//! Addresses, networks and host names.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use http::Uri;
use ipnet::IpNet;
use schemars::{Schema, json_schema};

use super::{Scalar, scalar};
use crate::config::{self, HostPattern, ListenOn};

const ADDRESS: &str = "an IP address and port such as 127.0.0.1:8080 or [::1]:8080";

/// An address to listen on; port 0 lets the system choose.
#[derive(Clone, Copy)]
pub(in crate::config) struct Address(pub(in crate::config) SocketAddr);

impl Scalar for Address {
    fn expected() -> Cow<'static, str> {
        ADDRESS.into()
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        if let Some(port) = text.strip_prefix("localhost:") {
            let port = read_port(port).ok_or("a port from 0 to 65535")?;
            return Ok(Self(SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self(address));
        }
        let (host, port) = text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
        Err(match port {
            None if host.parse::<IpAddr>().is_ok() => "a port after the IP address, such as 127.0.0.1:8080".into(),
            _ if text.parse::<Ipv6Addr>().is_ok() => {
                "an IPv6 address in brackets and a port, such as [::1]:8080".into()
            }
            Some(_) if is_host_name(host) && host.parse::<IpAddr>().is_err() && !looks_numeric(host) => {
                format!("{ADDRESS} (names are not resolved, give an IP and port)").into()
            }
            _ => Self::expected(),
        })
    }
}

scalar!(Address);

/// Digits only: `u16` would also read `+80`.
fn read_port(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// A mistyped IP address rather than a name?
fn looks_numeric(host: &str) -> bool {
    host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// The name in a certificate: of a host, or an IP address.
pub(in crate::config) struct ServerName(pub(in crate::config) Arc<str>);

impl Scalar for ServerName {
    fn expected() -> Cow<'static, str> {
        "the name in the backend's certificate, without a port, such as shop.example.com".into()
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        if is_host_name(text) || text.parse::<IpAddr>().is_ok() { Ok(Self(text.into())) } else { Err(Self::expected()) }
    }
}

scalar!(ServerName);

/// A Redis or Valkey: `redis://HOST:PORT/DB`, or `rediss://` for TLS, with a user name or without.
pub(in crate::config) struct RedisUrl {
    pub(in crate::config) url: Arc<str>,
    /// Refused later, where the message need not show it.
    pub(in crate::config) has_password: bool,
}

impl Scalar for RedisUrl {
    fn expected() -> Cow<'static, str> {
        "a URL such as redis://127.0.0.1:6379/0, or rediss:// for TLS".into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^rediss?://" })
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        let url: Uri = text.parse().map_err(|_| Self::expected())?;
        let has_scheme = matches!(url.scheme_str(), Some("redis" | "rediss"));
        let authority = url.authority().filter(|authority| !authority.host().is_empty()).ok_or_else(Self::expected)?;
        let database = url.path().strip_prefix('/').unwrap_or_default();
        let is_database = database.len() <= 4 && database.bytes().all(|byte| byte.is_ascii_digit());
        // The parser takes any port, and leaves a fragment out.
        let (user, place) = authority.as_str().rsplit_once('@').unwrap_or(("", authority.as_str()));
        let port = place.strip_prefix(authority.host()).unwrap_or_default();
        let has_port = port.is_empty() || port.strip_prefix(':').and_then(read_port).is_some_and(|port| port > 0);
        let is_whole = url.query().is_none() && !text.contains('#');
        if !(has_scheme && is_database && has_port && is_whole) {
            return Err(Self::expected());
        }
        Ok(Self { url: text.into(), has_password: user.contains(':') })
    }
}

scalar!(RedisUrl);

/// An address to accept clients on.
pub(in crate::config) struct ListenerAddress(pub(in crate::config) ListenOn);

impl Scalar for ListenerAddress {
    fn expected() -> Cow<'static, str> {
        format!("{ADDRESS}, unix:/PATH or systemd:NAME").into()
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        if let Some(name) = text.strip_prefix("systemd:") {
            // As systemd.socket(5) says of FileDescriptorName=.
            let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b':';
            let is_name = (1..=255).contains(&name.len()) && name.bytes().all(allowed);
            return if is_name { Ok(Self(ListenOn::Inherited(name.into()))) } else { Err(SOCKET_NAME.into()) };
        }
        if let Some(unix) = unix(text) {
            return unix.map(|address| Self(ListenOn::Bound(address)));
        }
        let Address(address) = Address::from_text(text).map_err(if_general::<Self>)?;
        Ok(Self(ListenOn::Bound(address.into())))
    }
}

scalar!(ListenerAddress);

const SOCKET_NAME: &str = "the name of a socket of systemd: 1 to 255 visible ASCII characters without a colon";

/// An address to connect to.
pub(in crate::config) struct BackendAddress(pub(in crate::config) config::Address);

impl Scalar for BackendAddress {
    fn expected() -> Cow<'static, str> {
        format!("{ADDRESS}, or unix:/PATH").into()
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        if let Some(unix) = unix(text) {
            return unix.map(Self);
        }
        let Address(address) = Address::from_text(text).map_err(if_general::<Self>)?;
        if address.port() == 0 { Err("a port from 1 to 65535".into()) } else { Ok(Self(address.into())) }
    }
}

scalar!(BackendAddress);

/// The Unix socket that a text names, if it begins like one.
fn unix(text: &str) -> Option<Result<config::Address, Cow<'static, str>>> {
    let limit = config::SOCKET_PATH_LIMIT;
    let expected = || format!("unix: and an absolute path of at most {limit} bytes, such as unix:/run/app.sock").into();
    text.starts_with("unix:").then(|| text.parse().map_err(|_| expected()))
}

/// The words of `T` where those for an IP address are no more to the point.
fn if_general<T: Scalar>(expected: Cow<'static, str>) -> Cow<'static, str> {
    if expected == ADDRESS { T::expected() } else { expected }
}

/// Whom to believe: a network, or whoever comes by a Unix socket.
#[derive(Clone, Copy)]
pub(in crate::config) enum TrustedProxy {
    Network(IpNet),
    Unix,
}

impl Scalar for TrustedProxy {
    fn expected() -> Cow<'static, str> {
        "an IP address or network such as 127.0.0.1 or 10.0.0.0/8, or unix".into()
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        Network::from_text(text).map(|Network(network)| Self::Network(network)).map_err(|_| Self::expected())
    }
}

scalar!(TrustedProxy);

/// A network, or a single address as the smallest one.
#[derive(Clone, Copy)]
pub(in crate::config) struct Network(pub(in crate::config) IpNet);

impl Scalar for Network {
    fn expected() -> Cow<'static, str> {
        "an IP address or network such as 127.0.0.1 or 10.0.0.0/8".into()
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        network.map(|network| Self(network.trunc())).ok_or_else(Self::expected)
    }
}

impl Scalar for HostPattern {
    fn expected() -> Cow<'static, str> {
        "a host name such as shop.example.com, *.example.com or *".into()
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let host = text.to_ascii_lowercase();
        if let Some(domain) = host.strip_prefix("*.") {
            let stored = format!(".{}", without_final_dot(domain));
            return if is_host_name(domain) { Ok(Self::Wildcard(stored.into())) } else { Err(Self::expected()) };
        }
        if is_host_name(&host) {
            return Ok(Self::Exact(without_final_dot(&host).into()));
        }
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if literal.is_some_and(|literal| literal.parse::<Ipv6Addr>().is_ok()) {
            return Ok(Self::Exact(host.into()));
        }
        Err(match host.rsplit_once(':') {
            Some((name, port)) if is_host_name(name) && read_port(port).is_some() => {
                "a host name without a port".into()
            }
            _ if !host.is_ascii() => "a host name in its ASCII form (xn--…)".into(),
            _ => Self::expected(),
        })
    }
}

scalar!(HostPattern);

/// The `Domain` of a cookie. A dot in front means nothing since RFC 6265 and is dropped.
pub(in crate::config) struct CookieDomain(pub(in crate::config) Arc<str>);

impl Scalar for CookieDomain {
    fn expected() -> Cow<'static, str> {
        "a domain such as example.com".into()
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        let domain = text.strip_prefix('.').unwrap_or(text).to_ascii_lowercase();
        if is_host_name(&domain) { Ok(Self(without_final_dot(&domain).into())) } else { Err(Self::expected()) }
    }
}

scalar!(CookieDomain);

/// `example.com.` and `example.com` are the same host.
pub(super) fn without_final_dot(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

/// Labels of letters, digits, `-` and `_` (which names inside a network do have).
pub(super) fn is_host_name(host: &str) -> bool {
    let host = without_final_dot(host);
    let is_label = |label: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=63).contains(&label.len())
            && label.bytes().all(allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_url_has_a_scheme_and_a_host() {
        for url in [
            "redis://127.0.0.1:6379/0",
            "redis://127.0.0.1:6379/",
            "redis://127.0.0.1",
            "rediss://redis.example.com:6380/15",
            "redis://[::1]:6379",
            "redis://app@redis/1",
        ] {
            let read = RedisUrl::from_text(url).unwrap_or_else(|_| panic!("{url}"));
            assert_eq!((&*read.url, read.has_password), (url, false));
        }
        for url in ["redis://app:secret@redis", "rediss://:secret@[::1]:6379/0", "redis://app:@redis"] {
            assert!(RedisUrl::from_text(url).is_ok_and(|read| read.has_password), "{url}");
        }
        for url in [
            "",
            "redis",
            "redis:6379",
            "127.0.0.1:6379",
            "//127.0.0.1:6379",
            "redis://",
            "redis:///0",
            "redis://:6379",
            "redis://app@",
            "redis+unix:///run/redis.sock",
            "http://127.0.0.1:6379",
            "redis://127.0.0.1:0",
            "redis://127.0.0.1:",
            "redis://127.0.0.1:70000",
            "redis://127.0.0.1:port",
            "redis://127.0.0.1/zero",
            "redis://127.0.0.1/0/1",
            "redis://127.0.0.1/99999",
            "redis://127.0.0.1/0?db=1",
            "redis://127.0.0.1/0#1",
            "redis://127.0.0.1 /0",
        ] {
            assert!(RedisUrl::from_text(url).is_err(), "{url}");
        }
    }

    #[test]
    fn an_address_is_an_ip_and_a_port() {
        for (text, expected) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("localhost:9900", "127.0.0.1:9900"),
            ("[::1]:80", "[::1]:80"),
            ("0.0.0.0:0", "0.0.0.0:0"),
        ] {
            assert_eq!(Address::from_text(text).unwrap().0.to_string(), expected);
        }
        for (text, part) in [
            ("app.example.com:80", "names are not resolved"),
            ("127.0.0.1", "a port after the IP"),
            ("::1", "in brackets"),
            ("localhost:99999", "a port from 0 to 65535"),
            ("localhost:+80", "a port from 0 to 65535"),
            ("127.0.0.1:99999", ADDRESS),
            ("127.0.0.256:80", ADDRESS),
            ("", ADDRESS),
            (":8080", ADDRESS),
        ] {
            let expected = Address::from_text(text).err().unwrap();
            assert!(expected.contains(part), "{text}: {expected}");
        }
        assert!(BackendAddress::from_text("127.0.0.1:0").is_err());
    }

    #[test]
    fn a_listener_may_be_a_path_or_a_socket_of_systemd() {
        for text in ["127.0.0.1:80", "[::]:0", "unix:/run/stickpin.sock", "systemd:web", "systemd:stickpin.socket"] {
            assert_eq!(ListenerAddress::from_text(text).map(|it| it.0.to_string()), Ok(text.to_owned()));
        }
        for (text, part) in [
            ("unix:run/a.sock", "an absolute path"),
            ("unix:@a", "an absolute path"),
            ("systemd:", "a socket of systemd"),
            ("systemd:a:b", "a socket of systemd"),
            ("/run/a.sock", "unix:/PATH or systemd:NAME"),
            ("127.0.0.1", "a port after the IP"),
        ] {
            let expected = ListenerAddress::from_text(text).err().unwrap();
            assert!(expected.contains(part), "{text}: {expected}");
        }
        assert_eq!(BackendAddress::from_text("unix:/run/a").map(|it| it.0.to_string()), Ok("unix:/run/a".to_owned()));
        assert!(BackendAddress::from_text("systemd:web").is_err_and(|expected| !expected.contains("systemd")));
    }

    #[test]
    fn peers_of_a_unix_socket_are_trusted_by_a_word() {
        assert!(matches!(TrustedProxy::from_text("unix"), Ok(TrustedProxy::Unix)));
        assert!(matches!(TrustedProxy::from_text("::1"), Ok(TrustedProxy::Network(_))));
        assert!(TrustedProxy::from_text("unix:/run/a").is_err());
    }

    #[test]
    fn a_single_address_is_a_network_too() {
        for (text, expected) in [("10.1.2.3/8", "10.0.0.0/8"), ("127.0.0.1", "127.0.0.1/32"), ("::1", "::1/128")] {
            assert_eq!(Network::from_text(text).unwrap().0.to_string(), expected);
        }
        assert!(Network::from_text("10.0.0.0/33").is_err());
    }

    #[test]
    fn a_host_pattern_is_lower_case_and_has_no_port() {
        let exact = |host: &str| Ok(HostPattern::Exact(host.into()));
        assert_eq!(HostPattern::from_text("Shop.Example.com"), exact("shop.example.com"));
        assert_eq!(HostPattern::from_text("example.com."), exact("example.com"));
        assert_eq!(HostPattern::from_text("10.0.0.1"), exact("10.0.0.1"));
        assert_eq!(HostPattern::from_text("[::1]"), exact("[::1]"));
        assert_eq!(HostPattern::from_text("*.Example.com"), Ok(HostPattern::Wildcard(".example.com".into())));
        assert_eq!(HostPattern::from_text("*"), Ok(HostPattern::Any));
        for text in ["", ".", "a..b", "*.", "*shop.example.com", "shop.*.com", "a b", "-a.com", "a/b"] {
            assert_eq!(HostPattern::from_text(text), Err(HostPattern::expected()), "{text}");
        }
        assert_eq!(HostPattern::from_text("a.com:80"), Err("a host name without a port".into()));
        assert!(HostPattern::from_text("größe.de").unwrap_err().contains("xn--"));
    }

    #[test]
    fn a_cookie_domain_loses_its_leading_dot() {
        assert_eq!(CookieDomain::from_text(".Example.com").unwrap().0.as_ref(), "example.com");
        assert!(CookieDomain::from_text("example.com; Secure").is_err());
    }
}
