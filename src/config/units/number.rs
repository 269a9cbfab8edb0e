//! Numbers within bounds.

use std::borrow::Cow;
use std::fmt;

use schemars::{Schema, json_schema};

use super::{Scalar, scalar};

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy)]
pub(in crate::config) struct Whole<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Whole<MIN, MAX> {
    pub(in crate::config) fn get(self) -> u32 {
        self.0
    }
}

impl<const MIN: u32, const MAX: u32> Scalar for Whole<MIN, MAX> {
    fn expected() -> Cow<'static, str> {
        format!("{MIN} to {MAX}").into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }

    fn from_number(number: u64) -> Option<Self> {
        u32::try_from(number).ok().filter(|number| (MIN..=MAX).contains(number)).map(Self)
    }
}

scalar!(Whole<MIN, MAX> where const MIN: u32, const MAX: u32);

/// A backend's share relative to the others of its pool. 1 is normal, 0 means pinned clients only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Weight(u32);

impl Weight {
    /// The largest weight.
    pub const MAX: u32 = 1000;

    /// `None` above [`Weight::MAX`].
    pub fn new(weight: u32) -> Option<Self> {
        (weight <= Self::MAX).then_some(Self(weight))
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self(1)
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Scalar for Weight {
    fn expected() -> Cow<'static, str> {
        Whole::<0, { Self::MAX }>::expected()
    }

    fn schema() -> Schema {
        Whole::<0, { Self::MAX }>::schema()
    }

    fn from_number(number: u64) -> Option<Self> {
        u32::try_from(number).ok().and_then(Self::new)
    }
}

scalar!(Weight);

/// When a backend is used: 0 first, others when those before have nobody available.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tier(u8);

impl Tier {
    /// The last tier.
    pub const MAX: u8 = 15;

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl Scalar for Tier {
    fn expected() -> Cow<'static, str> {
        Whole::<0, { Self::MAX as u32 }>::expected()
    }

    fn schema() -> Schema {
        Whole::<0, { Self::MAX as u32 }>::schema()
    }

    fn from_number(number: u64) -> Option<Self> {
        u8::try_from(number).ok().filter(|tier| *tier <= Self::MAX).map(Self)
    }
}

scalar!(Tier);

/// A share of 0 to 100 percent, written `20%`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Percent(f64);

impl Percent {
    /// `None` when it is not within 0 to 100.
    pub fn new(percent: f64) -> Option<Self> {
        (0.0..=100.0).contains(&percent).then_some(Self(percent))
    }

    /// The number of `20%`, whatever its bounds. Digits and one point only: `f64` would also read `inf`, `1e1` and `+5`.
    pub(super) fn number(text: &str) -> Option<f64> {
        let number = text.strip_suffix('%')?.trim_end();
        let is_plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        if is_plain { number.parse().ok() } else { None }
    }

    /// 0 to 1.
    pub fn fraction(self) -> f64 {
        self.0 / 100.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl Scalar for Percent {
    fn expected() -> Cow<'static, str> {
        "0% to 100%".into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?%$" })
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        Self::number(text).and_then(Self::new).ok_or_else(Self::expected)
    }
}

scalar!(Percent);

/// How much more than an even share: 1.05 to 10.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::config) struct Ratio(pub(in crate::config) f64);

impl Scalar for Ratio {
    fn expected() -> Cow<'static, str> {
        "1.05 to 10".into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "number", "minimum": 1.05, "maximum": 10 })
    }

    fn from_number(number: u64) -> Option<Self> {
        u32::try_from(number).ok().and_then(|number| Self::from_float(number.into()))
    }

    fn from_float(number: f64) -> Option<Self> {
        (1.05..=10.0).contains(&number).then_some(Self(number))
    }
}

scalar!(Ratio);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_at_most_1000() {
        assert_eq!(Weight::new(1000).map(Weight::get), Some(1000));
        assert_eq!(Weight::new(1001), None);
        assert_eq!(Weight::default().get(), 1);
    }

    #[test]
    fn a_ratio_is_whole_or_not() {
        for number in [1.05, 1.25, 10.0] {
            assert_eq!(Ratio::from_float(number), Some(Ratio(number)));
        }
        for number in [1.04, 10.1, -2.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Ratio::from_float(number), None);
        }
        assert_eq!(Ratio::from_number(2), Some(Ratio(2.0)));
        assert_eq!((Ratio::from_number(1), Ratio::from_number(u64::MAX)), (None, None));
    }

    #[test]
    fn a_percentage_is_written_with_its_sign() {
        for (text, fraction) in [("0%", 0.0), ("20%", 0.2), ("12.5 %", 0.125), ("100%", 1.0)] {
            assert_eq!(Percent::from_text(text).map(Percent::fraction), Ok(fraction), "{text}");
        }
        for text in ["", "%", "20", "101%", "-1%", "1e1%", "inf%", "NaN%", ".%", "1.2.3%"] {
            assert_eq!(Percent::from_text(text), Err("0% to 100%".into()), "{text}");
        }
    }
}
