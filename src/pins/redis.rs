//! The pin store that all replicas share: a Redis (6 or later) or a Valkey.
//!
//! It answers what this process does not know of a pin, and makes replicas agree on one home. It does not serve known
//! pins: those are in memory, and stay right because every move is told to every replica. A worker never waits for the
//! store longer than its lookup time-out, and not at all when the store is known to be away.
//!
//! # What is stored
//!
//! | key | value | lives |
//! |---|---|---|
//! | `stickpin:1:{POOL}:KEY` | `1:HOME:PIN:INSTANCE:ISSUED:REFRESHED`, and `:DETOUR:SINCE` while there is one | until the pin is idle or too old, whichever comes first |
//! | `stickpin:1:check` | a pin of nobody | a minute |
//!
//! Numbers are lower-case hex digits of fixed width: `KEY` 32 (the keyed hash of the session id, which is itself
//! nowhere), `HOME` and `DETOUR` 16 (stable hashes of backends), the others 8. The braces are part of the key: in a
//! cluster they keep a pool's pins together. The number in front is the version of the whole format: another format gets
//! other keys, so that old and new replicas can run side by side. A value that cannot be read counts as unknown and is
//! written over. The time to live is counted from the last use, and set anew whenever the pin is refreshed.
//!
//! # How replicas agree
//!
//! Every change goes through one script (`settle.lua`), which the store carries out as one step, and which returns what
//! is stored then. A change carries its basis, what its writer believes to be stored:
//! - the home it knows: the change gives way to a pin with yet another home, which somebody else has moved meanwhile. Of
//!   two replicas that rehome one pin at once, the first wins, and the other one takes over its answer;
//! - nothing, for a pin just learned: it gives way to one with another home that was issued at the same time or later.
//!
//! A refresh that comes late never takes time from a pin that was used since. Whatever changes more than the time of the last use is published on the channel
//! `stickpin:1:DB:moved` as `KEY VALUE`, a removal as `KEY`; every replica puts its own copy right. Channels do not belong
//! to a database, hence `DB`.
//!
//! # When the store is away
//!
//! It is away when a connection breaks or an answer takes half a second. Then lookups find nothing, moves are decided here
//! (the heir is the same at every replica), and changes wait, of each pin only what they add up to, at most
//! [`MOST_PENDING`] pins; beyond it the oldest are dropped and counted. When it is back, they are written on the basis
//! they were made on.
//!
//! Moves told meanwhile were missed, and the store may have come back empty. So every pin in memory is compared with the
//! store, a few hundred at a time: what differs is taken over from the store, what the store does not have is given to it.
//! Until its turn comes, a stale copy does what it did while the store was away, and a refresh puts it right too. Nothing
//! known only here is lost; a pin that was removed at another replica meanwhile may come back, until it is idle.
//!
//! # Rights
//!
//! The user needs `GET`, `MGET`, `SET`, `DEL`, `EVALSHA`, `SCRIPT LOAD`, `PUBLISH`, `SUBSCRIBE`, `PING`, the keys
//! `stickpin:1:*` and the channels `stickpin:1:*`. With `rediss://` the store's certificate is held to the system's roots,
//! or to those of `SSL_CERT_FILE` and `SSL_CERT_DIR`.

mod value;

mod queue;

mod client;

mod keeper;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, thread};

use tokio::sync::{mpsc, oneshot};

pub(super) use client::Settings;
pub(super) use queue::{Basis, Change, Write};

use super::shelf::{Limits, Shelf};
use super::{Owner, PinKey, Record};
use keeper::Keeper;

/// The way to the thread that speaks with the store. Never blocks.
#[derive(Debug)]
pub(super) struct Link {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

/// What both ends of a [`Link`] see.
#[derive(Debug, Default)]
struct Shared {
    connected: AtomicBool,
    /// By name. Looked at by the control plane and the store's thread only.
    shelves: Mutex<HashMap<Arc<str>, Arc<Shelf>>>,
}

impl Shared {
    fn shelves(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Shelf>>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
enum Command {
    Write(PinKey, Write),
    Fetch(Fetch),
    Stop { within: Duration, stopped: oneshot::Sender<()> },
}

/// A pin that is looked for.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) shelf: Arc<Shelf>,
    pub(super) key: PinKey,
    /// What memory has of it: it may be expired here and in use elsewhere.
    pub(super) known: Option<Record>,
    /// Who asks.
    pub(super) owner: Owner,
    pub(super) limits: Limits,
    pub(super) answer: oneshot::Sender<Option<Record>>,
}

impl Link {
    /// Starts the thread, which connects at once and goes on trying. The store is then given what these hold.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn start(settings: Settings, shelves: impl Iterator<Item = Arc<Shelf>>) -> io::Result<Self> {
        let (commands, inbox) = mpsc::channel(MOST_COMMANDS);
        let shared = Arc::new(Shared::default());
        shared.shelves().extend(shelves.map(|shelf| (Arc::clone(&shelf.pool), shelf)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let keeper = Keeper::new(settings, inbox, Arc::clone(&shared));
        thread::Builder::new().name("pins".into()).spawn(move || runtime.block_on(keeper.run()))?;
        Ok(Self { commands, shared })
    }

    /// Whether the store is there, as far as is known.
    pub(super) fn is_connected(&self) -> bool {
        // Relaxed is enough: nothing is published through it, and one request more or less asks in vain.
        self.shared.connected.load(Relaxed)
    }

    /// Moves of pins of this pool are taken over from now on.
    pub(super) fn add(&self, shelf: &Arc<Shelf>) {
        self.shared.shelves().insert(Arc::clone(&shelf.pool), Arc::clone(shelf));
    }

    /// Moves are only taken over for these pools.
    pub(super) fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.shared.shelves().retain(|pool, _| keep(pool));
    }

    /// Hands over a change. Without room for it, it is given up and counted.
    pub(super) fn write(&self, key: PinKey, write: Write) {
        if let Err(error) = self.commands.try_send(Command::Write(key, write))
            && let Command::Write(_, write) = error.into_inner()
        {
            write.give_up();
        }
    }

    /// Hands over a lookup. Without room for it, the answer's other end hears that nobody will answer.
    pub(super) fn fetch(&self, fetch: Fetch) {
        let _ = self.commands.try_send(Command::Fetch(fetch));
    }

    /// Ends the thread as soon as everything is written, at the latest after this time.
    pub(super) async fn stop(&self, within: Duration) {
        let (stopped, ended) = oneshot::channel();
        if self.commands.send(Command::Stop { within, stopped }).await.is_ok() {
            // Answered by being dropped.
            let _ = ended.await;
        }
    }
}

/// Pins whose change can wait for a store that is away: 10 to 20 MB.
pub(super) const MOST_PENDING: usize = 100_000;

/// Commands that the thread has not looked at yet. It only falls behind when the store does.
const MOST_COMMANDS: usize = 65_536;
