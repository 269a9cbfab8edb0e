//! How fast something is done: a share of the whole in a time, as in `5%/s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Units of time, with their seconds.
const UNITS: [(&str, f64); 3] = [("s", 1.0), ("m", 60.0), ("h", 3600.0)];

/// A share of the whole in each second. Above nothing, and at most all of it.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Pace {
    per_second: f64,
}

impl Pace {
    /// How fast a drained backend's clients move, where the order does not say.
    pub const DRAIN: Self = Self { per_second: 0.05 };

    /// `None` unless it is above 0 and at most 1.
    pub fn new(per_second: f64) -> Option<Self> {
        (per_second > 0.0 && per_second <= 1.0).then_some(Self { per_second })
    }

    /// The share of the whole, 0 to 1.
    pub fn per_second(self) -> f64 {
        self.per_second
    }

    /// How long this share of the whole takes; a century when it is longer than that.
    pub fn time_for(self, share: f64) -> Duration {
        const LONGEST: f64 = 100.0 * 365.0 * 86_400.0;
        Duration::from_secs_f64((share / self.per_second).clamp(0.0, LONGEST))
    }
}

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAPace;

impl fmt::Display for NotAPace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a share and a time (s, m or h) such as 5%/s or 1%/m, above 0 and at most 100%/s")
    }
}

impl std::error::Error for NotAPace {}

impl FromStr for Pace {
    type Err = NotAPace;

    fn from_str(text: &str) -> Result<Self, NotAPace> {
        let (share, unit) = text.split_once('/').ok_or(NotAPace)?;
        let percent = share.trim_end().strip_suffix('%').map(str::trim_end).ok_or(NotAPace)?;
        let (_, seconds) = UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or(NotAPace)?;
        // Digits and one point only: `f64` would also read `inf`, `1e1` and `+5`.
        let is_plain = percent.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let percent: f64 = percent.parse().ok().filter(|_| is_plain).ok_or(NotAPace)?;
        Self::new(percent / 100.0 / seconds).ok_or(NotAPace)
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The shortest time of which the share takes few digits.
        let written = |(unit, seconds): (&'static str, f64)| {
            let percent = self.per_second * 100.0 * seconds;
            let tidy = (percent * 1e4).round() / 1e4;
            ((percent - tidy).abs() < 1e-9, tidy, unit)
        };
        let all = UNITS.map(written);
        let (_, percent, unit) = all.into_iter().find(|(is_tidy, ..)| *is_tidy).unwrap_or_else(|| {
            let (unit, seconds) = UNITS[UNITS.len() - 1];
            (false, self.per_second * 100.0 * seconds, unit)
        });
        write!(f, "{percent}%/{unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_a_share_and_a_time() {
        let per_hour = 1.0 / 3600.0;
        for (text, per_second, written) in [
            ("5%/s", 0.05, "5%/s"),
            ("100%/s", 1.0, "100%/s"),
            ("0.5 % / s", 0.005, "0.5%/s"),
            ("1%/m", 0.01 / 60.0, "1%/m"),
            ("60%/m", 0.01, "1%/s"),
            ("1%/h", 0.01 * per_hour, "1%/h"),
            ("12.5%/m", 0.125 / 60.0, "12.5%/m"),
        ] {
            let pace: Pace = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert!((pace.per_second() / per_second - 1.0).abs() < 1e-12, "{text}: {pace:?}");
            assert_eq!(pace.to_string(), written);
        }
        for text in ["", "5%", "5/s", "%/s", "0%/s", "101%/s", "-5%/s", "5%/d", "5%/", "inf%/s", "1e1%/s", "5%/s/s"] {
            assert_eq!(text.parse::<Pace>(), Err(NotAPace), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for per_second in [0.05, 0.01 / 60.0, 1.0 / 3600.0, 0.123_456_789, 1e-7, 1.0] {
            let pace = Pace::new(per_second).expect("in range");
            let again: Pace = pace.to_string().parse().unwrap_or_else(|error| panic!("{pace}: {error}"));
            assert!((again.per_second() / per_second - 1.0).abs() < 1e-3, "{pace}");
            assert_eq!(again.to_string(), pace.to_string());
        }
    }

    #[test]
    fn the_time_for_a_share_is_bounded() {
        assert_eq!(Pace::DRAIN.time_for(1.0), Duration::from_secs(20));
        assert_eq!(Pace::DRAIN.time_for(-1.0), Duration::ZERO);
        assert!(Pace::new(1e-300).expect("above 0").time_for(1.0) < Duration::from_secs(4_000_000_000));
    }
}
