//! Who serves a client that has no pin?
//!
//! A [`Balancer`] belongs to one worker, so its state needs no lock and no atomic. It looks at nothing but what the
//! backends publish, at chance and at the time, which are handed in; it reads no clock and opens nothing. Every algorithm picks among
//! `Candidates`: the members of the best `Suitability` that somebody has. So an algorithm knows nothing of health,
//! and no search is longer than a few passes over the pool.
//!
//! Another algorithm is another file with `pick(&mut self, &Candidates, &mut Rng) -> Option<usize>`, and one more
//! variant here. Where a hashed key lives is another question, which [`hash`] answers.

mod suitability;

mod tried;

mod weight_table;

pub mod newcomers;

pub mod hash;

mod round_robin;

mod least_requests;

mod random;

mod two_choices;

mod least_pins;

mod peak_ewma;

#[cfg(test)]
mod testing;

use fastrand::Rng;
use tokio::time::Instant;

use crate::config::Balance;
use crate::pool::Member;

use least_pins::LeastPins;
use least_requests::LeastRequests;
use peak_ewma::PeakEwma;
use random::Random;
use round_robin::RoundRobin;
use suitability::{Candidates, Excluded, Suitability};
pub use tried::Tried;
use two_choices::TwoChoices;

/// One worker's picker for one pool, made anew with each snapshot.
#[derive(Debug)]
pub struct Balancer(Algorithm);

#[derive(Debug)]
enum Algorithm {
    LeastPins(LeastPins),
    LeastRequests(LeastRequests),
    PeakEwma(PeakEwma),
    Random(Random),
    RoundRobin(RoundRobin),
    TwoChoices(TwoChoices),
}

impl Balancer {
    /// The balancer of worker number `worker` for these members.
    ///
    /// The number only makes workers begin at different backends where an algorithm goes in turns.
    pub fn new(balance: Balance, members: &[Member], worker: usize) -> Self {
        Self(match balance {
            Balance::LeastPins => Algorithm::LeastPins(LeastPins::default()),
            Balance::LeastRequests => Algorithm::LeastRequests(LeastRequests),
            Balance::PeakEwma => Algorithm::PeakEwma(PeakEwma::default()),
            Balance::Random => Algorithm::Random(Random::default()),
            Balance::RoundRobin => Algorithm::RoundRobin(RoundRobin::new(members, worker)),
            Balance::TwoChoices => Algorithm::TwoChoices(TwoChoices::default()),
        })
    }

    /// Picks a member, as an index into `members`; never an excluded one.
    ///
    /// Backends that are enabled and healthy come first. Where there is none of them: enabled ones that are starting or
    /// suspect, then draining ones, then those of weight 0 (see `Suitability`). `None` only when everybody is excluded,
    /// disabled or unhealthy.
    pub fn pick(&mut self, members: &[Member], excluded: &Tried, rng: &mut Rng, now: Instant) -> Option<usize> {
        self.pick_but(members, Excluded { tried: excluded, are_full_ones: false }, rng, now)
    }

    /// Picks a home for a new client: as [`Balancer::pick`], but never a member with as many clients as it may have.
    pub fn pick_home(&mut self, members: &[Member], excluded: &Tried, rng: &mut Rng, now: Instant) -> Option<usize> {
        self.pick_but(members, Excluded { tried: excluded, are_full_ones: true }, rng, now)
    }

    fn pick_but(&mut self, members: &[Member], excluded: Excluded<'_>, rng: &mut Rng, now: Instant) -> Option<usize> {
        let first_choice = Candidates::new(members, excluded, Suitability::FirstChoice);
        self.pick_among(&first_choice, rng, now).or_else(|| self.pick_second_best(members, excluded, rng, now))
    }

    #[cold]
    fn pick_second_best(
        &mut self,
        members: &[Member],
        excluded: Excluded<'_>,
        rng: &mut Rng,
        now: Instant,
    ) -> Option<usize> {
        let best = Suitability::best(members, excluded)?;
        self.pick_among(&Candidates::new(members, excluded, best), rng, now)
            // States change while we look. Whoever is left is better than an error page.
            .or_else(|| Suitability::anybody(members, excluded))
    }

