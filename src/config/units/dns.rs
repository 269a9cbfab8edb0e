//! What is looked up, where, and how often.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use schemars::{Schema, json_schema};

use super::net::is_host_name;
use super::{Address, Scalar, Time, scalar};
use crate::config::DnsRefresh as Refresh;

/// Where name servers listen.
const PORT: u16 = 53;

/// More often than this would only be a load on the server.
const SHORTEST_REFRESH: Duration = Duration::from_millis(100);

/// A name to look up, as written: with a final dot no search domain is tried.
pub(in crate::config) struct DnsName(pub(in crate::config) Arc<str>);

impl Scalar for DnsName {
    fn expected() -> Cow<'static, str> {
        "a name such as app.example.com or _http._tcp.app.example.com".into()
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        if text.parse::<IpAddr>().is_ok() {
            return Err("a name to look up; an IP address goes into backends".into());
        }
        if is_host_name(text) { Ok(Self(text.to_ascii_lowercase().into())) } else { Err(Self::expected()) }
    }
}

scalar!(DnsName);

/// A name server.
#[derive(Clone, Copy)]
pub(in crate::config) struct DnsServer(pub(in crate::config) SocketAddr);

impl Scalar for DnsServer {
    fn expected() -> Cow<'static, str> {
        "the IP address of a name server, such as 10.0.0.2 or 127.0.0.1:5353".into()
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self((address, PORT).into()));
        }
        match Address::from_text(text) {
            Ok(Address(address)) if address.port() != 0 => Ok(Self(address)),
            Ok(_) | Err(_) => Err(Self::expected()),
        }
    }
}

scalar!(DnsServer);

/// How often a name is looked up.
pub(in crate::config) struct DnsRefresh(pub(in crate::config) Refresh);

impl Scalar for DnsRefresh {
    fn expected() -> Cow<'static, str> {
        "ttl, or a duration with its unit such as 30s".into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^(ttl|[0-9]+ *(ms|s|m|h|d))$" })
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        if text == "ttl" {
            return Ok(Self(Refresh::Ttl));
        }
        match Time::from_text(text) {
            Ok(Time(every)) if every < SHORTEST_REFRESH => Err("ttl, or a duration of at least 100ms".into()),
            Ok(Time(every)) => Ok(Self(Refresh::Every(every))),
            Err(_) => Err(Self::expected()),
        }
    }
}

scalar!(DnsRefresh);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_and_an_address_is_not() {
        for (text, expected) in [
            ("App.Example.com", "app.example.com"),
            ("app", "app"),
            ("app.example.", "app.example."),
            ("_http._tcp.app.example", "_http._tcp.app.example"),
        ] {
            assert_eq!(&*DnsName::from_text(text).unwrap_or_else(|_| panic!("{text}")).0, expected);
        }
        for text in ["", ".", "a..b", "127.0.0.1", "::1", "a b", "app:80", "http://app", "größe.de", "*.app"] {
            assert!(DnsName::from_text(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_server_is_an_address_and_its_port_is_53_unless_it_has_another() {
        for (text, expected) in [
            ("10.0.0.2", "10.0.0.2:53"),
            ("127.0.0.1:5353", "127.0.0.1:5353"),
            ("::1", "[::1]:53"),
            ("[::1]:54", "[::1]:54"),
        ] {
            assert_eq!(DnsServer::from_text(text).unwrap_or_else(|_| panic!("{text}")).0.to_string(), expected);
        }
        for text in ["", "dns.example", "10.0.0.2:0", "10.0.0.2:99999", "10.0.0"] {
            assert!(DnsServer::from_text(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_refresh_is_a_time_or_the_ttl() {
        assert_eq!(DnsRefresh::from_text("ttl").ok().unwrap().0, Refresh::Ttl);
        assert_eq!(DnsRefresh::from_text("100ms").ok().unwrap().0, Refresh::Every(SHORTEST_REFRESH));
        for (text, part) in [("99ms", "at least 100ms"), ("0s", "at least"), ("30", "ttl, or"), ("TTL", "ttl, or")] {
            assert!(DnsRefresh::from_text(text).err().unwrap().contains(part), "{text}");
        }
    }
}
