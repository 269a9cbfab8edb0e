//! What a client leaves with: a pin that is new, moved, noted or refreshed, in its cookie or in the pin store.

use std::hash::Hasher as _;
use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, header};
use siphasher::sip::SipHasher13;
use tokio::time::Instant;

use super::next::{place_of, serves_pinned};
use super::{BySession, Carrier, Destination, Moved, Visit};
use crate::config::{HomeBy, PinOn, Sessions};
use crate::pins::{self, Owner, Record};
use crate::proxy::affinity::session_pins::{SessionId, SessionPins, record};
use crate::proxy::affinity::{CookieName, Detour, Opened, Pin, app_cookie, cache_guard};
use crate::proxy::balance::Tried;
use crate::proxy::snapshot::{Affinity, Pool};
use crate::telemetry::words::{DetourReason, Placement, RehomeReason};

impl Visit {
    /// Gives a client that is about to get a pin its id before the backend is asked, where that has to be told the heir.
    pub(in crate::proxy) fn name_pin(&mut self, new_id: impl FnOnce() -> u64) {
        self.pin_id.get_or_insert_with(new_id);
    }

    /// Notes where the request was served: the pin to leave with, if the client has to be told of one. `new_id` draws
    /// the id of a new pin.
    pub(in crate::proxy) fn served(
        &mut self,
        pool: &Pool,
        destination: &Destination,
        now: Instant,
        new_id: impl FnOnce() -> u64,
    ) {
        let Some(opened) = self.opened else { return };
        if self.carrier.is_by_key() {
            let kept = opened.pin().filter(|_| destination.placement == Placement::Kept);
            self.leaves_with = kept.and_then(|pin| self.kept_in_use(&pin, pool));
            return;
        }
        self.leaves_with = match (opened, destination.placement) {
            (_, Placement::New) => {
                let id = self.pin_id.unwrap_or_else(new_id);
                Some(self.fresh_pin(pool, destination.member, id, self.now))
            }
            (Opened::Valid(pin) | Opened::OldKey(pin), Placement::Rehomed(_)) => {
                Some(self.fresh_pin(pool, destination.member, pin.id, pin.issued))
            }
            (Opened::UnknownBackend(orphan), Placement::Rehomed(_)) => {
                Some(self.fresh_pin(pool, destination.member, orphan.id, orphan.issued))
            }
            // Another of its requests has moved the pin meanwhile. This one's word on it may be the last to reach the client.
            (Opened::Valid(pin) | Opened::OldKey(pin), _)
                if self.was_moved_by_another(&pin, pool, destination, now) =>
            {
                None
            }
            (Opened::Valid(pin) | Opened::OldKey(pin), placement) => {
                // With one copy of each session the pin has to tell whom the heir was told of since the last change.
                let has_new_heir =
                    pool.settings.sessions == Sessions::Backup && !self.was_told_heir(pool, pin.refreshed, now);
                let is_due = matches!(opened, Opened::OldKey(_))
                    || has_new_heir
                    || pin.needs_refresh(self.now, pool.refresh_after);
                let followed = self.followed(&pin, pool, destination, placement);
                followed.or_else(|| is_due.then(|| self.resealed(&pin, pool, placement)))
            }
            (Opened::None | Opened::Expired | Opened::Forged | Opened::UnknownBackend(_), _) => None,
        };
        if let Some(pin) = &self.leaves_with {
            self.pin_id = Some(pin.id);
        }
    }

    /// Whether another of this client's requests moves the pin. Not when nobody is there any more to take over, or the client
    /// is told here where it begins anew: then it lives where it did, and what was known of the move is over.
    fn was_moved_by_another(&self, pin: &Pin, pool: &Pool, destination: &Destination, now: Instant) -> bool {
        let home = &pool.members[pin.home as usize].backend;
        let Some(known) = home.move_of(pin.id, now) else { return false };
        let is_over = destination.session_lost.is_some() || place_of(&known, pool, &Tried::default()).is_none();
        if is_over {
            home.note_return(pin.id, now);
        }
        !is_over
    }

