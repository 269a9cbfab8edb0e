//! One drain of one backend: who leaves when, and when it will be over. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Pace;

/// What an operator orders.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DrainOrder {
    /// When whoever is left has to go; `None`: never.
    pub deadline: Option<Instant>,
    /// How fast clients move: where their sessions allow it from the order on, else from the deadline on.
    pub pace: Pace,
}

/// A drain in progress.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drain {
    /// When it was ordered.
    pub since: Instant,
    /// When whoever is left has to go; `None`: never.
    pub deadline: Option<Instant>,
    /// How fast clients move.
    pub pace: Pace,
    /// Since when nobody is left.
    pub drained: Option<Instant>,
    /// Pins that went in a second lately; `None` as long as there is no telling.
    pub decline: Option<f64>,
    /// It was ordered before this process began, so that clients may be left who have not been seen yet.
    pub is_restored: bool,
    /// Since when the present pace is kept, and the share of pins whose turn had come by then.
    paced_since: Instant,
    turned_before: f64,
}

/// How the clients of a draining backend leave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// They move when their turn comes.
    InTurn,
    /// They stay; from the deadline on they move when their turn comes.
    AtDeadline,
    /// They stay: there is nobody to go to.
    Never,
}

impl Drain {
    /// Begins one, or goes on with the one `before` under another order.
    pub(super) fn ordered(before: Option<Self>, order: DrainOrder, now: Instant) -> Self {
        let DrainOrder { deadline, pace } = order;
        match before {
            // At another pace it goes on from where it is: whoever has a turn already keeps it, nobody else gets one.
            Some(drain) if drain.pace != pace => {
                Self { deadline, pace, paced_since: now, turned_before: drain.turned(now), ..drain }
            }
            Some(drain) => Self { deadline, ..drain },
            None => Self {
                since: now,
                deadline,
                pace,
                drained: None,
                decline: None,
                is_restored: false,
                paced_since: now,
                turned_before: 0.0,
            },
        }
    }

    /// The same, ordered before this process began.
    pub(super) fn restored(self) -> Self {
        Self { is_restored: true, ..self }
    }

    /// The moment from which turns are counted at the present pace, and the share whose turn had come by then.
    pub(super) fn turns(&self) -> (Instant, f64) {
        (self.paced_since, self.turned_before)
    }

    /// The share of pins whose turn to move has come, where sessions allow it.
    fn turned(&self, now: Instant) -> f64 {
        let paced = now.saturating_duration_since(self.paced_since).as_secs_f64() * self.pace.per_second();
        (self.turned_before + paced).min(1.0)
    }

    /// When the last one is expected to be gone; `None` when there is no telling, or nobody is left.
    pub fn eta(&self, left: u64, leaving: Leaving, idle_timeout: Duration, now: Instant) -> Option<Instant> {
        if left == 0 || self.drained.is_some() {
            return None;
        }
        let last_turn = match leaving {
            Leaving::InTurn => Some(self.paced_since + time_for(1.0 - self.turned_before, self.pace.per_second())),
            Leaving::AtDeadline => self.deadline.map(|deadline| deadline + time_for(1.0, self.pace.per_second())),
            Leaving::Never => None,
        };
        if leaving == Leaving::InTurn && last_turn.is_some_and(|last| last > now) {
            return last_turn;
        }
        // After the last turn only those are left that have not come since; they cease to be active one by one.
        let latest = last_turn.map(|last| if last > now { last } else { last + idle_timeout * 5 / 4 });
        let by_decline = self.decline.map(|decline| {
            // A century is never, too.
            now + Duration::from_secs_f64((left as f64 / decline).min(3.2e9))
        });
        let earliest = [latest, by_decline].into_iter().flatten().min();
        earliest.filter(|eta| *eta > now)
    }
}

/// How many pins were left, over the time of one drain: the more of it there is, the fewer samples a minute.
#[derive(Debug)]
pub(super) struct History {
    samples: Vec<(Instant, u64)>,
    spacing: Duration,
}

impl History {
    const SAMPLES: usize = 64;
    const FIRST_SPACING: Duration = Duration::from_secs(1);
    /// From less than this nothing is concluded.
    const LEAST: Duration = Duration::from_secs(5);

    pub(super) fn new() -> Self {
        Self { samples: Vec::new(), spacing: Self::FIRST_SPACING }
    }

    /// Notes how many are left.
    pub(super) fn note(&mut self, pins: u64, now: Instant) {
        if self.samples.last().is_some_and(|(at, _)| now.saturating_duration_since(*at) < self.spacing) {
            return;
        }
        if self.samples.len() == Self::SAMPLES {
            let mut is_kept = false;
            self.samples.retain(|_| {
                is_kept = !is_kept;
                is_kept
            });
            self.spacing *= 2;
        }
        self.samples.push((now, pins));
    }

