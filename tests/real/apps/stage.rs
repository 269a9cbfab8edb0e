//! Three app servers and one in reserve, with one Stickpin for each way to pin in front of the same servers, and many
//! logged-in clients of each.

use std::net::SocketAddr;

use serde_json::json;

use super::server::{AppServer, Make, prepare};
use super::visitors::{Carries, Crowd, Visitor};
use crate::support::{Admin, RedisServer, StickpinProcess};

pub(crate) const NAMES: [&str; 4] = ["app1", "app2", "app3", "app4"];

/// Clients of all ways together.
const VISITORS: usize = 200;

/// Probes of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probes {
    /// A server is known to be dead within a second, and none is taken for hung because this machine is busy.
    Patient,
    /// A server that hangs is known to within seconds.
    Impatient,
}

impl Probes {
    fn timeout(self) -> &'static str {
        match self {
            Self::Patient => "10s",
            Self::Impatient => "1500ms",
        }
    }
}

/// How a pool keeps its clients at their servers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// The pool's `affinity`.
    pub(crate) affinity: &'static str,
    /// Every third client takes no cookies, and has the id in its links.
    pub(crate) has_links: bool,
}

impl Way {
    pub(crate) const fn pinned(affinity: &'static str) -> Self {
        Self { affinity, has_links: false }
    }

    pub(crate) const fn with_links(affinity: &'static str) -> Self {
        Self { affinity, has_links: true }
    }

    /// Whether a session's id names its home.
    pub(crate) fn ids_name_homes(&self) -> bool {
        self.affinity.contains("route_suffix")
    }

    /// Whether clients have a home at all.
    pub(crate) fn has_pins(&self) -> bool {
        self.affinity != "off"
    }
}

/// One way, at work.
pub(crate) struct Front {
    pub(crate) way: Way,
    pub(crate) sessions: &'static str,
    pub(crate) stickpin: StickpinProcess,
    pub(crate) admin: Admin,
    /// Those that rest.
    pub(crate) visitors: Vec<Visitor>,
    /// What the counters said when this part of the story began.
    pub(crate) before: Counters,
}

/// What Stickpin has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// `stickpin_rehomes_total`
    pub(crate) rehomes: u64,
    /// `stickpin_placements_total` of the placement `rehomed`
    pub(crate) rehomed: u64,
    /// `stickpin_sessions_lost_total`
    pub(crate) lost: u64,
}

impl Counters {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            rehomes: self.rehomes - before.rehomes,
            rehomed: self.rehomed - before.rehomed,
            lost: self.lost - before.lost,
        }
    }
}

pub(crate) struct Stage {
    pub(crate) make: Make,
    pub(crate) servers: [AppServer; 4],
    /// How many of them the pools have.
    in_use: usize,
    pub(crate) fronts: Vec<Front>,
    _redis: Option<RedisServer>,
}

impl Stage {
    /// Three servers that serve, and a fourth that does not run yet. With `sessions: external` they share a Redis.
    pub(crate) async fn open(make: Make, sessions: &'static str, ways: &[Way]) -> Self {
        let redis = if sessions == "external" { Some(RedisServer::start().await) } else { None };
        let mut servers = prepare(make, NAMES, redis.as_ref().map(RedisServer::url).as_deref());
        servers[..3].iter_mut().for_each(AppServer::start);
        for server in &mut servers[..3] {
            server.answers().await;
        }
        let mut stage = Self { make, servers, in_use: 3, fronts: Vec::new(), _redis: redis };
        for way in ways {
            let front = stage.open_front(*way, sessions, VISITORS / ways.len()).await;
            stage.fronts.push(front);
        }
        stage
    }

    async fn open_front(&self, way: Way, sessions: &'static str, visitors: usize) -> Front {
        let yaml = |front, admin| pool(way, sessions, &self.servers[..3], (Probes::Patient, ""), (front, admin));
        let stickpin = StickpinProcess::start(yaml).await;
        let admin = stickpin.admin();
        let mut front = Front { way, sessions, stickpin, admin, visitors: Vec::new(), before: Counters::default() };
        front.log_in(visitors).await;
        front
    }

    /// Has the visitors ask of whom `who` says so, by their number.
    pub(crate) fn enter(&mut self, who: impl Fn(usize) -> bool) -> Vec<Crowd> {
        let enter = |front: &mut Front| {
            let (entering, resting): (Vec<_>, Vec<_>) =
                std::mem::take(&mut front.visitors).into_iter().enumerate().partition(|(number, _)| who(*number));
            front.visitors = resting.into_iter().map(|(_, visitor)| visitor).collect();
            Crowd::start(entering.into_iter().map(|(_, visitor)| visitor).collect())
        };
        self.fronts.iter_mut().map(enter).collect()
    }

