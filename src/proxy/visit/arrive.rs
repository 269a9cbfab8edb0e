//! Reading the pin of a request, however it travels.

use super::leave::limits;
use super::{Arrival, Carrier, Visit};
use crate::config::WithoutKey;
use crate::pins::{Owner, PinKey, Record};
use crate::pool::heir;
use crate::proxy::affinity::{AffinityKeys, Opened, Pin, SessionId, SessionPins};
use crate::proxy::balance::newcomers::Newcomer;
use crate::proxy::snapshot::{Affinity, Hash, Pool};

impl Visit {
    /// Reads the pin of a request. No allocation, no lock, no wait.
    pub(in crate::proxy) fn begin(pool: &Pool, route_has_affinity: bool, arrival: Arrival<'_>) -> Self {
        let affinity = if route_has_affinity { &pool.affinity } else { &Affinity::Off };
        let (carrier, opened) = match affinity {
            Affinity::Off => (Carrier::Cookie, None),
            Affinity::Cookie(cookie) => {
                let tokens = cookie.name.find(arrival.headers);
                (Carrier::Cookie, Some(cookie.pins.open_first(tokens, arrival.now, pool.limits)))
            }
            Affinity::AppSession(session) => {
                let (presented, opened) =
                    session.open((arrival.headers, arrival.path_and_query), &pool.members, arrival.now);
                (Carrier::Session { presented, issued: None }, Some(opened))
            }
            Affinity::Hash(hash) => follow_key(hash, pool, &arrival),
        };
        let has_none = matches!(opened, Some(Opened::None | Opened::Expired | Opened::Forged));
        let newcomer = (has_none && !matches!(carrier, Carrier::Hash | Carrier::KeyMissing))
            .then(|| Newcomer::new((arrival.client)(), arrival.headers));
        let pin_id = match opened {
            Some(Opened::Valid(pin) | Opened::OldKey(pin)) => Some(pin.id),
            Some(Opened::UnknownBackend(orphan)) => Some(orphan.id),
            Some(Opened::None | Opened::Expired | Opened::Forged) | None => match carrier {
                // Not pinned yet; if it will be, then by this.
                Carrier::Session { presented, .. } => presented.map(|presented| presented.pin_id),
                Carrier::Cookie | Carrier::Hash | Carrier::KeyMissing => None,
            },
        };
        Self { opened, carrier, now: arrival.now, leaves_with: None, pin_id, newcomer, is_released: false }
    }

    /// What to ask the store that all replicas share about: a session that is not known here, or was not used here for too
    /// long. Empty, and nothing was allocated, in all other cases.
    pub(in crate::proxy) fn unknown_here(&self, pool: &Pool, arrival: &Arrival<'_>) -> Vec<PinKey> {
        match (&pool.affinity, self.opened) {
            (Affinity::AppSession(session), Some(Opened::None | Opened::Expired)) if session.store.is_shared() => {
                session.keys_of_first(arrival.headers, arrival.path_and_query)
            }
            _ => Vec::new(),
        }
    }

    /// Asks for them, and goes on with what is found. Waits for the store's lookup time-out at most for each key of the
    /// ring, of which there is usually one.
    pub(in crate::proxy) async fn ask_others(&mut self, pool: &Pool, keys: Vec<PinKey>, owner: Owner) {
        let Affinity::AppSession(session) = &pool.affinity else { return };
        for (place, key) in keys.into_iter().enumerate() {
            if let Some(record) = session.store.fetch(key, owner, limits(pool)).await {
                self.found(session, &record, place > 0);
                return;
            }
        }
    }

    /// What another replica knows of the session; `is_old`: under the hash of a key that no longer signs.
    fn found(&mut self, session: &SessionPins, record: &Record, is_old: bool) {
        let Carrier::Session { presented: Some(presented), .. } = &mut self.carrier else { return };
        presented.stored_home = Some(record.home);
        self.opened = Some(match session.opened(record, self.now) {
            Opened::Valid(pin) if is_old => Opened::OldKey(pin),
            opened => opened,
        });
        if let Some(pin) = self.pin() {
            self.pin_id = Some(pin.id);
            self.newcomer = None;
        }
    }

    /// The id that the request carried.
    pub(super) fn presented(&self) -> Option<SessionId> {
        match self.carrier {
            Carrier::Session { presented, .. } => presented,
            Carrier::Cookie | Carrier::Hash | Carrier::KeyMissing => None,
        }
    }
}

/// The pin that a request's affinity key amounts to: it has always been there, and lives where the key hashes to.
fn follow_key(hash: &Hash, pool: &Pool, arrival: &Arrival<'_>) -> (Carrier, Option<Opened>) {
    let key = hash.keys.key((arrival.client)(), arrival.headers, arrival.path, arrival.path_and_query);
    let key = key.or_else(|| match hash.without_key {
        WithoutKey::ClientAddress => Some(AffinityKeys::of_client((arrival.client)())),
        WithoutKey::Balance | WithoutKey::Reject => None,
    });
    let Some(id) = key else {
        let is_rejected = hash.without_key == WithoutKey::Reject;
        return (if is_rejected { Carrier::KeyMissing } else { Carrier::Hash }, Some(Opened::None));
    };
    // Whoever has a weight is hashed to, whatever its health: a backend that comes back has its clients again.
    let home = heir(id, &pool.members, None, |_, _| true);
    let pin = |home: usize| {
        let instance = pool.members[home].backend.instance();
        Pin { id, home: home as u32, instance, issued: arrival.now, refreshed: arrival.now, detour: None }
    };
    (Carrier::Hash, Some(home.map_or(Opened::None, |home| Opened::Valid(pin(home)))))
}
