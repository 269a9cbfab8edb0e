//! What probing ten thousand backends every two seconds costs the control plane: processor time of its thread.
//!
//! Run `cargo bench --bench probes`; half a minute. The backends are as many loopback addresses with one server behind
//! them, on a thread of its own. Compared are the kinds of probes; the looks at their traffic come on top.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use stickpin::config::Config;
use stickpin::control::health;
use stickpin::drain;
use stickpin::pins::Stores;
use stickpin::pool::Registry;
use stickpin::proxy::affinity::KeyRing;
use stickpin::proxy::snapshot::{Lasting, Published, Snapshot};
use tokio::time::{Instant, sleep};

const BACKENDS: usize = 10_000;

/// Long enough for several rounds.
const MEASURED: Duration = Duration::from_secs(10);

static ANSWERED: AtomicU64 = AtomicU64::new(0);

fn main() {
    // `cargo test --benches` and `cargo bench -- --list` only want to know that it is there.
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    let port = serve();
    for (kind, settings) in [("tcp", "tcp: { interval: 2s }"), ("http", "http: { interval: 2s }")] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (probes, busy, longest) = runtime.block_on(measure(settings, port));
        let seconds = MEASURED.as_secs_f64();
        println!(
            "{kind:4} {BACKENDS} backends at 2 s: {:6.0} probes/s, {:5.1} % of one processor, {:4.1} µs a probe, \
             at most {longest} in 10 ms",
            probes as f64 / seconds,
            busy.as_secs_f64() / seconds * 100.0,
            busy.as_secs_f64() * 1e6 / probes.max(1) as f64,
        );
    }
}

/// Probes made, processor time of this thread, and most probes within 10 ms, once all backends are known.
async fn measure(settings: &str, port: u16) -> (u64, Duration, u64) {
    let backends: Vec<_> =
        (0..BACKENDS).map(|n| format!("\"127.{}.{}.{}:{port}\"", 1 + n / 40_000, n / 200, 1 + n % 200)).collect();
    let yaml = format!(
        "listeners: [127.0.0.1:0]\npools: {{ shop: {{ health: {{ {settings} }}, backends: [{}] }} }}",
        backends.join(", ")
    );
    let config = Config::parse("bench.yaml", &yaml).expect("a valid file");
    let lasting = Lasting {
        registry: Arc::new(Registry::new(1)),
        stores: Arc::new(Stores::start(&config.pin_store).expect("a store in memory")),
        gates: Arc::default(),
        told: Lasting::nothing_told(),
        tables: Arc::default(),
        tls_clients: Arc::default(),
    };
    let snapshot = Snapshot::new(&config, &KeyRing::from_random([1; 16]), &lasting, 1, Instant::now());
    let published = Arc::new(Published::new(snapshot));
    let (trigger, watcher) = drain::new();
    let probing = tokio::spawn(health::run(Arc::clone(&published), Arc::default(), watcher));
    while !health::settled(&published) {
        sleep(Duration::from_millis(100)).await;
    }
    // One interval more, so that the first probes are spread.
    sleep(Duration::from_secs(3)).await;
    let (busy, end) = (processor_time(), Instant::now() + MEASURED);
    let before = ANSWERED.load(Relaxed);
    let (mut last, mut longest) = (before, 0);
    while Instant::now() < end {
        let tick = Instant::now();
        sleep(Duration::from_millis(10)).await;
        let now = ANSWERED.load(Relaxed);
        // Ticks that the machine itself stretched tell nothing.
        if tick.elapsed() < Duration::from_millis(15) {
            longest = longest.max(now - last);
        }
        last = now;
    }
    let measured = (ANSWERED.load(Relaxed) - before, processor_time() - busy, longest);
    trigger.stop();
    probing.abort();
    measured
}

/// Answers every connection, and every request on one; gives its port.
fn serve() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a free port");
    let port = listener.local_addr().expect("a bound socket").port();
    thread::spawn(move || {
        let mut buffer = [0; 1024];
        for mut stream in listener.incoming().flatten() {
            ANSWERED.fetch_add(1, Relaxed);
            // A probe by TCP is gone already, and read as the end.
            if stream.read(&mut buffer).is_ok_and(|read| read > 0) {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        }
    });
    port
}

/// Of the calling thread, by the kernel's own count.
fn processor_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux has it");
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("a number");
    Duration::from_nanos(nanos)
}
