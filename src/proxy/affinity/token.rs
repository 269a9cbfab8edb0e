//! Sealing a pin into a token that only Stickpin can make, and opening it again.
//!
//! Version 1, big endian, then base64url without padding:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version: 1 |
//! | 1 | id of the key that sealed it |
//! | 8 | pin id |
//! | 8 | tag of the home |
//! | 4 | instance of the home |
//! | 4 | issued |
//! | 4 | refreshed |
//! | 8 + 4 | only with a noted detour: tag of the backend it leads to, and since when |
//! | 16 | MAC: SipHash-2-4-128 over the pool's name and all bytes before |
//!
//! The MAC absorbs the length of the pool's name (8 bytes) and the name first, so a token of one pool is worth nothing at
//! another. A tag is SipHash-2-4 of a byte 1, the pool's name with its length in front, and the backend's name, so it
//! reveals neither. MAC, tags and key id each use a key derived from the ring's. These bytes live in browsers: what
//! `tests/golden/pins.json` holds may never change for version 1.
//!
//! Opening takes constant time however many backends there are, and neither direction allocates.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::hint::black_box;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use siphasher::sip128::{Hasher128 as _, SipHasher24};

use super::keys::{Key, KeyRing};
use super::pin::{Detour, Limits, Opened, Orphan, Pin};

const VERSION: u8 = 1;

const MAC: usize = 16;

/// Without and with a noted detour: bytes, and characters of base64.
const PLAIN: usize = 46;
const PLAIN_TEXT: usize = 62;
const DETOURED: usize = 58;
const DETOURED_TEXT: usize = 78;

/// A buffer for the decoder, which asks for whole groups of three bytes.
type Buffer = [u8; DETOURED.next_multiple_of(3)];

/// A sealed pin as it stands in the cookie: base64url, 62 or 78 characters, on the stack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token {
    text: [u8; DETOURED_TEXT],
    length: usize,
}

impl Token {
    fn encode(bytes: &[u8]) -> Self {
        let mut text = [0; DETOURED_TEXT];
        let length = URL_SAFE_NO_PAD.encode_slice(bytes, &mut text).expect("58 bytes are 78 characters");
        Self { text, length }
    }

    /// Its characters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("base64url is ASCII")
    }

    /// Its characters, as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[..self.length]
    }
}

/// Shows nothing: who reads a token in a log can use it.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Seals and opens the pins of one pool. Made once a snapshot; about 20 bytes for each backend and key.
#[derive(Clone)]
pub struct PoolPins {
    /// One for each key of the ring, in its order: never empty, and the first one signs.
    seals: Vec<Seal>,
    /// The signing key's tags, by member index.
    tags: Vec<u64>,
}

