//! Is a backend usable? Health (measured) × admin state (ordered) → availability.
//!
//! Pure: evidence and time come in as arguments. Traffic and probes feed the same [`Condition`], with one difference:
//! traffic can make a backend suspect, but only probes, which are few and evenly spaced, make it unhealthy. So a burst
//! of failed connects within a millisecond counts as the one event it is.

use tokio::time::Instant;

use super::outliers::Out;

/// What we measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Health {
    /// Not measured yet.
    Starting = 0,
    /// It works.
    Healthy = 1,
    /// It failed once: still home to its pins, probed at once and faster, no new clients when others are healthy.
    Suspect = 2,
    /// It failed `unhealthy_after` probes in a row.
    Unhealthy = 3,
}

impl Health {
    /// Every state, in the order of the metric's labels.
    pub const ALL: [Self; 4] = [Self::Starting, Self::Healthy, Self::Suspect, Self::Unhealthy];

    /// The word used in metrics, log and API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Suspect => "suspect",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// What the operator ordered. Health never changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AdminState {
    /// Serves everybody.
    Enabled = 0,
    /// Serves pinned clients only.
    Draining = 1,
    /// Serves nobody.
    Disabled = 2,
}

impl AdminState {
    /// The word used in metrics, log and API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        }
    }
}

/// What is known of the memory of a backend that is unhealthy, and so of the sessions in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Memory {
    /// No reason to think it lost anything: it is silent at worst.
    MayHold = 0,
    /// Connections were refused at the threshold: the process is gone, and its sessions with it.
    Gone = 1,
}

/// How something failed, as far as it tells about the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The connection was refused: nobody listens there.
    Refused,
    /// No answer in time, or no route.
    Silent,
    /// Connected, then broken off, or an answer that is not HTTP.
    Broken,
    /// An answer, but not the expected one.
    Unexpected,
}

impl Failure {
    /// The word used in log and API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::Broken => "broken",
            Self::Unexpected => "unexpected",
        }
    }
}

/// One observation of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// A probe succeeded.
    ProbeOk,
    /// A probe failed.
    ProbeFailed(Failure),
    /// A request failed before its reply began.
    TrafficFailed(Failure),
}

/// Counts in a row at which health changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Successful probes that make an unhealthy backend healthy.
    pub healthy_after: u32,
    /// Failed probes that make any backend unhealthy.
    pub unhealthy_after: u32,
}

/// A change of health, to be logged once by whoever caused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Before.
    pub from: Health,
    /// Now.
    pub to: Health,
    /// The word for the failure that caused it, `None` when a success did.
    pub cause: Option<&'static str>,
}

/// What is known of one backend's health.
#[derive(Clone, Debug)]
pub struct Condition {
    /// What probes, and connections that failed, have shown.
    measured: Health,
    /// What replies have shown, whatever probes say.
    out: Option<Out>,
    memory: Memory,
    /// The last probe was not answered in time.
    is_silent: bool,
    /// Failed probes in a row. Traffic never adds to it.
    failures: u32,
    /// Refused probes in a row.
    refusals: u32,
    /// Successful probes in a row, counted only while unhealthy.
    successes: u32,
    changed_at: Instant,
}

impl Condition {
    /// A backend nothing is known of.
    pub fn new(now: Instant) -> Self {
        Self {
            measured: Health::Starting,
            out: None,
            memory: Memory::MayHold,
            is_silent: false,
            failures: 0,
            refusals: 0,
            successes: 0,
            changed_at: now,
        }
    }

    /// The current state: the worse of what probes and what replies have shown.
    pub fn health(&self) -> Health {
        match (self.measured, self.out.map(Out::health)) {
            (Health::Unhealthy, _) | (_, Some(Health::Unhealthy)) => Health::Unhealthy,
            (_, Some(by_replies)) => by_replies,
            (measured, None) => measured,
        }
    }

    /// What probes, and connections that failed, have shown.
    pub fn measured(&self) -> Health {
        self.measured
    }

    /// Whether replies put it out.
    pub fn out(&self) -> Option<Out> {
        self.out
    }

    /// What replies have shown.
    pub fn set_out(&mut self, out: Option<Out>, now: Instant) -> Option<Change> {
        let from = self.health();
        self.out = out;
        self.changed(from, out.map(|out| out.cause.as_str()), now)
    }

    /// Whether the process is known to be gone.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// Whether the last probe was not answered in time.
    pub fn is_silent(&self) -> bool {
        self.is_silent
    }

    /// When [`Condition::health`] last changed.
    pub fn changed_at(&self) -> Instant {
        self.changed_at
    }

    /// Takes one observation into account.
    pub fn observe(&mut self, evidence: Evidence, thresholds: Thresholds, now: Instant) -> Option<Change> {
        let from = self.health();
        let cause = match evidence {
            Evidence::ProbeOk => {
                self.succeeded(thresholds);
                None
            }
            Evidence::ProbeFailed(failure) => {
                self.probe_failed(failure, thresholds);
                Some(failure.as_str())
            }
            Evidence::TrafficFailed(failure) => {
                if self.measured == Health::Healthy {
                    self.become_(Health::Suspect);
                }
                Some(failure.as_str())
            }
        };
        self.changed(from, cause, now)
    }

