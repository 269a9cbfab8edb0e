//! Who moves, and who does not: whole sequences of what happens to a pool, played without a socket.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use super::{Arrival, Crowd, Next, Visit, pin_owner};
use crate::config::{Config, Sessions};
use crate::pool::rebalance::{Load, roles};
use crate::pool::{AdminState, Backend, Evidence, Failure, Member, Registry, Thresholds};
use crate::proxy::affinity::{KeyRing, NewIds};
use crate::proxy::balance::{Balancer, Tried};
use crate::proxy::snapshot::{Lasting, Snapshot};
use crate::telemetry::words::{Placement, RehomeReason};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

const ONCE: Thresholds = Thresholds { healthy_after: 1, unhealthy_after: 1 };

/// A pool in front of nothing: names and weights, and what is known of its backends.
pub(super) struct Site {
    pub(super) sessions: Sessions,
    pub(super) weights: BTreeMap<u32, u32>,
    /// Backends of this number and above are of tier 1.
    pub(super) later_from: u32,
    /// Further keys of the pool.
    pub(super) keys: &'static str,
    pub(super) lasting: Lasting,
    pub(super) snapshot: Snapshot,
    pub(super) now: Instant,
    pub(super) wall: u32,
    pub(super) rng: Rng,
    pub(super) ids: NewIds,
}

impl Site {
    pub(super) fn new(sessions: Sessions, backends: u32, seed: u64) -> Self {
        Self::with(sessions, backends, seed, "")
    }

    pub(super) fn with(sessions: Sessions, backends: u32, seed: u64, keys: &'static str) -> Self {
        let weights: BTreeMap<u32, u32> = (0..backends).map(|number| (number, 1)).collect();
        let lasting = Lasting::for_tests(&Arc::new(Registry::new(1)));
        let now = Instant::now();
        let snapshot = snapshot((sessions, keys), (&weights, u32::MAX), &lasting, now);
        let mut site = Self {
            sessions,
            weights,
            later_from: u32::MAX,
            keys,
            lasting,
            snapshot,
            now,
            wall: 1_800_000_000,
            rng: Rng::with_seed(seed),
            ids: NewIds::default(),
        };
        site.heal_all();
        site
    }

    pub(super) fn publish(&mut self) {
        let backends = (&self.weights, self.later_from);
        self.snapshot = snapshot((self.sessions, self.keys), backends, &self.lasting, self.now);
        self.ids = NewIds::default();
    }

    pub(super) fn pass(&mut self, seconds: u32) {
        self.now += Duration::from_secs(seconds.into());
        self.wall += seconds;
    }

    pub(super) fn backend(&self, name: &str) -> &Arc<Backend> {
        let members = &self.snapshot.pools[0].members;
        &members.iter().find(|member| *member.backend.id().name == *name).expect("it is in the pool").backend
    }

    pub(super) fn heal_all(&mut self) {
        let now = self.now;
        self.snapshot.pools[0].members.iter().for_each(|member| {
            member.backend.observe(Evidence::ProbeOk, ONCE, now);
        });
    }

    pub(super) fn kill(&self, name: &str) {
        self.fail(name, Failure::Refused);
    }

    /// A probe fails there, which is enough.
    pub(super) fn fail(&self, name: &str, failure: Failure) {
        self.backend(name).observe(Evidence::ProbeFailed(failure), ONCE, self.now);
        self.follow();
    }

    /// What the control plane does after a backend has changed.
    pub(super) fn follow(&self) {
        let pool = &self.snapshot.pools[0];
        pool.state.follow(&pool.members, pool.settings.panic_below.fraction());
    }

    pub(super) fn recover(&self, name: &str) {
        self.backend(name).set_instance(self.wall);
        self.backend(name).observe(Evidence::ProbeOk, ONCE, self.now);
        self.follow();
    }

    /// What the control plane does after it has counted.
    pub(super) fn give_roles(&self, homes: &[String]) {
        let members = &self.snapshot.pools[0].members;
        let load = |member: &Member| Load {
            active_pins: homes.iter().filter(|home| **home == *member.backend.id().name).count() as u64,
            weight: member.backend.weight(),
            is_in_service: member.backend.standing().is_available_for_new(),
            is_of_later_tier: member.tier > self.snapshot.pools[0].state.spread().tier,
            role: member.backend.role(),
        };
        let loads: Vec<Load> = members.iter().map(load).collect();
        members.iter().zip(roles(&loads, 1.25)).for_each(|(member, role)| member.backend.set_role(role, self.wall));
    }

