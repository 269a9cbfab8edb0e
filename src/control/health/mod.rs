//! Probes every backend of the current snapshot: who is probed, and what becomes of a report.
//!
//! One small task a backend, so that a slow backend delays nobody and no probe is ever under way twice. What a probe
//! shows goes to [`Backend::observe`], where it meets what requests report; nothing else is written from here.
//! When a probe is made is decided in `timing`, how many at once in `lanes`, what one is in `probe`.

mod agent;

mod lanes;

mod probe;

mod timing;

mod trouble;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;

use std::time::SystemTime;

use rustls::ClientConfig;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::clock::unix_seconds;
use crate::config::{self, Address, BackendTls, Pace, Probe};
use crate::drain;
use crate::pool::{Backend, Evidence, Failure, Health, Member, Memory, Thresholds, instance};
use crate::proxy::snapshot::{Published, Snapshot};
use crate::telemetry::with_causes;
use crate::tls::backend as tls;
use lanes::Lanes;
use timing::{Last, Outcome, Timing};
use trouble::{Trouble, Troubles};

/// Probes the backends of whatever snapshot is published, until the drain begins.
///
/// A backend whose address and health settings stay the same is probed across reloads as if nothing had happened; its
/// health outlives changed settings too. Give it a watcher of the control plane, not of the workers, if health is to be
/// watched while clients are still being served.
/// When the agent of a backend gave it another weight, `reweighted` is notified: tables are built from weights.
pub async fn run(published: Arc<Published>, reweighted: Arc<Notify>, mut drain: drain::Watcher) {
    // Subscribed before the first look, so that no publication falls between the two.
    let mut announced = published.announced();
    let mut schedule = Schedule::new(reweighted);
    loop {
        schedule.follow(&published.load());
        tokio::select! {
            changed = announced.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = drain.draining() => return,
        }
    }
}

/// Whether every backend of the current snapshot was probed far enough to tell its health.
///
/// A backend that fails its first `unhealthy_after` probes has settled too: as unhealthy.
pub fn settled(published: &Published) -> bool {
    let snapshot = published.load();
    members(&snapshot).all(|(_, member)| member.backend.standing().health != Health::Starting)
}

fn members(snapshot: &Snapshot) -> impl Iterator<Item = (usize, &Member)> {
    snapshot.pools.iter().enumerate().flat_map(|(pool, it)| it.members.iter().map(move |member| (pool, member)))
}

/// Who is being probed.
#[derive(Debug)]
struct Schedule {
    /// By serial number of the backend.
    tasks: HashMap<u32, Task>,
    shared: Shared,
    /// Made once for each kind of settings: reading the system's roots takes a while.
    tls: Vec<TlsClient>,
}

/// What all tasks share.
#[derive(Clone, Debug)]
struct Shared {
    troubles: Troubles,
    lanes: Lanes,
    reweighted: Arc<Notify>,
}

/// TLS under these settings for these protocols; `None` when there is nobody to trust.
#[derive(Debug)]
struct TlsClient {
    settings: BackendTls,
    protocols: &'static [&'static [u8]],
    client: Option<Arc<ClientConfig>>,
}

impl Schedule {
    fn new(reweighted: Arc<Notify>) -> Self {
        let shared = Shared { troubles: Troubles::default(), lanes: Lanes::of_process(), reweighted };
        Self { tasks: HashMap::new(), shared, tls: Vec::new() }
    }

    /// Starts, keeps and stops tasks, so that they are those of this snapshot.
    fn follow(&mut self, snapshot: &Snapshot) {
        // One copy a pool, and not one a backend.
        let settings: Vec<_> = snapshot.pools.iter().map(|pool| Arc::new(pool.settings.health.clone())).collect();
        self.tls.retain(|known| settings.iter().any(|health| health.tls.as_ref() == Some(&known.settings)));
        let mut before = mem::take(&mut self.tasks);
        let mut fresh = Vec::new();
        for (pool, member) in members(snapshot) {
            let serial = member.backend.serial();
            match before.remove(&serial) {
                Some(task) if task.fits(member, &settings[pool], snapshot.pools[pool].settings.drain_pace) => {
                    self.tasks.insert(serial, task);
                }
                // One with other settings ends here: what a probe under way would show is no longer asked for.
                Some(_) | None => fresh.push((member, pool)),
            }
        }
        // So do those whose backend is gone.
        drop(before);

        let (now, count) = (Instant::now(), fresh.len());
        for (index, (member, pool)) in fresh.into_iter().enumerate() {
            let settings = &settings[pool];
            let prober = Prober {
                backend: Arc::clone(&member.backend),
                address: probed(member, settings),
                requests_go_to: member.address.clone(),
                sends_proxy_protocol: member.sends_proxy_protocol,
                timing: Timing::of(settings),
                settings: Arc::clone(settings),
                tls: self.tls_client(settings),
                drain_pace: snapshot.pools[pool].settings.drain_pace,
                last: None,
                shared: self.shared.clone(),
                trouble: None,
                latest: 0,
                told: Told::default(),
            };
            let first = now + prober.timing.first(index, count, fastrand::f64());
            self.tasks.insert(member.backend.serial(), Task::start(prober, first));
        }
    }

