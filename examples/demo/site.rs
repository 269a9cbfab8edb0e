//! The parts of the demo: app servers, Stickpin, and its admin endpoint as seen by a client.

use std::env;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use stickpin::app::{App, Running};
use stickpin::config::Config;

use crate::Failure;
use crate::settings::POOL;
use crate::support::client::{Client, Reply};
use crate::support::session_process::SessionProcess;
use crate::support::until::until;

/// Hidden: the demo starts itself again under this name, so that killing an app server kills a real process.
pub(crate) const SESSION_SERVER: &str = "session-server";

/// Long enough for a busy machine; everything waited for takes a second or two.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts three app servers.
///
/// # Errors
/// A process does not start.
pub(crate) fn start_backends() -> io::Result<Vec<SessionProcess>> {
    let program = env::current_exe()?;
    ["app1", "app2", "app3"]
        .map(|name| SessionProcess::start(&program, Some(SESSION_SERVER), name))
        .into_iter()
        .collect()
}

/// A running Stickpin.
pub(crate) struct Stickpin {
    /// Where clients come in.
    pub(crate) front: SocketAddr,
    /// Where the admin endpoint is.
    pub(crate) admin: SocketAddr,
    running: Running,
}

impl Stickpin {
    /// Starts one with this configuration.
    ///
    /// # Errors
    /// A problem in the configuration, or an address that cannot be bound.
    pub(crate) fn start(yaml: &str) -> Result<Self, Failure> {
        let config = Config::parse("demo.yaml", yaml).map_err(|problems| problems.to_string())?;
        let app = App::bind(config, Path::new("."))?;
        let front = app.listeners().first().and_then(|address| address.ip()).ok_or("no listener")?;
        let admin = app.admin().ok_or("no admin endpoint")?;
        Ok(Self { front, admin, running: app.start()? })
    }

    /// Lets what is under way finish for a moment, and stops.
    pub(crate) fn stop(self) {
        self.running.stop(Duration::from_secs(2));
    }

    /// Waits until this backend's health is `healthy`.
    ///
    /// # Errors
    /// Its last state, when that took too long.
    pub(crate) async fn until_healthy(&self, backend: &str) -> Result<(), Failure> {
        let mut admin = Client::new(self.admin);
        let path = backend_path(backend);
        let healthy = async || {
            let view = admin.get(&path).await.map_err(|error| error.to_string())?;
            if view.field("health") == "healthy" { Ok(()) } else { Err(view.text()) }
        };
        Ok(until(&format!("{backend} is healthy"), PATIENCE, healthy).await?)
    }

    /// Orders a drain.
    ///
    /// # Errors
    /// No answer.
    pub(crate) async fn drain(&self, backend: &str) -> Result<Reply, Failure> {
        let order = json!({ "state": "draining", "deadline": "10m" });
        Ok(Client::new(self.admin).put_json(&state_path(backend), &order).await?)
    }

    /// The lines of `/metrics` that tell what was decided, those that are 0 left out.
    ///
    /// # Errors
    /// No answer.
    pub(crate) async fn decisions(&self) -> Result<Vec<String>, Failure> {
        let metrics = Client::new(self.admin).get("/metrics").await?.text();
        let told = ["stickpin_placements_total{", "stickpin_rehomes_total{"];
        let lines = metrics.lines().filter(|line| told.iter().any(|name| line.starts_with(name)));
        Ok(lines.filter(|line| !line.ends_with(" 0")).map(str::to_owned).collect())
    }
}

/// The view of a backend.
pub(crate) fn backend_path(backend: &str) -> String {
    format!("/api/v1/pools/{POOL}/backends/{backend}")
}

/// Where its admin state is set.
pub(crate) fn state_path(backend: &str) -> String {
    format!("{}/state", backend_path(backend))
}
