//! Weighted draws without looking at every member.
//!
//! The table holds running sums of the weights of one tier; a draw is a binary search. It covers members of any state, so one that
//! is not a candidate is drawn again, a bounded number of times, before every member is looked at. What it remembers of
//! weights is checked at each draw for the member drawn, and for all members once in as many draws as there are members:
//! so a changed weight is noticed soon, a weight raised from 0 at the latest then, and a draw still costs O(log N).

use fastrand::Rng;

use super::suitability::{Candidate, Candidates, draw_by_weight};
use crate::pool::Member;

/// Draws in vain before every member is looked at. With half of the pool away, one pick in 256 comes that far.
const ATTEMPTS: usize = 8;

/// One worker's table of one pool.
#[derive(Debug, Default)]
pub(super) struct WeightTable {
    /// At each index the sum of the weights up to and including that member's.
    sums: Vec<u64>,
    /// The tier that they are of; weights of others count as 0.
    tier: u8,
    draws_until_check: usize,
}

impl WeightTable {
    /// Draws a candidate in proportion to weight, other than the one given. O(log N) when most members are candidates.
    pub(super) fn draw<'a>(
        &mut self,
        candidates: &Candidates<'a>,
        except: Option<usize>,
        rng: &mut Rng,
    ) -> Option<Candidate<'a>> {
        if let Some(tier) = candidates.tier_of_most() {
            for _ in 0..ATTEMPTS {
                let index = self.draw_member(candidates.members(), tier, rng)?;
                if let Some(candidate) = candidates.get(index).filter(|_| Some(index) != except) {
                    return Some(candidate);
                }
            }
        }
        draw_by_weight(candidates.iter().filter(|candidate| Some(candidate.index) != except), rng)
    }

    /// Draws two different candidates. The second is `None` when there is only one.
    pub(super) fn draw_two<'a>(
        &mut self,
        candidates: &Candidates<'a>,
        rng: &mut Rng,
    ) -> Option<(Candidate<'a>, Option<Candidate<'a>>)> {
        let first = self.draw(candidates, None, rng)?;
        Some((first, self.draw(candidates, Some(first.index), rng)))
    }

    /// `None` when every weight is 0.
    fn draw_member(&mut self, members: &[Member], tier: u8, rng: &mut Rng) -> Option<usize> {
        if self.draws_until_check == 0 || self.sums.len() != members.len() || self.tier != tier {
            self.tier = tier;
            self.rebuild(members);
        }
        self.draws_until_check -= 1;
        let drawn = self.search(rng)?;
        if self.remembered(drawn) == u64::from(members[drawn].backend.weight()) {
            return Some(drawn);
        }
        self.rebuild(members);
        self.search(rng)
    }

    fn search(&self, rng: &mut Rng) -> Option<usize> {
        let sum = self.sums.last().copied().filter(|&sum| sum > 0)?;
        let point = rng.u64(0..sum);
        Some(self.sums.partition_point(|&upto| upto <= point))
    }

    fn remembered(&self, index: usize) -> u64 {
        self.sums[index] - if index == 0 { 0 } else { self.sums[index - 1] }
    }

    fn rebuild(&mut self, members: &[Member]) {
        let mut sum = 0;
        self.sums.clear();
        self.sums.extend(members.iter().map(|member| {
            sum += if member.tier == self.tier { u64::from(member.backend.weight()) } else { 0 };
            sum
        }));
        self.draws_until_check = members.len().max(1);
    }
}
