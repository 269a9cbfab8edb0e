//! A serde deserializer over one node, which reports instead of only failing.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, Expected, MapAccess, SeqAccess, Unexpected, Visitor};

use super::Report;
use crate::config::tree::{Entry, Mapping, Node, Path, Value};

/// Reads one node of the tree.
#[derive(Clone, Copy)]
pub(in crate::config) struct Reader<'a> {
    node: &'a Node,
    path: &'a Path<'a>,
    report: &'a Report<'a>,
}

/// Why a value could not be read.
#[derive(Debug)]
pub(in crate::config) enum Failure {
    /// Something else was expected. Not reported yet.
    Expected(String),
    /// What is wrong was reported.
    Reported,
}

impl<'a> Reader<'a> {
    /// Reads the whole file.
    pub(in crate::config) fn new(root: &'a Node, report: &'a Report<'a>) -> Self {
        Self { node: root, path: &Path::Root, report }
    }

    /// Reports a failure, unless a value inside did so.
    fn reported<T>(&self, result: Result<T, Failure>) -> Result<T, Failure> {
        result.map_err(|failure| {
            if let Failure::Expected(expected) = failure {
                self.report.expected(self.path, expected);
            }
            Failure::Reported
        })
    }

    fn visit_scalar<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Unsigned(value) => visitor.visit_u64(*value),
            Value::Negative(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(value) => visitor.visit_str(value),
            Value::List(_) => Err(de::Error::invalid_type(Unexpected::Seq, &visitor)),
            Value::Map(_) => Err(de::Error::invalid_type(Unexpected::Map, &visitor)),
        }
    }

    /// Pairs each entry with the field it is for. A key we do not know is reported; when it is close to one that is not
    /// there, its value is read as that one's, so that what is wrong inside is found as well.
    fn fields(&self, mapping: &'a Mapping, known: &'static [&'static str]) -> Vec<(&'a Entry, &'a str)> {
        let mut fields: Vec<(&Entry, &str)> = Vec::with_capacity(mapping.entries().len());
        let mut open: Vec<&str> = known.iter().copied().filter(|key| mapping.get(key).is_none()).collect();
        for entry in mapping.entries() {
            let key = entry.key.as_str();
            if known.contains(&key) {
                fields.push((entry, key));
                continue;
            }
            let wrong = |message| self.report.wrong_at(&self.path.key(key), entry.line, message);
            if let Some(near) = nearest(key, known) {
                wrong(format!("unknown key {key:?}, did you mean {near:?}?"));
                if let Some(place) = open.iter().position(|key| *key == near) {
                    fields.push((entry, open.swap_remove(place)));
                }
            } else {
                wrong(format!("unknown key {key:?}, expected one of {}", known.join(", ")));
            }
        }
        fields
    }
}

/// The known key that `key` was probably meant to be.
fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    /// Below it, two keys share hardly more than a letter.
    const CLOSE: f64 = 0.8;
    // Longer than any key, so it is none of them, and comparing takes time that grows with the length.
    if key.len() > 64 {
        return None;
    }
    let close =
        known.iter().map(|known| (strsim::jaro_winkler(key, known), *known)).filter(|(score, _)| *score > CLOSE);
    close.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, known)| known)
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Failure;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.reported(self.visit_scalar(visitor))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.reported(match &self.node.value {
            Value::Bool(value) => visitor.visit_bool(*value),
            _ => Err(Failure::Expected("true or false".to_owned())),
        })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Failure> {
        self.reported(match &self.node.value {
            Value::List(_) | Value::Map(_) => visitor.visit_newtype_struct(self),
            _ => self.visit_scalar(visitor),
        })
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.reported(match &self.node.value {
            Value::List(items) => visitor.visit_seq(Items { of: self, items: items.iter().enumerate() }),
            _ => Err(Failure::Expected("a list".to_owned())),
        })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.reported(match &self.node.value {
            Value::Map(mapping) => {
                let fields = mapping.entries().iter().map(|entry| (entry, entry.key.as_str())).collect();
                visitor.visit_map(Fields::new(self, fields))
            }
            _ => Err(Failure::Expected("a mapping".to_owned())),
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.reported(match &self.node.value {
            Value::Map(mapping) => visitor.visit_map(Fields::new(self, self.fields(mapping, known))),
            _ => Err(Failure::Expected("a mapping".to_owned())),
        })
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple
        tuple_struct enum identifier ignored_any
    }
}

struct Items<'a, I> {
    of: Reader<'a>,
    items: I,
}

impl<'a, 'de, I: Iterator<Item = (usize, &'a Node)>> SeqAccess<'de> for Items<'a, I> {
    type Error = Failure;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Failure> {
        let Some((index, node)) = self.items.next() else { return Ok(None) };
        let path = self.of.path.item(index);
        seed.deserialize(Reader { node, path: &path, report: self.of.report }).map(Some)
    }
}

struct Fields<'a> {
    of: Reader<'a>,
    /// Entries with the field they are for.
    fields: std::vec::IntoIter<(&'a Entry, &'a str)>,
    /// The entry whose key was read last.
    current: Option<&'a Entry>,
}

impl<'a> Fields<'a> {
    fn new(of: Reader<'a>, fields: Vec<(&'a Entry, &'a str)>) -> Self {
        Self { of, fields: fields.into_iter(), current: None }
    }
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Failure;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Failure> {
        let Some((entry, field)) = self.fields.next() else { return Ok(None) };
        self.current = Some(entry);
        seed.deserialize(StrDeserializer::new(field)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Failure> {
        let entry = self.current.take().expect("serde asks for a value only after its key");
        let path = self.of.path.key(&entry.key);
        seed.deserialize(Reader { node: &entry.node, path: &path, report: self.of.report })
    }
}

impl de::Error for Failure {
    fn custom<T: fmt::Display>(expected: T) -> Self {
        Self::Expected(expected.to_string())
    }

    fn invalid_type(_found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::Expected(expected.to_string())
    }

    fn invalid_value(_found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::Expected(expected.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expected(expected) => write!(f, "expected {expected}"),
            Self::Reported => f.write_str("reported"),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_named_and_a_far_one_is_not() {
        let known = ["address", "max_connections", "head_limit", "header_timeout", "keep_alive_timeout"];
        assert_eq!(nearest("adress", &known), Some("address"));
        assert_eq!(nearest("max_connection", &known), Some("max_connections"));
        assert_eq!(nearest("header_time", &known), Some("header_timeout"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(nearest("", &known), None);
        assert_eq!(nearest(&"address".repeat(100), &known), None);
    }
}
