//! The parallel first requests of one browser get one home.
//!
//! A browser that comes for the first time sends several requests at once, none of them with a pin yet; placed one by one
//! they would make as many sessions on as many backends. So while the first request of a client is on its way, others
//! that look like the same client go where it went. It is forgotten with the reply, which brings the pin; after
//! eight requests, so that many clients behind one address spread all the same; and after two seconds at the latest.
//!
//! A table of a fixed size, shared by the workers, without locks: an entry that is overwritten by another client's only
//! loses the other's favour.

use std::hash::Hasher as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, header};
use siphasher::sip::SipHasher13;

/// Entries; a power of two.
const SLOTS: usize = 1024;

/// Requests that share one pick: a browser opens six connections to a host.
const MOST: u64 = 8;

/// How long a first request may be on its way.
const MEMORY: Duration = Duration::from_secs(2);

/// What tells one client without a pin from another: its address and what its browser says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newcomer(u64);

impl Newcomer {
    /// The client of a request.
    pub fn new(client: IpAddr, headers: &HeaderMap) -> Self {
        let mut hasher = SipHasher13::new();
        match client {
            IpAddr::V4(address) => hasher.write(&address.octets()),
            IpAddr::V6(address) => hasher.write(&address.octets()),
        }
        for name in [header::USER_AGENT, header::ACCEPT_LANGUAGE] {
            let value = headers.get(name).map_or(&b""[..], |value| value.as_bytes());
            hasher.write_usize(value.len());
            hasher.write(value);
        }
        Self(hasher.finish())
    }

    fn slot(self) -> usize {
        self.0 as usize % SLOTS
    }

    /// The part of the hash that an entry keeps.
    fn tag(self) -> u64 {
        self.0 >> 36
    }
}

/// Clients whose first request is on its way, and where to. Belongs to one pool of one snapshot.
#[derive(Debug)]
pub struct Newcomers {
    /// See [`Entry`]; 0 is a free one.
    slots: Box<[AtomicU64]>,
}

/// 28 bits of the client's hash, 20 of the member plus one, 12 of the time in tenths of a second, 4 of the count.
#[derive(Clone, Copy)]
struct Entry(u64);

impl Entry {
    fn new(newcomer: Newcomer, member: usize, tenths: u64, count: u64) -> Self {
        Self(newcomer.tag() << 36 | (member as u64 + 1) << 16 | (tenths & 0xfff) << 4 | count)
    }

    fn member_of(self, newcomer: Newcomer, tenths: u64) -> Option<usize> {
        let age = (tenths.wrapping_sub(self.0 >> 4)) & 0xfff;
        let is_fresh = age <= MEMORY.as_millis() as u64 / 100;
        let is_same = self.0 >> 36 == newcomer.tag();
        let member = (self.0 >> 16 & 0xf_ffff) as usize;
        (is_same && is_fresh && member > 0 && self.0 & 0xf < MOST).then(|| member - 1)
    }
}

impl Default for Newcomers {
    fn default() -> Self {
        Self { slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Newcomers {
    /// Where the client's first request went, if it is on its way; `uptime` is the time since any fixed moment.
    pub fn home_of(&self, newcomer: Newcomer, uptime: Duration) -> Option<usize> {
        // Relaxed throughout: an entry is whole in itself, and nothing else is published through it.
        let slot = &self.slots[newcomer.slot()];
        let entry = slot.load(Ordering::Relaxed);
        let member = Entry(entry).member_of(newcomer, tenths(uptime))?;
        // One more than the count says may pass when two count at once, which does no harm.
        let _ = slot.compare_exchange(entry, entry + 1, Ordering::Relaxed, Ordering::Relaxed);
        Some(member)
    }

    /// Notes where a first request goes. Gives the member of whoever was faster, when two of one client were picked for
    /// at the same time.
    pub fn claim(&self, newcomer: Newcomer, member: usize, uptime: Duration) -> usize {
        let (slot, tenths) = (&self.slots[newcomer.slot()], tenths(uptime));
        let before = slot.load(Ordering::Relaxed);
        if let Some(member) = Entry(before).member_of(newcomer, tenths) {
            return member;
        }
        let entry = Entry::new(newcomer, member, tenths, 1);
        match slot.compare_exchange(before, entry.0, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => member,
            Err(faster) => Entry(faster).member_of(newcomer, tenths).unwrap_or(member),
        }
    }

    /// Everybody has a reply.
    #[cfg(test)]
    pub(crate) fn forget_all(&self) {
        self.slots.iter().for_each(|slot| slot.store(0, Ordering::Relaxed));
    }

    /// The client has its reply, and its pin with it.
    pub fn forget(&self, newcomer: Newcomer) {
        let slot = &self.slots[newcomer.slot()];
        let entry = slot.load(Ordering::Relaxed);
        if entry >> 36 == newcomer.tag() {
            let _ = slot.compare_exchange(entry, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

fn tenths(uptime: Duration) -> u64 {
    uptime.as_millis() as u64 / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1000);

    fn newcomer(last: u8, agent: &str) -> Newcomer {
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, agent.parse().expect("a value"));
        Newcomer::new([192, 0, 2, last].into(), &headers)
    }

    #[test]
    fn six_requests_of_one_browser_go_where_the_first_went() {
        let (newcomers, browser) = (Newcomers::default(), newcomer(1, "a"));
        assert_eq!(newcomers.home_of(browser, NOW), None);
        assert_eq!(newcomers.claim(browser, 3, NOW), 3);
        for _ in 1..6 {
            assert_eq!(newcomers.home_of(browser, NOW + Duration::from_millis(300)), Some(3));
        }
        assert_eq!(newcomers.home_of(newcomer(1, "b"), NOW), None, "another browser");
        assert_eq!(newcomers.home_of(newcomer(2, "a"), NOW), None, "another address");
    }

    #[test]
    fn it_is_forgotten_with_the_reply_with_time_and_after_many_requests() {
        let (newcomers, browser) = (Newcomers::default(), newcomer(1, "a"));
        newcomers.claim(browser, 0, NOW);
        newcomers.forget(browser);
        assert_eq!(newcomers.home_of(browser, NOW), None);
        newcomers.claim(browser, 0, NOW);
        assert_eq!(newcomers.home_of(browser, NOW + MEMORY), Some(0));
        assert_eq!(newcomers.home_of(browser, NOW + MEMORY + Duration::from_millis(200)), None);
        newcomers.forget(browser);
        newcomers.claim(browser, 0, NOW);
        let followers = (0..20).filter(|_| newcomers.home_of(browser, NOW).is_some()).count();
        assert_eq!(followers as u64, MOST - 1);
    }

    #[test]
    fn of_two_that_were_picked_for_at_once_the_faster_decides() {
        let (newcomers, browser) = (Newcomers::default(), newcomer(1, "a"));
        assert_eq!(newcomers.home_of(browser, NOW), None);
        assert_eq!(newcomers.claim(browser, 5, NOW), 5);
        assert_eq!(newcomers.claim(browser, 7, NOW), 5);
        assert_eq!(newcomers.home_of(browser, NOW), Some(5));
    }

    #[test]
    fn the_clock_may_wrap_within_an_entry() {
        let (newcomers, browser) = (Newcomers::default(), newcomer(1, "a"));
        let late = Duration::from_millis(409_500);
        newcomers.claim(browser, 1, late);
        assert_eq!(newcomers.home_of(browser, late + Duration::from_millis(200)), Some(1));
    }
}
