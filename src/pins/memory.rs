//! The learned pins of one pool, in the memory of this process. Workers read without a lock; the few writers take one.
//!
//! A pin stands in a slot (`slots`) that it keeps until it goes; an `index` finds the slot by key; a `ledger`, which
//! only writers need, knows whose each pin is and in which order they were last used. Since no pin ever moves, growing
//! means adding slots and, each time their number has doubled, putting a larger index in place of the old one. It is
//! filled beforehand, a little with each new pin, so that nobody waits for it. In both indexes every pin is found where it
//! was, so that no reader misses one.
//!
//! **Memory.** A slot is 64 bytes, what the ledger notes of it 24, its entry in the index 6 to 17, and its owner 10 to 21:
//! 95 to 120 bytes a pin, the more the fewer pins an owner has. It follows the number of pins, never falls, and is bounded
//! by `max_pins`.
//!
//! **Who has to go.** Every owner, that is client address, has a quota; over it, its own longest unused pin goes first,
//! so that one client cannot crowd out the others. In a full store goes an expired pin of those longest unused; else,
//! if the owner has more pins than owners have on average, its own longest unused; else the longest unused of all.
//!
//! What must stay true: slots, index and ledger change together, under the lock; a slot gets its entry in the index after
//! it was written; and the larger index has an entry for each pin in the slots copied so far, and no other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use self::index::{Index, Place};
use self::ledger::Ledger;
use self::slots::Slots;
use super::{Owner, PinKey, Record};

mod index;
mod ledger;
mod slots;

/// How many of the longest unused pins are asked whether they have expired when one has to go. Those that have been idle
/// too long are the very first; only those that came to the end of their life in use can stand further back.
const ASKED: usize = 16;

/// How many slots each new pin copies to a larger index. It is begun when a sixteenth of the room is left, so that it is done
/// long before the smaller one is full.
const COPIED_AT_ONCE: u32 = 64;

/// More than there is memory for, and it leaves an entry of the index room for a bit of the hash.
const MOST_PINS: usize = i32::MAX as usize;

/// The store of learned pins of one pool.
#[derive(Debug)]
pub struct Memory {
    slots: Slots,
    index: ArcSwap<Index>,
    max_pins: usize,
    max_pins_per_owner: usize,
    writer: Apart<Mutex<Writer>>,
}

/// Away from the cache lines that every request reads.
#[repr(align(128))]
#[derive(Debug)]
struct Apart<T>(T);

#[derive(Debug, Default)]
struct Writer {
    ledger: Ledger,
    /// What will take the place of the index, and how many slots it has been told of.
    larger: Option<Arc<Index>>,
    copied: u32,
    evictions: u64,
}

/// What [`Memory::put`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The pin is new, and there was room.
    New,
    /// It was there already, and has another record now.
    Replaced,
    /// An expired pin made room for it.
    EvictedExpired,
    /// Another pin of the same owner made room, before its time.
    EvictedOwn,
    /// A pin of another owner made room, before its time.
    EvictedOther,
}

impl Memory {
    /// An empty store.
    ///
    /// It takes memory as pins come, except for 24 bytes per 1,024 of `max_pins`. Both limits are at least 1.
    pub fn new(max_pins: usize, max_pins_per_owner: usize) -> Self {
        let max_pins = max_pins.clamp(1, MOST_PINS);
        Self {
            slots: Slots::new(max_pins),
            index: ArcSwap::from_pointee(Index::new(0, max_pins)),
            max_pins,
            max_pins_per_owner: max_pins_per_owner.max(1),
            writer: Apart(Mutex::default()),
        }
    }

    /// What is known of a pin.
    ///
    /// On the request path: no lock, no allocation, no write to memory that is shared, and three or four cache lines.
    pub fn get(&self, key: PinKey) -> Option<Record> {
        let index = self.index.load();
        index.candidates(Place::of(key)).find_map(|slot| {
            let (found, record) = self.slots.at(slot).read()?;
            (found == key).then_some(record)
        })
    }

