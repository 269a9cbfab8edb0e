//! The cascade known from the field: one backend dies, its clients overload the next one, which dies of it, and so on until
//! none is left. It is played with backends that die above a load, once without bounds, to see it happen, and once with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::shop::{Shop, log_in};
use crate::support::{Client, StickpinProcess, until};
use crate::turnstile::Turnstile;

const NAMES: [&str; 4] = ["red", "green", "blue", "gray"];

/// Each backend dies when it has more requests than this at a time.
const BEARABLE: usize = 16;

/// Clients with their home at each, every one of which always has a request under way: with four backends all is well,
/// with three each of them gets 18 or 19.
const CLIENTS: usize = 14;

/// How long a backend takes for a request: long beside everything else, so that the clients really are there.
const PACE: Duration = Duration::from_millis(20);

/// Requests a survivor answers before the test has seen enough.
const ENOUGH: usize = 1_500;

struct Town {
    backends: Vec<Turnstile>,
    stickpin: StickpinProcess,
    clients: Vec<Client>,
}

impl Town {
    /// Every client has its home, and no backend more than its share. Whoever finds that its home has them already goes away;
    /// hardly anybody does, since new clients are placed in turns, so the pins' heirs are spread as they were drawn.
    async fn open(settings: &str) -> Self {
        let mut backends = Vec::new();
        for name in NAMES {
            backends.push(Turnstile::dying_above(name, BEARABLE, PACE).await);
        }
        let shop = Shop::of(backends.iter().map(|backend| backend.yaml(settings))).pool("balance: round_robin");
        let stickpin = shop.pool("queue: { length: 1000, timeout: 20s }").open().await;
        let (mut clients, mut homes) = (Vec::new(), [0; NAMES.len()]);
        while clients.len() < CLIENTS * NAMES.len() {
            let mut client = stickpin.client();
            let home = log_in(&mut client).await;
            let at = NAMES.iter().position(|name| *name == home).expect("it is one of them");
            if homes[at] < CLIENTS {
                homes[at] += 1;
                clients.push(client);
            }
        }
        Self { backends, stickpin, clients }
    }

    fn dead(&self) -> usize {
        self.backends.iter().filter(|backend| backend.is_dead()).count()
    }
}

/// Clients that ask and ask.
struct Rush {
    is_over: Arc<AtomicBool>,
    failed: Arc<AtomicU32>,
    tasks: JoinSet<()>,
}

impl Rush {
    fn begin(clients: Vec<Client>) -> Self {
        let (is_over, failed) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let mut tasks = JoinSet::new();
        for mut client in clients {
            let (is_over, failed) = (Arc::clone(&is_over), Arc::clone(&failed));
            tasks.spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    let reply = client.get("/").await;
                    if reply.is_err() || reply.is_ok_and(|reply| reply.status != 200) {
                        failed.fetch_add(1, Ordering::Relaxed);
                        // Nobody is left, perhaps.
                        tokio::time::sleep(PACE).await;
                    }
                }
            });
        }
        Self { is_over, failed, tasks }
    }

    /// Gives how many requests failed.
    async fn end(self) -> u32 {
        self.is_over.store(true, Ordering::Relaxed);
        self.tasks.join_all().await;
        self.failed.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn without_bounds_one_death_kills_them_all() {
    let mut town = Town::open("").await;
    let rush = Rush::begin(std::mem::take(&mut town.clients));
    until("the clients are there", async || {
        let served: Vec<_> = town.backends.iter().map(Turnstile::served).collect();
        if served.iter().all(|served| *served > 10 * CLIENTS) { Ok(()) } else { Err(served) }
    })
    .await;
    assert_eq!(town.dead(), 0, "all is well while all are there");
    town.backends[0].die().await;
    until("all are dead", async || if town.dead() == NAMES.len() { Ok(()) } else { Err(town.dead()) }).await;
    assert!(rush.end().await > 0);
}

/// The load of a survivor is what it answers, counted by itself from the death on. Chance moves it little: each is either
/// full, or has its own clients and a third of the dead one's, whose heirs were drawn evenly; so the bound of 1.10 leaves
/// room for a machine that is busy with other tests.
#[tokio::test]
async fn with_bounds_the_survivors_of_a_death_bear_its_clients_and_no_request_is_lost() {
    let mut town = Town::open(&format!("max_requests: {}", BEARABLE - 1)).await;
    let rush = Rush::begin(std::mem::take(&mut town.clients));
    until("the clients are there", async || {
        let served: Vec<_> = town.backends.iter().map(Turnstile::served).collect();
        if served.iter().all(|served| *served > 10 * CLIENTS) { Ok(()) } else { Err(served) }
    })
    .await;
    town.backends[0].die().await;
    let before: Vec<usize> = town.backends[1..].iter().map(Turnstile::served).collect();
    let since = || -> Vec<usize> {
        town.backends[1..].iter().zip(&before).map(|(backend, before)| backend.served() - before).collect()
    };
    until("the survivors have worked for a while", async || {
        let served = since();
        let is_enough = served.iter().all(|served| *served > ENOUGH) || town.dead() > 1;
        if is_enough { Ok(()) } else { Err(served) }
    })
    .await;
    let served = since();
    assert_eq!(town.dead(), 1, "the survivors live: {served:?}");
    assert_eq!(rush.end().await, 0, "no request is lost");
    let peaks: Vec<_> = town.backends[1..].iter().map(Turnstile::most_in_flight).collect();
    assert!(peaks.iter().all(|peak| *peak < BEARABLE), "{peaks:?}");
    let ideal = served.iter().sum::<usize>() as f64 / served.len() as f64;
    let most = served.iter().copied().max().expect("there are survivors") as f64;
    println!("answered since the death: {served:?}, the most {:.3} of the ideal; peaks {peaks:?}", most / ideal);
    assert!(most <= 1.10 * ideal, "{served:?}");
    let mut admin = town.stickpin.admin();
    assert_eq!(admin.metric("stickpin_placements_total", &["placement=\"refused\""]).await, 0.0);
}