    /// A request of the client comes in.
    pub(super) fn begin(&self, client: &Client) -> Visit {
        let headers = client.cookie.clone().map(|cookie| (COOKIE, cookie)).into_iter().collect();
        let client = &|| LOCALHOST;
        let arrival = Arrival { client, headers: &headers, path: "/", path_and_query: "/", now: self.wall };
        Visit::begin(&self.snapshot.pools[0], true, arrival)
    }

    /// Who has the copy of the client's session.
    pub(super) fn heir_of(&self, client: &Client) -> Option<String> {
        let (pool, visit) = (&self.snapshot.pools[0], self.begin(client));
        let heir = visit.heir(pool, visit.pin()?.home as usize, self.now)?;
        Some(pool.members[heir].backend.id().name.to_string())
    }

    /// Where a request of the client goes that found these full.
    pub(super) fn next(&self, client: &Client, crowd: &Crowd) -> Next {
        let pool = &self.snapshot.pools[0];
        let mut balancer = Balancer::new(pool.settings.balance, &pool.members, 0);
        self.begin(client).next(pool, &mut balancer, (&Tried::default(), crowd), true, &mut Rng::with_seed(7), self.now)
    }

    /// One request; gives where it went and what that was, and the client keeps the cookie that it gets.
    pub(super) fn visit(&mut self, client: &mut Client) -> (String, Placement) {
        self.visit_after(client, &[]).unwrap_or_else(|next| panic!("{next:?}"))
    }

    /// The same, when the request has failed at these already; what is to be done when nobody serves it.
    pub(super) fn visit_after(&mut self, client: &mut Client, failed: &[&str]) -> Result<(String, Placement), Next> {
        let mut visit = self.begin(client);
        let pool = &self.snapshot.pools[0];
        let mut balancer = Balancer::new(pool.settings.balance, &pool.members, 0);
        let mut tried = Tried::default();
        let has_failed = |member: &Member| failed.contains(&&*member.backend.id().name);
        let indices = pool.members.iter().enumerate().filter(|(_, member)| has_failed(member));
        indices.for_each(|(index, _)| tried.insert(index));
        let next = visit.next(pool, &mut balancer, (&tried, &Crowd::default()), true, &mut self.rng, self.now);
        let Next::Go(destination) = next else { return Err(next) };
        visit.served(pool, &destination, self.now, || self.ids.draw(&pool.members, destination.member, &mut self.rng));
        let mut reply = HeaderMap::new();
        assert!(visit.obey(pool, None, false));
        visit.leave(pool, &mut reply, false, || pin_owner(LOCALHOST));
        if let Some(line) = reply.get(SET_COOKIE) {
            let pair = line.to_str().expect("a token is text").split(';').next().expect("a pair comes first");
            client.cookie = Some(pair.parse().expect("it was a value"));
        }
        pool.newcomers.forget_all();
        let backend = &pool.members[destination.member].backend;
        if matches!(destination.placement, Placement::New | Placement::Rehomed(_)) {
            backend.pinned_one();
        }
        Ok((backend.id().name.to_string(), destination.placement))
    }
}

#[derive(Clone, Default)]
pub(super) struct Client {
    pub(super) cookie: Option<HeaderValue>,
}

fn snapshot(
    (sessions, keys): (Sessions, &str),
    (weights, later_from): (&BTreeMap<u32, u32>, u32),
    lasting: &Lasting,
    now: Instant,
) -> Snapshot {
    let backends: Vec<_> = weights
        .iter()
        .map(|(number, weight)| {
            let (port, tier) = (20_000 + number, u32::from(*number >= later_from));
            format!("{{ name: app{number}, address: 127.0.0.1:{port}, weight: {weight}, tier: {tier} }}")
        })
        .collect();
    let text = format!(
        "listeners: [127.0.0.1:0]\npools: {{ shop: {{ sessions: {sessions}, {keys} backends: [{}] }} }}",
        backends.join(", ")
    );
    let config = Config::parse("test.yaml", &text).unwrap_or_else(|problems| panic!("{problems}"));
    Snapshot::new(&config, &KeyRing::from_random([7; 16]), lasting, 1, now)
}

