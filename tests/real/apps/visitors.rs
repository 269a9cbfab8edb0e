//! Logged-in clients of an app server: each counts in its session, again and again, and notes what it sees.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::support::{Client, ClientError, Reply, until_within};

/// A client's pause between two rounds: some hundreds of them leave two cores some time for the servers.
const THINKS: Duration = Duration::from_millis(250);

/// Longer than some hundreds of clients take for a few rounds on two cores that have other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// One logged-in client, and what it has seen since it was last [forgiven](Visitor::begin).
#[derive(Debug)]
pub(crate) struct Visitor {
    client: Client,
    /// More connections of the same client, which ask at the same time as the first. They look and do not count: no app
    /// here promises that two counts at once are two.
    others: Vec<Client>,
    looks_first: bool,
    carries: Carries,
    pub(crate) user: String,
    /// Where its session was when this began.
    pub(crate) home: String,
    /// No answer may fall behind this count.
    visits: u64,
    round: u64,
    pub(crate) seen: Vec<Seen>,
    pub(crate) longest_wait: Duration,
}

/// How the session id comes and goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    /// In cookies.
    Cookies,
    /// In the links of the page, for a browser that takes no cookies. The last one to `/whoami`.
    Links(String),
}

/// One answer.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Which of the visitor's rounds asked.
    pub(crate) round: u64,
    pub(crate) asked: Asked,
    /// What the app said, or what went wrong.
    pub(crate) answer: Result<Value, String>,
    pub(crate) wrong: Option<Wrong>,
}

/// What no client may ever see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// Another client's session.
    User,
    /// Its own, as it was before something that it has been told.
    Older,
}

/// How an answer was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// By itself, and counts.
    Alone,
    /// With others at the same time; looks only.
    AtOnce,
}

impl Visitor {
    /// A new client that logs in. With `at_once` above 1 it asks that often at the same time, in each round.
    pub(crate) async fn log_in(front: SocketAddr, user: String, at_once: usize, carries: Carries) -> Self {
        let client = || {
            let mut client = Client::new(front);
            // A request that waits for a server which hangs is answered when that goes on.
            client.timeout = Duration::from_secs(60);
            client
        };
        let mut visitor = Self {
            client: client(),
            others: (1..at_once).map(|_| client()).collect(),
            looks_first: false,
            carries,
            user,
            home: String::new(),
            visits: 0,
            round: 0,
            seen: Vec::new(),
            longest_wait: Duration::ZERO,
        };
        visitor.log_in_again().await;
        visitor
    }

    /// Begins a new session, wherever the client is by now.
    pub(crate) async fn log_in_again(&mut self) {
        let path = match &self.carries {
            Carries::Links(path) => path.replace("/whoami", "/login"),
            Carries::Cookies => "/login".to_owned(),
        };
        let reply = self.client.post(&format!("{path}?user={}", self.user), "").await;
        let reply = reply.unwrap_or_else(|error| panic!("{}: {error}", self.user));
        assert_eq!((reply.status.as_u16(), reply.field("user")), (200, self.user.clone()), "{}", reply.text());
        if matches!(self.carries, Carries::Links(_)) {
            let id = self.client.cookies.value("JSESSIONID").expect("a login issues one");
            self.carries = Carries::Links(format!("/whoami;jsessionid={id}"));
            self.client.cookies.remove("JSESSIONID");
        }
        self.visits = 0;
        self.home = reply.served_by();
    }

    /// Another part of the story begins: what was seen is forgotten, the count of the session is not.
    pub(crate) fn begin(&mut self) {
        if let Some(server) = self.last().map(|last| text(last, "served_by").to_owned()) {
            self.home = server;
        }
        self.seen.clear();
        self.longest_wait = Duration::ZERO;
    }

    /// From now on the requests at the same time come first in each round, so that they are the first ones after whatever
    /// happens between two rounds.
    pub(crate) fn look_first(&mut self) {
        self.looks_first = true;
    }

    async fn ask(&mut self) {
        self.round += 1;
        let begun = Instant::now();
        if self.looks_first {
            self.look().await;
            self.count().await;
        } else {
            self.count().await;
            self.look().await;
        }
        self.longest_wait = self.longest_wait.max(begun.elapsed());
    }

