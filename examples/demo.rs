//! Three app servers that keep logins in their own memory, and Stickpin in front of them.
//!
//! `cargo run --release --example demo` runs until Ctrl-C and says what to try.
//! `cargo run --release --example demo -- --story` plays the problem and its answer by itself, and ends: with 0 when
//! every step held.

mod support;

#[path = "demo/settings.rs"]
mod settings;

#[path = "demo/site.rs"]
mod site;

#[path = "demo/story.rs"]
mod story;

#[path = "demo/terminal.rs"]
mod terminal;

use std::io::{self, IsTerminal};
use std::iter;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use settings::{Affinity, Settings};
use site::Stickpin;
use support::session_process::{self, Arguments, SessionProcess};
use terminal::Terminal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::interval;
use tracing_subscriber::EnvFilter;

/// What went wrong; only ever shown.
type Failure = Box<dyn std::error::Error>;

#[derive(Parser)]
#[command(name = "demo", about = "Three app servers that keep logins in their own memory, and Stickpin in front")]
struct Options {
    /// Port of the front door on 127.0.0.1.
    #[arg(long, default_value_t = 8080)]
    port: u16,

    /// Port of the admin endpoint on 127.0.0.1.
    #[arg(long, default_value_t = 9900)]
    admin_port: u16,

    /// Plays the problem and its answer by itself, on ports of the system's choice.
    #[arg(long)]
    story: bool,

    /// Prints the configuration that is used.
    #[arg(long)]
    show_config: bool,

    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// One of the app servers.
    #[command(name = site::SESSION_SERVER, hide = true)]
    SessionServer(Arguments),
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("demo: {}", with_causes(&*failure));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    if let Some(Part::SessionServer(arguments)) = &options.part {
        return Ok(session_process::run(arguments)?);
    }
    // The story tells itself what changes; the demo leaves that to the log. Neither needs its cookie key to outlive it,
    // which is what `reload` would warn of.
    log_to_stderr(if options.story { "error" } else { "warn,stickpin=info,stickpin::control::reload=error" });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if options.story {
        runtime.block_on(story::play(Terminal::default(), options.show_config))
    } else {
        runtime.block_on(stay(options))
    }
}

fn log_to_stderr(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    log.with_ansi(io::stderr().is_terminal()).compact().without_time().with_target(false).init();
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Runs until Ctrl-C.
async fn stay(options: &Options) -> Result<(), Failure> {
    let front = free(options.port, "--port")?;
    let admin = free(options.admin_port, "--admin-port")?;
    if options.port == options.admin_port && options.port != 0 {
        return Err(format!("--port and --admin-port are both {}", options.port).into());
    }
    let (mut interrupted, mut terminated) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut backends = site::start_backends()?;
    let yaml = Settings { front, admin, affinity: Affinity::Cookie, workers: None }.yaml(&backends);
    if options.show_config {
        println!("{yaml}");
    }
    let stickpin = Stickpin::start(&yaml)?;
    print!("{}", guide(&stickpin, &backends));

    tokio::select! {
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
        () = tell_of_dead(&mut backends) => {}
    }
    println!("\nstopping");
    // First the front door: stopped behind its back, the app servers would be reported as failed.
    stickpin.stop();
    Ok(())
}

/// The address, if nobody listens there. Workers that share a port would join another Stickpin's without an error.
fn free(port: u16, option: &str) -> Result<SocketAddr, Failure> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match TcpListener::bind(address) {
        Ok(_) => Ok(address),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(format!("port {port} on 127.0.0.1 is taken; {option} chooses another").into())
        }
        Err(error) => Err(format!("port {port} on 127.0.0.1: {error}; {option} chooses another").into()),
    }
}

/// Says once of each app server that it is gone, and how to bring it back. Never ends.
async fn tell_of_dead(backends: &mut [SessionProcess]) {
    let mut tick = interval(Duration::from_millis(200));
    loop {
        tick.tick().await;
        for backend in &mut *backends {
            let Some(pid) = backend.pid().filter(|_| backend.has_exited()) else { continue };
            // Forgets the process, so that this is said once.
            backend.kill();
            let (name, port) = (backend.name(), backend.address().port());
            println!(
                "{name} (pid {pid}) is gone, and the logins in its memory. To bring it back, from another terminal:\n  \
                 cargo run --release --example demo -- {} --name {name} --port {port}",
                site::SESSION_SERVER
            );
        }
    }
}

fn guide(stickpin: &Stickpin, backends: &[SessionProcess]) -> String {
    let Stickpin { front, admin, .. } = stickpin;
    let servers: String = backends
        .iter()
        .map(|backend| {
            format!("  {}  {}  pid {}\n", backend.name(), backend.address(), backend.pid().unwrap_or_default())
        })
        .collect();
    let first = backends[0].pid().unwrap_or_default();
    let (second, state) = (backends[1].name(), site::state_path(backends[1].name()));
    format!(
        "Three app servers keep logins in their own memory:
{servers}Stickpin is in front of them, and keeps each client at the server that knows it.

In a browser:  open http://{front}/ and log in.
In a terminal:
  log in         curl -c jar -b jar -X POST 'http://{front}/login?user=ann'
  who am I       curl -c jar -b jar http://{front}/whoami
  kill one       kill -9 {first}          ({}; then ask again: its clients are told, the others notice nothing)
  drain one      curl -X PUT http://{admin}{state} \\
                   -H 'Content-Type: application/json' -d '{{\"state\":\"draining\",\"deadline\":\"10m\"}}'
                                        ({second} keeps its clients and gets no new ones; \"enabled\" undoes it)
  watch          curl http://{admin}/api/v1/pools
                 curl -s http://{admin}/metrics | grep -E 'placements|rehomes'

Ctrl-C stops everything.
",
        backends[0].name()
    )
}
