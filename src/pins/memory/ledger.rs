//! Whose each pin of a [`Memory`](super::Memory) is, and in which order they were last used. Only writers need it.
//!
//! The slots in use form a ring in the order of their last use, and those of each owner form another. A ring is known by
//! its oldest slot, beside which is the newest.

use std::collections::HashMap;

use super::slots::SEGMENT;
use crate::pins::Owner;

/// Maps of owners. A map that grows moves all that is in it, so there are many small ones.
const MAPS: usize = 64;

#[derive(Debug)]
pub(super) struct Ledger {
    /// In segments, as the slots are, so that none is ever copied.
    nodes: Vec<Box<[Node]>>,
    oldest: Option<u32>,
    /// The oldest slot of each owner.
    oldest_by_owner: [HashMap<Owner, u32>; MAPS],
    owners: usize,
    len: usize,
    /// Slots that were used and are free again. They wait as long as possible, so that a reader hardly ever meets one
    /// that changes hands.
    free: Option<u32>,
    /// Slots ever used.
    used: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Node {
    owner: Owner,
    /// How many pins the owner has; kept at the oldest of them only.
    count: u32,
    beside: [Beside; 2],
}

/// The slots next to this one in a ring.
#[derive(Clone, Copy, Debug, Default)]
struct Beside {
    older: u32,
    newer: u32,
}

#[derive(Clone, Copy, Debug)]
enum Ring {
    /// All slots in use, or all that are free.
    Store,
    Owner,
}

impl Default for Ledger {
    fn default() -> Self {
        let oldest_by_owner = std::array::from_fn(|_| HashMap::new());
        Self { nodes: Vec::new(), oldest: None, oldest_by_owner, owners: 0, len: 0, free: None, used: 0 }
    }
}

impl Ledger {
    /// How many pins there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// All slots ever used are below this.
    pub(super) fn used(&self) -> u32 {
        self.used
    }

    /// A slot that nobody uses.
    pub(super) fn take_free(&mut self) -> u32 {
        if let Some(slot) = self.free {
            self.free = self.unlink(Ring::Store, slot, slot);
            return slot;
        }
        let slot = self.used;
        self.used += 1;
        if self.nodes.len() * SEGMENT <= slot as usize {
            self.nodes.push(vec![Node::default(); SEGMENT].into());
        }
        slot
    }

    /// Gives back a slot that is in no ring.
    pub(super) fn give_back(&mut self, slot: u32) {
        self.free = Some(self.append(Ring::Store, self.free, slot));
    }

    /// The pin in this slot is its owner's, and was used last of all.
    pub(super) fn enter(&mut self, slot: u32, owner: Owner) {
        self.node(slot).owner = owner;
        self.oldest = Some(self.append(Ring::Store, self.oldest, slot));
        let before = self.oldest_of(owner);
        let count = before.map_or(0, |oldest| self.node(oldest).count);
        let oldest = self.append(Ring::Owner, before, slot);
        self.node(oldest).count = count + 1;
        if before.is_none() {
            self.oldest_by_owner[map_of(owner)].insert(owner, oldest);
            self.owners += 1;
        }
        self.len += 1;
    }

    /// The opposite of [`enter`](Self::enter).
    pub(super) fn leave(&mut self, slot: u32) {
        let owner = self.owner_of(slot);
        let oldest = self.oldest_of(owner).expect("whoever owns a pin has an oldest one");
        let count = self.node(oldest).count;
        match self.unlink(Ring::Owner, oldest, slot) {
            Some(oldest) => {
                self.node(oldest).count = count - 1;
                self.oldest_by_owner[map_of(owner)].insert(owner, oldest);
            }
            None => {
                self.oldest_by_owner[map_of(owner)].remove(&owner);
                self.owners -= 1;
            }
        }
        let oldest = self.oldest.expect("this slot at least is in use");
        self.oldest = self.unlink(Ring::Store, oldest, slot);
        self.len -= 1;
    }

    pub(super) fn owner_of(&self, slot: u32) -> Owner {
        self.look(slot).owner
    }

    /// The owner's longest unused pin.
    pub(super) fn oldest_of(&self, owner: Owner) -> Option<u32> {
        self.oldest_by_owner[map_of(owner)].get(&owner).copied()
    }

    pub(super) fn count_of(&self, owner: Owner) -> usize {
        self.oldest_of(owner).map_or(0, |oldest| self.look(oldest).count as usize)
    }

    /// Whether the owner has more pins than owners have on average.
    pub(super) fn has_more_than_average(&self, owner: Owner) -> bool {
        self.count_of(owner).saturating_mul(self.owners) > self.len
    }

    /// All slots in use, the longest unused first.
    pub(super) fn oldest_first(&self) -> impl Iterator<Item = u32> {
        std::iter::successors(self.oldest, |&slot| {
            let newer = self.look(slot).beside[Ring::Store as usize].newer;
            (Some(newer) != self.oldest).then_some(newer)
        })
    }

    pub(super) fn bytes(&self) -> usize {
        // A map does not say what it takes: an entry and a byte for each bucket, a power of two, of which it uses 7/8.
        let buckets: usize = self.oldest_by_owner.iter().map(|map| (map.capacity() * 8 / 7).next_power_of_two()).sum();
        self.nodes.len() * SEGMENT * size_of::<Node>() + buckets * (size_of::<(Owner, u32)>() + 1)
    }

    /// Puts the slot at the newest end of a ring, and returns the oldest.
    fn append(&mut self, ring: Ring, oldest: Option<u32>, slot: u32) -> u32 {
        let Some(oldest) = oldest else {
            *self.beside(ring, slot) = Beside { older: slot, newer: slot };
            return slot;
        };
        let newest = self.beside(ring, oldest).older;
        *self.beside(ring, slot) = Beside { older: newest, newer: oldest };
        self.beside(ring, newest).newer = slot;
        self.beside(ring, oldest).older = slot;
        oldest
    }

    /// Takes the slot out of a ring, and returns the oldest of those that stay.
    fn unlink(&mut self, ring: Ring, oldest: u32, slot: u32) -> Option<u32> {
        let Beside { older, newer } = *self.beside(ring, slot);
        self.beside(ring, older).newer = newer;
        self.beside(ring, newer).older = older;
        if slot == oldest { (newer != slot).then_some(newer) } else { Some(oldest) }
    }

    fn beside(&mut self, ring: Ring, slot: u32) -> &mut Beside {
        &mut self.node(slot).beside[ring as usize]
    }

    fn node(&mut self, slot: u32) -> &mut Node {
        &mut self.nodes[slot as usize / SEGMENT][slot as usize % SEGMENT]
    }

    fn look(&self, slot: u32) -> &Node {
        &self.nodes[slot as usize / SEGMENT][slot as usize % SEGMENT]
    }
}

fn map_of(owner: Owner) -> usize {
    owner.0 as usize % MAPS
}