    /// Lets them rest.
    pub(crate) async fn leave(&mut self, crowds: Vec<Crowd>) {
        for (front, crowd) in self.fronts.iter_mut().zip(crowds) {
            front.visitors.extend(crowd.stop().await);
        }
    }

    /// What was seen and counted up to now belongs to another part of the story.
    pub(crate) async fn begin(&mut self) {
        for front in &mut self.fronts {
            front.visitors.iter_mut().for_each(Visitor::begin);
            front.before = front.counters().await;
        }
    }

    pub(crate) fn server(&mut self, name: &str) -> &mut AppServer {
        self.servers.iter_mut().find(|server| server.name() == name).expect("there is one")
    }

    pub(crate) async fn until_health(&mut self, name: &str, health: &str) {
        for front in &mut self.fronts {
            front.admin.until_health("shop", name, health).await;
        }
    }

    /// `order` as `PUT …/state` takes it.
    pub(crate) async fn order(&mut self, name: &str, order: serde_json::Value) {
        for front in &mut self.fronts {
            let reply = front.admin.put(&format!("/api/v1/pools/shop/backends/{name}/state"), &order).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
    }

    pub(crate) async fn enable(&mut self, name: &str) {
        self.order(name, json!({ "state": "enabled" })).await;
    }

    /// Reloads every pool with other probes.
    pub(crate) async fn probe(&mut self, probes: Probes) {
        self.rewrite(self.in_use, (probes, "")).await;
    }

    /// Puts the fourth server into every pool's file, and has pins move there where they can.
    pub(crate) async fn add_the_fourth(&mut self) {
        self.in_use = NAMES.len();
        self.rewrite(self.in_use, (Probes::Patient, "rebalance: { when_above: 1.1, pace: 20%/s, idle_for: 0s }")).await;
    }

    async fn rewrite(&mut self, servers: usize, (probes, more): (Probes, &str)) {
        for front in &mut self.fronts {
            let more = if front.rebalances() { more } else { "" };
            let addresses = (front.stickpin.front(), front.stickpin.admin_address());
            let yaml = pool(front.way, front.sessions, &self.servers[..servers], (probes, more), addresses);
            front.stickpin.write_config(&yaml);
            let reply = front.admin.reload().await;
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
    }
}

impl Front {
    /// Whether pins that are well may be moved to even out the load. Stickpin has to know when they were last used.
    pub(crate) fn rebalances(&self) -> bool {
        self.sessions != "local" && self.way.has_pins() && !self.way.ids_name_homes()
    }

    /// More visitors: half of them ask three times at once, before or after they ask once.
    pub(crate) async fn log_in(&mut self, count: usize) {
        for number in self.visitors.len()..self.visitors.len() + count {
            let carries = if self.way.has_links && number % 3 == 0 {
                Carries::Links("/whoami".to_owned())
            } else {
                Carries::Cookies
            };
            let at_once = if number % 2 == 0 { 1 } else { 3 };
            let mut visitor = Visitor::log_in(self.stickpin.front(), format!("user{number}"), at_once, carries).await;
            if number % 4 == 1 {
                visitor.look_first();
            }
            self.visitors.push(visitor);
        }
    }

    pub(crate) async fn counters(&mut self) -> Counters {
        Counters {
            rehomes: self.admin.metric("stickpin_rehomes_total", &[]).await as u64,
            rehomed: self.admin.metric("stickpin_placements_total", &["placement=\"rehomed\""]).await as u64,
            lost: self.admin.metric("stickpin_sessions_lost_total", &[]).await as u64,
        }
    }
}

fn pool(
    way: Way,
    sessions: &str,
    servers: &[AppServer],
    (probes, more): (Probes, &str),
    (front, admin): (SocketAddr, SocketAddr),
) -> String {
    let backends: Vec<_> = servers.iter().map(AppServer::yaml).collect();
    let probes = format!(
        "{{ path: /health, interval: 200ms, suspect_interval: 100ms, timeout: {}, instance_header: X-Instance }}",
        probes.timeout()
    );
    format!(
        "workers: 2\naccess_log: off\nlisteners: [{{ address: \"{front}\" }}]\nadmin: {{ address: \"{admin}\" }}\npools:\n  shop:\n    \
         sessions: {sessions}\n    affinity: {}\n    {more}\n    health: {{ http: {probes} }}\n    backends: [{}]\n",
        way.affinity,
        backends.join(", ")
    )
}
