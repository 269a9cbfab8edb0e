//! What happens to the servers, to the clients of all balancers in the same moment.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::sleep;

use super::balancers::{self, Balancer, MAKES, Order};
use super::tally::{Event, Summary, Tally};
use crate::apps::server::{AppServer, Make, prepare};
use crate::apps::visitors::{Carries, Crowd, Visitor};

const SERVERS: [&str; 3] = ["app1", "app2", "app3"];

/// Of each way; see [`Front`]. Half of them ask three times at once.
const VISITORS: usize = 48;

/// How long a killed server is away before it is started again, and one that was taken out before it is put back.
const AWAY: Duration = Duration::from_secs(2);

const STOPPED: Duration = Duration::from_secs(8);

/// When all is well again: for longer than any of them takes to notice.
const ROUNDS_AFTER: u64 = 9;

/// One way to keep clients at their servers, and its clients.
struct Front {
    way: &'static str,
    visitors: Vec<Visitor>,
}

struct Stage {
    servers: [AppServer; 3],
    balancers: Vec<Balancer>,
    fronts: Vec<Front>,
    summary: Summary,
}

/// All of it, in one go. The stopped server is the last one: in a cluster it has missed what happened meanwhile.
pub(crate) async fn play(make: Make, sessions: &'static str) {
    let mut stage = Stage::open(make, sessions).await;
    stage.killed("app1").await;
    stage.disabled("app2").await;
    stage.stopped("app3").await;
    stage.summary.print(sessions);
    stage.summary.assert_promises(sessions);
}

impl Stage {
    async fn open(make: Make, sessions: &'static str) -> Self {
        let mut servers = prepare(make, SERVERS, None);
        servers.iter_mut().for_each(AppServer::start);
        for server in &mut servers {
            server.answers().await;
        }
        let mut stage = Self { servers, balancers: Vec::new(), fronts: Vec::new(), summary: Summary::default() };
        for version in BTreeSet::from(MAKES.map(balancers::Make::version)) {
            println!("{version}");
        }
        for make in MAKES {
            let balancer = Balancer::start(make, sessions, &stage.servers).await;
            for (way, address) in make.ways().iter().zip(balancer.fronts()) {
                let mut visitors = Vec::new();
                for number in 0..VISITORS {
                    let at_once = if number % 2 == 0 { 1 } else { 3 };
                    let user = format!("user{number}");
                    let mut visitor = Visitor::log_in(address, user, at_once, Carries::Cookies).await;
                    visitor.look_first();
                    visitors.push(visitor);
                }
                stage.fronts.push(Front { way, visitors });
            }
            stage.balancers.push(balancer);
        }
        stage
    }

    /// `SIGKILL`, and a new start.
    async fn killed(&mut self, name: &str) {
        let crowd = self.begin().await;
        self.server(name).kill();
        sleep(AWAY).await;
        self.server(name).start();
        self.server(name).answers().await;
        self.end(Event::Killed, name, crowd).await;
    }

    /// By the operator, who enables it again.
    async fn disabled(&mut self, name: &str) {
        let crowd = self.begin().await;
        self.order(name, Order::Disable).await;
        sleep(AWAY).await;
        self.order(name, Order::Enable).await;
        self.end(Event::Disabled, name, crowd).await;
    }

    /// `SIGSTOP` and `SIGCONT`: it loses nothing.
    async fn stopped(&mut self, name: &str) {
        let crowd = self.begin().await;
        self.server(name).pause();
        sleep(STOPPED).await;
        self.server(name).resume();
        self.end(Event::Stopped, name, crowd).await;
    }

    fn server(&mut self, name: &str) -> &mut AppServer {
        self.servers.iter_mut().find(|server| server.name() == name).expect("there is one")
    }

    async fn order(&self, name: &str, order: Order) {
        for balancer in &self.balancers {
            balancer.order(name, order).await;
        }
    }

    /// Has everybody ask.
    async fn begin(&mut self) -> Crowd {
        let mut visitors: Vec<_> = self.fronts.iter_mut().flat_map(|front| front.visitors.drain(..)).collect();
        visitors.iter_mut().for_each(Visitor::begin);
        let crowd = Crowd::start(visitors);
        crowd.rounds(1).await;
        crowd
    }

    /// Notes what it has cost, and has those log in again who were logged out.
    async fn end(&mut self, event: Event, name: &str, crowd: Crowd) {
        for balancer in self.balancers.iter().filter(|balancer| balancer.make.is_stickpin()) {
            balancer.admin().until_health("shop", name, "healthy").await;
        }
        crowd.rounds(ROUNDS_AFTER).await;
        let mut visitors = crowd.stop().await.into_iter();
        for front in &mut self.fronts {
            front.visitors = visitors.by_ref().take(VISITORS).collect();
        }
        let tally = |front: &Front| (front.way, Tally::of(&front.visitors, SERVERS, name));
        self.summary.add(event, self.fronts.iter().map(tally).collect());
        for visitor in self.fronts.iter_mut().flat_map(|front| &mut front.visitors) {
            if visitor.is_logged_out() {
                visitor.log_in_again().await;
            }
        }
    }
}
