//! Every session on every server, each change copied to all before the reply.

use std::sync::Mutex;

use super::super::logins::{Login, Logins};
use super::peers::Peers;
use super::{Change, lock};

/// All sessions of all servers, as this one knows them.
#[derive(Debug)]
pub struct Replicas {
    logins: Mutex<Logins>,
    peers: Peers,
}

impl Replicas {
    /// Of a server that knows none yet.
    pub fn new(peers: Peers) -> Self {
        Self { logins: Mutex::default(), peers }
    }

    /// Fetches what the others know.
    pub async fn join(&self) {
        self.take(self.peers.ask_all().await);
    }

    /// How many sessions it knows.
    pub fn held(&self) -> usize {
        lock(&self.logins).len()
    }

    /// Bytes exchanged with its peers, on connections that it has opened.
    pub fn peer_bytes(&self) -> u64 {
        self.peers.bytes()
    }

    /// Begins a session.
    pub async fn begin(&self, id: &str, login: Login) {
        lock(&self.logins).put(id, login.clone());
        self.peers.tell_all(&Change::keep(id, login)).await;
    }

    /// Counts a visit.
    pub async fn visit(&self, id: &str) -> Option<Login> {
        let login = lock(&self.logins).visit(id)?;
        self.peers.tell_all(&Change::keep(id, login.clone())).await;
        Some(login)
    }

    /// Ends a session.
    pub async fn end(&self, id: &str) {
        lock(&self.logins).remove(id);
        self.peers.tell_all(&Change::drop(id)).await;
    }

    /// Changes that a peer tells of.
    pub fn take(&self, changes: Vec<Change>) {
        let mut logins = lock(&self.logins);
        for change in changes {
            match change {
                Change::Keep { id, login } => logins.put_newer(&id, login),
                Change::Drop { id } => {
                    logins.remove(&id);
                }
            }
        }
    }

    /// All there is, for a peer that has just started. It is told of every later change again, and first of all: a
    /// change between the two would be lost.
    pub fn all_for(&self, peer: &str) -> Vec<Change> {
        if let Some(peer) = self.peers.named(peer) {
            peer.is_back();
        }
        lock(&self.logins).iter().map(|(id, login)| Change::keep(id, login.clone())).collect()
    }
}
