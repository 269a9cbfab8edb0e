//! Numbers of bytes, always written with their unit.

use std::borrow::Cow;

use schemars::{Schema, json_schema};

use super::{Scalar, scalar};

const UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("B", 1),
];

const EXPECTED: &str = "a size with its unit (B, KiB, MiB, KB or MB) such as 512B, 64KiB or 1MiB";

/// A number of bytes from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) struct Size<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Size<MIN, MAX> {
    pub(in crate::config) fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<const MIN: u64, const MAX: u64> Scalar for Size<MIN, MAX> {
    fn expected() -> Cow<'static, str> {
        EXPECTED.into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+ *(B|KB|MB|GB|KiB|MiB|GiB)$" })
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = UNITS.iter().find(|(name, _)| *name == unit.trim_start());
        let (Some((_, size)), false) = (unit, number.is_empty()) else { return Err(EXPECTED.into()) };
        let bytes = number.parse().ok().and_then(|number: u64| number.checked_mul(*size));
        bytes
            .filter(|bytes| (MIN..=MAX).contains(bytes))
            .map(Self)
            .ok_or_else(|| format!("{} to {}", written(MIN), written(MAX)).into())
    }
}

scalar!(Size<MIN, MAX> where const MIN: u64, const MAX: u64);

/// The shortest way to write a size, in powers of 1024.
fn written(bytes: u64) -> String {
    let (unit, size) =
        UNITS[..3].iter().find(|(_, size)| bytes > 0 && bytes.is_multiple_of(*size)).unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_a_number_and_a_unit() {
        type Any = Size<0, { u64::MAX }>;
        for (text, bytes) in
            [("0B", 0), ("512B", 512), ("64KiB", 65_536), ("1MiB", 1 << 20), ("2 KB", 2000), ("3MB", 3_000_000)]
        {
            assert_eq!(Any::from_text(text).map(Any::bytes), Ok(bytes), "{text}");
        }
        for text in ["", "64", "KiB", "-1B", "1.5KiB", "64kb", "64K"] {
            assert_eq!(Any::from_text(text), Err(EXPECTED.into()), "{text}");
        }
        assert!(Any::from_text("99999999999GiB").is_err());
        assert_eq!(Size::<8192, 1_048_576>::from_text("1B"), Err("8KiB to 1MiB".into()));
    }
}
