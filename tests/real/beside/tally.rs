//! What clients have seen of an event, in figures.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::apps::visitors::{Visitor, Wrong};

/// What happens to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Killed,
    Disabled,
    Stopped,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Killed => "killed, and started again",
            Self::Disabled => "disabled, and enabled again",
            Self::Stopped => "stopped for 8 s",
        })
    }
}

/// Of the clients of one way.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    asked: usize,
    /// Requests without a whole reply of status 200, by what came instead.
    failures: BTreeMap<String, usize>,
    longest_wait: Duration,
    /// Clients whose sessions lived on the server that it happened to.
    at_home: usize,
    /// Those of them that are logged out in the end.
    lost: usize,
    /// Others that are.
    lost_elsewhere: usize,
    /// Answers by servers that did not know the session, to clients who are logged in in the end.
    as_stranger: usize,
    another_user: usize,
    older: usize,
    /// Clients that another server has served.
    moved: usize,
    /// How often the server changed for the client for which it did most often.
    most_moves: usize,
    /// How many clients each server has in the end.
    end: [usize; 3],
}

impl Tally {
    /// Of what they have seen since something happened to this server, of all of these.
    pub(crate) fn of(visitors: &[Visitor], servers: [&str; 3], server: &str) -> Self {
        let mut tally = Self::default();
        for visitor in visitors {
            tally.add(visitor, server);
            let path = visitor.path();
            for (count, name) in tally.end.iter_mut().zip(servers) {
                *count += usize::from(path.last() == Some(&name));
            }
        }
        tally
    }

    fn add(&mut self, visitor: &Visitor, server: &str) {
        self.asked += visitor.seen.len();
        for failure in visitor.failures() {
            *self.failures.entry(in_short(failure)).or_default() += 1;
        }
        self.longest_wait = self.longest_wait.max(visitor.longest_wait);
        self.at_home += usize::from(visitor.home == server);
        if visitor.is_logged_out() {
            *(if visitor.home == server { &mut self.lost } else { &mut self.lost_elsewhere }) += 1;
        } else {
            self.as_stranger += visitor.answers().filter(|answer| answer["user"].is_null()).count();
        }
        let count = |wrong| visitor.seen.iter().filter(|seen| seen.wrong == Some(wrong)).count();
        self.another_user += count(Wrong::User);
        self.older += count(Wrong::Older);
        let path = visitor.path();
        let moves = path.len() - usize::from(path.first() == Some(&&*visitor.home));
        self.moved += usize::from(moves > 0);
        self.most_moves = self.most_moves.max(moves);
    }

    fn failed(&self) -> usize {
        self.failures.values().sum()
    }

    /// Holds it against what Stickpin promises.
    fn assert_promises(&self, way: &str, event: Event, sessions: &str) {
        let context = format!("{way}, {sessions}, {event}: {self:?}");
        assert_eq!((self.failed(), self.another_user, self.lost_elsewhere), (0, 0, 0), "{context}");
        let lost = if sessions == "local" && event == Event::Killed { self.at_home } else { 0 };
        assert_eq!(self.lost, lost, "{context}");
        // A member of a cluster that stands still answers who has waited there, and copies that to nobody.
        assert!(self.older == 0 || sessions != "local" && event == Event::Stopped, "{context}");
    }
}

/// The status alone, or how there was no whole reply.
fn in_short(failure: &str) -> String {
    let is_status = failure.starts_with(|first: char| first.is_ascii_digit());
    if is_status { failure.chars().take(3).collect() } else { failure.to_owned() }
}

/// What all events have cost the clients of all ways.
#[derive(Debug, Default)]
pub(crate) struct Summary(Vec<(Event, Vec<(&'static str, Tally)>)>);

impl Summary {
    pub(crate) fn add(&mut self, event: Event, tallies: Vec<(&'static str, Tally)>) {
        self.0.push((event, tallies));
    }

    /// Holds Stickpin's ways against what it promises.
    pub(crate) fn assert_promises(&self, sessions: &str) {
        for (event, tallies) in &self.0 {
            for (way, tally) in tallies.iter().filter(|(way, _)| way.starts_with("Stickpin")) {
                tally.assert_promises(way, *event, sessions);
            }
        }
    }

    /// As tables in Markdown: all of it for each event, and in short as the README has it.
    pub(crate) fn print(&self, sessions: &str) {
        for (event, tallies) in &self.0 {
            println!("\n{sessions}, one of three servers is {event}\n");
            println!("{DETAILS}\n|---|{}", "---:|".repeat(10));
            for (way, tally) in tallies {
                println!("| {way} | {} |", tally.details());
            }
        }
        let events: Vec<_> = self.0.iter().map(|(event, _)| event.to_string()).collect();
        println!("\n| sessions | | {} |\n|---|---|{}", events.join(" | "), "---|".repeat(events.len()));
        let Some((_, ways)) = self.0.first() else { return };
        for (row, (way, _)) in ways.iter().enumerate() {
            let cells: Vec<_> = self.0.iter().map(|(_, tallies)| tallies[row].1.in_short()).collect();
            println!("| `{sessions}` | {way} | {} |", cells.join(" | "));
        }
    }
}

const DETAILS: &str = "| | requests | failed | logins lost | of other servers | as a stranger | older state | another user | \
                       longest wait | moved, at most | in the end |";

impl Tally {
    fn details(&self) -> String {
        let failures: Vec<_> = self.failures.iter().map(|(what, count)| format!("{count} × {what}")).collect();
        [
            self.asked.to_string(),
            if failures.is_empty() { "0".to_owned() } else { failures.join(", ") },
            format!("{} of {}", self.lost, self.at_home),
            self.lost_elsewhere.to_string(),
            self.as_stranger.to_string(),
            self.older.to_string(),
            self.another_user.to_string(),
            self.seconds(),
            format!("{}, {} ×", self.moved, self.most_moves),
            self.end.map(|count| count.to_string()).join(" + "),
        ]
        .join(" | ")
    }

    /// Failed requests, lost logins, answers as to a stranger.
    fn in_short(&self) -> String {
        let elsewhere = if self.lost_elsewhere > 0 { format!(" + {}", self.lost_elsewhere) } else { String::new() };
        format!("{} · {} of {}{elsewhere} · {}", self.failed(), self.lost, self.at_home, self.as_stranger)
    }

    fn seconds(&self) -> String {
        format!("{:.1} s", self.longest_wait.as_secs_f64())
    }
}
