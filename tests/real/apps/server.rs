//! App servers that nobody here wrote, as processes: a Tomcat, an Express, a Flask under Gunicorn.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, io, thread};

use tempfile::TempDir;

use crate::support::{Client, ReservedPort, until_within};

/// Longer than three Tomcats take to start on two cores that have other things to do.
const STARTING: Duration = Duration::from_secs(90);

/// What kind of server, and where it keeps its sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    /// In its memory.
    Tomcat,
    /// With `DeltaManager`: everywhere.
    TomcatReplicated,
    /// With `BackupManager`: here and at one other.
    TomcatBackup,
    /// In the MemoryStore, or in a Redis.
    Express,
    /// In the memory of its one worker process, or in a Redis.
    Flask,
}

/// One server on one port, in one life after another. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct AppServer {
    name: String,
    port: ReservedPort,
    command: Command,
    folder: TempDir,
    child: Option<Child>,
}

/// Prepares servers that know one another where their make has them; none of them runs yet.
pub(crate) fn prepare<const N: usize>(make: Make, names: [&str; N], redis: Option<&str>) -> [AppServer; N] {
    let reserve = |_| ReservedPort::new().expect("a loopback port is free");
    // Where they tell one another of their sessions.
    let cluster = names.map(reserve);
    let mut own = 0;
    names.map(|name| {
        let port = reserve(name);
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let command = match make {
            Make::Express => express(name, &port, redis),
            Make::Flask => flask(name, &port, folder.path(), redis),
            Make::Tomcat | Make::TomcatReplicated | Make::TomcatBackup => {
                lay_out_tomcat(make, folder.path(), own, &cluster).expect("Debian's tomcat10 is installed");
                tomcat(name, &port, folder.path(), &cluster[own])
            }
        };
        own += 1;
        AppServer { name: name.to_owned(), port, command, folder, child: None }
    })
}

impl AppServer {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Its line in a pool's `backends`.
    pub(crate) fn yaml(&self) -> String {
        format!("{{ name: {}, address: \"{}\" }}", self.name, self.address())
    }

    /// Begins a life, with nothing in its memory; see [`AppServer::answers`].
    pub(crate) fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.folder.path().join(LOG));
        let log = log.expect("a writable folder");
        let child = self.command.stdout(log.try_clone().expect("a file")).stderr(log).spawn();
        self.child = Some(child.unwrap_or_else(|error| panic!("{:?}: {error}", self.command)));
    }

    /// Waits until it serves.
    pub(crate) async fn answers(&mut self) {
        let mut client = Client::new(self.address());
        let child = self.child.as_mut().expect("it was started");
        until_within(&format!("{} answers", self.name), STARTING, async || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!("{} ended: {status}", self.name);
            }
            match client.get("/health").await {
                Ok(reply) if reply.status == 200 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// `SIGKILL`. Its memory is gone when this returns.
    pub(crate) fn kill(&mut self) {
        if self.child.is_some() {
            // Fails only when it has ended already.
            let _ = self.signal("KILL");
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    /// `SIGSTOP`: its kernel goes on accepting, and nobody answers.
    pub(crate) fn pause(&self) {
        self.signal("STOP").unwrap_or_else(|error| panic!("{error}"));
    }

    /// `SIGCONT`
    pub(crate) fn resume(&self) {
        self.signal("CONT").unwrap_or_else(|error| panic!("{error}"));
    }

    /// Gunicorn is two processes.
    fn signal(&self, name: &str) -> io::Result<()> {
        signal_group(self.child.as_ref().expect("it runs"), name)
    }
}

impl Drop for AppServer {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            print_last_lines(&self.name, &self.folder.path().join(LOG));
        }
    }
}

/// Sends a signal by name to the whole process group, whose id is that of its first process.
pub(crate) fn signal_group(first: &Child, name: &str) -> io::Result<()> {
    let group = format!("-{}", first.id());
    let status = Command::new("sh").args(["-c", "kill -s \"$0\" -- \"$1\"", name, &group]).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("kill -s {name} {group}: {status}"))) }
}

/// What a server has logged, for a test that has failed.
pub(crate) fn print_last_lines(name: &str, log: &Path) {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    eprintln!("--- {name}, its last lines\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
}

const LOG: &str = "log";

/// Its own process group, so that a signal reaches all of it.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.process_group(0).stdin(Stdio::null());
    command
}

fn express(name: &str, port: &ReservedPort, redis: Option<&str>) -> Command {
    let mut node = command("node");
    node.arg(sources().join("express/app.js")).args([name, &port.address().port().to_string()]);
    node.args(redis).env("NODE_PATH", installed("node_modules"));
    node
}

