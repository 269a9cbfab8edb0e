//! The gate of `backup`: of several requests of one client that leave their home at once, the first goes alone.
//!
//! Two nodes that adopt one session at once lose it, and even one node may when two requests make it do so. So the first
//! request of a client that goes to its heir passes, and the others wait for its reply, but no longer than the pool says,
//! counted from when it went: it may be a long poll. Then they follow, and so do those that come a little later with the
//! same old pin. When the first one fails, the next takes its place.
//!
//! An app that names the session anew where it moves, as Tomcat does, says with that that it has adopted it. A reply that
//! does not may have come from a node that was still asking a dead one for it, so the next request goes alone, too, also
//! when it comes with the new pin. Its reply has to do: most apps never say anything.
//!
//! Only requests that leave their home come here, or have left it in the last seconds, so a lock does no harm: it is held
//! for a look into a map.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::at_home::AtHome;

/// Clients that are waited for or remembered at a time. With more, the latest ones pass as they come.
const MOST: usize = 16_384;

/// How often room is made for new clients.
const PRUNE_EVERY: Duration = Duration::from_secs(1);

/// How long a gate stays open behind the first request: longer than parallel requests of one page take to come.
const MEMORY: Duration = Duration::from_secs(10);

/// The gates of all pools. Outlives every snapshot.
#[derive(Debug)]
pub struct Gates {
    inner: Mutex<Inner>,
    made_at: Instant,
    /// Until when some gate may be ajar: milliseconds since `made_at`.
    ajar_until: AtomicU64,
    /// Whom the first one waits for.
    pub at_home: AtHome,
}

impl Default for Gates {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            made_at: Instant::now(),
            ajar_until: AtomicU64::new(0),
            at_home: AtHome::default(),
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    by_passage: HashMap<Passage, Gate>,
    /// When it was last looked for those that are forgotten.
    pruned_at: Option<Instant>,
}

impl Inner {
    /// Forgets what is over. Looks at everything, and so once a second at the most.
    fn prune(&mut self, now: Instant) {
        if self.pruned_at.is_none_or(|at| now.duration_since(at) >= PRUNE_EVERY) {
            self.by_passage
                .retain(|_, gate| !matches!(gate, Gate::Ajar { until } | Gate::Open { until } if *until <= now));
            self.pruned_at = Some(now);
        }
    }
}

/// Who passes, and where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Passage {
    /// The pin's id.
    pub pin: u64,
    /// The stable hash of the backend that takes over.
    pub heir: u64,
}

#[derive(Debug)]
enum Gate {
    /// The first one, or the second one after it, is on its way since then; the others wait for this.
    Shut { opened: Arc<Notify>, since: Instant },
    /// The first one has its reply, which leaves open whether the session has been adopted: the next one goes alone.
    Ajar { until: Instant },
    /// Everybody follows.
    Open { until: Instant },
}

impl Gates {
    /// Passes the gate: at once as one who goes alone, and gets a [`Pass`], or behind that one's reply. Waits until
    /// `deadline` at the longest, and for that one no longer than if both had come at the same time.
    pub async fn pass(self: &Arc<Self>, passage: Passage, deadline: Instant) -> Option<Pass> {
        let limit = deadline.saturating_duration_since(Instant::now());
        loop {
            let (opened, since) = match self.look(passage, Instant::now()) {
                Look::Alone { is_first } => {
                    return Some(Pass { gates: Arc::clone(self), passage, is_first, has_reply: false });
                }
                Look::Open => return None,
                Look::Shut(opened, since) => (opened, since),
            };
            if timeout_at(deadline.min(since + limit), opened).await.is_err() {
                return None;
            }
        }
    }

