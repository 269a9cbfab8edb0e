//! Plays the hour in one shop, and gives what was seen of it.

use std::net::SocketAddr;

use tokio::task::JoinSet;

use crate::Failure;
use crate::clock::{Clock, Scale};
use crate::customer::{Asked, Log, visit};
use crate::plan::{self, Customer};
use crate::site::{Census, SERVERS, Site};
use crate::strategy::Strategy;

/// Who is killed, and who is drained: indices of [`SERVERS`].
pub(crate) const KILLED: usize = 0;
pub(crate) const DRAINED: usize = 1;
pub(crate) const ADDED: usize = 3;

/// What was seen of one hour. Times are minutes of the shop, when a thing was done.
#[derive(Clone, Debug)]
pub(crate) struct Hour {
    pub(crate) strategy: Strategy,
    /// Every request, in the order of the answers.
    pub(crate) asked: Vec<Asked>,
    /// At the beginning and at the end of the time with three servers, and of that with four.
    pub(crate) with_three: [Counted; 2],
    pub(crate) with_four: [Counted; 2],
    pub(crate) killed: f64,
    pub(crate) restarted: f64,
    pub(crate) added: f64,
    pub(crate) drain_ordered: f64,
    /// When nobody was left at the drained server; `None` when somebody was to the end.
    pub(crate) drained: Option<f64>,
    /// When the store was killed, and when it was back.
    pub(crate) store_away: Option<(f64, f64)>,
}

/// A census and when it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    pub(crate) at: f64,
    pub(crate) census: Census,
}

/// Plays it. `tell` is told what happens.
///
/// # Errors
/// Something did not start, or did not obey; not what became of the customers.
pub(crate) async fn play(
    mut site: Site,
    customers: &[Customer],
    scale: Scale,
    tell: impl Fn(f64, &str),
) -> Result<Hour, Failure> {
    let (clock, log) = (Clock::start(scale), Log::default());
    let visits = open(site.front, customers, clock, &log);

    clock.until(plan::WITH_THREE.0).await;
    let before = count(&site, clock).await?;
    clock.until(plan::WITH_THREE.1).await;
    let with_three = [before, count(&site, clock).await?];

    clock.until(plan::KILLED).await;
    site.kill(KILLED);
    let killed = clock.now();
    tell(killed, &format!("{} is killed", SERVERS[KILLED]));
    clock.until(plan::RESTARTED).await;
    site.restart(KILLED)?;
    let restarted = clock.now();
    tell(restarted, &format!("{} is started again", SERVERS[KILLED]));

    clock.until(plan::ADDED).await;
    let added = clock.now();
    site.add().await?;
    tell(added, &format!("{} is added", SERVERS[ADDED]));
    clock.until(plan::WITH_FOUR.0).await;
    let before = count(&site, clock).await?;
    clock.until(plan::WITH_FOUR.1).await;
    let with_four = [before, count(&site, clock).await?];

    clock.until(plan::DRAINED).await;
    let drain_ordered = clock.now();
    site.drain(DRAINED, &scale.yaml(plan::DRAIN_DEADLINE), &scale.pace(20.0)).await?;
    tell(drain_ordered, &format!("{} is drained", SERVERS[DRAINED]));
    // Where there is a store, it dies after that.
    let over = if site.store().is_some() { plan::STORE_KILLED } else { plan::CLOSED };
    let drained = site.until_drained(DRAINED, scale.minutes(over - clock.now())).await;
    let drained = drained.is_ok().then(|| clock.now());

    let store_away = lose_store(&mut site, clock, &tell).await?;
    clock.until(plan::CLOSED).await;
    tell(clock.now(), "the shop closes");
    drop(visits);
    let strategy = site.strategy;
    site.stop();
    let asked = log.read();
    Ok(Hour { strategy, asked, with_three, with_four, killed, restarted, added, drain_ordered, drained, store_away })
}

/// Customers come from now on; they are gone when this is dropped.
fn open(front: SocketAddr, customers: &[Customer], clock: Clock, log: &Log) -> JoinSet<()> {
    let mut visits = JoinSet::new();
    for (number, customer) in customers.iter().enumerate() {
        visits.spawn(visit(front, number, *customer, clock, log.clone()));
    }
    visits
}

async fn lose_store(site: &mut Site, clock: Clock, tell: impl Fn(f64, &str)) -> Result<Option<(f64, f64)>, Failure> {
    let Some(store) = site.store() else { return Ok(None) };
    clock.until(plan::STORE_KILLED).await;
    store.kill();
    let killed = clock.now();
    tell(killed, "the store is killed");
    clock.until(plan::STORE_RESTARTED).await;
    store.restart()?;
    let back = clock.now();
    tell(back, "the store is started again, with nothing in its memory");
    Ok(Some((killed, back)))
}

async fn count(site: &Site, clock: Clock) -> Result<Counted, Failure> {
    let census = site.census().await?;
    Ok(Counted { at: clock.now(), census })
}
