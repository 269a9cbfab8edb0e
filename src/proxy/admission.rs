//! One request's way to room at a backend: it enters at once where there is room, else it waits its turn in a queue.
//!
//! A backend's queue is for requests that want this very one: it is their home, or takes over for it. The pool's queue is
//! for those that any backend may serve. A request may wait for as long as the pool says altogether, in whatever
//! queues; how long it waits for a home that is away is another matter, and another setting. Whoever goes away leaves
//! the queue, and passes on the turn that has just come, by dropping this.

use tokio::time::{Instant, sleep_until};

use super::attempts::Request;
use super::balance::{Balancer, Tried};
use super::error::ProxyError;
use super::snapshot::Pool;
use super::view::Slot;
use super::visit::{Crowd, Destination, Visit};
use crate::pool::{Place, Turn};
use crate::telemetry::words::{Placement, RefuseReason};

/// See the module. Without a wait, a few bytes on the stack.
#[derive(Default)]
pub(super) struct Admission {
    /// What the request has found full.
    pub(super) crowd: Crowd,
    /// Since it found nobody with room.
    waiting: Option<Box<Waiting>>,
}

struct Waiting {
    deadline: Instant,
    place: Option<(Queue, Place<Turn>)>,
    /// Room that was waited for.
    room: Option<(Destinations, Slot)>,
    /// Why it does not wait any longer.
    gave_up: RefuseReason,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Queue {
    At(usize),
    ForAny,
}

/// What room that was waited for is good for.
#[derive(Clone, Copy)]
enum Destinations {
    /// Whatever leads to this member.
    At(usize),
    /// This one.
    Only(Destination),
}

impl Destinations {
    fn member(self) -> usize {
        match self {
            Self::At(member) => member,
            Self::Only(destination) => destination.member,
        }
    }
}

impl Admission {
    /// Whether it had to wait.
    pub(super) fn has_begun(&self) -> bool {
        self.waiting.is_some()
    }

    /// Where it has room because it waited for any.
    pub(super) fn destination(&self) -> Option<Destination> {
        match self.waiting.as_ref()?.room {
            Some((Destinations::Only(destination), _)) => Some(destination),
            Some((Destinations::At(_), _)) | None => None,
        }
    }

    /// Leaves the queue that it was in; what room it has goes to others.
    pub(super) fn leave(&mut self) {
        if let Some(waiting) = &mut self.waiting {
            (waiting.place, waiting.room) = (None, None);
        }
    }

    /// Enters at this member, if there is room. It leaves the queue that it was in.
    pub(super) fn enter(&mut self, request: &Request<'_>, member: usize) -> Option<Slot> {
        if let Some(waiting) = &mut self.waiting {
            waiting.place = None;
            if let Some((destinations, slot)) = waiting.room.take()
                && destinations.member() == member
            {
                return Some(slot);
            }
        }
        let slot = Slot::try_hold(request.view, request.pool, member);
        if slot.is_none() {
            self.crowd.found_full(member);
        }
        slot
    }

    /// Waits in the queue of this member: until its turn comes, until something else has to be decided, or until it may
    /// not wait any longer. With a placement, it goes there once it is its turn.
    pub(super) async fn wait_at(&mut self, request: &Request<'_>, member: usize, placement: Option<Placement>) {
        let pool = request.view.pool(request.pool);
        let backend = &pool.members[member].backend;
        let Self { crowd, waiting } = self;
        let waiting = Waiting::begin(waiting, pool);
        let (deadline, changed) = (waiting.deadline, backend.changed());
        if !backend.standing().is_available_for_pinned() {
            return;
        }
        let Some(place) =
            waiting.place_in(Queue::At(member), || backend.room().line().join(pool.settings.queue.length, None))
        else {
            return waiting.give_up(crowd, RefuseReason::QueueFull);
        };
        backend.room().serve();
        tokio::select! {
            biased;
            turn = place.turn() => {
                waiting.place = None;
                if let Some(turn) = turn {
                    crowd.has_room(member);
                    let slot = Slot::of_turn(request.view, request.pool, member, turn);
                    let to = |placement| Destination { member, placement, moved: None, session_lost: None };
                    let only = placement.map(|placement| Destinations::Only(to(placement)));
                    waiting.room = Some((only.unwrap_or(Destinations::At(member)), slot));
                }
            }
            () = changed => {}
            () = sleep_until(deadline) => waiting.give_up(crowd, RefuseReason::QueueTimeout),
        }
    }

