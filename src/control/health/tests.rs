//! The schedule against real sockets, in real time. Nothing sleeps to let something happen: conditions are polled to a
//! deadline, and what must not happen is counted after something later has happened.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;

use super::*;
use crate::config::{Config, HttpProbe};
use crate::pool::backend::BackendId;
use crate::pool::{Failure, Memory, Registry};
use crate::proxy::affinity::KeyRing;
use crate::proxy::snapshot::Lasting;

const OK: Option<&str> = Some("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
const ERROR: Option<&str> = Some("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
const GARBAGE: Option<&str> = Some("SSH-2.0-not-http\r\n\r\n");
const NOTHING: Option<&str> = None;

/// Long enough that no test meets it.
const NEVER: Duration = Duration::from_secs(3600);

const QUICK: Duration = Duration::from_millis(20);

fn http() -> config::Health {
    let probe = HttpProbe { expected_status: vec![(200, 299)], ..HttpProbe::default() };
    config::Health {
        probe: Probe::Http(probe),
        interval: NEVER,
        suspect_interval: QUICK,
        unhealthy_interval: NEVER,
        timeout: Duration::from_secs(10),
        ..config::Health::default()
    }
}

/// A backend that counts its connections and answers each as told at that moment; `None` leaves it waiting.
struct Server {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    answer: Arc<Mutex<Option<&'static str>>>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(answer: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(answer)));
        let (count, current) = (Arc::clone(&accepted), Arc::clone(&answer));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let answer = *current.lock().unwrap();
                connections.spawn(async move {
                    let mut head = [0; 4096];
                    if stream.read(&mut head).await.is_ok()
                        && let Some(answer) = answer
                    {
                        drop(stream.write_all(answer.as_bytes()).await);
                        return;
                    }
                    // Held open until the other side gives up.
                    while stream.read(&mut head).await.is_ok_and(|read| read > 0) {}
                });
            }
        });
        Self { address, accepted, answer, task }
    }

    fn probes(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    fn answers(&self, answer: Option<&'static str>) {
        *self.answer.lock().unwrap() = answer;
    }

    /// From here on connections are refused.
    async fn stop(self) -> SocketAddr {
        self.task.abort();
        drop(self.task.await);
        self.address
    }
}

/// What the control plane has: a registry, and what it published.
struct Control {
    registry: Arc<Registry>,
    published: Arc<Published>,
    trigger: drain::Trigger,
    task: JoinHandle<()>,
}

impl Control {
    /// Publishes these backends, by name, and probes them.
    fn start(health: &config::Health, backends: &[(&str, SocketAddr)]) -> Self {
        let registry = Arc::new(Registry::new(1));
        let published = Arc::new(Published::new(snapshot(&registry, 1, health, backends)));
        let (trigger, watcher) = drain::new();
        let task = tokio::spawn(run(Arc::clone(&published), Arc::default(), watcher));
        Self { registry, published, trigger, task }
    }

    fn reload(&self, health: &config::Health, backends: &[(&str, SocketAddr)]) {
        let next = snapshot(&self.registry, self.published.generation() + 1, health, backends);
        self.published.publish(next);
        let kept = backends.iter().map(|(name, _)| id(name)).collect();
        self.registry.retain(&kept, &[Arc::from("shop")].into());
    }

    fn backend(&self, name: &str) -> Arc<Backend> {
        self.registry.backend(&id(name), Instant::now())
    }

    async fn until_health(&self, name: &str, health: Health) {
        let backend = self.backend(name);
        until_true(|| backend.standing().health == health, || format!("{backend:?}, not {health:?}")).await;
    }
}

fn id(name: &str) -> BackendId {
    BackendId { pool: "shop".into(), name: name.into() }
}

fn snapshot(
    registry: &Arc<Registry>,
    generation: u64,
    health: &config::Health,
    backends: &[(&str, SocketAddr)],
) -> Snapshot {
    let text = "listeners: [127.0.0.1:0]\npools: { shop: { affinity: off, backends: [127.0.0.1:1] } }";
    let mut config = Config::parse("test.yaml", text).unwrap();
    let pool = &mut config.pools[0];
    pool.health = health.clone();
    let template = pool.backends.remove(0);
    let backend = |&(name, address): &(&str, SocketAddr)| config::Backend {
        name: name.into(),
        address: address.into(),
        ..template.clone()
    };
    pool.backends = backends.iter().map(backend).collect();
    Snapshot::new(&config, &KeyRing::from_random([1; 16]), &Lasting::for_tests(registry), generation, Instant::now())
}

