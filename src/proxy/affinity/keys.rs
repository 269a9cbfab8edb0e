//! The ring of keys that seal pins: the first signs, all verify, so that a key is rotated without losing a pin.
//!
//! Key material never reaches a message or a `Debug` output. Where keys come from (a file, the state directory, the
//! system's random source) is the caller's business.

use std::fmt;
use std::hash::Hasher as _;

use siphasher::sip::SipHasher24;
use siphasher::sip128::{self, Hasher128 as _};

/// More keys than any rotation needs; each one costs a table of home tags per pool.
const MOST_KEYS: usize = 16;

/// A key is 128 bits: this many hex digits.
const DIGITS: usize = 32;

/// Keys for sealing pins. Holds 1 to 16 of them, all different.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRing {
    keys: Vec<Key>,
}

impl KeyRing {
    /// Reads a file of keys: one a line, 32 hex digits each; blank lines and lines that begin with `#` are skipped.
    ///
    /// # Errors
    /// The first line that is wrong, with what was expected there; never what it holds.
    pub fn parse(text: &str) -> Result<Self, KeyRingError> {
        let mut keys: Vec<(usize, Key)> = Vec::new();
        for (line, content) in (1..).zip(text.lines()) {
            let content = content.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let key = Key::parse(line, content)?;
            if let Some((first, _)) = keys.iter().find(|(_, known)| *known == key) {
                return Err(KeyRingError::Duplicate { line, first: *first });
            }
            if keys.len() == MOST_KEYS {
                return Err(KeyRingError::TooMany { line });
            }
            keys.push((line, key));
        }
        if keys.is_empty() {
            return Err(KeyRingError::Empty);
        }
        Ok(Self { keys: keys.into_iter().map(|(_, key)| key).collect() })
    }

    /// A ring of one key. The bytes have to come from a source fit for secrets.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self { keys: vec![Key(bytes)] }
    }

    /// The text that [`KeyRing::parse`] reads, for a file that only Stickpin may read.
    pub fn to_text(&self) -> String {
        let mut text =
            String::from("# Stickpin cookie keys: the first one signs, all verify. Replicas need the same file.\n");
        for Key(bytes) in &self.keys {
            for byte in bytes {
                for digit in [byte >> 4, byte & 0xf] {
                    text.push(char::from_digit(digit.into(), 16).expect("four bits are one hex digit"));
                }
            }
            text.push('\n');
        }
        text
    }

    /// In the order of the file; the first one signs.
    pub(super) fn keys(&self) -> &[Key] {
        &self.keys
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

/// One key. It is never used itself: each use has a key of its own, derived from it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Key([u8; 16]);

impl Key {
    fn parse(line: usize, digits: &str) -> Result<Self, KeyRingError> {
        // A stray character says more than the length it leads to.
        if let Some(place) = digits.chars().position(|c| !c.is_ascii_hexdigit()) {
            return Err(KeyRingError::NotHex { line, digit: place + 1 });
        }
        if digits.len() != DIGITS {
            return Err(KeyRingError::Length { line, found: digits.len() });
        }
        let value = u128::from_str_radix(digits, 16).expect("32 hex digits are 128 bits");
        Ok(Self(value.to_be_bytes()))
    }

    /// Tells in one byte which key sealed a token. It follows from the key alone, so keys may change places in the ring.
    pub(super) fn id(&self) -> u8 {
        self.derive(b"stickpin 1 key id")[0]
    }

    /// The state that authenticates tokens, before its first byte.
    pub(super) fn mac(&self) -> sip128::SipHasher24 {
        sip128::SipHasher24::new_with_key(&self.derive(b"stickpin 1 mac"))
    }

    /// The state that turns backend names into home tags, before its first byte.
    pub(super) fn home_tag(&self) -> SipHasher24 {
        SipHasher24::new_with_key(&self.derive(b"stickpin 1 home tag"))
    }

    /// The state that turns session ids into the keys of the pin store, before its first byte.
    pub(super) fn session_id(&self) -> sip128::SipHasher24 {
        sip128::SipHasher24::new_with_key(&self.derive(b"stickpin 1 session id"))
    }

    /// SipHash is a keyed pseudorandom function, so what it makes of distinct purposes is as good as distinct keys.
    fn derive(&self, purpose: &[u8]) -> [u8; 16] {
        let mut hasher = sip128::SipHasher24::new_with_key(&self.0);
        hasher.write(purpose);
        u128::from(hasher.finish128()).to_le_bytes()
    }
}

/// What is wrong with a text of keys. Never says what a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRingError {
    /// A key is too short or too long.
    Length {
        /// Where, from 1.
        line: usize,
        /// How many digits it has.
        found: usize,
    },
    /// A key has a character that is no hex digit.
    NotHex {
        /// Where, from 1.
        line: usize,
        /// Which character of the key, from 1.
        digit: usize,
    },
    /// A key stands there twice.
    Duplicate {
        /// The second time, from 1.
        line: usize,
        /// The first time.
        first: usize,
    },
    /// More keys than a ring holds.
    TooMany {
        /// The first one too many, from 1.
        line: usize,
    },
    /// No key at all.
    Empty,
}

