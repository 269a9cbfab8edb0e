use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use fastrand::Rng;

use super::*;

fn record(home: u64, refreshed: u32) -> Record {
    Record { home, pin: 0, instance: 1, issued: refreshed, refreshed, detour: None }
}

fn never(_: &Record) -> bool {
    false
}

/// The rules of the store, in as few words as they can be said.
struct Model {
    max_pins: usize,
    max_pins_per_owner: usize,
    /// The longest unused first.
    pins: Vec<(PinKey, Record, Owner)>,
    evictions: u64,
}

impl Model {
    fn get(&self, key: PinKey) -> Option<Record> {
        self.pins.iter().find(|pin| pin.0 == key).map(|pin| pin.1)
    }

    fn remove(&mut self, key: PinKey) -> bool {
        let before = self.pins.len();
        self.pins.retain(|pin| pin.0 != key);
        self.pins.len() < before
    }

    fn put(&mut self, key: PinKey, record: Record, owner: Owner, is_expired: impl Fn(&Record) -> bool) -> Put {
        let present = self.pins.iter().position(|pin| pin.0 == key).map(|at| self.pins.remove(at));
        let own: Vec<_> = (0..self.pins.len()).filter(|&at| self.pins[at].2 == owner).collect();
        let expired = || self.pins.iter().take(ASKED).position(|pin| is_expired(&pin.1));
        let owners = || self.pins.iter().map(|pin| pin.2).collect::<HashSet<_>>().len();
        let victim = match () {
            () if own.len() >= self.max_pins_per_owner => Some(own[0]),
            () if self.pins.len() < self.max_pins => None,
            () if expired().is_some() => expired(),
            () if own.len() * owners() > self.pins.len() => Some(own[0]),
            () => Some(0),
        };
        let outcome = match victim.map(|at| self.pins.remove(at)) {
            None if present.is_some() => Put::Replaced,
            None => Put::New,
            Some(victim) if is_expired(&victim.1) => Put::EvictedExpired,
            Some(victim) if victim.2 == owner => Put::EvictedOwn,
            Some(_) => Put::EvictedOther,
        };
        self.evictions += u64::from(matches!(outcome, Put::EvictedOwn | Put::EvictedOther));
        self.pins.push((key, record, owner));
        outcome
    }
}

#[test]
fn the_store_does_what_its_rules_say() {
    // Seed, max_pins, max_pins_per_owner, keys, owners, steps.
    let cases = [
        (1, 1, 1, 5, 2, 2_000),
        (2, 10, 3, 40, 3, 20_000),
        (3, 50, 7, 100, 30, 40_000),
        (4, 50, 50, 100, 5, 40_000),
        (5, 400, 1_000, 1_000, 300, 20_000),
        (6, 1_700, 1_700, 1_700, 700, 8_000),
        (7, 1_600, 50, 5_000, 100, 8_000),
    ];
    for (seed, max_pins, max_pins_per_owner, keys, owners, steps) in cases {
        let mut rng = Rng::with_seed(seed);
        let keys: Vec<_> = (0..keys).map(|_| PinKey(rng.u128(..))).collect();
        let store = Memory::new(max_pins, max_pins_per_owner);
        let mut model = Model { max_pins, max_pins_per_owner, pins: Vec::new(), evictions: 0 };
        for step in 0..steps {
            let key = keys[rng.usize(..keys.len())];
            assert_eq!(store.get(key), model.get(key), "seed {seed}, step {step}");
            if rng.u8(..8) == 0 {
                assert_eq!(store.remove(key), model.remove(key), "seed {seed}, step {step}");
            } else {
                let owner = Owner(rng.u32(..owners));
                // Some are made old already, as what comes from another replica may be.
                let detour = rng.bool().then(|| (rng.u64(..), rng.u32(..)));
                let record = Record { detour, ..record(rng.u64(..), step - rng.u32(..40).min(step)) };
                let is_expired = |record: &Record| record.refreshed + 200 < step;
                let expected = model.put(key, record, owner, is_expired);
                assert_eq!(store.put(key, record, owner, is_expired), expected, "seed {seed}, step {step}");
            }
            assert_eq!(store.len(), model.pins.len(), "seed {seed}, step {step}");
            assert!(store.len() <= max_pins, "seed {seed}, step {step}");
        }
        assert_eq!(store.evictions(), model.evictions, "seed {seed}");
        assert_eq!(store.index.load().len(), model.pins.len(), "seed {seed}: entries of pins that are gone");
        assert!(keys.iter().all(|&key| store.get(key) == model.get(key)), "seed {seed}");
        let mut kept = Vec::new();
        store.for_each(|key, record| kept.push((key, record)));
        kept.sort_by_key(|pin| pin.0.0);
        let mut expected: Vec<_> = model.pins.iter().map(|pin| (pin.0, pin.1)).collect();
        expected.sort_by_key(|pin| pin.0.0);
        assert_eq!(kept, expected, "seed {seed}");
    }
}

