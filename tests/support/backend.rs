//! Backends: session apps in this process, or as processes that can be killed and paused.

use std::env;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

use super::shared::client::Client;
use super::shared::port::ReservedPort;
use super::shared::session_app::SessionApp;
use super::shared::session_process::SessionProcess;

/// A session app on a thread of this process. It does what a [`SessionApp`] does.
#[derive(Debug)]
pub struct Backend(SessionApp);

impl Backend {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(name: &str) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self(SessionApp::start(name, any).expect("a loopback port is free"))
    }

    /// Its line in a pool's `backends`.
    pub fn yaml(&self) -> String {
        yaml(self.name(), self.address())
    }
}

impl Deref for Backend {
    type Target = SessionApp;

    fn deref(&self) -> &SessionApp {
        &self.0
    }
}

impl DerefMut for Backend {
    fn deref_mut(&mut self) -> &mut SessionApp {
        &mut self.0
    }
}

/// A session app as a process, the example `session_server`. It does what a [`SessionProcess`] does.
#[derive(Debug)]
pub struct BackendProcess(SessionProcess);

impl BackendProcess {
    /// Starts one on a free port, which it keeps through every restart.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(name: &str) -> Self {
        Self::start_with(name, &[])
    }

    /// As [`BackendProcess::start`], with more of the example's arguments. `{name}` in them stands for its name.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_with(name: &str, arguments: &[&str]) -> Self {
        let program = example("session_server");
        let process = SessionProcess::start_with(&program, None, name, arguments);
        Self(process.unwrap_or_else(|error| panic!("{error}")))
    }

    /// As [`BackendProcess::start_with`], several that know one another, in the order of their names:
    /// `BackendProcess::cluster(["one", "two"], &["--sessions", "replicated", "--route", "{name}"])`.
    ///
    /// # Panics
    /// When one of them cannot be started.
    pub fn cluster<const N: usize>(names: [&str; N], arguments: &[&str]) -> [Self; N] {
        let program = example("session_server");
        let started = SessionProcess::start_cluster(&program, None, names, arguments);
        let mut processes = started.unwrap_or_else(|error| panic!("{error}")).into_iter().map(Self);
        names.map(|_| processes.next().expect("there is one for each name"))
    }

    /// Another example, by its whole command line, that listens on `port`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_other(program: &str, arguments: &[&str], name: &str, port: ReservedPort) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let process = SessionProcess::start_other(&example(program), arguments, name, port);
        Self(process.unwrap_or_else(|error| panic!("{error}")))
    }

    /// Its line in a pool's `backends`.
    pub fn yaml(&self) -> String {
        yaml(self.name(), self.address())
    }

    /// From now on something is wrong with it: a flaw as `PUT /_flaw?kind=` takes it.
    ///
    /// # Panics
    /// When it does not take the order.
    pub async fn set_flaw(&self, flaw: &str) {
        let order = http::Request::put(format!("/_flaw?kind={flaw}")).body("".into()).expect("a valid path");
        let reply = Client::new(self.address()).send(order).await.unwrap_or_else(|error| panic!("{flaw}: {error}"));
        assert_eq!(reply.status, 200, "{flaw}: {}", reply.text());
    }
}

impl Deref for BackendProcess {
    type Target = SessionProcess;

    fn deref(&self) -> &SessionProcess {
        &self.0
    }
}

impl DerefMut for BackendProcess {
    fn deref_mut(&mut self) -> &mut SessionProcess {
        &mut self.0
    }
}

fn yaml(name: &str, address: SocketAddr) -> String {
    format!("{{ name: {name}, address: \"{address}\" }}")
}

/// The program of an example.
///
/// `cargo test` builds the examples of the same profile next to the tests; `cargo test --test NAME` does not.
///
/// # Panics
/// When it is not built.
pub fn example(name: &str) -> PathBuf {
    let test = env::current_exe().expect("the test has a path");
    let profile = test.ancestors().nth(2).expect("tests lie in target/PROFILE/deps");
    let program = profile.join("examples").join(name);
    assert!(program.exists(), "{} is missing: cargo build --example {name}", program.display());
    program
}