    /// Whether a request of this pin that comes to its new home has a gate to pass there. Looks at nothing but a number as
    /// long as no session has been taken over in the last seconds.
    pub fn may_be_ajar(&self, passage: Passage, now: Instant) -> bool {
        // Relaxed is enough: a client has its new pin after this was stored, by way of the network.
        self.ajar_until.load(Ordering::Relaxed) > self.time(now)
            && match self.lock().by_passage.get(&passage) {
                Some(Gate::Ajar { until }) => now < *until,
                Some(Gate::Shut { .. }) => true,
                Some(Gate::Open { .. }) | None => false,
            }
    }

    fn time(&self, at: Instant) -> u64 {
        u64::try_from(at.duration_since(self.made_at).as_millis()).unwrap_or(u64::MAX)
    }

    fn look(&self, passage: Passage, now: Instant) -> Look<impl Future<Output = ()> + use<>> {
        let mut gates = self.lock();
        let mut is_first = true;
        match gates.by_passage.get(&passage) {
            // Made while the lock is held, so that it cannot miss the opening.
            Some(Gate::Shut { opened, since }) => return Look::Shut(Arc::clone(opened).notified_owned(), *since),
            Some(Gate::Open { until }) if now < *until => return Look::Open,
            Some(Gate::Ajar { until }) if now < *until => is_first = false,
            Some(Gate::Ajar { .. } | Gate::Open { .. }) => {}
            None if gates.by_passage.len() >= MOST => {
                gates.prune(now);
                if gates.by_passage.len() >= MOST {
                    return Look::Open;
                }
            }
            None => {}
        }
        gates.by_passage.insert(passage, Gate::Shut { opened: Arc::default(), since: now });
        Look::Alone { is_first }
    }

