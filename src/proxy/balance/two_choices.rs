//! `two_choices`: the less loaded of two drawn by chance.

use fastrand::Rng;

use super::suitability::{Candidate, Candidates};
use super::weight_table::WeightTable;

/// Draws two different backends in proportion to weight, and takes the less loaded.
///
/// Load is what it would be with this request: requests in flight and one, divided by weight. Of two idle ones the first
/// drawn wins, so that a trickle of requests follows the weights too. With one candidate, that one wins.
/// O(log N), no allocation. Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.
#[derive(Debug, Default)]
pub(super) struct TwoChoices {
    table: WeightTable,
}

impl TwoChoices {
    pub(super) fn pick(&mut self, candidates: &Candidates<'_>, rng: &mut Rng) -> Option<usize> {
        let (first, second) = self.table.draw_two(candidates, rng)?;
        Some(second.filter(|second| is_less_loaded(second, &first)).unwrap_or(first).index)
    }
}

fn is_less_loaded(one: &Candidate<'_>, other: &Candidate<'_>) -> bool {
    let (mine, theirs) = (one.backend.in_flight(), other.backend.in_flight());
    (mine, theirs) != (0, 0) && one.is_less(u64::from(mine) + 1, other, u64::from(theirs) + 1)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{State, pool};
    use super::super::{Balancer, Tried};
    use crate::config::Balance;
    use fastrand::Rng;
    use tokio::time::Instant;

    /// Every request stays, as under overload. Bound: 5 % of each share, at 2,000 requests.
    #[test]
    fn requests_that_stay_pile_up_in_proportion_to_weight() {
        let weights = [1, 1, 2, 4, 4, 8];
        let members = pool(&weights.map(State::healthy));
        let mut balancer = Balancer::new(Balance::TwoChoices, &members, 0);
        let mut rng = Rng::with_seed(21);
        let pick = |_| balancer.pick(&members, &Tried::default(), &mut rng, Instant::now()).expect("all are healthy");
        (0..2_000).map(pick).for_each(|index| members[index].backend.begin_request());
        for (weight, member) in weights.into_iter().zip(&members) {
            let (load, expected) = (f64::from(member.backend.in_flight()), 100.0 * f64::from(weight));
            assert!((load / expected - 1.0).abs() < 0.05, "{load} for {expected}, seed 21");
        }
    }

    #[test]
    fn a_busy_backend_is_passed_over() {
        let members = pool(&[State::healthy(1); 2]);
        members[0].backend.begin_request();
        let mut balancer = Balancer::new(Balance::TwoChoices, &members, 0);
        let mut rng = Rng::with_seed(22);
        assert!((0..100).all(|_| balancer.pick(&members, &Tried::default(), &mut rng, Instant::now()) == Some(1)));
    }
}
