//! The command line of a session server.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::{Args, ValueEnum};
use http::HeaderName;

use super::session_app::{COOKIE, Carrier, Ids, Keeping, PeerAddress, Route, Separator, Settings};

/// What a session server is told on its command line.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Its name, given back in every reply and known to its peers.
    #[arg(long, default_value = "app1", value_parser = name)]
    name: String,

    /// Address to listen on.
    #[arg(long, default_value_t = Ipv4Addr::LOCALHOST)]
    address: Ipv4Addr,

    /// Port; 0 lets the system choose.
    #[arg(long, default_value_t = 0)]
    port: u16,

    /// Where its sessions live.
    #[arg(long, value_enum, default_value_t = Sessions::Local)]
    sessions: Sessions,

    /// Another server that keeps the same sessions; once for each. For `replicated` and `backup`.
    #[arg(long = "peer", value_name = "NAME=ADDRESS", value_parser = peer)]
    peers: Vec<PeerAddress>,

    /// How long taking over the copy of a session takes, in milliseconds. For `backup`.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    adopt_ms: u64,

    /// Where Redis is. For `external`.
    #[arg(long, value_name = "URL", required_if_eq("sessions", "external"), value_parser = redis_client)]
    redis: Option<redis::Client>,

    /// The cookie that session ids come and go in.
    #[arg(long, value_name = "NAME", default_value = COOKIE, value_parser = name)]
    session_cookie: String,

    /// A header that session ids come and go in, instead of a cookie.
    #[arg(long, value_name = "NAME")]
    session_header: Option<HeaderName>,

    /// What to append to session ids, as Tomcat's `jvmRoute`: a name, or `none`.
    #[arg(long, value_name = "NAME", default_value = "none", value_parser = name)]
    route: String,

    /// What to append it with: `ID.NAME` or `ID!NAME!HEIR`.
    #[arg(long, value_enum, default_value_t = Separator::Dot)]
    route_separator: Separator,

    /// Ends when standard input does, and so with the process at its other end.
    #[arg(long, hide = true)]
    pub stop_with_stdin: bool,
}

/// The words of a pool's `sessions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sessions {
    /// In its own memory.
    Local,
    /// Here and at all peers.
    Replicated,
    /// Here and at the peer that a request's `Stickpin-Heir` names.
    Backup,
    /// In Redis.
    External,
}

impl Arguments {
    /// Where to listen.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((self.address, self.port))
    }

    /// All the rest. Peers of a server that keeps its sessions to itself are of no use, and no mistake.
    pub fn settings(&self) -> Settings {
        let peers = self.peers.clone();
        let keeping = match self.sessions {
            Sessions::Local => Keeping::Local,
            Sessions::Replicated => Keeping::Replicated { peers },
            Sessions::Backup => Keeping::Backup { peers, adopt: Duration::from_millis(self.adopt_ms) },
            Sessions::External => Keeping::External { redis: self.redis.clone().expect("clap asks for it") },
        };
        let carrier = match &self.session_header {
            Some(header) => Carrier::Header(header.clone()),
            None => Carrier::Cookie(self.session_cookie.clone()),
        };
        let route = (self.route != "none").then(|| Route { name: self.route.clone(), separator: self.route_separator });
        Settings { name: self.name.clone(), keeping, ids: Ids { carrier, route } }
    }
}

/// Names become parts of headers, ids and addresses.
fn name(text: &str) -> Result<String, String> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if is_plain { Ok(text.to_owned()) } else { Err("expected letters, digits, `-`, `_`, `.`".to_owned()) }
}

fn peer(text: &str) -> Result<PeerAddress, String> {
    let (peer, address) = text.split_once('=').ok_or("expected NAME=ADDRESS")?;
    let address = address.parse().map_err(|error| format!("{address}: {error}"))?;
    Ok(PeerAddress { name: name(peer)?, address })
}

fn redis_client(url: &str) -> Result<redis::Client, redis::RedisError> {
    redis::Client::open(url)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        server: Arguments,
    }

    fn parse(arguments: &str) -> Result<Settings, clap::Error> {
        Command::try_parse_from(format!("session_server {arguments}").split(' '))
            .map(|command| command.server.settings())
    }

    #[test]
    fn nothing_said_means_a_cookie_and_sessions_in_memory() {
        let settings = parse("--name one").unwrap();
        assert!(matches!(settings.keeping, Keeping::Local));
        assert_eq!(settings.ids.carrier, Carrier::Cookie(COOKIE.to_owned()));
        assert_eq!(settings.ids.route, None);
    }

    #[test]
    fn every_way_can_be_named() {
        let two = PeerAddress { name: "two".to_owned(), address: SocketAddr::from(([127, 0, 0, 1], 9102)) };
        let settings = parse("--sessions backup --peer two=127.0.0.1:9102 --adopt-ms 50").unwrap();
        match settings.keeping {
            Keeping::Backup { peers, adopt } => assert_eq!((peers, adopt.as_millis()), (vec![two], 50)),
            other => panic!("{other:?}"),
        }
        let settings = parse("--sessions external --redis redis://127.0.0.1/ --session-header Mcp-Session-Id").unwrap();
        assert!(matches!(settings.keeping, Keeping::External { .. }));
        assert_eq!(settings.ids.carrier, Carrier::Header(HeaderName::from_static("mcp-session-id")));
        let route = parse("--route one --route-separator !").unwrap().ids.route;
        assert_eq!(route, Some(Route { name: "one".to_owned(), separator: Separator::Bang }));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for arguments in [
            "--sessions external",
            "--sessions sticky",
            "--peer two",
            "--peer two=nowhere",
            "--peer =127.0.0.1:1",
            "--route a;b",
            "--session-cookie a=b",
            "--session-header a:b",
            "--redis http://127.0.0.1/",
            "--route-separator ?",
        ] {
            assert!(parse(arguments).is_err(), "{arguments}");
        }
    }
}
