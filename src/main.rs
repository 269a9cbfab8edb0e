//! The `stickpin` program: arguments, log, signals, exit codes.

use std::error::Error;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use stickpin::app::{App, Running};
use stickpin::config;
use stickpin::control::{certificates, reload};
use stickpin::ctl;
use stickpin::privileges::Account;
use stickpin::telemetry::with_causes;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The system's allocator takes a tenth more processor time a request.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often it is looked whether the workers have ended.
const POLL: Duration = Duration::from_millis(20);

/// A sticky-session layer-7 load balancer that knows where the session lives.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Balance until told to stop: SIGHUP reloads, SIGTERM and SIGINT drain and stop, a second one stops at once.
    Run {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Tell everything that is wrong with a configuration file, with path and line.
    Check {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Print the JSON Schema of the configuration file, for editors.
    Schema,
    /// Look and order: the admin API from a shell.
    Ctl(ctl::Arguments),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run { config } => finish(run(&config)),
        Command::Check { config } => finish(check(&config)),
        Command::Schema => finish(schema()),
        Command::Ctl(arguments) => finish(ctl::run(&arguments, &mut std::io::stdout().lock()).map_err(Into::into)),
    }
}

fn finish(result: Result<(), Box<dyn Error>>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(file: &Path) -> Result<(), Box<dyn Error>> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOGGED));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let config = reload::read(file)?;
    let stop_deadline = config.stop_deadline;
    let user = config.user.clone();
    let app = App::bind(config, base(file))?.reload_from(file.to_owned());
    if let Some(user) = user {
        // As the user that it is by now.
        let unreadable = |error| format!("user: {user} cannot read {}, and so not reload: {error}", file.display());
        std::fs::File::open(file).map_err(unreadable)?;
    }
    for address in app.listeners() {
        tracing::info!(%address, "accepting clients");
    }
    if let Some(address) = app.admin() {
        tracing::info!(%address, "admin endpoint");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before anything runs, so that no signal finds its default action.
        let mut signals = Signals::new()?;
        let running = app.start()?;
        signals.obey(&running, stop_deadline).await;
        Ok(())
    })
}

/// What is logged when `RUST_LOG` does not say. The resolver would repeat with each lookup what we tell once, and h2 would
/// warn of every client that it ends.
const LOGGED: &str = "info,h2=off,hickory_net=off,hickory_proto=off,hickory_resolver=off";

/// The signals that the program obeys.
struct Signals {
    reload: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            reload: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Returns when the program should end: drained, or told twice.
    async fn obey(&mut self, running: &Running, stop_deadline: Duration) {
        let mut is_stopping = false;
        loop {
            tokio::select! {
                _ = self.reload.recv() => {
                    // The control plane says how it went.
                    let _ = running.reload().await;
                    continue;
                }
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
                () = tokio::time::sleep(POLL), if is_stopping => {
                    if running.has_ended() {
                        tracing::info!("stopped");
                        return;
                    }
                    continue;
                }
            }
            if is_stopping {
                tracing::warn!("told to stop again: stopping at once");
                return;
            }
            is_stopping = true;
            tracing::info!(deadline = ?stop_deadline, "stopping: finishing what is under way");
            running.drain(stop_deadline);
        }
    }
}

fn check(file: &Path) -> Result<(), Box<dyn Error>> {
    let config = reload::read(file)?;
    let mut missing = reload::unusable_files(&config, base(file));
    let (unusable, remarks) = certificates::check(&config, base(file));
    missing.extend(unusable);
    for remark in remarks {
        eprintln!("{}: warning: {remark}", file.display());
    }
    missing.extend(config.user.as_ref().and_then(|user| Account::find(user).err()).map(|error| error.to_string()));
    if !missing.is_empty() {
        let problems: Vec<_> = missing.iter().map(|problem| format!("{}: {problem}", file.display())).collect();
        return Err(problems.join("\n").into());
    }
    let backends: usize = config.pools.iter().map(|pool| pool.backends.len()).sum();
    let (pools, routes) = (config.pools.len(), config.routes.len());
    println!("{}: ok: {pools} pools, {backends} backends, {routes} routes", file.display());
    Ok(())
}

fn schema() -> Result<(), Box<dyn Error>> {
    println!("{}", serde_json::to_string_pretty(&config::schema())?);
    Ok(())
}

/// Relative paths in the file are relative to its folder.
fn base(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    }
}