    /// The reply's word on the pin, and whether it begins a session: the app may end a pin, or ask for one only then.
    /// Says whether the client has a pin now.
    pub(in crate::proxy) fn obey(&mut self, pool: &Pool, word: Option<&[u8]>, begins_session: bool) -> bool {
        if let Some(newcomer) = self.newcomer {
            pool.newcomers.forget(newcomer);
        }
        let Some(opened) = self.opened else { return false };
        let asks_to_keep = word.is_some_and(|word| word.eq_ignore_ascii_case(b"keep"));
        let is_new = opened.pin().is_none() && !matches!(opened, Opened::UnknownBackend(_));
        let is_early = is_new
            && match (&pool.affinity, &self.carrier) {
                (Affinity::Cookie(cookie), _) => {
                    cookie.pin_on == PinOn::SessionStart && !asks_to_keep && !begins_session
                }
                // Without an id there is nothing to pin by; one that nobody knows is pinned when the app asks for it.
                (_, Carrier::Session(session)) => {
                    session.issued.is_none() && !(asks_to_keep && session.presented.is_some())
                }
                _ => true,
            };
        if word.is_some_and(|word| word.eq_ignore_ascii_case(b"release")) {
            self.is_released = !matches!(opened, Opened::None);
            self.leaves_with = None;
        } else if is_early {
            self.leaves_with = None;
        } else {
            return true;
        }
        if is_new {
            self.pin_id = None;
        }
        false
    }

    /// Where the pin lived that the app has taken away; `None` when it has not. A key goes on being used.
    pub(in crate::proxy) fn released_from(&self, destination: &Destination) -> Option<usize> {
        let pin = self.pin().filter(|_| self.is_released && !self.carrier.is_by_key())?;
        let is_moved = matches!(destination.placement, Placement::Rehomed(_));
        Some(if is_moved { destination.member } else { pin.home as usize })
    }

    /// Whether the reply begins a session of the app: it issues another id than the request carried. `member` is the
    /// backend that replies. A session that is pinned by its id is known by the new one from now on.
    pub(in crate::proxy) fn begins_session(
        &mut self,
        pool: &Pool,
        request: &HeaderMap,
        reply: &HeaderMap,
        member: usize,
    ) -> bool {
        let Affinity::AppSession(session) = &pool.affinity else {
            return app_cookie::begins_session(pool.settings.session_cookie.as_deref(), request, reply, self.now);
        };
        let Carrier::Session(by_session) = &mut self.carrier else { return false };
        let BySession { presented, issued, .. } = &mut **by_session;
        let Some(id) = session.reader.id_of_reply(reply, self.now) else {
            // The app has ended the session: so does its pin.
            if session.reader.ended(reply, self.now) {
                self.is_released = presented.is_some();
            }
            return false;
        };
        let mut this = session.look_at(id.id);
        if session.home_by == HomeBy::Prefix {
            // Ours to write: it will name whoever served.
            this.named = Some(member as u32);
        }
        let is_same_session = presented.is_some_and(|presented| presented.pin_id == this.pin_id);
        // What we put in front of an id, the app does not know of.
        let is_same_id = is_same_session && session.home_by == HomeBy::Prefix
            || presented.is_some_and(|presented| presented.key == this.key);
        if !is_same_id {
            *issued = Some(this);
        }
        if !is_same_session {
            // A learned pin keeps its id, and with it its heir, who has been told of as such. One that nobody keeps has the
            // id that follows from the session's.
            let known = self.pin_id.filter(|_| session.home_by == HomeBy::Learn);
            let id = known.unwrap_or(this.pin_id);
            self.leaves_with = Some(self.fresh_pin(pool, member, id, self.now));
            self.pin_id = Some(id);
        }
        // The app may also move a session by itself: the id stays, and names another backend.
        let is_moved = !is_same_id && this.named == Some(member as u32);
        !is_same_session || is_moved
    }

