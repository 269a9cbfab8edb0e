//! The four ways to keep a session, side by side: the same hour of a shop, played in a minute, and what it came to.
//!
//! `cargo run --release --example strategies` needs nothing but itself: app servers and a store that stands in for Redis
//! are processes of its own, Stickpin is the library. It prints a table for a README, every figure of which was counted in
//! this run, and ends with 0 when nothing contradicted what the docs promise.

mod support;

#[path = "strategies/plan.rs"]
mod plan;

#[path = "strategies/clock.rs"]
mod clock;

#[path = "strategies/strategy.rs"]
mod strategy;

#[path = "strategies/site.rs"]
mod site;

#[path = "strategies/store.rs"]
mod store;

#[path = "strategies/customer.rs"]
mod customer;

#[path = "strategies/hour.rs"]
mod hour;

#[path = "strategies/figures.rs"]
mod figures;

#[path = "strategies/table.rs"]
mod table;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::{Parser, Subcommand};
use clock::Scale;
use figures::Figures;
use hour::Hour;
use plan::Customer;
use site::Site;
use strategy::Strategy;
use support::session_process::{self, Arguments};
use tokio::runtime::{self, Runtime};
use tracing_subscriber::EnvFilter;

/// What went wrong; only ever shown.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Regular customers at the beginning, and what a minute of the shop takes.
const WHOLE: (usize, Duration) = (110, Duration::from_secs(1));
const BRIEF: (usize, Duration) = (60, Duration::from_millis(350));

#[derive(Parser)]
#[command(name = "strategies", about = "Plays the same hour of a shop under each way to keep a session")]
struct Options {
    /// In less than half the time, with half the customers: to see that it works, not for its figures.
    #[arg(long)]
    brief: bool,

    /// Prints the configurations that are used.
    #[arg(long)]
    show_config: bool,

    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// One of the app servers.
    #[command(name = site::SESSION_SERVER, hide = true)]
    SessionServer(Box<Arguments>),

    /// The store.
    #[command(name = site::STORE, hide = true)]
    Store(store::Arguments),
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("strategies: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<ExitCode, Failure> {
    match &options.part {
        Some(Part::SessionServer(arguments)) => {
            session_process::run(arguments)?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Part::Store(arguments)) => {
            store::run(arguments)?;
            Ok(ExitCode::SUCCESS)
        }
        None => compare(options),
    }
}

fn compare(options: &Options) -> Result<ExitCode, Failure> {
    // Deaths are what this is about: Stickpin's warnings of them would be in the way.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    let (regulars, minute) = if options.brief { BRIEF } else { WHOLE };
    let (scale, customers) = (Scale { minute }, Arc::new(plan::customers(regulars)));
    println!(
        "The same hour of a shop with three, later four servers and {} customers, under each way to keep a session, side \
         by side.\nA minute of the shop takes {minute:?}. A small process stands in for Redis.\n",
        customers.len()
    );
    let mut shops = Vec::new();
    for strategy in Strategy::ALL {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (site, yaml) = runtime.block_on(Site::start(strategy, scale))?;
        if options.show_config {
            println!("# sessions: {}\n{yaml}", strategy.word());
        }
        shops.push((runtime, site));
    }
    let hours: Vec<_> = shops
        .into_iter()
        .map(|(runtime, site)| {
            let customers = Arc::clone(&customers);
            thread::spawn(move || play(&runtime, site, &customers, scale))
        })
        .collect();
    let mut columns = Vec::new();
    for hour in hours {
        let hour = hour.join().map_err(|_| "a shop ended in a panic")??;
        columns.push(Figures::of(&hour));
    }
    println!("\n{}", table::table(&columns));
    let contradictions: Vec<&String> = columns.iter().flat_map(|column| &column.contradictions).collect();
    if contradictions.is_empty() {
        println!("Nothing contradicted what the docs promise.");
        return Ok(ExitCode::SUCCESS);
    }
    println!("Not as the docs promise:");
    contradictions.iter().for_each(|text| println!("  {text}"));
    Ok(ExitCode::FAILURE)
}

/// The same happens in all shops; the one with a store has most to tell.
fn play(runtime: &Runtime, site: Site, customers: &[Customer], scale: Scale) -> Result<Hour, Failure> {
    let narrates = site.strategy == Strategy::External;
    let tell = |minute: f64, what: &str| {
        if narrates {
            println!("  minute {minute:4.0}: {what}");
        }
    };
    runtime.block_on(hour::play(site, customers, scale, tell))
}