/// One worker process, since sessions are in its memory; threads, so that it serves as many clients as come.
fn flask(name: &str, port: &ReservedPort, folder: &Path, redis: Option<&str>) -> Command {
    let mut python = command("python3");
    python.args([
        "-m",
        "gunicorn",
        "--workers",
        "1",
        "--threads",
        "16",
        "--keep-alive",
        "60",
        "--log-level",
        "warning",
    ]);
    python.arg("--worker-tmp-dir").arg(folder).arg("--bind").arg(port.address().to_string()).arg("app:app");
    python.current_dir(sources().join("flask")).env("PYTHONPATH", installed("python"));
    python.env("PYTHONDONTWRITEBYTECODE", "1").env("APP_NAME", name);
    if let Some(url) = redis {
        python.env("APP_REDIS", url);
    }
    python
}

/// As Debian's start script does it, but small and soon there.
fn tomcat(name: &str, port: &ReservedPort, folder: &Path, cluster: &ReservedPort) -> Command {
    let mut java = command("java");
    java.args([
        "-Xmx128m",
        "-Xss512k",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Djava.net.preferIPv4Stack=true",
    ]);
    let classes = ["bin/bootstrap.jar", "bin/tomcat-juli.jar"].map(|jar| format!("{TOMCAT}/{jar}"));
    java.arg("-cp").arg(format!("{}:{COMPILER}", classes.join(":")));
    java.arg(format!("-Dcatalina.home={TOMCAT}")).arg(format!("-Dcatalina.base={}", folder.display()));
    java.arg(format!("-Djava.io.tmpdir={}", folder.display())).arg(format!("-Dapp.name={name}"));
    java.arg(format!("-Dapp.port={}", port.address().port()));
    java.arg(format!("-Dapp.cluster.port={}", cluster.address().port()));
    java.args(["org.apache.catalina.startup.Bootstrap", "start"]).current_dir(folder);
    java
}

const TOMCAT: &str = "/usr/share/tomcat10";

/// Of JSP pages: it is all of Java that a runtime without a compiler needs.
const COMPILER: &str = "/usr/share/java/eclipse-jdt-core.jar";

fn lay_out_tomcat(make: Make, base: &Path, own: usize, cluster: &[ReservedPort]) -> io::Result<()> {
    let sources = sources().join("tomcat");
    for folder in ["conf", "app/WEB-INF", "logs", "work"] {
        fs::create_dir_all(base.join(folder))?;
    }
    symlink(Path::new(TOMCAT).join("etc/web.xml"), base.join("conf/web.xml"))?;
    fs::copy(sources.join("app.jsp"), base.join("app/app.jsp"))?;
    fs::copy(sources.join("web.xml"), base.join("app/WEB-INF/web.xml"))?;
    let manager = match make {
        // Not even an orderly stop saves sessions to a file.
        // One that starts with the others may ask one of them for sessions that is not ready to answer, and waits.
        Make::TomcatReplicated => {
            r#"<Manager className="org.apache.catalina.ha.session.DeltaManager" stateTransferTimeout="20"/>"#
        }
        Make::TomcatBackup => r#"<Manager className="org.apache.catalina.ha.session.BackupManager"/>"#,
        Make::Tomcat | Make::Express | Make::Flask => r#"<Manager pathname=""/>"#,
    };
    let cluster = if make == Make::Tomcat {
        String::new()
    } else {
        let others = cluster.iter().enumerate().filter(|(member, _)| *member != own);
        let members: Vec<String> = others.map(|(member, port)| static_member(member, port)).collect();
        let own = static_member(own, &cluster[own]).replace("<Member", "<LocalMember");
        let text = fs::read_to_string(sources.join("cluster.xml"))?;
        text.replace("<!MEMBERS>", &(own + &members.concat()))
    };
    let server = fs::read_to_string(sources.join("server.xml"))?;
    fs::write(base.join("conf/server.xml"), server.replace("<!MANAGER>", manager).replace("<!CLUSTER>", &cluster))
}

fn static_member(number: usize, port: &ReservedPort) -> String {
    format!(
        r#"<Member className="org.apache.catalina.tribes.membership.StaticMember" host="127.0.0.1" port="{}" domain="test" uniqueId="{{0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,{}}}"/>"#,
        port.address().port(),
        number + 1
    )
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/servers")
}

/// What `tests/real/servers/install` has fetched.
fn installed(name: &str) -> PathBuf {
    let test = env::current_exe().expect("the test has a path");
    let target = test.ancestors().nth(3).expect("tests lie in target/PROFILE/deps");
    let folder = target.join("servers").join(name);
    assert!(folder.exists(), "{} is missing: tests/real/servers/install", folder.display());
    folder
}
