//! Session tickets: what a client needs to come back without a full handshake, sealed, so that nothing is kept here.
//!
//! A ring of keys as for cookies: the first encrypts, all decrypt. Each ticket holds the time it was made, and is bound to
//! what clients had to show for it: one of a listener that asks for no certificate opens nothing at a listener that does.
//!
//! ```text
//! key id (8) ‖ nonce (12) ‖ AES-256-GCM-SIV (made at, seconds (8) ‖ what rustls keeps) ‖ tag (16)
//! ```
//! Nonces are random; SIV bears that a nonce comes twice (RFC 8452 §9), so a key of a file may serve for long.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest;
use rustls::server::ProducesTickets;

use crate::key_file::{self, KeyFileError};

/// Keys of this process that are kept: one that encrypts, and those of the whole lifetime before.
const OWN_KEYS: usize = 3;

/// Longest state that is put into a ticket: it holds the client's certificates, and a ticket of more than 64 KiB cannot be
/// written. Who shows more does the full handshake each time.
const LONGEST_STATE: usize = 16 * 1024;

const ID_LEN: usize = 8;

const TIME_LEN: usize = 8;

/// What a ticket was made for; see the module's doc.
pub type Binding = [u8; 32];

/// One key.
struct TicketKey {
    id: [u8; ID_LEN],
    key: RandomizedNonceKey,
}

impl TicketKey {
    fn new(secret: &[u8; 32]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"stickpin 1 ticket key id");
        context.update(secret);
        let mut id = [0; ID_LEN];
        id.copy_from_slice(&context.finish().as_ref()[..ID_LEN]);
        let key = RandomizedNonceKey::new(&AES_256_GCM_SIV, secret).expect("the key has the length of the algorithm");
        Self { id, key }
    }
}

/// Keys that seal tickets. Holds 1 to 16 of them.
#[derive(Clone)]
pub struct TicketKeys(Vec<Arc<TicketKey>>);

impl TicketKeys {
    /// Reads a file of keys; see [`key_file::read`].
    ///
    /// # Errors
    /// The first line that is wrong, with what was expected there; never what it holds.
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        let secrets = key_file::read(text)?;
        Ok(Self(secrets.iter().map(|secret| Arc::new(TicketKey::new(secret))).collect()))
    }

    /// One key of this process. The bytes have to come from a source fit for secrets.
    pub fn from_random(secret: &[u8; 32]) -> Self {
        Self(vec![Arc::new(TicketKey::new(secret))])
    }

    /// The next key of this process takes over; the oldest goes when there are more than a lifetime needs.
    #[must_use]
    pub fn rotated(&self, secret: &[u8; 32]) -> Self {
        let older = self.0.iter().take(OWN_KEYS - 1).map(Arc::clone);
        Self([Arc::new(TicketKey::new(secret))].into_iter().chain(older).collect())
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys").field("keys", &self.0.len()).finish_non_exhaustive()
    }
}

/// The keys in force at a listener, replaced while workers use them.
#[derive(Debug)]
pub struct TicketRing(ArcSwap<TicketKeys>);

impl TicketRing {
    /// Begins with these.
    pub fn new(keys: TicketKeys) -> Self {
        Self(ArcSwap::from_pointee(keys))
    }

    /// The keys in force.
    pub fn load(&self) -> Arc<TicketKeys> {
        self.0.load_full()
    }

    /// Replaces them.
    pub fn store(&self, keys: TicketKeys) {
        self.0.store(Arc::new(keys));
    }
}

/// Seals and opens tickets for one listener.
#[derive(Debug)]
pub struct Ticketer {
    /// The keys, which outlive the settings.
    pub ring: Arc<TicketRing>,
    /// How long a ticket is good for.
    pub lifetime: Duration,
    /// What clients had to show for it.
    pub binding: Binding,
}

impl Ticketer {
    fn seal(&self, plain: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        if plain.len() > LONGEST_STATE {
            return None;
        }
        let keys = self.ring.0.load();
        let key = keys.0.first()?;
        let made_at = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
        let mut sealed = Vec::with_capacity(TIME_LEN + plain.len() + AES_256_GCM_SIV.tag_len());
        sealed.extend_from_slice(&made_at.to_be_bytes());
        sealed.extend_from_slice(plain);
        let nonce = key.key.seal_in_place_append_tag(Aad::from(self.binding), &mut sealed).ok()?;
        let mut ticket = Vec::with_capacity(ID_LEN + NONCE_LEN + sealed.len());
        ticket.extend_from_slice(&key.id);
        ticket.extend_from_slice(nonce.as_ref());
        ticket.extend_from_slice(&sealed);
        Some(ticket)
    }

