//! `least_requests`: whoever has the fewest requests in flight.

use fastrand::Rng;

use super::suitability::{Candidate, Candidates};

/// Takes the fewest requests in flight per weight; among equals one by chance, in proportion to weight.
///
/// Requests in flight are those of all workers, pinned ones included. The tie is what keeps workers from all sending to
/// the same idle backend. O(N), no allocation. Source: weighted least-connection scheduling, Zhang, "Linux Virtual
/// Server for Scalable Network Services", 2000.
#[derive(Debug)]
pub(super) struct LeastRequests;

impl LeastRequests {
    pub(super) fn pick(&self, candidates: &Candidates<'_>, rng: &mut Rng) -> Option<usize> {
        let mut best: Option<(Candidate<'_>, u64)> = None;
        // Weights of all that are as good as the best, for the draw among them.
        let mut tied = 0;
        for candidate in candidates.iter() {
            let load = u64::from(candidate.backend.in_flight());
            let weight = u64::from(candidate.weight);
            match &best {
                Some((leader, least)) if leader.is_less(*least, &candidate, load) => continue,
                Some((leader, least)) if !candidate.is_less(load, leader, *least) => {
                    tied += weight;
                    if rng.u64(0..tied) >= weight {
                        continue;
                    }
                }
                Some(_) | None => tied = weight,
            }
            best = Some((candidate, load));
        }
        best.map(|(candidate, _)| candidate.index)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{State, pool};
    use super::super::{Balancer, Tried};
    use crate::config::Balance;
    use fastrand::Rng;
    use tokio::time::Instant;

    /// Bound: one request of each share, at any moment.
    #[test]
    fn requests_that_stay_pile_up_in_proportion_to_weight() {
        let weights = [1, 2, 5];
        let members = pool(&weights.map(State::healthy));
        let mut balancer = Balancer::new(Balance::LeastRequests, &members, 0);
        let mut rng = Rng::with_seed(31);
        for round in 1..=100 {
            for _ in 0..8 {
                let picked =
                    balancer.pick(&members, &Tried::default(), &mut rng, Instant::now()).expect("all are healthy");
                members[picked].backend.begin_request();
            }
            for (weight, member) in weights.into_iter().zip(&members) {
                assert!(member.backend.in_flight().abs_diff(weight * round) <= 1, "round {round}, seed 31");
            }
        }
    }
}