    /// Waits in the pool's queue, likewise, until any member has room that would be picked now.
    pub(super) async fn wait_for_any(
        &mut self,
        request: &Request<'_>,
        visit: &Visit,
        tried: &Tried,
        placement: Placement,
    ) {
        let pool = request.view.pool(request.pool);
        let Self { crowd, waiting } = self;
        let waiting = Waiting::begin(waiting, pool);
        loop {
            let (deadline, changed) = (waiting.deadline, pool.line.changed.notified());
            let candidates = Balancer::candidates(&pool.members, tried, placement == Placement::New);
            if candidates.is_empty() {
                waiting.place = None;
                return;
            }
            let serials = || {
                let mut serials: Vec<u32> =
                    candidates.iter().map(|member| pool.members[*member].backend.serial()).collect();
                serials.sort_unstable();
                serials.into_boxed_slice()
            };
            let join = || pool.line.line.join(pool.settings.queue.length, Some(serials()));
            let Some(place) = waiting.place_in(Queue::ForAny, join) else {
                return waiting.give_up(crowd, RefuseReason::QueueFull);
            };
            // It may have joined among others than those of now.
            place.goes_to(serials());
            candidates.iter().for_each(|member| pool.members[*member].backend.room().serve());
            tokio::select! {
                biased;
                turn = place.turn() => {
                    waiting.place = None;
                    let has_room = |turn: &Turn, member: usize| turn.serial() == Some(pool.members[member].backend.serial());
                    if let Some(turn) = turn
                        && let Some(member) = candidates.iter().copied().find(|member| has_room(&turn, *member))
                    {
                        crowd.has_room(member);
                        visit.claim(pool, member, Instant::now());
                        let destination = Destination { member, placement, moved: None, session_lost: None };
                        let slot = Slot::of_turn(request.view, request.pool, member, turn);
                        waiting.room = Some((Destinations::Only(destination), slot));
                    }
                    return;
                }
                () = changed => {}
                () = sleep_until(deadline) => return waiting.give_up(crowd, RefuseReason::QueueTimeout),
            }
        }
    }

    /// Nobody has room: why it does not wait any longer, and what the client is told.
    pub(super) fn refusal(&self, pool: &Pool) -> (RefuseReason, ProxyError) {
        let reason = self.waiting.as_ref().map_or(RefuseReason::QueueFull, |waiting| waiting.gave_up);
        // Whoever is in the queue now has its turn by then, or has gone. Where nobody waits, there is nothing to go by.
        let queue = pool.settings.queue;
        let after = if queue.length == 0 { 1 } else { queue.timeout.as_secs_f64().ceil() as u32 };
        (reason, ProxyError::Full { retry_after: after.max(1) })
    }
}

impl Waiting {
    fn begin<'a>(waiting: &'a mut Option<Box<Self>>, pool: &Pool) -> &'a mut Self {
        let waiting = waiting.get_or_insert_with(|| {
            let deadline = Instant::now() + pool.settings.queue.timeout;
            Box::new(Self { deadline, place: None, room: None, gave_up: RefuseReason::QueueTimeout })
        });
        // Room that it has no use for any more goes to others, not least because it might be waiting for that itself.
        waiting.room = None;
        waiting
    }

    /// The place in this queue: the one it has, else a new one at its end.
    fn place_in(&mut self, queue: Queue, join: impl FnOnce() -> Option<Place<Turn>>) -> Option<&mut Place<Turn>> {
        if self.place.as_ref().is_none_or(|(joined, _)| *joined != queue) {
            // It leaves the one before it joins the other.
            self.place = None;
            self.place = join().map(|place| (queue, place));
        }
        self.place.as_mut().map(|(_, place)| place)
    }

    fn give_up(&mut self, crowd: &mut Crowd, why: RefuseReason) {
        self.place = None;
        self.gave_up = why;
        crowd.give_up_waiting();
    }
}
