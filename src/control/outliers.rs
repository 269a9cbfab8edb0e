//! Looks at what requests met, puts backends out that are out of order, and takes them back.
//!
//! The decisions are those of [`crate::pool::outliers`]; here they are carried out, a few times a second. Costs some ten
//! microseconds a look for each backend and keeps about a kilobyte of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config;
use crate::pool::outliers::{
    Cause, History, MOST_CLIENTS, Out, Sample, Stage, Tally, Trial, Verdict, Window, judge, room, slow_limit, trial,
};
use crate::pool::{AdminState, Backend, Health};
use crate::proxy::snapshot::{Pool, Published, Snapshot};

/// How often is looked, at the most.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What looking may take of the time for each backend: with thousands of them it is done less often.
const LOOK_PER_BACKEND: Duration = Duration::from_micros(200);

/// Somebody who was let through and never got a reply is replaced after this long.
const OFFER_AGAIN: Duration = Duration::from_secs(10);

/// Looks for as long as the control plane runs.
pub(super) async fn watch(published: Arc<Published>) {
    let mut watch = Watch::default();
    loop {
        let pause = {
            let snapshot = published.load();
            watch.look(&snapshot, Instant::now());
            let backends = snapshot.pools.iter().map(|pool| pool.members.len()).sum::<usize>();
            LOOK_PER_BACKEND * u32::try_from(backends).unwrap_or(u32::MAX)
        };
        tokio::time::sleep(pause.max(LOOK_EVERY)).await;
    }
}

/// What is remembered from look to look, by serial number.
#[derive(Default)]
struct Watch {
    backends: HashMap<u32, Watched>,
}

struct Watched {
    window: Window,
    history: History,
    /// What this module has last set.
    out: Option<Out>,
    probation: Probation,
}

#[derive(Default)]
struct Probation {
    /// What was seen since it began.
    sample: Sample,
    /// A new client was offered the place.
    is_offered: bool,
    /// When it was found to be taken.
    taken_at: Option<Instant>,
}

impl Watch {
    fn look(&mut self, snapshot: &Snapshot, now: Instant) {
        let mut before = std::mem::take(&mut self.backends);
        for pool in &snapshot.pools {
            match &pool.settings.health.traffic {
                Some(rules) => self.look_at(pool, rules, &mut before, now),
                None => release(pool, &mut before, now),
            }
        }
    }

    fn look_at(&mut self, pool: &Pool, rules: &config::Traffic, before: &mut HashMap<u32, Watched>, now: Instant) {
        let mut watched: Vec<(&Backend, Watched)> = Vec::with_capacity(pool.members.len());
        for member in &pool.members {
            let (backend, serial) = (&*member.backend, member.backend.serial());
            let (counts, bad) = backend.traffic().take(MOST_CLIENTS);
            let mut it = before.remove(&serial).unwrap_or_else(|| Watched::new(&counts, now));
            let news = it.window.take(counts, bad, rules.window, now);
            it.go_on(backend, pool, &news, rules, now);
            watched.push((backend, it));
        }
        judge_pool(&mut watched, rules, now);
        self.backends.extend(watched.into_iter().map(|(backend, it)| (backend.serial(), it)));
    }
}

/// Without rules nobody is out.
fn release(pool: &Pool, before: &mut HashMap<u32, Watched>, now: Instant) {
    for member in &pool.members {
        let Some(mut it) = before.remove(&member.backend.serial()) else { continue };
        it.window.restart(now);
        member.backend.traffic().set_slow_above(None);
        it.come_back(&member.backend, pool, now);
    }
}

