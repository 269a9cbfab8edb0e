//! A home for a new key, where hashing has a bound on the load.
//!
//! A key that is not in use goes where it hashes to, or on to the next with room, and from then on the pin store says
//! where it lives: nobody in use is ever taken from a backend because others come. A key that was not served at its home
//! for as long as a pin may be idle is a new one again.

#[cfg(test)]
mod tests;

use super::leave::limits;
use super::{Carrier, InUse, Visit};
use crate::pins::{Owner, Record};
use crate::pool::{Member, heir};
use crate::proxy::affinity::session_pins::record;
use crate::proxy::affinity::{Opened, Pin};
use crate::proxy::balance::hash::bounded::Bound;
use crate::proxy::snapshot::{Affinity, Bounded, Hash, Pool};

impl Visit {
    /// Whether the request's key is not in use, as far as is known here: then it is to be given a home.
    pub(in crate::proxy) fn needs_home(&self) -> bool {
        matches!(self.carrier, Carrier::Bounded(InUse::New))
    }

    /// Gives a new key its home, and has everybody agree to it: other requests with the key, and other replicas. Waits for the
    /// store's lookup time-out at most, and only where it is shared. O(N), for new keys only.
    pub(in crate::proxy) async fn take_home(&mut self, pool: &Pool, owner: impl FnOnce() -> Owner) {
        let Some((key, hash, bounded)) = self.new_key(pool) else { return };
        let Some(home) = place_of_new_key(key, hash, bounded.ratio, &pool.members) else {
            self.go_without(key, hash, pool);
            return;
        };
        let (known, owner, limits) = (&bounded.known, owner(), limits(pool));
        let wanted = record(&self.fresh_pin(pool, home, key, self.now), &pool.members);
        let stored_under = known.stored_under(key);
        let mut agreed = known.store.claim(stored_under, wanted, owner, limits).await;
        if known.pin(key, &agreed, &pool.members).is_none() {
            // Its home has left the pool.
            agreed = known.store.rehome(stored_under, agreed.home, wanted, owner, limits).await;
        }
        if agreed == wanted {
            // Counted at once, so that keys that come in the same second spread.
            pool.members[home].backend.pinned_one();
        }
        self.live_at(key, &agreed, bounded, pool);
    }

    /// The same for whoever only asks: nothing is kept.
    pub(super) async fn look_for_home(&mut self, pool: &Pool, owner: Owner) {
        let Some((key, hash, bounded)) = self.new_key(pool) else { return };
        let known = &bounded.known;
        let found = known.store.fetch(known.stored_under(key), owner, limits(pool)).await;
        let placed = || {
            let home = place_of_new_key(key, hash, bounded.ratio, &pool.members)?;
            Some(record(&self.fresh_pin(pool, home, key, self.now), &pool.members))
        };
        match found.or_else(placed) {
            Some(record) => self.live_at(key, &record, bounded, pool),
            None => self.go_without(key, hash, pool),
        }
    }

    fn new_key<'a>(&self, pool: &'a Pool) -> Option<(u64, &'a Hash, &'a Bounded)> {
        let Affinity::Hash(hash) = &pool.affinity else { return None };
        Some((self.pin_id.filter(|_| self.needs_home())?, hash, hash.bounded.as_ref()?))
    }

    fn live_at(&mut self, key: u64, record: &Record, bounded: &Bounded, pool: &Pool) {
        // Another replica may know of a backend that this one does not have any more: then it is a new key next time, too.
        let pin = bounded.known.pin(key, record, &pool.members);
        self.opened = pin.map_or(self.opened, |pin| Some(Opened::Valid(pin)));
        self.carrier = Carrier::Bounded(InUse::Known);
    }

    /// Nobody takes new keys: it is served as though there were no bound, and nothing is remembered.
    fn go_without(&mut self, key: u64, hash: &Hash, pool: &Pool) {
        self.carrier = Carrier::Hash;
        self.opened = Some(
            hash.homes
                .home(key, &pool.members)
                .map_or(Opened::None, |home| Opened::Valid(self.fresh_pin(pool, home, key, self.now))),
        );
    }

    /// Keeps a key that is in use where it lives, and lets go of one that the app has released.
    pub(super) fn leave_by_key(&self, hash: &Hash, pool: &Pool, owner: impl FnOnce() -> Owner) {
        let (Some(bounded), Carrier::Bounded(in_use), Some(key)) = (&hash.bounded, &self.carrier, self.pin_id) else {
            return;
        };
        let (store, stored_under) = (&bounded.known.store, bounded.known.stored_under(key));
        if let Some(pin) = &self.leaves_with {
            store.put(stored_under, record(pin, &pool.members), owner(), limits(pool));
        }
        if self.is_released {
            store.remove(stored_under);
        }
        let is_moved = self.leaves_with.is_some() && *in_use == InUse::UnderOldKey;
        if is_moved || self.is_released {
            bounded.known.stored_under_before(key).into_iter().for_each(|before| store.remove(before));
        }
    }

    /// The pin that keeps a key in use, when it is time to say so: only what is served at home keeps it.
    pub(super) fn kept_in_use(&self, pin: &Pin, pool: &Pool) -> Option<Pin> {
        let Carrier::Bounded(in_use) = self.carrier else { return None };
        let is_due = in_use == InUse::UnderOldKey || pin.needs_refresh(self.now, pool.refresh_after);
        is_due.then_some(Pin { refreshed: self.now, ..*pin })
    }
}

/// Where a new key goes: home, else to the next in its own order, among those that take new clients and have room; where
/// nobody has room, because all weights are 0, as without a bound. `None` when nobody takes new clients.
fn place_of_new_key(key: u64, hash: &Hash, ratio: f64, members: &[Member]) -> Option<usize> {
    let bound = Bound::new(ratio, members);
    let takes_new = |member: &Member| member.backend.standing().is_available_for_new();
    let home = hash.homes.home(key, members).filter(|home| takes_new(&members[*home]));
    if let Some(home) = home.filter(|home| bound.has_room(&members[*home])) {
        return Some(home);
    }
    let is_well = |member: &Member| member.backend.standing().is_first_choice();
    heir(key, members, home, |_, member| is_well(member) && bound.has_room(member))
        .or_else(|| heir(key, members, home, |_, member| takes_new(member) && bound.has_room(member)))
        .or(home)
        .or_else(|| heir(key, members, None, |_, member| takes_new(member)))
}