#[test]
fn one_client_that_makes_ten_times_its_quota_pushes_out_nobody_else() {
    let mut rng = Rng::with_seed(1);
    // The second store is full before the attacker has its quota.
    for max_pins in [11_000, 10_500] {
        let store = Memory::new(max_pins, 1_000);
        let others: Vec<_> = (0..10_000).map(|owner| (PinKey(rng.u128(..)), Owner(owner))).collect();
        for &(key, owner) in &others {
            assert_eq!(store.put(key, record(1, 1), owner, never), Put::New);
        }
        let attacker = Owner(77_777);
        let outcomes: Vec<_> =
            (0..10_000).map(|_| store.put(PinKey(rng.u128(..)), record(2, 2), attacker, never)).collect();
        let room = (max_pins - 10_000).min(1_000);
        assert!(outcomes[..room].iter().all(|&outcome| outcome == Put::New));
        assert!(outcomes[room..].iter().all(|&outcome| outcome == Put::EvictedOwn));
        assert!(others.iter().all(|&(key, _)| store.get(key).is_some()));
        assert_eq!(store.count_by_home(|_| true), HashMap::from([(1, 10_000), (2, room as u64)]));
        assert_eq!(store.evictions(), (10_000 - room) as u64);
    }
}

#[test]
fn pins_that_go_while_a_larger_index_is_being_filled_are_in_neither() {
    let store = Memory::new(10_000, 10_000);
    let mut was_growing = 0;
    for n in 0..5_000 {
        store.put(PinKey(n), record(1, 1), Owner(1), never);
        if store.lock().larger.is_some() {
            was_growing += 1;
            // One that was copied already, and one that was not.
            for gone in [was_growing, n - 2 * was_growing] {
                assert!(store.remove(PinKey(gone)), "{gone} at {n}");
            }
        }
    }
    assert!(was_growing > 20, "{was_growing}");
    assert!(store.lock().larger.is_none());
    assert_eq!(store.len(), 5_000 - 2 * was_growing as usize);
    assert_eq!(store.index.load().len(), store.len());
}

#[test]
fn in_a_full_store_an_expired_pin_goes_first() {
    let store = Memory::new(100, 100);
    for n in 0..100 {
        store.put(PinKey(n), record(1, 10 + n as u32), Owner(n as u32), never);
    }
    // Not the very longest unused, but one of them.
    let is_expired = |record: &Record| record.refreshed == 15;
    assert_eq!(store.put(PinKey(1000), record(1, 200), Owner(1000), is_expired), Put::EvictedExpired);
    assert_eq!(store.get(PinKey(5)), None);
    assert_eq!((store.len(), store.evictions()), (100, 0));
    assert_eq!(store.put(PinKey(1001), record(1, 200), Owner(1001), is_expired), Put::EvictedOther);
    assert_eq!(store.get(PinKey(0)), None);
    assert_eq!((store.len(), store.evictions()), (100, 1));
}

