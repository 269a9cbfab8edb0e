//! When a request is tried again.

use std::time::Duration;

use super::Percent;

/// When a request is tried again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    /// Attempts after the first.
    pub attempts: u32,
    /// A request body up to this many bytes is kept so that it can be sent again.
    pub body_limit: usize,
    /// Retries may be at most this share of requests (with a small floor).
    pub budget: Percent,
    /// What is tried again.
    pub retry_on: RetryOnSet,
    /// The longest pause before the first retry of a request that was sent.
    pub backoff: Duration,
    /// When a second backend is asked, too; `None` is never. Only with
    /// [`Sessions::External`](super::Sessions::External).
    pub hedge_after: Option<HedgeAfter>,
}

/// What may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetryOn {
    /// No connection could be opened.
    Connect,
    /// The connection broke before the first byte of a reply, or what came was none.
    ResetBeforeReply,
    /// A reply of 502.
    BadGateway,
    /// A reply of 503.
    ServiceUnavailable,
    /// A reply of 504, or none in time.
    GatewayTimeout,
}

/// A set of [`RetryOn`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOnSet(u8);

impl RetryOnSet {
    /// Whether it is in the set.
    pub fn contains(self, what: RetryOn) -> bool {
        self.0 & 1 << what as u8 != 0
    }
}

impl FromIterator<RetryOn> for RetryOnSet {
    fn from_iter<I: IntoIterator<Item = RetryOn>>(items: I) -> Self {
        Self(items.into_iter().fold(0, |set, what| set | 1 << what as u8))
    }
}

/// See [`Retry::hedge_after`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HedgeAfter {
    /// A fixed time.
    Time(Duration),
    /// The time within which this many of a hundred requests of the pool have their reply: 50 to 99.
    Percentile(u8),
}
