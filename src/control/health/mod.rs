//! Probes every backend of the current snapshot: who is probed, and what becomes of a report.
//!
//! One small task a backend, so that a slow backend delays nobody and no probe is ever under way twice. What a probe
//! shows goes to [`Backend::observe`], where it meets what requests report; nothing else is written from here.
//! When a probe is made is decided in `timing`, what one is in `probe`.

mod probe;

mod timing;

mod trouble;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use std::time::SystemTime;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::clock::unix_seconds;
use crate::config::{self, Address, Probe};
use crate::drain;
use crate::pool::{Backend, Evidence, Failure, Health, Member, Memory, Thresholds, instance};
use crate::proxy::snapshot::{Published, Snapshot};
use timing::{Last, Outcome, Timing};
use trouble::{Trouble, Troubles};

/// Probes the backends of whatever snapshot is published, until the drain begins.
///
/// A backend whose address and health settings stay the same is probed across reloads as if nothing had happened; its
/// health outlives changed settings too. Give it a watcher of the control plane, not of the workers, if health is to be
/// watched while clients are still being served.
pub async fn run(published: Arc<Published>, mut drain: drain::Watcher) {
    // Subscribed before the first look, so that no publication falls between the two.
    let mut announced = published.announced();
    let mut schedule = Schedule::default();
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
#[derive(Debug, Default)]
struct Schedule {
    /// By serial number of the backend.
    tasks: HashMap<u32, Task>,
    troubles: Troubles,
}

impl Schedule {
    /// Starts, keeps and stops tasks, so that they are those of this snapshot.
    fn follow(&mut self, snapshot: &Snapshot) {
        // One copy a pool, and not one a backend.
        let settings: Vec<_> = snapshot.pools.iter().map(|pool| Arc::new(pool.settings.health.clone())).collect();
        let mut before = mem::take(&mut self.tasks);
        let mut fresh = Vec::new();
        for (pool, member) in members(snapshot) {
            let serial = member.backend.serial();
            match before.remove(&serial) {
                Some(task) if task.fits(member, &settings[pool]) => {
                    self.tasks.insert(serial, task);
                }
                // One with other settings ends here: what a probe under way would show is no longer asked for.
                Some(_) | None => fresh.push((member, &settings[pool])),
            }
        }
        // So do those whose backend is gone.
        drop(before);

        let (now, count) = (Instant::now(), fresh.len());
        for (index, (member, settings)) in fresh.into_iter().enumerate() {
            let first = now + Timing::of(settings).first(index, count, fastrand::f64());
            let task = Task::start(member, Arc::clone(settings), first, self.troubles.clone());
            self.tasks.insert(member.backend.serial(), task);
        }
    }
}

/// The probing of one backend; ends when dropped, a probe under way included.
#[derive(Debug)]
struct Task {
    address: Address,
    sends_proxy_protocol: bool,
    settings: Arc<config::Health>,
    handle: JoinHandle<()>,
}

impl Task {
    fn start(member: &Member, settings: Arc<config::Health>, first: Instant, troubles: Troubles) -> Self {
        let prober = Prober {
            backend: Arc::clone(&member.backend),
            address: member.address.clone(),
            sends_proxy_protocol: member.sends_proxy_protocol,
            timing: Timing::of(&settings),
            settings: Arc::clone(&settings),
            last: None,
            troubles,
            trouble: None,
            latest: 0,
        };
        Self {
            address: member.address.clone(),
            sends_proxy_protocol: member.sends_proxy_protocol,
            settings,
            handle: tokio::spawn(prober.run(first)),
        }
    }

    /// Whether it still does what is asked for.
    fn fits(&self, member: &Member, settings: &config::Health) -> bool {
        let is_same_place = self.address == member.address && self.sends_proxy_protocol == member.sends_proxy_protocol;
        is_same_place && *self.settings == *settings && !self.handle.is_finished()
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
    address: Address,
    sends_proxy_protocol: bool,
    timing: Timing,
    settings: Arc<config::Health>,
    last: Option<Last>,
    troubles: Troubles,
    trouble: Option<Trouble>,
    /// The latest second that the wall clock has shown, which may have been set back since.
    latest: u32,
}

impl Prober {
    /// Probes the backend for as long as the task lives.
    async fn run(mut self, first: Instant) {
        // Without probes the snapshot took it for healthy, until a request fails.
        let mut due = (self.settings.probe != Probe::Off).then_some(first);
        loop {
            let hurried = self.wait(due).await;
            let started = Instant::now();
            // Boxed: between probes, which is nearly always, the task is small.
            let outcome = match Box::pin(probe::probe(&self.settings, &self.address, self.sends_proxy_protocol)).await {
                Ok(report) => {
                    self.trouble = None;
                    self.take(report)
                }
                Err(error) => {
                    self.trouble.get_or_insert_with(|| self.troubles.begin(&error));
                    Outcome::Skipped
                }
            };
            let last = Last { started, outcome, hurried };
            self.last = Some(last);
            due = self.timing.next(last, self.backend.standing().health, fastrand::f64());
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
        self.note_instance(report);
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
    fn note_instance(&mut self, report: probe::ProbeReport) {
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

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
