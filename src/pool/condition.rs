//! Is a backend usable? Health (measured) × admin state (ordered) → availability.
//!
//! Pure: evidence and time come in as arguments. Traffic and probes feed the same [`Condition`], with one difference:
//! traffic can make a backend suspect, but only probes, which are few and evenly spaced, make it unhealthy. So a burst
//! of failed connects within a millisecond counts as the one event it is.

use tokio::time::Instant;

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
    /// The failure that caused it, `None` when a success did.
    pub cause: Option<Failure>,
}

/// What is known of one backend's health.
#[derive(Clone, Debug)]
pub struct Condition {
    health: Health,
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
            health: Health::Starting,
            memory: Memory::MayHold,
            is_silent: false,
            failures: 0,
            refusals: 0,
            successes: 0,
            changed_at: now,
        }
    }

    /// The current state.
    pub fn health(&self) -> Health {
        self.health
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
        match evidence {
            Evidence::ProbeOk => self.succeeded(thresholds, now),
            Evidence::ProbeFailed(failure) => self.probe_failed(failure, thresholds, now),
            Evidence::TrafficFailed(failure) => match self.health {
                Health::Healthy => self.become_(Health::Suspect, Some(failure), now),
                Health::Starting | Health::Suspect | Health::Unhealthy => None,
            },
        }
    }

    fn succeeded(&mut self, thresholds: Thresholds, now: Instant) -> Option<Change> {
        self.failures = 0;
        self.refusals = 0;
        self.is_silent = false;
        match self.health {
            Health::Healthy => None,
            Health::Starting | Health::Suspect => self.become_(Health::Healthy, None, now),
            Health::Unhealthy => {
                self.successes += 1;
                if self.successes < thresholds.healthy_after {
                    return None;
                }
                self.memory = Memory::MayHold;
                self.become_(Health::Healthy, None, now)
            }
        }
    }

    fn probe_failed(&mut self, failure: Failure, thresholds: Thresholds, now: Instant) -> Option<Change> {
        self.successes = 0;
        self.failures = self.failures.saturating_add(1);
        self.refusals = if failure == Failure::Refused { self.refusals.saturating_add(1) } else { 0 };
        self.is_silent = failure == Failure::Silent;
        // A process that was only silent may die later: from then on its sessions are known to be lost.
        if self.refusals >= thresholds.unhealthy_after {
            self.memory = Memory::Gone;
        }
        match self.health {
            Health::Unhealthy => None,
            _ if self.failures >= thresholds.unhealthy_after => self.become_(Health::Unhealthy, Some(failure), now),
            Health::Healthy => self.become_(Health::Suspect, Some(failure), now),
            Health::Starting | Health::Suspect => None,
        }
    }

    fn become_(&mut self, to: Health, cause: Option<Failure>, now: Instant) -> Option<Change> {
        let from = std::mem::replace(&mut self.health, to);
        self.changed_at = now;
        self.successes = 0;
        Some(Change { from, to, cause })
    }
}
