//! Bounded load: who has room for a new key?
//!
//! Hashing spreads keys by chance, and some keys come with many clients. With a bound, no backend is given a new key while
//! it has more than so many times the average; the key goes on to the next in its own order of preference, and stays
//! there for as long as it is in use.

use crate::pool::Member;

/// What the backends in service have, and how much of it one of them may have.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    ratio: f64,
    /// Active pins of all that take new keys.
    pins: u64,
    /// Their weights.
    weights: u64,
}

impl Bound {
    /// Looks at the pool as it is now. Backends that take no new clients do not count, so that somebody always has room.
    /// O(N); for new keys only.
    pub fn new(ratio: f64, members: &[Member]) -> Self {
        let in_service =
            members.iter().map(|member| &member.backend).filter(|one| one.standing().is_available_for_new());
        let (pins, weights) = in_service.fold((0, 0), |(pins, weights), backend| {
            (pins + backend.active_pins(), weights + u64::from(backend.weight()))
        });
        Self { ratio, pins, weights }
    }

    /// Whether this backend would have no more than its part of the average, one key rounded up, with one key more.
    ///
    /// Source: Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016: capacity ⌈c × m / n⌉,
    /// here by weight.
    pub fn has_room(&self, member: &Member) -> bool {
        let share = f64::from(member.backend.weight()) / self.weights as f64;
        // Counts are far below 2⁵³. Without any weight the share is no number, and nobody has room.
        let capacity = (self.ratio * (self.pins + 1) as f64 * share).ceil();
        (member.backend.active_pins() + 1) as f64 <= capacity
    }
}