    async fn count(&mut self) {
        let path = match &self.carries {
            Carries::Cookies => "/whoami".to_owned(),
            Carries::Links(path) => path.clone(),
        };
        let counted = self.client.get(&path).await;
        // Who was logged out has no id in its links; and where it has, the id may have been given another route.
        if let (Carries::Links(path), Ok(reply)) = (&mut self.carries, &counted) {
            self.client.cookies.remove("JSESSIONID");
            let link = reply.field("link");
            if link.contains(";jsessionid=") {
                *path = link;
            }
        }
        self.note(counted, Asked::Alone);
    }

    async fn look(&mut self) {
        let looks = match &self.carries {
            Carries::Cookies => "/peek".to_owned(),
            Carries::Links(path) => path.replace("/whoami", "/peek"),
        };
        if !self.others.is_empty() {
            for reply in self.ask_at_once(&looks).await {
                self.note(reply, Asked::AtOnce);
            }
        }
    }

    /// All of its connections at the same time, with the same cookies, as a browser that loads a page; and as there, the last
    /// reply to come has the last word on a cookie.
    async fn ask_at_once(&mut self, path: &str) -> Vec<Result<Reply, ClientError>> {
        let cookies = self.client.cookies.clone();
        let mut asked = Vec::new();
        for mut other in self.others.drain(..) {
            let path = path.to_owned();
            other.cookies = cookies.clone();
            asked.push(tokio::spawn(async move { (other.get(&path).await, Instant::now(), other) }));
        }
        let own = self.client.get(path).await;
        let mut replies = vec![(own, Instant::now())];
        for asked in asked {
            let (reply, came, other) = asked.await.expect("asking does not panic");
            replies.push((reply, came));
            self.others.push(other);
        }
        replies.sort_by_key(|(_, came)| *came);
        let in_order = replies.iter().filter_map(|(reply, _)| reply.as_ref().ok());
        in_order.for_each(|reply| self.client.cookies.remember(&reply.headers));
        if self.carries != Carries::Cookies {
            self.client.cookies.remove("JSESSIONID");
        }
        replies.into_iter().map(|(reply, _)| reply).collect()
    }

    fn note(&mut self, reply: Result<Reply, ClientError>, asked: Asked) {
        let answer = match reply {
            Ok(reply) if reply.status == 200 => Ok(reply.json()),
            Ok(reply) => Err(format!("{}: {}", reply.status, reply.text())),
            Err(error) => Err(error.to_string()),
        };
        let mut wrong = None;
        if let Ok(answer) = &answer
            && let Some(user) = answer["user"].as_str()
        {
            assert_eq!(answer["pin_seen"], false, "the app sees no cookie of Stickpin's: {answer}");
            let visits = answer["visits"].as_u64().unwrap_or_default();
            if user != self.user {
                wrong = Some(Wrong::User);
            } else {
                if visits < self.visits + u64::from(asked == Asked::Alone) {
                    wrong = Some(Wrong::Older);
                }
                self.visits = visits;
            }
        }
        self.seen.push(Seen { round: self.round, asked, answer, wrong });
    }

    /// Holds what it has seen against [`Wrong`].
    pub(crate) fn assert_own_session(&self) {
        if let Some(seen) = self.seen.iter().find(|seen| seen.wrong.is_some()) {
            panic!("{} in round {}: {:?}; all of it:\n{}", self.user, seen.round, seen.wrong, self.story());
        }
    }

