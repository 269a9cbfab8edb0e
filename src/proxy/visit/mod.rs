//! One client's request as far as affinity is concerned: the pin it came with, where that sends it, and the pin it
//! leaves with. Joins `affinity` with what is known of the backends.
//!
//! `arrive` reads the pin, however it travels; `bounded` gives a new key its home where hashing has a bound; `next` decides where each attempt goes; `leave` settles what the client
//! and the pin store are told; `explain` says all of it in words, for an operator who asks.

mod arrive;

mod bounded;

mod crowd;

mod explain;

mod leave;

mod next;

#[cfg(test)]
mod cases;

#[cfg(test)]
mod evening;

#[cfg(test)]
mod outages;

#[cfg(test)]
mod full_tests;

#[cfg(test)]
mod tests;

pub(super) use crowd::Crowd;
pub(super) use leave::owner as pin_owner;

pub use explain::{Answer, Explanation, Question, explain};

use std::net::IpAddr;

use http::HeaderMap;

use super::affinity::{Opened, Pin, SessionId};
use super::balance::newcomers::Newcomer;
use crate::pins::{Owner, Record};
use crate::proxy::snapshot::Pool;
use crate::telemetry::words::{PinVerdict, Placement, RehomeReason};

/// A visit of one client.
#[derive(Debug)]
pub(super) struct Visit {
    /// `None` where pins do not count: no affinity in the pool, or none on the route.
    opened: Option<Opened>,
    /// How its pin travels.
    carrier: Carrier,
    /// Wall clock, in seconds.
    now: u32,
    /// The pin to leave with, when the client or the store has to be told.
    leaves_with: Option<Pin>,
    /// The id of the pin, old or new.
    pin_id: Option<u64>,
    /// Who the client seems to be; only for one without a pin.
    newcomer: Option<Newcomer>,
    /// The client's pin is taken away.
    is_released: bool,
}

/// How a pin travels.
#[derive(Debug)]
enum Carrier {
    /// In our own cookie.
    Cookie,
    /// Under the app's session id. On the heap, so that a visit is small where pins travel otherwise.
    Session(Box<BySession>),
    /// Not at all: it follows from the request.
    Hash,
    /// As with `Hash`, but where a key in use lives is remembered.
    Bounded(InUse),
    /// As with `Hash`, but the request has no affinity key and is to be turned away for it.
    KeyMissing,
}

/// Whether a key is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InUse {
    /// Not as far as is known here.
    New,
    /// It is.
    Known,
    /// It is, and is known under a key of the ring that no longer signs.
    UnderOldKey,
}

/// What is known of a visit whose pin travels under the app's session id.
#[derive(Debug, Default)]
struct BySession {
    /// The id that the request carried.
    presented: Option<SessionId>,
    /// The id that the reply issued, when that is another one.
    issued: Option<SessionId>,
    /// What the store that replicas share had of the pin before they agreed to its move, and whose it is.
    agreed: Option<(Record, Owner)>,
}

impl Carrier {
    fn session(presented: Option<SessionId>) -> Self {
        Self::Session(Box::new(BySession { presented, ..BySession::default() }))
    }

    /// Whether the pin follows from an affinity key, which no reply changes.
    fn is_by_key(&self) -> bool {
        matches!(self, Self::Hash | Self::Bounded(_) | Self::KeyMissing)
    }
}

/// What a request says about its client.
#[derive(Clone, Copy)]
pub(super) struct Arrival<'a> {
    /// Finds the client's address, which not every request is asked for.
    pub client: &'a dyn Fn() -> IpAddr,
    /// The request's header lines.
    pub headers: &'a HeaderMap,
    /// Its path.
    pub path: &'a str,
    /// Its path and query.
    pub path_and_query: &'a str,
    /// Wall clock, in seconds.
    pub now: u32,
}

/// Where one attempt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    /// Index of the backend.
    pub member: usize,
    /// What that is.
    pub placement: Placement,
    /// Who the client was with, when its pin moves.
    pub moved: Option<Moved>,
    /// The session went with the memory it was in; said to the backend, once.
    pub session_lost: Option<RehomeReason>,
}

impl Destination {
    fn plain(member: usize, placement: Placement) -> Self {
        Self { member, placement, moved: None, session_lost: None }
    }
}

/// A pin that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    /// Index of the old home; `None` when it is no longer in the pool.
    pub from: Option<usize>,
    /// Why.
    pub reason: RehomeReason,
}

/// What to do next with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Try this one.
    Go(Destination),
    /// Wait for the home, then ask again.
    Wait {
        /// Index of the home.
        home: usize,
    },
    /// Wait in the queue of this backend, then ask again; or go there, whatever has changed meanwhile, where it says what
    /// that is.
    QueueAt {
        /// Index of the backend.
        member: usize,
        /// What it is to go there.
        placement: Option<Placement>,
    },
    /// Wait in the pool's queue until any backend has room, and go there.
    QueueForAny(Placement),
    /// Whoever could serve it is full, and it has waited as long as it may.
    Full,
    /// The policy says no.
    Refuse,
    /// There is nobody.
    Nobody,
}

impl Visit {
    /// What the pin turned out to be; `None` where pins do not count.
    pub(super) fn verdict(&self) -> Option<PinVerdict> {
        self.opened.as_ref().map(Opened::verdict)
    }

    /// The pin's id.
    pub(super) fn pin_id(&self) -> Option<u64> {
        self.pin_id
    }

    /// Whether the pool asks for an affinity key that the request does not carry.
    pub(super) fn lacks_key(&self) -> bool {
        matches!(self.carrier, Carrier::KeyMissing)
    }

    /// The pin that the client came with.
    fn pin(&self) -> Option<Pin> {
        self.opened.and_then(|opened| opened.pin())
    }

    /// What the loss of this client's session is known by: the same for parallel requests that find it lost, another one
    /// when the session that it began after that is lost, too. `None` without a pin.
    pub(in crate::proxy) fn loss(&self, pool: &Pool) -> Option<u64> {
        // A pin keeps its id wherever it moves; where it lived, in which life, and since when, it has lost one session only.
        let lived = self.pin().map_or(0, |pin| {
            let home = &pool.members[pin.home as usize].backend;
            let since = if next::tells_age(pool) { u64::from(pin.refreshed) } else { 0 };
            home.stable_hash().wrapping_add(u64::from(pin.instance)).wrapping_add(since << 32)
        });
        self.pin_id.map(|id| id ^ lived)
    }
}
