//! `peak_ewma`: of two drawn by chance, the one that is expected to reply sooner.

use fastrand::Rng;
use tokio::time::Instant;

use super::suitability::{Candidate, Candidates};
use super::weight_table::WeightTable;
use crate::pool::latency::weigh;

/// Draws two different backends in proportion to weight, and takes the one with the lower load.
///
/// Load is the latency to expect (a peak-sensitive average that decays, with failures counted as slow; see
/// [`crate::pool::latency`], which also says where it is kept and why) times requests in flight and one, divided by
/// weight. Of two idle ones the first drawn wins unless the second is expected to take less than half as long: so a
/// trickle follows the weights, and no backend is left out for a difference that chance makes.
/// O(log N), no allocation; no clock is read. Sources: Finagle's `PeakEwma` over its power of two choices, and tower's
/// `PeakEwma` as linkerd uses it.
#[derive(Debug, Default)]
pub(super) struct PeakEwma {
    table: WeightTable,
}

/// How much sooner an idle backend must be expected to reply to take what another idle one was drawn for.
const CLEARLY: f64 = 2.0;

impl PeakEwma {
    pub(super) fn pick(&mut self, candidates: &Candidates<'_>, rng: &mut Rng, now: Instant) -> Option<usize> {
        let (first, second) = self.table.draw_two(candidates, rng)?;
        Some(second.filter(|second| is_less_loaded(second, &first, now)).unwrap_or(first).index)
    }
}

