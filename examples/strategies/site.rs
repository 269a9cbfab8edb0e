//! One shop: its servers and its store as processes that can be killed, and Stickpin in front of them.

use std::env;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use stickpin::app::{App, Running};
use stickpin::config::Config;

use crate::Failure;
use crate::clock::Scale;
use crate::strategy::{POOL, Strategy};
use crate::support::client::Client;
use crate::support::port::ReservedPort;
use crate::support::session_process::SessionProcess;
use crate::support::until::{Expired, until};

/// Hidden: the example starts itself again under these names, so that killing a server kills a real process.
pub(crate) const SESSION_SERVER: &str = "session-server";
pub(crate) const STORE: &str = "store";

/// The fourth comes later.
pub(crate) const SERVERS: [&str; 4] = ["app1", "app2", "app3", "app4"];
const AT_FIRST: usize = 3;

/// Long enough for a busy machine; everything waited for takes a second or two.
const PATIENCE: Duration = Duration::from_secs(20);

/// See the module.
pub(crate) struct Site {
    pub(crate) strategy: Strategy,
    /// Where clients come in.
    pub(crate) front: SocketAddr,
    admin: SocketAddr,
    servers: Vec<SessionProcess>,
    store: Option<SessionProcess>,
    running: Running,
}

/// What is kept, and how many bytes keeping it has taken so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// Sessions, counted in the memory of each server that has one, and in the store.
    pub(crate) sessions: u64,
    /// Between servers, or between them and the store, both ways.
    pub(crate) bytes: u64,
}

impl Site {
    /// Starts all but the fourth server, waits until everybody is ready, and gives Stickpin's configuration, too.
    ///
    /// # Errors
    /// A process does not start, or Stickpin finds none of them well.
    pub(crate) async fn start(strategy: Strategy, scale: Scale) -> Result<(Self, String), Failure> {
        let program = env::current_exe()?;
        let store = if strategy == Strategy::External { Some(start_store(&program)?) } else { None };
        let arguments = strategy.arguments(store.as_ref().map(SessionProcess::address));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut servers = SessionProcess::prepare_cluster(&program, Some(SESSION_SERVER), SERVERS, &arguments)?;
        servers[..AT_FIRST].iter_mut().try_for_each(SessionProcess::restart)?;
        let yaml = strategy.yaml(&servers[..AT_FIRST], scale);
        let config = Config::parse("strategies.yaml", &yaml).map_err(|problems| problems.to_string())?;
        let app = App::bind(config, Path::new("."))?;
        let front = app.listeners().first().and_then(|address| address.ip()).ok_or("no listener")?;
        let admin = app.admin().ok_or("no admin endpoint")?;
        let site = Self { strategy, front, admin, servers, store, running: app.start()? };
        for server in &SERVERS[..AT_FIRST] {
            site.until(server, "it is well", PATIENCE, |view| view["health"] == "healthy").await?;
        }
        Ok((site, yaml))
    }

    /// `SIGKILL`
    pub(crate) fn kill(&mut self, server: usize) {
        self.servers[server].kill();
    }

    /// Starts a server again.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn restart(&mut self, server: usize) -> Result<(), Failure> {
        Ok(self.servers[server].restart()?)
    }

    /// Starts the fourth server, and tells Stickpin of it.
    ///
    /// # Errors
    /// It does not start, or Stickpin does not take it.
    pub(crate) async fn add(&mut self) -> Result<(), Failure> {
        let fourth = &mut self.servers[AT_FIRST];
        fourth.restart()?;
        let backend = json!({ "name": fourth.name(), "address": fourth.address() });
        let reply = Client::new(self.admin).post_json(&format!("/api/v1/pools/{POOL}/backends"), &backend).await?;
        if reply.status == 201 { Ok(()) } else { Err(reply.text().into()) }
    }

    /// Orders a drain.
    ///
    /// # Errors
    /// Stickpin does not take the order.
    pub(crate) async fn drain(&self, server: usize, deadline: &str, pace: &str) -> Result<(), Failure> {
        let order = json!({ "state": "draining", "deadline": deadline, "pace": pace });
        let path = format!("{}/state", backend_path(SERVERS[server]));
        let reply = Client::new(self.admin).put_json(&path, &order).await?;
        if reply.status == 200 { Ok(()) } else { Err(reply.text().into()) }
    }

    /// Waits until nobody is left there, but no longer than this.
    pub(crate) async fn until_drained(&self, server: usize, patience: Duration) -> Result<(), Expired> {
        self.until(SERVERS[server], "nobody is left", patience, |view| view["drain"]["drained"] == true).await
    }

    /// The store, where there is one.
    pub(crate) fn store(&mut self) -> Option<&mut SessionProcess> {
        self.store.as_mut()
    }

    /// Asks everybody who runs.
    ///
    /// # Errors
    /// No answer.
    pub(crate) async fn census(&self) -> Result<Census, Failure> {
        let mut census = Census::default();
        for server in self.servers.iter().filter(|server| server.pid().is_some()) {
            let told = Client::new(server.address()).get("/_census").await?.json();
            census.sessions += told["sessions"].as_u64().ok_or("no sessions in the census")?;
            census.bytes += told["peer_bytes"].as_u64().ok_or("no bytes in the census")?;
        }
        if let Some(store) = &self.store {
            let store = count_store(store.address()).await?;
            census.sessions += store.sessions;
            census.bytes += store.bytes;
        }
        Ok(census)
    }

    /// Lets what is under way finish for a moment, and stops.
    pub(crate) fn stop(self) {
        self.running.stop(Duration::from_secs(2));
    }

    async fn until(
        &self,
        server: &str,
        what: &str,
        patience: Duration,
        holds: impl Fn(&Value) -> bool,
    ) -> Result<(), Expired> {
        let mut admin = Client::new(self.admin);
        let path = backend_path(server);
        let condition = async || {
            let view = admin.get(&path).await.map_err(|error| error.to_string())?;
            if holds(&view.json()) { Ok(()) } else { Err(view.text()) }
        };
        until(&format!("{server}: {what}"), patience, condition).await
    }
}

fn start_store(program: &Path) -> Result<SessionProcess, Failure> {
    let port = ReservedPort::new()?;
    let arguments = [STORE, "--port", &port.address().port().to_string()].map(str::to_owned);
    Ok(SessionProcess::start_other(program, arguments.to_vec(), "the store", port)?)
}

/// As one would ask Redis.
async fn count_store(address: SocketAddr) -> Result<Census, Failure> {
    let client = redis::Client::open(format!("redis://{address}/"))?;
    let mut connection: MultiplexedConnection = client.get_multiplexed_async_connection().await?;
    let sessions = redis::cmd("DBSIZE").query_async(&mut connection).await?;
    let stats: String = redis::cmd("INFO").arg("stats").query_async(&mut connection).await?;
    let count = |name: &str| stats.lines().find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok());
    let (input, output) = (count("total_net_input_bytes:"), count("total_net_output_bytes:"));
    let bytes = input.zip(output).map(|(input, output)| input + output).ok_or("no bytes in the store's statistics")?;
    Ok(Census { sessions, bytes })
}

fn backend_path(server: &str) -> String {
    format!("/api/v1/pools/{POOL}/backends/{server}")
}