impl PoolPins {
    /// For the pool of this name and its backends, by name, in the order of its members.
    pub fn new<'a>(ring: &KeyRing, pool: &str, backends: impl IntoIterator<Item = &'a str>) -> Self {
        let backends: Vec<&str> = backends.into_iter().collect();
        let tags = ring.keys().first().map(|key| tags(key, pool, &backends).collect()).unwrap_or_default();
        Self { seals: ring.keys().iter().map(|key| Seal::new(key, pool, &backends)).collect(), tags }
    }

    /// Seals a pin with the signing key. No allocation.
    ///
    /// A home outside the pool becomes a tag that no backend has, so that the pin comes back as an orphan; a detour to
    /// outside the pool is left out.
    pub fn seal(&self, pin: &Pin) -> Token {
        let tag = |member: u32| self.tags.get(usize::try_from(member).ok()?).copied();
        let seal = &self.seals[0];
        let mut bytes = [0; DETOURED];
        let mut length = 0;
        let mut put = |field: &[u8]| {
            bytes[length..length + field.len()].copy_from_slice(field);
            length += field.len();
        };
        put(&[VERSION, seal.key_id]);
        put(&pin.id.to_be_bytes());
        put(&tag(pin.home).unwrap_or(0).to_be_bytes());
        put(&pin.instance.to_be_bytes());
        put(&pin.issued.to_be_bytes());
        put(&pin.refreshed.to_be_bytes());
        if let Some((tag, detour)) = pin.detour.and_then(|detour| Some((tag(detour.to)?, detour))) {
            put(&tag.to_be_bytes());
            put(&detour.since.to_be_bytes());
        }
        let (body, rest) = bytes.split_at_mut(length);
        rest[..MAC].copy_from_slice(&seal.authenticate(body).to_le_bytes());
        Token::encode(&bytes[..length + MAC])
    }

    /// Opens the value of one cookie. `now` is in seconds since the Unix epoch.
    ///
    /// Text of another length than a token's is turned down unread. Constant time, no allocation.
    pub fn open(&self, text: &[u8], now: u32, limits: Limits) -> Opened {
        self.try_open(text, now, limits).unwrap_or(Opened::Forged)
    }

    /// Opens the values of several cookies of one name, which browsers send when they were set for different paths or
    /// domains: the first good pin wins, else the one that says most.
    pub fn open_first<'a>(&self, texts: impl IntoIterator<Item = &'a [u8]>, now: u32, limits: Limits) -> Opened {
        let mut best = Opened::None;
        for text in texts {
            let opened = self.open(text, now, limits);
            if opened.rank() > best.rank() {
                best = opened;
            }
            if best.pin().is_some() {
                break;
            }
        }
        best
    }

    /// `None` for whatever is not sealed by us for this pool.
    fn try_open(&self, text: &[u8], now: u32, limits: Limits) -> Option<Opened> {
        let mut buffer: Buffer = [0; _];
        let bytes = decode(text, &mut buffer)?;
        let (body, mac) = bytes.split_last_chunk::<MAC>()?;
        let mac = u128::from_le_bytes(*mac);

        let mut fields = Fields(body);
        let [version, key_id] = fields.take()?;
        if version != VERSION {
            return None;
        }
        // Two keys of a ring may share an id, so every one that has it is tried.
        let place = self.seals.iter().position(|seal| seal.key_id == key_id && same(seal.authenticate(body), mac))?;
        let seal = &self.seals[place];

        let id = u64::from_be_bytes(fields.take()?);
        let home = u64::from_be_bytes(fields.take()?);
        let instance = u32::from_be_bytes(fields.take()?);
        let issued = u32::from_be_bytes(fields.take()?);
        let refreshed = u32::from_be_bytes(fields.take()?);
        if limits.expired(issued, refreshed, now) {
            return Some(Opened::Expired);
        }
        // A detour to a backend that has left the pool is over.
        let detour = fields.take().map(u64::from_be_bytes).zip(fields.take().map(u32::from_be_bytes));
        let detour = detour.and_then(|(tag, since)| Some(Detour { to: *seal.members.get(&tag)?, since }));

        Some(match seal.members.get(&home) {
            None => Opened::UnknownBackend(Orphan { id, instance, issued, refreshed, detour }),
            Some(&home) => {
                let pin = Pin { id, home, instance, issued, refreshed, detour };
                if place == 0 { Opened::Valid(pin) } else { Opened::OldKey(pin) }
            }
        })
    }
}

/// Shows sizes only: hasher states are as good as keys.
impl fmt::Debug for PoolPins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolPins")
            .field("keys", &self.seals.len())
            .field("backends", &self.tags.len())
            .finish_non_exhaustive()
    }
}

/// What one key makes of one pool.
#[derive(Clone)]
struct Seal {
    key_id: u8,
    /// Has absorbed the pool's name.
    mac: SipHasher24,
    /// Member index by home tag. Should two names share a tag, the first one has it.
    members: HashMap<u64, u32, BuildHasherDefault<TagHasher>>,
}