    /// Replaces the gate of whoever went alone, and wakes the others.
    fn replace(&self, passage: Passage, gate: Option<Gate>) {
        let mut gates = self.lock();
        let before = match gate {
            Some(gate) => gates.by_passage.insert(passage, gate),
            None => gates.by_passage.remove(&passage),
        };
        if let Some(Gate::Shut { opened, .. }) = before {
            opened.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every holder leaves a whole map behind.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a request finds.
enum Look<F> {
    /// Nobody: it goes alone.
    Alone { is_first: bool },
    /// All may follow.
    Open,
    /// Another one is on its way alone, since then.
    Shut(F, Instant),
}

/// The way through the gate of a request that goes alone. Dropped without a reply, it leaves its place to the next one.
#[derive(Debug)]
pub struct Pass {
    gates: Arc<Gates>,
    passage: Passage,
    is_first: bool,
    has_reply: bool,
}

impl Pass {
    /// The reply has come: the others follow; but only one of them, when this was the first and the app has not `adopted`
    /// the session for all that can be seen.
    pub fn open(mut self, adopted: bool, now: Instant) {
        self.has_reply = true;
        let until = now + MEMORY;
        let gate = if adopted || !self.is_first {
            Gate::Open { until }
        } else {
            self.gates.ajar_until.fetch_max(self.gates.time(until), Ordering::Relaxed);
            Gate::Ajar { until }
        };
        self.gates.replace(self.passage, Some(gate));
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if !self.has_reply {
            self.gates.replace(self.passage, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    const PASSAGE: Passage = Passage { pin: 7, heir: 9 };

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test(start_paused = true)]
    async fn who_adopts_goes_alone_and_the_others_follow_its_reply() {
        let gates = Arc::<Gates>::default();
        let pass = gates.pass(PASSAGE, soon()).await.expect("nobody was before it");
        let passed = Arc::new(AtomicU32::new(0));
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let (gates, passed) = (Arc::clone(&gates), Arc::clone(&passed));
                tokio::spawn(async move {
                    assert!(gates.pass(PASSAGE, soon()).await.is_none());
                    passed.fetch_add(1, Ordering::Relaxed);
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(passed.load(Ordering::Relaxed), 0);
        pass.open(true, Instant::now());
        for waiting in waiting {
            waiting.await.expect("it has passed");
        }
        assert!(gates.pass(PASSAGE, soon()).await.is_none(), "a late one follows at once");
        tokio::time::sleep(MEMORY).await;
        assert!(gates.pass(PASSAGE, soon()).await.is_some(), "forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn behind_a_reply_that_says_nothing_one_more_goes_alone() {
        let gates = Arc::<Gates>::default();
        let alone = Arc::new(AtomicU32::new(0));
        let ask = || {
            let (gates, alone) = (Arc::clone(&gates), Arc::clone(&alone));
            tokio::spawn(async move {
                let Some(pass) = gates.pass(PASSAGE, soon()).await else { return };
                alone.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(1)).await;
                pass.open(false, Instant::now());
            })
        };
        let begun = Instant::now();
        for asked in [ask(), ask(), ask(), ask()] {
            asked.await.expect("it has passed");
        }
        assert_eq!((alone.load(Ordering::Relaxed), begun.elapsed()), (2, Duration::from_secs(2)));
        assert!(!gates.may_be_ajar(PASSAGE, Instant::now()), "open by now");

        // The second one's failure makes whoever comes next a first one again.
        tokio::time::sleep(MEMORY).await;
        gates.pass(PASSAGE, soon()).await.expect("forgotten").open(false, Instant::now());
        assert!(gates.may_be_ajar(PASSAGE, Instant::now()));
        assert!(!gates.may_be_ajar(Passage { pin: 8, ..PASSAGE }, Instant::now()));
        assert!(!gates.may_be_ajar(PASSAGE, Instant::now() + MEMORY), "no longer");
        drop(gates.pass(PASSAGE, soon()).await.expect("ajar"));
        gates.pass(PASSAGE, soon()).await.expect("nobody").open(false, Instant::now());
        gates.pass(PASSAGE, soon()).await.expect("ajar").open(false, Instant::now());
        assert!(gates.pass(PASSAGE, soon()).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_first_fails_exactly_one_takes_its_place() {
        let gates = Arc::<Gates>::default();
        let pass = gates.pass(PASSAGE, soon()).await;
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let gates = Arc::clone(&gates);
                tokio::spawn(
                    async move { gates.pass(PASSAGE, soon()).await.map(|pass| pass.open(true, Instant::now())) },
                )
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        drop(pass);
        let mut first = 0;
        for waiting in waiting {
            first += u32::from(waiting.await.expect("it has passed").is_some());
        }
        assert_eq!(first, 1);
    }

    /// A long poll goes alone, and is answered half a minute later.
    #[tokio::test(start_paused = true)]
    async fn who_comes_late_waits_no_longer_than_those_before_it() {
        let gates = Arc::<Gates>::default();
        gates.pass(PASSAGE, soon()).await.expect("nobody was before it").open(false, Instant::now());
        let begun = Instant::now();
        let poll = gates.pass(PASSAGE, soon()).await.expect("ajar");
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(gates.may_be_ajar(PASSAGE, Instant::now()));
        assert!(gates.pass(PASSAGE, soon()).await.is_none());
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
        let begun = Instant::now();
        assert!(gates.pass(PASSAGE, soon()).await.is_none());
        assert_eq!(begun.elapsed(), Duration::ZERO, "others have waited for it in vain");
        poll.open(false, Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_is_bounded_and_so_is_memory() {
        let gates = Arc::<Gates>::default();
        let _first = gates.pass(PASSAGE, soon()).await;
        let begun = Instant::now();
        assert!(gates.pass(PASSAGE, soon()).await.is_none());
        assert_eq!(begun.elapsed(), Duration::from_secs(5));

        let mut passes = Vec::new();
        for pin in 0..2 * MOST as u64 {
            passes.extend(gates.pass(Passage { pin, heir: 1 }, soon()).await);
        }
        assert_eq!(passes.len() + 1, MOST, "one was there before");
        for pass in passes {
            pass.open(true, Instant::now());
        }
        tokio::time::sleep(MEMORY).await;
        assert!(gates.pass(Passage { pin: 0, heir: 2 }, soon()).await.is_some(), "what is over makes room");
        assert!(gates.lock().by_passage.len() <= 3);
    }
}