/// Says what is slow, and puts out who is out of order, the worst first.
fn judge_pool(watched: &mut [(&Backend, Watched)], rules: &config::Traffic, now: Instant) {
    let samples: Vec<Sample> = watched.iter().map(|(_, it)| it.window.sample()).collect();
    let own = |index: usize| samples[index].median(rules);
    let in_service = |(_, it): &&(&Backend, Watched)| it.out.is_none();
    let mut medians: Vec<Duration> =
        watched.iter().enumerate().filter(|(_, it)| in_service(it)).filter_map(|(index, _)| own(index)).collect();
    medians.sort_unstable();
    let mut tally = Tally::default();
    for (sample, _) in samples.iter().zip(watched.iter()).filter(|(_, it)| in_service(it)) {
        tally.add(sample, rules);
    }
    let (mut suspects, mut enabled, mut out, mut healthy) = (Vec::new(), 0, 0, 0);
    for (index, (backend, it)) in watched.iter().enumerate() {
        let median = if it.out.is_some() { None } else { own(index) };
        backend.traffic().set_slow_above(slow_limit(&medians, median, rules));
        let standing = backend.standing();
        if standing.admin != AdminState::Enabled {
            continue;
        }
        enabled += 1;
        out += usize::from(it.out.is_some());
        healthy += usize::from(standing.health == Health::Healthy);
        if it.out.is_some() || standing.health == Health::Unhealthy {
            continue;
        }
        match judge(&samples[index], &tally.without(&samples[index], rules), rules) {
            Verdict::Fine => {}
            Verdict::Ask => backend.ask_for_probe(),
            Verdict::Out(cause, share) => suspects.push((index, cause, share)),
        }
    }
    suspects.sort_by(|(_, _, one), (_, _, other)| other.total_cmp(one));
    for (index, cause, _) in suspects.into_iter().take(room(enabled, out, rules)) {
        let (backend, it) = &mut watched[index];
        let is_healthy = backend.standing().health == Health::Healthy;
        // The last one that works is better than none.
        if healthy <= usize::from(is_healthy) {
            backend.ask_for_probe();
            continue;
        }
        healthy -= usize::from(is_healthy);
        it.go_out(backend, cause, now, rules, now);
    }
}

impl Watched {
    fn new(counts: &crate::pool::traffic::Counts, now: Instant) -> Self {
        Self {
            window: Window::new(counts.clone(), now),
            history: History::default(),
            out: None,
            probation: Probation::default(),
        }
    }

    /// One that is out: the next step, if it is time for it.
    fn go_on(&mut self, backend: &Backend, pool: &Pool, news: &Sample, rules: &config::Traffic, now: Instant) {
        let Some(out) = self.out else { return };
        // What probes confirm is theirs from then on, and so is the way back.
        if backend.measured_health() == Health::Unhealthy {
            return self.come_back(backend, pool, now);
        }
        match out.stage {
            Stage::Until(until) if now < until => {}
            Stage::Until(_) => {
                self.probation = Probation::default();
                self.set(backend, Some(Out { stage: Stage::Probation, ..out }), now);
                let id = backend.id();
                tracing::info!(pool = &*id.pool, backend = &*id.name, cause = out.cause.as_str(), "on probation");
                self.offer(backend, pool, now);
            }
            Stage::Probation => {
                self.offer(backend, pool, now);
                self.probation.sample.add(news);
                let let_through = self.probation.taken_at.map(|at| now.saturating_duration_since(at));
                match trial(&self.probation.sample, let_through, rules) {
                    Trial::Wait => {}
                    Trial::Passed => self.come_back(backend, pool, now),
                    Trial::Failed => {
                        pool.trial.withdraw(backend.serial());
                        self.history.is_back(now);
                        self.go_out(backend, out.cause, out.since, rules, now);
                    }
                }
            }
        }
    }

    /// Offers one new client the place, and notices when it was taken.
    fn offer(&mut self, backend: &Backend, pool: &Pool, now: Instant) {
        let (probation, serial) = (&mut self.probation, backend.serial());
        if probation.is_offered && probation.taken_at.is_none() && !pool.trial.is_offered(serial) {
            probation.taken_at = Some(now);
        }
        let is_lost = probation.taken_at.is_some_and(|at| now.saturating_duration_since(at) >= OFFER_AGAIN)
            && probation.sample.counts.replies == 0;
        if (!probation.is_offered || is_lost) && pool.trial.offer(serial) {
            probation.is_offered = true;
            probation.taken_at = None;
        }
    }

    fn go_out(&mut self, backend: &Backend, cause: Cause, since: Instant, rules: &config::Traffic, now: Instant) {
        let duration = self.history.goes_out(rules, now);
        self.window.restart(now);
        backend.traffic().count_out(cause);
        let (id, seconds) = (backend.id(), duration.as_secs_f64());
        tracing::warn!(pool = &*id.pool, backend = &*id.name, cause = cause.as_str(), seconds, "out by its traffic");
        let stage = now.checked_add(duration).map_or(Stage::Probation, Stage::Until);
        self.set(backend, Some(Out { cause, since, stage }), now);
        backend.ask_for_probe();
    }

    fn come_back(&mut self, backend: &Backend, pool: &Pool, now: Instant) {
        if self.out.is_none() {
            return;
        }
        pool.trial.withdraw(backend.serial());
        self.history.is_back(now);
        self.window.restart(now);
        self.set(backend, None, now);
    }

    fn set(&mut self, backend: &Backend, out: Option<Out>, now: Instant) {
        self.out = out;
        backend.set_out(out, now);
    }
}