fn is_less_loaded(one: &Candidate<'_>, other: &Candidate<'_>, now: Instant) -> bool {
    let (mine, theirs) = weigh(one.backend.latency(now), other.backend.latency(now));
    match (one.backend.in_flight(), other.backend.in_flight()) {
        (0, 0) => mine * CLEARLY < theirs,
        (my_requests, their_requests) => {
            let mine = mine * (f64::from(my_requests) + 1.0);
            let theirs = theirs * (f64::from(their_requests) + 1.0);
            mine * f64::from(other.weight) < theirs * f64::from(one.weight)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::super::testing::{State, pool};
    use super::super::{Balancer, Tried};
    use super::*;
    use crate::config::Balance;
    use crate::pool::Member;
    use crate::pool::latency::Outcome;

    const FAILED: Outcome = Outcome::Failed { limit: Duration::from_secs(30) };

    /// Requests of one every so many microseconds, each served by a backend that takes as long as is said for it.
    struct Traffic {
        members: Vec<Member>,
        balancer: Balancer,
        rng: Rng,
        start: Instant,
        micros: u64,
        /// Replies to come: when, by whom, begun when.
        under_way: BTreeMap<(u64, u64), (usize, u64)>,
        sent: u64,
    }

    impl Traffic {
        fn new(weights: &[u32], seed: u64) -> Self {
            let states: Vec<State> = weights.iter().copied().map(State::healthy).collect();
            let members = pool(&states);
            let balancer = Balancer::new(Balance::PeakEwma, &members, 0);
            let rng = Rng::with_seed(seed);
            Self { members, balancer, rng, start: Instant::now(), micros: 0, under_way: BTreeMap::new(), sent: 0 }
        }

        fn now(&self) -> Instant {
            self.start + Duration::from_micros(self.micros)
        }

        /// How many requests each backend got in so many seconds. `serve`: what a request there takes in milliseconds,
        /// by index and requests in flight, and how it ends.
        fn run(&mut self, seconds: u64, every: u64, serve: impl Fn(usize, u32) -> (f64, Outcome)) -> Vec<u64> {
            let mut counts = vec![0; self.members.len()];
            for _ in 0..seconds * 1_000_000 / every {
                self.micros += every;
                while let Some((&(at, id), &(member, begun))) = self.under_way.first_key_value()
                    && at <= self.micros
                {
                    self.under_way.remove(&(at, id));
                    let backend = &self.members[member].backend;
                    let outcome = serve(member, 0).1;
                    backend.note_latency(
                        Duration::from_micros(at - begun),
                        outcome,
                        self.start + Duration::from_micros(at),
                    );
                    backend.end_request();
                }
                let now = self.now();
                let picked = self.balancer.pick(&self.members, &Tried::default(), &mut self.rng, now);
                let picked = picked.expect("all are healthy");
                counts[picked] += 1;
                let backend = &self.members[picked].backend;
                let (millis, _) = serve(picked, backend.in_flight());
                // A fifth more or less, so that no two replies are alike.
                let micros = millis * 1000.0 * (0.8 + 0.4 * self.rng.f64());
                backend.begin_request();
                self.sent += 1;
                self.under_way.insert((self.micros + micros as u64, self.sent), (picked, self.micros));
            }
            counts
        }
    }

    fn shares(counts: &[u64]) -> Vec<f64> {
        let sum: u64 = counts.iter().sum();
        counts.iter().map(|count| *count as f64 / sum as f64).collect()
    }

    /// Alike in latency, hardly ever two requests at once. Bound: 3 percentage points over 20,000 requests.
    #[test]
    fn a_trickle_at_backends_that_are_alike_follows_the_weights() {
        for seed in [41, 42, 43] {
            let mut traffic = Traffic::new(&[1, 2, 5, 12], seed);
            let shares = shares(&traffic.run(1000, 50_000, |_, _| (10.0, Outcome::Replied)));
            for (share, weight) in shares.iter().zip([1.0, 2.0, 5.0, 12.0]) {
                assert!((share - weight / 20.0).abs() < 0.03, "{shares:?}, seed {seed}");
            }
        }
    }

    /// Every request stays, as under overload. Bound: a tenth of each share.
    #[test]
    fn requests_that_stay_pile_up_in_proportion_to_weight_over_latency() {
        let (weights, millis) = ([1u32, 2, 4, 4], [10u64, 10, 10, 40]);
        let members = pool(&weights.map(State::healthy));
        let now = Instant::now();
        for (member, millis) in members.iter().zip(millis) {
            member.backend.note_latency(Duration::from_millis(millis), Outcome::Replied, now);
        }
        let mut balancer = Balancer::new(Balance::PeakEwma, &members, 0);
        let mut rng = Rng::with_seed(44);
        for _ in 0..8_000 {
            let picked = balancer.pick(&members, &Tried::default(), &mut rng, now).expect("all are healthy");
            members[picked].backend.begin_request();
        }
        for ((weight, millis), member) in weights.into_iter().zip(millis).zip(&members) {
            let expected = 8_000.0 * f64::from(weight) * (10.0 / millis as f64) / 8.0;
            let found = f64::from(member.backend.in_flight());
            assert!((found / expected - 1.0).abs() < 0.1, "{found} for {expected}, seed 44");
        }
    }

    #[test]
    fn a_slow_backend_gets_less_and_is_tried_again_once_it_is_fast() {
        for seed in [45, 46] {
            let mut traffic = Traffic::new(&[1; 4], seed);
            let slow =
                shares(&traffic.run(60, 2_000, |member, _| (if member == 0 { 400.0 } else { 10.0 }, Outcome::Replied)));
            assert!(slow[0] < 0.04 && slow[0] > 0.0, "{slow:?}, seed {seed}");
            let _ = traffic.run(60, 2_000, |_, _| (10.0, Outcome::Replied));
            let again = shares(&traffic.run(60, 2_000, |_, _| (10.0, Outcome::Replied)));
            assert!((0.2..0.3).contains(&again[0]), "{again:?}, seed {seed}");
        }
    }

    /// What least requests would do: the backend that fails in a millisecond is the least busy, and gets nearly all.
    #[test]
    fn a_backend_that_fails_fast_does_not_attract_traffic() {
        for seed in [47, 48] {
            let serve = |member, _| if member == 0 { (1.0, FAILED) } else { (50.0, Outcome::Replied) };
            let mut traffic = Traffic::new(&[1; 4], seed);
            // From the first request on, and after it has served well for a while.
            let from_the_first = shares(&traffic.run(60, 1_000, serve));
            assert!(from_the_first[0] < 0.1, "{from_the_first:?}, seed {seed}");
            let mut traffic = Traffic::new(&[1; 4], seed);
            let _ = traffic.run(60, 1_000, |_, _| (50.0, Outcome::Replied));
            let later = shares(&traffic.run(60, 1_000, serve));
            assert!(later[0] < 0.1, "{later:?}, seed {seed}");
        }
    }

    /// Bound: of requests that come one by one, twice its share at most before it has replied, and its share once it has.
    #[test]
    fn a_backend_never_measured_is_neither_flooded_nor_starved() {
        let members = pool(&[State::healthy(1); 10]);
        let now = Instant::now();
        for member in &members[1..] {
            member.backend.note_latency(Duration::from_millis(20), Outcome::Replied, now);
        }
        let mut balancer = Balancer::new(Balance::PeakEwma, &members, 0);
        let mut rng = Rng::with_seed(49);
        let mut pick = || balancer.pick(&members, &Tried::default(), &mut rng, now).expect("all are healthy");
        let idle = (0..10_000).filter(|_| pick() == 0).count();
        assert!((900..=1_100).contains(&idle), "{idle} of 10,000 among idle ones");
        // Busy ones, and the new one with as many as they: it may get twice as many, not more.
        for _ in 0..10_000 {
            let picked = pick();
            members[picked].backend.begin_request();
        }
        let busy = members[0].backend.in_flight();
        assert!((1_000..=2_000).contains(&busy), "{busy} of 10,000 under way");
    }

    #[test]
    fn after_a_quiet_night_nobody_is_flooded() {
        let mut traffic = Traffic::new(&[1; 4], 50);
        let _ = traffic.run(30, 2_000, |member, _| (if member == 0 { 100.0 } else { 10.0 }, Outcome::Replied));
        // The slow one was asked last.
        traffic.members[0].backend.note_latency(Duration::from_millis(100), Outcome::Replied, traffic.now());
        traffic.micros += 8 * 3600 * 1_000_000;
        let rush = shares(&traffic.run(1, 1_000, |_, _| (100.0, Outcome::Replied)));
        assert!(rush.iter().all(|share| (0.1..0.5).contains(share)), "{rush:?}");
    }
}
