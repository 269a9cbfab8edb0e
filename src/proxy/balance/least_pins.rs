//! `least_pins`: where the fewest clients live, of two drawn by chance.

use fastrand::Rng;

use super::suitability::{Candidate, Candidates};
use super::weight_table::WeightTable;
use crate::pool::Member;

/// Draws two different backends in proportion to weight, and takes the one with fewer active pins per weight; equal
/// ones go by requests in flight per weight, then by the order drawn.
///
/// A new client stays, so what counts is how many have stayed already, not who is busy at this moment. Active pins are
/// counted by the control plane every now and then; what this worker placed since is added, or a rush of new clients
/// would all go by the same stale count. That memory fades, for where nothing is pinned no count ever changes. O(log N), no allocation. Source: Mitzenmacher, "The Power of Two Choices in
/// Randomized Load Balancing", 2001, with pins as load.
#[derive(Debug, Default)]
pub(super) struct LeastPins {
    table: WeightTable,
    placed: Vec<Placed>,
    /// Picks that `placed` still knows of.
    remembered: usize,
}

/// Picks a member that are remembered, on average, before the memory is halved.
const MEMORY: usize = 256;

/// What this worker placed at one member since its count last changed.
#[derive(Clone, Copy, Debug, Default)]
struct Placed {
    counted: u64,
    since: u64,
}

impl LeastPins {
    pub(super) fn pick(&mut self, candidates: &Candidates<'_>, rng: &mut Rng) -> Option<usize> {
        let (first, second) = self.table.draw_two(candidates, rng)?;
        self.begin_pick(candidates.members());
        let picked = second.filter(|second| self.is_better(second, &first)).unwrap_or(first);
        self.placed[picked.index] =
            Placed { counted: picked.backend.active_pins(), since: self.since(&picked).saturating_add(1) };
        Some(picked.index)
    }

    fn begin_pick(&mut self, members: &[Member]) {
        if self.placed.len() != members.len() {
            self.placed.clear();
            self.placed.resize(members.len(), Placed::default());
        }
        self.remembered += 1;
        if self.remembered > MEMORY * members.len() {
            self.remembered /= 2;
            self.placed.iter_mut().for_each(|placed| placed.since /= 2);
        }
    }

    fn is_better(&self, one: &Candidate<'_>, other: &Candidate<'_>) -> bool {
        let (mine, theirs) = (self.pins(one), self.pins(other));
        if one.is_less(mine, other, theirs) || other.is_less(theirs, one, mine) {
            return one.is_less(mine, other, theirs);
        }
        one.is_less(u64::from(one.backend.in_flight()), other, u64::from(other.backend.in_flight()))
    }

    fn pins(&self, candidate: &Candidate<'_>) -> u64 {
        candidate.backend.active_pins().saturating_add(self.since(candidate))
    }

    fn since(&self, candidate: &Candidate<'_>) -> u64 {
        let Placed { counted, since } = self.placed[candidate.index];
        if counted == candidate.backend.active_pins() { since } else { 0 }
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

    /// Most loaded member per weight, over the average. `count_every`: placements between two counts.
    fn peak(members: &[Member], clients: u64, count_every: u64, seed: u64) -> f64 {
        let mut balancer = Balancer::new(Balance::LeastPins, members, 0);
        let mut rng = Rng::with_seed(seed);
        let mut pins = vec![0_u64; members.len()];
        for client in 1..=clients {
            pins[balancer.pick(members, &Tried::default(), &mut rng, Instant::now()).expect("all are healthy")] += 1;
            if client % count_every == 0 {
                members.iter().zip(&pins).for_each(|(member, &pins)| member.backend.set_active_pins(pins));
            }
        }
        let weights: u32 = members.iter().map(|member| member.backend.weight()).sum();
        let per_weight = |(member, &pins): (&Member, &u64)| pins as f64 / f64::from(member.backend.weight());
        members.iter().zip(&pins).map(per_weight).fold(0.0, f64::max) / (clients as f64 / f64::from(weights))
    }

    #[test]
    fn the_most_loaded_of_ten_is_within_a_twentieth_of_the_average_at_64_pins_each() {
        for seed in 0..200 {
            let peak = peak(&pool(&[State::healthy(1); 10]), 640, 1, seed);
            assert!(peak <= 1.05, "{peak}, seed {seed}");
        }
    }

    #[test]
    fn it_is_within_a_twentieth_too_when_pins_are_counted_only_once_in_a_while() {
        for seed in 0..200 {
            let peak = peak(&pool(&[State::healthy(1); 10]), 640, 200, seed);
            assert!(peak <= 1.05, "{peak}, seed {seed}");
        }
    }

    /// Bound: 5 % of the share at 64 pins for each unit of weight.
    #[test]
    fn pins_follow_the_weights() {
        for seed in 0..50 {
            let peak = peak(&pool(&[1, 2, 3, 4, 5, 5].map(State::healthy)), 64 * 20, 1, seed);
            assert!(peak <= 1.05, "{peak}, seed {seed}");
        }
    }

    #[test]
    fn among_equals_the_less_busy_one_wins() {
        let members = pool(&[State::healthy(1); 2]);
        members[0].backend.begin_request();
        for seed in 0..20 {
            let mut balancer = Balancer::new(Balance::LeastPins, &members, 0);
            assert_eq!(
                balancer.pick(&members, &Tried::default(), &mut Rng::with_seed(seed), Instant::now()),
                Some(1),
                "seed {seed}"
            );
        }
    }
}
