//! The shapes a value of the file can have: there or not, short or spelled out, named by the operator.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Unexpected, Visitor};

use crate::config::units::Scalar;

/// What a file says for one key.
///
/// Only a [`Reader`](super::Reader) may fill it: a failure is dropped here because the reader has reported it.
#[derive(Default)]
pub(in crate::config) enum Given<T> {
    /// The key is not there.
    #[default]
    Absent,
    /// The key is there, without a value.
    Empty,
    /// Something is there, and was reported.
    Wrong,
    /// A value.
    Is(T),
}

impl<T> Given<T> {
    /// The value, or `default`. For a wrong one the default lets the other checks go on.
    pub(in crate::config) fn or(self, default: T) -> T {
        self.option().unwrap_or(default)
    }

    pub(in crate::config) fn option(self) -> Option<T> {
        match self {
            Self::Is(value) => Some(value),
            Self::Absent | Self::Empty | Self::Wrong => None,
        }
    }

    pub(in crate::config) fn is_missing(&self) -> bool {
        matches!(self, Self::Absent | Self::Empty)
    }

    pub(in crate::config) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    pub(in crate::config) fn is_wrong(&self) -> bool {
        matches!(self, Self::Wrong)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Reading<T> {
            type Value = Given<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_none<E: Error>(self) -> Result<Given<T>, E> {
                Ok(Given::Empty)
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Given<T>, D::Error> {
                Ok(T::deserialize(deserializer).map_or(Given::Wrong, Given::Is))
            }
        }
        deserializer.deserialize_option(Reading(PhantomData))
    }
}

/// Either a single value, or a mapping or list that spells everything out.
pub(in crate::config) enum Short<S, F> {
    /// A single value.
    Short(S),
    /// A mapping or list.
    Full(F),
}

/// What a [`Short`] can be spelled out as.
pub(in crate::config) trait Full {
    const KIND: &'static str = "a mapping";
}

impl<T> Full for Vec<T> {
    const KIND: &'static str = "a list";
}

impl<'de, S: Scalar, F: Deserialize<'de> + Full> Deserialize<'de> for Short<S, F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The reader calls back with a newtype for a mapping or list, and with the value itself otherwise.
        deserializer.deserialize_newtype_struct("Short", ReadShort(PhantomData))
    }
}

struct ReadShort<S, F>(PhantomData<(S, F)>);

impl<'de, S: Scalar, F: Deserialize<'de> + Full> Visitor<'de> for ReadShort<S, F> {
    type Value = Short<S, F>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, or {}", S::expected(), F::KIND)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        F::deserialize(deserializer).map(Short::Full)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        let unexpected = Unexpected::Str(text);
        S::from_text(text).map(Short::Short).map_err(|expected| {
            // What is more to the point needs no alternative.
            if expected == S::expected() {
                E::invalid_value(unexpected, &self)
            } else {
                E::invalid_value(unexpected, &expected.as_ref())
            }
        })
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        S::from_bool(value).map(Short::Short).ok_or_else(|| E::invalid_value(Unexpected::Bool(value), &self))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
        S::from_float(number).map(Short::Short).ok_or_else(|| E::invalid_value(Unexpected::Float(number), &self))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        S::from_number(number).map(Short::Short).ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
    }
}

/// A mapping whose keys are the operator's, in file order.
pub(in crate::config) struct Entries<T>(pub(in crate::config) Vec<(String, Given<T>)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Reading<T> {
            type Value = Entries<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Entries<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = access.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Reading(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Given<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        // A key without a value counts as left out.
        generator.subschema_for::<Option<T>>()
    }
}

impl<S: JsonSchema, F: JsonSchema> JsonSchema for Short<S, F> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{}Or{}", S::schema_name(), F::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "anyOf": [generator.subschema_for::<S>(), generator.subschema_for::<F>()] })
    }
}

impl<T: JsonSchema> JsonSchema for Entries<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("EntriesOf{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": "object", "additionalProperties": generator.subschema_for::<T>() })
    }
}
