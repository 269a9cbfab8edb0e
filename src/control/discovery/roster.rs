//! The list of one source, and who is about to leave it. Pure.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Answer;
use crate::config::Backend;

/// What a source said last, and those whom it has only just stopped naming.
#[derive(Debug)]
pub(super) struct Roster {
    /// What was looked at.
    pub(super) subject: String,
    /// The last answer, as text.
    pub(super) text: Arc<str>,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    backend: Backend,
    /// Good answers in a row that lack it.
    missing: u32,
}

impl Roster {
    /// The first answer.
    pub(super) fn new(subject: String, answer: Answer) -> Self {
        let entries = answer.backends.into_iter().map(|backend| Entry { backend, missing: 0 }).collect();
        Self { subject, text: answer.text, entries }
    }

    /// Takes a further answer about the same subject. Linear in both lists.
    ///
    /// A backend that the answer lacks stays until `remove_after` of them lacked it, so that one short answer of a server
    /// that names only some each time takes nobody out who works; whoever is unhealthy goes at once, and so does one
    /// whose address the answer gives to another name. The others keep their places.
    pub(super) fn answer(&mut self, answer: Answer, is_unhealthy: impl Fn(&str) -> bool) {
        let addresses: HashSet<_> = answer.backends.iter().map(|backend| backend.address.clone()).collect();
        let mut named: HashMap<Arc<str>, Backend> =
            answer.backends.iter().map(|backend| (Arc::clone(&backend.name), backend.clone())).collect();
        self.entries.retain_mut(|entry| {
            if let Some(backend) = named.remove(&entry.backend.name) {
                *entry = Entry { backend, missing: 0 };
                return true;
            }
            entry.missing += 1;
            let is_replaced = addresses.contains(&entry.backend.address);
            entry.missing < answer.remove_after && !is_replaced && !is_unhealthy(&entry.backend.name)
        });
        let new = answer.backends.into_iter().filter(|backend| named.contains_key(&backend.name));
        self.entries.extend(new.map(|backend| Entry { backend, missing: 0 }));
        self.text = answer.text;
    }

    /// Everybody who is in force.
    pub(super) fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.entries.iter().map(|entry| &entry.backend)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Affinity, Source, parse_backends};

    /// `name=port` each.
    fn answer(names: &str) -> Answer {
        let lines = names.split_whitespace().map(|word| {
            let (name, port) = word.split_once('=').expect("name=port");
            format!("- {{ name: {name}, address: 127.0.0.1:{port} }}\n")
        });
        let text: String = lines.collect();
        let text = if text.is_empty() { "[]".to_owned() } else { text };
        let backends = parse_backends("test", &text, &Affinity::Off, Source::Dns).expect("a good list");
        Answer { backends, text: text.into(), remove_after: 2 }
    }

    fn names(roster: &Roster) -> String {
        roster.backends().map(|backend| &*backend.name).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn who_is_missing_goes_after_two_answers_or_at_once_when_it_is_unhealthy_or_replaced() {
        for (unhealthy, answers, expected) in [
            ("", &["a=1 b=2"][..], "a b"),
            ("", &["b=2 a=1", "a=1 b=2"], "b a"),
            ("", &["a=1 b=2", "a=1"], "a b"),
            ("", &["a=1 b=2", "a=1", "a=1"], "a"),
            ("", &["a=1 b=2", "a=1", "a=1 b=2", "a=1"], "a b"),
            ("", &["a=1 b=2", "a=1", "b=2", "a=1", "b=2"], "a b"),
            ("b", &["a=1 b=2", "a=1"], "a"),
            ("a", &["a=1 b=2", "a=1"], "a b"),
            ("", &["a=1 b=2", "a=1 c=2"], "a c"),
            ("", &["a=1 b=2", "a=2 c=1"], "a c"),
            ("", &["a=1", "a=1 b=2 c=3", "c=3 d=4", "c=3 d=4"], "c d"),
        ] {
            let mut answers = answers.iter().map(|names| answer(names));
            let mut roster = Roster::new("a app".to_owned(), answers.next().expect("a first one"));
            for answer in answers {
                roster.answer(answer, |name| unhealthy.contains(name));
            }
            assert_eq!(names(&roster), expected);
        }
    }

    #[test]
    fn a_name_that_moved_is_at_its_new_address() {
        let mut roster = Roster::new("srv app".to_owned(), answer("a=1 b=2"));
        roster.answer(answer("b=3 a=1"), |_| false);
        let ports: Vec<u16> =
            roster.backends().map(|backend| backend.address.ip().expect("an IP address").port()).collect();
        assert_eq!((names(&roster).as_str(), ports), ("a b", vec![1, 3]));
    }
}
