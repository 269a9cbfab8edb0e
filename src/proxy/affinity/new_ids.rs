//! The id of a new pin: drawn by chance, with an eye on who would inherit it.
//!
//! A pin's heir follows from its id. Left to chance alone, of 67 orphans one of two survivors would get more than 60 %
//! every tenth time. So of a few ids the one is taken whose heir has the least to inherit from this home so far; where the
//! pool has a later tier, also whose heir there has, for when the home's whole tier is lost. It remains a random number:
//! nothing depends on how it was drawn.

use fastrand::Rng;

use crate::pool::{Member, heir};

/// Ids to choose from.
const DRAWS: usize = 4;

/// The same, where an id has to suit two heirs.
const DRAWS_FOR_TWO: usize = 12;

/// In larger pools each heir has little to inherit from one home, and finding it takes longer.
const LARGEST: usize = 64;

/// What one worker knows of the pins it gave out in one pool.
#[derive(Debug, Default)]
pub struct NewIds {
    /// By home, then by heir: pins that were given out.
    given: Vec<u32>,
    /// The same by heir in a later tier, whatever the home.
    given_later: Vec<u32>,
}

impl NewIds {
    /// An id for a pin whose home is this member. O(N), no allocation but the first time.
    pub fn draw(&mut self, members: &[Member], home: usize, rng: &mut Rng) -> u64 {
        let count = members.len();
        // With fewer there is one heir at most.
        if !(3..=LARGEST).contains(&count) {
            return rng.u64(..);
        }
        if self.given.len() != count * count {
            self.given = vec![0; count * count];
            self.given_later = vec![0; count];
        }
        let given = &mut self.given[home * count..][..count];
        let tier = members[home].tier;
        let has_later = members.iter().any(|member| member.tier > tier);
        let later = |id: u64| has_later.then(|| heir(id, members, None, |_, member| member.tier > tier)).flatten();
        let mut best: Option<(u64, usize, Option<usize>, f64)> = None;
        for _ in 0..if has_later { DRAWS_FOR_TWO } else { DRAWS } {
            let id = rng.u64(..);
            let Some(heir) = heir(id, members, Some(home), |_, _| true) else { return id };
            let later = later(id);
            let inherits = per_weight(given, members, heir)
                + later.map_or(0.0, |later| per_weight(&self.given_later, members, later));
            if best.is_none_or(|(.., least)| inherits < least) {
                best = Some((id, heir, later, inherits));
            }
        }
        let (id, heir, later, _) = best.expect("there is at least one draw");
        given[heir] = given[heir].saturating_add(1);
        if let Some(later) = later {
            self.given_later[later] = self.given_later[later].saturating_add(1);
        }
        id
    }
}

/// What a member has to inherit, per weight.
fn per_weight(given: &[u32], members: &[Member], heir: usize) -> f64 {
    f64::from(given[heir]) / f64::from(members[heir].backend.weight().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::testing::weighted;

    /// Orphans of member 0, by heir, when two workers gave out its pins in turn.
    fn orphans(weights: &[u32], pins: u32, seed: u64) -> Vec<u32> {
        let members = weighted(weights);
        let (mut workers, mut rng) = ([NewIds::default(), NewIds::default()], Rng::with_seed(seed));
        let mut orphans = vec![0; members.len()];
        for pin in 0..pins {
            let id = workers[pin as usize % 2].draw(&members, 0, &mut rng);
            orphans[heir(id, &members, Some(0), |_, _| true).expect("others")] += 1;
        }
        orphans
    }

    #[test]
    fn two_survivors_share_67_orphans_within_55_to_45() {
        for seed in 0..500 {
            let orphans = orphans(&[1, 1, 1], 67, seed);
            assert!(orphans[1].min(orphans[2]) * 100 >= 67 * 45, "{orphans:?}, seed {seed}");
        }
    }

    #[test]
    fn survivors_share_by_weight() {
        for seed in 0..200 {
            let orphans = orphans(&[1, 1, 2, 3, 0], 120, seed);
            for (orphans, due) in orphans.iter().zip([0_u32, 20, 40, 60, 0]) {
                assert!(orphans.abs_diff(due) <= 5, "{orphans} of {due}, seed {seed}");
            }
        }
    }

    #[test]
    fn ids_stay_random() {
        let (members, mut ids, mut rng) = (weighted(&[1, 1, 1]), NewIds::default(), Rng::with_seed(1));
        let drawn: Vec<u64> = (0..10_000).map(|_| ids.draw(&members, 0, &mut rng)).collect();
        for bit in 0..64 {
            let ones = drawn.iter().filter(|id| **id >> bit & 1 == 1).count();
            assert!((4_750..=5_250).contains(&ones), "bit {bit}: {ones} of 10000");
        }
    }
}