    fn tls_client(&mut self, health: &config::Health) -> Option<Arc<ClientConfig>> {
        let (settings, protocols) = (health.tls.as_ref()?, probe::protocols(&health.probe));
        let known = self.tls.iter().position(|known| known.settings == *settings && known.protocols == protocols);
        let place = known.unwrap_or_else(|| {
            let client = match tls::client(settings, protocols) {
                Ok(client) => Some(client),
                Err(error) => {
                    tracing::error!(error = with_causes(&error), "probes over TLS cannot be made");
                    None
                }
            };
            self.tls.push(TlsClient { settings: settings.clone(), protocols, client });
            self.tls.len() - 1
        });
        self.tls[place].client.clone()
    }
}

/// Where the probes of a backend go.
fn probed(member: &Member, settings: &config::Health) -> Address {
    match (&member.probe_address, settings.port, &member.address) {
        (Some(address), _, _) => address.clone(),
        (None, Some(port), Address::Ip(address)) => SocketAddr::new(address.ip(), port).into(),
        // A path has no other port.
        (None, _, address) => address.clone(),
    }
}

/// The probing of one backend; ends when dropped, a probe under way included.
#[derive(Debug)]
struct Task {
    /// Where requests go, and where probes do.
    addresses: (Address, Address),
    sends_proxy_protocol: bool,
    settings: Arc<config::Health>,
    /// Of a drain that its agent wants.
    drain_pace: Pace,
    handle: JoinHandle<()>,
}

impl Task {
    fn start(prober: Prober, first: Instant) -> Self {
        let addresses = (prober.requests_go_to.clone(), prober.address.clone());
        let (settings, drain_pace) = (Arc::clone(&prober.settings), prober.drain_pace);
        let sends_proxy_protocol = prober.sends_proxy_protocol;
        Self { addresses, sends_proxy_protocol, settings, drain_pace, handle: tokio::spawn(prober.run(first)) }
    }

