//! The thread that speaks with the store: connects, reconnects, and carries out what workers ask for.

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use redis::{RedisError, Value};
use tokio::select;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{info, warn};

use super::client::{ConnectError, Connected, Push, Settings, Settle, Store, connect, is_fatal};
use super::queue::{Basis, Change, Queue, Write};
use super::{Command, Fetch, MOST_PENDING, Shared, value};
use crate::clock::unix_seconds;
use crate::pins::shelf::{Shelf, owner_of};
use crate::pins::{PinKey, Record};
use crate::telemetry::with_causes;

/// See the module's doc.
pub(super) struct Keeper {
    settings: Settings,
    commands: Commands,
    shared: Arc<Shared>,
    queue: Queue,
    /// Being written right now; goes back into the queue when the connection breaks.
    flying: HashMap<PinKey, Write>,
    /// Being looked up right now.
    lookups: HashMap<PinKey, Lookup>,
    /// What the log said last.
    said: Said,
}

/// Where commands come from, until there are no more.
struct Commands {
    inbox: mpsc::Receiver<Command>,
    /// Everything has been read, and nothing will come.
    ended: bool,
    /// By when to end, once that was ordered; whoever waits for it sees the sender dropped.
    stop: Option<(Instant, Option<oneshot::Sender<()>>)>,
}

