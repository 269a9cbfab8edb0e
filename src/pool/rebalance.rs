//! Evening out after scale-out: which backends give clients away, which take them, and which client's turn it is.
//!
//! Pure. The control plane gives every backend a [`Role`] each time it has counted active pins; a request whose pin lives
//! at a backend that sheds asks [`is_turn`]. Turns follow from the pin, its home and the wall clock alone, so several
//! replicas agree without talking, and nothing has to be remembered.

use super::heir::mix;

/// What a backend does with healthy pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// Keeps its clients, and gets no others'.
    Settled = 0,
    /// Has too many: its clients move, at the pace of the pool.
    Sheds = 1,
    /// Has fewer than its share: takes clients from those that shed.
    Receives = 2,
}

/// What is known of one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Clients that used their pin there within the idle time.
    pub active_pins: u64,
    /// Its weight; one without weight takes no part.
    pub weight: u32,
    /// In service for new clients; others take no part.
    pub is_in_service: bool,
    /// Of a later tier than the one in use: its share is nothing.
    pub is_of_later_tier: bool,
    /// The role it has.
    pub role: Role,
}

/// Gives each backend its role. O(N).
///
/// Shedding begins when somebody has more than `when_above` times its share, and ends for each where a tenth of that
/// margin is left: within the band nothing moves, and a backend that was added ends up near its share and not just inside
/// the band. It takes two pins above the share to begin and one to go on, or small pools would never come to rest.
///
/// Where an earlier tier is in use, whatever lives on a later one is above its share: it sheds until nobody is left, and
/// those in use receive, or whoever was once moved to a stand-in would stay there for ever.
pub fn roles(loads: &[Load], when_above: f64) -> Vec<Role> {
    let takes_part = |load: &&Load| load.is_in_service && load.weight > 0;
    let has_share = |load: &&Load| takes_part(load) && !load.is_of_later_tier;
    let pins: u64 = loads.iter().filter(takes_part).map(|load| load.active_pins).sum();
    let weight: u64 = loads.iter().filter(has_share).map(|load| u64::from(load.weight)).sum();
    let share = |load: &Load| pins as f64 * f64::from(load.weight) / weight as f64;
    let exceeds = |load: &Load, factor: f64, least: f64| {
        let share = share(load);
        load.active_pins as f64 > share * factor && load.active_pins as f64 - share >= least
    };
    let band = 1.0 + (when_above - 1.0) / 10.0;
    let begins = loads.iter().filter(has_share).any(|load| exceeds(load, when_above, 2.0));
    let goes_on = loads.iter().filter(has_share).any(|load| load.role == Role::Sheds && exceeds(load, band, 1.0));
    let is_uneven = begins || goes_on;
    let stands_in = |load: &Load| takes_part(&load) && load.is_of_later_tier && load.active_pins > 0 && weight > 0;
    let is_stood_in_for = loads.iter().any(stands_in);
    let role = |load: &Load| match () {
        () if stands_in(load) => Role::Sheds,
        () if !has_share(&load) => Role::Settled,
        () if is_uneven && exceeds(load, band, 1.0) => Role::Sheds,
        () if (is_uneven || is_stood_in_for) && (load.active_pins as f64) < share(load) => Role::Receives,
        () => Role::Settled,
    };
    loads.iter().map(role).collect()
}

/// Turns that are looked back at for a client that was away.
const LONGEST_LOOK_BACK: u32 = 64;

/// Whether it became this pin's turn to move between `since`, when it was last used, and `now`, both in seconds of the wall
/// clock. `per_second` is the share of a backend's clients that may move in a second.
///
/// Time goes in slices that are long enough for one in a hundred to move; in each slice every pin draws, by hash.
/// Constant time: 64 slices at the most are looked back at.
pub fn is_turn(pin_id: u64, home: u64, (since, now): (u32, u32), per_second: f64) -> bool {
    let slice = (0.01 / per_second).ceil().clamp(1.0, 86_400.0);
    let share = per_second * slice;
    let slice = slice as u32;
    let last = now / slice;
    let first = (since / slice).saturating_add(1).max(last.saturating_sub(LONGEST_LOOK_BACK - 1));
    let draw = |slice: u32| (mix(pin_id ^ home ^ mix(u64::from(slice))) >> 11) as f64 / (1_u64 << 53) as f64;
    (first..=last).any(|slice| draw(slice) < share)
}

#[cfg(test)]
mod tests {
    use super::*;

    use Role::{Receives, Settled, Sheds};

    fn load(active_pins: u64, role: Role) -> Load {
        Load { active_pins, weight: 1, is_in_service: true, is_of_later_tier: false, role }
    }

    /// Pins and role of each before, and the roles they get.
    type Row = (&'static [(u64, Role)], &'static [Role]);

