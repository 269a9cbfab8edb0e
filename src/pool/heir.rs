//! Who takes over the clients of a backend that is lost?
//!
//! The first available backend after the home in the pin's own order of preference. The order follows from the pin id,
//! the backends' names and their weights alone, so every replica and every restart names the same heir, and the orphans
//! of one backend spread over all survivors.

use super::Member;

/// The heir of a pin: of the available members other than its home those of the lowest tier, and of them the best scored,
/// as an index into `members`.
///
/// Members of weight 0 inherit only when nobody else can, and then alike. The order of `members` does not matter.
/// Nothing but the pins of a member moves when it leaves, and nothing moves but to or from a member whose weight
/// changes. O(N), no allocation; not needed for a pin whose home is there.
///
/// Source: weighted rendezvous hashing. Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998;
/// the weighted score −ln(u)/w (here: lowest wins) from Schindelhauer and Schomaker, "Weighted Distributed Hash Tables",
/// 2005, their logarithmic method.
pub fn heir(
    pin_id: u64,
    members: &[Member],
    home: Option<usize>,
    available: impl Fn(usize, &Member) -> bool,
) -> Option<usize> {
    heir_of_rank(pin_id, members, home, |index, member| available(index, member).then(|| by_tier(member)))
}

/// The rank of a member that has nothing to be told from others by but its tier, and that it has a weight.
pub fn by_tier(member: &Member) -> u32 {
    u32::from(member.backend.weight() == 0) << 8 | u32::from(member.tier)
}

/// As [`heir`], but `rank` says who comes before whom, lowest first; `None` is out. Scores decide among equals.
pub fn heir_of_rank(
    pin_id: u64,
    members: &[Member],
    home: Option<usize>,
    rank: impl Fn(usize, &Member) -> Option<u32>,
) -> Option<usize> {
    let pin = mix(pin_id);
    let mut best: Option<(Score, usize)> = None;
    for (index, member) in members.iter().enumerate() {
        if Some(index) == home {
            continue;
        }
        let Some(rank) = rank(index, member) else { continue };
        let bound = best.as_ref().map(|(score, _)| score);
        let score = Score::of(pin, rank, member.backend.stable_hash(), member.backend.weight(), bound);
        if let Some(score) = score {
            best = Some((score, index));
        }
    }
    best.map(|(_, index)| index)
}

/// Lowest first: by rank, then by distance, then, as good as never, by stable hash.
#[derive(PartialEq, PartialOrd)]
struct Score {
    rank: u32,
    distance: f64,
    stable_hash: u64,
}

impl Score {
    /// The score of one member, when it is better than the best so far.
    fn of(pin: u64, rank: u32, stable_hash: u64, weight: u32, best: Option<&Self>) -> Option<Self> {
        let weight = f64::from(weight.max(1));
        // 52 bits and a half: exact in an f64, and never 0 or 1.
        let u = ((mix(pin ^ stable_hash) >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
        // 1 − u is at most −ln(u), so most members have lost before the logarithm.
        let is_beaten = |best: &Self| best.rank < rank || (best.rank == rank && 1.0 - u > best.distance * weight);
        if best.is_some_and(is_beaten) {
            return None;
        }
        let score = Self { rank, distance: -u.ln() / weight, stable_hash };
        best.is_none_or(|best| score < *best).then_some(score)
    }
}

/// Every bit of the result depends on every bit of the argument. Source: the output function of SplitMix64; Steele, Lea
/// and Flood, "Fast Splittable Pseudorandom Number Generators", 2014.
pub(crate) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::testing::{golden, weighted};

    /// Pins whose first preference is member `home`.
    fn pins_of(home: usize, members: &[Member]) -> impl Iterator<Item = u64> {
        (0..).map(|n| mix(n ^ 0x5eed)).filter(move |&pin| heir(pin, members, None, |_, _| true) == Some(home))
    }

    /// One line each: pin id in hex, home or `-`, heir or `-`, pool, then `name=weight` of those available.
    #[test]
    fn replicas_agree_on_the_golden_heirs() {
        let mut checked = 0;
        for line in include_str!("../../tests/golden/heir.txt").lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            let mut word = || words.next().expect("a pin, a home, an heir and a pool");
            let (pin, home, expected, pool) = (word(), word(), word(), word());
            let members = golden(pool, words);
            let home = members.iter().position(|member| &*member.backend.id().name == home);
            let pin = u64::from_str_radix(pin, 16).expect("a pin in hex");
            let found = heir(pin, &members, home, |_, _| true).map(|heir| &*members[heir].backend.id().name);
            assert_eq!(found.unwrap_or("-"), expected, "{line}");
            checked += 1;
        }
        assert!(checked >= 40, "{checked} vectors");
    }