    /// Keeps a pin, new or not, as its owner's and as the last used.
    ///
    /// A pin that was another owner's changes hands: a mobile client has a new address. `is_expired` is asked of pins that
    /// may have to go, under the lock, so it must not call this store.
    ///
    /// A microsecond or two under the lock, and some more while a larger index is being filled. Making one takes the
    /// longest: 5 ms at a million pins.
    pub fn put(&self, key: PinKey, record: Record, owner: Owner, is_expired: impl Fn(&Record) -> bool) -> Put {
        self.put_in(&mut self.lock(), key, record, owner, is_expired)
    }

    /// Keeps a pin unless there is one under this key that has not expired, and gives what is there then; in one step, so
    /// that of several who claim a key at once all go by the first. Costs as much as [`Memory::put`].
    pub fn claim(&self, key: PinKey, record: Record, owner: Owner, is_expired: impl Fn(&Record) -> bool) -> Record {
        let mut writer = self.lock();
        if let Some(known) = self.get(key).filter(|known| !is_expired(known)) {
            return known;
        }
        self.put_in(&mut writer, key, record, owner, is_expired);
        record
    }

    fn put_in(
        &self,
        writer: &mut Writer,
        key: PinKey,
        record: Record,
        owner: Owner,
        is_expired: impl Fn(&Record) -> bool,
    ) -> Put {
        let present = self.slot_of(key);
        let victim = self.victim(&writer.ledger, present, owner, is_expired);
        if let Some((victim, outcome)) = victim {
            self.forget(writer, victim);
            writer.evictions += u64::from(outcome != Put::EvictedExpired);
        }
        match present {
            Some(slot) => {
                writer.ledger.leave(slot);
                self.slots.at(slot).write(key, &record);
                writer.ledger.enter(slot, owner);
                victim.map_or(Put::Replaced, |(_, outcome)| outcome)
            }
            None => {
                self.grow(writer);
                let crowded_out = self.insert(writer, key, &record, owner);
                crowded_out.or(victim.map(|(_, outcome)| outcome)).unwrap_or(Put::New)
            }
        }
    }

    /// Forgets a pin. Whether it was there.
    pub fn remove(&self, key: PinKey) -> bool {
        let writer = &mut *self.lock();
        self.slot_of(key).inspect(|&slot| self.forget(writer, slot)).is_some()
    }

