//! Behaviour of the whole program.

#[path = "../support/mod.rs"]
mod support;

mod demo;

mod process;

mod session_app;
