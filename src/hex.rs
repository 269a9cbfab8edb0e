//! Bytes as hex digits.

/// Two lower-case digits a byte.
pub(crate) fn digits(bytes: &[u8]) -> String {
    let digit = |four: u8| char::from_digit(four.into(), 16).expect("four bits are one hex digit");
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

/// Reads two digits a byte, of either case; `None` for any other number of digits, and for whatever is no digit.
pub(crate) fn read<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let digits = digits.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let all: [u8; 256] = std::array::from_fn(|byte| byte as u8);
        assert!(digits(&all).starts_with("000102") && digits(&all).ends_with("fdfeff"));
        assert_eq!(read(&digits(&all)), Some(all));
        assert_eq!(read(&digits(&all).to_uppercase()), Some(all));
        for wrong in ["", "0", "000", "0g", "+1", "\u{e9}"] {
            assert_eq!(read::<1>(wrong), None, "{wrong:?}");
        }
    }
}
