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

mod silent;

mod unavailable;

mod broken_off;

mod slow;

mod flapping;

mod last_one;

mod replaced;

mod descriptors;

use crate::crowd::Customer;
use crate::shop::Shop;
use crate::support::{Admin, BackendProcess, StickpinProcess};
use crate::verdict::{assert_lost_once, assert_moved_with_its_session, assert_nothing_failed, parted};

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

    /// That the end of the first one cost its clients what only it had, once: `local` sessions. Nobody else notices.
    async fn assert_cost_what_only_the_first_had(&mut self, kind: &str, everybody: Vec<Customer>) {
        assert_nothing_failed(&everybody);
        let (orphans, others) = parted(everybody, NAMES[0]);
        others.iter().for_each(Customer::assert_undisturbed);
        let is_local = kind == "local";
        orphans.iter().for_each(if is_local { assert_lost_once } else { assert_moved_with_its_session });
        assert_eq!(self.sessions_lost().await, if is_local { orphans.len() } else { 0 }, "{kind}");
        assert_eq!(self.rehomes().await, orphans.len(), "{kind}");
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
