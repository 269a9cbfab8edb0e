//! How much a backend takes at a time: its requests in flight, its open connections, their bounds, and who waits for room.
//!
//! Both bounds are exact over all workers. Without them, a request adds one to a counter and takes it off again; with
//! them, it compares and swaps, and looks whether somebody waits. Only who waits, and who serves those who wait, takes a
//! lock. Room that was given back goes first to those who wait for this very backend (their sessions live here), then
//! to those whom any backend of the pool would do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Notify;

use super::line::Line;

/// The bound of what has none.
const UNBOUNDED: u32 = u32::MAX;

/// Who waits for any backend of a pool. Outlives every snapshot, as backends do.
#[derive(Debug, Default)]
pub struct PoolLine {
    /// The line.
    pub line: Arc<Line<Turn>>,
    /// Notified when a backend of the pool may serve others than before.
    pub changed: Notify,
}

/// How workers are asked to close idle connections, because another worker needs one and there may be no more.
#[derive(Debug)]
pub struct Wishes(Box<[Notify]>);

impl Wishes {
    /// For this many workers.
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Notify::new()).collect())
    }

    /// Asks everybody. A worker that is asked several times before it looks, looks once.
    fn ask(&self) {
        self.0.iter().for_each(Notify::notify_one);
    }

    /// Waits until this worker is asked.
    pub async fn asked(&self, worker: usize) {
        self.0[worker].notified().await;
    }
}

/// See the module.
#[derive(Debug)]
pub struct Room {
    /// The backend's serial number.
    serial: u32,
    in_flight: AtomicU32,
    /// Of those in flight.
    tunnels: AtomicU32,
    /// Most requests in flight: the smaller of both settings, since a request takes a connection.
    bound: AtomicU32,
    max_requests: AtomicU32,
    /// Who waits for this backend.
    line: Arc<Line<Turn>>,
    /// Who waits for any of its pool.
    pool: Arc<PoolLine>,
    connections: AtomicU32,
    max_connections: AtomicU32,
    /// Who may send a request and lacks a connection, since too many are idle elsewhere.
    without_connection: Arc<Line<OpenConnection>>,
    wishes: Arc<Wishes>,
}

impl Room {
    pub(super) fn new(serial: u32, pool: Arc<PoolLine>, wishes: Arc<Wishes>) -> Self {
        Self {
            serial,
            in_flight: AtomicU32::new(0),
            tunnels: AtomicU32::new(0),
            bound: AtomicU32::new(UNBOUNDED),
            max_requests: AtomicU32::new(UNBOUNDED),
            line: Arc::default(),
            pool,
            connections: AtomicU32::new(0),
            max_connections: AtomicU32::new(UNBOUNDED),
            without_connection: Arc::default(),
            wishes,
        }
    }

    /// What the file says; whoever waits and has room now is served.
    pub(super) fn set_bounds(self: &Arc<Self>, max_requests: Option<u32>, max_connections: Option<u32>) {
        let (requests, connections) = (max_requests.unwrap_or(UNBOUNDED), max_connections.unwrap_or(UNBOUNDED));
        self.max_requests.store(requests, Ordering::SeqCst);
        self.max_connections.store(connections, Ordering::SeqCst);
        self.bound.store(requests.min(connections), Ordering::SeqCst);
        self.serve();
        self.serve_connections();
    }

    /// Requests sent whose reply has not fully ended, over all workers.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Those of them that have become tunnels, over all workers.
    pub fn tunnels(&self) -> u32 {
        self.tunnels.load(Ordering::Relaxed)
    }

    /// Counts a request in flight as a tunnel, too.
    pub fn open_tunnel(self: &Arc<Self>) -> OpenTunnel {
        // Relaxed: a figure to look at.
        self.tunnels.fetch_add(1, Ordering::Relaxed);
        OpenTunnel(Arc::clone(self))
    }

    /// Most requests in flight, where the file has a bound.
    pub fn max_requests(&self) -> Option<u32> {
        Some(self.max_requests.load(Ordering::Relaxed)).filter(|most| *most != UNBOUNDED)
    }

