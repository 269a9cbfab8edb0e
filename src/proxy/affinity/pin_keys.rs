//! From a session id to the key its pin is stored under.
//!
//! A key is SipHash-2-4-128 of the pool's name with its length in front (8 bytes, big endian) and the id, with a hash key
//! derived from one of the ring's. So no store, log or dump holds a session id, and who reads one cannot find the keys of
//! ids without the ring. Replicas of different releases share a store: what `tests/golden/session-keys.txt` holds may
//! never change.

use std::fmt;
use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128 as _, SipHasher24};

use super::keys::KeyRing;
use crate::pins::PinKey;

/// Makes the keys of one pool's pins. Made once a snapshot.
#[derive(Clone)]
pub struct PinKeys {
    /// One for each key of the ring, in its order; each has absorbed the pool's name.
    states: Vec<SipHasher24>,
}

impl PinKeys {
    /// For the pool of this name.
    pub fn new(ring: &KeyRing, pool: &str) -> Self {
        let state = |mut state: SipHasher24| {
            state.write(&(pool.len() as u64).to_be_bytes());
            state.write(pool.as_bytes());
            state
        };
        Self { states: ring.keys().iter().map(|key| state(key.session_id())).collect() }
    }

    /// The keys that the pin of this session id may be stored under; never none. New pins are stored under the first one,
    /// that of the signing key. Those after it are for pins from before a key was rotated, and are made only when asked
    /// for. No allocation.
    pub fn keys<'a>(&'a self, id: &'a [u8]) -> impl Iterator<Item = PinKey> + use<'a> {
        self.states.iter().map(move |state| {
            let mut state = *state;
            state.write(id);
            PinKey(state.finish128().into())
        })
    }
}

/// Shows sizes only: hasher states are as good as keys.
impl fmt::Debug for PinKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinKeys").field("keys", &self.states.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const ONE: &str = "000102030405060708090a0b0c0d0e0f";
    const TWO: &str = "f0e1d2c3b4a5968778695a4b3c2d1e0f";

    fn keys(ring: &str, pool: &str, id: &[u8]) -> Vec<PinKey> {
        PinKeys::new(&KeyRing::parse(ring).unwrap(), pool).keys(id).collect()
    }

    /// One line each: ring key, pool, session id in hex or `-`, pin key.
    #[test]
    fn replicas_agree_on_the_golden_keys() {
        let mut checked = 0;
        for line in include_str!("../../../tests/golden/session-keys.txt").lines().filter(|line| !line.starts_with('#'))
        {
            let words: Vec<&str> = line.split(' ').collect();
            let [ring, pool, id, expected] = words[..] else { panic!("{line}") };
            let digits = id.trim_start_matches('-').as_bytes().chunks(2);
            let id: Vec<u8> =
                digits.map(|byte| u8::from_str_radix(str::from_utf8(byte).unwrap(), 16).unwrap()).collect();
            let PinKey(key) = keys(ring, pool, &id)[0];
            assert_eq!(format!("{key:032x}"), expected, "{line}");
            checked += 1;
        }
        assert!(checked >= 12, "{checked} vectors");
    }

    #[test]
    fn the_signing_key_comes_first_and_the_others_follow() {
        let old = keys(ONE, "shop", b"id")[0];
        let new = keys(TWO, "shop", b"id")[0];
        assert_eq!(keys(&format!("{TWO}\n{ONE}"), "shop", b"id"), [new, old]);
        assert_ne!(new, old);
    }

    #[test]
    fn pools_and_ids_are_kept_apart() {
        let table: [(&str, &[u8]); 7] = [
            ("shop", b""),
            ("shop", b"1"),
            ("shop1", b""),
            ("sho", b"p1"),
            ("shop", b"2"),
            ("api", b"1"),
            ("", b"shop"),
        ];
        let distinct: HashSet<PinKey> = table.iter().map(|(pool, id)| keys(ONE, pool, id)[0]).collect();
        assert_eq!(distinct.len(), table.len());
    }

    #[test]
    fn no_message_shows_a_key() {
        let ring = KeyRing::parse(&format!("{ONE}\n{TWO}")).unwrap();
        assert_eq!(format!("{:?}", PinKeys::new(&ring, "shop")), "PinKeys { keys: 2, .. }");
    }
}
