//! Names and values of a query or a form.

use std::str::FromStr;

/// The value of the first parameter of this name, decoded.
pub fn parameter(encoded: &str, name: &str) -> Option<String> {
    let mut pairs = encoded.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(known, _)| *known == name).map(|(_, value)| decode(value))
}

/// The value as a number; `None` when it is missing or not one.
pub fn number<N: FromStr>(encoded: &str, name: &str) -> Option<N> {
    parameter(encoded, name)?.parse().ok()
}

/// `+` and `%XX`; anything that is not what it seems stays as it is.
fn decode(value: &str) -> String {
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = (first == b'%').then(|| tail.get(..2)).flatten();
        let byte = hex.and_then(|hex| u8::from_str_radix(str::from_utf8(hex).ok()?, 16).ok());
        rest = if byte.is_some() { &tail[2..] } else { tail };
        decoded.push(byte.unwrap_or(if first == b'+' { b' ' } else { first }));
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_oddities_kept() {
        for (encoded, expected) in [
            ("user=ann", "ann"),
            ("a=b&user=ann+lee", "ann lee"),
            ("user=%C3%A9&user=x", "é"),
            ("user=100%", "100%"),
            ("user=%2", "%2"),
            ("user=%zz", "%zz"),
            ("user=%é", "%é"),
        ] {
            assert_eq!(parameter(encoded, "user").as_deref(), Some(expected), "{encoded}");
        }
        assert_eq!(parameter("a=b&c", "c"), None);
        assert_eq!(number::<u64>("n=12", "n"), Some(12));
        assert_eq!(number::<u64>("n=-1", "n"), None);
    }
}
