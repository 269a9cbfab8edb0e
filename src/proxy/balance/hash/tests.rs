//! What is true of every way to hash, and what each way costs when the pool changes.

use std::collections::HashSet;
use std::sync::Arc;

use fastrand::Rng;
use tokio::time::Instant;

use super::super::testing::{State, pool};
use super::bounded::Bound;
use super::*;
use crate::pool::{AdminState, testing};

const ALL: [HomeHash; 3] = [HomeHash::Rendezvous, HomeHash::Maglev, HomeHash::Ring];

const GOLDEN: [(HomeHash, &str); 2] = [
    (HomeHash::Maglev, include_str!("../../../../tests/golden/maglev.txt")),
    (HomeHash::Ring, include_str!("../../../../tests/golden/ring.txt")),
];

fn equal(backends: usize) -> Vec<Member> {
    pool(&vec![State::healthy(1); backends])
}

/// Weights 1 to 4 in turn.
fn unequal(backends: usize) -> Vec<Member> {
    let weights: Vec<State> = (0..backends as u32).map(|number| State::healthy(1 + number % 4)).collect();
    pool(&weights)
}

/// The stable hashes of the homes of so many keys: who that is, whatever its place in the pool.
fn homes(hash: HomeHash, members: &[Member], keys: usize) -> Vec<u64> {
    let homes = Homes::new(hash, members);
    let mut rng = Rng::with_seed(61);
    let home = |key| members[homes.home(key, members).expect("somebody is there")].backend.stable_hash();
    (0..keys).map(|_| home(rng.u64(..))).collect()
}

#[test]
fn replicas_agree_on_the_golden_homes() {
    for (hash, golden) in GOLDEN {
        let mut checked = 0;
        let mut current: Option<(Vec<Member>, Homes)> = None;
        for line in golden.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split(' ').collect();
            if let ["pool", name, ref backends @ ..] = words[..] {
                let members = testing::golden(name, backends.iter().copied());
                let homes = Homes::new(hash, &members);
                current = Some((members, homes));
                continue;
            }
            let [key, expected] = words[..] else { panic!("{line}") };
            let (members, homes) = current.as_ref().expect("a pool comes first");
            let key = u64::from_str_radix(key, 16).expect("a key in hex");
            let home = homes.home(key, members).expect("somebody is there");
            assert_eq!(&*members[home].backend.id().name, expected, "{hash}, {line}");
            checked += 1;
        }
        assert!(checked >= 100, "{checked} vectors of {hash}");
    }
}

/// Keys fall by chance, and the points of a ring do: bounds are 4.5 standard deviations of the keys; with a ring, of the
/// points as well; with maglev, one slot more.
#[test]
fn shares_follow_the_weights() {
    const KEYS: usize = 100_000;
    let heavy = [1, 2, 5, 12, 1000].map(State::healthy);
    for members in [pool(&heavy), equal(3), equal(100), unequal(20), unequal(600)] {
        let weights: u64 = members.iter().map(|member| u64::from(member.backend.weight())).sum();
        // Linear in the pool, and not made of a table that could be too small for a large one.
        let is_small = members.len() <= 20;
        for hash in ALL.into_iter().filter(|hash| is_small || *hash != HomeHash::Rendezvous) {
            let mut counts: HashMap<u64, usize> = HashMap::new();
            homes(hash, &members, KEYS).into_iter().for_each(|home| *counts.entry(home).or_default() += 1);
            for member in &members {
                let share = f64::from(member.backend.weight()) / weights as f64;
                let found = *counts.get(&member.backend.stable_hash()).unwrap_or(&0) as f64 / KEYS as f64;
                let of_keys = 4.5 * (share * (1.0 - share) / KEYS as f64).sqrt();
                let of_the_table = match hash {
                    HomeHash::Rendezvous => 0.0,
                    HomeHash::Maglev => 1.0 / if members.len() <= 512 { 65_537.0 } else { 655_373.0 },
                    HomeHash::Ring => {
                        let all = 1024.0 * members.len() as f64;
                        4.5 * (share * (1.0 - share) / all).sqrt() + 1.0 / all
                    }
                };
                let off = (found - share).abs();
                assert!(off <= of_keys + of_the_table, "{hash}: {found} for {share}, of {} backends", members.len());
            }
        }
    }
}

