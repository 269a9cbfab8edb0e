//! Backends that the admin API added: who may be added, who may be removed. Pure.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::oneshot;

use super::merge::MOST_DISCOVERED;
use crate::config::{Backend, Source};

/// An order to change a pool's backends, answered once it is in force and kept.
#[derive(Debug)]
pub struct ChangeOrder {
    /// The pool's name.
    pub pool: Arc<str>,
    /// What to do.
    pub change: Change,
    /// Whoever ordered it.
    pub answer: oneshot::Sender<Result<(), Refusal>>,
}

/// What to do.
#[derive(Debug)]
pub enum Change {
    /// Add this backend.
    Add {
        /// Its settings.
        backend: Box<Backend>,
        /// The same as it was posted, to be kept over a restart.
        posted: Value,
    },
    /// Remove the backend of this name.
    Remove(String),
}

/// Why it was not done.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such pool.
    UnknownPool,
    /// There is no such backend.
    UnknownBackend,
    /// Something stands in the way, in words.
    Conflict(String),
    /// It is in force, but could not be kept for a restart, in words.
    NotKept(String),
}

/// One that was added.
#[derive(Clone, Debug)]
pub(super) struct Added {
    pub(super) backend: Backend,
    /// As it was posted.
    pub(super) posted: Value,
}

/// What stands in the way of one more beside `present`.
pub(super) fn conflict(new: &Backend, present: &[Backend]) -> Option<String> {
    let route = |backend: &Backend| Arc::clone(backend.route.as_ref().unwrap_or(&backend.name));
    let said = |what: &str, by: &Backend| {
        format!("the {what} is taken by backend {:?}, which comes from {}", &*by.name, Origin(by.source))
    };
    let new_route = route(new);
    if let Some(by) = present.iter().find(|by| by.name == new.name) {
        return Some(said("name", by));
    }
    if let Some(by) = present.iter().find(|by| by.address == new.address) {
        return Some(said("address", by));
    }
    if let Some(by) = present.iter().find(|by| route(by) == new_route) {
        return Some(said("route", by));
    }
    let discovered = present.iter().filter(|backend| backend.source != Source::File).count();
    (discovered >= MOST_DISCOVERED)
        .then(|| format!("the pool has {MOST_DISCOVERED} backends beside those of its file, and may have no more"))
}

/// Why one that the API did not add stays.
pub(super) fn not_added(backend: &Backend) -> String {
    format!("it comes from {}: take it out there, or disable it here", Origin(backend.source))
}

/// A source in words.
struct Origin(Source);

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::File => "the configuration file",
            Source::Api => "the API",
            Source::WatchedFile => "the watched file",
            Source::Dns => "DNS",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Affinity, parse_backend};

    fn backend(text: &str, source: Source) -> Backend {
        parse_backend(text, &Affinity::Off, source).expect("a good backend")
    }

    #[test]
    fn a_name_an_address_and_a_route_have_one_owner() {
        let present = [
            backend("{ name: a, address: 127.0.0.1:1, route: r }", Source::File),
            backend("{ address: 127.0.0.1:2 }", Source::Dns),
        ];
        for (text, expected) in [
            ("{ name: b, address: 127.0.0.1:3 }", None),
            (
                "{ name: a, address: 127.0.0.1:3 }",
                Some("the name is taken by backend \"a\", which comes from the conf"),
            ),
            ("{ name: b, address: 127.0.0.1:1 }", Some("the address is taken by backend \"a\"")),
            (
                "{ name: b, address: 127.0.0.1:2 }",
                Some("the address is taken by backend \"127.0.0.1:2\", which comes from DNS"),
            ),
            ("{ name: 127.0.0.1:2, address: 127.0.0.1:3 }", Some("the name is taken")),
            ("{ name: r, address: 127.0.0.1:3 }", Some("the route is taken by backend \"a\"")),
            ("{ name: b, address: 127.0.0.1:3, route: 127.0.0.1:2 }", Some("the route is taken")),
        ] {
            let found = conflict(&backend(text, Source::Api), &present);
            let is_as_expected = match (&found, expected) {
                (Some(found), Some(expected)) => found.starts_with(expected),
                (found, expected) => found.is_none() && expected.is_none(),
            };
            assert!(is_as_expected, "{text}: {found:?}");
        }
    }
}
