//! Keys in use, where hashing has a bound on the load: what a key hashes to says no longer where it lives, so the pin store
//! keeps it, as it keeps learned pins.
//!
//! A key is kept under a keyed hash of the affinity key, so that no store holds what could be guessed from; its pin's id is
//! the affinity key itself, which its heir follows from, as without a bound.

use std::collections::HashMap;
use std::sync::Arc;

use super::keys::KeyRing;
use super::pin::{Limits, Pin};
use super::pin_keys::PinKeys;
use crate::pins::{PinKey, PinStore, Record};
use crate::pool::Member;

/// The keys in use of one pool. Made with each snapshot; what is known outlives it in the store.
#[derive(Debug)]
pub struct KnownKeys {
    /// Keeps them.
    pub store: Arc<PinStore>,
    keys: PinKeys,
    /// Member index by stable hash.
    members: HashMap<u64, u32>,
}

/// Where a key in use lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its pin.
    pub pin: Pin,
    /// It is kept under a key that no longer signs, and has to be kept anew.
    pub is_under_old_key: bool,
}

impl KnownKeys {
    /// For a pool of these members.
    pub fn new(ring: &KeyRing, pool: &str, members: &[Member], store: Arc<PinStore>) -> Self {
        let members = members.iter().map(|member| member.backend.stable_hash()).zip(0..).collect();
        Self { store, keys: PinKeys::new(ring, pool), members }
    }

    /// What is known of a key in this process; `None` when it is not in use, or its home has left the pool. A look into
    /// the store for each key of the ring. No allocation, no lock, no wait.
    pub fn get(&self, key: u64, members: &[Member], limits: Limits, now: u32) -> Option<Known> {
        let id = key.to_be_bytes();
        self.keys.keys(&id).enumerate().find_map(|(age, stored_under)| {
            let record = self.store.get(stored_under)?;
            if limits.expired(record.issued, record.refreshed, now) {
                return None;
            }
            Some(Known { pin: self.pin(key, &record, members)?, is_under_old_key: age > 0 })
        })
    }

    /// The pin of a record; `None` when its home is not in the pool.
    pub fn pin(&self, key: u64, record: &Record, members: &[Member]) -> Option<Pin> {
        let home = *self.members.get(&record.home)?;
        // Whatever life its home lives, a key is at home there: nothing is known of sessions.
        let instance = members[home as usize].backend.instance();
        Some(Pin { id: key, home, instance, issued: record.issued, refreshed: record.refreshed, detour: None })
    }

    /// What a key is kept under from now on.
    pub fn stored_under(&self, key: u64) -> PinKey {
        self.keys.keys(&key.to_be_bytes()).next().expect("a ring has at least one key")
    }

    /// What it may have been kept under before a key was rotated.
    pub fn stored_under_before(&self, key: u64) -> Vec<PinKey> {
        self.keys.keys(&key.to_be_bytes()).skip(1).collect()
    }
}
