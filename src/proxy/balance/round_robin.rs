//! `round_robin`: in turns, as often as the weight says, and evenly spaced.

use super::suitability::Candidates;
use crate::pool::Member;

/// Smooth weighted round robin.
///
/// Each pick adds to every candidate's credit its weight; the highest credit wins, and pays the sum of the weights. So
/// weights 5, 1, 1 give a a b a c a a and not a a a a a b c. O(N), no allocation. Source: nginx,
/// `ngx_http_upstream_round_robin.c`, since version 1.3.1.
#[derive(Debug)]
pub(super) struct RoundRobin {
    credits: Vec<i64>,
    /// The sum of weights at the last pick.
    sum: i64,
}

impl RoundRobin {
    /// Worker number n begins with the n-th turn, so that workers do not all begin at the same backend.
    pub(super) fn new(members: &[Member], worker: usize) -> Self {
        let mut this = Self { credits: vec![0; members.len()], sum: 0 };
        for _ in 0..worker.checked_rem(members.len()).unwrap_or(0) {
            this.turn(members.iter().map(|member| member.backend.weight()).enumerate());
        }
        this
    }

    pub(super) fn pick(&mut self, candidates: &Candidates<'_>) -> Option<usize> {
        self.credits.resize(candidates.members().len(), 0);
        self.turn(candidates.iter().map(|candidate| (candidate.index, candidate.weight)))
    }

    fn turn(&mut self, weights: impl Iterator<Item = (usize, u32)>) -> Option<usize> {
        let (mut sum, mut best) = (0, None);
        for (index, weight) in weights {
            sum += i64::from(weight);
            // Credits stay within the sum by themselves, unless weights were lowered or members went away meanwhile.
            // Without the bound an old debt would keep a backend waiting for long.
            let credit = self.credits[index].clamp(-self.sum, self.sum) + i64::from(weight);
            self.credits[index] = credit;
            if best.is_none_or(|(_, highest)| credit > highest) {
                best = Some((index, credit));
            }
        }
        let (index, _) = best?;
        self.credits[index] -= sum;
        self.sum = sum;
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{State, pool};
    use super::super::{Balancer, Tried};
    use crate::config::Balance;
    use crate::pool::Member;
    use fastrand::Rng;
    use tokio::time::Instant;

    fn sequence(members: &[Member], worker: usize, picks: usize) -> Vec<usize> {
        let mut balancer = Balancer::new(Balance::RoundRobin, members, worker);
        let mut rng = Rng::with_seed(1);
        (0..picks)
            .map(|_| balancer.pick(members, &Tried::default(), &mut rng, Instant::now()).expect("all are healthy"))
            .collect()
    }

    #[test]
    fn turns_are_evenly_spaced() {
        assert_eq!(sequence(&pool(&[5, 1, 1].map(State::healthy)), 0, 7), [0, 0, 1, 0, 2, 0, 0]);
    }

    /// Bound: one turn of each share, after any number of picks.
    #[test]
    fn shares_are_right_at_any_moment() {
        let weights = [1, 3, 7, 13];
        let turns = sequence(&pool(&weights.map(State::healthy)), 0, 240);
        for upto in 0..=turns.len() {
            for (index, weight) in weights.into_iter().enumerate() {
                let had = turns[..upto].iter().filter(|&&turn| turn == index).count() as f64;
                let due = upto as f64 * f64::from(weight) / 24.0;
                assert!((had - due).abs() <= 1.0, "member {index} had {had} of {due} after {upto}");
            }
        }
    }

    #[test]
    fn workers_begin_at_different_backends() {
        let members = pool(&[State::healthy(1); 4]);
        let first: Vec<usize> = (0..5).map(|worker| sequence(&members, worker, 1)[0]).collect();
        assert_eq!(first, [0, 1, 2, 3, 0]);
    }

    #[test]
    fn a_lowered_weight_leaves_no_debt() {
        let members = pool(&[State::healthy(1000), State::healthy(1000)]);
        let mut balancer = Balancer::new(Balance::RoundRobin, &members, 0);
        let mut rng = Rng::with_seed(1);
        let mut pick = || balancer.pick(&members, &Tried::default(), &mut rng, Instant::now());
        assert_eq!(pick(), Some(0));
        members.iter().for_each(|member| member.backend.order_weight(Some(1), Instant::now()));
        let of_first = (0..20).filter(|_| pick() == Some(0)).count();
        assert!((9..=11).contains(&of_first), "{of_first} of 20");
    }
}
