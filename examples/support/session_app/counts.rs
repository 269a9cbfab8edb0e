//! What a test may ask a session app about itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Plain counters: tests poll them, nothing is published through them.
#[derive(Debug, Default)]
pub struct Counts {
    requests: AtomicU64,
    in_flight: Arc<AtomicU64>,
    accepted: AtomicU64,
    open: Arc<AtomicU64>,
}

impl Counts {
    /// Requests begun.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Requests begun and not answered.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Relaxed)
    }

    /// Connections accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    /// Connections open now.
    pub fn open(&self) -> u64 {
        self.open.load(Relaxed)
    }

    /// Counts a request until the guard is dropped.
    pub fn begin_one(&self) -> Held {
        self.requests.fetch_add(1, Relaxed);
        Held::hold(&self.in_flight)
    }

    /// Counts a connection until the guard is dropped.
    pub fn open_one(&self) -> Held {
        self.accepted.fetch_add(1, Relaxed);
        Held::hold(&self.open)
    }
}

/// One that is counted; no longer once dropped, however that comes about.
#[derive(Debug)]
pub struct Held(Arc<AtomicU64>);

impl Held {
    fn hold(counter: &Arc<AtomicU64>) -> Self {
        counter.fetch_add(1, Relaxed);
        Self(Arc::clone(counter))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
