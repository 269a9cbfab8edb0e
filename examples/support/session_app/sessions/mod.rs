//! The sessions of one server, kept in one of the four ways that a pool's `sessions` names.

mod backups;

mod change;

mod peers;

mod replicas;

mod store;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backups::Backups;
pub use change::Change;
pub use peers::PATH as PEERS_PATH;
use peers::Peers;
use replicas::Replicas;
use store::Store;
pub use store::StoreError;

use super::logins::{Login, Logins};
use super::settings::{Keeping, Settings};

/// All sessions that one life of a server knows.
#[derive(Debug)]
pub enum Sessions {
    /// In its own memory only.
    Local(Mutex<Logins>),
    /// On every server.
    Replicated(Replicas),
    /// Here and at one other.
    Backup(Arc<Backups>),
    /// In a shared store.
    External(Store),
}

/// What a request found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visit {
    /// The session.
    pub session: Session,
    /// The server that got a copy of it before this reply.
    pub copied_to: Option<String>,
}

/// What the session id in a request is to this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Session {
    /// The request has none.
    None,
    /// Here, or within reach.
    Known(Login),
    /// Begun elsewhere, or in an earlier life of this server: the login is lost.
    Unknown,
}

impl Sessions {
    /// Those of a server that has just started.
    pub fn new(settings: &Settings) -> Self {
        match &settings.keeping {
            Keeping::Local => Self::Local(Mutex::default()),
            Keeping::Replicated { peers } => Self::Replicated(Replicas::new(Peers::new(&settings.name, peers))),
            Keeping::Backup { peers, adopt } => {
                Self::Backup(Arc::new(Backups::new(Peers::new(&settings.name, peers), *adopt)))
            }
            Keeping::External { redis } => Self::External(Store::new(redis.clone())),
        }
    }

    /// Joins the others: returns when all that are alive count on this server, and it knows what it has to know.
    pub async fn join(&self) {
        match self {
            Self::Replicated(replicas) => replicas.join().await,
            Self::Backup(backups) => backups.join().await,
            Self::Local(_) | Self::External(_) => {}
        }
    }

    /// Begins a session; gives the server that has a copy. `heir` is who should.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn begin(&self, id: &str, user: String, heir: Option<&str>) -> Result<Option<String>, StoreError> {
        let login = Login { user, visits: 0 };
        Ok(match self {
            Self::Local(logins) => {
                lock(logins).put(id, login);
                None
            }
            Self::Replicated(replicas) => {
                replicas.begin(id, login).await;
                None
            }
            Self::Backup(backups) => backups.begin(id, login, heir).await,
            Self::External(store) => {
                store.begin(id, &login).await?;
                None
            }
        })
    }

    /// Looks up the session of a request, and counts the visit. `heir` is who should have a copy.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn visit(&self, id: Option<&str>, heir: Option<&str>) -> Result<Visit, StoreError> {
        let Some(id) = id else { return Ok(Visit { session: Session::None, copied_to: None }) };
        let (login, copied_to) = match self {
            Self::Local(logins) => (lock(logins).visit(id), None),
            Self::Replicated(replicas) => (replicas.visit(id).await, None),
            Self::Backup(backups) => backups.visit(id, heir).await,
            Self::External(store) => (store.visit(id).await?, None),
        };
        Ok(Visit { session: login.map_or(Session::Unknown, Session::Known), copied_to })
    }

    /// Ends a session wherever it is kept.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn end(&self, id: &str) -> Result<(), StoreError> {
        match self {
            Self::Local(logins) => {
                lock(logins).remove(id);
            }
            Self::Replicated(replicas) => replicas.end(id).await,
            Self::Backup(backups) => backups.end(id).await,
            Self::External(store) => store.end(id).await?,
        }
        Ok(())
    }

    /// How many sessions are in this server's memory, its own and copies.
    pub fn held(&self) -> usize {
        match self {
            Self::Local(logins) => lock(logins).len(),
            Self::Replicated(replicas) => replicas.held(),
            Self::Backup(backups) => backups.held(),
            Self::External(_) => 0,
        }
    }

    /// Bytes exchanged with its peers, both ways, on connections that it has opened.
    pub fn peer_bytes(&self) -> u64 {
        match self {
            Self::Replicated(replicas) => replicas.peer_bytes(),
            Self::Backup(backups) => backups.peer_bytes(),
            Self::Local(_) | Self::External(_) => 0,
        }
    }

    /// Whether peers may tell it of changes.
    pub fn has_peers(&self) -> bool {
        matches!(self, Self::Replicated(_) | Self::Backup(_))
    }

    /// Changes that a peer tells of.
    pub fn take(&self, changes: Vec<Change>) {
        match self {
            Self::Replicated(replicas) => replicas.take(changes),
            Self::Backup(backups) => backups.take(changes),
            Self::Local(_) | Self::External(_) => {}
        }
    }

    /// What a peer that has just started has to know.
    pub fn all_for(&self, peer: &str) -> Vec<Change> {
        match self {
            Self::Replicated(replicas) => replicas.all_for(peer),
            Self::Backup(backups) => backups.all_for(peer),
            Self::Local(_) | Self::External(_) => Vec::new(),
        }
    }
}

impl Session {
    /// The word used in replies.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Known(_) => "known",
            Self::Unknown => "unknown",
        }
    }
}

/// What is behind these locks stays whole even if a holder panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
