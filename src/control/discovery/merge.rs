//! The backends of a pool from all that bring some. Pure.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::config::{Address, Backend, Source};

/// Most backends of a pool that do not stand in its file.
pub(super) const MOST_DISCOVERED: usize = 10_000;

/// A whole pool.
#[derive(Debug, Default)]
pub(super) struct Merged {
    pub(super) backends: Vec<Backend>,
    /// Who had to be left out, in the order of the lists.
    pub(super) left_out: Vec<LeftOut>,
    /// How many more were beyond the bound.
    pub(super) beyond: usize,
}

/// A backend that another one stands in the way of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeftOut {
    name: Arc<str>,
    source: Source,
    /// What is taken.
    what: &'static str,
    /// Who has it.
    by: Arc<str>,
    by_source: Source,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, source, what, by, by_source } = self;
        write!(f, "{name} of {}: its {what} is that of {by} of {}", source.as_str(), by_source.as_str())
    }
}

/// Joins these lists, which come in the order of their rank: of two backends with one name, address or route the first
/// one counts. Each keeps its order, so that a pool looks the same after every merge. Linear.
///
/// `most` bounds those that the file does not name.
pub(super) fn merge<'a>(lists: impl IntoIterator<Item = &'a Backend>, most: usize) -> Merged {
    let mut merged = Merged::default();
    let mut addresses: HashMap<Address, usize> = HashMap::new();
    let mut names: HashMap<&str, usize> = HashMap::new();
    let mut routes: HashMap<&str, usize> = HashMap::new();
    let mut discovered = 0;
    for backend in lists {
        let route = backend.route.as_ref().unwrap_or(&backend.name);
        let taken = names.get(&*backend.name).map(|by| ("name", by));
        let taken = taken.or_else(|| addresses.get(&backend.address).map(|by| ("address", by)));
        let taken = taken.or_else(|| routes.get(&**route).map(|by| ("route", by)));
        if let Some((what, by)) = taken {
            let by: &Backend = &merged.backends[*by];
            let (name, source) = (Arc::clone(&backend.name), backend.source);
            merged.left_out.push(LeftOut { name, source, what, by: Arc::clone(&by.name), by_source: by.source });
            continue;
        }
        if backend.source != Source::File {
            if discovered == most {
                merged.beyond += 1;
                continue;
            }
            discovered += 1;
        }
        let place = merged.backends.len();
        addresses.insert(backend.address.clone(), place);
        names.insert(&backend.name, place);
        routes.insert(route, place);
        merged.backends.push(backend.clone());
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Affinity, parse_backends};

    /// `name=port`, or `name=port/route`, each.
    fn list(source: Source, words: &str) -> Vec<Backend> {
        let lines = words.split_whitespace().map(|word| {
            let (name, rest) = word.split_once('=').expect("name=port");
            let (port, route) = rest.split_once('/').unwrap_or((rest, name));
            format!("- {{ name: {name}, address: 127.0.0.1:{port}, weight: 7, route: {route} }}\n")
        });
        let text: String = lines.collect();
        if text.is_empty() {
            return Vec::new();
        }
        parse_backends("test", &text, &Affinity::Off, source).expect("a good list")
    }

    #[test]
    fn who_stands_first_has_the_name_the_address_and_the_route() {
        for ([file, api, watched, dns], expected, left_out) in [
            (["", "", "", ""], "", vec![]),
            (["a=1 b=2", "", "", ""], "a:file b:file", vec![]),
            (["b=1", "a=2", "d=4 c=3", "e=5"], "b:file a:api d:watched_file c:watched_file e:dns", vec![]),
            (["a=1", "", "a=2", ""], "a:file", vec!["a of watched_file: its name is that of a of file"]),
            (["a=1", "", "", "b=1"], "a:file", vec!["b of dns: its address is that of a of file"]),
            (
                ["", "a=1", "a=1", "a=1"],
                "a:api",
                vec!["a of watched_file: its name is that of a of api", "a of dns: its name is that of a of api"],
            ),
            (
                ["", "", "a=1", "b=1 c=2"],
                "a:watched_file c:dns",
                vec!["b of dns: its address is that of a of watched_file"],
            ),
            // One that is left out takes nothing from those after it.
            (["a=1", "", "a=2", "b=2"], "a:file b:dns", vec!["a of watched_file: its name is that of a of file"]),
            (["a=1/r", "b=2/r", "", ""], "a:file", vec!["b of api: its route is that of a of file"]),
            (["a=1/b", "", "", "b=2"], "a:file", vec!["b of dns: its route is that of a of file"]),
        ] {
            let lists = [
                list(Source::File, file),
                list(Source::Api, api),
                list(Source::WatchedFile, watched),
                list(Source::Dns, dns),
            ];
            let merged = merge(lists.iter().flatten(), 100);
            let words: Vec<_> =
                merged.backends.iter().map(|it| format!("{}:{}", it.name, it.source.as_str())).collect();
            assert_eq!(words.join(" "), expected);
            assert!(merged.backends.iter().all(|it| it.weight.get() == 7), "settings come along");
            let said: Vec<_> = merged.left_out.iter().map(ToString::to_string).collect();
            assert_eq!((said.iter().map(String::as_str).collect::<Vec<_>>(), merged.beyond), (left_out, 0));
        }
    }

    #[test]
    fn those_of_the_file_do_not_count_against_the_bound() {
        let lists = [list(Source::File, "a=1 b=2 c=3"), list(Source::Api, "d=4"), list(Source::Dns, "a=9 e=5 f=6 g=7")];
        let merged = merge(lists.iter().flatten(), 2);
        let names: Vec<_> = merged.backends.iter().map(|it| &*it.name).collect();
        assert_eq!((names, merged.beyond), (vec!["a", "b", "c", "d", "e"], 2));
    }
}
