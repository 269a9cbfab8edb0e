//! What all single values have in common.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::Schema;
use serde::de::{Deserializer, Error, Unexpected, Visitor};

/// A single value of the file.
pub(in crate::config) trait Scalar: Sized {
    /// What to write, as it follows "expected".
    fn expected() -> Cow<'static, str>;

    /// Its JSON Schema.
    fn schema() -> Schema {
        schemars::json_schema!({ "type": "string" })
    }

    /// # Errors
    /// What was expected; often more to the point than [`Scalar::expected`].
    fn from_text(_text: &str) -> Result<Self, Cow<'static, str>> {
        Err(Self::expected())
    }

    fn from_number(_number: u64) -> Option<Self> {
        None
    }

    /// Of a number with a point.
    fn from_float(_number: f64) -> Option<Self> {
        None
    }

    fn from_bool(_value: bool) -> Option<Self> {
        None
    }

    /// Reads it from whatever a serde format gives.
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reading(PhantomData))
    }
}

/// Implements serde's and schemars' traits by way of [`Scalar`].
macro_rules! scalar {
    ($type:ty $(where $($generics:tt)*)?) => {
        impl<'de, $($($generics)*)?> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <$type as $crate::config::units::Scalar>::read(deserializer)
            }
        }

        impl<$($($generics)*)?> schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                <$type as $crate::config::units::Scalar>::schema()
            }
        }
    };
}

pub(in crate::config) use scalar;

struct Reading<T>(PhantomData<T>);

impl<T: Scalar> Visitor<'_> for Reading<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&T::expected())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).map_err(|expected| E::invalid_value(Unexpected::Str(text), &expected.as_ref()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        T::from_number(number).ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        T::from_float(number).ok_or_else(|| E::invalid_value(Unexpected::Float(number), &self))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<T, E> {
        T::from_bool(value).ok_or_else(|| E::invalid_value(Unexpected::Bool(value), &self))
    }
}
