//! Sockets that somebody else opened, as systemd does: connections that came before the start are served.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};

use stickpin::config::Address;

use crate::support::StickpinProcess;
use crate::support::raw::{Peer, Recorder};

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

fn yaml(listener: &str, admin: SocketAddr, backend: SocketAddr) -> String {
    format!(
        "workers: 3\nlisteners: [\"{listener}\"]\nadmin: {{ address: \"{admin}\" }}\npools:\n  app:\n    health: off\n    \
         backends: [\"{backend}\"]\n"
    )
}

#[tokio::test]
async fn a_socket_that_was_passed_is_accepted_on_by_every_worker() {
    let backend = Recorder::start().await;
    let socket = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
    let address = socket.local_addr().expect("a bound socket");
    // It waits in the queue of a socket that nobody serves yet.
    let mut early = Peer::sending(address, GET).await;
    let started = StickpinProcess::start_with_socket(("web", socket.into()), |_, admin| {
        yaml("systemd:web", admin, backend.address())
    });
    let mut stickpin = started.await;
    assert_eq!(early.reply().await.0.status(), 200);
    let mut peers = Vec::new();
    for _ in 0..30 {
        let mut peer = Peer::connect(address).await;
        assert_eq!(peer.reply_to(GET).await, 200);
        peers.push(peer);
    }
    let head = backend.last_head();
    assert_eq!(head.value("x-forwarded-port"), Some(&*address.port().to_string()));
    let mut admin = stickpin.admin();
    let label = format!("listener=\"{address}\"");
    assert_eq!(admin.metric("stickpin_connections", &[&label]).await, 31.0);
    assert_eq!(admin.reload().await.status, 200);
    assert_eq!(peers[0].reply_to(GET).await, 200);
    assert!(stickpin.terminate().await.success(), "{}", stickpin.stderr());
}

#[tokio::test]
async fn a_unix_socket_that_was_passed_is_not_removed() {
    let backend = Recorder::start().await;
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let path = folder.path().join("a.sock");
    let socket = UnixListener::bind(&path).expect("a free path");
    let started = StickpinProcess::start_with_socket(("web", socket.into()), |_, admin| {
        yaml("systemd:web", admin, backend.address())
    });
    let mut stickpin = started.await;
    assert_eq!(Peer::at(&Address::Unix(path.as_path().into())).await.reply_to(GET).await, 200);
    assert!(stickpin.terminate().await.success(), "{}", stickpin.stderr());
    assert!(path.exists(), "it is systemd's");
}

#[test]
fn a_socket_that_was_not_passed_is_missed_at_the_start() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let file = folder.path().join("stickpin.yaml");
    let admin = "127.0.0.1:0".parse().expect("an address");
    std::fs::write(&file, yaml("systemd:web", admin, "127.0.0.1:9".parse().expect("an address"))).expect("writable");
    for (environment, says) in [
        ("", "but nothing"),
        ("LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=other", "but other"),
        ("LISTEN_PID=$$ LISTEN_FDS=1", "but unknown"),
        ("LISTEN_PID=1 LISTEN_FDS=1 LISTEN_FDNAMES=web", "but nothing"),
        ("LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web", "not a valid unix stream socket"),
    ] {
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").expect("a loopback port is free");
        let command = format!("exec 3<&0 0</dev/null; {environment} exec \"$0\" run --config \"$1\"");
        let output = Command::new("sh")
            .args(["-c", &command, env!("CARGO_BIN_EXE_stickpin")])
            .arg(&file)
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(datagrams)))
            .output();
        let Output { status, stderr, .. } = output.expect("a shell");
        let stderr = String::from_utf8_lossy(&stderr);
        assert!(
            !status.success() && stderr.contains("systemd:web") && stderr.contains(says),
            "{environment}: {stderr}"
        );
    }
}
