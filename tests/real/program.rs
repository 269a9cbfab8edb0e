//! Programs that nobody here wrote, run to their end or as servers, each bounded in time.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Runs a program to its end, and gives what it wrote to standard output and to standard error.
///
/// # Panics
/// When it ends with anything but 0, or not at all.
#[track_caller]
pub(crate) fn run<A: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = A>,
) -> (String, String) {
    // Of coreutils: it ends what the program has started, too.
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", BOUND]).arg(program.as_ref()).args(arguments).stdin(Stdio::null());
    let output = command.output().expect("coreutils are there");
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{command:?}: {}\n{stdout}\n{stderr}", output.status);
    (stdout, stderr)
}

/// Seconds. Longer than any of them takes on a busy machine.
const BOUND: &str = "90";

/// A script of `tests/real/peers`, run as [`run`] does.
#[track_caller]
pub(crate) fn run_script(name: &str, arguments: &[&str]) -> (String, String) {
    let path = script(name);
    run(python(), [path.as_os_str()].into_iter().chain(arguments.iter().map(OsStr::new)))
}

fn script(name: &str) -> PathBuf {
    peers().join(name)
}

/// One with the packages that the scripts need.
fn python() -> PathBuf {
    peers().join("python")
}

fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/peers")
}

/// A script of `tests/real/peers` that says where it listens. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    name: String,
    address: SocketAddr,
}

impl Server {
    /// Starts one, and waits until it listens.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub(crate) fn start(name: &str, script_name: &str) -> Self {
        let mut child = Command::new(python())
            .arg(script(script_name))
            .arg(name)
            // It ends with its standard input, should this process not come to drop it.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash is there");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it says where it listens");
        let port = line.trim().strip_prefix("listening on ").and_then(|port| port.parse().ok());
        let port: u16 = port.unwrap_or_else(|| panic!("{script_name} said: {line}"));
        Self { child, name: name.to_owned(), address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)) }
    }

    /// Its line in a pool's `backends`.
    pub(crate) fn yaml(&self) -> String {
        format!("{{ name: {}, address: \"{}\" }}", self.name, self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Either fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
