//! Many logged-in clients at once, each asking again and again who it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::support::{Client, ClientError, Reply, StickpinProcess, until};

/// A client's pause between two requests, so that a crowd leaves the machine some time for the others.
const THINKS: Duration = Duration::from_millis(5);

/// One logged-in client, and what it has seen since.
#[derive(Debug)]
pub(crate) struct Customer {
    pub(crate) client: Client,
    pub(crate) user: String,
    /// Where it logged in.
    pub(crate) home: String,
    pub(crate) seen: Vec<Seen>,
    /// The longest that one of them took, failed ones included.
    pub(crate) longest_wait: Duration,
}

/// One answer to `GET /whoami`.
#[derive(Debug)]
pub(crate) enum Seen {
    Answer(Value),
    Failure(String),
}

impl Customer {
    async fn ask(&mut self) {
        let begun = Instant::now();
        let seen = Seen::of(self.client.get("/whoami").await);
        self.longest_wait = self.longest_wait.max(begun.elapsed());
        self.seen.push(seen);
    }

    /// What failed.
    pub(crate) fn failures(&self) -> Vec<&str> {
        self.seen.iter().filter(|seen| seen.answer().is_none()).map(Seen::served_by).collect()
    }

    /// Which servers answered, each named once for as long as it went on.
    pub(crate) fn path(&self) -> Vec<&str> {
        let mut path: Vec<&str> = self.seen.iter().map(Seen::served_by).collect();
        path.dedup();
        path
    }

    /// The answers that say the client was moved.
    pub(crate) fn told(&self) -> Vec<&Value> {
        self.seen.iter().filter(|seen| seen.is_told()).filter_map(Seen::answer).collect()
    }

    /// Panics unless every request was answered by the login at home.
    #[track_caller]
    pub(crate) fn assert_undisturbed(&self) {
        let is_at_home = |answer: &Value| answer["served_by"] == *self.home && answer["user"] == *self.user;
        let other = self.seen.iter().find(|seen| !seen.answer().is_some_and(is_at_home));
        assert!(other.is_none(), "{}, at home at {}: {other:?}", self.user, self.home);
        assert!(self.told().is_empty(), "{}: {:?}", self.user, self.told());
    }
}

impl Seen {
    fn of(reply: Result<Reply, ClientError>) -> Self {
        match reply {
            Ok(reply) if reply.status == 200 => Self::Answer(reply.json()),
            Ok(reply) => Self::Failure(format!("{}: {}", reply.status, reply.text())),
            Err(error) => Self::Failure(error.to_string()),
        }
    }

    /// The answer, if there was one.
    pub(crate) fn answer(&self) -> Option<&Value> {
        match self {
            Self::Answer(answer) => Some(answer),
            Self::Failure(_) => None,
        }
    }

    /// Whether it says that the client was moved.
    pub(crate) fn is_told(&self) -> bool {
        self.answer().is_some_and(|answer| answer.get("rehomed_from").is_some())
    }

    /// Which server answered; what went wrong when none did.
    pub(crate) fn served_by(&self) -> &str {
        match self {
            Self::Answer(answer) => answer["served_by"].as_str().unwrap_or_default(),
            Self::Failure(failure) => failure,
        }
    }
}

/// New clients, all logged in.
pub(crate) async fn customers(stickpin: &StickpinProcess, count: usize) -> Vec<Customer> {
    customers_by(stickpin, "/login?user=", count).await
}

/// As [`customers`], logged in by a `POST` to this path with their names behind it.
pub(crate) async fn customers_by(stickpin: &StickpinProcess, login: &str, count: usize) -> Vec<Customer> {
    let mut customers = Vec::new();
    for n in 0..count {
        let (mut client, user) = (stickpin.client(), format!("user{n}"));
        let login = client.post(&format!("{login}{user}"), "").await.unwrap();
        assert_eq!(login.status, 200, "{}", login.text());
        customers.push(Customer {
            client,
            user,
            home: login.served_by(),
            seen: Vec::new(),
            longest_wait: Duration::ZERO,
        });
    }
    customers
}

/// Customers at work. Dropping it leaves them to the end of the test's runtime.
pub(crate) struct Crowd {
    stop: watch::Sender<bool>,
    rounds: Vec<Arc<AtomicU64>>,
    tasks: Vec<JoinHandle<Customer>>,
}

impl Crowd {
    /// Lets them ask, each in its own rhythm, until [`Crowd::stop`].
    pub(crate) fn start(customers: Vec<Customer>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let rounds: Vec<_> = customers.iter().map(|_| Arc::<AtomicU64>::default()).collect();
        let start = |(mut customer, rounds): (Customer, &Arc<AtomicU64>)| {
            let (rounds, stopped) = (Arc::clone(rounds), stopped.clone());
            tokio::spawn(async move {
                while !*stopped.borrow() {
                    customer.ask().await;
                    rounds.fetch_add(1, Relaxed);
                    sleep(THINKS).await;
                }
                customer
            })
        };
        let tasks = customers.into_iter().zip(&rounds).map(start).collect();
        Self { stop, rounds, tasks }
    }

    /// Waits until each has asked at least this often from now on, from before to after.
    pub(crate) async fn rounds(&self, count: u64) {
        // One that is under way may have begun earlier.
        let goals: Vec<u64> = self.rounds.iter().map(|rounds| rounds.load(Relaxed) + count + 1).collect();
        until(&format!("every customer has asked {count} times"), async || {
            let behind = self.rounds.iter().zip(&goals).filter(|(rounds, goal)| rounds.load(Relaxed) < **goal).count();
            if behind == 0 { Ok(()) } else { Err(format!("{behind} have not")) }
        })
        .await;
    }

    /// Lets everybody finish, and gives them back with what they have seen.
    pub(crate) async fn stop(self) -> Vec<Customer> {
        self.stop.send_replace(true);
        let mut customers = Vec::new();
        for task in self.tasks {
            customers.push(task.await.expect("asking does not panic"));
        }
        customers
    }
}