    fn pick_among(&mut self, candidates: &Candidates<'_>, rng: &mut Rng, now: Instant) -> Option<usize> {
        match &mut self.0 {
            Algorithm::LeastPins(algorithm) => algorithm.pick(candidates, rng),
            Algorithm::LeastRequests(algorithm) => algorithm.pick(candidates, rng),
            Algorithm::PeakEwma(algorithm) => algorithm.pick(candidates, rng, now),
            Algorithm::Random(algorithm) => algorithm.pick(candidates, rng),
            Algorithm::RoundRobin(algorithm) => algorithm.pick(candidates),
            Algorithm::TwoChoices(algorithm) => algorithm.pick(candidates, rng),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{ALL, State, counts, pool};
    use super::*;

    const STATES: [State; 24] = State::all();

    /// The order of the module's contract, written out once more.
    fn rank(state: State) -> Option<u32> {
        use crate::pool::AdminState::{Disabled, Draining, Enabled};
        use crate::pool::Health::{Healthy, Starting, Suspect, Unhealthy};
        match (state.admin, state.health, state.weight) {
            (Disabled, _, _) | (_, Unhealthy, _) => None,
            (Enabled, Healthy, 1..) => Some(1),
            (Enabled, Starting | Suspect, 1..) => Some(2),
            (Draining, Healthy, 1..) => Some(3),
            (Draining, Starting | Suspect, 1..) => Some(4),
            (Enabled, Healthy | Starting | Suspect, 0) => Some(5),
            (Draining, Healthy | Starting | Suspect, 0) => Some(6),
        }
    }

    /// Every multiset of four states, with a rotation so that no algorithm profits from an order.
    #[test]
    fn every_mix_of_states_over_four_members_is_answered_with_one_of_the_best() {
        let backends: Vec<Member> = STATES.iter().flat_map(|&state| pool(&[state; 4])).collect();
        let mut rng = Rng::with_seed(7);
        let mut balancers = ALL.map(|balance| (balance, Balancer::new(balance, &[], 0)));
        for mix in 0..STATES.len().pow(4) {
            let drawn = [0, 1, 2, 3].map(|place: u32| mix / STATES.len().pow(place) % STATES.len());
            if !drawn.is_sorted() {
                continue;
            }
            let order = [0, 1, 2, 3].map(|place: usize| drawn[(place + mix) % 4]);
            let members = [0, 1, 2, 3].map(|place| backends[order[place] * 4 + place].clone());
            for excluded in [None, Some(mix / 5 % 4)] {
                let mut tried = Tried::default();
                excluded.into_iter().for_each(|index| tried.insert(index));
                let rank_at = |place: usize| rank(STATES[order[place]]).filter(|_| Some(place) != excluded);
                let best = (0..4).filter_map(rank_at).min();
                for (balance, balancer) in &mut balancers {
                    let picked = balancer.pick(&members, &tried, &mut rng, Instant::now());
                    let states = order.map(|state| STATES[state]);
                    assert_eq!(
                        picked.and_then(rank_at),
                        best,
                        "{balance:?}: {picked:?} of {states:?} but {excluded:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_full_backend_gets_no_new_clients_and_still_serves_requests_without_a_pin() {
        for balance in ALL {
            let mut members = pool(&[State::healthy(1), State::healthy(100)]);
            members[1].max_pins = Some(2);
            members[1].backend.set_active_pins(2);
            let mut balancer = Balancer::new(balance, &members, 0);
            let (mut rng, tried) = (Rng::with_seed(14), Tried::default());
            for _ in 0..50 {
                assert_eq!(balancer.pick_home(&members, &tried, &mut rng, Instant::now()), Some(0), "{balance:?}");
            }
            assert!(
                (0..50).any(|_| balancer.pick(&members, &tried, &mut rng, Instant::now()) == Some(1)),
                "{balance:?}"
            );
            members[0].max_pins = Some(0);
            assert_eq!(
                balancer.pick_home(&members, &tried, &mut rng, Instant::now()),
                None,
                "{balance:?}: all are full"
            );
        }
    }

    #[test]
    fn an_empty_pool_has_nobody() {
        for balance in ALL {
            assert_eq!(
                Balancer::new(balance, &[], 3).pick(&[], &Tried::default(), &mut Rng::with_seed(1), Instant::now()),
                None
            );
        }
    }

    /// Idle backends, so that load decides nothing. Bound: 2 percentage points over 20,000 picks, 5 standard deviations
    /// of the random ones.
    #[test]
    fn shares_of_a_trickle_of_requests_follow_the_weights() {
        let weights = [1, 2, 5, 12];
        for balance in ALL {
            let members = pool(&weights.map(State::healthy));
            let shares = counts(balance, &members, 20_000, 11);
            for (weight, picks) in weights.into_iter().zip(shares) {
                let (share, expected) = (f64::from(picks) / 20_000.0, f64::from(weight) / 20.0);
                assert!((share - expected).abs() < 0.02, "{balance:?}: {share} for {expected}, seed 11");
            }
        }
    }

    /// The same, with a member in each other state that must get nothing.
    #[test]
    fn whoever_is_second_best_gets_nothing_while_a_first_choice_is_there() {
        let mut states: Vec<State> = STATES.to_vec();
        let first_choice = |state: &State| rank(*state) == Some(1);
        states.extend([State::healthy(3); 2]);
        let members = pool(&states);
        for balance in ALL {
            for (state, picks) in states.iter().zip(counts(balance, &members, 5_000, 12)) {
                assert_eq!(picks > 0, first_choice(state), "{balance:?}: {picks} for {state:?}, seed 12");
            }
        }
    }

    #[test]
    fn a_weight_that_the_operator_changes_counts_from_then_on() {
        for balance in ALL {
            let members = pool(&[State::healthy(0), State::healthy(1), State::healthy(1)]);
            let mut balancer = Balancer::new(balance, &members, 0);
            let (mut rng, tried) = (Rng::with_seed(13), Tried::default());
            let mut picks = [0_u32; 3];
            for _ in 0..1_000 {
                picks[balancer.pick(&members, &tried, &mut rng, Instant::now()).expect("two are healthy")] += 1;
            }
            assert_eq!(picks[0], 0, "{balance:?}");
            members[0].backend.order_weight(Some(8));
            for _ in 0..5_000 {
                picks[balancer.pick(&members, &tried, &mut rng, Instant::now()).expect("three are healthy")] += 1;
            }
            // Four fifths of 5,000; where placements are remembered, of 6,000 at most.
            assert!((3_800..=4_850).contains(&picks[0]), "{balance:?}: {picks:?}, seed 13");
        }
    }
}