#[test]
fn neither_the_order_of_members_nor_their_state_matters() {
    for members in [unequal(20), pool(&[0, 3, 1, 0, 1].map(State::healthy))] {
        let turned: Vec<Member> = members.iter().rev().cloned().collect();
        for hash in ALL {
            let before = homes(hash, &members, 2_000);
            assert_eq!(homes(hash, &turned, 2_000), before, "{hash}");
            members[1].backend.set_admin_state(AdminState::Disabled, None, Instant::now());
            assert_eq!(homes(hash, &members, 2_000), before, "{hash}");
            members[1].backend.set_admin_state(AdminState::Enabled, None, Instant::now());
        }
    }
}

#[test]
fn weight_0_has_keys_only_when_nobody_else_can_have_them() {
    for hash in ALL {
        let members = pool(&[0, 0, 5].map(State::healthy));
        let last = members[2].backend.stable_hash();
        assert!(homes(hash, &members, 1_000).iter().all(|home| *home == last), "{hash}");
        let members = pool(&[0, 0, 0].map(State::healthy));
        let found: HashSet<u64> = homes(hash, &members, 1_000).into_iter().collect();
        assert_eq!(found.len(), 3, "{hash}");
        assert_eq!(Homes::new(hash, &[]).home(7, &[]), None, "{hash}");
    }
}

/// How many keys have another home without the last member than with it, as a multiple of those that must; and whether
/// all others stayed. A backend that comes moves the same keys the other way.
fn moved(hash: HomeHash, members: &[Member], keys: usize) -> (f64, bool) {
    let (last, rest) = members.split_last().expect("a member");
    let last = last.backend.stable_hash();
    let (with, without) = (homes(hash, members, keys), homes(hash, rest, keys));
    let its_own = with.iter().filter(|home| **home == last).count();
    let moved = with.iter().zip(&without).filter(|(with, without)| with != without).count();
    (moved as f64 / its_own as f64, moved == its_own)
}

#[test]
fn a_backend_that_comes_or_goes_moves_the_least_under_rendezvous() {
    for members in [equal(2), equal(10), unequal(10), unequal(100)] {
        assert_eq!(moved(HomeHash::Rendezvous, &members, 20_000), (1.0, true));
    }
}

#[test]
fn it_moves_the_least_under_ring_where_weights_are_equal_and_less_than_twice_that_elsewhere() {
    for backends in [2, 10, 100, 1_000] {
        assert_eq!(moved(HomeHash::Ring, &equal(backends), 20_000), (1.0, true), "{backends} backends");
    }
    for members in [unequal(10), unequal(100), equal(2_000), pool(&[1, 1, 1000].map(State::healthy))] {
        let (times, _) = moved(HomeHash::Ring, &members, 200_000);
        println!("ring, {} backends: {times:.2} times the least", members.len());
        assert!(times <= 2.3, "{times} times, of {} backends", members.len());
    }
}

/// Bounds: what is measured here, and a quarter more.
#[test]
fn it_moves_a_few_more_under_maglev() {
    for (members, most) in [
        (equal(3), 1.25),
        (equal(10), 1.3),
        (equal(100), 1.9),
        (unequal(100), 1.9),
        (equal(500), 6.8),
        (equal(1_000), 5.0),
    ] {
        let (times, _) = moved(HomeHash::Maglev, &members, 100_000);
        println!("maglev, {} backends: {times:.2} times the least", members.len());
        assert!(times <= most, "{times} times, of {} backends", members.len());
    }
}

