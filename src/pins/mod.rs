//! The pin store: who owns a session whose id the app itself issued.
//!
//! A cookie of ours carries its pin, and a hash needs none; pins by the app's own session id are kept here, under a keyed
//! hash of that id ([`PinKey`]), so that no session id is ever in a store, a log or a dump. What is kept is a [`Record`]:
//! home and heir are named by [`Backend::stable_hash`](crate::pool::Backend::stable_hash), which every replica and every
//! restart gives to the same backend.

pub mod store;

pub mod memory;

mod shelf;

mod redis;

pub use memory::Memory;
pub use store::{Limits, PinStore, SharedStanding, Standing, Stores};

/// The keyed hash of a session id and its pool's name.
///
/// 128 bits, so that two ids never meet. The upper half is the id of a pin that nobody has given another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PinKey(pub u128);

impl PinKey {
    /// The id of a pin that follows from the session id alone.
    pub fn pin_id(self) -> u64 {
        (self.0 >> 64) as u64
    }
}

/// What is known of one pin. Times are in seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The backend that holds the session: its stable hash.
    pub home: u64,
    /// The pin's id, which the heir follows from. It stays when the app gives the session another id, or a key is rotated.
    pub pin: u64,
    /// Which life of the home's process.
    pub instance: u32,
    /// When the pin was made.
    pub issued: u32,
    /// When it was last known to be in use; kept up to date to within an eighth of the idle timeout.
    pub refreshed: u32,
    /// Where the client is served while its home is out of reach: a stable hash, and since when.
    pub detour: Option<(u64, u32)>,
}

/// Whom a pin was learned from, so that one client cannot crowd out the others: a hash of the client's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owner(pub u32);
