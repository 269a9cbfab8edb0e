//! YAML text -> tree.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess as _, Visitor};

use super::depth::too_deep;
use super::{Entry, Mapping, Node, Path, Value};
use crate::config::Problem;

/// Longest file in bytes. 10,000 backends with all their settings need a quarter of it.
const LONGEST_FILE: usize = 4 << 20;

/// Most values in a file, with every alias written out.
const MOST_VALUES: usize = 1_000_000;

/// Longest key in bytes. The parser writes the path of each scalar into an error, so its time grows with them.
const LONGEST_KEY: usize = 256;

/// Reads the tree, with problems that left it whole (a key that stands twice).
///
/// # Errors
/// The one problem that made reading on impossible.
pub(in crate::config) fn load(text: &str) -> Result<(Node, Vec<Problem>), Problem> {
    let whole_file = |line, message: String| Problem { path: String::new(), line, message };
    if text.len() > LONGEST_FILE {
        let message = format!("expected at most {} MiB, found {} bytes", LONGEST_FILE >> 20, text.len());
        return Err(whole_file(None, message));
    }
    if let Some(line) = too_deep(text) {
        return Err(whole_file(Some(line), "expected brackets that close, found too many open ones".to_owned()));
    }
    let loader = Loader { values: Cell::new(0), problems: RefCell::default(), refusal: RefCell::default() };
    match loader.seed(&Path::Root).deserialize(serde_yaml::Deserializer::from_str(text)) {
        Ok(node) => Ok((node, loader.problems.into_inner())),
        Err(error) => Err(loader.refusal.into_inner().unwrap_or_else(|| {
            let line = error.location().map(|location| location.line());
            whole_file(line, format!("expected valid YAML, found: {error}"))
        })),
    }
}

const TOO_MANY: &str = "expected at most a million values, found more (aliases count each time they are used)";

struct Loader {
    /// How many were read.
    values: Cell<usize>,
    problems: RefCell<Vec<Problem>>,
    /// Why reading was stopped here, rather than by the parser.
    refusal: RefCell<Option<Problem>>,
}

impl Loader {
    fn seed<'a>(&'a self, path: &'a Path<'a>) -> Seed<'a> {
        Seed { loader: self, path }
    }

    /// Stops reading.
    fn refuse<E: serde::de::Error>(&self, path: &Path<'_>, line: Option<usize>, message: &str) -> E {
        let problem = Problem { path: path.to_string(), line, message: message.to_owned() };
        self.refusal.replace(Some(problem));
        E::custom(message)
    }

    fn wrong(&self, path: &Path<'_>, line: Option<usize>, message: String) {
        self.problems.borrow_mut().push(Problem { path: path.to_string(), line, message });
    }
}

/// Reads one value.
///
/// serde tells nobody the line of a value, except in the text of an error. So a scalar is put aside and then refused: the
/// error that comes back carries its line. By then its event is consumed, so reading goes on behind it.
#[derive(Clone, Copy)]
struct Seed<'a> {
    loader: &'a Loader,
    path: &'a Path<'a>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        let values = self.loader.values.get() + 1;
        self.loader.values.set(values);
        if values > MOST_VALUES {
            return Err(self.loader.refuse(self.path, None, TOO_MANY));
        }
        let mut scalar = None;
        deserializer.deserialize_any(Reading { seed: self, scalar: &mut scalar }).or_else(|error| match scalar {
            Some(value) => Ok(Node { line: Some(line_of(&error.to_string())), value }),
            None => Err(error),
        })
    }
}

/// The line at the end of an error's text. The parser leaves it out at the very beginning of the file.
fn line_of(error: &str) -> usize {
    let position = error.rsplit_once(" at line ").map_or("", |(_, position)| position);
    position.split(' ').next().and_then(|line| line.parse().ok()).unwrap_or(1)
}

struct Reading<'a, 'slot> {
    seed: Seed<'a>,
    /// Where a scalar is put aside.
    scalar: &'slot mut Option<Value>,
}

impl Reading<'_, '_> {
    fn put_aside<E: serde::de::Error>(self, value: Value) -> Result<Node, E> {
        *self.scalar = Some(value);
        Err(E::custom(""))
    }
}

