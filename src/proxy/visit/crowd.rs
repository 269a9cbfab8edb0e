//! What a request has found full so far, and whether it may wait any longer.

use crate::pool::Member;
use crate::proxy::balance::Tried;

/// See the module. Empty, and free, for a request that finds room at once.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Crowd {
    full: Tried,
    has_waited: bool,
    /// Nobody tries; so it is looked who is full.
    is_onlooker: bool,
}

impl Crowd {
    /// For somebody who only wants to know what would happen.
    pub(super) fn onlooker() -> Self {
        Self { is_onlooker: true, ..Self::default() }
    }

    /// There was no room.
    pub(in crate::proxy) fn found_full(&mut self, member: usize) {
        self.full.insert(member);
    }

    /// There is room, kept for this request.
    pub(in crate::proxy) fn has_room(&mut self, member: usize) {
        self.full.remove(member);
    }

    /// It has waited as long as it may, or the queue is full.
    pub(in crate::proxy) fn give_up_waiting(&mut self) {
        self.has_waited = true;
    }

    /// Whether it will not wait any longer.
    pub(super) fn has_waited(&self) -> bool {
        self.has_waited
    }

    /// Whether this member was found full.
    pub(super) fn found(&self, index: usize, member: &Member) -> bool {
        self.full.contains(index) || (self.is_onlooker && member.backend.room().is_full())
    }

    /// Whether it makes sense to go there: it was not found full, and does not look it.
    pub(super) fn may_have_room(&self, index: usize, member: &Member) -> bool {
        !self.full.contains(index) && !member.backend.room().is_full()
    }
}
