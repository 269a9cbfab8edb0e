//! Everything that was found and added, by pool: what is merged with the file's own backends, and kept over a restart.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::api::{Added, Change, Refusal, conflict, not_added};
use super::merge::{MOST_DISCOVERED, Merged, merge};
use super::roster::Roster;
use super::standing::Standings;
use super::{Answer, Found, subjects};
use crate::config::{self, Backend, Config, Source, parse_backend, parse_backends};
use crate::telemetry::events::{Event, Events};

/// Names in one line of the log or one event; the others are only counted.
const MOST_NAMED: usize = 20;

/// See the module. Belongs to whoever reloads.
#[derive(Debug, Default)]
pub struct Lists {
    pools: BTreeMap<Arc<str>, PoolLists>,
    standings: Standings,
    events: Events,
    /// Who was left out of each pool when that was last said.
    told: HashMap<Arc<str>, Vec<String>>,
}

#[derive(Debug, Default)]
struct PoolLists {
    /// In the order of their coming.
    added: Vec<Added>,
    found: BTreeMap<Source, Roster>,
}

impl PoolLists {
    /// Those beside the file's own, in the order of their rank.
    fn backends(&self) -> impl Iterator<Item = &Backend> {
        let added = self.added.iter().map(|added| &added.backend);
        added.chain(self.found.values().flat_map(Roster::backends))
    }
}

impl Lists {
    /// What an earlier process kept, as far as this configuration still asks for it. Tells of changes here.
    pub fn restore(kept: &Kept, config: &Config, events: Events) -> Self {
        let mut lists = Self { events, ..Self::default() };
        for pool in &config.pools {
            let Some(kept) = kept.pools.get(&*pool.name) else { continue };
            let mut restored = PoolLists::default();
            for posted in &kept.added {
                match parse_backend(&posted.to_string(), &pool.affinity, Source::Api) {
                    Ok(backend) => restored.added.push(Added { backend, posted: posted.clone() }),
                    Err(problems) => {
                        let problem = problems.first().map(ToString::to_string);
                        tracing::warn!(pool = &*pool.name, %posted, problem, "a backend that was added does not fit any more");
                    }
                }
            }
            for (source, subject) in subjects(&pool.backends_from) {
                let Some(list) = kept.found.get(source.as_str()).filter(|list| list.subject == subject) else {
                    continue;
                };
                if let Ok(backends) = parse_backends(&subject, &list.text, &pool.affinity, source) {
                    let answer = Answer { backends, text: list.text.as_str().into(), remove_after: 1 };
                    restored.found.insert(source, Roster::new(subject, answer));
                }
            }
            lists.pools.insert(Arc::clone(&pool.name), restored);
        }
        lists.follow(config);
        for (pool, restored) in &lists.pools {
            for (source, roster) in &restored.found {
                lists.standings.change(pool, *source, |standing| {
                    standing.is_restored = true;
                    standing.backends = roster.backends().count();
                });
            }
        }
        lists
    }

    /// How things stand with each source.
    pub fn standings(&self) -> &Standings {
        &self.standings
    }

    /// Forgets what this configuration does not ask for any more, and whom it names itself now: the file takes those over
    /// for good. A list stays although what is looked at has changed, until the first answer about the new subject.
    pub fn follow(&mut self, config: &Config) {
        let pools: HashMap<&str, &config::Pool> = config.pools.iter().map(|pool| (&*pool.name, pool)).collect();
        self.pools.retain(|name, _| pools.contains_key(&**name));
        self.told.retain(|name, _| pools.contains_key(&**name));
        for (name, lists) in &mut self.pools {
            let pool = pools[&**name];
            let asked: HashSet<_> = subjects(&pool.backends_from).map(|(source, _)| source).collect();
            lists.found.retain(|source, _| asked.contains(source));
            lists.added.retain(|added| {
                let is_taken_over = conflict(&added.backend, &pool.backends).is_some();
                if is_taken_over {
                    let backend = &*added.backend.name;
                    tracing::info!(pool = &**name, backend, "the file names this backend itself now");
                }
                !is_taken_over
            });
        }
        self.standings.follow(config.pools.iter().flat_map(|pool| {
            let subjects = subjects(&pool.backends_from);
            subjects.map(|(source, subject)| ((Arc::clone(&pool.name), source), subject))
        }));
    }

