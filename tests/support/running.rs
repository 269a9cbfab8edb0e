//! Stickpin in this process.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use stickpin::app::{App, Running};
use stickpin::config::Config;

use super::{Admin, Client, until};

/// A Stickpin on threads of this process. Dropping it stops it.
pub struct Stickpin {
    listeners: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    running: Running,
}

impl Stickpin {
    /// Starts one with this configuration, whose listeners should have port 0.
    ///
    /// # Panics
    /// With every problem in it.
    #[track_caller]
    pub fn start(yaml: &str) -> Self {
        let config = Config::parse("test.yaml", yaml).unwrap_or_else(|problems| panic!("{problems}\n{yaml}"));
        let app = App::bind(config, Path::new(".")).unwrap_or_else(|error| panic!("{error:?}\n{yaml}"));
        let listeners = app.listeners().iter().filter_map(|address| address.ip()).collect();
        let admin = app.admin();
        let running = app.start().unwrap_or_else(|error| panic!("{error}"));
        Self { listeners, admin, running }
    }

    /// The first listener at an IP address.
    pub fn front(&self) -> SocketAddr {
        self.listeners[0]
    }

    /// Every listener at an IP address.
    pub fn listeners(&self) -> &[SocketAddr] {
        &self.listeners
    }

    /// A new client of the first listener, without cookies.
    pub fn client(&self) -> Client {
        Client::new(self.front())
    }

    /// A client of the admin endpoint.
    ///
    /// # Panics
    /// When the configuration has none.
    pub fn admin(&self) -> Admin {
        Admin::new(self.admin.expect("the configuration has an admin endpoint"))
    }

    /// Waits until this many requests are in flight at `app1` of the pool `app`.
    pub async fn until_in_flight(&self, count: u64) {
        let mut admin = self.admin();
        until(&format!("{count} in flight"), async || {
            let view = admin.backend("app", "app1").await;
            if view["in_flight"] == count { Ok(()) } else { Err(view) }
        })
        .await;
    }

    /// Stops it gracefully; returns when it has stopped.
    pub fn stop(self, timeout: Duration) {
        self.running.stop(timeout);
    }
}