#[test]
fn a_key_is_claimed_once_however_many_ask_at_once_and_again_when_its_pin_has_expired() {
    let (memory, key) = (Memory::new(100, 100), PinKey(7 << 64));
    for round in 1..=200 {
        let expired = |known: &Record| known.refreshed < round;
        let ready = std::sync::Barrier::new(4);
        let claim = |home| {
            ready.wait();
            memory.claim(key, record(home, round), Owner(1), expired).home
        };
        let claimed: HashSet<u64> = thread::scope(|scope| {
            let claims = [1, 2, 3, 4].map(|home| scope.spawn(move || claim(home)));
            claims.map(|claim| claim.join().expect("it does not panic")).into()
        });
        assert_eq!(claimed.len(), 1, "round {round}: all go by one");
        let known = memory.get(key).expect("it was kept");
        assert_eq!((known.home, known.refreshed), (claimed.into_iter().next().expect("one"), round));
    }
    assert_eq!(memory.len(), 1);
}

#[test]
fn a_pin_that_is_used_again_is_not_the_next_to_go() {
    let store = Memory::new(3, 3);
    for n in 0..3 {
        store.put(PinKey(n), record(1, 1), Owner(n as u32), never);
    }
    assert_eq!(store.put(PinKey(0), record(1, 2), Owner(0), never), Put::Replaced);
    assert_eq!(store.put(PinKey(3), record(1, 2), Owner(3), never), Put::EvictedOther);
    assert_eq!(store.get(PinKey(0)), Some(record(1, 2)));
    assert_eq!(store.get(PinKey(1)), None);
}

#[test]
fn a_pin_that_comes_from_another_address_counts_for_that_one() {
    let (home, mobile) = (Owner(1), Owner(2));
    let store = Memory::new(100, 2);
    store.put(PinKey(1), record(1, 1), home, never);
    store.put(PinKey(2), record(1, 1), home, never);
    store.put(PinKey(3), record(1, 1), mobile, never);
    assert_eq!(store.put(PinKey(1), record(1, 2), mobile, never), Put::Replaced);
    assert_eq!(store.put(PinKey(4), record(1, 2), home, never), Put::New, "its quota has room again");
    // And the other's has none.
    assert_eq!(store.put(PinKey(2), record(1, 3), mobile, never), Put::EvictedOwn);
    assert_eq!(store.get(PinKey(3)), None);
    assert_eq!([1, 2, 4].map(|n| store.get(PinKey(n)).map(|pin| pin.refreshed)), [Some(2), Some(3), Some(2)]);
    assert_eq!(store.len(), 3);
}

#[test]
fn only_active_pins_count_for_a_home() {
    let store = Memory::new(10_000, 10_000);
    for n in 0..5_000 {
        store.put(PinKey(n), record(n as u64 % 3, n as u32), Owner(1), never);
    }
    store.remove(PinKey(4_998));
    let counts = store.count_by_home(|record| record.refreshed >= 4_990);
    assert_eq!(counts, HashMap::from([(0, 2), (1, 4), (2, 3)]));
    assert_eq!(store.count_by_home(never), HashMap::new());
}

/// At its most costly: every owner has one pin.
#[test]
fn a_pin_takes_no_more_than_120_bytes() {
    let mut rng = Rng::with_seed(1);
    let store = Memory::new(1_000_000, 100);
    let empty = store.bytes();
    assert!(empty < 32 * 1024, "{empty} bytes while empty");
    for owner in 0..120_000 {
        store.put(PinKey(rng.u128(..)), record(1, 1), Owner(owner), never);
        let pins = owner as usize + 1;
        if pins.is_multiple_of(5_000) && pins >= 50_000 {
            let each = store.bytes() as f64 / pins as f64;
            assert!(each <= 120.0, "{each} bytes at {pins} pins");
        }
    }
    println!("{} bytes a pin at 120,000", store.bytes() / 120_000);
}

#[test]
fn what_comes_in_place_of_others_takes_no_more_memory() {
    let store = Memory::new(20_000, 100);
    let put = |n: u32| store.put(PinKey(n.into()), record(1, 1), Owner(n), never);
    assert!((0..20_000).all(|n| put(n) == Put::New));
    let full = store.bytes();
    assert!((20_000..100_000).all(|n| put(n) == Put::EvictedOther));
    // The map of owners may make itself room once more.
    assert!(store.bytes() <= full + 20_000 * 21, "{full} bytes became {}", store.bytes());
    assert_eq!((store.len(), store.evictions()), (20_000, 80_000));
}