    /// Takes a report. Says whether it changed a list.
    pub fn take(&mut self, found: Found, is_unhealthy: impl Fn(&str) -> bool, now: SystemTime) -> bool {
        let Found { pool, source, subject, outcome } = found;
        // The settings may have changed while it was on its way.
        let is_asked = self.standings.change(&pool, source, |standing| standing.subject == subject);
        if is_asked != Some(true) {
            return false;
        }
        let answer = match outcome {
            Ok(answer) => answer,
            Err(error) => {
                self.fail(&pool, source, &subject, error);
                return false;
            }
        };
        let count = answer.backends.len();
        let found = &mut self.pools.entry(Arc::clone(&pool)).or_default().found;
        let before: Vec<Backend> = found.get(&source).into_iter().flat_map(Roster::backends).cloned().collect();
        match found.get_mut(&source) {
            // Whoever wrote a file meant all of it.
            Some(roster) if roster.subject == subject && source != Source::WatchedFile => {
                roster.answer(answer, is_unhealthy);
            }
            Some(_) | None => {
                found.insert(source, Roster::new(subject.clone(), answer));
            }
        }
        let has_changed = !found[&source].backends().eq(&before);
        if has_changed {
            let after: Vec<&Backend> = found[&source].backends().collect();
            tell_change(&self.events, &pool, source, &before.iter().collect::<Vec<_>>(), &after);
        }
        self.succeed(&pool, source, &subject, count, now);
        has_changed
    }

    fn succeed(&self, pool: &Arc<str>, source: Source, subject: &str, backends: usize, now: SystemTime) {
        let failed_before = self.standings.change(pool, source, |standing| {
            standing.backends = backends;
            standing.last_success = Some(now);
            standing.error.take()
        });
        if failed_before.flatten().is_some() {
            tracing::info!(pool = &**pool, source = source.as_str(), subject, "backends are found again");
            let (pool, source) = (Arc::clone(pool), source.as_str());
            self.events.tell(|| Event::Discovery { pool, source, error: None });
        }
    }

    /// Told once, until it succeeds again; of a file, which is read only when it has changed, each time.
    fn fail(&self, pool: &Arc<str>, source: Source, subject: &str, error: String) {
        let failed_before = self.standings.change(pool, source, |standing| {
            standing.failures += 1;
            standing.error.replace(error.clone()).is_some()
        });
        if failed_before == Some(false) || source == Source::WatchedFile {
            tracing::warn!(
                pool = &**pool,
                source = source.as_str(),
                subject,
                error,
                "no backends could be found; the last good list stays"
            );
            let (pool, source) = (Arc::clone(pool), source.as_str());
            self.events.tell(|| Event::Discovery { pool, source, error: Some(error) });
        }
    }

    /// Obeys an order from the admin API. `config` is the one in force, without what was found and added.
    ///
    /// # Errors
    /// Why it was not done; nothing was changed then.
    pub fn change(&mut self, config: &Config, pool: &str, change: Change) -> Result<(), Refusal> {
        let pool = config.pools.iter().find(|it| *it.name == *pool).ok_or(Refusal::UnknownPool)?;
        let present = self.merged_pool(pool).backends;
        let lists = self.pools.entry(Arc::clone(&pool.name)).or_default();
        match change {
            Change::Add { backend, posted } => {
                if let Some(conflict) = conflict(&backend, &present) {
                    return Err(Refusal::Conflict(conflict));
                }
                tell_change(&self.events, &pool.name, Source::Api, &[], &[&backend]);
                lists.added.push(Added { backend: *backend, posted });
            }
            Change::Remove(name) => {
                if let Some(place) = lists.added.iter().position(|added| *added.backend.name == *name) {
                    let removed = lists.added.remove(place);
                    tell_change(&self.events, &pool.name, Source::Api, &[&removed.backend], &[]);
                } else {
                    let found = present.iter().find(|backend| *backend.name == *name).ok_or(Refusal::UnknownBackend)?;
                    return Err(Refusal::Conflict(not_added(found)));
                }
            }
        }
        Ok(())
    }

    /// The configuration with everything that was found and added in its pools' backends.
    pub fn merged(&self, config: &Config) -> Config {
        let mut merged = config.clone();
        for pool in merged.pools.iter_mut().filter(|pool| self.pools.contains_key(&pool.name)) {
            pool.backends = self.merged_pool(pool).backends;
        }
        merged
    }

