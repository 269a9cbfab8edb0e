//! Wall-clock time as pins count it: whole seconds since the Unix epoch, the same for every replica and after every restart.

use std::time::{SystemTime, UNIX_EPOCH};

/// This moment in whole seconds since the Unix epoch. 0 before it, and the last one there is from 2106 on.
pub fn unix_seconds(at: SystemTime) -> u32 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}
