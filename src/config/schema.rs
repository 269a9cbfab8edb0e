//! The JSON Schema of the file, for editors.

use serde_json::Value;

use super::yaml;

/// The JSON Schema of the configuration file.
///
/// It knows keys, types, bounds and words; what several keys mean together only [`Config::parse`](super::Config::parse)
/// can check.
pub fn schema() -> Value {
    schemars::schema_for!(yaml::File).to_value()
}
