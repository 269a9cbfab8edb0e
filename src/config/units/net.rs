//! Addresses, networks and host names.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::{Scalar, scalar};
use crate::config::HostPattern;

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

/// An address to connect to.
#[derive(Clone, Copy)]
pub(in crate::config) struct BackendAddress(pub(in crate::config) SocketAddr);

impl Scalar for BackendAddress {
    fn expected() -> Cow<'static, str> {
        ADDRESS.into()
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        let Address(address) = Address::from_text(text)?;
        if address.port() == 0 { Err("a port from 1 to 65535".into()) } else { Ok(Self(address)) }
    }
}

scalar!(BackendAddress);

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

scalar!(Network);

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
fn without_final_dot(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

/// Labels of letters, digits, `-` and `_` (which names inside a network do have).
fn is_host_name(host: &str) -> bool {
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
