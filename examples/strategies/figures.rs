//! What an hour comes to: every figure is counted in what was seen, and held against what the docs promise. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::customer::{Asked, Outcome};
use crate::hour::{self, Counted, Hour};
use crate::site::SERVERS;
use crate::strategy::Strategy;

/// An added server works when it serves this share of what is its due.
pub(crate) const WORKS: f64 = 0.8;

/// What it serves is looked at over this long, in minutes.
const GLANCE: f64 = 2.0;

/// Servers find the store again within this time, in minutes.
const RECONNECT: f64 = 1.0;

/// The figures of one strategy. Times are in minutes of the shop.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figures {
    pub(crate) strategy: Strategy,
    /// Sessions held for each that lives, with three servers and with four.
    pub(crate) copies: [f64; 2],
    /// Bytes between servers, or to the store and back, for each request, with three servers and with four.
    pub(crate) bytes: [f64; 2],
    pub(crate) killed: Loss,
    /// Requests that failed while the store, if any, was there; and all that were sent then. Orders are told apart.
    pub(crate) failed: Share,
    pub(crate) failed_orders: usize,
    /// When the added server served its part of its due; and which part it served in the end.
    pub(crate) works_after: Option<f64>,
    pub(crate) part_served: f64,
    /// Requests of the busiest of four servers over the mean.
    pub(crate) busiest: f64,
    /// When nobody was left at the drained server.
    pub(crate) empty_after: Option<f64>,
    pub(crate) drained: Loss,
    pub(crate) store: Option<StoreDeath>,
    /// Where it is not as the docs promise.
    pub(crate) contradictions: Vec<String>,
}

/// Customers who lost their login, of those who lived there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) lost: BTreeSet<usize>,
    pub(crate) lived_there: BTreeSet<usize>,
}

/// So many of so many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) some: usize,
    pub(crate) of: usize,
}

/// What the death of the store did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct StoreDeath {
    /// Requests that failed while it was away.
    pub(crate) failed: Share,
    /// Logins that were gone when it was back, of those that were asked for.
    pub(crate) lost: Share,
}

impl Figures {
    pub(crate) fn of(hour: &Hour) -> Self {
        let asked = &hour.asked;
        let during = |from: f64, to: f64| asked.iter().filter(move |it| from <= it.at && it.at < to);
        let lost = |from, to| losers(during(from, to));
        let (store_killed, store_back) = hour.store_away.unwrap_or((f64::INFINITY, f64::INFINITY));
        let killed = Loss {
            lost: lost(hour.killed, hour.drain_ordered),
            lived_there: lived_at(asked, SERVERS[hour::KILLED], hour.killed, hour.restarted),
        };
        let drained = Loss {
            lost: lost(hour.drain_ordered, store_killed),
            lived_there: lived_at(asked, SERVERS[hour::DRAINED], hour.drain_ordered, hour.drain_ordered),
        };
        let store = hour.store_away.map(|(from, to)| {
            let lost_later = lost(to, f64::INFINITY);
            let had_one: BTreeSet<usize> = logged_in(asked, from);
            let asked_later = during(to, f64::INFINITY).filter(|it| !is_failure(&it.outcome)).map(|it| it.customer);
            let asked_later: BTreeSet<usize> = asked_later.filter(|customer| had_one.contains(customer)).collect();
            StoreDeath {
                failed: failures(during(from, to)),
                lost: Share { some: lost_later.len(), of: asked_later.len() },
            }
        });
        let without_store = |at: f64| store_killed <= at && at < store_back + RECONNECT;
        let with_store = || asked.iter().filter(|it| !without_store(it.at));
        let failed_orders = with_store().filter(|it| matches!(it.outcome, Outcome::FailedOrder(_))).count();
        let failed = failures(with_store());
        let served = served_by(during(hour.with_four[0].at, hour.with_four[1].at));
        let requests: usize = served.values().sum();
        let mean = requests as f64 / SERVERS.len() as f64;
        let part = |served: &BTreeMap<&str, usize>| {
            let all: usize = served.values().sum();
            let own = served.get(SERVERS[hour::ADDED]).copied().unwrap_or(0);
            own as f64 / (all as f64 / SERVERS.len() as f64)
        };
        let works = during(hour.added, hour.drain_ordered)
            .map(|it| it.at)
            .find(|&at| part(&served_by(during(at - GLANCE, at))) >= WORKS);
        let mut figures = Self {
            strategy: hour.strategy,
            copies: [hour.with_three, hour.with_four].map(|span| copies(asked, span[1])),
            bytes: [hour.with_three, hour.with_four].map(|span| bytes(asked, span)),
            killed,
            failed: Share { some: failed.some - failed_orders, of: failed.of },
            failed_orders,
            works_after: works.map(|at| at - hour.added),
            part_served: part(&served),
            busiest: served.values().max().copied().unwrap_or(0) as f64 / mean,
            empty_after: hour.drained.map(|at| at - hour.drain_ordered),
            drained,
            store,
            contradictions: Vec::new(),
        };
        figures.contradictions = figures.held_against_the_docs(hour, without_store);
        figures
    }

