//! The rights of root, dropped once a privileged port is bound: needs root.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::support::raw::{Peer, Recorder};
use crate::support::{Admin, Client, until};

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

/// A free port that only root may have, unless the system says otherwise.
fn privileged_port() -> SocketAddr {
    let mut ports = (200..1024).map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    ports.find(|address| TcpListener::bind(address).is_ok()).expect("a privileged port is free, and we are root")
}

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Either fails only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn program(file: &Path) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_stickpin"));
    program.args(["run", "--config"]).arg(file).stdin(Stdio::null()).stdout(Stdio::null());
    program
}

/// A folder that others can get to, which the one for temporary files need not be.
fn folder() -> TempDir {
    let folder = tempfile::tempdir_in("/tmp").expect("a folder for temporary files");
    open_to_all(folder.path());
    folder
}

fn open_to_all(folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("our own folder");
}

#[tokio::test]
async fn a_privileged_port_is_served_by_somebody_else() {
    let (front, backend) = (privileged_port(), Recorder::start().await);
    let admin = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a loopback port is free");
    let folder = folder();
    let (file, socket) = (folder.path().join("stickpin.yaml"), folder.path().join("front.sock"));
    let yaml = |weight: u32| {
        format!(
            "workers: 3\nuser: nobody\naccess_log: off\nlisteners: [\"{front}\", \"unix:{}\"]\nadmin: {{ address: \"{admin}\" }}\n\
             pools:\n  app:\n    health: off\n    backends: [{{ name: app1, address: \"{}\", weight: {weight} }}]\n",
            socket.display(),
            backend.address()
        )
    };
    fs::write(&file, yaml(1)).expect("a writable folder");
    let running = Running(program(&file).spawn().expect("the program can be started"));
    let mut client = Client::new(admin);
    until("it is ready", async || match client.get("/ready").await {
        Ok(reply) if reply.status == 200 => Ok(()),
        Ok(reply) => Err(reply.text()),
        Err(error) => Err(error.to_string()),
    })
    .await;
    assert_eq!(Peer::connect(front).await.reply_to(GET).await, 200);

    let nobody = fs::metadata(&socket).expect("it is there").uid();
    assert_ne!(nobody, 0, "the socket is the user's, too");
    let mut threads = 0;
    for thread in fs::read_dir(format!("/proc/{}/task", running.0.id())).expect("it runs") {
        let status = fs::read_to_string(thread.expect("a thread").path().join("status")).expect("it runs");
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).expect("a line").to_owned();
        let all = |id: &str| line(id).split_whitespace().all(|id| id == nobody.to_string());
        assert!(all("Uid:"), "each thread, real, effective, saved: {status}");
        assert!(line("Gid:").split_whitespace().all(|id| id != "0"), "{status}");
        assert!(line("Groups:").split_whitespace().all(|id| id != "0"), "{status}");
        assert_eq!(line("CapEff:").trim().trim_matches('0'), "", "{status}");
        threads += 1;
    }
    assert!(threads >= 5, "workers, the control plane and the main one: {threads}");

    fs::write(&file, yaml(7)).expect("a writable folder");
    let mut admin = Admin::new(admin);
    assert_eq!(admin.reload().await.status, 200);
    assert_eq!(admin.backend("app", "app1").await["weight"], 7);
}

#[test]
fn what_the_user_cannot_read_is_said_at_the_start() {
    let folder = folder();
    let file = folder.path().join("stickpin.yaml");
    let start = |settings: &str| {
        let yaml = format!("{settings}\nlisteners: [127.0.0.1:0]\npools: {{ app: {{ backends: [127.0.0.1:9] }} }}\n");
        fs::write(&file, yaml).expect("a writable folder");
        let mut bounded = Command::new("timeout");
        bounded.args(["20", env!("CARGO_BIN_EXE_stickpin"), "run", "--config"]).arg(&file).stdin(Stdio::null());
        let output = bounded.output().expect("timeout of coreutils");
        assert!(matches!(output.status.code(), Some(1 | 2)), "it does not start: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    // Who may enter a folder that is made for a test depends on whoever runs it.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("our own folder");
    let said = start("user: nobody");
    assert!(said.contains("user: nobody cannot read") && said.contains("stickpin.yaml"), "{said}");

    open_to_all(folder.path());
    let keys = folder.path().join("cookie.keys");
    fs::write(&keys, "000102030405060708090a0b0c0d0e0f\n").expect("a writable folder");
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).expect("our own file");
    let said = start("user: nobody\ncookie_keys_file: cookie.keys");
    assert!(said.contains("cookie.keys") && said.contains("as user nobody"), "{said}");

    fs::create_dir(folder.path().join("state")).expect("a writable folder");
    let said = start("user: nobody\nstate_dir: state");
    assert!(said.contains("writing to the state directory") && said.contains("as user nobody"), "{said}");

    let said = start("user: no-such-user");
    assert!(said.contains("there is no user no-such-user"), "{said}");
}

#[test]
fn only_root_becomes_somebody_else() {
    let folder = folder();
    let file = folder.path().join("stickpin.yaml");
    let yaml = "user: daemon\nlisteners: [127.0.0.1:0]\npools: { app: { backends: [127.0.0.1:9] } }\n";
    fs::write(&file, yaml).expect("a writable folder");
    // Where it was built, nobody else may be let in.
    let program = folder.path().join("stickpin");
    fs::copy(env!("CARGO_BIN_EXE_stickpin"), &program).expect("room for the program");
    let output = Command::new("setpriv")
        .args(["--reuid", "nobody", "--clear-groups"])
        .arg(&program)
        .args(["run", "--config"])
        .arg(&file)
        .output()
        .expect("setpriv of util-linux");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("only root can become daemon"), "{said}");
}