    fn open(&self, ticket: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        let (id, rest) = ticket.split_at_checked(ID_LEN)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let keys = self.ring.0.load();
        let key = keys.0.iter().find(|key| key.id == id)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut opened = sealed.to_vec();
        let plain = key.key.open_in_place(nonce, Aad::from(self.binding), &mut opened).ok()?;
        let (made_at, plain) = plain.split_first_chunk::<TIME_LEN>()?;
        let made_at = UNIX_EPOCH.checked_add(Duration::from_secs(u64::from_be_bytes(*made_at)))?;
        // A replica's clock may be ahead a little; a ticket of the future is as good as a new one.
        let age = now.duration_since(made_at).unwrap_or_default();
        (age <= self.lifetime).then(|| plain.to_vec())
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.lifetime.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, SystemTime::now())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, SystemTime::now())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hex;

    const HOUR: Duration = Duration::from_secs(3600);

    fn ticketer(keys: TicketKeys, binding: Binding) -> Ticketer {
        Ticketer { ring: Arc::new(TicketRing::new(keys)), lifetime: HOUR, binding }
    }

    fn keys(bytes: &[u8]) -> TicketKeys {
        let lines: Vec<_> = bytes.iter().map(|byte| hex::digits(&[*byte; 32])).collect();
        TicketKeys::parse(&lines.join("\n")).expect("keys")
    }

    #[test]
    fn a_ticket_is_opened_by_whoever_has_its_key_within_its_lifetime() {
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let (old, new) = (ticketer(keys(&[1]), [0; 32]), ticketer(keys(&[2, 1]), [0; 32]));
        let ticket = old.seal(b"state", now).expect("sealed");
        assert_eq!(new.open(&ticket, now + HOUR).as_deref(), Some(&b"state"[..]), "a replica that has rotated already");
        assert_eq!(new.open(&ticket, now + HOUR + Duration::from_secs(1)), None, "too old");
        assert_eq!(new.open(&ticket, now - HOUR).as_deref(), Some(&b"state"[..]), "a clock that is behind");
        let ticket = new.seal(b"state", now).expect("sealed");
        assert_eq!(old.open(&ticket, now), None, "the first key seals");
        old.ring.store(keys(&[3, 2]));
        assert!(old.open(&ticket, now).is_some(), "keys come in while it runs");
    }

    #[test]
    fn a_ticket_of_a_listener_that_asks_for_less_opens_nothing() {
        let now = SystemTime::now();
        let ticket = ticketer(keys(&[1]), [0; 32]).seal(b"state", now).expect("sealed");
        assert_eq!(ticketer(keys(&[1]), [1; 32]).open(&ticket, now), None);
    }

    #[test]
    fn what_is_too_long_for_a_ticket_gets_none() {
        let (now, ticketer) = (SystemTime::now(), ticketer(keys(&[1]), [0; 32]));
        assert!(ticketer.seal(&[0; LONGEST_STATE], now).is_some());
        assert!(ticketer.seal(&[0; LONGEST_STATE + 1], now).is_none());
    }

    #[test]
    fn own_keys_are_kept_for_a_lifetime_of_two_rotations() {
        let now = SystemTime::now();
        let ticketer = ticketer(TicketKeys::from_random(&[0; 32]), [0; 32]);
        let ticket = ticketer.seal(b"state", now).expect("sealed");
        for (rotation, is_kept) in [(1, true), (2, true), (3, false)] {
            let rotated = ticketer.ring.load().rotated(&[rotation; 32]);
            ticketer.ring.store(rotated);
            assert_eq!(ticketer.open(&ticket, now).is_some(), is_kept, "after {rotation}");
        }
    }

    #[test]
    fn keys_show_no_key() {
        let shown = format!("{:?}", TicketKeys::parse(&"0f".repeat(32)));
        assert!(!shown.contains("0f0f"), "{shown}");
    }

    proptest! {
        #[test]
        fn nothing_but_a_whole_ticket_is_opened(
            garbage in prop::collection::vec(any::<u8>(), 0..200),
            place in any::<prop::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let (now, ticketer) = (SystemTime::now(), ticketer(keys(&[1]), [0; 32]));
            prop_assert_eq!(ticketer.open(&garbage, now), None);
            let mut ticket = ticketer.seal(&garbage, now).expect("sealed");
            prop_assert_eq!(ticketer.open(&ticket, now), Some(garbage));
            let at = place.index(ticket.len());
            prop_assert_eq!(ticketer.open(&ticket[..at], now), None);
            ticket[at] ^= 1 << bit;
            prop_assert_eq!(ticketer.open(&ticket, now), None);
        }
    }
}