impl<'de> Visitor<'de> for Reading<'_, '_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Node, E> {
        self.put_aside(Value::Null)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Node, E> {
        // An empty file; there is nothing to read on behind.
        Ok(Node { line: None, value: Value::Null })
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Node, E> {
        self.put_aside(Value::Bool(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Node, E> {
        self.put_aside(Value::Unsigned(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Node, E> {
        self.put_aside(Value::Negative(value))
    }

    // No setting is this large, so the lost digits only matter to a message.
    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<Node, E> {
        self.put_aside(Value::Float(value as f64))
    }

    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<Node, E> {
        self.put_aside(Value::Float(value as f64))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Node, E> {
        self.put_aside(Value::Float(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Node, E> {
        self.put_aside(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let Seed { loader, path } = self.seed;
        let mut items: Vec<Node> = Vec::new();
        while let Some(node) = access.next_element_seed(loader.seed(&path.item(items.len())))? {
            items.push(node);
        }
        Ok(Node { line: items.first().and_then(|node| node.line), value: Value::List(items) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let Seed { loader, path } = self.seed;
        let mut mapping = Mapping::default();
        let mut first_line = None;
        while let Some(Node { line, value }) = access.next_key_seed(self.seed)? {
            first_line = first_line.or(line);
            let Value::Text(key) = value else {
                let found = Node { line, value }.describe();
                loader.wrong(path, line, format!("expected a key that is text, found {found}; write it in quotes"));
                access.next_value_seed(self.seed)?;
                continue;
            };
            if key.len() > LONGEST_KEY {
                return Err(loader.refuse(path, line, "expected keys of at most 256 bytes, found a longer one"));
            }
            let at = path.key(&key);
            let node = access.next_value_seed(loader.seed(&at))?;
            if !mapping.insert(Entry { key: key.clone(), line, node }) {
                loader.wrong(&at, line, format!("expected each key once, found {key:?} again"));
            }
        }
        Ok(Node { line: first_line, value: Value::Map(mapping) })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<Node, A::Error> {
        let Seed { loader, path } = self.seed;
        let (tag, content) = access.variant::<String>()?;
        let node = content.newtype_variant_seed(self.seed)?;
        loader.wrong(path, node.line, format!("expected a value without a tag, found the tag !{tag}"));
        Ok(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(root: &Node, path: &Path<'_>) -> Option<usize> {
        root.find(path).1
    }

    #[test]
    fn every_value_knows_its_line() {
        let text = "a: 1\nb:\n  - x\n  -\n    c: &anchor 3\n    d: {e: f,\n      g: h}\ni:\n  j: *anchor\nk: []\nl:\n";
        let (root, problems) = load(text).unwrap();
        assert!(problems.is_empty());
        let top = Path::Root;
        let (b, d) = (top.key("b"), "d");
        let second = b.item(1);
        let flow = second.key(d);
        for (path, expected) in [
            (top.key("a"), 1),
            (top.key("b"), 2),
            (b.item(0), 3),
            (second, 5),
            (second.key("c"), 5),
            (flow.key("e"), 6),
            (flow.key("g"), 7),
            (top.key("i"), 8),
            (top.key("k"), 10),
            (top.key("l"), 11),
        ] {
            assert_eq!(line(&root, &path), Some(expected), "{path}");
        }
        assert_eq!(line(&root, &flow.key("missing")), Some(6), "a missing key is looked for at its mapping");
        assert_eq!(line(&root, &top.key("missing")), None);
    }

    #[test]
    fn a_key_that_stands_twice_is_reported_and_reading_goes_on() {
        let (root, problems) = load("a: 1\nb: 2\na: 3\nc: !tag 4\n5: x\n").unwrap();
        let said: Vec<_> = problems.iter().map(|problem| (problem.line.unwrap(), problem.to_string())).collect();
        assert_eq!(
            said,
            [
                (3, "a: expected each key once, found \"a\" again".to_owned()),
                (4, "c: expected a value without a tag, found the tag !tag".to_owned()),
                (5, "expected a key that is text, found 5; write it in quotes".to_owned()),
            ]
        );
        assert!(matches!(root.find(&Path::Root.key("a")).0.unwrap().value, Value::Unsigned(1)));
    }

    #[test]
    fn a_file_that_grows_by_aliases_is_refused() {
        let mut text = "a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for (before, name) in
            ["a", "b", "c", "d", "e", "f", "g", "h"].into_iter().zip(["b", "c", "d", "e", "f", "g", "h", "i"])
        {
            let aliases = vec![format!("*{before}"); 10].join(",");
            text.push_str(&format!("{name}: &{name} [{aliases}]\n"));
        }
        assert!(load(&text).is_err());
        let wide = format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(100_000), "*a,".repeat(100_000));
        assert_eq!(load(&wide).err().unwrap().message, TOO_MANY);
    }

    #[test]
    fn a_file_that_nests_too_deep_or_has_something_too_long_is_refused() {
        for level in ["[", "{a: ", "- ", "? "] {
            assert!(load(&level.repeat(20_000)).is_err(), "{level}");
        }
        let long_key = format!("a: {{ ? {} : 1 }}", "k".repeat(LONGEST_KEY + 1));
        assert_eq!(
            load(&long_key).err().unwrap().to_string(),
            "a: expected keys of at most 256 bytes, found a longer one"
        );
        let long = "#".repeat(LONGEST_FILE + 1);
        assert!(load(&long).err().unwrap().message.starts_with("expected at most 4 MiB, found 4194305 bytes"));
    }

    #[test]
    fn a_file_that_is_not_yaml_is_one_problem_with_its_line() {
        let problem = load("a: 1\nb: [1, 2\nc: 3\n").err().unwrap();
        assert!(problem.message.starts_with("expected valid YAML, found: "), "{problem}");
        assert!(problem.line.is_some());
        assert_eq!(load("a: 1\n---\nb: 2\n").err().unwrap().line, None);
    }
}