    fn held_against_the_docs(&self, hour: &Hour, without_store: impl Fn(f64) -> bool) -> Vec<String> {
        let mut found = Vec::new();
        for it in &hour.asked {
            let what = match &it.outcome {
                Outcome::Stranger(user) => format!("was taken for {user}"),
                // Nothing is lost before anybody has died.
                Outcome::Lost if it.at < hour.killed => "lost the login".to_owned(),
                Outcome::Failed(why) if !without_store(it.at) => why.clone(),
                // One that is under way at a death fails rightly.
                Outcome::FailedOrder(why)
                    if !without_store(it.at) && !(hour.killed..hour.restarted).contains(&it.at) =>
                {
                    format!("an order: {why}")
                }
                _ => continue,
            };
            found.push(format!("customer {} in minute {:.2} at {:?}: {what}", it.customer, it.at, it.server));
        }
        for (what, loss) in [("the kill", &self.killed), ("the drain", &self.drained)] {
            if self.strategy == Strategy::Local {
                let others: Vec<_> = loss.lost.difference(&loss.lived_there).collect();
                if !others.is_empty() {
                    found.push(format!("by {what} customers who lived elsewhere lost their login: {others:?}"));
                }
            } else if !loss.lost.is_empty() {
                found.push(format!("by {what} customers lost their login: {:?}", loss.lost));
            }
        }
        if self.strategy != Strategy::Local && self.empty_after.is_none() {
            found.push("somebody was left at the drained server".to_owned());
        }
        found.into_iter().map(|text| format!("{}: {text}", self.strategy.word())).collect()
    }
}

fn is_failure(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Failed(_) | Outcome::FailedOrder(_))
}

fn failures<'a>(asked: impl Iterator<Item = &'a Asked>) -> Share {
    asked.fold(Share::default(), |Share { some, of }, it| Share {
        some: some + usize::from(is_failure(&it.outcome)),
        of: of + 1,
    })
}

fn losers<'a>(asked: impl Iterator<Item = &'a Asked>) -> BTreeSet<usize> {
    asked.filter(|it| it.outcome == Outcome::Lost).map(|it| it.customer).collect()
}

fn served_by<'a>(asked: impl Iterator<Item = &'a Asked>) -> BTreeMap<&'a str, usize> {
    let mut served = BTreeMap::new();
    for it in asked.filter(|it| !it.server.is_empty()) {
        *served.entry(&*it.server).or_default() += 1;
    }
    served
}

/// Who had a login at this moment.
fn logged_in(asked: &[Asked], at: f64) -> BTreeSet<usize> {
    let mut logged_in = BTreeSet::new();
    for it in asked.iter().filter(|it| it.at <= at) {
        match it.outcome {
            Outcome::LoggedIn => logged_in.insert(it.customer),
            Outcome::LoggedOut | Outcome::Lost => logged_in.remove(&it.customer),
            _ => false,
        };
    }
    logged_in
}

/// Who was logged in and last answered by this server at a moment; an answer of a server that has just died may have come
/// a little later, but not after `until`, when it was started again.
fn lived_at(asked: &[Asked], server: &str, at: f64, until: f64) -> BTreeSet<usize> {
    let mut last = BTreeMap::new();
    for it in asked.iter().filter(|it| it.at <= at || (it.at < until && it.server == server)) {
        if !it.server.is_empty() {
            last.insert(it.customer, &*it.server);
        }
    }
    logged_in(asked, at).into_iter().filter(|customer| last.get(customer) == Some(&server)).collect()
}

fn copies(asked: &[Asked], counted: Counted) -> f64 {
    counted.census.sessions as f64 / logged_in(asked, counted.at).len() as f64
}