    /// Says who had to be left out of which pool, once for as long as it is the same ones.
    pub fn tell_left_out(&mut self, config: &Config) {
        for pool in config.pools.iter().filter(|pool| self.pools.contains_key(&pool.name)) {
            let Merged { left_out, beyond, .. } = self.merged_pool(pool);
            let said: Vec<String> = left_out.iter().take(MOST_NAMED).map(ToString::to_string).collect();
            let count = left_out.len() + beyond;
            // The count stands in for those that are not named.
            let key: Vec<String> = said.iter().cloned().chain([count.to_string()]).collect();
            let is_new = self.told.insert(Arc::clone(&pool.name), key.clone()).is_none_or(|told| told != key);
            if is_new && count > 0 {
                let (pool, most) = (&*pool.name, MOST_DISCOVERED);
                tracing::warn!(pool, left_out = said.join("; "), count, beyond, most, "backends were left out");
            }
        }
    }

    fn merged_pool(&self, pool: &config::Pool) -> Merged {
        let beside = self.pools.get(&pool.name).into_iter().flat_map(PoolLists::backends);
        merge(pool.backends.iter().chain(beside), MOST_DISCOVERED)
    }

    /// What a later process needs.
    pub fn kept(&self) -> Kept {
        let pool = |lists: &PoolLists| KeptPool {
            added: lists.added.iter().map(|added| added.posted.clone()).collect(),
            found: lists
                .found
                .iter()
                .map(|(source, roster)| {
                    let list = KeptList { subject: roster.subject.clone(), text: roster.text.as_ref().to_owned() };
                    (source.as_str().to_owned(), list)
                })
                .collect(),
        };
        Kept { pools: self.pools.iter().map(|(name, lists)| (name.as_ref().to_owned(), pool(lists))).collect() }
    }
}

fn tell_change(events: &Events, pool: &Arc<str>, source: Source, before: &[&Backend], after: &[&Backend]) {
    let names = |list: &[&Backend]| list.iter().map(|it| Arc::clone(&it.name)).collect::<HashSet<Arc<str>>>();
    let (had, has) = (names(before), names(after));
    let of = |list: &[&Backend], other: &HashSet<Arc<str>>| -> Vec<Arc<str>> {
        list.iter().filter(|it| !other.contains(&it.name)).map(|it| Arc::clone(&it.name)).collect()
    };
    let (mut added, mut removed) = (of(after, &had), of(before, &has));
    let (added_count, removed_count) = (added.len(), removed.len());
    added.truncate(MOST_NAMED);
    removed.truncate(MOST_NAMED);
    let source = source.as_str();
    tracing::info!(
        pool = &**pool,
        source,
        added = added.join(" "),
        added_count,
        removed = removed.join(" "),
        removed_count,
        "backends changed"
    );
    let pool = Arc::clone(pool);
    events.tell(|| Event::Backends { pool, source, added, removed, added_count, removed_count });
}

