//! A session app server by itself: logins kept in each of the ways that a pool's `sessions` names, and endpoints to try
//! a balancer with.
//!
//! `cargo run --example session_server -- --name app1 --port 9101` keeps them in its own memory; `--help` says how to
//! share them.

mod support;

use std::process::ExitCode;

use clap::Parser;
use support::session_process::{self, Arguments};

#[derive(Parser)]
#[command(about = "A small app server that keeps logins, by itself or with others")]
struct Command {
    #[command(flatten)]
    server: Arguments,
}

fn main() -> ExitCode {
    match session_process::run(&Command::parse().server) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("session_server: {error}");
            ExitCode::FAILURE
        }
    }
}
