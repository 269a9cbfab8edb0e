//! Pins by the app's own session id: their home is in the pin store, in the id itself, or in front of it.
//!
//! What [`PoolPins`](super::PoolPins) is for pins in our own cookie, [`SessionPins`] is for these. An id that names its
//! home by itself is kept in the store only while its client lives elsewhere than the id says: the backends that move a
//! session issue another id for it sooner or later, and until then the store knows.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderMap;

use super::app_session::SessionReader;
use super::id_parts::{split_prefix, split_route};
use super::keys::KeyRing;
use super::pin::{Detour, Limits, Opened, Orphan, Pin};
use super::pin_keys::PinKeys;
use crate::config::{self, HomeBy};
use crate::pins::{PinKey, PinStore, Record};
use crate::pool::Member;

/// Everything that is worked out once for the pins of a pool by the app's session id.
#[derive(Debug)]
pub struct SessionPins {
    /// Finds ids in requests and replies.
    pub reader: SessionReader,
    /// Hashes them.
    pub keys: PinKeys,
    /// Keeps what an id does not tell by itself.
    pub store: Arc<PinStore>,
    /// How the home of an id is known.
    pub home_by: HomeBy,
    /// How long pins live.
    limits: Limits,
    /// Member index by stable hash.
    members: HashMap<u64, u32>,
    /// Member index by the name that the app uses in ids.
    routes: HashMap<Arc<str>, u32>,
}

/// A session id, as far as it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionId {
    /// What the pin store knows it by.
    pub key: PinKey,
    /// The id of a pin that follows from it alone. It stays the same when the app appends another route to the same session.
    pub pin_id: u64,
    /// The backend that the id itself names, by index.
    pub named: Option<u32>,
    /// The heir that the id itself names, by index.
    pub heir: Option<u32>,
    /// The home that the pin store has for it, by stable hash.
    pub stored_home: Option<u64>,
    /// What the pin store has it under: not what it is to be kept under, when a key was rotated since.
    pub found_under: PinKey,
}

/// Lookups that one request may make.
const MOST_ASKED: usize = 16;

impl SessionPins {
    /// For a pool of these members.
    pub fn new(
        settings: &config::AppSessionAffinity,
        pool: &config::Pool,
        members: &[Member],
        ring: &KeyRing,
        store: Arc<PinStore>,
    ) -> Self {
        // What stands in front of an id is ours to choose; what stands behind it is the app's.
        let route = |backend: &config::Backend| match &backend.route {
            Some(route) if settings.home_by != HomeBy::Prefix => Arc::clone(route),
            Some(_) | None => Arc::clone(&backend.name),
        };
        if settings.home_by != HomeBy::Learn {
            store.follow_moves();
        }
        Self {
            reader: SessionReader::new(settings),
            keys: PinKeys::new(ring, &pool.name),
            store,
            home_by: settings.home_by,
            limits: Limits::new(settings.idle_timeout, settings.max_lifetime),
            members: members.iter().map(|member| member.backend.stable_hash()).zip(0..).collect(),
            routes: pool.backends.iter().map(route).zip(0..).collect(),
        }
    }

    /// Finds the session id that a request is pinned by: the first one that is known, else the first one.
    ///
    /// A hash of each id, and a look into the store for each key of the ring. No allocation, no lock, no wait.
    pub fn open(
        &self,
        (headers, path_and_query): (&HeaderMap, &str),
        members: &[Member],
        now: u32,
    ) -> (Option<SessionId>, Opened) {
        let (mut best, mut presented) = (Opened::None, None);
        for id in self.reader.ids(headers, path_and_query) {
            let mut this = self.look_at(id);
            let opened = self.open_one(id, &mut this, members, now);
            if presented.is_none() || opened.rank() > best.rank() {
                (best, presented) = (opened, Some(this));
            }
            if best.pin().is_some() {
                break;
            }
        }
        (presented, best)
    }