    /// Whether the reply issues another session id than the request carried, before [`Visit::begins_session`] has looked.
    pub(in crate::proxy) fn is_named_anew(&self, pool: &Pool, request: &HeaderMap, reply: &HeaderMap) -> bool {
        let Affinity::AppSession(session) = &pool.affinity else {
            return app_cookie::begins_session(pool.settings.session_cookie.as_deref(), request, reply, self.now);
        };
        let presented = self.presented().map(|presented| presented.key);
        let issued = session.reader.id_of_reply(reply, self.now);
        issued.is_some_and(|issued| presented != Some(session.look_at(issued.id).key))
    }

    /// The pin as this visit changes it: a long detour is noted, and forgotten at home; a new life of the home is named.
    fn followed(&self, pin: &Pin, pool: &Pool, destination: &Destination, placement: Placement) -> Option<Pin> {
        match placement {
            Placement::Kept if destination.session_lost.is_some() || pin.detour.is_some() => {
                Some(Pin { detour: None, ..self.resealed(pin, pool, placement) })
            }
            Placement::Detour(DetourReason::Unreachable | DetourReason::Disabled) => {
                let to = destination.member as u32;
                let since = pin.detour.map_or(self.now, |detour| detour.since);
                // Who failed this request only is gone back to: what the client did there may be there only.
                let serves = |detour: Detour| serves_pinned(pool, detour.to as usize, &Tried::default());
                let stays_noted = pin.detour.is_some_and(|detour| detour.to == to || serves(detour));
                (!stays_noted)
                    .then(|| Pin { detour: Some(Detour { to, since }), ..self.resealed(pin, pool, placement) })
            }
            _ => None,
        }
    }

    /// Whether nobody else knows the client's session: it is local, and this is its home, or where it is on a long detour.
    pub(in crate::proxy) fn has_session_only_at(&self, pool: &Pool, destination: &Destination) -> bool {
        let detour = self.pin().and_then(|pin| pin.detour);
        let is_there = destination.placement == Placement::Kept
            || detour.is_some_and(|detour| detour.to as usize == destination.member);
        pool.settings.sessions == Sessions::Local && is_there
    }

    /// The client began a session where it was only on a detour: that is its home now.
    pub(in crate::proxy) fn settle(&mut self, pool: &Pool, member: usize, now: Instant) -> Option<Moved> {
        let pin = self.pin().filter(|_| !self.carrier.is_by_key())?;
        let id = self.pin_id.unwrap_or(pin.id);
        // A session that is known by an id of its own is as young as that.
        let issued = self.leaves_with.filter(|_| self.has_issued()).map_or(pin.issued, |new| new.issued);
        self.leaves_with = Some(self.fresh_pin(pool, member, id, issued));
        pool.members[member].backend.note_return(id, now);
        Some(Moved { from: Some(pin.home as usize), reason: RehomeReason::NewSession })
    }

    /// Whether the reply issues another session id than the request carried, by what [`Visit::begins_session`] has found.
    fn has_issued(&self) -> bool {
        matches!(&self.carrier, Carrier::Session(session) if session.issued.is_some())
    }

    pub(super) fn fresh_pin(&self, pool: &Pool, member: usize, id: u64, issued: u32) -> Pin {
        let instance = pool.members[member].backend.instance();
        Pin { id, home: member as u32, instance, issued, refreshed: self.now, detour: None }
    }

    /// The same pin, used now. Only at home does it take the home's present life: on a detour it keeps naming the life
    /// that holds the session.
    fn resealed(&self, pin: &Pin, pool: &Pool, placement: Placement) -> Pin {
        let is_at_home = placement == Placement::Kept;
        let instance = if is_at_home { pool.members[pin.home as usize].backend.instance() } else { pin.instance };
        Pin { instance, refreshed: self.now, ..*pin }
    }