async fn until_true(condition: impl Fn() -> bool, state: impl Fn() -> String) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{}", state());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn until_probes(server: &Server, probes: usize) {
    until_true(|| server.probes() >= probes, || format!("{} probes, not {probes}", server.probes())).await;
}

fn traffic_fails(backend: &Backend, health: &config::Health) {
    let thresholds = Thresholds { healthy_after: health.healthy_after, unhealthy_after: health.unhealthy_after };
    backend.observe(Evidence::TrafficFailed(Failure::Refused), thresholds, Instant::now());
}

#[tokio::test]
async fn the_first_probe_is_made_at_once_and_settles_the_backend() {
    let server = Server::start(OK).await;
    let control = Control::start(&http(), &[("app1", server.address)]);
    assert!(!settled(&control.published));
    control.until_health("app1", Health::Healthy).await;
    assert!(settled(&control.published));
    assert_eq!(server.probes(), 1);
}

#[tokio::test]
async fn a_backend_that_refuses_from_the_start_settles_as_unhealthy() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let control = Control::start(&http(), &[("app1", socket.local_addr().unwrap())]);
    control.until_health("app1", Health::Unhealthy).await;
    assert!(settled(&control.published));
    assert_eq!(control.backend("app1").standing().memory, Memory::Gone);
}

#[tokio::test]
async fn a_killed_backend_is_known_dead_within_quick_probes_and_not_sooner() {
    let server = Server::start(OK).await;
    let control = Control::start(&http(), &[("app1", server.address)]);
    control.until_health("app1", Health::Healthy).await;
    server.stop().await;

    let backend = control.backend("app1");
    let killed = Instant::now();
    // However many requests fail, they are one event.
    for _ in 0..1_000 {
        traffic_fails(&backend, &http());
    }
    assert_eq!(backend.standing().health, Health::Suspect);
    control.until_health("app1", Health::Unhealthy).await;
    assert_eq!(backend.standing().memory, Memory::Gone);
    // One probe at once and two more, each a quick interval (and its jitter) after the one before.
    assert!(backend.health_changed_at() - killed >= QUICK.mul_f64(1.8), "three refusals in a burst");
}

#[tokio::test]
async fn bad_answers_make_a_backend_unhealthy_after_as_many_probes_as_the_threshold() {
    for answer in [ERROR, GARBAGE] {
        let server = Server::start(answer).await;
        let control = Control::start(&http(), &[("app1", server.address)]);
        control.until_health("app1", Health::Unhealthy).await;
        assert_eq!(server.probes(), 3);
        assert_eq!(control.backend("app1").standing().memory, Memory::MayHold);
    }
}

#[tokio::test]
async fn a_silent_backend_is_unhealthy_and_may_hold_its_sessions() {
    let server = Server::start(NOTHING).await;
    let health = config::Health { timeout: QUICK, ..http() };
    let control = Control::start(&health, &[("app1", server.address)]);
    control.until_health("app1", Health::Unhealthy).await;
    assert_eq!(server.probes(), 3);
    assert_eq!(control.backend("app1").standing().memory, Memory::MayHold);
}

#[tokio::test]
async fn a_backend_recovers_after_as_many_successes_as_the_threshold() {
    let server = Server::start(ERROR).await;
    // The interval of an unhealthy backend has to pass here, the one of a healthy one never does.
    let health = config::Health { unhealthy_interval: QUICK * 5, healthy_after: 4, ..http() };
    let control = Control::start(&health, &[("app1", server.address)]);
    control.until_health("app1", Health::Unhealthy).await;
    server.answers(OK);
    let failed = server.probes();
    control.until_health("app1", Health::Healthy).await;
    // A probe that was accepted before the answer changed may be one more.
    assert!((4..=5).contains(&(server.probes() - failed)), "{}", server.probes() - failed);
}

#[tokio::test]
async fn a_slow_backend_delays_no_other_and_is_not_probed_twice_at_once() {
    let (slow, quick) = (Server::start(NOTHING).await, Server::start(OK).await);
    let health = config::Health { interval: Duration::from_millis(2), timeout: NEVER, ..http() };
    let control = Control::start(&health, &[("slow", slow.address), ("quick", quick.address)]);
    until_probes(&slow, 1).await;
    for round in 1..=10 {
        traffic_fails(&control.backend("slow"), &health);
        until_probes(&quick, round * 5).await;
    }
    assert_eq!(slow.probes(), 1);
    assert_eq!(control.backend("slow").standing().health, Health::Starting);
}

