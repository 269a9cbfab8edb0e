//! Stopping: a trigger, cloneable watchers, and a deadline after which what is left is cut off.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Makes a trigger and its first watcher.
pub fn new() -> (Trigger, Watcher) {
    let (sender, receiver) = watch::channel(Phase::Running);
    (Trigger { phase: sender }, Watcher { phase: receiver })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// Finish what is under way, begin nothing.
    Draining {
        until: Instant,
    },
    /// Drop everything.
    Stopped,
}

/// Starts the drain. Dropping it stops at once, so that no task outlives its owner.
#[derive(Debug)]
pub struct Trigger {
    phase: watch::Sender<Phase>,
}

impl Trigger {
    /// Asks every watcher to finish within `deadline`. A second call can only shorten it.
    pub fn drain(&self, deadline: Duration, now: Instant) {
        self.phase.send_if_modified(|phase| match *phase {
            Phase::Running => {
                *phase = Phase::Draining { until: now + deadline };
                true
            }
            Phase::Draining { until } if now + deadline < until => {
                *phase = Phase::Draining { until: now + deadline };
                true
            }
            Phase::Draining { .. } | Phase::Stopped => false,
        });
    }

    /// Asks every watcher to drop what it does.
    pub fn stop(&self) {
        self.phase.send_replace(Phase::Stopped);
    }

    /// Another watcher.
    pub fn watcher(&self) -> Watcher {
        Watcher { phase: self.phase.subscribe() }
    }

    /// Resolves when every watcher has been dropped.
    pub async fn all_gone(&self) {
        self.phase.closed().await;
    }
}

impl Drop for Trigger {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Learns of the drain.
#[derive(Clone, Debug)]
pub struct Watcher {
    phase: watch::Receiver<Phase>,
}

impl Watcher {
    /// Whether the drain has begun.
    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() != Phase::Running
    }

    /// Resolves when the drain begins.
    pub async fn draining(&mut self) {
        // A dropped trigger has sent `Stopped` before, so an error only means the same.
        let _ = self.phase.wait_for(|phase| *phase != Phase::Running).await;
    }

    /// Resolves when time is up: at the deadline of the drain, or when told to stop.
    pub async fn stopped(&mut self) {
        loop {
            let phase = *self.phase.borrow_and_update();
            match phase {
                Phase::Running => {
                    if self.phase.changed().await.is_err() {
                        return;
                    }
                }
                Phase::Draining { until } => {
                    tokio::select! {
                        () = tokio::time::sleep_until(until) => return,
                        changed = self.phase.changed() => {
                            if changed.is_err() {
                                return;
                            }
                        }
                    }
                }
                Phase::Stopped => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_is_seen_at_once_and_ends_at_its_deadline() {
        let (trigger, mut watcher) = new();
        assert!(!watcher.is_draining());
        trigger.drain(Duration::from_secs(10), Instant::now());
        watcher.draining().await;
        let begun = Instant::now();
        watcher.stopped().await;
        assert_eq!(begun.elapsed(), Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_drain_can_only_shorten_the_first() {
        let (trigger, mut watcher) = new();
        let begun = Instant::now();
        trigger.drain(Duration::from_secs(10), begun);
        trigger.drain(Duration::from_secs(60), begun);
        trigger.drain(Duration::from_secs(2), begun);
        watcher.stopped().await;
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test]
    async fn a_dropped_trigger_stops_its_watchers() {
        let (trigger, mut watcher) = new();
        drop(trigger);
        watcher.stopped().await;
    }

    #[tokio::test]
    async fn a_trigger_knows_when_its_last_watcher_is_gone() {
        let (trigger, watcher) = new();
        let other = watcher.clone();
        drop(watcher);
        drop(other);
        trigger.all_gone().await;
    }
}
