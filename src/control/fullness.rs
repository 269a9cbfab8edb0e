//! Says when clients begin to be turned away for want of room, and when that is over: once each, in the log and as events.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::pool::Member;
use crate::proxy::snapshot::{Pool, Snapshot};
use crate::telemetry::events::{Event, Events};
use crate::telemetry::words::{Placement, RefuseReason};

/// No request was turned away for so long: it is over. Longer than a burst's pauses.
const QUIET: Duration = Duration::from_secs(5);

/// What was said last of each pool.
#[derive(Debug, Default)]
pub(super) struct Fullness(HashMap<Arc<str>, Said>);

/// What was said of one pool.
#[derive(Debug, Default)]
struct Said {
    is_full_of_clients: bool,
    /// Since when requests have been turned away, or the last one was.
    is_full_of_requests: Option<Instant>,
    /// Requests turned away so far.
    turned_away: u64,
}

impl Fullness {
    /// Looks at every pool. Called every now and then, so it is said a moment late.
    pub(super) fn look(&mut self, snapshot: &Snapshot, events: &Events, now: Instant) {
        self.0.retain(|name, _| snapshot.pools.iter().any(|pool| pool.settings.name == *name));
        for pool in &snapshot.pools {
            let turned_away = turned_away(pool);
            let said = self.0.entry(Arc::clone(&pool.settings.name)).or_default();
            said.look_at_clients(pool, events);
            said.look_at_requests(pool, turned_away, events, now);
        }
    }
}

impl Said {
    fn look_at_clients(&mut self, pool: &Pool, events: &Events) {
        let in_service = || pool.members.iter().filter(|member| member.backend.standing().is_available_for_new());
        let is_full = in_service().next().is_some() && in_service().all(Member::is_full);
        if std::mem::replace(&mut self.is_full_of_clients, is_full) == is_full {
            return;
        }
        let name = &*pool.settings.name;
        if is_full {
            tracing::warn!(pool = name, "every backend has as many clients as it may (max_pins): new ones get 503");
        } else {
            tracing::info!(pool = name, "there is room for new clients again");
        }
        tell(pool, "max_pins", is_full, events);
    }

    fn look_at_requests(&mut self, pool: &Pool, turned_away: u64, events: &Events, now: Instant) {
        let more = turned_away.saturating_sub(std::mem::replace(&mut self.turned_away, turned_away));
        let name = &*pool.settings.name;
        match self.is_full_of_requests {
            None if more > 0 => {
                tracing::warn!(
                    pool = name,
                    turned_away = more,
                    "backends and their queues have as many requests as they may (max_requests, queue): clients get 503"
                );
                tell(pool, "max_requests", true, events);
            }
            Some(last) if more == 0 && now.duration_since(last) >= QUIET => {
                tracing::info!(pool = name, "there is room for requests again");
                tell(pool, "max_requests", false, events);
                self.is_full_of_requests = None;
            }
            _ => {}
        }
        if more > 0 {
            self.is_full_of_requests = Some(now);
        }
    }
}

/// Requests that were turned away since the pool has been known, because there was no room.
fn turned_away(pool: &Pool) -> u64 {
    let counts = Placement::ALL.into_iter().zip(pool.counters.placements());
    let is_one = |placement: Placement| {
        matches!(placement, Placement::Refused(RefuseReason::QueueFull | RefuseReason::QueueTimeout))
    };
    counts.filter(|(placement, _)| is_one(*placement)).map(|(_, count)| count).sum()
}

fn tell(pool: &Pool, bound: &'static str, is_full: bool, events: &Events) {
    events.tell(|| Event::Fullness { pool: Arc::clone(&pool.settings.name), bound, is_full });
}