/// What happens to the pool.
#[derive(Clone, Copy, Debug)]
enum Event {
    Add,
    Remove(u32),
    Kill(u32),
    Recover(u32),
    Drain(u32),
    Enable(u32),
    Weigh(u32, u32),
}

fn draw_event(site: &mut Site) -> Event {
    let numbers: Vec<u32> = site.weights.keys().copied().collect();
    let one = numbers[site.rng.usize(..numbers.len())];
    match site.rng.u32(0..7) {
        0 if numbers.len() < 12 => Event::Add,
        1 if numbers.len() > 3 => Event::Remove(one),
        2 => Event::Kill(one),
        3 => Event::Recover(one),
        4 => Event::Drain(one),
        5 => Event::Enable(one),
        _ => Event::Weigh(one, site.rng.u32(1..5)),
    }
}

pub(super) fn name(number: u32) -> String {
    format!("app{number}")
}

/// Plays sequences of forty events for each kind of `sessions`. After each, every client comes by.
#[test]
fn nobody_moves_but_the_clients_of_a_backend_that_is_removed_killed_or_drained() {
    for sessions in [Sessions::Local, Sessions::Replicated, Sessions::Backup, Sessions::External] {
        for seed in 0..6 {
            play(sessions, seed);
        }
    }
}

fn play(sessions: Sessions, seed: u64) {
    let mut site = Site::new(sessions, 5, seed);
    let mut clients = vec![Client::default(); 200];
    let mut homes: Vec<String> = clients.iter_mut().map(|client| site.visit(client).0).collect();
    let mut next_number = 5;
    for step in 0..40 {
        site.pass(3);
        let event = draw_event(&mut site);
        let alive =
            site.snapshot.pools[0].members.iter().filter(|member| member.backend.standing().is_available_for_new());
        let alive: Vec<String> = alive.map(|member| member.backend.id().name.to_string()).collect();
        // Somebody has to be left, or nobody could be served.
        let leaves_somebody = |number: u32| alive.iter().filter(|other| **other != name(number)).count() >= 2;
        let may_move: Option<String> = match event {
            Event::Add => {
                site.weights.insert(next_number, 1);
                next_number += 1;
                site.publish();
                let added = name(next_number - 1);
                site.recover(&added);
                None
            }
            Event::Remove(number) if leaves_somebody(number) => {
                site.weights.remove(&number);
                site.publish();
                Some(name(number))
            }
            Event::Kill(number) if leaves_somebody(number) => {
                site.kill(&name(number));
                Some(name(number))
            }
            Event::Drain(number) if leaves_somebody(number) => {
                site.backend(&name(number)).set_admin_state(AdminState::Draining, None, site.now);
                (sessions != Sessions::Local).then(|| name(number))
            }
            Event::Enable(number) => {
                site.backend(&name(number)).set_admin_state(AdminState::Enabled, None, site.now);
                None
            }
            Event::Recover(number) => {
                site.recover(&name(number));
                None
            }
            Event::Weigh(number, weight) => {
                site.weights.insert(number, weight);
                site.publish();
                None
            }
            Event::Remove(_) | Event::Kill(_) | Event::Drain(_) => None,
        };
        // Drains of earlier events go on; theirs may leave at any time.
        let draining: Vec<String> = site.snapshot.pools[0]
            .members
            .iter()
            .filter(|member| sessions != Sessions::Local && member.backend.standing().admin == AdminState::Draining)
            .map(|member| member.backend.id().name.to_string())
            .collect();
        let must_move = matches!(event, Event::Remove(_) | Event::Kill(_)).then(|| may_move.clone()).flatten();
        for (client, home) in clients.iter_mut().zip(&mut homes) {
            let (served_by, placement) = site.visit(client);
            let is_free = may_move.as_ref() == Some(&*home) || draining.contains(home);
            if served_by != *home {
                assert!(is_free, "{sessions} seed {seed} step {step} {event:?}: {home} -> {served_by} {placement:?}");
                assert!(
                    matches!(placement, Placement::Rehomed(_)),
                    "{sessions} seed {seed} step {step}: {placement:?}"
                );
            } else {
                assert_ne!(
                    must_move.as_ref(),
                    Some(&*home),
                    "{sessions} seed {seed} step {step} {event:?}: {placement:?}"
                );
            }
            *home = served_by;
        }
    }
}

