//! Files of secret keys: one a line as hex digits, the one in use first.
//!
//! Key material never reaches a message.

use std::error::Error;
use std::fmt;

use crate::hex;

/// More keys than any rotation needs; each one costs whoever has to try them, or to keep something for each.
const MOST_KEYS: usize = 16;

/// Reads a file of keys of `N` bytes: one a line, as hex digits; blank lines and lines that begin with `#` are skipped.
/// Gives 1 to 16 of them, all different, in the order of the file.
///
/// # Errors
/// The first line that is wrong, with what was expected there; never what it holds.
pub fn read<const N: usize>(text: &str) -> Result<Vec<[u8; N]>, KeyFileError> {
    let mut keys: Vec<(usize, [u8; N])> = Vec::new();
    for (line, content) in (1..).zip(text.lines()) {
        let content = content.trim();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let key = key(line, content)?;
        if let Some((first, _)) = keys.iter().find(|(_, known)| *known == key) {
            return Err(KeyFileError::Duplicate { line, first: *first });
        }
        if keys.len() == MOST_KEYS {
            return Err(KeyFileError::TooMany { line });
        }
        keys.push((line, key));
    }
    if keys.is_empty() {
        return Err(KeyFileError::Empty { bytes: N });
    }
    Ok(keys.into_iter().map(|(_, key)| key).collect())
}

fn key<const N: usize>(line: usize, digits: &str) -> Result<[u8; N], KeyFileError> {
    // A stray character says more than the length it leads to.
    if let Some(place) = digits.chars().position(|c| !c.is_ascii_hexdigit()) {
        return Err(KeyFileError::NotHex { line, bytes: N, digit: place + 1 });
    }
    hex::read(digits).ok_or(KeyFileError::Length { line, bytes: N, found: digits.len() })
}

/// What is wrong with a file of keys. Never says what a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFileError {
    /// A key is too short or too long.
    Length {
        /// Where, from 1.
        line: usize,
        /// How many bytes a key has.
        bytes: usize,
        /// How many digits this one has.
        found: usize,
    },
    /// A key has a character that is no hex digit.
    NotHex {
        /// Where, from 1.
        line: usize,
        /// How many bytes a key has.
        bytes: usize,
        /// Which character of the line, from 1.
        digit: usize,
    },
    /// A key stands there twice.
    Duplicate {
        /// The second time, from 1.
        line: usize,
        /// The first time.
        first: usize,
    },
    /// More keys than are allowed.
    TooMany {
        /// The first one too many, from 1.
        line: usize,
    },
    /// No key at all.
    Empty {
        /// How many bytes a key has.
        bytes: usize,
    },
}

impl fmt::Display for KeyFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { line, bytes, found } => {
                write!(f, "line {line}: expected {} hex digits, found {found}", 2 * bytes)
            }
            Self::NotHex { line, bytes, digit } => {
                let digits = 2 * bytes;
                write!(f, "line {line}: expected {digits} hex digits, found something else at character {digit}")
            }
            Self::Duplicate { line, first } => {
                write!(f, "line {line}: expected keys that differ, found the one of line {first} again")
            }
            Self::TooMany { line } => write!(f, "line {line}: expected at most {MOST_KEYS} keys, found one more"),
            Self::Empty { bytes } => {
                let digits = 2 * bytes;
                write!(f, "expected at least one key of {digits} hex digits (openssl rand -hex {bytes}), found none")
            }
        }
    }
}

impl Error for KeyFileError {}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "000102030405060708090a0b0c0d0e0f";
    const TWO: &str = "f0e1d2c3b4a5968778695a4b3c2d1e0f";

    #[test]
    fn comments_blank_lines_case_and_line_ends_do_not_matter() {
        let plain = read::<16>(&format!("{ONE}\n{TWO}")).unwrap();
        let dressed = format!("# keys\r\n\r\n  {}  \r\n\t# old\n{TWO}\n\n", ONE.to_uppercase());
        assert_eq!(read(&dressed).unwrap(), plain);
        assert_eq!(plain[0], std::array::from_fn(|byte| byte as u8));
        assert_eq!(read::<32>(&format!("{ONE}{TWO}")).unwrap()[0][..16], plain[0]);
    }

    #[test]
    fn a_wrong_file_is_refused_with_its_line() {
        let many: String = (0..=MOST_KEYS).map(|key| format!("{key:032x}\n")).collect();
        let table = [
            (String::new(), KeyFileError::Empty { bytes: 16 }),
            ("# only a comment\n\n".into(), KeyFileError::Empty { bytes: 16 }),
            (format!("{ONE}\n{}", &TWO[1..]), KeyFileError::Length { line: 2, bytes: 16, found: 31 }),
            (format!("{ONE}0"), KeyFileError::Length { line: 1, bytes: 16, found: 33 }),
            (format!("\n+{}", &ONE[1..]), KeyFileError::NotHex { line: 2, bytes: 16, digit: 1 }),
            (format!("{}é", &ONE[2..]), KeyFileError::NotHex { line: 1, bytes: 16, digit: 31 }),
            (format!("{ONE} # mine"), KeyFileError::NotHex { line: 1, bytes: 16, digit: 33 }),
            (format!("{ONE}\n{TWO}\n{}", ONE.to_uppercase()), KeyFileError::Duplicate { line: 3, first: 1 }),
            (many, KeyFileError::TooMany { line: 17 }),
        ];
        for (text, expected) in table {
            assert_eq!(read::<16>(&text), Err(expected), "{text}");
        }
    }

    #[test]
    fn sixteen_keys_fit() {
        let text: String = (0..MOST_KEYS).map(|key| format!("{key:032x}\n")).collect();
        assert_eq!(read::<16>(&text).unwrap().len(), MOST_KEYS);
    }

    #[test]
    fn no_message_shows_a_key() {
        let said = |text: &str| read::<16>(text).unwrap_err().to_string();
        for (text, expected) in [
            (&*format!("{ONE}\n{TWO}x"), "line 2: expected 32 hex digits, found something else at character 33"),
            (&ONE[..20], "line 1: expected 32 hex digits, found 20"),
            (&*format!("{ONE}\n{ONE}"), "line 2: expected keys that differ, found the one of line 1 again"),
            ("", "expected at least one key of 32 hex digits (openssl rand -hex 16), found none"),
        ] {
            assert_eq!(said(text), expected);
        }
    }
}
