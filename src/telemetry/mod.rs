//! Names of metrics, the words in them, events, and the access log.

pub mod words;

pub mod counters;

pub mod metrics;

pub mod events;

mod json;

mod access_line;

pub mod access_log;

use std::error::Error;
use std::fmt::Write as _;

/// An error with everything that led to it, as in `reading stickpin.yaml: no such file`.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // Writing to a `String` cannot fail.
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}