impl Seal {
    fn new(key: &Key, pool: &str, backends: &[&str]) -> Self {
        let mut mac = key.mac();
        absorb_pool(&mut mac, pool);
        let mut members = HashMap::with_capacity_and_hasher(backends.len(), BuildHasherDefault::default());
        for (tag, member) in tags(key, pool, backends).zip(0..) {
            members.entry(tag).or_insert(member);
        }
        Self { key_id: key.id(), mac, members }
    }

    fn authenticate(&self, body: &[u8]) -> u128 {
        let mut mac = self.mac;
        mac.write(body);
        mac.finish128().into()
    }
}

fn tags<'a>(key: &Key, pool: &str, backends: &'a [&str]) -> impl Iterator<Item = u64> + use<'a> {
    let mut pool_state = key.home_tag();
    pool_state.write(&[1]);
    absorb_pool(&mut pool_state, pool);
    backends.iter().map(move |name| {
        let mut state = pool_state;
        state.write(name.as_bytes());
        state.finish()
    })
}

/// The length in front keeps the name apart from what follows it.
fn absorb_pool(state: &mut impl Hasher, pool: &str) {
    state.write(&(pool.len() as u64).to_be_bytes());
    state.write(pool.as_bytes());
}

/// The bytes of a token, when the text has the length and the one spelling that a token of that length can have.
fn decode<'a>(text: &[u8], buffer: &'a mut Buffer) -> Option<&'a [u8]> {
    let length = match text.len() {
        PLAIN_TEXT => PLAIN,
        DETOURED_TEXT => DETOURED,
        _ => return None,
    };
    // This engine turns down padding, and bits left over at the end that are not zero.
    let decoded = URL_SAFE_NO_PAD.decode_slice(text, buffer).ok()?;
    (decoded == length).then_some(&buffer[..length])
}

/// Compares all bits, so that time does not tell how many were right.
fn same(left: u128, right: u128) -> bool {
    black_box(left ^ right) == 0
}

/// Takes big-endian fields off the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }
}

/// Tags are keyed hashes already, and one is looked up only once its MAC was right: hashing them again gains nothing.
#[derive(Default)]
struct TagHasher(u64);

