//! Who may serve a client without a pin, and in which order.

use fastrand::Rng;

use super::Tried;
use crate::pool::{AdminState, Backend, Health, Member, Spread, Warming};

/// How well a backend suits new clients, best first. Disabled and unhealthy ones have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Suitability {
    class: Class,
    tier: u8,
    /// Starting or suspect.
    is_unproven: bool,
}

/// What comes before everything else, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// Enabled. A suspect one still comes before a healthy one of a later tier.
    Available,
    /// Draining. When every backend is draining, new clients are still served.
    Draining,
    /// Of weight 0, which is meant for pinned clients only.
    PinnedOnly,
    /// Of weight 0, and draining.
    LastResort,
}

impl Suitability {
    /// Enabled and healthy.
    pub(super) fn first_choice(tier: u8) -> Self {
        Self { class: Class::Available, tier, is_unproven: false }
    }

    /// With the weight it counts with: at least 1, for backends of weight 0 share alike when it is their turn.
    fn of(member: &Member) -> Option<(Self, u32)> {
        let (standing, weight) = (member.backend.standing(), member.backend.weight());
        let class = match (standing.admin, standing.health, weight) {
            (AdminState::Disabled, _, _) | (_, Health::Unhealthy, _) => return None,
            (AdminState::Enabled, _, 0) => Class::PinnedOnly,
            (AdminState::Draining, _, 0) => Class::LastResort,
            (AdminState::Enabled, _, _) => Class::Available,
            (AdminState::Draining, _, _) => Class::Draining,
        };
        let is_unproven = weight > 0 && standing.health != Health::Healthy;
        Some((Self { class, tier: member.tier, is_unproven }, weight.max(1)))
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
        let suitable = |(index, member): (usize, &Member)| Some((index, Self::of(member)?.0));
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
    /// Those that are warming and are passed over in this pick, by the number drawn for it.
    pub(super) warming: Option<(Warming, u64)>,
}

impl Excluded<'_> {
    /// The same, but for those that have no room at this moment.
    pub(super) fn but_busy_ones(self) -> Self {
        Self { are_busy_ones: false, ..self }
    }

    fn has(&self, index: usize, member: &Member) -> bool {
        self.tried.contains(index)
            || (self.are_full_ones && member.is_full())
            || (self.are_busy_ones && member.backend.room().is_full())
            || self.warming.is_some_and(|(warming, draw)| !warming.admits(&member.backend, draw))
    }
}

/// Whom to pick among.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Among {
    /// Members of this suitability.
    Suited(Suitability),
    /// Everybody over whom panic spreads new clients.
    Everybody(Spread),
}

impl Among {
    /// The weight a member counts with, when it is among them.
    fn weight_of(self, member: &Member) -> Option<u32> {
        match self {
            Self::Suited(wanted) => {
                Suitability::of(member).filter(|(suitability, _)| *suitability == wanted).map(|(_, weight)| weight)
            }
            Self::Everybody(spread) => spread.ignores_health_of(member).then(|| member.backend.weight().max(1)),
        }
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

/// Those among whom an algorithm picks: members of one suitability, or everybody, but for those that are excluded.
pub(super) struct Candidates<'a> {
    members: &'a [Member],
    excluded: Excluded<'a>,
    among: Among,
}

impl<'a> Candidates<'a> {
    pub(super) fn new(members: &'a [Member], excluded: Excluded<'a>, among: Among) -> Self {
        Self { members, excluded, among }
    }

    /// The whole pool.
    pub(super) fn members(&self) -> &'a [Member] {
        self.members
    }

    /// The tier they are of, when most of it are candidates: first choices, or everybody. Whoever is not among them is an
    /// exception then.
    pub(super) fn tier_of_most(&self) -> Option<u8> {
        match self.among {
            Among::Suited(Suitability { class: Class::Available, tier, is_unproven: false }) => Some(tier),
            Among::Suited(_) => None,
            Among::Everybody(spread) => Some(spread.tier),
        }
    }

    /// This member, when it is among them.
    pub(super) fn get(&self, index: usize) -> Option<Candidate<'a>> {
        let member = self.members.get(index)?;
        let weight = self.among.weight_of(member)?;
        let is_one = !self.excluded.has(index, member);
        is_one.then_some(Candidate { index, weight, backend: &member.backend })
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