/// Their hashes are the same, which those of session ids never are.
#[test]
fn pins_that_all_belong_into_the_same_two_buckets_push_out_one_another() {
    let mut rng = Rng::with_seed(1);
    let store = Memory::new(10_000, 10_000);
    let same = |n: u128| PinKey((n << 64) | u128::from((n as u64).rotate_left(32)));
    for n in 0..100 {
        let outcome = store.put(same(n), record(1, n as u32), Owner(1), never);
        assert_eq!(outcome, if n < 32 { Put::New } else { Put::EvictedOther }, "{n}");
        assert_eq!(store.get(same(n)), Some(record(1, n as u32)));
    }
    assert_eq!((store.len(), store.evictions()), (32, 68));
    assert!((68..100).all(|n| store.get(same(n)).is_some()), "the longest unused went");
    for _ in 0..5_000 {
        store.put(PinKey(rng.u128(..)), record(2, 200), Owner(2), never);
    }
    let mut kept = 0;
    store.for_each(|key, record| {
        assert_eq!(store.get(key), Some(record));
        kept += 1;
    });
    assert_eq!(kept, store.len());
    assert_eq!(kept as u64 + store.evictions(), 5_100);
}

/// Every field follows from the key and the time.
fn derived(key: PinKey, refreshed: u32) -> Record {
    let salt = key.0 as u32 ^ refreshed.wrapping_mul(0x9e37_79b9);
    let detour = salt.is_multiple_of(2).then_some((u64::from(salt) << 20, salt.wrapping_add(3)));
    Record {
        home: u64::from(salt) << 10,
        pin: u64::from(salt) << 5,
        instance: salt.wrapping_add(1),
        issued: !salt,
        refreshed,
        detour,
    }
}

#[test]
fn readers_miss_no_pin_and_see_none_torn_while_others_come_and_go() {
    let mut rng = Rng::with_seed(1);
    let stable: Vec<_> = (0..200).map(|_| PinKey(rng.u128(..))).collect();
    let store = Memory::new(40_000, 20_000);
    for &key in &stable {
        store.put(key, derived(key, 0), Owner(1), never);
    }
    let is_over = AtomicBool::new(false);
    let read = |seed: u64| {
        let (mut rng, mut looks) = (Rng::with_seed(seed), 0_u64);
        while !is_over.load(Ordering::Relaxed) {
            let key = stable[rng.usize(..stable.len())];
            let record = store.get(key).expect("it is there all the time");
            assert_eq!(record, derived(key, record.refreshed));
            // One that comes and goes.
            let key = PinKey(rng.u128(..3_000));
            if let Some(record) = store.get(key) {
                assert_eq!(record, derived(key, record.refreshed));
            }
            looks += 1;
            if looks.is_multiple_of(5_000) {
                let mut met = 0;
                store.for_each(|key, record| {
                    assert_eq!(record, derived(key, record.refreshed));
                    met += usize::from(stable.contains(&key));
                });
                assert_eq!(met, stable.len());
            }
        }
        looks
    };
    let write = |seed: u64| {
        let mut rng = Rng::with_seed(seed);
        for step in 1..20_000 {
            // What is overwritten, what comes and goes in slots that are used again, and what makes the store grow.
            let key = stable[rng.usize(..stable.len())];
            store.put(key, derived(key, step), Owner(1), never);
            let key = PinKey(rng.u128(..3_000));
            if rng.bool() {
                store.remove(key)
            } else {
                store.put(key, derived(key, step), Owner(2), never) == Put::New
            };
            if step.is_multiple_of(4) {
                let key = PinKey(rng.u128(..));
                store.put(key, derived(key, step), Owner(3), never);
            }
        }
    };
    thread::scope(|scope| {
        let readers = [11, 12, 13].map(|seed| scope.spawn(move || read(seed)));
        let writers = [21, 22].map(|seed| scope.spawn(move || write(seed)));
        let written = writers.map(|writer| writer.join());
        is_over.store(true, Ordering::Relaxed);
        assert!(written.iter().all(Result::is_ok));
        for reader in readers {
            assert!(reader.join().expect("every look was right") > 0);
        }
    });
    assert!(store.index.load().capacity() > 6_000, "it grew meanwhile");
}