    fn succeeded(&mut self, thresholds: Thresholds) {
        self.failures = 0;
        self.refusals = 0;
        self.is_silent = false;
        match self.measured {
            Health::Healthy => {}
            Health::Starting | Health::Suspect => self.become_(Health::Healthy),
            Health::Unhealthy => {
                self.successes += 1;
                if self.successes >= thresholds.healthy_after {
                    self.memory = Memory::MayHold;
                    self.become_(Health::Healthy);
                }
            }
        }
    }

    fn probe_failed(&mut self, failure: Failure, thresholds: Thresholds) {
        self.successes = 0;
        self.failures = self.failures.saturating_add(1);
        self.refusals = if failure == Failure::Refused { self.refusals.saturating_add(1) } else { 0 };
        self.is_silent = failure == Failure::Silent;
        // A process that was only silent may die later: from then on its sessions are known to be lost.
        if self.refusals >= thresholds.unhealthy_after {
            self.memory = Memory::Gone;
        }
        match self.measured {
            Health::Unhealthy => {}
            _ if self.failures >= thresholds.unhealthy_after => self.become_(Health::Unhealthy),
            Health::Healthy => self.become_(Health::Suspect),
            Health::Starting | Health::Suspect => {}
        }
    }

    fn become_(&mut self, to: Health) {
        self.measured = to;
        self.successes = 0;
    }

    fn changed(&mut self, from: Health, cause: Option<&'static str>, now: Instant) -> Option<Change> {
        let to = self.health();
        if from == to {
            return None;
        }
        self.changed_at = now;
        Some(Change { from, to, cause })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::outliers::{Cause, Stage};
    use super::*;

    const THRESHOLDS: Thresholds = Thresholds { healthy_after: 2, unhealthy_after: 2 };

    fn out(cause: Cause, now: Instant) -> Out {
        Out { cause, since: now, stage: Stage::Until(now + Duration::from_secs(30)) }
    }

    #[test]
    fn health_is_the_worse_of_what_probes_and_what_replies_have_shown() {
        use Health as H;
        let now = Instant::now();
        let failed = Evidence::ProbeFailed(Failure::Silent);
        let rows: [(&[Evidence], Health, Health, Health); 4] = [
            (&[], H::Starting, H::Suspect, H::Unhealthy),
            (&[Evidence::ProbeOk], H::Healthy, H::Suspect, H::Unhealthy),
            (&[failed], H::Starting, H::Suspect, H::Unhealthy),
            (&[failed, failed], H::Unhealthy, H::Unhealthy, H::Unhealthy),
        ];
        for (evidence, measured, by_errors, by_connects) in rows {
            let mut condition = Condition::new(now);
            for evidence in evidence {
                condition.observe(*evidence, THRESHOLDS, now);
            }
            assert_eq!(condition.health(), measured, "{evidence:?}");
            for (cause, expected) in
                [(Cause::Errors, by_errors), (Cause::Slow, by_errors), (Cause::ConnectFailures, by_connects)]
            {
                condition.set_out(Some(out(cause, now)), now);
                assert_eq!((condition.health(), condition.measured()), (expected, measured), "{evidence:?} {cause:?}");
            }
            condition.set_out(None, now);
            assert_eq!(condition.health(), measured);
        }
    }

    #[test]
    fn a_probe_that_succeeds_does_not_end_what_replies_have_shown_and_one_that_fails_counts_all_the_same() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let mut condition = Condition::new(start);
        let probe = |condition: &mut Condition, evidence| condition.observe(evidence, THRESHOLDS, later);
        probe(&mut condition, Evidence::ProbeOk);
        let change = condition.set_out(Some(out(Cause::Errors, start)), start);
        let expected = Change { from: Health::Healthy, to: Health::Suspect, cause: Some("errors") };
        assert_eq!(change, Some(expected));
        assert_eq!(probe(&mut condition, Evidence::ProbeOk), None);
        assert_eq!(condition.changed_at(), start, "nothing changed since");
        let failed = Evidence::ProbeFailed(Failure::Refused);
        assert_eq!(probe(&mut condition, failed), None, "suspect already");
        let expected = Change { from: Health::Suspect, to: Health::Unhealthy, cause: Some("refused") };
        assert_eq!(probe(&mut condition, failed), Some(expected));
        assert_eq!(condition.memory(), Memory::Gone);
        for _ in 0..2 {
            probe(&mut condition, Evidence::ProbeOk);
        }
        assert_eq!(condition.health(), Health::Suspect, "its probes are well, its replies are not known to be");
        let change = condition.set_out(None, later);
        assert_eq!(change, Some(Change { from: Health::Suspect, to: Health::Healthy, cause: None }));
    }

    #[test]
    fn failed_connects_alone_make_a_backend_suspect_and_no_more() {
        let now = Instant::now();
        let mut condition = Condition::new(now);
        let traffic = Evidence::TrafficFailed(Failure::Refused);
        assert_eq!(condition.observe(traffic, THRESHOLDS, now), None, "not measured yet");
        condition.observe(Evidence::ProbeOk, THRESHOLDS, now);
        let change = condition.observe(traffic, THRESHOLDS, now);
        assert_eq!(change.map(|change| (change.to, change.cause)), Some((Health::Suspect, Some("refused"))));
        for _ in 0..100 {
            assert_eq!(condition.observe(traffic, THRESHOLDS, now), None);
        }
    }
}