    /// Pins that went in a second, over the later half of the time so far; `None` when they did not get fewer.
    pub(super) fn decline(&self, pins: u64, now: Instant) -> Option<f64> {
        let (begun, _) = *self.samples.first()?;
        let half = now.saturating_duration_since(begun) / 2;
        let (at, before) = *self.samples.iter().find(|(at, _)| at.saturating_duration_since(begun) >= half)?;
        let time = now.saturating_duration_since(at);
        (time >= Self::LEAST / 2 && half >= Self::LEAST / 2 && before > pins)
            .then(|| (before - pins) as f64 / time.as_secs_f64())
    }
}

/// How long this share of the whole takes at so much of it a second; a century when it is longer than that.
pub fn time_for(share: f64, per_second: f64) -> Duration {
    const LONGEST: f64 = 100.0 * 365.0 * 86_400.0;
    // Without a pace it never is: the division gives infinity, or for nothing at all no number.
    let seconds = if per_second > 0.0 { share / per_second } else { LONGEST };
    Duration::from_secs_f64(seconds.clamp(0.0, LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(1800);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_changed_pace_goes_on_from_where_the_drain_is() {
        let start = Instant::now();
        let slow = DrainOrder { deadline: None, pace: "1%/s".parse().expect("a pace") };
        let drain = Drain::ordered(None, slow, start);
        assert!((drain.turned(start + seconds(30)) - 0.3).abs() < 1e-9);
        let fast = DrainOrder { pace: "10%/s".parse().expect("a pace"), ..slow };
        let drain = Drain::ordered(Some(drain), fast, start + seconds(30));
        assert_eq!(drain.since, start);
        for (after, share) in [(30, 0.3), (32, 0.5), (37, 1.0), (60, 1.0)] {
            assert!((drain.turned(start + seconds(after)) - share).abs() < 1e-9, "{after}");
        }
        let same = Drain::ordered(Some(drain), fast, start + seconds(50));
        assert_eq!(same.turns(), drain.turns());
    }

    #[test]
    fn the_end_follows_from_the_pace_the_decline_and_the_deadline() {
        use Leaving::{AtDeadline, InTurn, Never};
        let start = Instant::now();
        let drain = |deadline: Option<u64>, decline| {
            let order = DrainOrder { deadline: deadline.map(|after| start + seconds(after)), pace: Pace::DRAIN };
            Drain { decline, ..Drain::ordered(None, order, start) }
        };
        let rows = [
            // Deadline, decline, leaving, now, left, expected end.
            (None, None, InTurn, 5, 10, Some(20)),
            (Some(600), Some(0.1), InTurn, 5, 10, Some(20)),
            (None, None, InTurn, 25, 3, Some(20 + 2250)),
            (None, Some(0.1), InTurn, 25, 3, Some(55)),
            (None, None, AtDeadline, 5, 10, None),
            (None, Some(2.0), AtDeadline, 5, 10, Some(10)),
            (Some(600), None, AtDeadline, 5, 10, Some(620)),
            (Some(600), Some(0.01), AtDeadline, 5, 10, Some(620)),
            (Some(600), Some(1.0), AtDeadline, 5, 10, Some(15)),
            (Some(600), None, AtDeadline, 610, 10, Some(620)),
            (Some(600), None, AtDeadline, 630, 1, Some(620 + 2250)),
            (Some(600), None, AtDeadline, 6000, 1, None),
            (Some(600), None, Never, 5, 10, None),
            (Some(600), Some(1.0), Never, 5, 10, Some(15)),
            (None, Some(1.0), InTurn, 5, 0, None),
        ];
        for (deadline, decline, leaving, now, left, expected) in rows {
            let eta = drain(deadline, decline).eta(left, leaving, IDLE, start + seconds(now));
            let eta = eta.map(|eta| eta.duration_since(start).as_secs());
            assert_eq!(eta, expected, "{deadline:?} {decline:?} {leaving:?} at {now}, {left} left");
        }
    }

    #[test]
    fn a_steady_decline_is_measured_however_long_it_takes() {
        let start = Instant::now();
        let mut history = History::new();
        assert_eq!(history.decline(10, start), None);
        for second in 0..10_000 {
            let (now, left) = (start + seconds(second), 20_000 - 2 * second);
            history.note(left, now);
            let decline = history.decline(left, now);
            assert_eq!(decline.is_some(), second > 5, "{second}");
            assert!(decline.is_none_or(|decline| (decline - 2.0).abs() < 1e-9), "{decline:?} at {second}");
            assert!(history.samples.len() <= History::SAMPLES);
        }
        assert_eq!(history.decline(20_000, start + seconds(10_000)), None, "more than before");
    }
}
