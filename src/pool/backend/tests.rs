use super::*;
use crate::config::Pace;
use crate::pool::room::Wishes;
use crate::pool::{AgentWord, DrainOrder};
use crate::telemetry::events::Heard;

const IDLE: Duration = Duration::from_secs(1800);

fn backend(now: Instant) -> Backend {
    let pool = Arc::new(PoolState::for_tests(now));
    let room = Room::new(0, Arc::default(), Arc::new(Wishes::new(2)));
    Backend::new(BackendId { pool: "shop".into(), name: "app1".into() }, room, 0, 2, Events::default(), pool, now)
}

#[test]
fn a_pin_that_moved_away_no_longer_counts_and_counts_again_when_it_is_back() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let backend = backend(start);
    for pin in 0..50 {
        backend.record_pin((pin % 2) as usize, pin, at(1), IDLE);
        backend.pinned_one();
    }
    let counted = |now| {
        backend.count_active_pins(now, IDLE);
        backend.active_pins()
    };
    assert!((49..=51).contains(&counted(at(2))));
    for pin in 0..10 {
        backend.note_departure(pin, at(60), IDLE);
    }
    assert!((39..=41).contains(&backend.active_pins()), "{} at once", backend.active_pins());
    assert!((39..=41).contains(&counted(at(61))), "{} as counted", backend.active_pins());
    backend.record_pin(0, 3, at(120), IDLE);
    backend.note_arrival(3);
    assert!((40..=42).contains(&backend.active_pins()), "{} at once", backend.active_pins());
    assert!((40..=42).contains(&counted(at(121))), "{} as counted", backend.active_pins());
    // Idle for so long that both sketches have forgotten them.
    assert_eq!(counted(at(1800 * 3)), 0);
}

#[test]
fn several_requests_of_one_client_that_moves_are_one_departure() {
    let start = Instant::now();
    let backend = backend(start);
    backend.set_active_pins(10);
    for _ in 0..6 {
        backend.note_departure(7, start, IDLE);
    }
    assert_eq!(backend.active_pins(), 9);
    backend.note_departure(7, start + IDLE * 2, IDLE);
    assert_eq!(backend.active_pins(), 8, "it had come back, and leaves again");
}

#[test]
fn pins_take_their_turn_at_the_pace_of_the_order_and_again_from_the_deadline_on() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let backend = backend(start);
    let pace = "10%/s".parse().expect("a pace");
    backend.order_drain(DrainOrder { deadline: Some(at(100)), pace }, at(50));
    let share = |is: &dyn Fn(u64) -> bool| (0..1000_u64).filter(|pin| is(*pin)).count();
    for (now, turned, over) in [(50, 0, 0), (52, 200, 0), (60, 1000, 0), (100, 1000, 0), (105, 1000, 500)] {
        let counts =
            [share(&|pin| backend.is_turn_to_leave(pin, at(now))), share(&|pin| backend.is_drain_over(pin, at(now)))];
        let is_near = |counted: usize, expected: usize| counted.abs_diff(expected) <= 40;
        assert!(is_near(counts[0], turned) && is_near(counts[1], over), "{counts:?} at {now}");
    }
    for pin in 0..100 {
        let over_at = backend.drain_over_at(Some(pin)).expect("a deadline");
        let tick = Duration::from_millis(1);
        assert!(backend.is_drain_over(pin, over_at + tick) && !backend.is_drain_over(pin, over_at - tick));
    }
    assert_eq!(backend.drain_over_at(None).map(|over| over.duration_since(start).as_secs()), Some(100));
    backend.set_admin_state(AdminState::Enabled, None, at(106));
    assert!(!backend.is_turn_to_leave(1, at(900)) && !backend.is_drain_over(1, at(900)));
    assert_eq!(backend.drain_over_at(None), None);
}

#[tokio::test]
async fn a_drain_ends_when_nobody_is_left_and_goes_on_when_somebody_comes() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let backend = backend(start);
    let drained = |now| {
        backend.count_active_pins(now, IDLE);
        backend.note_drain_progress(IDLE, now);
        assert_eq!(backend.is_drained(), backend.drain().is_some_and(|drain| drain.drained.is_some()));
        backend.drain().and_then(|drain| drain.drained)
    };
    assert_eq!(drained(at(1)), None, "nobody is there, but no drain either");
    backend.record_pin(0, 1, at(1), IDLE);
    backend.set_admin_state(AdminState::Draining, None, at(2));
    assert_eq!(drained(at(3)), None, "one is left");
    backend.note_departure(1, at(4), IDLE);
    backend.begin_request();
    assert_eq!(drained(at(5)), None, "one request is under way");
    backend.end_request();
    let mut listener = backend.events.listen();
    assert_eq!(drained(at(6)), Some(at(6)));
    assert_eq!(drained(at(7)), Some(at(6)));
    backend.begin_request();
    assert_eq!(drained(at(7)), Some(at(6)), "a single request is no client");
    backend.end_request();
    backend.record_pin(1, 2, at(8), IDLE);
    assert_eq!(drained(at(9)), None);
    backend.note_departure(2, at(10), IDLE);
    assert_eq!(drained(at(11)), Some(at(11)));
    backend.set_admin_state(AdminState::Disabled, None, at(12));
    assert!(!backend.is_drained());
    for name in ["drained", "drained", "admin_state"] {
        let Some(Heard::Event(entry)) = listener.next().await else { panic!("nothing was missed") };
        assert_eq!(entry.event.name(), name);
    }
}

