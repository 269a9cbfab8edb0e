//! The ring of keys that seal pins: the first signs, all verify, so that a key is rotated without losing a pin.
//!
//! Key material never reaches a message or a `Debug` output. Where keys come from (a file, the state directory, the
//! system's random source) is the caller's business.

use std::fmt;
use std::hash::Hasher as _;

use siphasher::sip::SipHasher24;
use siphasher::sip128::{self, Hasher128 as _};

use crate::hex;
use crate::key_file::{self, KeyFileError};

/// Keys for sealing pins. Holds 1 to 16 of them, all different.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRing {
    keys: Vec<Key>,
}

impl KeyRing {
    /// Reads a file of keys; see [`key_file::read`].
    ///
    /// # Errors
    /// The first line that is wrong, with what was expected there; never what it holds.
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        let keys = key_file::read(text)?;
        Ok(Self { keys: keys.into_iter().map(Key).collect() })
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
            text.push_str(&hex::digits(bytes));
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

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "000102030405060708090a0b0c0d0e0f";
    const TWO: &str = "f0e1d2c3b4a5968778695a4b3c2d1e0f";

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
    fn a_ring_shows_no_key() {
        let ring = KeyRing::parse(&format!("{ONE}\n{TWO}")).unwrap();
        assert_eq!(format!("{ring:?}"), "KeyRing { keys: 2, .. }");
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
