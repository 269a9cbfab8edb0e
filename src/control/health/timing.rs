//! When is the next probe? Pure: time and chance come in as arguments.

use std::time::Duration;

use tokio::time::Instant;

use crate::config;
use crate::pool::Health;

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It succeeded.
    Succeeded,
    /// It failed.
    Failed,
    /// It was refused, but not often enough in a row to know that the process is gone.
    RefusedOnly,
    /// It could not be made, which says nothing of the backend.
    Skipped,
}

/// The last probe, as far as it decides about the next one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Last {
    /// When it began.
    pub(super) started: Instant,
    /// What became of it.
    pub(super) outcome: Outcome,
    /// Whether it was made before its turn.
    pub(super) hurried: bool,
}

/// The intervals of one backend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    interval: Duration,
    suspect_interval: Duration,
    unhealthy_interval: Duration,
    /// `false`: a healthy backend is left alone until a request fails there.
    probes_healthy: bool,
}

impl Timing {
    /// The intervals of these settings.
    pub(super) fn of(settings: &config::Health) -> Self {
        Self {
            interval: settings.interval.clamp(SHORTEST, LONGEST),
            suspect_interval: settings.suspect_interval.clamp(SHORTEST, LONGEST),
            unhealthy_interval: settings.unhealthy_interval.clamp(SHORTEST, LONGEST),
            probes_healthy: settings.probe != config::Probe::Off,
        }
    }

    /// How long the first probe waits, as number `index` of `count` that begin together.
    ///
    /// At once when there are few. Many are spread evenly, so that they are no burst, over at most one interval.
    pub(super) fn first(&self, index: usize, count: usize, chance: f64) -> Duration {
        let count = u32::try_from(count.max(1)).unwrap_or(u32::MAX);
        let spread = self.interval.min(SPREAD_PER_BACKEND.saturating_mul(count));
        spread.mul_f64(((index as f64 + chance) / f64::from(count)).clamp(0.0, 1.0))
    }

    /// When the probe after this one is due, given the backend's health after it; `None`: not before it is asked for.
    ///
    /// Counted from the start of the last one, so that slow answers do not stretch the interval. `chance` is 0 to 1 and
    /// moves the interval by up to 10 % either way, so that probes which began together do not stay together.
    pub(super) fn next(&self, last: Last, health: Health, chance: f64) -> Option<Instant> {
        let interval = match health {
            Health::Starting | Health::Suspect => self.suspect_interval,
            // On its way back, or about to be known as gone: quickly, for its clients wait to go home or to be rehomed.
            Health::Unhealthy if matches!(last.outcome, Outcome::Succeeded | Outcome::RefusedOnly) => {
                self.suspect_interval
            }
            Health::Unhealthy => self.unhealthy_interval,
            Health::Healthy if !self.probes_healthy => return None,
            Health::Healthy => self.interval,
        };
        Some(last.started + interval.mul_f64((1.0 - JITTER) + 2.0 * JITTER * chance))
    }

    /// When a probe is made that somebody asked for at `now`, because a request failed.
    ///
    /// At once, but only the first time: after a failed probe, or one that was itself made before its turn, the distance
    /// is kept. So a burst of failed requests makes one probe, and cannot use up `unhealthy_after` within a millisecond.
    /// A backend that is not probed while healthy gets a moment to come back first.
    pub(super) fn hurried(&self, last: Option<Last>, now: Instant) -> Instant {
        match last {
            _ if !self.probes_healthy => now + self.suspect_interval,
            Some(last) if last.hurried || last.outcome != Outcome::Succeeded => {
                now.max(last.started + self.suspect_interval)
            }
            Some(_) | None => now,
        }
    }
}

/// The interval moves by up to this share either way.
const JITTER: f64 = 0.1;

/// Ten thousand probes a second at most when many backends begin together.
const SPREAD_PER_BACKEND: Duration = Duration::from_micros(100);

/// An interval of zero would spin.
const SHORTEST: Duration = Duration::from_millis(1);

