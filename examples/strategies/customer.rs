//! A customer: logs in, asks, thinks, leaves, and remembers every answer.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::Clock;
use crate::plan;
use crate::support::client::{Client, ClientError, Reply};

/// One request and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Asked {
    /// When the answer came, in minutes of the shop.
    pub(crate) at: f64,
    /// Whose it was.
    pub(crate) customer: usize,
    /// Which server answered; empty when none did.
    pub(crate) server: String,
    pub(crate) outcome: Outcome,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The login was taken.
    LoggedIn,
    /// The login holds.
    Known,
    /// The server has never heard of the login.
    Lost,
    /// Somebody else's session.
    Stranger(String),
    /// The customer has left.
    LoggedOut,
    /// A request that may be sent twice was answered by an error, or not at all.
    Failed(String),
    /// The same of a login or logout, which no balancer may send twice: one that is under way at a death fails rightly.
    FailedOrder(String),
}

/// What all customers of a shop remember, in the order of the answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<Asked>>>);

impl Log {
    fn add(&self, asked: Asked) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
    }

    /// All of it so far.
    pub(crate) fn read(&self) -> Vec<Asked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Plays one customer, until they leave.
pub(crate) async fn visit(front: SocketAddr, number: usize, customer: plan::Customer, clock: Clock, log: Log) {
    clock.until(customer.comes).await;
    let mut visitor = Visitor { client: Client::new(front), number, user: format!("user{number}"), clock, log };
    let mut pauses = customer.pauses();
    let mut is_logged_in = false;
    while clock.now() < customer.leaves {
        if is_logged_in {
            is_logged_in = visitor.ask().await != Outcome::Lost;
        }
        if !is_logged_in {
            is_logged_in = visitor.log_in().await == Outcome::LoggedIn;
        }
        let pause = pauses.next().expect("they have no end");
        clock.until((clock.now() + pause).min(customer.leaves)).await;
    }
    if is_logged_in {
        visitor.log_out().await;
    }
}

struct Visitor {
    client: Client,
    number: usize,
    user: String,
    clock: Clock,
    log: Log,
}

impl Visitor {
    async fn ask(&mut self) -> Outcome {
        let reply = self.client.get("/whoami").await;
        let outcome = match failure(&reply) {
            Some(failure) => Outcome::Failed(failure),
            None => match reply.as_ref().map(Reply::json).unwrap_or_default()["user"].as_str() {
                Some(user) if user == self.user => Outcome::Known,
                Some(user) => Outcome::Stranger(user.to_owned()),
                None => Outcome::Lost,
            },
        };
        self.remember(reply, outcome)
    }

    async fn log_in(&mut self) -> Outcome {
        let path = format!("/login?user={}", self.user);
        self.order(&path, Outcome::LoggedIn).await
    }

    async fn log_out(&mut self) -> Outcome {
        self.order("/logout", Outcome::LoggedOut).await
    }

    async fn order(&mut self, path: &str, done: Outcome) -> Outcome {
        let reply = self.client.post(path, "").await;
        let outcome = failure(&reply).map_or(done, Outcome::FailedOrder);
        self.remember(reply, outcome)
    }

    fn remember(&self, reply: Result<Reply, ClientError>, outcome: Outcome) -> Outcome {
        let server = reply.map(|reply| reply.served_by()).unwrap_or_default();
        self.log.add(Asked { at: self.clock.now(), customer: self.number, server, outcome: outcome.clone() });
        outcome
    }
}

fn failure(reply: &Result<Reply, ClientError>) -> Option<String> {
    match reply {
        Ok(reply) if reply.status == 200 => None,
        Ok(reply) => Some(format!("{}: {}", reply.status, reply.text())),
        Err(error) => Some(error.to_string()),
    }
}
