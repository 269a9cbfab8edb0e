//! Keys and values as they stand in the store; the formats are in the doc of [`super`].

use std::fmt::Write as _;

use crate::pins::{PinKey, Record};

/// The key of a pin of this pool.
pub(super) fn key(pool: &str, key: PinKey) -> String {
    format!("{PREFIX}{{{pool}}}:{:032x}", key.0)
}

/// What [`key`] was made of.
pub(super) fn parse_key(text: &str) -> Option<(&str, PinKey)> {
    let (pool, digits) = text.strip_prefix(PREFIX)?.strip_prefix('{')?.rsplit_once("}:")?;
    (digits.len() == 32).then_some(())?;
    Some((pool, PinKey(hex(digits)?)))
}

/// The value of a pin.
pub(super) fn encode(record: &Record) -> String {
    let Record { home, pin, instance, issued, refreshed, detour } = record;
    let mut text = format!("1:{home:016x}:{pin:016x}:{instance:08x}:{issued:08x}:{refreshed:08x}");
    if let Some((to, since)) = detour {
        // Writing to a `String` cannot fail.
        let _ = write!(text, ":{to:016x}:{since:08x}");
    }
    text
}

/// What [`encode`] was given; `None` for anything else, which counts as unknown.
pub(super) fn decode(value: &[u8]) -> Option<Record> {
    let text = str::from_utf8(value).ok()?;
    let mut fields = text.strip_prefix("1:")?.split(':');
    let mut field = |digits: usize| fields.next().filter(|field| field.len() == digits).and_then(hex);
    let home = narrow(field(16)?)?;
    let pin = narrow(field(16)?)?;
    let instance = narrow(field(8)?)?;
    let issued = narrow(field(8)?)?;
    let refreshed = narrow(field(8)?)?;
    let detour = match text.len() {
        PLAIN => None,
        DETOURED => Some((narrow(field(16)?)?, narrow(field(8)?)?)),
        _ => return None,
    };
    Some(Record { home, pin, instance, issued, refreshed, detour })
}

/// Lower-case digits only: `from_str_radix` alone would take a sign too.
fn hex(digits: &str) -> Option<u128> {
    digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')).then_some(())?;
    u128::from_str_radix(digits, 16).ok()
}

fn narrow<T: TryFrom<u128>>(number: u128) -> Option<T> {
    T::try_from(number).ok()
}

/// The number is the version of keys and values.
const PREFIX: &str = "stickpin:1:";

/// Length of a value without a detour, and of one with.
const PLAIN: usize = 62;
const DETOURED: usize = 88;

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: Record = Record {
        home: 0xfeed_0000_0000_0001,
        pin: 0x00c0_ffee_0000_0002,
        instance: 7,
        issued: 0x6750_0000,
        refreshed: 0x6750_00ff,
        detour: None,
    };

    #[test]
    fn values_are_as_other_replicas_wrote_them() {
        let plain = "1:feed000000000001:00c0ffee00000002:00000007:67500000:675000ff";
        assert_eq!(encode(&RECORD), plain);
        assert_eq!(decode(plain.as_bytes()), Some(RECORD));
        let detoured = Record { detour: Some((2, 0x6750_0010)), ..RECORD };
        let text = "1:feed000000000001:00c0ffee00000002:00000007:67500000:675000ff:0000000000000002:67500010";
        assert_eq!(encode(&detoured), text);
        assert_eq!(decode(text.as_bytes()), Some(detoured));
    }

    #[test]
    fn the_largest_numbers_survive() {
        let largest = Record {
            home: u64::MAX,
            pin: u64::MAX,
            instance: u32::MAX,
            issued: u32::MAX,
            refreshed: u32::MAX,
            detour: Some((u64::MAX, u32::MAX)),
        };
        assert_eq!(decode(encode(&largest).as_bytes()), Some(largest));
    }

    #[test]
    fn what_is_not_a_value_of_ours_is_unknown() {
        for wrong in [
            "",
            "1:",
            "hello",
            "2:feed000000000001:00000007:67500000:675000ff",
            "1:feed000000000001:00000007:67500000:675000ff",
            "1:feed000000000001:00c0ffee00000002:00000007:67500000",
            "1:feed000000000001:00c0ffee00000002:00000007:67500000:675000ff:",
            "1:feed000000000001:00c0ffee00000002:00000007:67500000:675000ff:0000000000000002",
            "1:feed000000000001:00c0ffee00000002:00000007:67500000:675000ff:0000000000000002:67500010:",
            "1:FEED000000000001:00c0ffee00000002:00000007:67500000:675000ff",
            "1:+eed000000000001:00c0ffee00000002:00000007:67500000:675000ff",
            "1:feed000000000001:00c0ffee00000002:0000007:067500000:675000ff",
            "1:feed000000000001:00c0ffee00000002:00000007:67500000:675000é",
        ] {
            assert_eq!(decode(wrong.as_bytes()), None, "{wrong:?}");
        }
        assert_eq!(decode(&[0xff; PLAIN]), None);
    }

    #[test]
    fn keys_name_the_pool_and_the_hash() {
        let pin = PinKey(0xabc);
        let text = "stickpin:1:{shop}:00000000000000000000000000000abc";
        assert_eq!(key("shop", pin), text);
        assert_eq!(parse_key(text), Some(("shop", pin)));
        for wrong in
            ["", "stickpin:1:{shop}:abc", "stickpin:2:{shop}:00000000000000000000000000000abc", "stickpin:1:check"]
        {
            assert_eq!(parse_key(wrong), None, "{wrong:?}");
        }
    }
}
