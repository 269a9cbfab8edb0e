//! Whatever is not a request: health, reload, discovery, orders, the admin endpoint. One thread of its own; workers never wait for
//! it, it waits for nobody's request.

pub mod health;

pub mod state_dir;

pub mod discovery;

pub mod reload;

pub mod admin;

pub mod certificates;

mod outliers;

mod pins;

mod fullness;

mod spread;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::clock::unix_seconds;
use crate::drain;
use crate::proxy::snapshot::Published;
use crate::telemetry::events::{Event, Events};
use crate::telemetry::with_causes;
use admin::{OrderNotice, ReloadRequest, Shared};
use certificates::Watcher;
use discovery::{ChangeOrder, Kept, Refusal, Standings};
use fullness::Fullness;
use reload::Reloader;
use state_dir::{BACKENDS_FILE, Moment, ORDERS_FILE, Orders};

/// How often active pins are counted, at the most.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// What counting may take of a second for each backend: with thousands of them it is done less often.
const COUNT_PER_BACKEND: Duration = Duration::from_millis(1);

/// A backend that cannot be measured, for want of a route of our own say, does not keep the others from being used.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is looked whether every backend has been measured.
const SETTLING: Duration = Duration::from_millis(10);

/// Agents may change weights as often as they like; tables are built anew no more often than this.
const REWEIGH_EVERY: Duration = Duration::from_secs(1);

/// How long a stop waits for pins to be written to the store that replicas share.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// What the control plane is made of.
#[derive(Debug)]
pub struct Setup {
    /// Reloads.
    pub reloader: Reloader,
    /// Orders to reload.
    pub reloads: mpsc::Receiver<ReloadRequest>,
    /// Orders to be kept.
    pub ordered: mpsc::Receiver<OrderNotice>,
    /// Orders to add or remove backends.
    pub changes: mpsc::Receiver<ChangeOrder>,
    /// The admin endpoint, bound, and its token.
    pub admin: Option<(std::net::TcpListener, Option<String>)>,
    /// What the admin endpoint shows.
    pub shared: Arc<Shared>,
    /// Becomes true when every backend has been measured.
    pub settled: watch::Sender<bool>,
    /// Where orders are kept.
    pub state_dir: Option<PathBuf>,
    /// The workers' drain: `/ready` tells of it.
    pub workers_drain: drain::Watcher,
    /// When the control plane itself has to end.
    pub drain: drain::Watcher,
}

/// Runs the control plane on the current thread until it is told to stop.
///
/// # Errors
/// When the runtime cannot be made, or the admin endpoint cannot be served.
pub fn run(setup: Setup) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default())?;
    runtime.block_on(serve(setup))
}

async fn serve(setup: Setup) -> io::Result<()> {
    let Setup {
        mut reloader,
        mut reloads,
        mut ordered,
        mut changes,
        admin,
        shared,
        settled,
        state_dir,
        workers_drain,
        mut drain,
    } = setup;
    let published = Arc::clone(&shared.published);
    let reweighted = Arc::new(Notify::new());
    let (wish, mut reweigh) = mpsc::channel(1);
    tokio::task::spawn_local(pass_on(Arc::clone(&reweighted), wish));
    tokio::task::spawn_local(health::run(Arc::clone(&published), Arc::clone(&reweighted), drain.clone()));
    tokio::task::spawn_local(outliers::watch(Arc::clone(&published)));
    let (find, mut finds) = mpsc::channel(discovery::QUEUE);
    let base = reloader.base.clone();
    tokio::task::spawn_local(discovery::run(Arc::clone(&published), base, find, drain.clone()));
    tokio::task::spawn_local(settle(Arc::clone(&published), shared.standings.clone(), settled));
    tokio::task::spawn_local(spread::follow(Arc::clone(&published), Arc::clone(&reloader.lasting.registry)));
    tokio::task::spawn_local(count_pins(Arc::clone(&published), shared.events.clone()));
    if let Some((listener, token)) = admin {
        let listener = TcpListener::from_std(listener)?;
        let shared = Arc::clone(&shared);
        tokio::task::spawn_local(async move {
            if let Err(error) = admin::serve(listener, token, shared, workers_drain).await {
                tracing::error!(%error, "the admin endpoint ended");
            }
        });
    }
    let mut watcher = Watcher::new();
    loop {
        tokio::select! {
            Some(answer) = reloads.recv() => {
                let result = reloader.reload();
                watcher.forget();
                note(&shared, &result);
                if result.is_ok() {
                    // What the file does not ask for any more must not be back after a restart. Told there.
                    let _ = keep(state_dir.as_deref(), &reloader).await;
                }
                // Whoever asked may be gone; the reload took place all the same.
                let _ = answer.send(result);
            }
            seen = watcher.next(&reloader.certificates) => reloader.certificates.take(seen, SystemTime::now()),
            Some(found) = finds.recv() => {
                if reloader.take(found, SystemTime::now()) {
                    // Told there; a list that was found is found again.
                    let _ = keep(state_dir.as_deref(), &reloader).await;
                }
            }
            Some(ChangeOrder { pool, change, answer }) = changes.recv() => {
                let mut result = reloader.change(&pool, change);
                if result.is_ok() {
                    result = keep(state_dir.as_deref(), &reloader).await.map_err(Refusal::NotKept);
                }
                // Whoever ordered it may be gone; it is in force all the same.
                let _ = answer.send(result);
            }
            Some(notice) = ordered.recv() => {
                reloader.publish();
                let kept = match &state_dir {
                    Some(state_dir) => save_orders(state_dir, &published).await,
                    None => Ok(()),
                };
                // Whoever gave the order may be gone; it is in force all the same.
                let _ = notice.send(kept);
            }
            Some(()) = reweigh.recv() => drop(reloader.publish()),
            () = drain.stopped() => {
                reloader.lasting.stores.stop(FLUSH_TIMEOUT).await;
                return Ok(());
            }
        }
    }
}