impl Commands {
    /// The next one to carry out. Pending for ever once there are no more.
    async fn next(&mut self) -> Option<Command> {
        if self.ended {
            pending::<()>().await;
        }
        match self.inbox.recv().await {
            Some(Command::Stop { within, stopped }) => {
                self.inbox.close();
                self.stop = Some((Instant::now() + within, Some(stopped)));
                None
            }
            Some(command) => Some(command),
            None => {
                self.ended = true;
                // Nobody has ordered a stop: the store was let go of, and what is left may still be written.
                self.stop.get_or_insert_with(|| (Instant::now() + FAREWELL, None));
                None
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.stop.as_ref().map(|(deadline, _)| *deadline)
    }
}

async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

/// A key that is being looked up.
#[derive(Default)]
struct Lookup {
    asking: Vec<Fetch>,
    /// What was told of the pin meanwhile: newer than the answer that is under way, or on its heels.
    moved: Option<Option<Record>>,
}

#[derive(PartialEq, Eq)]
enum Said {
    Nothing,
    Connected,
    Away(&'static str),
}

/// Why serving ended.
enum Ended {
    Stopped,
    Lost(ConnectError),
}

/// What one job brought.
enum Done {
    Fetched(PinKey, Result<Option<Vec<u8>>, RedisError>),
    Written(Vec<PinKey>, Result<Vec<Value>, RedisError>),
    Compared(Vec<Known>, Result<Vec<Option<Vec<u8>>>, RedisError>),
    Pinged(Result<(), RedisError>),
}

/// A pin in memory, as it was when the store was asked.
struct Known {
    shelf: Arc<Shelf>,
    key: PinKey,
    record: Record,
}

impl Keeper {
    pub(super) fn new(settings: Settings, inbox: mpsc::Receiver<Command>, shared: Arc<Shared>) -> Self {
        Self {
            settings,
            commands: Commands { inbox, ended: false, stop: None },
            shared,
            queue: Queue::new(MOST_PENDING),
            flying: HashMap::new(),
            lookups: HashMap::new(),
            said: Said::Nothing,
        }
    }

    /// Until a stop is ordered, or nobody is left who could ask for anything.
    pub(super) async fn run(mut self) {
        let mut backoff = SHORTEST_BACKOFF;
        loop {
            let settings = self.settings.clone();
            let trouble = match self.meanwhile(connect(&settings)).await {
                None => break,
                Some(Err(error)) => error,
                Some(Ok(connected)) => {
                    self.came_back();
                    let since = Instant::now();
                    let ended = self.serve(connected).await;
                    self.went_away();
                    match ended {
                        Ended::Stopped => break,
                        Ended::Lost(error) => {
                            // One that breaks at once is left alone for longer, like one that cannot be reached.
                            if since.elapsed() >= LONGEST_BACKOFF {
                                backoff = SHORTEST_BACKOFF;
                            }
                            error
                        }
                    }
                }
            };
            self.say_away(&trouble);
            // Replicas that lost the store at one moment do not come back at one moment.
            let wait = backoff.mul_f64(0.75 + fastrand::f64() / 2.0);
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
            if self.meanwhile(sleep(wait)).await.is_none() {
                break;
            }
        }
        if !self.queue.is_empty() {
            warn!(unwritten = self.queue.len(), "the pin store was away until the end: not every pin was written");
        }
    }

    /// Waits while the store is away. `None`: it is time to end.
    async fn meanwhile<F: Future>(&mut self, wait: F) -> Option<F::Output> {
        let mut wait = pin!(wait);
        loop {
            if self.commands.ended && self.queue.is_empty() {
                return None;
            }
            let deadline = self.commands.deadline();
            select! {
                biased;
                output = &mut wait => return Some(output),
                () = reached(deadline) => return None,
                command = self.commands.next() => match command {
                    Some(Command::Write(key, write)) => {
                        self.queue.push(key, write);
                        // Whoever waits hears at once that nobody will answer.
                        self.queue.drop_answers(key);
                    }
                    // Dropped, which says that nobody will answer.
                    Some(Command::Fetch(_)) | Some(Command::Stop { .. }) | None => {}
                },
            }
        }
    }

    fn came_back(&mut self) {
        let pending = self.queue.len();
        info!(store = self.settings.address(), pending, "the pin store is connected");
        self.said = Said::Connected;
        self.shared.connected.store(true, Relaxed);
    }

    fn went_away(&mut self) {
        self.shared.connected.store(false, Relaxed);
        self.lookups.clear();
        for (key, mut write) in self.flying.drain() {
            write.answers.clear();
            self.queue.put_back(key, write);
        }
        self.queue.drop_all_answers();
    }

    fn say_away(&mut self, trouble: &ConnectError) {
        let said = Said::Away(trouble.reason());
        if self.said != said {
            warn!(
                store = self.settings.address(),
                reason = trouble.reason(),
                error = with_causes(trouble),
                "the pin store is away: known pins are served from memory, new ones are written when it is back"
            );
            self.said = said;
        }
    }

    /// Carries out commands until the connection breaks, or everything is done.
    async fn serve(&mut self, mut connected: Connected) -> Ended {
        let mut jobs = JoinSet::new();
        let mut to_compare = self.everything();
        let mut comparing = false;
        let mut ping = interval(PING_INTERVAL);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if connected.missed.swap(false, Relaxed) {
                to_compare = self.everything();
            }
            while self.flying.is_empty() && !self.queue.is_empty() {
                self.write_some(&connected.store, &mut jobs);
            }
            if !comparing && self.queue.len() < MOST_PENDING / 2 {
                comparing = compare_some(&mut to_compare, &connected.store, &mut jobs);
            }
            if self.commands.ended && self.queue.is_empty() && self.flying.is_empty() {
                return Ended::Stopped;
            }
            let deadline = self.commands.deadline();
            select! {
                push = connected.pushes.recv() => match push {
                    Some(Push::Moved { pool, key, record }) => self.moved(&pool, key, record),
                    Some(Push::Lost) | None => return Ended::Lost(ConnectError::Lost),
                },
                Some(done) = jobs.join_next() => {
                    // A job is neither aborted while we serve nor does it panic.
                    let Ok(done) = done else { return Ended::Lost(ConnectError::Lost) };
                    if matches!(done, Done::Compared(..)) {
                        comparing = false;
                    }
                    if let Err(error) = self.finish(done) {
                        return Ended::Lost(error);
                    }
                },
                command = self.commands.next(), if jobs.len() < MOST_JOBS => match command {
                    Some(Command::Write(key, write)) if write.answers.is_empty() => self.queue.push(key, write),
                    Some(Command::Write(key, write)) => self.queue.push_urgent(key, write),
                    Some(Command::Fetch(fetch)) => self.look_up(fetch, &connected.store, &mut jobs),
                    Some(Command::Stop { .. }) | None => {}
                },
                // A store that hangs is noticed although nobody asks it for anything.
                _ = ping.tick() => {
                    let store = connected.store.clone();
                    jobs.spawn(async { Done::Pinged(store.ping().await) });
                },
                () = reached(deadline) => return Ended::Stopped,
            }
        }
    }

    fn write_some(&mut self, store: &Store, jobs: &mut JoinSet<Done>) {
        let now = unix_seconds(SystemTime::now());
        let (mut keys, mut changes) = (Vec::new(), Vec::new());
        for (key, write) in self.queue.take(BATCH) {
            // One that has expired while it waited is not worth writing.
            let Some(change) = settle(key, &write, now) else { continue };
            keys.push(key);
            changes.push(change);
            self.flying.insert(key, write);
        }
        if !keys.is_empty() {
            let store = store.clone();
            jobs.spawn(async move { Done::Written(keys, store.settle(changes, now).await) });
        }
    }

    fn look_up(&mut self, fetch: Fetch, store: &Store, jobs: &mut JoinSet<Done>) {
        let key = fetch.key;
        // What was decided here and is not written yet is newer than what is stored.
        if let Some(change) = self.queue.change(key).or_else(|| self.flying.get(&key).map(|write| &write.change)) {
            // Nobody may be waiting any longer.
            let _ = fetch.answer.send(match change {
                Change::Put { record, .. } => Some(*record),
                Change::Remove => None,
            });
            return;
        }
        let lookup = self.lookups.entry(key).or_default();
        if lookup.asking.is_empty() {
            let (store, text) = (store.clone(), value::key(&fetch.shelf.pool, key));
            jobs.spawn(async move { Done::Fetched(key, store.get(text).await) });
        }
        lookup.asking.push(fetch);
    }

    fn finish(&mut self, done: Done) -> Result<(), ConnectError> {
        match done {
            Done::Fetched(key, value) => {
                // An answer that concerns this key alone: something else is stored there.
                let value = survivable(value)?.flatten();
                self.fetched(key, value.as_deref().and_then(value::decode));
            }
            Done::Written(keys, answers) => {
                for (key, answer) in keys.into_iter().zip(answers?) {
                    self.written(key, answer)?;
                }
            }
            Done::Compared(known, values) => {
                for (known, value) in known.iter().zip(survivable(values)?.unwrap_or_default()) {
                    self.compared(known, value.as_deref().and_then(value::decode));
                }
            }
            Done::Pinged(answer) => answer?,
        }
        Ok(())
    }

    fn fetched(&mut self, key: PinKey, found: Option<Record>) {
        let Some(Lookup { asking, moved }) = self.lookups.remove(&key) else { return };
        let latest = moved.unwrap_or(found);
        for fetch in asking {
            // What has been put here since then is on its way to the store.
            if let Some(record) = latest
                && fetch.shelf.memory.get(key) == fetch.known
                && !self.has_change(key)
            {
                fetch.shelf.put(key, record, fetch.owner, fetch.limits);
            }
            // Nobody may be waiting any longer.
            let _ = fetch.answer.send(latest);
        }
    }

    fn written(&mut self, key: PinKey, answer: Value) -> Result<(), ConnectError> {
        let stored = match answer {
            Value::BulkString(value) => value::decode(&value),
            Value::ServerError(error) if is_fatal(Some(error.code())) => {
                return Err(ConnectError::Store(error.into()));
            }
            other => {
                if let Some(write) = self.flying.remove(&key) {
                    warn!(pool = &*write.shelf().pool, answer = ?other, "the pin store did not take a pin");
                    write.give_up();
                }
                return Ok(());
            }
        };
        let Some(write) = self.flying.remove(&key) else { return Ok(()) };
        let (Change::Put { record, basis, owner, limits }, Some(stored)) = (write.change, stored) else {
            return Ok(());
        };
        // A change that came since will be settled in its turn.
        if self.queue.change(key).is_none() && (stored != record || !write.answers.is_empty()) {
            let shelf = write.shelf();
            let replaceable = match shelf.memory.get(key) {
                None => true,
                // Anything else was told by another replica, and is newer.
                Some(here) => here == record || matches!(basis, Basis::From(home) if here.home == home),
            };
            if replaceable {
                shelf.put(key, stored, owner, limits);
            }
        }
        for answer in write.answers {
            // Nobody may be waiting any longer.
            let _ = answer.send(stored);
        }
        Ok(())
    }

    fn moved(&mut self, pool: &str, key: PinKey, record: Option<Record>) {
        if let Some(lookup) = self.lookups.get_mut(&key) {
            lookup.moved = Some(record);
        }
        // A change that is not on its way yet will be settled after this move, and says then what holds.
        if self.queue.change(key).is_some() {
            return;
        }
        let shelf = self.shared.shelves().get(pool).cloned();
        let Some(shelf) = shelf else { return };
        match (shelf.memory.get(key), record) {
            (Some(here), Some(record)) if here != record && !is_refresh(&record, &here) => {
                shelf.put_from_elsewhere(key, record);
            }
            (None, Some(record)) if shelf.follows_moves.load(Relaxed) => shelf.put_from_elsewhere(key, record),
            (Some(_), None) => {
                shelf.memory.remove(key);
            }
            _ => {}
        }
    }

    fn compared(&mut self, known: &Known, stored: Option<Record>) {
        let Known { shelf, key, record } = known;
        if shelf.memory.get(*key) != Some(*record) || self.has_change(*key) {
            return;
        }
        let basis = match stored {
            Some(stored) if stored == *record => return,
            Some(stored) if is_refresh(&stored, record) => Basis::From(record.home),
            Some(stored) if stored.home == record.home || stored.issued >= record.issued => {
                return shelf.put_from_elsewhere(*key, stored);
            }
            Some(_) | None => Basis::Learned,
        };
        let (owner, limits) = (owner_of(*key), shelf.limits());
        self.queue.push(*key, Write::new(shelf, Change::Put { record: *record, basis, owner, limits }));
    }

    fn has_change(&self, key: PinKey) -> bool {
        self.queue.change(key).is_some() || self.flying.contains_key(&key)
    }

    fn everything(&self) -> ToCompare {
        ToCompare { shelves: self.shared.shelves().values().cloned().collect(), current: None }
    }
}

/// The pins that have not been compared yet.
struct ToCompare {
    shelves: Vec<Arc<Shelf>>,
    current: Option<(Arc<Shelf>, VecDeque<PinKey>)>,
}

impl ToCompare {
    fn next(&mut self) -> Option<Known> {
        loop {
            if let Some((shelf, keys)) = &mut self.current {
                while let Some(key) = keys.pop_front() {
                    if let Some(record) = shelf.memory.get(key) {
                        return Some(Known { shelf: Arc::clone(shelf), key, record });
                    }
                }
            }
            let shelf = self.shelves.pop()?;
            let keys = shelf.memory.keys().into();
            self.current = Some((shelf, keys));
        }
    }
}

/// Whether there was anything left to compare.
fn compare_some(to_compare: &mut ToCompare, store: &Store, jobs: &mut JoinSet<Done>) -> bool {
    let known: Vec<Known> = std::iter::from_fn(|| to_compare.next()).take(BATCH).collect();
    if known.is_empty() {
        return false;
    }
    let keys = known.iter().map(|known| value::key(&known.shelf.pool, known.key)).collect();
    let store = store.clone();
    jobs.spawn(async move { Done::Compared(known, store.get_many(keys).await) });
    true
}

/// The call that writes a change; `None` when the pin has expired.
fn settle(key: PinKey, write: &Write, now: u32) -> Option<Settle> {
    let key = value::key(&write.shelf().pool, key);
    Some(match &write.change {
        Change::Remove => Settle { key, value: String::new(), lives: 0, basis: String::new() },
        Change::Put { record, basis, limits, .. } => Settle {
            key,
            value: value::encode(record),
            // The store has no lives of no time.
            lives: limits.remaining(record, now)?.max(1),
            basis: match basis {
                Basis::Learned => String::from("learned"),
                Basis::Anew => String::from("anew"),
                Basis::From(home) => format!("{home:016x}"),
            },
        },
    })
}

/// Is `later` the same pin as `earlier`, used since?
fn is_refresh(earlier: &Record, later: &Record) -> bool {
    earlier.refreshed < later.refreshed && Record { refreshed: later.refreshed, ..*earlier } == *later
}

/// An error that concerns one key only is no answer; any other one ends the connection.
fn survivable<T>(answer: Result<T, RedisError>) -> Result<Option<T>, ConnectError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if is_fatal(error.code()) => Err(error.into()),
        Err(_) => Ok(None),
    }
}

/// Most pins in one go: a millisecond or two of the store's time.
const BATCH: usize = 256;

/// Lookups and the like under way at once; beyond it, commands wait in their channel.
const MOST_JOBS: usize = 1024;

/// Waits between two attempts to connect, each twice as long as the one before.
const SHORTEST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

const PING_INTERVAL: Duration = Duration::from_secs(1);

/// For writing what is left when the store was let go of.
const FAREWELL: Duration = Duration::from_secs(1);