    #[test]
    fn nobody_available_means_no_heir() {
        let members = weighted(&[1, 1]);
        assert_eq!(heir(1, &[], None, |_, _| true), None);
        assert_eq!(heir(1, &members, Some(0), |index, _| index == 0), None);
    }

    #[test]
    fn weight_0_inherits_only_when_nobody_else_can() {
        let members = weighted(&[0, 0, 0, 1]);
        let mut heirs = [0; 4];
        for pin in 0..600 {
            assert_eq!(heir(pin, &members, None, |_, _| true), Some(3));
            heirs[heir(pin, &members, Some(3), |_, _| true).expect("three are left")] += 1;
        }
        assert!(heirs[..3].iter().all(|&pins| (150..=250).contains(&pins)), "{heirs:?}");
    }

    #[test]
    fn a_backend_that_leaves_moves_its_own_pins_and_no_others() {
        let members = weighted(&[1, 2, 3, 4, 5]);
        for pin in 0..20_000 {
            let before = heir(pin, &members, None, |_, _| true);
            let after = heir(pin, &members, None, |index, _| index != 2);
            assert!(before == after || before == Some(2), "pin {pin}");
        }
    }

    #[test]
    fn a_changed_weight_moves_pins_to_or_from_that_backend_only() {
        let members = weighted(&[5, 5, 5, 5]);
        let heirs = || (0..20_000).map(|pin| heir(pin, &members, None, |_, _| true)).collect::<Vec<_>>();
        let before = heirs();
        members[1].backend.set_file_weight(9);
        let raised = heirs();
        assert!(before.iter().zip(&raised).all(|(from, to)| from == to || *to == Some(1)));
        members[1].backend.set_file_weight(2);
        let lowered = heirs();
        assert!(raised.iter().zip(&lowered).all(|(from, to)| from == to || *from == Some(1)));
        assert_ne!(raised, lowered);
    }

    #[test]
    fn the_order_of_members_does_not_matter() {
        let members = weighted(&[1, 0, 3, 1, 1]);
        let reversed: Vec<Member> = members.iter().rev().cloned().collect();
        for pin in 0..5_000 {
            let one = heir(pin, &members, Some(2), |_, _| true);
            let other = heir(pin, &reversed, Some(2), |_, _| true);
            assert_eq!(one.map(|index| 4 - index), other, "pin {pin}");
        }
    }

    /// Pins are placed by chance, so the count of a survivor has a binomial spread: the bound is 4.5 standard deviations
    /// of it. That is what any hash gives; at 64 orphans over three survivors a share of 21 is then within ± 17.
    #[test]
    fn orphans_spread_over_the_survivors_in_proportion_to_weight() {
        for (weights, orphans) in
            [(vec![1; 4], 64), (vec![1, 1, 2, 4], 64), (vec![1; 11], 10_000), (vec![3, 1, 2, 4], 10_000)]
        {
            let members = weighted(&weights);
            let mut counts = vec![0_u32; weights.len()];
            for pin in pins_of(0, &members).take(orphans) {
                counts[heir(pin, &members, Some(0), |_, _| true).expect("survivors")] += 1;
            }
            let survivors: u32 = weights[1..].iter().sum();
            assert_eq!(counts[0], 0);
            for (weight, count) in weights.iter().zip(&counts).skip(1) {
                let share = f64::from(*weight) / f64::from(survivors);
                let (due, spread) = (orphans as f64 * share, (orphans as f64 * share * (1.0 - share)).sqrt());
                assert!((f64::from(*count) - due).abs() <= 4.5 * spread, "{count} of {due} under {weights:?}");
            }
        }
    }

    /// 64 pins at each backend, then one of them dies; 200 times for each size of pool. Orphans fall by chance, so no bound
    /// holds for certain. Bounds: nine deaths in ten leave nobody above 1.10 × the survivors' average, and none above 1.25.
    #[test]
    fn a_survivor_is_seldom_overrun() {
        for size in [3, 4, 6, 10, 20] {
            let members = weighted(&vec![1; size]);
            let average = 64.0 * size as f64 / (size - 1) as f64;
            let mut pins = pins_of(0, &members);
            let peaks: Vec<f64> = (0..200)
                .map(|_| {
                    let mut loads = vec![64_u32; size];
                    for pin in pins.by_ref().take(64) {
                        loads[heir(pin, &members, Some(0), |_, _| true).expect("survivors")] += 1;
                    }
                    f64::from(*loads[1..].iter().max().expect("survivors")) / average
                })
                .collect();
            let within = peaks.iter().filter(|peak| **peak <= 1.10).count();
            let worst = peaks.iter().copied().fold(0.0, f64::max);
            println!("{size} backends: {within} of 200 deaths within 1.10, at worst {worst:.3}");
            assert!(within >= 180 && worst <= 1.25, "{size} backends: {within} of 200, at worst {worst}");
        }
    }
}