    /// Has the other replicas agree to a pin that is about to move. Gives `false` when one of them has moved it elsewhere
    /// already: then the visit goes on with that pin.
    pub(in crate::proxy) async fn agree(
        &mut self,
        pool: &Pool,
        destination: &Destination,
        owner: impl FnOnce() -> Owner,
    ) -> bool {
        let (Affinity::AppSession(session), Some(mut presented)) = (&pool.affinity, self.presented()) else {
            return true;
        };
        if !session.store.is_shared() {
            return true;
        }
        let pin = match self.opened {
            Some(Opened::Valid(pin) | Opened::OldKey(pin)) => (pin.id, pin.issued),
            Some(Opened::UnknownBackend(orphan)) => (orphan.id, orphan.issued),
            Some(Opened::None | Opened::Expired | Opened::Forged) | None => return true,
        };
        let home = |member: u32| pool.members[member as usize].backend.stable_hash();
        let Some(from) = presented.stored_home.or(presented.named.map(home)) else { return true };
        let wanted = record(&self.fresh_pin(pool, destination.member, pin.0, pin.1), &pool.members);
        let owner = owner();
        let agreed = session.store.rehome(presented.key, from, wanted, owner, limits(pool)).await;
        if agreed.home == wanted.home {
            let before = Record { home: from, ..self.pin().map_or(wanted, |pin| record(&pin, &pool.members)) };
            if let Carrier::Session(session) = &mut self.carrier {
                session.agreed = Some((before, owner));
            }
            return true;
        }
        presented.stored_home = Some(agreed.home);
        self.carrier = Carrier::session(Some(presented));
        self.opened = Some(session.opened(&agreed, self.now));
        false
    }

    /// The move that the other replicas had agreed to did not take place: nobody was there to take over. The pin is as it was,
    /// so that the next request moves it and tells of it.
    pub(in crate::proxy) fn take_back(&mut self, pool: &Pool) {
        let (Affinity::AppSession(session), Carrier::Session(by_session)) = (&pool.affinity, &mut self.carrier) else {
            return;
        };
        if let (Some(presented), Some((before, owner))) = (by_session.presented, by_session.agreed.take()) {
            session.store.put(presented.key, before, owner, limits(pool));
        }
    }

    /// Tells the client, or the pin store, what has changed; and makes sure that a reply has no cookie that passes for
    /// ours.
    pub(in crate::proxy) fn leave(
        &self,
        pool: &Pool,
        headers: &mut HeaderMap,
        is_https: bool,
        owner: impl FnOnce() -> Owner,
    ) {
        match &pool.affinity {
            Affinity::Cookie(cookie) => {
                remove_namesakes(headers, &cookie.name);
                let line = match &self.leaves_with {
                    Some(pin) => cookie.set.render(&cookie.pins.seal(pin), pin, is_https, self.now),
                    None if self.is_released => cookie.set.render_removal(is_https),
                    None => return,
                };
                headers.append(header::SET_COOKIE, line);
                cache_guard::guard(headers);
            }
            Affinity::AppSession(session) => self.leave_by_session(session, pool, headers, owner),
            Affinity::Hash(hash) => self.leave_by_key(hash, pool, owner),
            Affinity::Off => {}
        }
    }

