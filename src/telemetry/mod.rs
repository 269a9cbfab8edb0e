//! Names of metrics, the words in them, and the access log.

pub mod words;

pub mod counters;

pub mod metrics;

mod json;

mod access_line;

pub mod access_log;
