//! The real program.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

use tempfile::TempDir;

use super::shared::client::Client;
use super::shared::port::ReservedPort;
use super::shared::session_process::signal;
use super::{Admin, until};

/// `stickpin run --config FILE` in a folder of its own. Dropping it kills the process; when the test has failed, what it
/// wrote is printed first.
#[derive(Debug)]
pub struct StickpinProcess {
    child: Child,
    folder: TempDir,
    front: ReservedPort,
    admin: ReservedPort,
}

impl StickpinProcess {
    /// Starts it and waits until it is ready. `yaml` is given the addresses of the listener and of the admin endpoint.
    ///
    /// # Panics
    /// With what it wrote, when it does not become ready.
    pub async fn start(yaml: impl FnOnce(SocketAddr, SocketAddr) -> String) -> Self {
        let mut program = Command::new(env!("CARGO_BIN_EXE_stickpin"));
        program.args(["run", "--config", CONFIG]);
        Self::start_as(program, yaml).await
    }

    /// Starts it where no more than this many files can be open, and waits until it is ready.
    pub async fn start_with_open_files(limit: u32, yaml: impl FnOnce(SocketAddr, SocketAddr) -> String) -> Self {
        let mut shell = Command::new("sh");
        let command = format!("ulimit -n {limit}; exec \"$0\" run --config {CONFIG}");
        shell.args(["-c", &command, env!("CARGO_BIN_EXE_stickpin")]);
        Self::start_as(shell, yaml).await
    }

    /// Starts it with these variables in its environment, and waits until it is ready.
    pub async fn start_with_environment(
        variables: &[(&str, &str)],
        yaml: impl FnOnce(SocketAddr, SocketAddr) -> String,
    ) -> Self {
        let mut program = Command::new(env!("CARGO_BIN_EXE_stickpin"));
        program.args(["run", "--config", CONFIG]).envs(variables.iter().copied());
        Self::start_as(program, yaml).await
    }

    /// Starts it as systemd would, with this socket passed to it under a name, and waits until it is ready.
    pub async fn start_with_socket(
        (name, socket): (&str, OwnedFd),
        yaml: impl FnOnce(SocketAddr, SocketAddr) -> String,
    ) -> Self {
        let mut shell = Command::new("sh");
        // The shell's number is the program's after `exec`, as it is after systemd's.
        let command = format!(
            "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES={name} exec \"$0\" run --config {CONFIG}"
        );
        shell.args(["-c", &command, env!("CARGO_BIN_EXE_stickpin")]);
        Self::start_with(shell, Stdio::from(socket), yaml).await
    }

    async fn start_as(program: Command, yaml: impl FnOnce(SocketAddr, SocketAddr) -> String) -> Self {
        Self::start_with(program, Stdio::null(), yaml).await
    }

    async fn start_with(
        mut program: Command,
        stdin: Stdio,
        yaml: impl FnOnce(SocketAddr, SocketAddr) -> String,
    ) -> Self {
        let reserve = || ReservedPort::new().expect("a loopback port is free");
        let (front, admin) = (reserve(), reserve());
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        fs::write(folder.path().join(CONFIG), yaml(front.address(), admin.address())).expect("a writable folder");
        let create = |name| File::create(folder.path().join(name)).expect("a writable folder");
        let child = program
            .current_dir(folder.path())
            .stdin(stdin)
            .stdout(create(STDOUT))
            .stderr(create(STDERR))
            .spawn()
            .expect("the program can be started");
        let mut process = Self { child, folder, front, admin };
        process.until_ready().await;
        process
    }

    async fn until_ready(&mut self) {
        let mut admin = Client::new(self.admin.address());
        until("/ready is 200", async || {
            // Waiting for one that has ended would only hide why.
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("stickpin ended before it was ready: {status}");
            }
            match admin.get("/ready").await {
                Ok(reply) if reply.status == 200 => Ok(()),
                Ok(reply) => Err(format!("{} {}", reply.status, reply.text())),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    /// Where clients come in.
    pub fn front(&self) -> SocketAddr {
        self.front.address()
    }

    /// Where the admin endpoint is.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address()
    }

    /// A new client, without cookies.
    pub fn client(&self) -> Client {
        Client::new(self.front())
    }

    /// A client of the admin endpoint.
    pub fn admin(&self) -> Admin {
        Admin::new(self.admin_address())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join(CONFIG)
    }

    /// Replaces the configuration file at once, as an editor would; nothing is read until a reload.
    ///
    /// # Panics
    /// When its folder cannot be written.
    pub fn write_config(&self, yaml: &str) {
        let draft = self.folder.path().join("draft.yaml");
        fs::write(&draft, yaml).and_then(|()| fs::rename(&draft, self.config_file())).expect("a writable folder");
    }

    /// `SIGHUP`. Returns before the reload has happened.
    ///
    /// # Panics
    /// When it no longer runs.
    pub fn reload(&self) {
        self.signal("HUP");
    }

    /// Sends a signal by name: `TERM`, `INT`, `HUP`, `STOP`, `CONT`.
    ///
    /// # Panics
    /// When it no longer runs.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name).unwrap_or_else(|error| panic!("{error}"));
    }

    /// `SIGTERM`, and waits until it has ended.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended().await
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it does not.
    pub async fn ended(&mut self) -> ExitStatus {
        until("stickpin has ended", async || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            state => Err(state),
        })
        .await
    }

    /// `SIGKILL`
    pub fn kill(&mut self) {
        // Either fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// What it has written to standard output so far: the access log.
    pub fn stdout(&self) -> String {
        self.written(STDOUT).unwrap_or_default()
    }

    /// What it has written to standard error so far: the log.
    pub fn stderr(&self) -> String {
        self.written(STDERR).unwrap_or_default()
    }

    fn written(&self, name: &str) -> io::Result<String> {
        fs::read(self.folder.path().join(name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for StickpinProcess {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            for name in [CONFIG, STDERR, STDOUT] {
                let text = self.written(name).unwrap_or_else(|error| error.to_string());
                eprintln!("--- {name} of stickpin (pid {}), its last lines\n{}", self.pid(), last_lines(&text));
            }
        }
    }
}

const CONFIG: &str = "stickpin.yaml";
const STDOUT: &str = "stdout";
const STDERR: &str = "stderr";

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(200)..].join("\n")
}