impl Hasher for TagHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, tag: u64) {
        self.0 = tag;
    }

    /// Not reached by a map keyed by `u64`; right for any other.
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::telemetry::words::PinVerdict;

    const OLD: &str = "000102030405060708090a0b0c0d0e0f";
    const NEW: &str = "f0e1d2c3b4a5968778695a4b3c2d1e0f";
    const NOW: u32 = 1_700_001_000;
    const LIMITS: Limits = Limits { idle_timeout: 1800, max_lifetime: 43_200 };
    const PIN: Pin = Pin { id: 0xfeed, home: 1, instance: 3, issued: NOW - 1000, refreshed: NOW - 100, detour: None };
    const DETOURED_PIN: Pin = Pin { detour: Some(Detour { to: 2, since: NOW - 50 }), ..PIN };

    fn pool(keys: &str, pool: &str, backends: &[&str]) -> PoolPins {
        PoolPins::new(&KeyRing::parse(keys).unwrap(), pool, backends.iter().copied())
    }

    fn shop() -> PoolPins {
        pool(OLD, "shop", &["app1", "app2", "app3"])
    }

    fn open(pins: &PoolPins, token: &Token) -> Opened {
        pins.open(token.as_bytes(), NOW, LIMITS)
    }

    #[test]
    fn what_was_sealed_opens_as_it_was() {
        let pins = shop();
        for (pin, length) in [(PIN, PLAIN_TEXT), (DETOURED_PIN, DETOURED_TEXT)] {
            let token = pins.seal(&pin);
            assert_eq!(token.as_str().len(), length);
            assert_eq!(open(&pins, &token), Opened::Valid(pin));
        }
    }

    #[test]
    fn every_flipped_bit_is_a_forgery() {
        let pins = shop();
        for pin in [PIN, DETOURED_PIN] {
            let token = pins.seal(&pin);
            let bytes = URL_SAFE_NO_PAD.decode(token.as_str()).unwrap();
            for bit in 0..bytes.len() * 8 {
                let mut bytes = bytes.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(open(&pins, &Token::encode(&bytes)), Opened::Forged, "bit {bit} of the token");
            }
            for bit in 0..token.length * 8 {
                let mut token = token;
                token.text[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(open(&pins, &token), Opened::Forged, "bit {bit} of the text");
            }
        }
    }

    #[test]
    fn a_token_has_one_spelling() {
        let pins = shop();
        for pin in [PIN, DETOURED_PIN] {
            let token = pins.seal(&pin);
            for place in 0..token.length {
                for byte in (0..=255).filter(|byte| *byte != token.text[place]) {
                    let mut token = token;
                    token.text[place] = byte;
                    assert_eq!(open(&pins, &token), Opened::Forged, "{byte} at {place}");
                }
            }
        }
    }

    #[test]
    fn a_truncated_or_extended_token_is_a_forgery() {
        let pins = shop();
        for pin in [PIN, DETOURED_PIN] {
            let token = pins.seal(&pin);
            for length in 0..token.length {
                assert_eq!(pins.open(&token.as_bytes()[..length], NOW, LIMITS), Opened::Forged, "{length} characters");
            }
            for more in ["A", "=", "==", "\n", "AAAAAAAAAAAAAAAA"] {
                let text = format!("{}{more}", token.as_str());
                assert_eq!(pins.open(text.as_bytes(), NOW, LIMITS), Opened::Forged, "{text}");
            }
        }
        assert_eq!(pins.open(&vec![b'A'; 1 << 20], NOW, LIMITS), Opened::Forged);
    }

    #[test]
    fn another_version_is_a_forgery_even_when_well_sealed() {
        let pins = shop();
        let mut bytes = URL_SAFE_NO_PAD.decode(pins.seal(&PIN).as_str()).unwrap();
        bytes[0] = 2;
        let mac = pins.seals[0].authenticate(&bytes[..PLAIN - MAC]);
        bytes[PLAIN - MAC..].copy_from_slice(&mac.to_le_bytes());
        assert_eq!(open(&pins, &Token::encode(&bytes)), Opened::Forged);
    }

    #[test]
    fn a_pin_of_one_pool_is_worth_nothing_at_another() {
        let token = shop().seal(&PIN);
        assert_eq!(open(&pool(OLD, "blog", &["app1", "app2", "app3"]), &token), Opened::Forged);
        assert_eq!(open(&pool(NEW, "shop", &["app1", "app2", "app3"]), &token), Opened::Forged);
    }

    #[test]
    fn names_that_run_together_do_not_share_a_tag() {
        let (a, b) = (pool(OLD, "ab", &["c", "d"]), pool(OLD, "a", &["bc", "d"]));
        assert!(a.tags.iter().all(|tag| !b.tags.contains(tag)));
        assert_ne!(a.tags[0], a.tags[1]);
    }

    #[test]
    fn a_key_is_rotated_without_losing_a_pin() {
        let backends = ["app1", "app2", "app3"];
        let (before, after) = (shop(), pool(&format!("{NEW}\n{OLD}"), "shop", &backends));
        let old = before.seal(&DETOURED_PIN);
        assert_eq!(open(&after, &old), Opened::OldKey(DETOURED_PIN));
        let new = after.seal(&DETOURED_PIN);
        assert_eq!(open(&after, &new), Opened::Valid(DETOURED_PIN));
        // A replica that verifies the new key before it signs with it, and one that has forgotten the old one.
        assert_eq!(open(&pool(&format!("{OLD}\n{NEW}"), "shop", &backends), &new), Opened::OldKey(DETOURED_PIN));
        assert_eq!(open(&pool(NEW, "shop", &backends), &old), Opened::Forged);
    }

    #[test]
    fn keys_that_share_an_id_are_all_tried() {
        let id = |key: u128| KeyRing::from_random(key.to_be_bytes()).keys()[0].id();
        let twin = (1..).find(|key| id(*key) == id(0)).unwrap();
        let ring = format!("{:032x}\n{twin:032x}", 0);
        let backends = ["app1", "app2"];
        let token = pool(&format!("{twin:032x}"), "shop", &backends).seal(&PIN);
        assert_eq!(open(&pool(&ring, "shop", &backends), &token), Opened::OldKey(PIN));
    }

    #[test]
    fn a_pin_expires_by_idleness_and_by_age_and_not_a_second_early() {
        let pins = shop();
        let seal = |issued, refreshed| pins.seal(&Pin { issued, refreshed, ..PIN });
        let table = [
            (seal(NOW - 1800, NOW - 1800), PinVerdict::Valid),
            (seal(NOW - 1801, NOW - 1801), PinVerdict::Expired),
            (seal(NOW - 43_200, NOW), PinVerdict::Valid),
            (seal(NOW - 43_201, NOW), PinVerdict::Expired),
            (seal(0, 0), PinVerdict::Expired),
            // Clocks that were set back, or differ between replicas.
            (seal(NOW + 30, NOW + 30), PinVerdict::Valid),
            (seal(u32::MAX, u32::MAX), PinVerdict::Valid),
            (seal(NOW - 43_201, u32::MAX), PinVerdict::Expired),
        ];
        for (row, (token, verdict)) in table.iter().enumerate() {
            assert_eq!(open(&pins, token).verdict(), *verdict, "row {row}");
        }
    }

    #[test]
    fn a_pin_follows_its_home_by_name_when_the_pool_changes() {
        let token = shop().seal(&DETOURED_PIN);
        let moved = Pin { home: 0, detour: Some(Detour { to: 2, since: NOW - 50 }), ..PIN };
        assert_eq!(open(&pool(OLD, "shop", &["app2", "new", "app3", "app1"]), &token), Opened::Valid(moved));
    }

    #[test]
    fn a_pin_whose_home_has_left_is_an_orphan_with_what_is_known_of_it() {
        let token = shop().seal(&DETOURED_PIN);
        let Pin { id, instance, issued, refreshed, .. } = PIN;
        let orphan = |detour| Opened::UnknownBackend(Orphan { id, instance, issued, refreshed, detour });
        let left = pool(OLD, "shop", &["app1", "app3"]);
        assert_eq!(open(&left, &token), orphan(Some(Detour { to: 1, since: NOW - 50 })));
        assert_eq!(open(&pool(OLD, "shop", &["app1"]), &token), orphan(None));
        assert_eq!(open(&pool(OLD, "shop", &[]), &token), orphan(None));
        assert_eq!(left.open(token.as_bytes(), NOW + 100_000, LIMITS), Opened::Expired);
    }

    #[test]
    fn a_detour_to_a_backend_that_has_left_is_over() {
        let token = shop().seal(&DETOURED_PIN);
        assert_eq!(open(&pool(OLD, "shop", &["app1", "app2"]), &token), Opened::Valid(PIN));
    }

    #[test]
    fn members_outside_the_pool_do_no_harm() {
        let pins = shop();
        assert_eq!(open(&pins, &pins.seal(&Pin { home: 3, ..PIN })).verdict(), PinVerdict::UnknownBackend);
        let lost = Pin { detour: Some(Detour { to: u32::MAX, since: NOW }), ..PIN };
        assert_eq!(open(&pins, &pins.seal(&lost)), Opened::Valid(PIN));
    }

    #[test]
    fn of_several_cookies_the_first_good_one_wins_else_the_one_that_says_most() {
        let pins = pool(&format!("{NEW}\n{OLD}"), "shop", &["app1", "app2"]);
        let (valid, second) = (pins.seal(&PIN), pins.seal(&Pin { id: 2, ..PIN }));
        let old = pool(OLD, "shop", &["app1", "app2"]).seal(&PIN);
        let expired = pins.seal(&Pin { issued: 0, ..PIN });
        let orphan = pins.seal(&Pin { home: 9, ..PIN });
        let forged = pool(NEW, "blog", &["app1", "app2"]).seal(&PIN);
        let table: [(&[&Token], PinVerdict); 7] = [
            (&[], PinVerdict::None),
            (&[&forged], PinVerdict::Forged),
            (&[&forged, &expired, &forged], PinVerdict::Expired),
            (&[&expired, &orphan, &forged], PinVerdict::UnknownBackend),
            (&[&forged, &orphan, &valid], PinVerdict::Valid),
            (&[&old, &valid], PinVerdict::OldKey),
            (&[&forged, &valid, &second], PinVerdict::Valid),
        ];
        for (tokens, verdict) in table {
            let opened = pins.open_first(tokens.iter().map(|token| token.as_bytes()), NOW, LIMITS);
            assert_eq!(opened.verdict(), verdict);
            assert!(opened.pin().is_none_or(|pin| pin.id == PIN.id));
        }
    }

    #[test]
    fn no_debug_output_shows_a_token_or_a_key() {
        assert_eq!(format!("{:?}", shop().seal(&PIN)), "Token(..)");
        assert_eq!(format!("{:?}", shop()), "PoolPins { keys: 1, backends: 3, .. }");
    }

    #[derive(serde::Deserialize)]
    struct Golden {
        vectors: Vec<Vector>,
    }

    #[derive(serde::Deserialize)]
    struct Vector {
        key: String,
        pool: String,
        backends: Vec<String>,
        pin: GoldenPin,
        token: String,
    }

    #[derive(serde::Deserialize)]
    struct GoldenPin {
        id: String,
        home: String,
        instance: u32,
        issued: u32,
        refreshed: u32,
        detour: Option<GoldenDetour>,
    }

    #[derive(serde::Deserialize)]
    struct GoldenDetour {
        to: String,
        since: u32,
    }

    #[test]
    fn tokens_are_the_ones_that_live_in_browsers() {
        let golden: Golden = serde_json::from_str(include_str!("../../../tests/golden/pins.json")).unwrap();
        for Vector { key, pool, backends, pin, token } in golden.vectors {
            let member = |name: &str| (0..).zip(&backends).find(|(_, backend)| *backend == name).unwrap().0;
            let pins = PoolPins::new(&KeyRing::parse(&key).unwrap(), &pool, backends.iter().map(String::as_str));
            let pin = Pin {
                id: u64::from_str_radix(&pin.id, 16).unwrap(),
                home: member(&pin.home),
                instance: pin.instance,
                issued: pin.issued,
                refreshed: pin.refreshed,
                detour: pin.detour.map(|detour| Detour { to: member(&detour.to), since: detour.since }),
            };
            assert_eq!(pins.seal(&pin).as_str(), token);
            assert_eq!(pins.open(token.as_bytes(), pin.refreshed, LIMITS), Opened::Valid(pin));
        }
    }

    proptest! {
        #[test]
        fn any_pin_opens_as_it_was_sealed(
            id: u64, home in 0..3u32, instance: u32, age in 0..43_200u32, idle in 0..1800u32,
            detour in proptest::option::of((0..3u32, any::<u32>())),
        ) {
            let detour = detour.map(|(to, since)| Detour { to, since });
            let pin = Pin { id, home, instance, issued: NOW - age, refreshed: NOW - idle, detour };
            let pins = shop();
            prop_assert_eq!(open(&pins, &pins.seal(&pin)), Opened::Valid(pin));
        }

        #[test]
        fn arbitrary_bytes_are_a_forgery(text in proptest::collection::vec(any::<u8>(), 0..200), now: u32) {
            prop_assert_eq!(shop().open(&text, now, LIMITS), Opened::Forged);
        }

        #[test]
        fn arbitrary_base64_is_a_forgery(text in "[A-Za-z0-9_-]{61}[AQgw]|[A-Za-z0-9_-]{77}[AQgw]", now: u32) {
            prop_assert_eq!(shop().open(text.as_bytes(), now, LIMITS), Opened::Forged);
        }
    }
}
