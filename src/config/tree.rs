//! The file as YAML sees it: a tree of values that know their line.
//!
//! Nothing here knows a key of ours. The tree is bounded: a small file that grows by aliases ("YAML bomb") is refused
//! while it grows.

mod depth;

mod load;

mod path;

use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};

pub(super) use load::load;
pub(super) use path::Path;

/// A value and where it stands.
pub(super) struct Node {
    /// Counted from 1. For a list or mapping the line of its first child; `None` when it is empty.
    pub(super) line: Option<usize>,
    pub(super) value: Value,
}

/// What YAML can say.
pub(super) enum Value {
    Null,
    Bool(bool),
    Unsigned(u64),
    Negative(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Mapping),
}

/// Keys and values in file order; no key stands twice.
#[derive(Default)]
pub(super) struct Mapping {
    entries: Vec<Entry>,
    /// Key -> place in `entries`, so that a file with very many keys is not searched from the start for each problem.
    places: HashMap<String, usize>,
}

impl Mapping {
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.places.get(key).and_then(|place| self.entries.get(*place))
    }

    /// Adds an entry; `false` when the key is there already, which stays as it was.
    fn insert(&mut self, entry: Entry) -> bool {
        match self.places.entry(entry.key.clone()) {
            Occupied(_) => false,
            Vacant(place) => {
                place.insert(self.entries.len());
                self.entries.push(entry);
                true
            }
        }
    }
}

/// A key of a mapping and its value.
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: Option<usize>,
    pub(super) node: Node,
}

impl Node {
    /// The value in the words of a message: `found …`.
    pub(super) fn describe(&self) -> String {
        const LONGEST: usize = 60;
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Unsigned(value) => value.to_string(),
            Value::Negative(value) => value.to_string(),
            Value::Float(value) => value.to_string(),
            Value::Text(text) if text.chars().count() > LONGEST => {
                format!("{:?}…", text.chars().take(LONGEST).collect::<String>())
            }
            Value::Text(text) => format!("{text:?}"),
            Value::List(items) if items.is_empty() => "an empty list".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Map(mapping) if mapping.entries.is_empty() => "an empty mapping".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }

    /// The value at `path`, if it is there, and the best line to send a reader to.
    pub(super) fn find(&self, path: &Path<'_>) -> (Option<&Self>, Option<usize>) {
        match path {
            // A key that is missing at the top is missing everywhere.
            Path::Root => (Some(self), if self.is_container() { None } else { self.line }),
            Path::Key(parent, key) => {
                let (parent, line) = self.find(parent);
                match parent.and_then(|node| node.entry(key)) {
                    // A long value begins lines below its key; a short one may stand there too.
                    Some(entry) if entry.node.is_container() => (Some(&entry.node), entry.line.or(line)),
                    Some(entry) => (Some(&entry.node), entry.node.line.or(entry.line).or(line)),
                    None => (None, line),
                }
            }
            Path::Item(parent, index) => {
                let (parent, line) = self.find(parent);
                match parent.and_then(|node| node.item(*index)) {
                    Some(node) => (Some(node), node.line.or(line)),
                    None => (None, line),
                }
            }
        }
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(mapping) => mapping.get(key),
            _ => None,
        }
    }

    fn item(&self, index: usize) -> Option<&Self> {
        match &self.value {
            Value::List(items) => items.get(index),
            _ => None,
        }
    }

    fn is_container(&self) -> bool {
        matches!(self.value, Value::List(_) | Value::Map(_))
    }
}