/// Passes on that weights have changed, several changes as one.
async fn pass_on(reweighted: Arc<Notify>, wish: mpsc::Sender<()>) {
    loop {
        reweighted.notified().await;
        if wish.send(()).await.is_err() {
            return;
        }
        tokio::time::sleep(REWEIGH_EVERY).await;
    }
}

fn note(shared: &Shared, result: &Result<u64, reload::ReloadError>) {
    shared
        .events
        .tell(|| Event::Reload(result.as_ref().map(|generation| *generation).map_err(|error| with_causes(error))));
    match result {
        Ok(generation) => {
            shared.reloads.ok.fetch_add(1, Ordering::Relaxed);
            tracing::info!(generation, "reloaded");
        }
        Err(error) => {
            shared.reloads.failed.fetch_add(1, Ordering::Relaxed);
            let cause = std::error::Error::source(error).map(with_causes);
            tracing::error!(%error, cause, "the reload changed nothing");
        }
    }
}

async fn settle(published: Arc<Published>, standings: Standings, settled: watch::Sender<bool>) {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    while !(standings.are_in() && health::settled(&published)) {
        if Instant::now() >= deadline {
            tracing::warn!("not every backend could be found or measured yet; ready all the same");
            break;
        }
        tokio::time::sleep(SETTLING).await;
    }
    settled.send_replace(true);
    // Kept until the end: a receiver takes a dropped sender for the end of the process.
    settled.closed().await;
}

async fn count_pins(published: Arc<Published>, events: Events) {
    let mut fullness = Fullness::default();
    loop {
        let snapshot = published.load();
        pins::count(&snapshot, Instant::now(), unix_seconds(SystemTime::now()));
        fullness.look(&snapshot, &events, Instant::now());
        let backends = snapshot.pools.iter().map(|pool| pool.members.len()).sum::<usize>();
        let pause = COUNT_PER_BACKEND * u32::try_from(backends).unwrap_or(u32::MAX);
        drop(snapshot);
        tokio::time::sleep(pause.max(COUNT_EVERY)).await;
    }
}

/// Keeps the backends that were found and added for a restart, and the orders, of which those of a backend that went go too.
async fn keep(state_dir: Option<&Path>, reloader: &Reloader) -> Result<(), String> {
    let Some(state_dir) = state_dir else { return Ok(()) };
    let (file, kept) = (state_dir.join(BACKENDS_FILE), reloader.lists.kept());
    let saved = tokio::task::spawn_blocking(move || state_dir::save(&file, &kept)).await;
    let saved = match saved {
        Ok(saved) => saved.map_err(|error| with_causes(&error)),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = &saved {
        tracing::error!(error, "the backends are in force, but could not be kept for a restart");
    }
    saved.and(save_orders(state_dir, &reloader.published).await)
}

/// What an earlier process found and was told, where there is a state directory.
pub fn kept_backends(state_dir: Option<&Path>) -> Kept {
    let kept = state_dir.map(|state_dir| state_dir::load(&state_dir.join(BACKENDS_FILE)));
    kept.unwrap_or_else(|| Ok(Kept::default())).unwrap_or_else(|error| {
        tracing::error!(%error, "the backends that were found and added could not be read; going on without");
        Kept::default()
    })
}

async fn save_orders(state_dir: &Path, published: &Published) -> Result<(), String> {
    let orders = {
        let snapshot = published.load();
        let members = snapshot.pools.iter().flat_map(|pool| &pool.members);
        Orders::collect(members.map(|member| &*member.backend), moment())
    };
    let file = state_dir.join(ORDERS_FILE);
    match tokio::task::spawn_blocking(move || state_dir::save(&file, &orders)).await {
        Ok(Err(error)) => {
            let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
            tracing::error!(%error, cause, "the orders are in force, but could not be kept for a restart");
            Err(format!("{error}{cause}"))
        }
        Ok(Ok(())) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Puts the orders that were kept in force again. Call it before the first request. Says whether weights are among them.
pub fn restore_orders(state_dir: &Path, published: &Published) -> bool {
    match state_dir::load::<Orders>(&state_dir.join(ORDERS_FILE)) {
        Ok(orders) => {
            let snapshot = published.load();
            let members = snapshot.pools.iter().flat_map(|pool| &pool.members);
            orders.apply(members.clone().map(|member| &*member.backend), moment());
            members.into_iter().any(|member| member.backend.weight_order().is_some())
        }
        Err(error) => {
            tracing::error!(%error, "the operator's orders could not be read; going on without");
            false
        }
    }
}

fn moment() -> Moment {
    Moment { instant: Instant::now(), wall: SystemTime::now() }
}