/// One of ten gets half as much again: 4.3 % of all keys have to move. Bounds: what is measured here, and a quarter more.
#[test]
fn a_changed_weight_moves_little() {
    const KEYS: usize = 50_000;
    for (hash, most) in [(HomeHash::Rendezvous, 1.1), (HomeHash::Ring, 2.2), (HomeHash::Maglev, 1.3)] {
        let members = pool(&[State::healthy(100); 10]);
        let before = homes(hash, &members, KEYS);
        members[3].backend.order_weight(Some(150), Instant::now());
        let after = homes(hash, &members, KEYS);
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count() as f64 / KEYS as f64;
        let least = 150.0 / 1050.0 - 100.0 / 1000.0;
        println!("{hash}: {:.2} times the least", moved / least);
        assert!(moved / least <= most && moved / least >= 0.9, "{hash}: {} times the least", moved / least);
    }
}

#[test]
fn a_ring_never_takes_more_than_twelve_mebibytes() {
    for (members, most) in [(equal(10), 10 * 12 * 1024), (unequal(3_000), 12 << 20)] {
        let Homes::Ring(ring) = Homes::new(HomeHash::Ring, &members) else { panic!("a ring was asked for") };
        // Numbers of points are rounded.
        assert!(ring.bytes() <= most + members.len() * 12, "{} bytes", ring.bytes());
    }
}

#[test]
fn a_table_is_made_again_only_when_what_it_was_made_of_has_changed() {
    let (tables, shop) = (Tables::default(), Arc::<str>::from("shop"));
    let mut members = unequal(4);
    let ring = |members: &[Member]| match tables.homes(&shop, HomeHash::Ring, members) {
        Homes::Ring(ring) => ring,
        other => panic!("{other:?}"),
    };
    let first = ring(&members);
    members[0].backend.set_admin_state(AdminState::Draining, None, Instant::now());
    members[1].max_pins = Some(7);
    assert!(Arc::ptr_eq(&ring(&members), &first), "nothing that counts has changed");
    members[0].backend.order_weight(Some(9), Instant::now());
    let second = ring(&members);
    assert!(!Arc::ptr_eq(&second, &first), "a weight");
    members.swap(0, 1);
    let third = ring(&members);
    assert!(!Arc::ptr_eq(&third, &second), "members are named by their place");
    members.pop();
    assert!(!Arc::ptr_eq(&ring(&members), &third), "a backend left");
    assert!(matches!(tables.homes(&shop, HomeHash::Maglev, &members), Homes::Maglev(_)));
    tables.retain(&HashSet::new());
    assert!(tables.lock().is_empty());
}

/// Random weights, ratios and keys in use. Whoever is given a new key has at most so many times its part of the average
/// after it, and one key more; and while somebody takes new clients, somebody has room.
#[test]
fn with_a_bound_somebody_always_has_room_and_nobody_goes_beyond() {
    let mut rng = Rng::with_seed(62);
    for round in 0..300 {
        let states: Vec<State> = (0..rng.usize(1..12)).map(|_| State::healthy(rng.u32(0..6))).collect();
        let members = pool(&states);
        let ratio = 1.05 + 3.0 * rng.f64();
        members.iter().for_each(|member| member.backend.set_active_pins(rng.u64(0..40)));
        if members.len() > 2 {
            members[0].backend.set_admin_state(AdminState::Draining, None, Instant::now());
        }
        let in_service: Vec<&Member> =
            members.iter().filter(|member| member.backend.standing().is_available_for_new()).collect();
        let weights: u32 = in_service.iter().map(|member| member.backend.weight()).sum();
        let pins: u64 = in_service.iter().map(|member| member.backend.active_pins()).sum();
        let bound = Bound::new(ratio, &members);
        let with_room: Vec<&&Member> = in_service.iter().filter(|member| bound.has_room(member)).collect();
        assert_eq!(with_room.is_empty(), weights == 0, "round {round}, seed 62");
        for member in with_room {
            let share = (pins + 1) as f64 * f64::from(member.backend.weight()) / f64::from(weights);
            let after = (member.backend.active_pins() + 1) as f64;
            assert!(after < ratio * share + 1.0, "{after} of {share}, round {round}, seed 62");
        }
    }
}
