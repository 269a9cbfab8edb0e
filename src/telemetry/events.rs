//! What happens to backends and to the configuration, told to whoever listens, as it happens.
//!
//! Telling never waits, and costs next to nothing while nobody listens. A listener that is too slow misses the oldest
//! events, and is told how many. Nothing is kept for those who come later.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::broadcast;

/// Events that a listener may be behind before it misses some.
const QUEUE: usize = 256;

/// Something that happened. Its words are those of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A backend's health changed.
    Health {
        /// The pool's name.
        pool: Arc<str>,
        /// The backend's name.
        backend: Arc<str>,
        /// Before.
        from: &'static str,
        /// Now.
        to: &'static str,
        /// The failure that caused it; `None` when a success did.
        cause: Option<&'static str>,
    },
    /// The operator enabled, drains or disabled a backend.
    AdminState {
        /// The pool's name.
        pool: Arc<str>,
        /// The backend's name.
        backend: Arc<str>,
        /// Before.
        from: &'static str,
        /// Now.
        to: &'static str,
    },
    /// Nobody is left of a drain.
    Drained {
        /// The pool's name.
        pool: Arc<str>,
        /// The backend's name.
        backend: Arc<str>,
    },
    /// A pool begins to ignore health for spreading new clients, or stops to.
    Panic {
        /// The pool's name.
        pool: Arc<str>,
        /// Whether it does now.
        panicking: bool,
    },
    /// Clients begin to be turned away for want of room, or there is room again.
    Fullness {
        /// The pool's name.
        pool: Arc<str>,
        /// The setting that bounds it: `max_pins` or `max_requests`.
        bound: &'static str,
        /// Whether there is none.
        is_full: bool,
    },
    /// A source of backends failed, or gives a list again.
    Discovery {
        /// The pool's name.
        pool: Arc<str>,
        /// The word for the source.
        source: &'static str,
        /// Why there is no list; `None` when there is one again.
        error: Option<String>,
    },
    /// Backends came or went, other than by the configuration file.
    Backends {
        /// The pool's name.
        pool: Arc<str>,
        /// The word for the source.
        source: &'static str,
        /// The first ones of those who came.
        added: Vec<Arc<str>>,
        /// The first ones of those who went.
        removed: Vec<Arc<str>>,
        /// How many came.
        added_count: usize,
        /// How many went.
        removed_count: usize,
    },
    /// The configuration was read again: the generation that took effect, or why nothing was changed.
    Reload(Result<u64, String>),
}

impl Event {
    /// The word for its kind.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Health { .. } => "health",
            Self::AdminState { .. } => "admin_state",
            Self::Drained { .. } => "drained",
            Self::Panic { .. } => "panic",
            Self::Fullness { .. } => "fullness",
            Self::Discovery { .. } => "discovery",
            Self::Backends { .. } => "backends",
            Self::Reload(_) => "reload",
        }
    }
}

/// An event with its place among all of this process.
#[derive(Debug)]
pub struct Entry {
    /// Counts up from 1.
    pub id: u64,
    /// When it was told.
    pub at: SystemTime,
    /// What happened.
    pub event: Event,
}

/// Where events are told. Clones share the listeners.
#[derive(Clone, Debug)]
pub struct Events(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    listeners: broadcast::Sender<Arc<Entry>>,
    /// The number of the latest one. Held while telling, so that numbers arrive in order.
    latest: Mutex<u64>,
}

impl Default for Events {
    fn default() -> Self {
        Self(Arc::new(Shared { listeners: broadcast::Sender::new(QUEUE), latest: Mutex::new(0) }))
    }
}

impl Events {
    /// Tells everybody who listens. Never waits for any of them.
    pub fn tell(&self, event: impl FnOnce() -> Event) {
        let mut latest = self.0.latest.lock().unwrap_or_else(PoisonError::into_inner);
        *latest += 1;
        if self.0.listeners.receiver_count() > 0 {
            let entry = Entry { id: *latest, at: SystemTime::now(), event: event() };
            // Fails only when the last listener has just gone.
            let _ = self.0.listeners.send(Arc::new(entry));
        }
    }

    /// Hears of everything from now on.
    pub fn listen(&self) -> Listener {
        Listener(self.0.listeners.subscribe())
    }
}

/// Hears of events.
#[derive(Debug)]
pub struct Listener(broadcast::Receiver<Arc<Entry>>);

/// What a listener hears.
#[derive(Clone, Debug)]
pub enum Heard {
    /// The next event.
    Event(Arc<Entry>),
    /// It was too slow, and missed this many.
    Missed(u64),
}

impl Listener {
    /// The next thing to hear; `None` when there will be no more. Safe to cancel.
    pub async fn next(&mut self) -> Option<Heard> {
        match self.0.recv().await {
            Ok(entry) => Some(Heard::Event(entry)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Heard::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained() -> Event {
        Event::Drained { pool: "shop".into(), backend: "app1".into() }
    }

    #[tokio::test]
    async fn everybody_hears_what_is_told_from_then_on_in_order() {
        let events = Events::default();
        events.tell(|| unreachable!("nobody listens"));
        let mut listeners = [events.listen(), events.clone().listen()];
        for _ in 0..3 {
            events.tell(drained);
        }
        for listener in &mut listeners {
            for id in 2..5 {
                let Some(Heard::Event(entry)) = listener.next().await else { panic!("nothing was missed") };
                assert_eq!((entry.id, &entry.event), (id, &drained()));
            }
        }
        drop(events);
        assert!(listeners[0].next().await.is_none());
    }

    #[tokio::test]
    async fn who_is_too_slow_is_told_how_many_it_missed() {
        let events = Events::default();
        let mut listener = events.listen();
        for _ in 0..QUEUE + 7 {
            events.tell(drained);
        }
        assert!(matches!(listener.next().await, Some(Heard::Missed(7))));
        let Some(Heard::Event(entry)) = listener.next().await else { panic!("the rest is there") };
        assert_eq!(entry.id, 8);
    }
}