#[test]
fn a_drain_of_an_earlier_life_waits_for_clients_it_has_not_seen() {
    let start = Instant::now();
    let backend = backend(start);
    backend.restore_drain(DrainOrder { deadline: None, pace: Pace::DRAIN }, start);
    backend.note_drain_progress(IDLE, start + IDLE);
    assert!(!backend.is_drained());
    backend.note_drain_progress(IDLE, start + IDLE * 5 / 4);
    assert!(backend.is_drained());
}

#[test]
fn more_departures_than_pins_leave_nobody() {
    let start = Instant::now();
    let backend = backend(start);
    for pin in 0..100 {
        backend.note_departure(pin, start, IDLE);
    }
    assert_eq!(backend.active_pins(), 0);
    backend.count_active_pins(start, IDLE);
    assert_eq!(backend.active_pins(), 0);
}

#[test]
fn the_operators_order_wins_over_the_agent_and_an_agents_drain_is_a_drain_like_any_other() {
    let now = Instant::now();
    let backend = backend(now);
    backend.set_file_weight(100);
    let mut listener = backend.events.listen();
    let says = |admin| AgentWord { admin: Some(admin), weight_percent: None };
    let pace = "1%/s".parse().expect("a pace");
    let states = || (backend.standing().admin, backend.ordered_admin_state());

    assert!(!backend.hear_agent(says(AdminState::Draining), pace, now));
    assert_eq!(states(), (AdminState::Draining, AdminState::Enabled));
    assert_eq!(backend.drain().map(|drain| (drain.pace, drain.deadline)), Some((pace, None)));
    let deadline = Some(now + Duration::from_secs(60));
    backend.set_admin_state(AdminState::Draining, deadline, now);
    backend.hear_agent(says(AdminState::Disabled), pace, now);
    assert_eq!(states(), (AdminState::Draining, AdminState::Draining), "the order wins");
    assert_eq!(backend.drain().and_then(|drain| drain.deadline), deadline, "what the agent repeats is no new order");

    backend.set_admin_state(AdminState::Enabled, None, now);
    assert_eq!(states().0, AdminState::Enabled, "enabling counts against what the agent says now");
    backend.hear_agent(says(AdminState::Draining), pace, now);
    assert_eq!(states().0, AdminState::Draining);
    assert!(!backend.forget_agent(now));
    assert_eq!((states().0, backend.drain()), (AdminState::Enabled, None));

    assert!(backend.hear_agent(AgentWord { admin: None, weight_percent: Some(50) }, pace, now));
    assert_eq!(backend.weight(), 50);
    backend.order_weight(Some(80), now);
    assert_eq!(backend.weight(), 80, "the order wins");
    backend.order_weight(None, now);
    assert!(backend.forget_agent(now));
    assert_eq!(backend.weight(), 100);

    let mut told = Vec::new();
    while let Some(Some(Heard::Event(entry))) = futures_now(listener.next()) {
        if let Event::AdminState { to, by, .. } = entry.event {
            told.push((to, by));
        }
    }
    let expected = [("draining", "agent"), ("enabled", "operator"), ("draining", "agent"), ("enabled", "agent")];
    assert_eq!(told, expected);
}

/// What a future gives without waiting.
fn futures_now<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

/// Removed from the pool and put back while a request is on its way there, as lists that are discovered do: a later request
/// of the same client goes to the new one of this name, and is the last to end. What it takes back was never counted there.
#[tokio::test]
async fn a_move_to_a_backend_that_was_removed_and_put_back_is_taken_back_where_it_was_counted() {
    use crate::pool::{Evening, Registry};

    let (registry, now) = (Registry::new(1), Instant::now());
    let id = |name: &str| BackendId { pool: "shop".into(), name: name.into() };
    let (red, green) = (registry.backend(&id("red"), now), registry.backend(&id("green"), now));
    red.set_active_pins(10);
    let first = Evening::begin(&red, &green, 7, now).unwrap();
    registry.retain(&[id("red")].into(), &["shop".into()].into());
    let put_back = registry.backend(&id("green"), now);
    let second = Evening::begin(&red, &put_back, 7, now).unwrap();
    drop(first);
    drop(second);
    assert_eq!([&red, &green, &put_back].map(|backend| backend.expected_pins()), [10, 0, 0]);
}