    /// Whether it still does what is asked for.
    fn fits(&self, member: &Member, settings: &config::Health, drain_pace: Pace) -> bool {
        self.addresses == (member.address.clone(), probed(member, settings))
            && self.sends_proxy_protocol == member.sends_proxy_protocol
            && *self.settings == *settings
            && self.drain_pace == drain_pace
            && !self.handle.is_finished()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// One backend, and what its task remembers from probe to probe.
struct Prober {
    backend: Arc<Backend>,
    /// Where probes go.
    address: Address,
    requests_go_to: Address,
    sends_proxy_protocol: bool,
    timing: Timing,
    settings: Arc<config::Health>,
    tls: Option<Arc<ClientConfig>>,
    drain_pace: Pace,
    last: Option<Last>,
    shared: Shared,
    trouble: Option<Trouble>,
    /// The latest second that the wall clock has shown, which may have been set back since.
    latest: u32,
    told: Told,
}

/// What was logged already, so that it is said once and not once a probe.
#[derive(Debug, Default)]
struct Told {
    unknown_word: Option<String>,
    tls_problem: Option<String>,
}

impl Prober {
    /// Probes the backend for as long as the task lives.
    async fn run(mut self, first: Instant) {
        if self.agent().is_none() && self.backend.forget_agent(Instant::now()) {
            self.shared.reweighted.notify_one();
        }
        // Without probes the snapshot took it for healthy, until a request fails. What failed before is looked at again: if
        // no request goes there, none would ask for it.
        let is_wanted = self.settings.probe != Probe::Off || self.backend.measured_health() != Health::Healthy;
        let mut due = is_wanted.then_some(first);
        loop {
            let hurried = self.wait(due).await;
            let is_ill = self.backend.measured_health() == Health::Unhealthy
                && self.last.is_none_or(|last| last.outcome != Outcome::Succeeded);
            let (started, result) = {
                let _place = self.shared.lanes.enter(is_ill).await;
                let target = probe::Target {
                    address: &self.address,
                    backend: &self.requests_go_to,
                    sends_proxy_protocol: self.sends_proxy_protocol,
                    tls: self.tls.as_ref(),
                };
                // Boxed: between probes, which is nearly always, the task is small.
                (Instant::now(), Box::pin(probe::probe(&self.settings, target)).await)
            };
            let outcome = match result {
                Ok(report) => {
                    self.trouble = None;
                    self.take(report)
                }
                Err(error) => {
                    self.trouble.get_or_insert_with(|| self.shared.troubles.begin(&error));
                    Outcome::Skipped
                }
            };
            let last = Last { started, outcome, hurried };
            self.last = Some(last);
            // Replies that put it out are no reason to probe it faster.
            due = self.timing.next(last, self.backend.measured_health(), fastrand::f64());
        }
    }

    /// Waits for the next turn, or until it is wanted sooner, which is what it returns.
    async fn wait(&self, due: Option<Instant>) -> bool {
        tokio::select! {
            // First, so that a wish is not left over for after the probe when both are there.
            biased;
            () = self.backend.probe_wanted() => {}
            () = until(due) => return false,
        }
        let hurried = self.timing.hurried(self.last, Instant::now());
        let sooner = due.is_none_or(|due| hurried < due);
        // Not listening meanwhile: it cannot come any sooner.
        until(if sooner { Some(hurried) } else { due }).await;
        sooner
    }

    fn take(&mut self, report: probe::ProbeReport) -> Outcome {
        let thresholds =
            Thresholds { healthy_after: self.settings.healthy_after, unhealthy_after: self.settings.unhealthy_after };
        // First, so that whoever finds the backend available knows which life it lives.
        self.note_instance(&report);
        self.hear_agent(report.words);
        self.note_tls(report.tls_problem);
        self.backend.observe(report.evidence, thresholds, Instant::now());
        match report.evidence {
            Evidence::ProbeOk => Outcome::Succeeded,
            Evidence::ProbeFailed(Failure::Refused) if self.backend.standing().memory == Memory::MayHold => {
                Outcome::RefusedOnly
            }
            Evidence::ProbeFailed(_) | Evidence::TrafficFailed(_) => Outcome::Failed,
        }
    }

    /// Notes which life of the process answers: the one that its header names; without such a header a new one, when the
    /// process was gone and now answers again.
    fn note_instance(&mut self, report: &probe::ProbeReport) {
        // Pins were sealed up to then: a life that begins now has to begin later than they say.
        self.latest = self.latest.max(unix_seconds(SystemTime::now()));
        let was_gone = self.backend.standing().memory == Memory::Gone;
        let instance = match report.instance {
            Some(hash) => instance::named(hash),
            None if was_gone && report.evidence == Evidence::ProbeOk => self.latest.max(1),
            None => return,
        };
        if self.backend.set_instance(instance) {
            self.backend.begin_warming(Instant::now());
            let id = self.backend.id();
            tracing::info!(pool = &*id.pool, backend = &*id.name, "another instance answers");
        }
    }
}

impl Prober {
    fn agent(&self) -> Option<&config::Agent> {
        match &self.settings.probe {
            Probe::Http(probe) => probe.agent.as_ref(),
            Probe::Off | Probe::Tcp | Probe::Grpc(_) => None,
        }
    }

    /// Takes what the agent said; a word that is not understood is logged once, until all are understood again.
    fn hear_agent(&mut self, words: Option<agent::Words>) {
        let Some(agent::Words { said, unknown }) = words else { return };
        if unknown.is_some() && self.told.unknown_word.is_none() {
            let (id, word) = (self.backend.id(), unknown.as_deref());
            tracing::warn!(pool = &*id.pool, backend = &*id.name, word, "the agent says a word that is not known");
        }
        self.told.unknown_word = unknown;
        if self.backend.hear_agent(said, self.drain_pace, Instant::now()) {
            let (id, weight) = (self.backend.id(), self.backend.weight());
            tracing::info!(pool = &*id.pool, backend = &*id.name, weight, "the agent gave it another weight");
            self.shared.reweighted.notify_one();
        }
    }

    /// TLS that does not fit is a mistake in a file somewhere, which "broken" alone would not tell.
    fn note_tls(&mut self, problem: Option<String>) {
        if problem.is_some() && problem != self.told.tls_problem {
            let (id, problem) = (self.backend.id(), problem.as_deref());
            tracing::warn!(pool = &*id.pool, backend = &*id.name, problem, "probes fail because of TLS");
        }
        self.told.tls_problem = problem;
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
