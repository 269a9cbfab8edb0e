//! Each session on a primary and on the one server that the request's `Stickpin-Heir` names.
//!
//! A server that is asked for a session of which it has a copy adopts it: it tells all others to drop theirs, and is the
//! primary from then on. As with Tomcat's `BackupManager` nobody asks before: two servers that adopt the same session at
//! the same time each tell the other to drop it, and it is lost.
//!
//! When the heir changes, the former one keeps the copy that it has, which grows old.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::super::logins::{Login, Logins};
use super::peers::Peers;
use super::{Change, lock};

/// The sessions that this server is the primary of, and the copies that it keeps for others.
#[derive(Debug)]
pub struct Backups {
    memory: Mutex<Memory>,
    peers: Peers,
    adopt: Duration,
}

#[derive(Debug, Default)]
struct Memory {
    primary: Logins,
    copies: Logins,
    /// Copies that are being adopted. Its sender is dropped when that is done, well or not.
    adopting: HashMap<String, watch::Receiver<()>>,
}

enum Found {
    Primary(Login),
    Adopting(watch::Receiver<()>),
    Nothing,
}

impl Backups {
    /// Of a server that knows none yet, and takes so long to adopt one.
    pub fn new(peers: Peers, adopt: Duration) -> Self {
        Self { memory: Mutex::default(), peers, adopt }
    }

    /// Tells the others that it may have copies again.
    pub async fn join(&self) {
        self.peers.ask_all().await;
    }

    /// How many sessions it keeps, copies for others among them.
    pub fn held(&self) -> usize {
        let memory = lock(&self.memory);
        memory.primary.len() + memory.copies.len()
    }

    /// Bytes exchanged with its peers, on connections that it has opened.
    pub fn peer_bytes(&self) -> u64 {
        self.peers.bytes()
    }

    /// Begins a session; gives the server that has a copy.
    pub async fn begin(&self, id: &str, login: Login, heir: Option<&str>) -> Option<String> {
        lock(&self.memory).primary.put(id, login.clone());
        self.copy(id, login, heir).await
    }

    /// Counts a visit, adopting the session first if need be. Gives the session and the server that has a copy.
    pub async fn visit(self: &Arc<Self>, id: &str, heir: Option<&str>) -> (Option<Login>, Option<String>) {
        loop {
            let mut adopting = match self.find(id) {
                Found::Primary(login) => return (Some(login.clone()), self.copy(id, login, heir).await),
                Found::Nothing => return (None, None),
                Found::Adopting(receiver) => receiver,
            };
            // Nothing is ever sent: it fails once the sender is dropped.
            let _ = adopting.changed().await;
        }
    }

    /// Ends a session.
    pub async fn end(&self, id: &str) {
        lock(&self.memory).forget(id);
        self.peers.tell_all(&Change::drop(id)).await;
    }

    /// Changes that a peer tells of.
    pub fn take(&self, changes: Vec<Change>) {
        let mut memory = lock(&self.memory);
        for change in changes {
            match change {
                // A former primary that has not heard yet that this server has adopted the session.
                Change::Keep { id, .. } if memory.primary.contains(&id) => {}
                Change::Keep { id, login } => memory.copies.put_newer(&id, login),
                Change::Drop { id } => memory.forget(&id),
            }
        }
    }

    /// A peer has just started. It fetches nothing, and has nothing of its former life to drop.
    pub fn all_for(&self, peer: &str) -> Vec<Change> {
        if let Some(peer) = self.peers.named(peer) {
            peer.is_back();
        }
        Vec::new()
    }

    /// Whoever comes while a session is being adopted waits for that.
    fn find(self: &Arc<Self>, id: &str) -> Found {
        let mut memory = lock(&self.memory);
        if let Some(login) = memory.primary.visit(id) {
            return Found::Primary(login);
        }
        if !memory.copies.contains(id) {
            return Found::Nothing;
        }
        let receiver = memory.adopting.entry(id.to_owned()).or_insert_with(|| {
            let (done, receiver) = watch::channel(());
            // A task of its own: a client that leaves must not leave it half done.
            tokio::spawn(Arc::clone(self).adopt(id.to_owned(), done));
            receiver
        });
        Found::Adopting(receiver.clone())
    }

    /// The others are told whatever they have told us meanwhile: that is the danger.
    async fn adopt(self: Arc<Self>, id: String, done: watch::Sender<()>) {
        sleep(self.adopt).await;
        self.peers.tell_all(&Change::drop(&id)).await;
        let mut memory = lock(&self.memory);
        memory.adopting.remove(&id);
        if let Some(login) = memory.copies.remove(&id) {
            memory.primary.put(&id, login);
        }
        drop(memory);
        drop(done);
    }

    async fn copy(&self, id: &str, login: Login, heir: Option<&str>) -> Option<String> {
        let peer = self.peers.named(heir?)?;
        peer.offer(&Change::keep(id, login)).await.ok()?;
        Some(peer.name().to_owned())
    }
}

impl Memory {
    fn forget(&mut self, id: &str) {
        self.primary.remove(id);
        self.copies.remove(id);
    }
}
