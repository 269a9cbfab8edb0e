//! Durations, always written with their unit.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{Schema, json_schema};

use super::{Scalar, scalar};
use crate::config;

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Adding it to the time of day must not overflow; nobody waits longer.
const LONGEST: Duration = Duration::from_secs(3650 * 86_400);

const EXPECTED: &str = "a duration with its unit (ms, s, m, h or d) such as 500ms, 2s, 30m, 12h or 1d";

/// Reads a duration such as `500ms`, `2s`, `30m`, `12h` or `1d`.
///
/// # Errors
/// What was expected and what was found.
pub fn duration(text: &str) -> Result<Duration, String> {
    read(text).map_err(|expected| format!("expected {expected}, found {text:?}"))
}

fn read(text: &str) -> Result<Duration, &'static str> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = UNITS.iter().find(|(name, _)| *name == unit.trim_start());
    let (Some((_, millis)), false) = (unit, number.is_empty()) else { return Err(EXPECTED) };
    let duration = number.parse().ok().and_then(|number: u64| number.checked_mul(*millis)).map(Duration::from_millis);
    duration.filter(|duration| *duration <= LONGEST).ok_or("a duration of at most 3650d")
}

/// The shortest way to write a duration of whole milliseconds.
pub fn written(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    let (unit, size) =
        UNITS.iter().find(|(_, size)| millis.is_multiple_of(u128::from(*size))).expect("all are whole milliseconds");
    format!("{}{unit}", millis / u128::from(*size))
}

/// A duration; `0s` is one.
#[derive(Clone, Copy)]
pub(in crate::config) struct Time(pub(in crate::config) Duration);

impl Scalar for Time {
    fn expected() -> Cow<'static, str> {
        EXPECTED.into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+ *(ms|s|m|h|d)$" })
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        read(text).map(Self).map_err(Cow::from)
    }
}

scalar!(Time);

/// A duration longer than none.
#[derive(Clone, Copy)]
pub(in crate::config) struct NonZeroTime(pub(in crate::config) Duration);

impl Scalar for NonZeroTime {
    fn expected() -> Cow<'static, str> {
        EXPECTED.into()
    }

    fn schema() -> Schema {
        Time::schema()
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        match read(text)? {
            Duration::ZERO => Err("a duration above 0s".into()),
            duration => Ok(Self(duration)),
        }
    }
}

scalar!(NonZeroTime);

/// When a second backend is asked.
#[derive(Clone, Copy)]
pub(in crate::config) enum HedgeAfter {
    /// Never.
    Off,
    /// After this.
    After(config::HedgeAfter),
}

impl HedgeAfter {
    const EXPECTED: &str = "off, a percentile from p50 to p99, or a duration such as 200ms";
}

impl Scalar for HedgeAfter {
    fn expected() -> Cow<'static, str> {
        Self::EXPECTED.into()
    }

    fn schema() -> Schema {
        json_schema!({ "pattern": "^(off|p[5-9][0-9]|[0-9]+ *(ms|s|m|h|d))$" })
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let after = match text.strip_prefix('p').map(str::parse::<u8>) {
            Some(Ok(percentile @ 50..=99)) => config::HedgeAfter::Percentile(percentile),
            Some(_) => return Err(Self::EXPECTED.into()),
            None => match NonZeroTime::from_text(text) {
                Ok(NonZeroTime(time)) => config::HedgeAfter::Time(time),
                Err(_) => return Err(Self::EXPECTED.into()),
            },
        };
        Ok(Self::After(after))
    }

    fn from_bool(value: bool) -> Option<Self> {
        // YAML 1.1 writes `off` as `false`.
        (!value).then_some(Self::Off)
    }
}

scalar!(HedgeAfter);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_number_and_a_unit() {
        for (text, millis) in [
            ("500ms", 500),
            ("2s", 2000),
            ("30m", 1_800_000),
            ("12h", 43_200_000),
            ("1d", 86_400_000),
            ("0s", 0),
            ("5 s", 5000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1.5s", "5sec", "5S", "٣s", " 5s", "1h30m"] {
            assert_eq!(duration(text), Err(format!("expected {EXPECTED}, found {text:?}")));
        }
        for text in ["3651d", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(duration(text), Err(format!("expected a duration of at most 3650d, found {text:?}")));
        }
        assert!(NonZeroTime::from_text("0ms").is_err());
    }

    #[test]
    fn a_duration_is_written_with_its_largest_whole_unit() {
        for text in ["0s", "500ms", "90s", "2m", "36h", "7d"] {
            assert_eq!(written(duration(text).unwrap()), text);
        }
    }
}
