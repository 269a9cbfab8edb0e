//! What a server is told before it starts.

use std::net::SocketAddr;
use std::time::Duration;

use super::ids::Ids;

/// All that one server is told, but for its own address.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name, given back in every reply and known to its peers.
    pub name: String,
    /// Where its sessions live.
    pub keeping: Keeping,
    /// How session ids travel.
    pub ids: Ids,
}

/// Where sessions live: the words of a pool's `sessions`.
#[derive(Clone, Debug)]
pub enum Keeping {
    /// In the memory of the server that began them.
    Local,
    /// On every server.
    Replicated {
        /// All the others.
        peers: Vec<PeerAddress>,
    },
    /// On the server that began them, and on the one that a request's `Stickpin-Heir` names.
    Backup {
        /// All the others.
        peers: Vec<PeerAddress>,
        /// How long taking over a copy takes.
        adopt: Duration,
    },
    /// In a Redis that all servers share.
    External {
        /// Where it is.
        redis: redis::Client,
    },
}

/// Another server that keeps the same sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// Its name, as Stickpin knows it too.
    pub name: String,
    /// Where it listens, in every life.
    pub address: SocketAddr,
}

impl Settings {
    /// Sessions in its own memory, their ids in the cookie `APPSESSION`.
    pub fn local(name: &str) -> Self {
        Self { name: name.to_owned(), keeping: Keeping::Local, ids: Ids::default() }
    }
}

impl Keeping {
    /// For the page: what to tell whoever wonders where a login lives.
    pub fn told(&self) -> &'static str {
        match self {
            Self::Local => "This server keeps logins in its own memory.",
            Self::Replicated { .. } => "This server and its peers all keep every login.",
            Self::Backup { .. } => "This server keeps logins in its own memory, and a copy of each at one peer.",
            Self::External { .. } => "This server keeps logins in a store that it shares with its peers.",
        }
    }
}
