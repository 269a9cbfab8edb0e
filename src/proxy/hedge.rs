//! A second backend is asked when the first is slow, and the first reply wins: for requests that may be sent twice, where
//! every backend has every session.
//!
//! It is a retry before anything failed, and taken from the same budget. The pin stays whoever wins: for a pinned client the
//! second backend is a detour. Costs a timer for each request of a pool that hedges, and nothing elsewhere.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::attempts::{Request, Won};
use super::balance::Tried;
use super::forward::{AttemptError, RequestBody, is_idempotent};
use super::outgoing::wanted_upgrade;
use super::view::Slot;
use super::visit::{Crowd, Destination, Next, Visit};
use super::{Journal, Proxy};
use crate::telemetry::words::{DetourReason, Placement, RetryReason};

/// A failed attempt: where, how, and the body for another one.
pub(super) type Failed = (Destination, AttemptError, RequestBody);

impl Proxy {
    /// After which time without a reply a second backend is asked for this request; `None` when none is.
    pub(super) fn hedge_after(
        &self,
        request: &Request<'_>,
        first: &Destination,
        body: &RequestBody,
    ) -> Option<Duration> {
        let times = request.view.local(request.pool).reply_times.as_ref()?;
        let is_plain = first.moved.is_none() && first.session_lost.is_none();
        // A key makes a request repeatable one after the other, not at the same time.
        let may_be_doubled = is_idempotent(&request.parts.method) && body.is_empty() && is_plain;
        if !may_be_doubled || wanted_upgrade(request.parts).is_some() {
            return None;
        }
        times.borrow().hedge_after()
    }

    /// Asks one backend, and another one, too, when no reply has begun `after` that time. A failure of one is left to the
    /// other; only when both fail, this fails, with the later one.
    pub(super) async fn try_two(
        &self,
        request: &Request<'_>,
        visit: &Visit,
        (first, body, slot): (Destination, RequestBody, Slot),
        after: Duration,
        tried: &mut Tried,
        journal: &mut Journal,
    ) -> Result<Won, Failed> {
        let begun_at = Instant::now();
        let mut one = pin!(self.try_one(request, visit, (first, body, slot), &request.client.deadline, None));
        if let Ok(outcome) = timeout(after, &mut one).await {
            return outcome;
        }
        let Some((second, slot)) = self.second(request, visit, &first, tried) else { return one.await };
        if !request.view.local(request.pool).spend_retry() {
            return one.await;
        }
        request.view.pool(request.pool).counters.shard(self.worker).retried(RetryReason::Hedge);
        journal.attempts += 1;
        let deadline = self.clock.place();
        let mut two = pin!(self.try_one(request, visit, (second, RequestBody::empty(), slot), &deadline, None));
        let (failed, other) = tokio::select! {
            outcome = &mut one => match outcome {
                Ok(won) => return Ok(won),
                Err(failed) => (failed, two.await),
            },
            outcome = &mut two => match outcome {
                Ok(won) => {
                    // It is the first one's, which nobody waits for any more.
                    request.client.deadline.clear();
                    // At least so long it would have taken; without it, the slow ones would not be known of.
                    if let Some(times) = &request.view.local(request.pool).reply_times {
                        times.borrow_mut().note(begun_at.elapsed());
                    }
                    return Ok(won);
                }
                Err(failed) => (failed, one.await),
            },
        };
        let (destination, error, _) = failed;
        self.note_failure(request, &destination, &error);
        tried.insert(destination.member);
        other
    }

    /// Who else may be asked while `first` is: somebody with room, to whom the request can go as it is.
    fn second(
        &self,
        request: &Request<'_>,
        visit: &Visit,
        first: &Destination,
        tried: &Tried,
    ) -> Option<(Destination, Slot)> {
        let pool = request.view.pool(request.pool);
        let mut tried = *tried;
        tried.insert(first.member);
        let (mut balancer, mut rng) = (request.view.local(request.pool).balancer.borrow_mut(), self.rng.borrow_mut());
        let Next::Go(second) =
            visit.next(pool, &mut balancer, (&tried, &Crowd::default()), true, &mut rng, Instant::now())
        else {
            return None;
        };
        let is_plain = second.moved.is_none() && second.session_lost.is_none() && second.member != first.member;
        let placement = match second.placement {
            // Its home did not fail; it is slow.
            Placement::Detour(_) => Placement::Detour(DetourReason::Busy),
            placement => placement,
        };
        let slot = if is_plain { Slot::try_hold(request.view, request.pool, second.member) } else { None };
        slot.map(|slot| (Destination { placement, ..second }, slot))
    }
}
