//! The other servers, as told of changes: at once, or when they answer again.
//!
//! A request waits for its change to arrive, so a peer that does not answer costs one time-out, once: from then on it is
//! away, changes for it are put by, and a task of its own tries it until it has taken them.

use std::collections::HashMap;
use std::slice;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use super::super::super::client::{Client, ClientError};
use super::super::super::traffic::Traffic;
use super::super::logins::MOST;
use super::super::settings::PeerAddress;
use super::{Change, lock};

/// Where servers tell one another, on the port that they serve clients on.
pub const PATH: &str = "/_sessions";

/// How long a peer may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Time between two tries of a peer that is away.
const RETRY: Duration = Duration::from_millis(100);

/// Changes told at a time, so that a long absence does not end in one huge request.
const BATCH: usize = 1000;

/// All the others.
#[derive(Debug)]
pub struct Peers {
    own_name: String,
    peers: Vec<Arc<Peer>>,
    /// Of all connections that this server has opened to them.
    traffic: Arc<Traffic>,
}

/// One of them.
#[derive(Debug)]
pub struct Peer {
    address: PeerAddress,
    /// One connection: what is told first arrives first.
    client: tokio::sync::Mutex<Client>,
    reach: Mutex<Reach>,
}

#[derive(Debug)]
enum Reach {
    Here,
    /// The latest change of each session that it has not taken yet.
    Away(HashMap<String, Change>),
}

/// It did not take the change.
#[derive(Clone, Copy, Debug)]
pub struct Away;

impl Peers {
    /// Takes all for alive until told otherwise.
    pub fn new(own_name: &str, addresses: &[PeerAddress]) -> Self {
        let traffic = Arc::default();
        let peers = addresses.iter().map(|address| Arc::new(Peer::new(address.clone(), &traffic))).collect();
        Self { own_name: own_name.to_owned(), peers, traffic }
    }

    /// Bytes exchanged with them, on connections that this server has opened.
    pub fn bytes(&self) -> u64 {
        self.traffic.read() + self.traffic.written()
    }

    /// The one of this name.
    pub fn named(&self, name: &str) -> Option<&Arc<Peer>> {
        self.peers.iter().find(|peer| peer.address.name == name)
    }

    /// Tells all of them at the same time. They are told even if the caller goes away.
    pub async fn tell_all(&self, change: &Change) {
        let told: Vec<_> = self.peers.iter().map(|peer| tokio::spawn(Arc::clone(peer).tell(change.clone()))).collect();
        for told in told {
            let _ = told.await;
        }
    }

    /// What those who are alive have to say to a server that has just started.
    pub async fn ask_all(&self) -> Vec<Change> {
        let ask = |peer: &Arc<Peer>| {
            let path = format!("{PATH}?for={}", self.own_name);
            tokio::spawn(all_of(client(&peer.address, &self.traffic), path))
        };
        let asked: Vec<_> = self.peers.iter().map(ask).collect();
        let mut known = Vec::new();
        for asked in asked {
            known.extend(asked.await.unwrap_or_default());
        }
        known
    }
}

impl Peer {
    fn new(address: PeerAddress, traffic: &Arc<Traffic>) -> Self {
        Self { client: client(&address, traffic).into(), address, reach: Mutex::new(Reach::Here) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.address.name
    }

    /// Tells it now, or as soon as it answers again.
    pub async fn tell(self: Arc<Self>, change: Change) {
        if self.offer(&change).await.is_err() {
            self.put_by(change);
        }
    }

    /// Tells it now or never.
    ///
    /// # Errors
    /// It is away.
    pub async fn offer(self: &Arc<Self>, change: &Change) -> Result<(), Away> {
        let mut client = self.client.lock().await;
        // Whoever waited here while another found it away does not wait for it once more.
        if let Reach::Away(_) = *lock(&self.reach) {
            return Err(Away);
        }
        let told = deliver(&mut client, slice::from_ref(change)).await;
        if told.is_err() {
            self.is_away();
        }
        told
    }

    /// It asks for all there is: it has just started, and what it missed concerns its former life.
    pub fn is_back(&self) {
        *lock(&self.reach) = Reach::Here;
    }

    fn put_by(self: &Arc<Self>, change: Change) {
        self.is_away();
        if let Reach::Away(missed) = &mut *lock(&self.reach)
            && missed.len() < MOST
        {
            missed.insert(change.id().to_owned(), change);
        }
    }

    fn is_away(self: &Arc<Self>) {
        let mut reach = lock(&self.reach);
        if let Reach::Here = *reach {
            *reach = Reach::Away(HashMap::new());
            tokio::spawn(Arc::clone(self).catch_up());
        }
    }

    /// Tries until it has taken what it missed. An empty batch asks whether it is there.
    async fn catch_up(self: Arc<Self>) {
        sleep(RETRY).await;
        loop {
            let mut client = self.client.lock().await;
            let Some(batch) = self.batch() else { return };
            if deliver(&mut client, &batch).await.is_ok() {
                if self.took_the_last() {
                    return;
                }
            } else {
                drop(client);
                self.put_back(batch);
                sleep(RETRY).await;
            }
        }
    }

    /// `None` when it is here again.
    fn batch(&self) -> Option<Vec<Change>> {
        let Reach::Away(missed) = &mut *lock(&self.reach) else { return None };
        let ids: Vec<String> = missed.keys().take(BATCH).cloned().collect();
        Some(ids.iter().filter_map(|id| missed.remove(id)).collect())
    }

    /// What became of a session since then is newer.
    fn put_back(&self, batch: Vec<Change>) {
        if let Reach::Away(missed) = &mut *lock(&self.reach) {
            for change in batch {
                missed.entry(change.id().to_owned()).or_insert(change);
            }
        }
    }

    fn took_the_last(&self) -> bool {
        let mut reach = lock(&self.reach);
        if let Reach::Away(missed) = &*reach
            && !missed.is_empty()
        {
            return false;
        }
        *reach = Reach::Here;
        true
    }
}

fn client(address: &PeerAddress, traffic: &Arc<Traffic>) -> Client {
    let mut client = Client::counted(address.address, Arc::clone(traffic));
    client.timeout = PATIENCE;
    client
}

/// Changes may arrive twice: each says how things are, not what to add.
async fn deliver(client: &mut Client, changes: &[Change]) -> Result<(), Away> {
    let body = Bytes::from(serde_json::to_vec(changes).expect("texts and numbers"));
    let mut reply = client.post(PATH, body.clone()).await;
    // A connection to the peer's former life breaks once.
    if let Err(ClientError::Exchange(_)) = reply {
        reply = client.post(PATH, body).await;
    }
    match reply {
        Ok(reply) if reply.status.is_success() => Ok(()),
        _ => Err(Away),
    }
}

/// What one of them knows; nothing when it is away.
async fn all_of(mut client: Client, path: String) -> Vec<Change> {
    client.get(&path).await.ok().and_then(|reply| serde_json::from_slice(&reply.body).ok()).unwrap_or_default()
}
