//! The hour of the shop: what happens when, and who comes and goes. The same for every strategy: drawn from one seed.
//!
//! Times are minutes of the shop.

use fastrand::Rng;

/// A server is killed (SIGKILL), and started again on its port.
pub(crate) const KILLED: f64 = 10.0;
pub(crate) const RESTARTED: f64 = 14.0;

/// A fourth server is added.
pub(crate) const ADDED: f64 = 18.0;

/// Another server is drained; whoever is left there has to go at the deadline.
pub(crate) const DRAINED: f64 = 34.0;
pub(crate) const DRAIN_DEADLINE: f64 = 12.0;

/// The shared store, if there is one, is killed and started again.
pub(crate) const STORE_KILLED: f64 = 50.0;
pub(crate) const STORE_RESTARTED: f64 = 53.0;

/// The hour is over.
pub(crate) const CLOSED: f64 = 60.0;

/// While everything is well, with three servers and with four, the last of which is no newcomer any more.
pub(crate) const WITH_THREE: (f64, f64) = (5.0, KILLED);
pub(crate) const WITH_FOUR: (f64, f64) = (28.0, DRAINED);

/// Whoever is there at the beginning comes within this time.
const OPENING: f64 = 2.0;

/// Regular customers stay for long, from to.
const STAY: (f64, f64) = (30.0, 90.0);

/// The others look around, from to.
const PASS_BY: (f64, f64) = (4.0, 10.0);

/// Customers a minute for each regular one who is there at the beginning: about as many as go.
const REGULARS_COME: f64 = 1.8 / 110.0;
const OTHERS_COME: f64 = 2.5 / 110.0;

/// A customer's pause between two requests: exponential, within bounds.
const THINKS: f64 = 40.0 / 60.0;
const THINKS_BETWEEN: (f64, f64) = (5.0 / 60.0, 2.0);

const SEED: u64 = 0x5717_c4b1;

/// One customer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Customer {
    pub(crate) comes: f64,
    pub(crate) leaves: f64,
    seed: u64,
}

/// All customers of the hour, of whom so many regular ones are there at the beginning.
pub(crate) fn customers(regulars: usize) -> Vec<Customer> {
    let mut rng = Rng::with_seed(SEED);
    let mut customers = Vec::new();
    for _ in 0..regulars {
        let comes = between(&mut rng, (0.0, OPENING));
        // They are in the midst of their visit.
        customers.push(Customer { comes, leaves: between(&mut rng, (10.0, STAY.1)), seed: rng.u64(..) });
    }
    for (come, stays) in [(REGULARS_COME, STAY), (OTHERS_COME, PASS_BY)] {
        let mut comes = 0.0;
        loop {
            comes += exponential(&mut rng, 1.0 / (come * regulars as f64));
            if comes >= CLOSED {
                break;
            }
            customers.push(Customer { comes, leaves: comes + between(&mut rng, stays), seed: rng.u64(..) });
        }
    }
    customers
}

impl Customer {
    /// Pauses between requests, one after the other, without end.
    pub(crate) fn pauses(&self) -> impl Iterator<Item = f64> + use<> {
        let mut rng = Rng::with_seed(self.seed);
        std::iter::repeat_with(move || exponential(&mut rng, THINKS).clamp(THINKS_BETWEEN.0, THINKS_BETWEEN.1))
    }
}

fn between(rng: &mut Rng, (from, to): (f64, f64)) -> f64 {
    from + rng.f64() * (to - from)
}

fn exponential(rng: &mut Rng, mean: f64) -> f64 {
    -mean * (1.0 - rng.f64()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_strategy_gets_the_same_customers() {
        assert_eq!(customers(110), customers(110));
        let pauses = |customer: Customer| customer.pauses().take(50).collect::<Vec<_>>();
        let customer = customers(110)[7];
        assert_eq!(pauses(customer), pauses(customer));
        assert_ne!(pauses(customer), pauses(customers(110)[8]));
    }

    #[test]
    fn about_as_many_come_as_go() {
        let customers = customers(110);
        let at = |minute: f64| customers.iter().filter(|one| one.comes <= minute && minute < one.leaves).count();
        for minute in [5.0, KILLED, ADDED, DRAINED, STORE_KILLED, CLOSED] {
            assert!((100..=160).contains(&at(minute)), "{} at {minute}", at(minute));
        }
        assert!(customers.iter().all(|one| one.leaves > one.comes && one.comes < CLOSED));
    }

    #[test]
    fn customers_think_as_long_as_is_said() {
        let pauses: Vec<f64> = customers(110).iter().flat_map(|one| one.pauses().take(100)).collect();
        let mean = pauses.iter().sum::<f64>() / pauses.len() as f64;
        assert!((0.9 * THINKS..1.05 * THINKS).contains(&mean), "the bounds take a little: {mean}");
        assert!(pauses.iter().all(|pause| (THINKS_BETWEEN.0..=THINKS_BETWEEN.1).contains(pause)));
    }
}
