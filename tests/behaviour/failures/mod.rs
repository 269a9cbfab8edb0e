//! What a pool of servers has to survive. Each failure is played under the load of some tens of logged-in clients, who
//! ask without a pause, and is judged by what they saw.
//!
//! Whatever the failure: no `GET` fails, nobody is served another client's session, no session falls back to an older
//! state, and whose home is well notices nothing. What a failure may cost beyond that depends on where sessions live, and
//! each test says it. Sessions in a shared store, unroutable backends and jumping clocks need more than Rust:
//! `tests/real/`.

mod killed;

mod hung;

mod refused;

mod broken_off;

mod slow;

mod flapping;

mod last_one;

mod replaced;

mod descriptors;

use crate::crowd::{Customer, Seen};
use crate::shop::Shop;
use crate::support::{Admin, BackendProcess, StickpinProcess};

/// Three servers, and Stickpin in front of them.
struct Scene {
    backends: [BackendProcess; 3],
    stickpin: StickpinProcess,
    admin: Admin,
}

/// The first of them is the one that fails.
const NAMES: [&str; 3] = ["red", "green", "blue"];

/// Where sessions live, as far as it takes only Rust.
const KINDS: [&str; 3] = ["local", "replicated", "backup"];

impl Scene {
    /// Servers that really keep sessions so. `change` may say more about the pool.
    async fn open(kind: &str, change: impl FnOnce(Shop) -> Shop) -> Self {
        let backends = BackendProcess::cluster(NAMES, &["--sessions", kind]);
        let shop = Shop::of(backends.iter().map(BackendProcess::yaml)).pool(&format!("sessions: {kind}"));
        let stickpin = change(shop).open().await;
        let admin = stickpin.admin();
        Self { backends, stickpin, admin }
    }

    /// How many sessions were counted as lost.
    async fn sessions_lost(&mut self) -> usize {
        self.admin.metric("stickpin_sessions_lost_total", &[]).await as usize
    }

    /// How many pins were counted as moved.
    async fn rehomes(&mut self) -> usize {
        self.admin.metric("stickpin_rehomes_total", &[]).await as usize
    }
}

/// Those at home at this server, and the others. There have to be some of each.
fn parted(customers: Vec<Customer>, home: &str) -> (Vec<Customer>, Vec<Customer>) {
    let (there, others): (Vec<_>, Vec<_>) = customers.into_iter().partition(|customer| customer.home == home);
    assert!(!there.is_empty() && !others.is_empty(), "{} at {home}, {} elsewhere", there.len(), others.len());
    (there, others)
}

/// No failed request, and nothing of what [`assert_sound`] looks for.
#[track_caller]
fn assert_nothing_failed(customers: &[Customer]) {
    for customer in customers {
        assert_eq!(customer.failures(), [""; 0], "{} at home at {}", customer.user, customer.home);
    }
    assert_sound(customers);
}

/// Nobody was served another's session, and no session fell back to an older state.
#[track_caller]
fn assert_sound(customers: &[Customer]) {
    for Customer { user, home, seen, .. } in customers {
        let mut visits = 0;
        for answer in seen.iter().filter_map(Seen::answer) {
            match answer["user"].as_str() {
                None => {}
                Some(served) => {
                    assert_eq!(served, user, "another's session, at home at {home}: {answer}");
                    let now = answer["visits"].as_u64().unwrap_or_default();
                    assert!(now > visits, "{user} at home at {home}: an older state than {visits} visits: {answer}");
                    visits = now;
                }
            }
        }
    }
}

/// Whether some answer came from a server that did not know its session.
fn was_unknown(customer: &Customer) -> bool {
    customer.seen.iter().filter_map(Seen::answer).any(|answer| answer["user"].is_null())
}

/// Whether the last answer came from its session, at this server.
fn ends_logged_in_at(customer: &Customer, server: &str) -> bool {
    let last = customer.seen.last().and_then(Seen::answer);
    last.is_some_and(|answer| answer["served_by"] == *server && answer["user"] == *customer.user)
}

/// Moved once, from its home to another server, and never without its session.
#[track_caller]
fn assert_moved_with_its_session(customer: &Customer) {
    let path = customer.path();
    assert!(path.len() <= 2 && path.last() != Some(&&*customer.home), "{}: {path:?}", customer.user);
    assert!(!was_unknown(customer), "{}: {:?}", customer.user, customer.seen);
}

/// Lost its session with its home, was told so once, and has stayed since where that was.
#[track_caller]
fn assert_lost_once(customer: &Customer) {
    let told = customer.told();
    assert_eq!(told.len(), 1, "{}: {:?}", customer.user, customer.seen);
    assert!(told[0]["session_lost"].is_string(), "{}: {}", customer.user, told[0]);
    assert_eq!(customer.path().last().copied(), told[0]["served_by"].as_str(), "{}", customer.user);
}
