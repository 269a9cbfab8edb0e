//! `stickpin ctl`: the admin API from a shell.
//!
//! A command is one request, but for `drain --wait`, which asks again and again, and `events`, which listens. What the API
//! answers is shown as a table or a line in `text`, or as it came with `--json`. Every wait is bounded.

mod client;

mod text;

mod watch;

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::config;
use crate::config::Pace;
use crate::control::admin::read_token;
use client::Client;

/// Which endpoint, and what to do.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The admin endpoint.
    #[arg(long, global = true, value_name = "ADDRESS", env = "STICKPIN_ADMIN", default_value = "127.0.0.1:9900")]
    admin: String,
    /// The file with the endpoint's token.
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print what the API answers, as it is.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show every pool with its backends.
    Pools,
    /// Show one pool with its backends.
    Pool {
        /// Its name.
        pool: String,
    },
    /// Show one backend.
    Backend(Target),
    /// Let everybody come to a backend.
    Enable(Target),
    /// Let only pinned clients come to a backend, until they are gone.
    Drain {
        #[command(flatten)]
        target: Target,
        /// Whoever is left by then has to go, as in `10m`; without it clients stay until they are idle, unless their
        /// sessions let them move.
        #[arg(long, value_name = "TIME", value_parser = config::duration)]
        deadline: Option<Duration>,
        /// The share of its clients that moves in a time, as in `5%/s`.
        #[arg(long, value_name = "PACE")]
        pace: Option<Pace>,
        /// Follow it until nobody is left, at most until everybody had to go; fails when somebody still is.
        #[arg(long)]
        wait: bool,
    },
    /// Let nobody come to a backend.
    Disable(Target),
    /// Order a weight, or take the order back.
    Weight {
        #[command(flatten)]
        target: Target,
        /// A number; `file` for what the file says.
        #[arg(value_name = "WEIGHT|file", value_parser = weight)]
        weight: Weight,
    },
    /// Add a backend to a pool.
    Add {
        /// The pool's name.
        pool: String,
        /// IP address and port.
        address: String,
        /// What else the file could say of it, as in `name=app4 weight=50`.
        #[arg(value_name = "KEY=VALUE", value_parser = setting)]
        settings: Vec<(String, Value)>,
    },
    /// Remove a backend that was added.
    Remove(Target),
    /// Read the configuration file again.
    Reload,
    /// Tell what a pin says, and where a request with it would go.
    Explain {
        /// The pool that the request is for.
        pool: String,
        #[command(flatten)]
        pinned_by: PinnedBy,
    },
    /// Show what happens, as it happens.
    Events,
}

/// One backend.
#[derive(Clone, Debug, Args)]
struct Target {
    /// The pool's name.
    pool: String,
    /// The backend's name.
    backend: String,
}

impl Target {
    fn path(&self) -> String {
        format!("{}/backends/{}", pool_path(&self.pool), client::segment(&self.backend))
    }
}

/// What a request carries.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct PinnedBy {
    /// The value of Stickpin's cookie.
    #[arg(long, value_name = "TOKEN")]
    cookie: Option<String>,
    /// The app's own session id.
    #[arg(long, value_name = "ID")]
    session_id: Option<String>,
    /// What is hashed.
    #[arg(long, value_name = "TEXT")]
    key: Option<String>,
}

#[derive(Clone, Copy, Debug)]
enum Weight {
    File,
    Ordered(u32),
}

fn weight(text: &str) -> Result<Weight, String> {
    let ordered = || text.parse().ok().filter(|weight| config::Weight::new(*weight).is_some()).map(Weight::Ordered);
    let expected = || format!("expected 0 to {} or `file`", config::Weight::MAX);
    if text == "file" { Ok(Weight::File) } else { ordered().ok_or_else(expected) }
}

/// A number is one, and anything else is text.
fn setting(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| "expected KEY=VALUE".to_owned())?;
    let value = value.parse::<u64>().map_or_else(|_| value.into(), Value::from);
    Ok((key.to_owned(), value))
}

fn pool_path(pool: &str) -> String {
    format!("/api/v1/pools/{}", client::segment(pool))
}

/// Why a command could not be obeyed.
#[derive(Debug)]
pub enum CtlError {
    /// Something on this side could not be had, as in `reading admin.token`.
    Failed {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: Box<dyn Error + Send + Sync>,
    },
    /// No answer within this time.
    Timeout {
        /// What was tried.
        what: String,
        /// How long.
        after: Duration,
    },
    /// The API says no, in these words.
    Refused(String),
    /// A drain that was waited for did not end.
    NotDrained(String),
}

impl CtlError {
    /// For `map_err`: what was tried.
    fn failed<E: Into<Box<dyn Error + Send + Sync>>>(what: impl FnOnce() -> String) -> impl FnOnce(E) -> Self {
        |source| Self::Failed { what: what(), source: source.into() }
    }
}

impl fmt::Display for CtlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { what, .. } => f.write_str(what),
            Self::Timeout { what, after } => write!(f, "{what}: no answer within {after:?}"),
            Self::Refused(text) | Self::NotDrained(text) => f.write_str(text),
        }
    }
}

impl Error for CtlError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed { source, .. } => Some(&**source),
            Self::Timeout { .. } | Self::Refused(_) | Self::NotDrained(_) => None,
        }
    }
}