    /// The ids of a request, each under every key that the pin store may have it under ([`SessionId::found_under`]): the one
    /// that signs, then the older ones. At most 16.
    pub fn unknown(&self, headers: &HeaderMap, path_and_query: &str) -> Vec<SessionId> {
        let of_id = |id| {
            let presented = self.look_at(id);
            self.keys.keys(id).map(move |found_under| SessionId { found_under, ..presented })
        };
        self.reader.ids(headers, path_and_query).flat_map(of_id).take(MOST_ASKED).collect()
    }

    fn open_one(&self, id: &[u8], this: &mut SessionId, members: &[Member], now: u32) -> Opened {
        for key in self.keys.keys(id) {
            let Some(record) = self.store.get(key) else { continue };
            this.found_under = key;
            return self.found(this, &record, now);
        }
        match (self.home_by, this.named) {
            (HomeBy::Learn, _) => Opened::None,
            (HomeBy::RouteSuffix(_) | HomeBy::Prefix, Some(home)) => {
                let instance = members[home as usize].backend.instance();
                Opened::Valid(Pin { id: this.pin_id, home, instance, issued: now, refreshed: now, detour: None })
            }
            (HomeBy::RouteSuffix(separator), None) => match split_route(id, separator).1.home {
                None => Opened::None,
                Some(_) => Opened::UnknownBackend(orphan(this.pin_id, now)),
            },
            (HomeBy::Prefix, None) => match split_prefix(id) {
                None => Opened::None,
                Some(_) => Opened::UnknownBackend(orphan(this.pin_id, now)),
            },
        }
    }

    /// What an id says of itself.
    pub fn look_at(&self, id: &[u8]) -> SessionId {
        let member = |route: Option<&str>| route.and_then(|route| self.routes.get(route)).copied();
        let key = self.signing_key(id);
        let (bare, named, heir) = match self.home_by {
            HomeBy::Learn => (id, None, None),
            HomeBy::RouteSuffix(separator) => {
                let (bare, routes) = split_route(id, separator);
                (bare, member(routes.home), member(routes.heir))
            }
            HomeBy::Prefix => match split_prefix(id) {
                Some((name, bare)) => (bare, member(Some(name)), None),
                None => (id, None, None),
            },
        };
        let pin_id = if bare.len() == id.len() { key.pin_id() } else { self.signing_key(bare).pin_id() };
        SessionId { key, pin_id, named, heir, stored_home: None, found_under: key }
    }

    /// What an id is kept under from now on.
    fn signing_key(&self, id: &[u8]) -> PinKey {
        self.keys.keys(id).next().expect("a ring has at least one key")
    }

    /// Notes what the store has for an id, and says what that amounts to.
    pub fn found(&self, id: &mut SessionId, record: &Record, now: u32) -> Opened {
        id.stored_home = Some(record.home);
        match self.opened(record, now) {
            // Kept under the hash of a key that no longer signs: to be kept anew.
            Opened::Valid(pin) if id.found_under != id.key => Opened::OldKey(pin),
            opened => opened,
        }
    }

    /// What a record of the store says, as of now.
    pub fn opened(&self, record: &Record, now: u32) -> Opened {
        let Record { home, pin: id, instance, issued, refreshed, detour } = *record;
        if self.limits.expired(issued, refreshed, now) {
            return Opened::Expired;
        }
        // A detour to a backend that has left the pool is over.
        let detour = detour.and_then(|(to, since)| Some(Detour { to: *self.members.get(&to)?, since }));
        match self.members.get(&home) {
            Some(&home) => Opened::Valid(Pin { id, home, instance, issued, refreshed, detour }),
            None => Opened::UnknownBackend(Orphan { id, instance, issued, refreshed, detour }),
        }
    }
}

/// A pin as the store keeps it.
pub fn record(pin: &Pin, members: &[Member]) -> Record {
    let hash = |member: u32| members[member as usize].backend.stable_hash();
    Record {
        home: hash(pin.home),
        pin: pin.id,
        instance: pin.instance,
        issued: pin.issued,
        refreshed: pin.refreshed,
        detour: pin.detour.map(|detour| (hash(detour.to), detour.since)),
    }
}

fn orphan(id: u64, now: u32) -> Orphan {
    Orphan { id, instance: 0, issued: now, refreshed: now, detour: None }
}