/// A year. Far longer ones would overflow what is added to them.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(2);
    const SUSPECT: Duration = Duration::from_millis(200);
    const UNHEALTHY: Duration = Duration::from_secs(5);
    const TIMING: Timing =
        Timing { interval: INTERVAL, suspect_interval: SUSPECT, unhealthy_interval: UNHEALTHY, probes_healthy: true };
    const OFF: Timing = Timing { probes_healthy: false, ..TIMING };

    fn last(started: Instant, outcome: Outcome) -> Last {
        Last { started, outcome, hurried: false }
    }

    #[test]
    fn the_next_probe_is_due_as_health_says() {
        use Health as H;
        use Outcome as O;
        let start = Instant::now();
        let rows = [
            (H::Healthy, O::Succeeded, INTERVAL),
            (H::Healthy, O::Skipped, INTERVAL),
            (H::Starting, O::Failed, SUSPECT),
            (H::Starting, O::Skipped, SUSPECT),
            (H::Suspect, O::Failed, SUSPECT),
            // A request failed while the probe was under way and succeeded.
            (H::Suspect, O::Succeeded, SUSPECT),
            (H::Suspect, O::Skipped, SUSPECT),
            (H::Unhealthy, O::Failed, UNHEALTHY),
            // The probe under way when the process died was broken off, so one refusal is missing.
            (H::Unhealthy, O::RefusedOnly, SUSPECT),
            (H::Unhealthy, O::Skipped, UNHEALTHY),
            (H::Unhealthy, O::Succeeded, SUSPECT),
        ];
        for (health, outcome, interval) in rows {
            let due = TIMING.next(last(start, outcome), health, 0.5).map(|due| due - start);
            assert_eq!(due, Some(interval), "{health:?} after {outcome:?}");
        }
    }

    #[test]
    fn the_jitter_is_a_tenth_either_way() {
        let start = Instant::now();
        let after = |chance| TIMING.next(last(start, Outcome::Succeeded), Health::Healthy, chance).unwrap() - start;
        assert_eq!(after(0.0), Duration::from_millis(1800));
        assert!(after(1.0).abs_diff(Duration::from_millis(2200)) < Duration::from_micros(1));
    }

    #[test]
    fn a_pool_without_probes_probes_only_what_is_not_healthy() {
        let start = Instant::now();
        assert_eq!(OFF.next(last(start, Outcome::Succeeded), Health::Healthy, 0.5), None);
        assert_eq!(OFF.next(last(start, Outcome::Failed), Health::Suspect, 0.5), Some(start + SUSPECT));
        assert_eq!(OFF.next(last(start, Outcome::Failed), Health::Unhealthy, 0.5), Some(start + UNHEALTHY));
        assert_eq!(OFF.hurried(None, start), start + SUSPECT);
    }

    #[test]
    fn a_hurried_probe_is_made_at_once_but_not_twice() {
        let start = Instant::now();
        let now = start + Duration::from_millis(1);
        let later = start + SUSPECT;
        let rows = [
            (None, now),
            (Some(last(start, Outcome::Succeeded)), now),
            (Some(Last { hurried: true, ..last(start, Outcome::Succeeded) }), later),
            (Some(last(start, Outcome::Failed)), later),
            (Some(last(start, Outcome::Skipped)), later),
        ];
        for (last, expected) in rows {
            assert_eq!(TIMING.hurried(last, now), expected, "{last:?}");
        }
        let long_ago = Last { hurried: true, ..last(start, Outcome::Failed) };
        assert_eq!(TIMING.hurried(Some(long_ago), start + INTERVAL), start + INTERVAL);
    }

    #[test]
    fn first_probes_are_spread_when_many_begin_together() {
        assert!(TIMING.first(0, 1, 0.999) < Duration::from_millis(1));
        // 1,000 within 100 ms.
        assert_eq!(TIMING.first(500, 1_000, 0.0), Duration::from_millis(50));
        // 10,000 within a second, in every tenth of it a tenth of them.
        let mut tenths = [0; 10];
        for index in 0..10_000 {
            let tenth = TIMING.first(index, 10_000, 0.5).as_millis() / 100;
            tenths[usize::try_from(tenth).unwrap()] += 1;
        }
        assert_eq!(tenths, [1_000; 10]);
        // However many, within one interval.
        assert!(TIMING.first(999_999, 1_000_000, 1.0) <= INTERVAL);
    }

    #[test]
    fn senseless_intervals_neither_spin_nor_panic() {
        let settings = config::Health {
            interval: Duration::MAX,
            suspect_interval: Duration::ZERO,
            unhealthy_interval: Duration::ZERO,
            timeout: Duration::ZERO,
            healthy_after: 0,
            unhealthy_after: 0,
            ..config::Health::default()
        };
        let timing = Timing::of(&settings);
        let start = Instant::now();
        assert!(timing.next(last(start, Outcome::Failed), Health::Suspect, 0.0) > Some(start));
        assert_eq!(timing.next(last(start, Outcome::Succeeded), Health::Healthy, 0.5), Some(start + LONGEST));
        assert!(timing.first(9, 10, 1.0) <= Duration::from_millis(1));
    }
}