#[tokio::test]
async fn a_failed_request_brings_the_next_probe_forward() {
    let server = Server::start(OK).await;
    let health = config::Health { suspect_interval: NEVER, ..http() };
    let control = Control::start(&health, &[("app1", server.address)]);
    control.until_health("app1", Health::Healthy).await;
    traffic_fails(&control.backend("app1"), &health);
    control.until_health("app1", Health::Healthy).await;
    assert_eq!(server.probes(), 2);
}

#[tokio::test]
async fn without_probes_a_backend_is_healthy_until_a_request_fails_and_then_a_connection_decides() {
    let server = Server::start(OK).await;
    let health = config::Health { probe: Probe::Off, unhealthy_interval: QUICK, ..http() };
    let control = Control::start(&health, &[("app1", server.address)]);
    control.until_health("app1", Health::Healthy).await;
    assert_eq!(server.probes(), 0);

    let backend = control.backend("app1");
    traffic_fails(&backend, &health);
    assert_eq!(backend.standing().health, Health::Suspect);
    control.until_health("app1", Health::Healthy).await;
    assert_eq!(server.probes(), 1);

    let address = server.stop().await;
    traffic_fails(&backend, &health);
    control.until_health("app1", Health::Unhealthy).await;
    let _again = TcpListener::bind(address).await.unwrap();
    control.until_health("app1", Health::Healthy).await;
}

/// Whatever was published made unhealthy backends of such a pool healthy: a reload, an order, another answer from DNS.
#[tokio::test]
async fn without_probes_a_publication_makes_nobody_healthy() {
    let server = Server::start(OK).await;
    let health = config::Health { probe: Probe::Off, ..http() };
    let control = Control::start(&health, &[("app1", server.address)]);
    let backend = control.backend("app1");
    let address = server.stop().await;
    traffic_fails(&backend, &health);
    control.until_health("app1", Health::Unhealthy).await;
    control.reload(&health, &[("app1", address)]);
    let standing = backend.standing();
    assert_eq!((standing.health, standing.memory), (Health::Unhealthy, Memory::Gone));
}

/// Nobody would have looked at it any more: requests do not come to it, and they alone ask for a probe.
#[tokio::test]
async fn who_is_unhealthy_when_probes_are_switched_off_is_looked_at_until_it_is_well() {
    let server = Server::start(ERROR).await;
    let control = Control::start(&http(), &[("app1", server.address)]);
    control.until_health("app1", Health::Unhealthy).await;
    let off = config::Health { probe: Probe::Off, unhealthy_interval: QUICK, ..http() };
    control.reload(&off, &[("app1", server.address)]);
    control.until_health("app1", Health::Healthy).await;
}

#[tokio::test]
async fn a_reload_keeps_the_tasks_whose_settings_stay_and_restarts_the_others() {
    let server = Server::start(OK).await;
    let address = server.address;
    let registry = Arc::new(Registry::new(1));
    let mut schedule = Schedule::new(Arc::default());
    schedule.follow(&snapshot(&registry, 1, &http(), &[("app1", address), ("app2", address)]));
    let task_of = |schedule: &Schedule, name: &str| {
        let serial = registry.backend(&id(name), Instant::now()).serial();
        schedule.tasks.get(&serial).map(|task| task.handle.id())
    };
    let (app1, app2) = (task_of(&schedule, "app1"), task_of(&schedule, "app2"));
    assert!(app1.is_some());

    // The order in the file is no setting.
    schedule.follow(&snapshot(&registry, 2, &http(), &[("app2", address), ("app1", address), ("app3", address)]));
    assert_eq!((task_of(&schedule, "app1"), task_of(&schedule, "app2")), (app1, app2));
    assert_eq!(schedule.tasks.len(), 3);

    let elsewhere = Server::start(OK).await.address;
    schedule.follow(&snapshot(&registry, 3, &http(), &[("app1", elsewhere), ("app2", address)]));
    assert_ne!(task_of(&schedule, "app1"), app1);
    assert_eq!(task_of(&schedule, "app2"), app2);
    assert_eq!(schedule.tasks.len(), 2);

    let other = config::Health { timeout: QUICK, ..http() };
    schedule.follow(&snapshot(&registry, 4, &other, &[("app2", address)]));
    assert_ne!(task_of(&schedule, "app2"), app2);
    assert_eq!(schedule.tasks.len(), 1);
}