    /// What it has seen, for a message: the round, the server, the count (`-` where the session is unknown), what was told.
    pub(crate) fn story(&self) -> String {
        let line = |seen: &Seen| match &seen.answer {
            Ok(answer) => {
                let visits = answer["visits"].as_u64().map_or("-".to_owned(), |visits| visits.to_string());
                let told =
                    ["rehomed_from", "rehome_reason", "session_lost", "asked_for"].map(|field| text(answer, field));
                format!("{} {:?} {} {visits} {}", seen.round, seen.asked, text(answer, "served_by"), told.join(" "))
            }
            Err(error) => format!("{} {:?} {error:.400}", seen.round, seen.asked),
        };
        self.seen.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// What failed.
    pub(crate) fn failures(&self) -> Vec<&str> {
        self.seen.iter().filter_map(|seen| seen.answer.as_ref().err()).map(String::as_str).collect()
    }

    /// Which servers answered one request after the other, each named once for as long as it went on.
    pub(crate) fn path(&self) -> Vec<&str> {
        let alone = self.seen.iter().filter(|seen| seen.asked == Asked::Alone);
        let mut path: Vec<&str> =
            alone.filter_map(|seen| Some(text(seen.answer.as_ref().ok()?, "served_by"))).collect();
        path.dedup();
        path
    }

    /// Whether its home is another one now: as it was told, or as the last answers show.
    pub(crate) fn has_moved(&self) -> bool {
        self.told().iter().any(|told| !told.from.is_empty()) || self.path().len() == 2 && !self.was_unknown()
    }

    /// Which servers answered at all.
    pub(crate) fn servers(&self) -> BTreeSet<&str> {
        self.answers().map(|answer| text(answer, "served_by")).collect()
    }

    pub(crate) fn answers(&self) -> impl DoubleEndedIterator<Item = &Value> {
        self.seen.iter().filter_map(|seen| seen.answer.as_ref().ok())
    }

    fn last(&self) -> Option<&Value> {
        self.answers().next_back()
    }

    /// Whether it is logged in, as of its last answer, at this server.
    pub(crate) fn is_logged_in_at(&self, server: &str) -> bool {
        self.last().is_some_and(|last| text(last, "served_by") == server && text(last, "user") == self.user)
    }

    /// Whether the last answer came from a server that did not know its session.
    pub(crate) fn is_logged_out(&self) -> bool {
        self.last().is_some_and(|last| last["user"].is_null())
    }

    /// Whether some answer came from a server that did not know its session.
    pub(crate) fn was_unknown(&self) -> bool {
        self.answers().any(|answer| answer["user"].is_null())
    }

    /// Where it was told to be from now on: round, server, reason, and what was lost with its home.
    pub(crate) fn told(&self) -> Vec<Told<'_>> {
        let told = self.seen.iter().filter_map(|seen| Some((seen.round, seen.answer.as_ref().ok()?)));
        told.filter(|(_, answer)| !answer["rehomed_from"].is_null() || !answer["session_lost"].is_null())
            .map(|(round, answer)| Told {
                round,
                by: text(answer, "served_by"),
                from: text(answer, "rehomed_from"),
                reason: text(answer, "rehome_reason"),
                lost: text(answer, "session_lost"),
            })
            .collect()
    }
}

/// What Stickpin told a server about a client that was new to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told<'a> {
    pub(crate) round: u64,
    pub(crate) by: &'a str,
    pub(crate) from: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) lost: &'a str,
}

/// A string of an answer; empty when there is none.
pub(crate) fn text<'a>(answer: &'a Value, field: &str) -> &'a str {
    answer[field].as_str().unwrap_or_default()
}

/// Visitors at work. Dropping it leaves them to the end of the test's runtime.
pub(crate) struct Crowd {
    stop: watch::Sender<bool>,
    rounds: Vec<Arc<AtomicU64>>,
    tasks: Vec<JoinHandle<Visitor>>,
}

impl Crowd {
    /// Lets them ask, each in its own rhythm, until [`Crowd::stop`].
    pub(crate) fn start(visitors: Vec<Visitor>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let rounds: Vec<_> = visitors.iter().map(|_| Arc::<AtomicU64>::default()).collect();
        let start = |(mut visitor, rounds): (Visitor, &Arc<AtomicU64>)| {
            let (rounds, stopped) = (Arc::clone(rounds), stopped.clone());
            tokio::spawn(async move {
                sleep(THINKS.mul_f64(fastrand::f64())).await;
                while !*stopped.borrow() {
                    visitor.ask().await;
                    rounds.fetch_add(1, Relaxed);
                    sleep(THINKS).await;
                }
                visitor
            })
        };
        let tasks = visitors.into_iter().zip(&rounds).map(start).collect();
        Self { stop, rounds, tasks }
    }

    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Waits until each has gone through so many rounds from now on, from before to after.
    pub(crate) async fn rounds(&self, count: u64) {
        // One that is under way may have begun earlier.
        let goals: Vec<u64> = self.rounds.iter().map(|rounds| rounds.load(Relaxed) + count + 1).collect();
        until_within(&format!("every visitor has gone through {count} rounds"), PATIENCE, async || {
            // One that has panicked will not come any further.
            let has_ended = self.tasks.iter().any(JoinHandle::is_finished);
            let behind = self.rounds.iter().zip(&goals).filter(|(rounds, goal)| rounds.load(Relaxed) < **goal).count();
            if behind == 0 || has_ended { Ok(()) } else { Err(format!("{behind} have not")) }
        })
        .await;
    }

    /// Lets everybody finish, and gives them back with what they have seen.
    pub(crate) async fn stop(self) -> Vec<Visitor> {
        self.stop.send_replace(true);
        let mut visitors = Vec::new();
        for task in self.tasks {
            visitors.push(task.await.unwrap_or_else(|error| panic!("{error}")));
        }
        visitors
    }
}