impl fmt::Display for KeyRingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { line, found } => write!(f, "line {line}: expected {DIGITS} hex digits, found {found}"),
            Self::NotHex { line, digit } => {
                write!(f, "line {line}: expected {DIGITS} hex digits, found something else at character {digit}")
            }
            Self::Duplicate { line, first } => {
                write!(f, "line {line}: expected keys that differ, found the one of line {first} again")
            }
            Self::TooMany { line } => write!(f, "line {line}: expected at most {MOST_KEYS} keys, found one more"),
            Self::Empty => write!(f, "expected at least one line of {DIGITS} hex digits, found none"),
        }
    }
}

impl std::error::Error for KeyRingError {}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "000102030405060708090a0b0c0d0e0f";
    const TWO: &str = "f0e1d2c3b4a5968778695a4b3c2d1e0f";

    #[test]
    fn comments_blank_lines_case_and_line_ends_do_not_matter() {
        let plain = KeyRing::parse(&format!("{ONE}\n{TWO}")).unwrap();
        let dressed = format!("# keys\r\n\r\n  {}  \r\n\t# old\n{TWO}\n\n", ONE.to_uppercase());
        assert_eq!(KeyRing::parse(&dressed).unwrap(), plain);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        let ring = KeyRing::from_random(bytes);
        assert!(ring.to_text().lines().any(|line| line == ONE));
        assert_eq!(KeyRing::parse(&ring.to_text()).unwrap(), ring);
        let two = KeyRing::parse(&format!("{TWO}\n{ONE}")).unwrap();
        assert_eq!(KeyRing::parse(&two.to_text()).unwrap(), two);
    }

    #[test]
    fn a_wrong_file_is_refused_with_its_line() {
        let many: String = (0..=MOST_KEYS).map(|key| format!("{key:032x}\n")).collect();
        let table = [
            (String::new(), KeyRingError::Empty),
            ("# only a comment\n\n".into(), KeyRingError::Empty),
            (format!("{ONE}\n{}", &TWO[1..]), KeyRingError::Length { line: 2, found: 31 }),
            (format!("{ONE}0"), KeyRingError::Length { line: 1, found: 33 }),
            (format!("\n+{}", &ONE[1..]), KeyRingError::NotHex { line: 2, digit: 1 }),
            (format!("{}é", &ONE[2..]), KeyRingError::NotHex { line: 1, digit: 31 }),
            (format!("{ONE} # mine"), KeyRingError::NotHex { line: 1, digit: 33 }),
            (format!("{ONE}\n{TWO}\n{}", ONE.to_uppercase()), KeyRingError::Duplicate { line: 3, first: 1 }),
            (many, KeyRingError::TooMany { line: 17 }),
        ];
        for (text, expected) in table {
            assert_eq!(KeyRing::parse(&text), Err(expected), "{text}");
        }
    }

    #[test]
    fn sixteen_keys_fit() {
        let text: String = (0..MOST_KEYS).map(|key| format!("{key:032x}\n")).collect();
        assert_eq!(KeyRing::parse(&text).unwrap().keys().len(), MOST_KEYS);
    }

    #[test]
    fn no_message_shows_a_key() {
        let ring = KeyRing::parse(&format!("{ONE}\n{TWO}")).unwrap();
        assert_eq!(format!("{ring:?}"), "KeyRing { keys: 2, .. }");
        let error = KeyRing::parse(&format!("{ONE}\n{TWO}x")).unwrap_err();
        assert_eq!(error.to_string(), "line 2: expected 32 hex digits, found something else at character 33");
        let error = KeyRing::parse(&ONE[..20]).unwrap_err();
        assert_eq!(error.to_string(), "line 1: expected 32 hex digits, found 20");
    }

    #[test]
    fn every_purpose_has_its_own_key() {
        let key = &KeyRing::parse(ONE).unwrap().keys[0];
        let purposes: [&[u8]; 4] =
            [b"stickpin 1 key id", b"stickpin 1 mac", b"stickpin 1 home tag", b"stickpin 1 session id"];
        for (place, purpose) in purposes.into_iter().enumerate() {
            assert_ne!(key.derive(purpose), key.0);
            assert!(purposes[..place].iter().all(|other| key.derive(other) != key.derive(purpose)));
        }
    }
}
