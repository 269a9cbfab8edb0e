//! What a pin says, how long it lives, and what a presented one turned out to be.

use std::time::Duration;

use crate::config::CookieAffinity;
use crate::telemetry::words::PinVerdict;

/// The record that ties a client to a backend. Backends are named by their place in the pool of one snapshot, so a pin
/// must be sealed by the same snapshot that opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Random; stays the same for as long as the client keeps its pin, wherever it is moved.
    pub id: u64,
    /// The backend that holds the client's session: index of the member in the pool.
    pub home: u32,
    /// Which life of the home's process.
    pub instance: u32,
    /// When the pin was made, in seconds since the Unix epoch.
    pub issued: u32,
    /// When it was last sealed, in seconds since the Unix epoch.
    pub refreshed: u32,
    /// Where the client is served while its home is out of reach.
    pub detour: Option<Detour>,
}

impl Pin {
    /// Whether the client should be sent a fresh copy although nothing changed, so that use keeps the pin alive.
    ///
    /// True after as many seconds as given. A time as far in the future is put right too.
    pub fn needs_refresh(&self, now: u32, after: u32) -> bool {
        now.abs_diff(self.refreshed) >= after
    }
}

/// A noted detour, so that a client on a long one stays in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detour {
    /// Index of the member in the pool.
    pub to: u32,
    /// When it began, in seconds since the Unix epoch.
    pub since: u32,
}

/// What is left of a pin whose home is not in the pool: enough to find the heir.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// See [`Pin::id`].
    pub id: u64,
    /// See [`Pin::instance`].
    pub instance: u32,
    /// See [`Pin::issued`].
    pub issued: u32,
    /// See [`Pin::refreshed`].
    pub refreshed: u32,
    /// See [`Pin::detour`].
    pub detour: Option<Detour>,
}

/// How long pins live, in seconds. Enforced here and not by the browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A pin not refreshed for longer is expired.
    pub idle_timeout: u32,
    /// A pin issued longer ago is expired, used or not.
    pub max_lifetime: u32,
}

impl Limits {
    /// Parts of a second count as a whole one, so that a short timeout never becomes none.
    pub fn new(idle_timeout: Duration, max_lifetime: Duration) -> Self {
        Self { idle_timeout: whole_seconds(idle_timeout), max_lifetime: whole_seconds(max_lifetime) }
    }

    /// A time in the future is taken as now: clocks are set back, and replicas differ by a little.
    pub(super) fn expired(self, issued: u32, refreshed: u32, now: u32) -> bool {
        now.saturating_sub(refreshed) > self.idle_timeout || now.saturating_sub(issued) > self.max_lifetime
    }

    /// How long a pin issued then can still live if it is not used again.
    pub(super) fn remaining(self, issued: u32, now: u32) -> u32 {
        self.max_lifetime.saturating_sub(now.saturating_sub(issued)).min(self.idle_timeout)
    }
}

impl From<&CookieAffinity> for Limits {
    fn from(settings: &CookieAffinity) -> Self {
        Self::new(settings.idle_timeout, settings.max_lifetime)
    }
}

fn whole_seconds(duration: Duration) -> u32 {
    let rounded_up = duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0));
    u32::try_from(rounded_up).unwrap_or(u32::MAX)
}

/// What a request's cookies turned out to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// No pin was presented.
    None,
    /// A good one.
    Valid(Pin),
    /// A good one, to be sealed anew: its key no longer signs.
    OldKey(Pin),
    /// Ours, but unused for too long, or too old.
    Expired,
    /// Not sealed by us for this pool, or not a pin at all.
    Forged,
    /// Ours, but its home is not in the pool.
    UnknownBackend(Orphan),
}

impl Opened {
    /// The word for it.
    pub fn verdict(&self) -> PinVerdict {
        match self {
            Self::None => PinVerdict::None,
            Self::Valid(_) => PinVerdict::Valid,
            Self::OldKey(_) => PinVerdict::OldKey,
            Self::Expired => PinVerdict::Expired,
            Self::Forged => PinVerdict::Forged,
            Self::UnknownBackend(_) => PinVerdict::UnknownBackend,
        }
    }

    /// The pin, when it is good.
    pub fn pin(&self) -> Option<Pin> {
        match self {
            Self::Valid(pin) | Self::OldKey(pin) => Some(*pin),
            Self::None | Self::Expired | Self::Forged | Self::UnknownBackend(_) => None,
        }
    }

    /// Which of several presented pins says most about the client: the higher one.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::None => 0,
            Self::Forged => 1,
            Self::Expired => 2,
            Self::UnknownBackend(_) => 3,
            Self::OldKey(_) | Self::Valid(_) => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(refreshed: u32) -> Pin {
        Pin { id: 1, home: 0, instance: 0, issued: 0, refreshed, detour: None }
    }

    #[test]
    fn a_pin_is_refreshed_after_its_time() {
        assert!(!pin(1000).needs_refresh(1000, 225));
        assert!(!pin(1000).needs_refresh(1224, 225));
        assert!(pin(1000).needs_refresh(1225, 225));
        assert!(!pin(1000).needs_refresh(990, 225), "clocks that differ by a little");
        assert!(pin(10_000).needs_refresh(1000, 225), "a clock that was set back by a lot");
    }

    #[test]
    fn the_shortest_idle_time_still_leaves_room_to_refresh() {
        let limits = Limits { idle_timeout: 1, max_lifetime: 10 };
        assert!(!pin(5).needs_refresh(5, 1));
        assert!(pin(5).needs_refresh(6, 1));
        assert!(!limits.expired(5, 5, 6));
    }

    #[test]
    fn what_remains_is_the_idle_time_until_the_end_of_life_is_nearer() {
        let limits = Limits { idle_timeout: 100, max_lifetime: 1000 };
        for (now, expected) in [(0, 100), (5000, 100), (5899, 100), (5901, 99), (5999, 1), (6000, 0), (7000, 0)] {
            assert_eq!(limits.remaining(5000, now), expected, "at {now}");
        }
    }

    #[test]
    fn durations_round_up_to_seconds_and_never_overflow() {
        let limits = Limits::new(Duration::from_millis(1), Duration::MAX);
        assert_eq!(limits, Limits { idle_timeout: 1, max_lifetime: u32::MAX });
        assert_eq!(Limits::new(Duration::from_secs(30), Duration::from_secs(60)).idle_timeout, 30);
    }
}