/// A second Stickpin with the same file and keys, which has seen the same deaths but none of the clients.
#[test]
fn a_replica_and_a_restart_name_the_same_heir() {
    for sessions in [Sessions::Local, Sessions::Replicated, Sessions::Backup, Sessions::External] {
        let mut site = Site::new(sessions, 6, 3);
        let mut clients = vec![Client::default(); 300];
        clients.iter_mut().for_each(|client| {
            site.visit(client);
        });
        let mut replica = Site::new(sessions, 6, 99);
        for site in [&mut site, &mut replica] {
            site.kill("app2");
            site.kill("app4");
        }
        for client in &clients {
            let (mut here, mut there) = (client.clone(), client.clone());
            assert_eq!(site.visit(&mut here), replica.visit(&mut there), "{sessions}");
        }
    }
}

/// 64 clients at each backend, then one is killed, for pools of 3 to 12 and many seeds. The bound is the one of the design:
/// nobody ends up with more than 1.10 times the survivors' share.
#[test]
fn the_orphans_of_a_killed_backend_spread_within_a_tenth_of_the_ideal() {
    let (mut worst, mut beyond, mut deaths) = (0.0_f64, 0, 0);
    for backends in 3..=12 {
        for seed in 0..12 {
            let mut site = Site::new(Sessions::External, backends, seed);
            let mut clients = vec![Client::default(); 64 * backends as usize];
            clients.iter_mut().for_each(|client| {
                site.visit(client);
            });
            site.kill("app0");
            let mut counts = BTreeMap::<String, u32>::new();
            for client in &mut clients {
                *counts.entry(site.visit(client).0).or_default() += 1;
            }
            assert!(!counts.contains_key("app0"));
            let ideal = clients.len() as f64 / f64::from(backends - 1);
            let peak = f64::from(*counts.values().max().expect("somebody is left")) / ideal;
            worst = worst.max(peak);
            beyond += u32::from(peak > 1.10);
            deaths += 1;
        }
    }
    println!("{deaths} deaths: worst {worst:.3}, {beyond} beyond 1.10");
    assert_eq!(beyond, 0, "of {deaths} deaths; worst {worst:.3}");
}

/// How far the most loaded survivor is above its share, after each of the deaths: 64 clients for each unit of weight.
fn peaks(site: &mut Site, clients: u32, deaths: &[&[u32]]) -> Vec<f64> {
    let mut clients = vec![Client::default(); clients as usize];
    clients.iter_mut().for_each(|client| {
        site.visit(client);
    });
    let mut alive: BTreeMap<u32, u32> = site.weights.clone();
    let mut peaks = Vec::new();
    for dead in deaths {
        for number in *dead {
            site.kill(&name(*number));
            alive.remove(number);
        }
        let mut counts = BTreeMap::<String, u32>::new();
        for client in &mut clients {
            *counts.entry(site.visit(client).0).or_default() += 1;
        }
        let first_tier = alive.keys().any(|number| *number < site.later_from);
        alive.retain(|number, _| !first_tier || *number < site.later_from);
        let weights: u32 = alive.values().sum();
        let share = |number: &u32| clients.len() as f64 * f64::from(alive[number]) / f64::from(weights);
        assert_eq!(counts.len(), alive.len(), "everybody alive has some, and nobody else: {counts:?}");
        peaks.push(alive.keys().map(|number| f64::from(counts[&name(*number)]) / share(number)).fold(0.0, f64::max));
        alive = site.weights.iter().map(|(number, weight)| (*number, *weight)).collect();
        alive.retain(|number, _| site.backend(&name(*number)).standing().is_available_for_new());
    }
    peaks
}

