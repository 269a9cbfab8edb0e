//! What a decision costs, without any I/O: picking a backend for a new client, finding a key's
//! home, making the tables for that, and naming a pin's heir.

#![allow(missing_docs, reason = "criterion_group! makes a public function without one")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use fastrand::Rng;
use stickpin::config::{Balance, HomeHash};
use stickpin::pool::active_pins::{ActivePins, Moment, estimate};
use stickpin::pool::latency::Outcome;
use stickpin::pool::{BackendId, Evidence, Member, Registry, Thresholds, heir};
use stickpin::proxy::balance::hash::Homes;
use stickpin::proxy::balance::{Balancer, Tried};
use tokio::time::Instant;

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];

/// Healthy backends of weights 1 to 4.
fn members(size: usize) -> Vec<Member> {
    let (registry, now) = (Registry::new(1), Instant::now());
    let thresholds = Thresholds { healthy_after: 1, unhealthy_after: 1 };
    let member = |index: usize| {
        let id = BackendId { pool: Arc::from("shop"), name: Arc::from(format!("app{index}")) };
        let backend = registry.backend(&id, now);
        backend.observe(Evidence::ProbeOk, thresholds, now);
        backend.set_file_weight(1 + index as u32 % 4);
        let address = ([127, 0, 0, 1], 9000).into();
        let (probe_address, sends_proxy_protocol) = (None, false);
        Member { backend, address, probe_address, sends_proxy_protocol, max_pins: None, tier: 0 }
    };
    (0..size).map(member).collect()
}

fn pick(criterion: &mut Criterion) {
    let algorithms = [
        ("least_pins", Balance::LeastPins),
        ("least_requests", Balance::LeastRequests),
        ("peak_ewma", Balance::PeakEwma),
        ("random", Balance::Random),
        ("round_robin", Balance::RoundRobin),
        ("two_choices", Balance::TwoChoices),
    ];
    for (name, balance) in algorithms {
        let mut group = criterion.benchmark_group(format!("pick/{name}"));
        for size in SIZES {
            let members = members(size);
            let mut balancer = Balancer::new(balance, &members, 0);
            let (mut rng, tried, now) = (Rng::with_seed(1), Tried::default(), Instant::now());
            let took = |number: usize| Duration::from_millis(5 + number as u64 % 20);
            members
                .iter()
                .enumerate()
                .for_each(|(number, member)| member.backend.note_latency(took(number), Outcome::Replied, now));
            group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
                bencher.iter(|| balancer.pick(black_box(&members), &tried, &mut rng, now));
            });
        }
    }
}

const HASHES: [HomeHash; 3] = [HomeHash::Rendezvous, HomeHash::Maglev, HomeHash::Ring];

fn find_home(criterion: &mut Criterion) {
    for hash in HASHES {
        let mut group = criterion.benchmark_group(format!("home/{hash}"));
        for size in SIZES {
            let members = members(size);
            let homes = Homes::new(hash, &members);
            let mut rng = Rng::with_seed(1);
            group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
                bencher.iter(|| homes.home(rng.u64(..), black_box(&members)));
            });
        }
    }
}

fn make_table(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("table");
    group.sample_size(10);
    for hash in [HomeHash::Maglev, HomeHash::Ring] {
        for size in SIZES {
            let members = members(size);
            group.bench_function(BenchmarkId::new(hash.as_str(), size), |bencher| {
                bencher.iter(|| Homes::new(hash, black_box(&members)));
            });
        }
    }
}

fn note_latency(criterion: &mut Criterion) {
    let (members, start) = (members(1), Instant::now());
    let mut micros = 0;
    criterion.bench_function("note_latency", |bencher| {
        bencher.iter(|| {
            micros += 100;
            let now = start + Duration::from_micros(micros);
            members[0].backend.note_latency(black_box(Duration::from_millis(micros % 30)), Outcome::Replied, now);
        });
    });
}

fn name_heir(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("heir");
    for size in SIZES {
        let members = members(size);
        let mut rng = Rng::with_seed(1);
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                heir(rng.u64(..), black_box(&members), Some(0), |_, member| {
                    member.backend.standing().is_available_for_pinned()
                })
            });
        });
    }
}

fn count_pins(criterion: &mut Criterion) {
    let shards: [ActivePins; 4] = std::array::from_fn(|_| ActivePins::new());
    let now = Moment::new(Duration::from_secs(3600), Duration::from_secs(1800));
    let mut rng = Rng::with_seed(1);
    let mut group = criterion.benchmark_group("active_pins");
    group.bench_function("record", |bencher| bencher.iter(|| shards[0].record(rng.u64(..100_000), black_box(now))));
    shards.iter().for_each(|shard| (0..100_000).for_each(|pin| shard.record(pin, now)));
    group.bench_function("estimate/4 workers", |bencher| bencher.iter(|| estimate(black_box(&shards), now)));
}

criterion_group!(benches, pick, note_latency, find_home, make_table, name_heir, count_pins);
criterion_main!(benches);
