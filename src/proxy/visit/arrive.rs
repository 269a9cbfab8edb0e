//! Reading the pin of a request, however it travels.

use tokio::time::timeout;

use super::leave::limits;
use super::{Arrival, Carrier, InUse, Visit};
use crate::config::{HomeBy, WithoutKey};
use crate::pins::Owner;
use crate::proxy::affinity::{AffinityKeys, Opened, Pin, SessionId};
use crate::proxy::balance::newcomers::Newcomer;
use crate::proxy::snapshot::{Affinity, Hash, Pool};

impl Visit {
    /// Reads the pin of a request. No allocation, no lock, no wait.
    pub(in crate::proxy) fn begin(pool: &Pool, route_has_affinity: bool, arrival: Arrival<'_>) -> Self {
        let mut key = None;
        let (carrier, opened) = match &pool.affinity {
            // The name in front of the app's cookie goes with the cookie, whether it counts here or not.
            Affinity::AppSession(session) if !route_has_affinity && session.home_by == HomeBy::Prefix => {
                let ids = (arrival.headers, arrival.path_and_query);
                let presented = session.open(ids, &pool.members, arrival.now).0;
                (Carrier::session(presented), None)
            }
            _ if !route_has_affinity => (Carrier::Cookie, None),
            Affinity::Off => (Carrier::Cookie, None),
            Affinity::Cookie(cookie) => {
                let tokens = cookie.name.find(arrival.headers);
                (Carrier::Cookie, Some(cookie.pins.open_first(tokens, arrival.now, pool.limits)))
            }
            Affinity::AppSession(session) => {
                let (presented, opened) =
                    session.open((arrival.headers, arrival.path_and_query), &pool.members, arrival.now);
                (Carrier::session(presented), Some(opened))
            }
            Affinity::Hash(hash) => {
                let (carrier, opened, id) = follow_key(hash, pool, &arrival);
                key = id;
                (carrier, Some(opened))
            }
        };
        let has_none = matches!(opened, Some(Opened::None | Opened::Expired | Opened::Forged));
        let newcomer = (has_none && !carrier.is_by_key()).then(|| Newcomer::new((arrival.client)(), arrival.headers));
        let pin_id = match opened {
            Some(Opened::Valid(pin) | Opened::OldKey(pin)) => Some(pin.id),
            Some(Opened::UnknownBackend(orphan)) => Some(orphan.id),
            None => None,
            Some(Opened::None | Opened::Expired | Opened::Forged) => match &carrier {
                // Not pinned yet; if it will be, then by this.
                Carrier::Session(session) => session.presented.map(|presented| presented.pin_id),
                Carrier::Cookie | Carrier::Hash | Carrier::KeyMissing => None,
                // The id of the pin that it will have.
                Carrier::Bounded(_) => key,
            },
        };
        Self { opened, carrier, now: arrival.now, leaves_with: None, pin_id, newcomer, is_released: false }
    }

    /// What to ask the store that all replicas share about: sessions that are not known here, or were not used here for too
    /// long. Empty, and nothing was allocated, in all other cases.
    pub(in crate::proxy) fn unknown_here(&self, pool: &Pool, arrival: &Arrival<'_>) -> Vec<SessionId> {
        match (&pool.affinity, self.opened) {
            (Affinity::AppSession(session), Some(Opened::None | Opened::Expired)) if session.store.is_shared() => {
                session.unknown(arrival.headers, arrival.path_and_query)
            }
            _ => Vec::new(),
        }
    }

    /// Asks for them until one is found, and goes on with that. Waits for the store's lookup time-out at most.
    pub(in crate::proxy) async fn ask_others(&mut self, pool: &Pool, unknown: Vec<SessionId>, owner: Owner) {
        let Affinity::AppSession(session) = &pool.affinity else { return };
        let ask = async {
            for id in unknown {
                if let Some(record) = session.store.fetch(id.found_under, owner, limits(pool)).await {
                    return Some((id, record));
                }
            }
            None
        };
        let Ok(Some((mut id, record))) = timeout(session.store.lookup_timeout(), ask).await else { return };
        self.opened = Some(session.found(&mut id, &record, self.now));
        self.carrier = Carrier::session(Some(id));
        if let Some(pin) = self.pin() {
            self.pin_id = Some(pin.id);
            self.newcomer = None;
        }
    }

    /// The id that the request carried.
    pub(super) fn presented(&self) -> Option<SessionId> {
        match &self.carrier {
            Carrier::Session(session) => session.presented,
            Carrier::Cookie | Carrier::Hash | Carrier::Bounded(_) | Carrier::KeyMissing => None,
        }
    }
}

/// The pin that a request's affinity key amounts to: it has always been there, and lives where the key hashes to.
/// With a bound on the load, where it was put when it came into use. Gives the key, too.
fn follow_key(hash: &Hash, pool: &Pool, arrival: &Arrival<'_>) -> (Carrier, Opened, Option<u64>) {
    let key = hash.keys.key((arrival.client)(), arrival.headers, arrival.path, arrival.path_and_query);
    let key = key.or_else(|| match hash.without_key {
        WithoutKey::ClientAddress => Some(AffinityKeys::of_client((arrival.client)())),
        WithoutKey::Balance | WithoutKey::Reject => None,
    });
    let Some(id) = key else {
        let is_rejected = hash.without_key == WithoutKey::Reject;
        return (if is_rejected { Carrier::KeyMissing } else { Carrier::Hash }, Opened::None, None);
    };
    if let Some(bounded) = &hash.bounded {
        let (in_use, opened) = match bounded.known.get(id, &pool.members, pool.limits, arrival.now) {
            Some(known) if known.is_under_old_key => (InUse::UnderOldKey, Opened::Valid(known.pin)),
            Some(known) => (InUse::Known, Opened::Valid(known.pin)),
            None => (InUse::New, Opened::None),
        };
        return (Carrier::Bounded(in_use), opened, Some(id));
    }
    // Whoever is one of `pool::members_of_first_tier` is hashed to, whatever its health: a backend that comes back has its
    // clients again.
    let home = hash.homes.home(id, &pool.members);
    let pin = |home: usize| {
        let instance = pool.members[home].backend.instance();
        Pin { id, home: home as u32, instance, issued: arrival.now, refreshed: arrival.now, detour: None }
    };
    (Carrier::Hash, home.map_or(Opened::None, |home| Opened::Valid(pin(home))), Some(id))
}