/// Obeys, writing to `out`. When nobody reads that any more, it ends as if it were done.
///
/// # Errors
/// When there is no answer, or the answer is no.
pub fn run(arguments: &Arguments, out: &mut impl Write) -> Result<(), CtlError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CtlError::failed(|| "starting".to_owned()))?;
    let mut out = Output { out, json: arguments.json };
    match runtime.block_on(obey(arguments, &mut out)) {
        Err(CtlError::Failed { source, .. }) if is_broken_pipe(&*source) => Ok(()),
        result => result,
    }
}

fn is_broken_pipe(error: &(dyn Error + Send + Sync + 'static)) -> bool {
    error.downcast_ref::<OutputError>().is_some_and(|error| error.0.kind() == io::ErrorKind::BrokenPipe)
}

async fn obey<W: Write>(arguments: &Arguments, out: &mut Output<'_, W>) -> Result<(), CtlError> {
    let token = match &arguments.token_file {
        Some(file) => Some(read_token(file).map_err(CtlError::failed(|| format!("reading {}", file.display())))?),
        None => None,
    };
    let client = Client::new(&arguments.admin, token, arguments.json);
    match &arguments.command {
        Command::Pools => out.show(&client.get("/api/v1/pools").await?, text::pools),
        Command::Pool { pool } => out.show(&client.get(&pool_path(pool)).await?, text::pool),
        Command::Backend(target) => out.show(&client.get(&target.path()).await?, text::backend),
        Command::Enable(target) => order(&client, target, &json!({ "state": "enabled" }), out).await,
        Command::Disable(target) => order(&client, target, &json!({ "state": "disabled" }), out).await,
        Command::Drain { target, deadline, pace, wait } => {
            let mut body = json!({ "state": "draining" });
            if let Some(deadline) = deadline {
                body["deadline"] = format!("{}ms", deadline.as_millis()).into();
            }
            if let Some(pace) = pace {
                body["pace"] = pace.to_string().into();
            }
            order(&client, target, &body, out).await?;
            if *wait { watch::drain(&client, target, *deadline, out).await } else { Ok(()) }
        }
        Command::Weight { target, weight } => {
            let weight = match weight {
                Weight::File => Value::Null,
                Weight::Ordered(weight) => (*weight).into(),
            };
            let path = format!("{}/weight", target.path());
            let view = client.send(Method::PUT, &path, Some(&json!({ "weight": weight }))).await?;
            out.show(&view, |view| text::order(&target.pool, view))
        }
        Command::Add { pool, address, settings } => {
            let mut body = json!({ "address": address });
            for (key, value) in settings {
                body[key] = value.clone();
            }
            let view = client.send(Method::POST, &format!("{}/backends", pool_path(pool)), Some(&body)).await?;
            out.show(&view, |view| format!("added {}", text::order(pool, view)))
        }
        Command::Remove(target) => {
            let view = client.send(Method::DELETE, &target.path(), None).await?;
            out.show(&view, |view| text::removed(&target.pool, view))
        }
        Command::Reload => out.show(&client.send(Method::POST, "/api/v1/reload", None).await?, text::reload),
        Command::Explain { pool, pinned_by } => {
            let PinnedBy { cookie, session_id, key } = pinned_by;
            let mut body = json!({ "pool": pool });
            for (name, value) in [("cookie", cookie), ("session_id", session_id), ("key", key)] {
                if let Some(value) = value {
                    body[name] = value.as_str().into();
                }
            }
            out.show(&client.send(Method::POST, "/api/v1/explain", Some(&body)).await?, text::explanation)
        }
        Command::Events => watch::events(&client, out).await,
    }
}

async fn order<W: Write>(
    client: &Client<'_>,
    target: &Target,
    body: &Value,
    out: &mut Output<'_, W>,
) -> Result<(), CtlError> {
    let view = client.send(Method::PUT, &format!("{}/state", target.path()), Some(body)).await?;
    out.show(&view, |view| text::order(&target.pool, view))
}

/// Where answers are shown, and how.
struct Output<'a, W> {
    out: &'a mut W,
    json: bool,
}

impl<W: Write> Output<'_, W> {
    fn show(&mut self, answer: &Value, as_text: impl FnOnce(&Value) -> String) -> Result<(), CtlError> {
        if self.json { self.line(&answer.to_string()) } else { self.line(as_text(answer).trim_end()) }
    }

    fn line(&mut self, text: &str) -> Result<(), CtlError> {
        let written = writeln!(self.out, "{text}").and_then(|()| self.out.flush());
        written.map_err(|error| CtlError::failed(|| "writing the answer".to_owned())(OutputError(error)))
    }
}

/// What is ours among failures of I/O: nobody reads what we write.
#[derive(Debug)]
struct OutputError(io::Error);

impl fmt::Display for OutputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for OutputError {}

/// What the API answered when it said no: in words, with what may help; or as it came.
fn refusal(status: StatusCode, body: &[u8], as_json: bool) -> CtlError {
    let raw = String::from_utf8_lossy(body);
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    CtlError::Refused(match answer["error"].as_str() {
        Some(_) if as_json => raw.trim_end().to_owned(),
        Some(error) => text::refusal(error, &answer),
        None => format!("{status}: {}", raw.trim_end()),
    })
}