    fn leave_by_session(
        &self,
        session: &SessionPins,
        pool: &Pool,
        headers: &mut HeaderMap,
        owner: impl FnOnce() -> Owner,
    ) {
        let Carrier::Session(by_session) = &self.carrier else { return };
        let BySession { presented, issued, .. } = **by_session;
        if self.is_released {
            if let Some(presented) = &presented {
                session.store.remove(presented.key);
                session.store.remove(presented.found_under);
            }
            return;
        }
        // On a route without affinity there is no pin, and the name that came with the cookie stays.
        let home = self.leaves_with.or_else(|| self.pin()).map(|pin| pin.home);
        let home = home.or_else(|| presented.and_then(|presented| presented.named).filter(|_| self.opened.is_none()));
        if session.home_by == HomeBy::Prefix
            && let Some(home) = home
        {
            session.reader.prefix_reply(headers, &pool.members[home as usize].backend.id().name, self.now);
        }
        if self.opened.is_none() {
            return;
        }
        // An id may also be issued later than with the reply that moved the session.
        let Some(pin) = self.leaves_with.or_else(|| issued.and_then(|_| self.pin())) else { return };
        let Some(id) = issued.or(presented) else { return };
        // What an id says by itself needs no keeping.
        if id.named == Some(pin.home) && pin.detour.is_none() {
            // It may have been a former one of this session, which led to where that went.
            if id.stored_home.is_some() || issued.is_some() && session.store.get(id.key).is_some() {
                session.store.remove(id.key);
            }
            if let (Some(issued), Some(presented)) = (issued, presented)
                && issued.pin_id == presented.pin_id
                && pool.limits.idle_timeout > RETIREMENT
            {
                // The session has moved, and the id that it had says otherwise.
                let refreshed = retiring(pool, self.now);
                let moved = Record { refreshed, ..record(&pin, &pool.members) };
                session.store.put(presented.key, moved, owner(), limits(pool));
            }
            return;
        }
        let owner = owner();
        session.store.put(id.key, record(&pin, &pool.members), owner, limits(pool));
        if let Some(presented) = presented {
            retire(session, pool, &presented, issued.and(Some(&pin)), (owner, self.now));
        }
    }
}

/// How long a session id is still known after the app has issued another one for the same client: requests may be on
/// their way with it.
const RETIREMENT: u32 = 60;

/// Lets go of what a pin was kept under before.
fn retire(
    session: &SessionPins,
    pool: &Pool,
    before: &SessionId,
    replaced_by: Option<&Pin>,
    (owner, now): (Owner, u32),
) {
    if before.found_under != before.key {
        session.store.remove(before.found_under);
    }
    if let Some(pin) = replaced_by
        && pool.limits.idle_timeout > RETIREMENT
        && let Some(known) = session.store.get(before.key)
    {
        let refreshed = retiring(pool, now).min(known.refreshed);
        // A session that has moved is known at its new home only.
        let moved = (pool.settings.sessions != Sessions::Local).then(|| record(pin, &pool.members));
        session.store.put(before.key, Record { refreshed, ..moved.unwrap_or(known) }, owner, limits(pool));
    }
}

/// When what is to be known for as long as a retired id was last used: long enough ago.
fn retiring(pool: &Pool, now: u32) -> u32 {
    now.saturating_sub(pool.limits.idle_timeout.saturating_sub(RETIREMENT))
}

/// How long the pin store keeps a pin.
pub(super) fn limits(pool: &Pool) -> pins::Limits {
    pins::Limits { idle_timeout: pool.limits.idle_timeout, max_lifetime: pool.limits.max_lifetime }
}

/// Whom a pin is learned from: a client's address, of IPv6 the network that one client has to itself.
pub(in crate::proxy) fn owner(client: IpAddr) -> Owner {
    let mut hasher = SipHasher13::new();
    match client {
        IpAddr::V4(address) => hasher.write(&address.octets()),
        IpAddr::V6(address) => hasher.write(&address.octets()[..8]),
    }
    Owner(hasher.finish() as u32)
}

/// A backend's own cookie of our name would take the place of the pin.
fn remove_namesakes(headers: &mut HeaderMap, name: &CookieName) {
    let is_namesake = |line: &HeaderValue| {
        let pair = line.as_bytes().split(|byte| *byte == b';').next();
        pair.is_some_and(|pair| name.contains(pair))
    };
    if headers.get_all(header::SET_COOKIE).iter().any(is_namesake) {
        let lines = headers.get_all(header::SET_COOKIE).iter();
        let kept: Vec<_> = lines.filter(|line| !is_namesake(line)).cloned().collect();
        headers.remove(header::SET_COOKIE);
        for line in kept {
            headers.append(header::SET_COOKIE, line);
        }
    }
}
