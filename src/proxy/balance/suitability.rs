//! Who may serve a client without a pin, and in which order.

use fastrand::Rng;

use super::Tried;
use crate::pool::{AdminState, Backend, Health, Member};

/// How well a backend suits new clients, best first. Disabled and unhealthy ones have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Suitability {
    /// Enabled and healthy.
    FirstChoice,
    /// Enabled, and starting or suspect.
    Unproven,
    /// Draining and healthy. When every backend is draining, new clients are still served.
    Draining,
    /// Draining, and starting or suspect.
    DrainingUnproven,
    /// Of weight 0, which is meant for pinned clients only.
    PinnedOnly,
    /// Of weight 0, and draining.
    LastResort,
}

impl Suitability {
    /// With the weight it counts with: at least 1, for backends of weight 0 share alike when it is their turn.
    fn of(backend: &Backend) -> Option<(Self, u32)> {
        let (standing, weight) = (backend.standing(), backend.weight());
        let suitability = match (standing.admin, standing.health, weight) {
            (AdminState::Disabled, _, _) | (_, Health::Unhealthy, _) => return None,
            (AdminState::Enabled, _, 0) => Self::PinnedOnly,
            (AdminState::Draining, _, 0) => Self::LastResort,
            (AdminState::Enabled, Health::Healthy, _) => Self::FirstChoice,
            (AdminState::Enabled, Health::Starting | Health::Suspect, _) => Self::Unproven,
            (AdminState::Draining, Health::Healthy, _) => Self::Draining,
            (AdminState::Draining, Health::Starting | Health::Suspect, _) => Self::DrainingUnproven,
        };
        Some((suitability, weight.max(1)))
    }

    /// The best that anybody has. O(N).
    pub(super) fn best(members: &[Member], excluded: Excluded<'_>) -> Option<Self> {
        Self::all(members, excluded).map(|(_, suitability)| suitability).min()
    }

    /// The best member, whatever its load. O(N).
    pub(super) fn anybody(members: &[Member], excluded: Excluded<'_>) -> Option<usize> {
        Self::all(members, excluded).min_by_key(|&(_, suitability)| suitability).map(|(index, _)| index)
    }

    fn all<'a>(members: &'a [Member], excluded: Excluded<'a>) -> impl Iterator<Item = (usize, Self)> + 'a {
        let suitable = |(index, member): (usize, &Member)| Some((index, Self::of(&member.backend)?.0));
        members.iter().enumerate().filter(move |(index, member)| !excluded.has(*index, member)).filter_map(suitable)
    }
}

/// Who may not be picked, whatever its state.
#[derive(Clone, Copy)]
pub(super) struct Excluded<'a> {
    /// Those that failed this request.
    pub(super) tried: &'a Tried,
    /// A home is looked for, so those with as many clients as they may have are out.
    pub(super) are_full_ones: bool,
    /// Those with as many requests as they may have are out.
    pub(super) are_busy_ones: bool,
}

impl Excluded<'_> {
    /// The same, but for those that have no room at this moment.
    pub(super) fn but_busy_ones(self) -> Self {
        Self { are_busy_ones: false, ..self }
    }

    fn has(self, index: usize, member: &Member) -> bool {
        self.tried.contains(index)
            || (self.are_full_ones && member.is_full())
            || (self.are_busy_ones && member.backend.room().is_full())
    }
}

/// A member that may be picked now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) index: usize,
    /// At least 1.
    pub(super) weight: u32,
    pub(super) backend: &'a Backend,
}

impl Candidate<'_> {
    /// Whether `mine` per weight of this one is less than `theirs` per weight of the other.
    pub(super) fn is_less(&self, mine: u64, other: &Self, theirs: u64) -> bool {
        // Multiplied out, in a width that cannot overflow: a quotient would tie what is not equal.
        u128::from(mine) * u128::from(other.weight) < u128::from(theirs) * u128::from(self.weight)
    }
}

/// Those among whom an algorithm picks: members of one suitability that are not excluded.
pub(super) struct Candidates<'a> {
    members: &'a [Member],
    excluded: Excluded<'a>,
    suitability: Suitability,
}

impl<'a> Candidates<'a> {
    pub(super) fn new(members: &'a [Member], excluded: Excluded<'a>, suitability: Suitability) -> Self {
        Self { members, excluded, suitability }
    }

    /// The whole pool.
    pub(super) fn members(&self) -> &'a [Member] {
        self.members
    }

    /// Whether these are first choices: whoever is not among them is an exception then.
    pub(super) fn are_first_choices(&self) -> bool {
        self.suitability == Suitability::FirstChoice
    }

    /// This member, when it is among them.
    pub(super) fn get(&self, index: usize) -> Option<Candidate<'a>> {
        let member = self.members.get(index)?;
        let backend = &*member.backend;
        let (suitability, weight) = Suitability::of(backend)?;
        let is_one = suitability == self.suitability && !self.excluded.has(index, member);
        is_one.then_some(Candidate { index, weight, backend })
    }

    /// All of them, by looking at every member. O(N).
    pub(super) fn iter(&self) -> impl Iterator<Item = Candidate<'a>> {
        (0..self.members.len()).filter_map(|index| self.get(index))
    }
}

/// Draws one in proportion to weight, in one pass and without knowing the sum before.
///
/// Source: Chao, "A general purpose unequal probability sampling plan", 1982, for a sample of one.
pub(super) fn draw_by_weight<'a>(
    candidates: impl Iterator<Item = Candidate<'a>>,
    rng: &mut Rng,
) -> Option<Candidate<'a>> {
    let mut sum = 0;
    let mut drawn = None;
    for candidate in candidates {
        sum += u64::from(candidate.weight);
        if rng.u64(0..sum) < u64::from(candidate.weight) {
            drawn = Some(candidate);
        }
    }
    drawn
}
