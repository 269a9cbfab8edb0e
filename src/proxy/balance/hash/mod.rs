//! Where does a hashed key live?
//!
//! Three ways to find out, one a file, all by weight and all with the same answer on every replica and after every
//! restart: they go by the backends' stable hashes and weights, and by nothing else. Neither the order of the members nor
//! anybody's health matters: while a home is away its keys are served by their heirs, as all pins are.
//!
//! | | finds a home in | the table | when one of N backends leaves |
//! |---|---|---|---|
//! | [`rendezvous`] | O(N) | none | its own keys move |
//! | [`maglev`] | constant time | 4 bytes × 65,537 slots up to 512 backends, × 655,373 beyond | its own keys, and a few more |
//! | [`ring`] | O(log N) | 12 bytes × 1,024 points a backend, at most 1,048,576 | its own keys, with weights or beyond 1,024 backends up to as many more |
//!
//! Only the members of the first tier have keys; of these, members of weight 0 only when all are of weight 0, and then alike. Tables are made with the snapshot, off the
//! path of requests, and [`Tables`] keeps them from one snapshot to the next.

pub mod bounded;

pub mod maglev;

pub mod rendezvous;

pub mod ring;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::HomeHash;
use crate::pool::{Member, members_of_first_tier};

use maglev::Maglev;
use ring::Ring;

/// How the keys of one pool find their homes.
#[derive(Clone, Debug)]
pub enum Homes {
    /// Without a table.
    Rendezvous,
    /// By a table of slots.
    Maglev(Arc<Maglev>),
    /// By a ring of points.
    Ring(Arc<Ring>),
}

impl Homes {
    /// Makes the table for these members, if there is one to make.
    pub fn new(hash: HomeHash, members: &[Member]) -> Self {
        match hash {
            HomeHash::Rendezvous => Self::Rendezvous,
            HomeHash::Maglev => Self::Maglev(Arc::new(Maglev::new(&shares(members)))),
            HomeHash::Ring => Self::Ring(Arc::new(Ring::new(&shares(members)))),
        }
    }

    /// The home of a key, as an index into the members that the table was made for; `None` when there are none. No
    /// allocation; the cost is in the module's doc.
    pub fn home(&self, key: u64, members: &[Member]) -> Option<usize> {
        match self {
            Self::Rendezvous => rendezvous::home(key, members),
            Self::Maglev(table) => table.home(key),
            Self::Ring(ring) => ring.home(key),
        }
    }
}

/// A member that has keys, and how many relative to the others.
#[derive(Clone, Copy, Debug)]
struct Share {
    stable_hash: u64,
    /// 1 to 1000.
    weight: u32,
    member: u32,
}

/// Sorted by stable hash, so that the order of the members does not matter.
fn shares(members: &[Member]) -> Vec<Share> {
    let share = |(index, member): (usize, &Member)| Share {
        stable_hash: member.backend.stable_hash(),
        // Of weight 0 are all of them, or none.
        weight: member.backend.weight().max(1),
        member: index as u32,
    };
    let mut shares: Vec<Share> = members_of_first_tier(members).map(share).collect();
    shares.sort_unstable_by_key(|share| share.stable_hash);
    shares
}

/// The tables of all pools. They outlive snapshots: one that would come out the same is not made again.
#[derive(Debug, Default)]
pub struct Tables {
    by_pool: Mutex<HashMap<Arc<str>, Kept>>,
}

#[derive(Debug)]
struct Kept {
    hash: HomeHash,
    /// Stable hash, weight and tier of each member, in the order of the members: the table names them by index.
    made_of: Box<[(u64, u32, u8)]>,
    homes: Homes,
}

impl Tables {
    /// The table for the pool of this name. Made anew only when backends, weights, their order or the way to hash have
    /// changed; what that takes is stated with each.
    pub fn homes(&self, pool: &Arc<str>, hash: HomeHash, members: &[Member]) -> Homes {
        let made_of: Box<[_]> =
            members.iter().map(|member| (member.backend.stable_hash(), member.backend.weight(), member.tier)).collect();
        let mut by_pool = self.lock();
        if let Some(kept) = by_pool.get(pool).filter(|kept| kept.hash == hash && kept.made_of == made_of) {
            return kept.homes.clone();
        }
        let homes = Homes::new(hash, members);
        by_pool.insert(Arc::clone(pool), Kept { hash, made_of, homes: homes.clone() });
        homes
    }

    /// Forgets the tables of pools that are not named here.
    pub fn retain(&self, names: &HashSet<Arc<str>>) {
        self.lock().retain(|name, _| names.contains(name));
    }

    /// Only snapshots in the making look, and they are made one at a time.
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Kept>> {
        self.by_pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
