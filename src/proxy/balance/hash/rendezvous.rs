//! `rendezvous`: the backend with the best score for the key.

use crate::pool::{Member, heir};

/// The home of a key: the first in its own order of preference.
///
/// The order is that of [`heir()`], so a key's home and the heir who stands in for it are the first and the second of one
/// list. What moves when a backend comes, leaves or changes its weight is the least that could: keys to or from that
/// backend, as many as its share. O(N), no table, no allocation. Source: see [`heir()`].
pub fn home(key: u64, members: &[Member]) -> Option<usize> {
    heir(key, members, None, |_, _| true)
}
