//! Keys that come and stay, played without a socket.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use super::super::{Arrival, Crowd, Next, Visit, pin_owner};
use crate::config::Config;
use crate::pool::{Evidence, Failure, Registry, Thresholds};
use crate::proxy::affinity::KeyRing;
use crate::proxy::balance::{Balancer, Tried};
use crate::proxy::snapshot::{Lasting, Snapshot};
use crate::telemetry::words::Placement;

const ONCE: Thresholds = Thresholds { healthy_after: 1, unhealthy_after: 1 };
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const OLD: &str = "000102030405060708090a0b0c0d0e0f";
const NEW: &str = "f0e1d2c3b4a5968778695a4b3c2d1e0f";
const IDLE: u32 = 30 * 60;

/// One replica in front of nothing.
struct Replica {
    balance: &'static str,
    bounded_load: &'static str,
    lasting: Lasting,
    snapshot: Snapshot,
    now: Instant,
    wall: u32,
}

type Weights<'a> = &'a [(&'a str, u32)];

fn snapshot((balance, bounded_load): (&str, &str), weights: Weights<'_>, ring: &str, lasting: &Lasting) -> Snapshot {
    let backends: Vec<String> = weights
        .iter()
        .enumerate()
        .map(|(port, (name, weight))| {
            format!("{{ name: {name}, weight: {weight}, address: 127.0.0.1:{} }}", 20_000 + port)
        })
        .collect();
    let text = format!(
        "listeners: [127.0.0.1:0]\npools: {{ shop: {{ balance: {balance}, affinity: {{ hash: {{ keys: [{{ header: X-User }}], \
         bounded_load: {bounded_load} }} }}, backends: [{}] }} }}",
        backends.join(", ")
    );
    let config = Config::parse("test.yaml", &text).unwrap_or_else(|problems| panic!("{problems}"));
    Snapshot::new(&config, &KeyRing::parse(ring).expect("a ring"), lasting, 1, Instant::now())
}

impl Replica {
    fn new(balance: &'static str, bounded_load: &'static str, weights: Weights<'_>) -> Self {
        Self::sharing(&Lasting::for_tests(&Arc::new(Registry::new(1))), balance, bounded_load, weights)
    }

    /// Another one that keeps its pins where the first does.
    fn sharing(lasting: &Lasting, balance: &'static str, bounded_load: &'static str, weights: Weights<'_>) -> Self {
        let own = Lasting::for_tests(&Arc::new(Registry::new(1)));
        let lasting = Lasting { stores: Arc::clone(&lasting.stores), ..own };
        let snapshot = snapshot((balance, bounded_load), weights, OLD, &lasting);
        let replica = Self { balance, bounded_load, lasting, snapshot, now: Instant::now(), wall: 1_800_000_000 };
        replica.heal_all();
        replica
    }

    fn publish(&mut self, weights: Weights<'_>, ring: &str) {
        self.snapshot = snapshot((self.balance, self.bounded_load), weights, ring, &self.lasting);
        self.heal_all();
    }

    fn heal_all(&self) {
        for member in &self.snapshot.pools[0].members {
            member.backend.observe(Evidence::ProbeOk, ONCE, self.now);
        }
    }

    fn observe(&self, name: &str, evidence: Evidence) {
        let members = &self.snapshot.pools[0].members;
        let member = members.iter().find(|member| *member.backend.id().name == *name).expect("it is there");
        member.backend.observe(evidence, ONCE, self.now);
    }

    fn pass(&mut self, seconds: u32) {
        self.now += Duration::from_secs(seconds.into());
        self.wall += seconds;
    }

    /// Who serves a request with this key, and what that is; `word` is the app's on the pin.
    async fn ask(&self, key: u32, word: Option<&[u8]>) -> (String, Placement) {
        let pool = &self.snapshot.pools[0];
        let mut headers = HeaderMap::new();
        headers.insert("x-user", HeaderValue::from_str(&format!("user-{key}")).expect("a value"));
        let arrival = Arrival { client: &|| CLIENT, headers: &headers, path: "/", path_and_query: "/", now: self.wall };
        let mut visit = Visit::begin(pool, true, arrival);
        if visit.needs_home() {
            visit.take_home(pool, || pin_owner(CLIENT), self.now).await;
        }
        let mut balancer = Balancer::new(pool.settings.balance, &pool.members, 0);
        let next = visit.next(
            pool,
            &mut balancer,
            (&Tried::default(), &Crowd::default()),
            true,
            &mut Rng::with_seed(1),
            self.now,
        );
        let Next::Go(destination) = next else { panic!("{next:?}") };
        visit.served(pool, &destination, self.now, || 42);
        visit.obey(pool, word, false);
        visit.leave(pool, &mut HeaderMap::new(), false, || pin_owner(CLIENT));
        (pool.members[destination.member].backend.id().name.to_string(), destination.placement)
    }

    async fn places(&self, keys: impl IntoIterator<Item = u32>) -> BTreeMap<u32, String> {
        let mut places = BTreeMap::new();
        for key in keys {
            places.insert(key, self.ask(key, None).await.0);
        }
        places
    }

    /// What the control plane does every second.
    fn count(&self) {
        let pool = &self.snapshot.pools[0];
        let Some(store) = pool.pin_store() else { return };
        let counts = store.count_by_home(|record| self.wall.saturating_sub(record.refreshed) <= IDLE);
        for member in &pool.members {
            member.backend.set_active_pins(counts.get(&member.backend.stable_hash()).copied().unwrap_or(0));
        }
    }
}

const HASHES: [&str; 3] = ["rendezvous", "maglev", "ring"];

/// After each new key: the most loaded for its weight has at most so many times the average, and one key more.
#[tokio::test]
async fn nobody_gets_more_than_the_bound_allows_whatever_the_keys() {
    let weights = [("a", 1), ("b", 2), ("c", 3), ("d", 1), ("e", 1)];
    for (balance, bounded_load, ratio) in
        HASHES.iter().flat_map(|balance| [(balance, "on", 1.25), (balance, "1.05", 1.05), (balance, "2", 2.0)])
    {
        let replica = Replica::new(balance, bounded_load, &weights);
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for key in 0..800 {
            let (place, placement) = replica.ask(key, None).await;
            assert_eq!(placement, Placement::Kept);
            *counts.entry(place.clone()).or_default() += 1;
            let weight = weights.iter().find(|(name, _)| *name == place).expect("in the pool").1;
            let share = f64::from(key + 1) * f64::from(weight) / 8.0;
            let found = f64::from(counts[&place]);
            assert!(found < ratio * share + 1.0, "{balance}, {bounded_load}: {found} of {share} after {key}");
        }
        let counted: u64 = {
            replica.count();
            replica.snapshot.pools[0].members.iter().map(|member| member.backend.active_pins()).sum()
        };
        assert_eq!(counted, 800, "the store's own count is the same");
    }
}

#[tokio::test]
async fn without_a_bound_keys_fall_as_they_may_and_nothing_is_remembered() {
    let replica = Replica::new("maglev", "off", &[("a", 1), ("b", 1), ("c", 1), ("d", 1)]);
    let places = replica.places(0..300).await;
    let of_a = places.values().filter(|place| *place == "a").count();
    assert!(replica.snapshot.pools[0].pin_store().is_none());
    let bounded = Replica::new("maglev", "1.05", &[("a", 1), ("b", 1), ("c", 1), ("d", 1)]);
    let moved = bounded.places(0..300).await.iter().filter(|(key, place)| places[key] != **place).count();
    assert!((1..100).contains(&moved), "{moved} of 300 have gone on to the next; a had {of_a}");
}

/// Load shifts: others come, weights change, a backend is added. Whoever is in use stays.
#[tokio::test]
async fn nobody_in_use_is_taken_from_its_backend_because_load_shifts() {
    for balance in HASHES {
        let mut replica = Replica::new(balance, "1.05", &[("a", 1), ("b", 1), ("c", 1)]);
        let before = replica.places(0..200).await;
        replica.places(200..500).await;
        assert_eq!(replica.places(0..200).await, before, "{balance}: others came");
        for weights in [&[("a", 1), ("b", 9), ("c", 1)][..], &[("d", 5), ("c", 1), ("b", 1), ("a", 1)]] {
            replica.publish(weights, OLD);
            replica.count();
            replica.pass(IDLE / 4);
            assert_eq!(replica.places(0..200).await, before, "{balance}: {weights:?}");
        }
        // Only new ones see the new one.
        let after = replica.places(500..600).await;
        assert!(after.values().any(|place| place == "d"), "{balance}");
    }
}

#[tokio::test]
async fn a_key_in_use_stays_in_use_and_an_idle_one_is_new_again() {
    let mut replica = Replica::new("rendezvous", "on", &[("a", 1), ("b", 1)]);
    let before = replica.places(0..100).await;
    replica.publish(&[("a", 1), ("b", 1), ("c", 2)], OLD);
    let in_use: Vec<u32> = (0..50).collect();
    for _ in 0..8 {
        replica.pass(IDLE / 4);
        replica.places(in_use.iter().copied()).await;
    }
    replica.count();
    let counted: u64 = replica.snapshot.pools[0].members.iter().map(|member| member.backend.active_pins()).sum();
    assert_eq!(counted, 50, "the others are idle");
    let after = replica.places(0..100).await;
    assert!(in_use.iter().all(|key| after[key] == before[key]));
    let moved = (50..100).filter(|key| after[key] != before[key]).count();
    // It has half of the weight and nobody yet, and the others have theirs: at least half of the idle ones go there.
    assert!(moved >= 25, "{moved} of 50 idle ones are at the new backend");
}

#[tokio::test]
async fn replicas_that_share_a_store_agree_whoever_is_asked_first() {
    for balance in HASHES {
        let weights = [("a", 1), ("b", 1), ("c", 2)];
        let one = Replica::new(balance, "1.05", &weights);
        // In another order, and by counts of its own that say otherwise.
        let other = Replica::sharing(&one.lasting, balance, "1.05", &[weights[2], weights[0], weights[1]]);
        other.snapshot.pools[0].members[1].backend.set_active_pins(1000);
        for key in 0..300 {
            let (first, second) = if key % 2 == 0 { (&one, &other) } else { (&other, &one) };
            let place = first.ask(key, None).await;
            assert_eq!(second.ask(key, None).await, place, "{balance}, key {key}");
        }
    }
}

/// What a home with room would have been is where it goes when it is no longer in use, not before.
#[tokio::test]
async fn keys_of_a_dead_backend_detour_and_come_back_and_new_ones_live_elsewhere() {
    let replica = Replica::new("maglev", "on", &[("a", 1), ("b", 1), ("c", 1)]);
    let before = replica.places(0..90).await;
    replica.observe("a", Evidence::ProbeFailed(Failure::Refused));
    for (key, place) in &before {
        let (now, placement) = replica.ask(*key, None).await;
        if place == "a" {
            assert!(now != "a" && matches!(placement, Placement::Detour(_)), "key {key}: {now}, {placement:?}");
        } else {
            assert_eq!((&now, placement), (place, Placement::Kept), "key {key}");
        }
    }
    let new = replica.places(90..150).await;
    assert!(new.values().all(|place| place != "a"));
    replica.observe("a", Evidence::ProbeOk);
    assert_eq!(replica.places(0..90).await, before);
    assert_eq!(replica.places(90..150).await, new);
}

#[tokio::test]
async fn a_key_that_is_only_on_a_detour_is_new_once_its_home_was_away_for_long() {
    let mut replica = Replica::new("ring", "on", &[("a", 1), ("b", 1), ("c", 1)]);
    let before = replica.places(0..90).await;
    replica.observe("a", Evidence::ProbeFailed(Failure::Refused));
    for _ in 0..9 {
        replica.pass(IDLE / 8);
        replica.places(0..90).await;
    }
    replica.observe("a", Evidence::ProbeOk);
    let after = replica.places(0..90).await;
    for (key, place) in &before {
        assert!((*place == "a") == (after[key] != *place) && after[key] != "a", "key {key}: {place}, {}", after[key]);
    }
}

#[tokio::test]
async fn keys_of_a_removed_backend_find_another_home_and_stay_there() {
    let mut replica = Replica::new("rendezvous", "on", &[("a", 1), ("b", 1), ("c", 1)]);
    let before = replica.places(0..60).await;
    replica.publish(&[("b", 1), ("c", 1)], OLD);
    let after = replica.places(0..60).await;
    assert!(before.iter().all(|(key, place)| place == "a" || after[key] == *place));
    replica.publish(&[("a", 1), ("b", 1), ("c", 1)], OLD);
    assert_eq!(replica.places(0..60).await, after);
}

#[tokio::test]
async fn keys_in_use_outlive_the_rotation_of_the_ring_and_are_kept_under_one_key() {
    let mut replica = Replica::new("rendezvous", "on", &[("a", 1), ("b", 1)]);
    let before = replica.places(0..50).await;
    replica.publish(&[("a", 1), ("b", 1), ("c", 9)], &format!("{NEW}\n{OLD}"));
    assert_eq!(replica.places(0..50).await, before);
    replica.publish(&[("a", 1), ("b", 1), ("c", 9)], NEW);
    assert_eq!(replica.places(0..50).await, before);
    let pins = replica.snapshot.pools[0].pin_store().expect("it is used").standing().pins;
    assert_eq!(pins, 50, "none is left under the old key");
}

#[tokio::test]
async fn a_released_key_is_a_new_one() {
    let mut replica = Replica::new("rendezvous", "on", &[("a", 1), ("b", 1)]);
    let before = replica.places(0..60).await;
    replica.publish(&[("a", 1), ("b", 1), ("c", 2)], OLD);
    for key in 0..60 {
        assert_eq!(replica.ask(key, Some(b"release")).await.0, before[&key]);
    }
    let after: BTreeSet<String> = replica.places(0..60).await.into_values().collect();
    assert!(after.contains("c"));
}

/// A later tier counted as if it were in service: the first was full at five eighths of what it had, and the rest went to
/// the backends that were to stand by.
#[tokio::test]
async fn a_later_tier_has_no_part_in_the_bound_and_no_key_while_an_earlier_one_serves() {
    for balance in HASHES {
        let mut replica = Replica::new(balance, "1.25", &[("a", 1), ("b", 1)]);
        let text = "listeners: [127.0.0.1:0]\npools: { shop: { balance: BALANCE, affinity: { hash: { keys: [{ header: X-User }], \
                    bounded_load: 1.25 } }, backends: [{ name: a, address: 127.0.0.1:1 }, { name: b, address: 127.0.0.1:2 }, \
                    { name: c, address: 127.0.0.1:3, tier: 1 }, { name: d, address: 127.0.0.1:4, tier: 1 }] } }"
            .replace("BALANCE", balance);
        let config = Config::parse("test.yaml", &text).unwrap_or_else(|problems| panic!("{problems}"));
        replica.snapshot =
            Snapshot::new(&config, &KeyRing::parse(OLD).expect("a ring"), &replica.lasting, 1, Instant::now());
        replica.heal_all();
        let served = |places: &BTreeMap<u32, String>| places.values().cloned().collect::<BTreeSet<_>>();
        let first = replica.places(0..400).await;
        assert_eq!(served(&first), ["a", "b"].map(str::to_owned).into(), "{balance}");
        for name in ["a", "b"] {
            replica.observe(name, Evidence::ProbeFailed(Failure::Silent));
        }
        let second = replica.places(400..800).await;
        assert_eq!(served(&second), ["c", "d"].map(str::to_owned).into(), "{balance}");
    }
}

/// It got its whole share of new keys at once, as though it were warm. Bound: five standard deviations of 200 keys.
#[tokio::test]
async fn a_warming_backend_gets_a_part_of_its_share_of_new_keys() {
    for balance in HASHES {
        let mut replica = Replica::new(balance, "2", &[("a", 1), ("b", 1)]);
        let text =
            "listeners: [127.0.0.1:0]\npools: { shop: { balance: BALANCE, slow_start: 100s, affinity: { hash: { keys: \
                    [{ header: X-User }], bounded_load: 2 } }, backends: [{ name: a, address: 127.0.0.1:1 }, \
                    { name: b, address: 127.0.0.1:2 }] } }"
                .replace("BALANCE", balance);
        let config = Config::parse("test.yaml", &text).unwrap_or_else(|problems| panic!("{problems}"));
        replica.pass(1000);
        replica.snapshot =
            Snapshot::new(&config, &KeyRing::parse(OLD).expect("a ring"), &replica.lasting, 1, replica.now);
        replica.observe("a", Evidence::ProbeFailed(Failure::Silent));
        replica.observe("a", Evidence::ProbeOk);
        let places = replica.places(0..200).await;
        let at_warming = places.values().filter(|place| *place == "a").count();
        assert!((1..28).contains(&at_warming), "{balance}: {at_warming} of 200");
        replica.pass(100);
        let places = replica.places(200..400).await;
        let at_warm = places.values().filter(|place| *place == "a").count();
        assert!(at_warm > 64, "{balance}: {at_warm} of 200");
    }
}
