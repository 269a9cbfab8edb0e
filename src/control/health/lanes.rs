//! How many probes may be under way at once, so that thousands of silent backends cannot use up the file descriptors.
//!
//! A backend that was known to be unhealthy at its last probe waits for a place of its own kind, of which there are fewer:
//! so those whose probes take all their time-out do not delay those that answer.

use std::sync::Arc;

use rustix::process::{Resource, getrlimit};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Most probes under way.
const MOST: usize = 512;

/// The share of open files that probes may have: one of so many.
const SHARE_OF_FILES: usize = 8;

/// The places; clones share them.
#[derive(Clone, Debug)]
pub(super) struct Lanes {
    well: Arc<Semaphore>,
    ill: Arc<Semaphore>,
}

impl Lanes {
    /// As many as the process's limit of open files has room for.
    pub(super) fn of_process() -> Self {
        let files = getrlimit(Resource::Nofile).current.map_or(MOST * SHARE_OF_FILES, |files| files as usize);
        Self::new((files / SHARE_OF_FILES).min(MOST))
    }

    fn new(places: usize) -> Self {
        let places = places.max(4);
        let ill = places / 4;
        Self { well: Arc::new(Semaphore::new(places - ill)), ill: Arc::new(Semaphore::new(ill)) }
    }

    /// Waits for a place, which is free again when the permit is dropped. First come, first served.
    pub(super) async fn enter(&self, is_ill: bool) -> SemaphorePermit<'_> {
        let lane = if is_ill { &self.ill } else { &self.well };
        lane.acquire().await.expect("nobody closes it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_ill_do_not_keep_the_well_waiting() {
        let lanes = Lanes::new(8);
        let _ill = [lanes.enter(true).await, lanes.enter(true).await];
        assert!(lanes.ill.try_acquire().is_err(), "no more than two of eight");
        let mut well = Vec::new();
        for _ in 0..6 {
            well.push(lanes.enter(false).await);
        }
        assert!(lanes.well.try_acquire().is_err(), "all places are taken");
        well.pop();
        drop(lanes.enter(false).await);
    }

    #[test]
    fn few_files_leave_a_few_places() {
        let lanes = Lanes::new(0);
        assert_eq!((lanes.well.available_permits(), lanes.ill.available_permits()), (3, 1));
    }
}
