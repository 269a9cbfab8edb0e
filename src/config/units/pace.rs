//! How fast something is done bit by bit.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{Schema, json_schema};

use super::{Percent, Scalar, scalar};

const UNITS: [(char, f64); 3] = [('s', 1.0), ('m', 60.0), ('h', 3600.0)];

const EXPECTED: &str = "a share for each s, m or h such as 5%/s, 1%/m or 10%/h";

/// A share of a whole for each unit of time, as in `5%/s`, `1%/m` or `10%/h`. Above 0, and at most all of it a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    percent: f64,
    /// Seconds, and the letter they are written with.
    unit: (char, f64),
}

impl Pace {
    /// How fast a drained backend's clients move, where nobody says.
    pub const DRAIN: Self = Self { percent: 5.0, unit: ('s', 1.0) };

    /// The share of the whole that each second may take: above 0, at most 1.
    pub fn per_second(&self) -> f64 {
        self.percent / 100.0 / self.unit.1
    }

    /// For a default.
    pub(in crate::config) fn percent_per(percent: u8, unit: char) -> Self {
        let unit = UNITS.into_iter().find(|(letter, _)| *letter == unit).expect("a unit of the table");
        Self { percent: percent.into(), unit }
    }
}

fn read(text: &str) -> Result<Pace, &'static str> {
    let (share, unit) = text.split_once('/').ok_or(EXPECTED)?;
    let unit = UNITS.into_iter().find(|(letter, _)| unit.trim_start().strip_prefix(*letter) == Some(""));
    let (Some(unit), Some(percent)) = (unit, Percent::number(share.trim_end())) else { return Err(EXPECTED) };
    let pace = Pace { percent, unit };
    let per_second = pace.per_second();
    if per_second > 0.0 && per_second <= 1.0 { Ok(pace) } else { Err("a pace above 0%/s and up to 100%/s") }
}

/// Reads a pace such as `5%/s`; on failure, what was expected and what was found.
impl FromStr for Pace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        read(text).map_err(|expected| format!("expected {expected}, found {text:?}"))
    }
}

/// As it is written in the file.
impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%/{}", self.percent, self.unit.0)
    }
}

impl Scalar for Pace {
    fn expected() -> Cow<'static, str> {
        EXPECTED.into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? *% */ *(s|m|h)$" })
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        read(text).map_err(Cow::from)
    }
}

scalar!(Pace);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_has_a_share_and_a_unit_of_time() {
        for (text, per_second) in [
            ("5%/s", 0.05),
            ("100%/s", 1.0),
            ("0.5%/s", 0.005),
            ("6%/m", 0.001),
            ("6000%/m", 1.0),
            ("36%/h", 0.0001),
            ("5 % / s", 0.05),
        ] {
            let pace: Pace = text.parse().unwrap();
            assert!((pace.per_second() - per_second).abs() < 1e-12, "{text} is {}", pace.per_second());
        }
        for text in
            ["", "5%", "5/s", "%/s", "5%/", "5%/d", "5%/ms", "5%/sec", "-5%/s", "1e1%/s", "inf%/s", "5%/s/s", "/s"]
        {
            assert_eq!(text.parse::<Pace>(), Err(format!("expected {EXPECTED}, found {text:?}")));
        }
        for text in ["0%/s", "100.1%/s", "6001%/m", "0.0%/h"] {
            assert_eq!(
                text.parse::<Pace>(),
                Err(format!("expected a pace above 0%/s and up to 100%/s, found {text:?}"))
            );
        }
    }

    #[test]
    fn a_pace_is_written_as_it_was_given() {
        for text in ["5%/s", "1%/m", "10%/h", "0.25%/s", "6000%/m"] {
            assert_eq!(text.parse::<Pace>().unwrap().to_string(), text);
        }
        assert_eq!(Pace::percent_per(1, 'm').to_string(), "1%/m");
    }
}