/// As above, with weights from 1 to 3, and with a second death before anybody could come to rest.
#[test]
fn orphans_spread_by_weight_and_once_more_when_a_second_backend_dies() {
    let (mut all, mut worst) = (Vec::new(), [0.0_f64; 2]);
    for backends in 3..=12 {
        for seed in 0..12 {
            let mut site = Site::new(Sessions::External, backends, seed);
            site.weights.iter_mut().for_each(|(number, weight)| *weight = 1 + number % 3);
            site.publish();
            let weights: u32 = site.weights.values().sum();
            let peaks = peaks(&mut site, 64 * weights, &[&[0], &[1]]);
            worst = [worst[0].max(peaks[0]), worst[1].max(peaks[1])];
            all.extend(peaks);
        }
    }
    let beyond = all.iter().filter(|peak| **peak > 1.10).count();
    println!("{} deaths: worst {worst:.3?}, {beyond} beyond 1.10", all.len());
    assert_eq!(beyond, 0, "of {} deaths; worst {worst:.3?}", all.len());
}

#[test]
fn a_tier_that_is_lost_spreads_over_the_next_one() {
    let (mut all, mut worst) = (Vec::new(), 0.0_f64);
    for (first, later) in [(1, 2), (2, 2), (3, 3), (4, 2), (2, 5), (6, 6), (8, 4)] {
        for seed in 0..12 {
            let mut site = Site::new(Sessions::External, first + later, seed);
            site.later_from = first;
            site.publish();
            let lost: Vec<u32> = (0..first).collect();
            let peaks = peaks(&mut site, 64 * (first + later), &[&lost]);
            worst = worst.max(peaks[0]);
            all.extend(peaks);
        }
    }
    let beyond = all.iter().filter(|peak| **peak > 1.10).count();
    println!("{} tiers lost: worst {worst:.3}, {beyond} beyond 1.10", all.len());
    assert_eq!(beyond, 0, "of {} tiers; worst {worst:.3}", all.len());
}

/// Scale-out from three to four at one percent a minute, with idle clients and exact counts.
#[test]
fn evening_out_moves_whom_the_sessions_allow_and_comes_to_rest() {
    const REBALANCE: &str = "rebalance: { when_above: 1.25, pace: 1%/m, idle_for: 30s },";
    for sessions in [Sessions::Local, Sessions::Replicated, Sessions::Backup, Sessions::External] {
        let mut site = Site::with(sessions, 3, 5, REBALANCE);
        let mut clients = vec![Client::default(); 400];
        let mut homes: Vec<String> = clients.iter_mut().map(|client| site.visit(client).0).collect();
        // With the last request of each, before it moves.
        let mut told: Vec<Option<String>> = clients.iter().map(|client| site.heir_of(client)).collect();
        site.weights.insert(3, 1);
        site.publish();
        site.recover("app3");
        let mut moves = vec![0_u32; clients.len()];
        let mut moved_late = 0;
        // Where only the heir has a copy, a third of the pins may move, and so a third of the pace is kept.
        let minutes = if sessions == Sessions::Backup { 240 } else { 90 };
        for minute in 0..minutes {
            site.pass(60);
            site.give_roles(&homes);
            for (((client, home), moves), told) in clients.iter_mut().zip(&mut homes).zip(&mut moves).zip(&mut told) {
                let heir = told.take();
                let (served_by, placement) = site.visit(client);
                *told = site.heir_of(client);
                if served_by != *home {
                    assert_eq!(placement, Placement::Rehomed(RehomeReason::Rebalanced), "{sessions}");
                    assert!(
                        sessions != Sessions::Backup || Some(&served_by) == heir.as_ref(),
                        "only the heir has a copy"
                    );
                    *moves += 1;
                    moved_late += u32::from(minute >= minutes - 30);
                    *home = served_by;
                }
            }
        }
        let at_new = homes.iter().filter(|home| *home == "app3").count();
        if sessions == Sessions::Local {
            assert_eq!(moves.iter().sum::<u32>(), 0, "a local session cannot follow");
            continue;
        }
        assert!(moves.iter().all(|moves| *moves <= 1), "{sessions}: nobody moves twice");
        assert_eq!(moved_late, 0, "{sessions}: it has come to rest");
        assert!((90..=105).contains(&at_new), "{sessions}: {at_new} of 400 live at the fourth");
    }
}