    #[test]
    fn roles_follow_the_table() {
        let table: &[Row] = &[
            // Scale-out: a third more than the share, and nobody at the new one.
            (&[(133, Settled), (133, Settled), (133, Settled), (0, Settled)], &[Sheds, Sheds, Sheds, Receives]),
            // Inside the band nothing begins…
            (&[(110, Settled), (95, Settled), (95, Settled)], &[Settled, Settled, Settled]),
            // …but what has begun goes on, down to a tenth of the margin.
            (&[(110, Sheds), (95, Receives), (95, Receives)], &[Sheds, Receives, Receives]),
            (&[(102, Sheds), (99, Receives), (99, Receives)], &[Settled, Settled, Settled]),
            // Two pins more than the share are the least that it begins with, and one is the least that it goes on for.
            (&[(31, Sheds), (30, Settled), (29, Receives)], &[Sheds, Settled, Receives]),
            (&[(31, Settled), (30, Settled), (29, Settled)], &[Settled, Settled, Settled]),
            (&[(3, Settled), (1, Settled), (2, Settled)], &[Settled, Settled, Settled]),
            (&[(0, Settled), (0, Settled)], &[Settled, Settled]),
            (&[], &[]),
        ];
        for (before, expected) in table {
            let loads: Vec<_> = before.iter().map(|&(pins, role)| load(pins, role)).collect();
            assert_eq!(roles(&loads, 1.25), *expected, "{before:?}");
        }
    }

    #[test]
    fn weights_make_the_shares_and_whoever_is_out_of_service_takes_no_part() {
        let heavy = Load { weight: 3, ..load(300, Settled) };
        let draining = Load { is_in_service: false, ..load(500, Settled) };
        let pinned_only = Load { weight: 0, ..load(500, Settled) };
        assert_eq!(roles(&[heavy, load(100, Settled), draining, pinned_only], 1.25), [Settled; 4]);
        let light = [Load { weight: 3, ..load(150, Settled) }, load(250, Settled), draining, pinned_only];
        assert_eq!(roles(&light, 1.25), [Receives, Sheds, Settled, Settled]);
    }

    #[test]
    fn a_later_tier_gives_everybody_back_to_the_one_in_use() {
        let later = |active_pins, role| Load { is_of_later_tier: true, ..load(active_pins, role) };
        let table: &[(&[Load], &[Role])] = &[
            (&[load(0, Settled), load(0, Settled), later(90, Settled)], &[Receives, Receives, Sheds]),
            (&[load(44, Receives), load(45, Receives), later(1, Sheds)], &[Receives, Settled, Sheds]),
            (&[load(45, Receives), load(45, Receives), later(0, Sheds)], &[Settled, Settled, Settled]),
            // Whoever has its share already gets no more, and need not give any.
            (&[load(60, Settled), load(30, Settled), later(10, Settled)], &[Settled, Receives, Sheds]),
            // Out of service, or for pinned clients only.
            (&[load(9, Settled), Load { is_in_service: false, ..later(9, Settled) }], &[Settled, Settled]),
            (&[load(9, Settled), Load { weight: 0, ..later(9, Settled) }], &[Settled, Settled]),
        ];
        for (loads, expected) in table {
            assert_eq!(roles(loads, 1.5), *expected, "{loads:?}");
        }
    }

    /// Of 20,000 pins that come back every few seconds, the pace's share has had its turn. Bound: five standard
    /// deviations.
    #[test]
    fn as_many_move_as_the_pace_says() {
        for (per_second, seconds, every) in [(0.01 / 60.0, 600, 7), (0.05, 10, 1), (0.01, 30, 3), (0.002, 200, 20)] {
            let moved = (0..20_000_u64)
                .filter(|pin| {
                    let visits = (0..seconds).step_by(every).map(|at| 1_000_000 + at as u32);
                    visits.clone().zip(visits.skip(1)).any(|visit| is_turn(mix(*pin), 5, visit, per_second))
                })
                .count() as f64;
            let share = 1.0 - (1.0 - per_second).powi(seconds);
            let (due, spread) = (20_000.0 * share, (20_000.0 * share * (1.0 - share)).sqrt());
            // Slices begin and end where the clock says, so up to one more or less may fall into the time.
            let slack = 5.0 * spread + 20_000.0 * 0.011;
            assert!((moved - due).abs() <= slack, "{moved} of {due} at {per_second} in {seconds} s");
        }
    }

    #[test]
    fn a_turn_comes_once_for_every_replica_and_not_in_the_slice_of_the_last_use() {
        let turns: Vec<u32> = (0..1000).filter(|now| is_turn(1, 2, (now - now.min(&1), *now), 0.01)).collect();
        assert!(!turns.is_empty());
        for turn in turns {
            assert!(!is_turn(1, 2, (turn, turn), 0.01), "it was used since");
            assert!(is_turn(1, 2, (turn - 1, turn + 30), 0.01), "it counts for a client that was away");
        }
        assert!(is_turn(1, 2, (0, 1), 1.0), "everybody in a second");
    }
}
