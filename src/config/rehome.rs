//! What happens to a pin whose home cannot serve it, and when pins leave a home that could.

use std::sync::Arc;
use std::time::Duration;

use super::Pace;

/// What happens to a pin whose home cannot serve it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rehome {
    /// The rule.
    pub when_unavailable: WhenUnavailable,
    /// What the rule is in single cases.
    pub when: When,
    /// A pinned request waits this long for its home first.
    pub wait: Duration,
    /// With [`Sessions::Backup`](super::Sessions::Backup), the parallel requests of one client wait at most this long for
    /// the reply to the first one at a new home; zero means not at all.
    pub gate: Duration,
    /// How long a home that is out of reach, and may still hold its sessions, is remembered.
    pub hold_home: Duration,
    /// What a client gets whose session is lost, once.
    pub on_session_lost: OnSessionLost,
}

/// When pins of healthy backends are moved to even out load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rebalance {
    /// A backend gives pins away while it has this many times its share: 1.05 to 10.
    pub when_above: f64,
    /// How fast, as a share of the pool's pins.
    pub pace: Pace,
    /// A pin is moved only when its client has been silent for this long.
    pub idle_for: Duration,
}

/// See [`Rehome::on_session_lost`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnSessionLost {
    /// Its request is served by the new home, which is told by a header.
    Forward,
    /// This status, without asking a backend.
    Status(http::StatusCode),
    /// A redirect to this target, usually a page of the app's.
    Redirect(Arc<str>),
}

/// Cells of the table of `sessions` that the pool overrides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct When {
    /// The home is full.
    pub busy: Option<Briefly>,
    /// It failed a moment ago.
    pub suspect: Option<Briefly>,
    /// It failed this very request.
    pub connect_failed: Option<Briefly>,
    /// It is out of reach.
    pub unreachable: Option<Away>,
    /// The operator disabled it.
    pub disabled: Option<Away>,
    /// The operator drains it.
    pub draining: Option<Drained>,
    /// Its process is gone.
    pub gone: Option<Away>,
    /// It was out of reach for longer than `hold_home`.
    pub hold_over: Option<Away>,
}

/// What may be done while a home cannot serve for a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Briefly {
    /// Wait for it as long as the pool says, then serve the request elsewhere.
    Wait,
    /// Serve the request elsewhere.
    Detour,
    /// 503.
    Refuse,
}

/// What may be done while a home is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Away {
    /// Serve requests elsewhere; the pin stays.
    Detour,
    /// Move the pin.
    Rehome,
    /// 503.
    Refuse,
}

/// What may be done while a home is drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Its clients stay, until the deadline if there is one.
    Keep,
    /// They move, at the pace of the drain.
    Rehome,
}

/// See [`Rehome::when_unavailable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenUnavailable {
    /// What the table of `sessions` says.
    Rehome,
    /// The pin never moves; requests are served elsewhere meanwhile.
    Detour,
    /// 503 until the home is back.
    Refuse,
}