/// What is kept over a restart, by pool. The lists are texts, so that every setting of a backend is read by the one parser
/// there is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Kept {
    pools: BTreeMap<String, KeptPool>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct KeptPool {
    /// As they were posted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    added: Vec<Value>,
    /// By the word for the source.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    found: BTreeMap<String, KeptList>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct KeptList {
    subject: String,
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn config(pool: &str) -> Config {
        let text = format!("listeners: [127.0.0.1:0]\npools:\n  shop: {{ affinity: off, {pool} }}\n");
        Config::parse("test", &text).unwrap_or_else(|problems| panic!("{problems}"))
    }

    const DNS: &str = "backends_from: { dns: { name: app, port: 80 } }";

    fn found(subject: &str, source: Source, addresses: &[&str]) -> Found {
        let text = serde_json::to_string(&addresses).unwrap();
        let backends = parse_backends("test", &text, &config::Affinity::Off, source).unwrap();
        let answer = Answer { backends, text: text.into(), remove_after: 1 };
        Found { pool: "shop".into(), source, subject: subject.to_owned(), outcome: Ok(answer) }
    }

    fn names(lists: &Lists, config: &Config) -> String {
        let merged = lists.merged(config);
        merged.pools[0].backends.iter().map(|it| &*it.name).collect::<Vec<_>>().join(" ")
    }

    fn add(lists: &mut Lists, config: &Config, posted: Value) -> Result<(), Refusal> {
        let backend = parse_backend(&posted.to_string(), &config::Affinity::Off, Source::Api).unwrap();
        lists.change(config, "shop", Change::Add { backend: Box::new(backend), posted })
    }

    #[test]
    fn what_is_looked_at_may_change_and_the_old_list_stays_until_the_first_answer() {
        let first = config(DNS);
        let mut lists = Lists::restore(&Kept::default(), &first, Events::default());
        assert!(!lists.standings().are_in());
        assert!(lists.take(found("a app port 80", Source::Dns, &["127.0.0.1:1", "127.0.0.1:2"]), |_| false, NOW));
        assert!(lists.standings().are_in());
        assert!(!lists.take(found("a app port 80", Source::Dns, &["127.0.0.1:1", "127.0.0.1:2"]), |_| false, NOW));
        let second = config("backends_from: { dns: { name: other, port: 80 } }");
        lists.follow(&second);
        assert_eq!(names(&lists, &second), "127.0.0.1:1 127.0.0.1:2");
        assert!(
            !lists.take(found("a app port 80", Source::Dns, &["127.0.0.1:9"]), |_| false, NOW),
            "nobody asks any more"
        );
        assert!(lists.take(found("a other port 80", Source::Dns, &["127.0.0.1:3"]), |_| false, NOW));
        assert_eq!(names(&lists, &second), "127.0.0.1:3");
        let none = config("backends: [127.0.0.1:8]");
        lists.follow(&none);
        assert_eq!(names(&lists, &none), "127.0.0.1:8");
    }

    #[test]
    fn a_failure_leaves_the_list_and_is_counted() {
        let config = config(DNS);
        let mut lists = Lists::restore(&Kept::default(), &config, Events::default());
        lists.take(found("a app port 80", Source::Dns, &["127.0.0.1:1"]), |_| false, NOW);
        for _ in 0..3 {
            let outcome = Err("no answer".to_owned());
            let failed = Found { outcome, ..found("a app port 80", Source::Dns, &[]) };
            assert!(!lists.take(failed, |_| false, NOW));
        }
        assert_eq!(names(&lists, &config), "127.0.0.1:1");
        let (source, standing) = lists.standings().of("shop").remove(0);
        assert_eq!((source, standing.failures, standing.error.as_deref()), (Source::Dns, 3, Some("no answer")));
        lists.take(found("a app port 80", Source::Dns, &["127.0.0.1:1"]), |_| false, NOW);
        assert_eq!(lists.standings().of("shop")[0].1.error, None);
    }

    #[test]
    fn the_api_adds_and_removes_its_own_and_the_file_takes_over_for_good() {
        let with_one = config("backends: [{ name: app1, address: 127.0.0.1:1 }]");
        let mut lists = Lists::restore(&Kept::default(), &with_one, Events::default());
        let app2 = serde_json::json!({ "name": "app2", "address": "127.0.0.1:2" });
        assert_eq!(add(&mut lists, &with_one, app2.clone()), Ok(()));
        assert!(matches!(add(&mut lists, &with_one, app2), Err(Refusal::Conflict(_))));
        let remove =
            |lists: &mut Lists, pool: &str, name: &str| lists.change(&with_one, pool, Change::Remove(name.to_owned()));
        assert!(matches!(remove(&mut lists, "shop", "app1"), Err(Refusal::Conflict(_))));
        assert_eq!(remove(&mut lists, "shop", "app3"), Err(Refusal::UnknownBackend));
        assert_eq!(remove(&mut lists, "shed", "app2"), Err(Refusal::UnknownPool));
        assert_eq!(names(&lists, &with_one), "app1 app2");

        let both = config("backends: [{ name: app1, address: 127.0.0.1:1 }, { name: app2, address: 127.0.0.1:2 }]");
        lists.follow(&both);
        assert_eq!(names(&lists, &both), "app1 app2");
        lists.follow(&with_one);
        assert_eq!(names(&lists, &with_one), "app1", "taken out of the file it is gone");
    }

    #[test]
    fn what_is_kept_is_restored_where_it_is_still_asked_for() {
        let config_before = config(DNS);
        let mut before = Lists::restore(&Kept::default(), &config_before, Events::default());
        before.take(found("a app port 80", Source::Dns, &["127.0.0.1:1"]), |_| false, NOW);
        add(&mut before, &config_before, serde_json::json!({ "address": "127.0.0.1:2", "weight": 5 })).unwrap();
        let kept = serde_json::to_string(&before.kept()).unwrap();
        let kept: Kept = serde_json::from_str(&kept).unwrap();
        let after = Lists::restore(&kept, &config_before, Events::default());
        assert_eq!(names(&after, &config_before), "127.0.0.1:2 127.0.0.1:1");
        assert_eq!(after.merged(&config_before).pools[0].backends[0].weight.get(), 5);
        assert!(after.standings().are_in(), "nobody has to wait for an answer");
        assert_eq!(after.kept(), kept);

        let other = config("backends_from: { dns: { name: other, port: 80 } }");
        let after = Lists::restore(&kept, &other, Events::default());
        assert_eq!(names(&after, &other), "127.0.0.1:2", "that was another name");
    }
}