/// A prober that went on had its agent's drains at the pace of before.
#[tokio::test]
async fn another_pace_of_drains_is_followed() {
    let server = Server::start(OK).await;
    let registry = Arc::new(Registry::new(1));
    let mut schedule = Schedule::new(Arc::default());
    let backends = [("app1", server.address)];
    schedule.follow(&snapshot(&registry, 1, &http(), &backends));
    let task_of = |schedule: &Schedule| schedule.tasks.values().map(|task| task.handle.id()).collect::<Vec<_>>();
    let before = task_of(&schedule);
    let mut next = snapshot(&registry, 2, &http(), &backends);
    next.pools[0].settings.drain_pace = "1%/m".parse().unwrap();
    schedule.follow(&next);
    assert_ne!(task_of(&schedule), before);
}

#[tokio::test]
async fn changed_settings_probe_at_once_and_keep_what_is_known() {
    let (server, other) = (Server::start(ERROR).await, Server::start(NOTHING).await);
    let control = Control::start(&http(), &[("app1", server.address)]);
    control.until_health("app1", Health::Unhealthy).await;
    control.reload(&http(), &[("app1", other.address)]);
    until_probes(&other, 1).await;
    assert_eq!(control.backend("app1").standing().health, Health::Unhealthy);
    assert_eq!(server.probes(), 3);
}

#[tokio::test]
async fn a_reload_without_changes_makes_no_probe() {
    let (server, other) = (Server::start(OK).await, Server::start(OK).await);
    let control = Control::start(&http(), &[("app1", server.address)]);
    control.until_health("app1", Health::Healthy).await;
    for round in 0..20 {
        // The newcomer shows when the reload has been followed.
        let newcomer = format!("new{round}");
        control.reload(&http(), &[("app1", server.address), (&newcomer, other.address)]);
        control.until_health(&newcomer, Health::Healthy).await;
    }
    assert_eq!((server.probes(), other.probes()), (1, 20));
}

#[tokio::test]
async fn a_removed_backend_is_let_go_of_even_in_the_middle_of_a_probe() {
    let (kept, removed) = (Server::start(OK).await, Server::start(NOTHING).await);
    let control = Control::start(&http(), &[("kept", kept.address), ("removed", removed.address)]);
    until_probes(&removed, 1).await;
    let backend = Arc::downgrade(&control.backend("removed"));
    control.reload(&http(), &[("kept", kept.address)]);
    until_true(|| backend.strong_count() == 0, || format!("{} still hold it", backend.strong_count())).await;
}

#[tokio::test]
async fn the_drain_ends_all_probing() {
    let server = Server::start(NOTHING).await;
    let control = Control::start(&http(), &[("app1", server.address)]);
    until_probes(&server, 1).await;
    control.trigger.drain(NEVER, Instant::now());
    control.task.await.unwrap();
    let backend = control.registry.backend(&id("app1"), Instant::now());
    // Held by the registry, the snapshot and this test.
    until_true(|| Arc::strong_count(&backend) == 3, || format!("{} hold it", Arc::strong_count(&backend))).await;
}

#[tokio::test]
async fn trouble_of_our_own_is_no_evidence_and_ends_with_the_next_good_probe() {
    let server = Server::start(OK).await;
    let troubles = Troubles::default();
    let registry = Arc::new(Registry::new(1));
    // A request that cannot be written stands in for a missing file descriptor.
    let Probe::Http(probe) = http().probe else { unreachable!("it is an HTTP probe") };
    let impossible = Probe::Http(HttpProbe { path: "no target".into(), ..probe });
    let mut schedule = Schedule::new(Arc::default());
    schedule.shared.troubles = troubles.clone();
    let broken = config::Health { probe: impossible, ..http() };
    schedule.follow(&snapshot(&registry, 1, &broken, &[("app1", server.address), ("app2", server.address)]));
    until_probes(&server, 10).await;
    assert_eq!(troubles.count(), 2);
    assert_eq!(registry.backend(&id("app1"), Instant::now()).standing().health, Health::Starting);

    schedule.follow(&snapshot(&registry, 2, &http(), &[("app1", server.address), ("app2", server.address)]));
    until_true(|| troubles.count() == 0, || format!("{} in trouble", troubles.count())).await;
    let backend = registry.backend(&id("app1"), Instant::now());
    until_true(|| backend.standing().health == Health::Healthy, || format!("{backend:?}")).await;
}
