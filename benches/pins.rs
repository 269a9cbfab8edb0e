//! What a learned pin costs: its memory, and finding and keeping it among a million.
//!
//! Run `cargo bench --bench pins`, or add `-- --quick` for a first impression. A pin may take 120 bytes.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion};
use fastrand::Rng;
use stickpin::pins::{Memory, Owner, PinKey, Record};
use tokio::time::Instant;

const MILLION: usize = 1_000_000;

fn main() {
    measure_filling();
    let mut criterion = Criterion::default().configure_from_args();
    get(&mut criterion);
    put(&mut criterion);
    criterion.final_summary();
}

fn record(refreshed: u32) -> Record {
    Record { home: 1, pin: 0, instance: 1, issued: 1, refreshed, detour: None }
}

/// Computed, so that no table of keys has to be read while the store is measured.
fn key(n: usize) -> PinKey {
    const ODD: u128 = 0xda94_2042_e4dd_58b5_9e37_79b9_7f4a_7c15;
    let x = (n as u128 + 1).wrapping_mul(ODD);
    PinKey((x ^ (x >> 64)).wrapping_mul(ODD))
}

/// With `pins_each` to an owner.
fn fill(store: &Memory, pins: usize, pins_each: usize) -> Duration {
    let mut longest = Duration::ZERO;
    for n in 0..pins {
        let start = Instant::now();
        store.put(key(n), record(n as u32), Owner((n / pins_each) as u32), |_| false);
        longest = longest.max(start.elapsed());
    }
    longest
}

fn measure_filling() {
    for pins_each in [1, 2, 10] {
        let (store, before, start) = (Memory::new(MILLION, 100), resident(), Instant::now());
        let longest = fill(&store, MILLION, pins_each);
        let (took, each) = (start.elapsed() / MILLION as u32, store.bytes() as f64 / MILLION as f64);
        let resident = resident().saturating_sub(before) as f64 / MILLION as f64;
        println!(
            "{MILLION} pins, {pins_each} an owner: {each:.1} bytes a pin ({resident:.1} resident); \
             put {took:?} on average, {longest:?} at most"
        );
        assert!(each <= 120.0, "{each} bytes a pin");
        let start = Instant::now();
        black_box(store.count_by_home(|_| true));
        println!("count_by_home: {:?}", start.elapsed());
    }
}

/// Bytes of memory that the process has now; 0 where the system does not say.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).map_or(0, |pages: usize| pages * 4096)
}

fn get(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("get");
    for pins in [1_000, 100_000, MILLION] {
        let store = Memory::new(MILLION, 100);
        fill(&store, pins, 2);
        // In another order than they came, or the memory would be read in its own order.
        let mut rng = Rng::with_seed(2);
        group.bench_function(BenchmarkId::new("known", pins), |bencher| {
            bencher.iter(|| store.get(black_box(key(rng.usize(..pins)))));
        });
        group.bench_function(BenchmarkId::new("unknown", pins), |bencher| {
            bencher.iter(|| store.get(black_box(key(pins + rng.usize(..pins)))));
        });
    }
}

fn put(criterion: &mut Criterion) {
    let store = Memory::new(MILLION, 100);
    fill(&store, MILLION, 2);
    let mut rng = Rng::with_seed(2);
    criterion.bench_function("put/refresh", |bencher| {
        bencher.iter(|| {
            let n = rng.usize(..MILLION);
            store.put(key(n), record(2), Owner((n / 2) as u32), |_| false)
        });
    });
    criterion.bench_function("put/new into a full store", |bencher| {
        bencher.iter(|| store.put(PinKey(rng.u128(..)), record(3), Owner(rng.u32(..)), |_| false));
    });
}