    /// Requests that wait for this very backend.
    pub fn queued(&self) -> u32 {
        self.line.len()
    }

    /// Whether a request that comes now would have to wait. One load where there is no bound.
    pub fn is_full(&self) -> bool {
        let bound = self.bound.load(Ordering::Relaxed);
        bound != UNBOUNDED && (self.in_flight.load(Ordering::Relaxed) >= bound || !self.line.is_empty())
    }

    /// Counts one request more, if there is room and nobody waits for it; whoever calls it keeps a guard that calls
    /// [`Room::end`].
    pub(super) fn try_begin(&self) -> bool {
        let bound = self.bound.load(Ordering::Relaxed);
        if bound == UNBOUNDED {
            // Relaxed: the count is a load figure, nothing is published through it.
            self.in_flight.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        self.line.is_empty() && add_below(&self.in_flight, bound)
    }

    /// Counts one request more, whatever the bound.
    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one request less, and serves whoever waits.
    pub(super) fn end(self: &Arc<Self>) {
        // Sequentially consistent as said at `Line::len`; it is the same instruction as any other here.
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        if self.bound.load(Ordering::SeqCst) != UNBOUNDED && !(self.line.is_empty() && self.pool.line.is_empty()) {
            self.serve();
        }
    }

    /// Who waits for this backend.
    pub fn line(&self) -> &Arc<Line<Turn>> {
        &self.line
    }

    /// The backend may serve others than before.
    pub(super) fn standing_changed(&self) {
        self.pool.changed.notify_waiters();
    }

    /// Hands over what room there is to whoever waits for it. To be called by whoever has joined a line, since the room may
    /// have come the moment before.
    #[cold]
    pub fn serve(self: &Arc<Self>) {
        while !(self.line.is_empty() && self.pool.line.is_empty())
            && add_below(&self.in_flight, self.bound.load(Ordering::SeqCst))
        {
            let changes = self.pool.line.changes();
            let first = || self.line.take_first(self.serial).or_else(|| self.pool.line.take_first(self.serial));
            if !hand_over(Turn(Some(Arc::clone(self))), first, Turn::keep) {
                self.in_flight.fetch_sub(1, Ordering::SeqCst);
                // Whoever came meanwhile has found the room taken that was just given back.
                if self.line.is_empty() && self.pool.line.changes() == changes {
                    return;
                }
            }
        }
    }

    /// Connections that are open or being opened, idle ones included, over all workers.
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Most of them, where the file has a bound.
    pub fn max_connections(&self) -> Option<u32> {
        Some(self.max_connections.load(Ordering::Relaxed)).filter(|most| *most != UNBOUNDED)
    }

    /// How many lack a connection that might be idle somewhere.
    pub fn connections_wanted(&self) -> u32 {
        self.without_connection.len()
    }

    /// Counts a connection that is about to be opened, if there may be one more and nobody waits for it.
    pub fn try_connect(self: &Arc<Self>) -> Option<OpenConnection> {
        let bound = self.max_connections.load(Ordering::Relaxed);
        let is_free = bound == UNBOUNDED || self.without_connection.is_empty();
        (is_free && add_below(&self.connections, bound)).then(|| OpenConnection(Some(Arc::clone(self))))
    }

    /// Waits until there may be one more connection, and asks every worker to close one that is idle. Safe to cancel.
    pub async fn connect(self: &Arc<Self>) -> Option<OpenConnection> {
        // As many as are admitted may wait: each of them is a request in flight.
        let mut place = self.without_connection.join(u32::MAX, None)?;
        self.serve_connections();
        self.wishes.ask();
        place.turn().await
    }

    #[cold]
    fn serve_connections(self: &Arc<Self>) {
        while !self.without_connection.is_empty()
            && add_below(&self.connections, self.max_connections.load(Ordering::SeqCst))
        {
            let first = || self.without_connection.take_first(self.serial);
            if !hand_over(OpenConnection(Some(Arc::clone(self))), first, OpenConnection::keep) {
                self.connections.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}

/// Adds one unless that is beyond the bound.
fn add_below(count: &AtomicU32, bound: u32) -> bool {
    let one_more = |count: u32| (count < bound).then(|| count + 1);
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).is_ok()
}

/// Gives it to the first who is still there. When nobody is, it is forgotten by `keep`, and `false` comes back: its count
/// is the caller's to lower.
fn hand_over<T>(mut what: T, first: impl Fn() -> Option<tokio::sync::oneshot::Sender<T>>, keep: fn(T)) -> bool {
    while let Some(turn) = first() {
        match turn.send(what) {
            Ok(()) => return true,
            // It left the moment it was taken out of the line.
            Err(back) => what = back,
        }
    }
    keep(what);
    false
}

/// Room for one request, counted already. Dropping it gives the room back.
#[derive(Debug)]
pub struct Turn(Option<Arc<Room>>);

impl Turn {
    /// The serial number of the backend that has the room.
    pub fn serial(&self) -> Option<u32> {
        self.0.as_ref().map(|room| room.serial)
    }

    /// The caller keeps the count, and its own guard for it.
    pub fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(room) = &self.0 {
            room.end();
        }
    }
}

/// One open tunnel, counted until dropped.
#[derive(Debug)]
pub struct OpenTunnel(Arc<Room>);

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.0.tunnels.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One open connection to a backend, counted until dropped.
#[derive(Debug)]
pub struct OpenConnection(Option<Arc<Room>>);

impl OpenConnection {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        if let Some(room) = &self.0 {
            room.connections.fetch_sub(1, Ordering::SeqCst);
            if !room.without_connection.is_empty() {
                room.serve_connections();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn rooms<const N: usize>(bound: u32) -> ([Arc<Room>; N], Arc<PoolLine>) {
        let (pool, wishes) = (Arc::<PoolLine>::default(), Arc::new(Wishes::new(1)));
        let rooms = std::array::from_fn(|serial| {
            let room = Arc::new(Room::new(serial as u32, Arc::clone(&pool), Arc::clone(&wishes)));
            room.set_bounds(Some(bound), None);
            room
        });
        (rooms, pool)
    }

    #[tokio::test]
    async fn room_goes_to_those_who_wait_for_this_backend_and_then_to_those_who_wait_for_any() {
        let ([room], pool) = rooms(1);
        assert!(room.try_begin() && room.is_full() && !room.try_begin());
        let mut any = pool.line.join(9, Some([0].into())).expect("room in the line");
        let mut this = room.line().join(9, None).expect("room in the line");
        room.serve();
        room.end();
        let turn = this.turn().await.expect("it is its turn");
        assert!(!room.try_begin() && room.in_flight() == 1);
        drop(turn);
        assert_eq!(any.turn().await.expect("it is its turn").serial(), Some(0));
        assert_eq!(room.in_flight(), 0, "given back when the turn was dropped");
        assert!(room.try_begin());
    }

    #[tokio::test]
    async fn who_waits_for_other_backends_does_not_take_this_ones_room() {
        let ([first, second], pool) = rooms(1);
        assert!(first.try_begin() && second.try_begin());
        let mut waiting = pool.line.join(9, Some([1].into())).expect("room in the line");
        first.end();
        assert_eq!((first.in_flight(), pool.line.len()), (0, 1));
        second.end();
        assert_eq!(waiting.turn().await.expect("it is its turn").serial(), Some(1));
    }

    #[tokio::test]
    async fn a_bound_that_is_raised_or_lifted_serves_those_who_wait() {
        let ([room], pool) = rooms(1);
        assert!(room.try_begin());
        let mut waiting: Vec<_> = (0..3).map(|_| room.line().join(9, None).expect("room in the line")).collect();
        let mut any = pool.line.join(9, Some([0].into())).expect("room in the line");
        room.set_bounds(Some(2), None);
        assert_eq!((room.in_flight(), room.queued()), (2, 2));
        room.set_bounds(None, None);
        assert_eq!((room.in_flight(), room.queued(), pool.line.len()), (5, 0, 0));
        for place in &mut waiting {
            place.turn().await.expect("it is its turn").keep();
        }
        any.turn().await.expect("it is its turn").keep();
        (0..5).for_each(|_| room.end());
        assert_eq!(room.in_flight(), 0);
    }

    #[test]
    fn a_place_that_is_left_with_the_turn_in_it_passes_it_on() {
        let ([room], _) = rooms(1);
        assert!(room.try_begin());
        let (first, second) = (room.line().join(9, None), room.line().join(9, None));
        room.end();
        assert_eq!((room.in_flight(), room.queued()), (1, 1));
        drop(first);
        assert_eq!((room.in_flight(), room.queued()), (1, 0));
        drop(second);
        assert_eq!(room.in_flight(), 0);
    }

    /// Threads that come, wait, give up and go as fast as they can. Were an order of memory too weak, the bound would be
    /// exceeded, or somebody would wait though there is room.
    #[test]
    fn the_bound_is_exact_and_nobody_is_forgotten_however_many_threads_come_and_go() {
        const BOUND: u32 = 1;
        let (rooms, pool) = rooms::<2>(BOUND);
        let inside = [AtomicU32::new(0), AtomicU32::new(0)];
        let (served, waited) = (AtomicU64::new(0), AtomicU64::new(0));
        let enter = |at: usize| {
            assert!(inside[at].fetch_add(1, Ordering::SeqCst) < BOUND, "the bound is exceeded");
            thread::yield_now();
            inside[at].fetch_sub(1, Ordering::SeqCst);
            served.fetch_add(1, Ordering::Relaxed);
        };
        thread::scope(|scope| {
            for seed in 0..8 {
                let (rooms, pool, enter, waited) = (&rooms, &pool, &enter, &waited);
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed);
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
                    for _ in 0..6_000 {
                        let at = rng.usize(0..2);
                        if rng.u8(0..4) > 0 && rooms[at].try_begin() {
                            enter(at);
                            rooms[at].end();
                            continue;
                        }
                        let place = if rng.bool() {
                            rooms[at].line().join(100, None)
                        } else {
                            pool.line.join(100, Some([0, 1].into()))
                        };
                        let mut place = place.expect("there are fewer threads than places");
                        rooms.iter().for_each(Room::serve);
                        if rng.u8(0..4) == 0 {
                            continue; // it goes away, whether it has got its turn or not
                        }
                        waited.fetch_add(1, Ordering::Relaxed);
                        let turn = async { tokio::time::timeout(Duration::from_secs(20), place.turn()).await };
                        let turn = runtime.block_on(turn).expect("nobody is forgotten").expect("a turn");
                        enter(turn.serial().expect("it has room") as usize);
                    }
                });
            }
        });
        assert!(served.into_inner() > 20_000 && waited.into_inner() > 1_000);
        assert_eq!(rooms.map(|room| (room.in_flight(), room.queued())), [(0, 0); 2]);
        assert!(pool.line.is_empty());
    }

    #[tokio::test]
    async fn a_connection_beyond_the_bound_waits_until_one_is_closed_and_asks_for_that() {
        let ([room], _) = rooms(9);
        room.set_bounds(None, Some(1));
        let open = room.try_connect().expect("the first one");
        assert!(room.try_connect().is_none() && room.connections() == 1);
        let wishes = Arc::clone(&room.wishes);
        let (next, ()) = tokio::join!(room.connect(), async {
            wishes.asked(0).await;
            assert_eq!(room.connections_wanted(), 1);
            drop(open);
        });
        assert_eq!((room.connections(), room.connections_wanted()), (1, 0));
        drop(next);
        assert_eq!(room.connections(), 0);
        assert!(room.try_begin() && !room.try_begin(), "a request takes a connection, so there is no room for more");
    }
}
