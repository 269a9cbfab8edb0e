//! What a pin costs a request: finding and stripping its cookie, opening it, and sealing one.
//!
//! Run `cargo bench --bench affinity`, or add `-- --quick` for a first impression. Opening has to stay under 300 ns at
//! 10,000 backends. Nothing here can allocate: pins are opened and sealed in arrays on the stack, and stripping
//! appends to a buffer that already has room.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion};
use http::header::{COOKIE, HeaderMap, HeaderValue};
use stickpin::proxy::affinity::{CookieName, Detour, KeyRing, Limits, Pin, PoolPins};

const NOW: u32 = 1_800_000_000;

const LIMITS: Limits = Limits { idle_timeout: 1800, max_lifetime: 43_200 };

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    open(&mut criterion);
    seal(&mut criterion);
    cookie(&mut criterion);
    criterion.final_summary();
}

fn pins(backends: u32) -> PoolPins {
    let names: Vec<_> = (0..backends).map(|member| format!("app{member}")).collect();
    PoolPins::new(&KeyRing::from_random([7; 16]), "shop", names.iter().map(String::as_str))
}

fn pin(home: u32) -> Pin {
    let id = u64::from(home).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Pin { id, home, instance: 1, issued: NOW - 60, refreshed: NOW - 10, detour: None }
}

fn open(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("open");
    for backends in [10, 1_000, 10_000] {
        let pins = pins(backends);
        // Homes all over the pool, so that the table is read where a cache does not hold it already.
        let tokens: Vec<_> = (0..4096u32).map(|n| pins.seal(&pin(n.wrapping_mul(2_654_435_761) % backends))).collect();
        let mut turn = tokens.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(backends), |bencher| {
            bencher.iter(|| {
                let token = turn.next().expect("a cycle does not end");
                pins.open(black_box(token.as_bytes()), NOW, LIMITS).pin()
            });
        });
    }
    let pins = pins(10_000);
    let foreign = PoolPins::new(&KeyRing::from_random([7; 16]), "other", ["app1"]).seal(&pin(0));
    group.bench_function("forged", |bencher| {
        bencher.iter(|| pins.open(black_box(foreign.as_bytes()), NOW, LIMITS));
    });
    let long = vec![b'A'; 64 * 1024];
    group.bench_function("64 KiB", |bencher| bencher.iter(|| pins.open(black_box(&long), NOW, LIMITS)));
    group.finish();
}

fn seal(criterion: &mut Criterion) {
    let pins = pins(1_000);
    criterion.bench_function("seal", |bencher| bencher.iter(|| pins.seal(black_box(&pin(500)))));
    let detoured = Pin { detour: Some(Detour { to: 7, since: NOW - 5 }), ..pin(500) };
    criterion.bench_function("seal with a detour", |bencher| bencher.iter(|| pins.seal(black_box(&detoured))));
}

fn cookie(criterion: &mut Criterion) {
    let name = CookieName::new("stickpin");
    let token = pins(10).seal(&pin(3));
    let others = "JSESSIONID=0123456789ABCDEF0123456789ABCDEF; _ga=GA1.2.1234567890.1700000000; lang=en; theme=dark";
    let with_ours = HeaderValue::try_from(format!("{others}; stickpin={}", token.as_str())).expect("a valid line");
    let without = HeaderValue::from_static(others);
    for (label, line) in [("with ours", with_ours), ("without ours", without)] {
        let headers = HeaderMap::from_iter([(COOKIE, line.clone())]);
        criterion.bench_function(&format!("find, {label}"), |bencher| {
            bencher.iter(|| name.find(black_box(&headers)).count());
        });
        let mut out = Vec::with_capacity(1024);
        criterion.bench_function(&format!("strip, {label}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                let line = black_box(line.as_bytes());
                if name.contains(line) { name.strip_into(line, &mut out) } else { false }
            });
        });
    }
}
