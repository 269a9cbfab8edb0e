//! A session app, or another server of the examples, as a process of its own, so that it can be killed or paused like a
//! real server.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::port::ReservedPort;
use super::session_app::SessionApp;
pub use super::session_arguments::Arguments;
use super::until::until;

/// What a server's first line begins with, once it answers.
pub const LISTENING: &str = "listening on ";

/// How long a signal may take to have its effect.
const PATIENCE: Duration = Duration::from_secs(10);

/// The child's side: serves until it is stopped.
///
/// # Errors
/// The port cannot be bound.
pub fn run(arguments: &Arguments) -> io::Result<()> {
    let address = arguments.address();
    let app = SessionApp::start_with(arguments.settings(), address)
        .map_err(|error| io::Error::new(error.kind(), format!("listening on {address}: {error}")))?;
    writeln!(io::stdout(), "{LISTENING}{}", app.address())?;
    if arguments.stop_with_stdin {
        io::copy(&mut io::stdin(), &mut io::sink()).map(|_| ())
    } else {
        loop {
            thread::park();
        }
    }
}

/// The parent's side: one server on one port, in one life after another. Dropping it kills the process.
#[derive(Debug)]
pub struct SessionProcess {
    program: PathBuf,
    arguments: Vec<String>,
    name: String,
    port: ReservedPort,
    child: Option<Child>,
}

impl SessionProcess {
    /// Starts `program`, whose `main` hands over to [`run`], and answers when this returns.
    ///
    /// # Errors
    /// It cannot be started, or ended at once.
    pub fn start(program: &Path, subcommand: Option<&str>, name: &str) -> io::Result<Self> {
        Self::start_with(program, subcommand, name, &[])
    }

    /// As [`SessionProcess::start`], with more [`Arguments`]. `{name}` in them stands for its name.
    ///
    /// # Errors
    /// It cannot be started, or ended at once.
    pub fn start_with(program: &Path, subcommand: Option<&str>, name: &str, more: &[&str]) -> io::Result<Self> {
        let mut process = Self::prepare(program, subcommand, name, more)?;
        process.restart()?;
        Ok(process)
    }

    /// As [`SessionProcess::start_with`], a server for each name, each with all the others for peers.
    ///
    /// # Errors
    /// One cannot be started, or ended at once.
    pub fn start_cluster<const N: usize>(
        program: &Path,
        subcommand: Option<&str>,
        names: [&str; N],
        more: &[&str],
    ) -> io::Result<Vec<Self>> {
        let mut processes = Self::prepare_cluster(program, subcommand, names, more)?;
        processes.iter_mut().try_for_each(Self::restart)?;
        Ok(processes)
    }

    /// As [`SessionProcess::start_cluster`], but none runs yet; [`SessionProcess::restart`] begins its first life.
    ///
    /// # Errors
    /// There are no ports for them.
    pub fn prepare_cluster<const N: usize>(
        program: &Path,
        subcommand: Option<&str>,
        names: [&str; N],
        more: &[&str],
    ) -> io::Result<Vec<Self>> {
        // Every one has its port before the first is told of the others.
        let prepared = names.iter().map(|name| Self::prepare(program, subcommand, name, more));
        let mut processes = prepared.collect::<io::Result<Vec<_>>>()?;
        let addresses: Vec<String> = processes.iter().map(|it| format!("{}={}", it.name, it.address())).collect();
        for (own, process) in processes.iter_mut().enumerate() {
            let peers = addresses.iter().enumerate().filter(|(peer, _)| *peer != own);
            process.arguments.extend(peers.flat_map(|(_, address)| ["--peer".to_owned(), address.clone()]));
        }
        Ok(processes)
    }

    /// Any other server that says where it listens as [`run`] does, by its whole command line; it listens on `port`.
    ///
    /// # Errors
    /// It cannot be started, or ended at once.
    pub fn start_other(program: &Path, arguments: Vec<String>, name: &str, port: ReservedPort) -> io::Result<Self> {
        let mut process = Self { program: program.to_owned(), arguments, name: name.to_owned(), port, child: None };
        process.restart()?;
        Ok(process)
    }

    fn prepare(program: &Path, subcommand: Option<&str>, name: &str, more: &[&str]) -> io::Result<Self> {
        let port = ReservedPort::new()?;
        let mut arguments: Vec<String> = subcommand.into_iter().map(str::to_owned).collect();
        let own_port = port.address().port().to_string();
        arguments.extend(["--name", name, "--port", &own_port, "--stop-with-stdin"].map(str::to_owned));
        arguments.extend(more.iter().map(|argument| argument.replace("{name}", name)));
        Ok(Self { program: program.to_owned(), arguments, name: name.to_owned(), port, child: None })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens in every life.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The process id of this life; `None` after [`SessionProcess::kill`].
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether this life is over, by whatever hand.
    pub fn has_exited(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// `SIGKILL`. When this returns the process is gone and its memory with it.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // Either fails only when the process is gone already.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// `SIGSTOP`: its connections stay open, its kernel still accepts, and nobody answers once this has returned.
    ///
    /// # Errors
    /// It does not run, or does not stop.
    pub async fn pause(&self) -> io::Result<()> {
        self.signal("STOP")?;
        let what = format!("{} stands still", self.name);
        let stopped = until(&what, PATIENCE, async || match self.is_stopped() {
            Ok(true) => Ok(()),
            state => Err(state),
        });
        stopped.await.map_err(io::Error::other)
    }

    /// `SIGCONT`: goes on as if nothing had happened.
    ///
    /// # Errors
    /// It does not run.
    pub fn resume(&self) -> io::Result<()> {
        self.signal("CONT")
    }

    /// Kills it if it runs, and starts it on the same port with an empty memory and the same arguments.
    ///
    /// # Errors
    /// It cannot be started, or ended at once.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill();
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C in a terminal is for the parent, which decides the order in which things stop.
            .process_group(0)
            .spawn()?;
        let stdout = child.stdout.take().expect("it is piped");
        self.child = Some(child);
        // Its first line, or the end of its output when it could not start: either comes soon.
        let mut line = String::new();
        BufReader::new(stdout.take(1024)).read_line(&mut line)?;
        if line.starts_with(LISTENING) {
            return Ok(());
        }
        self.kill();
        Err(io::Error::other(format!("{} {} did not start", self.program.display(), self.arguments.join(" "))))
    }

    /// A signal has been sent when `kill` returns, but each thread stops in its own time.
    fn is_stopped(&self) -> io::Result<bool> {
        let threads = Path::new("/proc").join(self.pid().unwrap_or_default().to_string()).join("task");
        for thread in fs::read_dir(threads)? {
            // "pid (name) state …", and a name may contain anything.
            let stat = fs::read_to_string(thread?.path().join("stat"))?;
            if !stat.rsplit_once(')').is_some_and(|(_, state)| state.starts_with(" T")) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn signal(&self, name: &str) -> io::Result<()> {
        let pid = self.pid().ok_or_else(|| io::Error::other(format!("{} does not run", self.name)))?;
        signal(pid, name)
    }
}

impl Drop for SessionProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal by name, with the `kill` of the shell: there is no other way without unsafe code.
///
/// # Errors
/// No such process.
pub fn signal(pid: u32, name: &str) -> io::Result<()> {
    let status = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &pid.to_string()]).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("kill -s {name} {pid}: {status}"))) }
}