    /// How many pins there are, expired ones among them.
    pub fn len(&self) -> usize {
        self.lock().ledger.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many pins had to go before their time.
    pub fn evictions(&self) -> u64 {
        self.lock().evictions
    }

    /// The memory that it takes.
    pub fn bytes(&self) -> usize {
        let writer = self.lock();
        let larger = writer.larger.as_ref().map_or(0, |larger| larger.bytes());
        size_of::<Self>() + self.slots.bytes() + self.index.load().bytes() + larger + writer.ledger.bytes()
    }

    /// Calls `f` with every pin; without the lock, so one that comes or goes meanwhile may be among them or not.
    ///
    /// Looks at all memory of the store: for the control plane.
    pub fn for_each(&self, mut f: impl FnMut(PinKey, Record)) {
        self.slots.iter().filter_map(slots::Slot::read).for_each(|(key, record)| f(key, record));
    }

    /// The keys of all pins, as [`for_each`](Self::for_each) sees them.
    pub fn keys(&self) -> Vec<PinKey> {
        let mut keys = Vec::new();
        self.for_each(|key, _| keys.push(key));
        keys
    }

    /// How many active pins each home has. Homes without one are not named.
    ///
    /// Costs as much as [`for_each`](Self::for_each).
    pub fn count_by_home(&self, is_active: impl Fn(&Record) -> bool) -> HashMap<u64, u64> {
        let mut counts = HashMap::new();
        self.for_each(|_, record| {
            if is_active(&record) {
                *counts.entry(record.home).or_default() += 1;
            }
        });
        counts
    }

    /// Who has to go before `owner` may have this pin, which is `present` or new; and what that is called.
    fn victim(
        &self,
        ledger: &Ledger,
        present: Option<u32>,
        owner: Owner,
        is_expired: impl Fn(&Record) -> bool,
    ) -> Option<(u32, Put)> {
        if present.is_some_and(|slot| ledger.owner_of(slot) == owner) {
            return None;
        }
        let has_expired = |slot: u32| self.slots.at(slot).read().is_some_and(|(_, record)| is_expired(&record));
        let own = ledger.oldest_of(owner);
        let victim = if ledger.count_of(owner) >= self.max_pins_per_owner {
            own?
        } else if present.is_some() || ledger.len() < self.max_pins {
            return None;
        } else if let Some(expired) = ledger.oldest_first().take(ASKED).find(|&slot| has_expired(slot)) {
            expired
        } else if ledger.has_more_than_average(owner) {
            own?
        } else {
            ledger.oldest_first().next()?
        };
        let outcome = match ledger.owner_of(victim) {
            _ if has_expired(victim) => Put::EvictedExpired,
            of_victim if of_victim == owner => Put::EvictedOwn,
            _ => Put::EvictedOther,
        };
        Some((victim, outcome))
    }

    /// Puts a new pin into a free slot, of which there must be one.
    fn insert(&self, writer: &mut Writer, key: PinKey, record: &Record, owner: Owner) -> Option<Put> {
        let evictions = writer.evictions;
        let slot = writer.ledger.take_free();
        self.slots.make(slot).write(key, record);
        self.list(writer, &self.index.load(), key, slot);
        if let Some(larger) = writer.larger.clone().filter(|_| slot < writer.copied) {
            self.list(writer, &larger, key, slot);
        }
        writer.ledger.enter(slot, owner);
        (writer.evictions > evictions).then_some(Put::EvictedOther)
    }

    /// Makes an entry. If neither bucket has room, which hardly ever happens, the pin goes that was refreshed the longest
    /// ago of those there.
    fn list(&self, writer: &mut Writer, index: &Index, key: PinKey, slot: u32) {
        let place = Place::of(key);
        if index.is_full(place) {
            let refreshed = |slot: &u32| self.slots.at(*slot).read().map(|(_, record)| record.refreshed);
            let victim = index.neighbours(place).min_by_key(refreshed);
            self.forget(writer, victim.expect("full buckets are not empty"));
            writer.evictions += 1;
        }
        let is_in = index.insert(place, slot);
        assert!(is_in, "room was made if there was none");
    }

    fn forget(&self, writer: &mut Writer, slot: u32) {
        let gone = self.slots.at(slot);
        let (key, _) = gone.read().expect("a slot in use is not empty");
        self.index.load().remove(Place::of(key), slot);
        if let Some(larger) = writer.larger.as_ref().filter(|_| slot < writer.copied) {
            larger.remove(Place::of(key), slot);
        }
        gone.clear();
        writer.ledger.leave(slot);
        writer.ledger.give_back(slot);
    }

    /// Begins, goes on with, or ends filling a larger index, when there is need.
    fn grow(&self, writer: &mut Writer) {
        if writer.larger.is_none() {
            let capacity = self.index.load().capacity();
            if capacity >= self.max_pins || writer.ledger.len() < capacity / 16 * 15 {
                return;
            }
            writer.larger = Some(Arc::new(Index::new(capacity + 1, self.max_pins)));
        }
        let Some(larger) = writer.larger.clone() else { return };
        let end = writer.ledger.used().min(writer.copied + COPIED_AT_ONCE);
        while writer.copied < end {
            let slot = writer.copied;
            if let Some((key, _)) = self.slots.at(slot).read() {
                self.list(writer, &larger, key, slot);
            }
            writer.copied += 1;
        }
        if end == writer.ledger.used() {
            self.index.store(larger);
            (writer.larger, writer.copied) = (None, 0);
        }
    }

    fn slot_of(&self, key: PinKey) -> Option<u32> {
        let index = self.index.load();
        let is_there = |slot: &u32| self.slots.at(*slot).read().is_some_and(|(found, _)| found == key);
        index.candidates(Place::of(key)).find(is_there)
    }

    /// Nothing panics half-way through a change, so the state behind a poisoned lock is sound.
    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