fn bytes(asked: &[Asked], [before, after]: [Counted; 2]) -> f64 {
    let requests = asked.iter().filter(|it| before.at <= it.at && it.at < after.at).count();
    (after.census.bytes - before.census.bytes) as f64 / requests as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::Census;

    use Outcome::{Failed, FailedOrder, Known, LoggedIn, LoggedOut, Lost, Stranger};

    fn asked(at: f64, customer: usize, server: &str, outcome: Outcome) -> Asked {
        Asked { at, customer, server: server.to_owned(), outcome }
    }

    fn counted(at: f64, sessions: u64, bytes: u64) -> Counted {
        Counted { at, census: Census { sessions, bytes } }
    }

    /// Two customers at app1 and app2, and what else is asked.
    fn hour(strategy: Strategy, more: impl IntoIterator<Item = Asked>) -> Hour {
        let mut all = vec![
            asked(1.0, 0, "app1", LoggedIn),
            asked(1.0, 1, "app2", LoggedIn),
            asked(6.0, 0, "app1", Known),
            asked(7.0, 1, "app2", Known),
        ];
        all.extend(more);
        Hour {
            strategy,
            asked: all,
            with_three: [counted(5.0, 4, 1000), counted(9.0, 6, 1600)],
            with_four: [counted(28.0, 6, 5000), counted(33.0, 8, 6000)],
            killed: 10.0,
            restarted: 14.0,
            added: 18.0,
            drain_ordered: 34.0,
            drained: Some(36.5),
            store_away: None,
        }
    }

    #[test]
    fn copies_and_bytes_are_counted_for_each_session_and_request() {
        let served = [(29.0, "app1"), (30.0, "app2"), (31.0, "app4"), (32.0, "app4")];
        let figures = Figures::of(&hour(Strategy::Replicated, served.map(|(at, server)| asked(at, 1, server, Known))));
        assert_eq!((figures.copies, figures.bytes), ([3.0, 4.0], [300.0, 250.0]));
        assert_eq!((figures.busiest, figures.part_served), (2.0, 2.0));
        assert_eq!((figures.empty_after, figures.contradictions), (Some(2.5), Vec::<String>::new()));
    }

    #[test]
    fn a_death_takes_the_logins_of_its_own_customers_only_where_they_are_local() {
        let loses = |customer: usize| [asked(10.5, customer, "app3", Lost), asked(10.6, customer, "app3", LoggedIn)];
        let figures = Figures::of(&hour(Strategy::Local, loses(0)));
        assert_eq!((figures.killed.lost, figures.killed.lived_there), ([0].into(), [0].into()));
        assert_eq!(figures.contradictions, [""; 0]);
        assert_eq!(Figures::of(&hour(Strategy::Local, loses(1))).contradictions.len(), 1);
        assert_eq!(Figures::of(&hour(Strategy::Backup, loses(0))).contradictions.len(), 1);
        // Its last answer came a little after its death.
        let late = [asked(10.1, 1, "app1", Known), asked(10.5, 1, "app3", Lost)];
        assert_eq!(Figures::of(&hour(Strategy::Local, late)).contradictions, [""; 0]);
    }

    #[test]
    fn strangers_failures_and_early_losses_are_contradictions_and_orders_under_way_are_not() {
        let bad = [
            asked(8.0, 0, "app1", Stranger("user7".to_owned())),
            asked(20.0, 0, "", Failed("502".to_owned())),
            asked(8.5, 1, "app2", Lost),
            asked(20.0, 0, "", FailedOrder("502".to_owned())),
        ];
        for it in bad {
            assert_eq!(Figures::of(&hour(Strategy::Local, [it.clone()])).contradictions.len(), 1, "{it:?}");
        }
        let figures = Figures::of(&hour(Strategy::Local, [asked(10.0, 2, "", FailedOrder("502".to_owned()))]));
        let failed = (figures.failed, figures.failed_orders);
        assert_eq!((failed, figures.contradictions), ((Share { some: 0, of: 5 }, 1), Vec::new()));
    }

    #[test]
    fn an_added_server_works_when_it_serves_its_part_of_what_is_its_due() {
        let every = |from: f64, servers: &'static [&'static str]| {
            (0..40).map(move |n| asked(from + 0.1 * f64::from(n), 1, servers[n as usize % servers.len()], Known))
        };
        let alone = every(18.0, &["app1", "app2"]);
        let figures = Figures::of(&hour(Strategy::External, alone.clone()));
        assert_eq!(figures.works_after, None);
        let figures =
            Figures::of(&hour(Strategy::External, alone.chain(every(22.0, &["app1", "app2", "app3", "app4"]))));
        let works_after = figures.works_after.unwrap();
        assert!((5.0..6.1).contains(&works_after), "a fifth of two minutes: {works_after}");
    }

    #[test]
    fn what_fails_without_its_store_is_told_apart() {
        let mut hour = hour(
            Strategy::External,
            [
                asked(50.5, 0, "app3", Failed("503".to_owned())),
                asked(51.0, 2, "", FailedOrder("503".to_owned())),
                asked(52.0, 1, "app2", Known),
                asked(53.5, 0, "app3", Failed("503".to_owned())),
                asked(54.5, 0, "app3", Lost),
                asked(54.6, 0, "app3", LoggedIn),
                asked(55.0, 1, "app2", LoggedOut),
            ],
        );
        hour.store_away = Some((50.0, 53.0));
        let figures = Figures::of(&hour);
        let (failed, lost) = (Share { some: 2, of: 3 }, Share { some: 1, of: 2 });
        assert_eq!(figures.store, Some(StoreDeath { failed, lost }));
        assert_eq!((figures.failed.some, figures.contradictions), (0, Vec::new()));
        assert!(figures.drained.lost.is_empty(), "not by the drain");
    }
}
