//! Unix sockets to accept clients on and to reach backends by.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use stickpin::config::Address;
use tempfile::TempDir;

use crate::support::raw::{Peer, Recorder, UnixRecorder, config};
use crate::support::{Stickpin, StickpinProcess, until};

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder for temporary files")
}

fn at(path: &Path) -> Address {
    Address::Unix(path.into())
}

/// As [`config`], listening at this path.
fn listening_at(path: &Path, backend: impl std::fmt::Display, listener: &[&str], pool: &[&str]) -> String {
    config(backend, listener, pool)
        .replace("listeners:\n  - address: 127.0.0.1:0", &format!("listeners:\n  - address: {}", at(path)))
}

#[tokio::test]
async fn clients_come_by_one_path_and_backends_are_reached_by_another() {
    let folder = folder();
    let (front, app) = (folder.path().join("front.sock"), folder.path().join("app1.sock"));
    let backend = UnixRecorder::start(&app);
    let yaml = listening_at(&front, backend.address(), &["mode: 0600"], &[]);
    let yaml = yaml.replacen("workers: 1", "workers: 2", 1);
    let stickpin =
        Stickpin::start(&yaml.replace("health: off", "health: { http: { path: /health, interval: 100ms } }"));
    let mut admin = stickpin.admin();
    admin.until_health("app", "app1", "healthy").await;
    assert_eq!(backend.heard().requests[0].0.value("host"), Some("localhost"), "what a probe calls it");
    assert_eq!(admin.backend("app", "app1").await["address"], backend.address().to_string());
    assert_eq!(fs::metadata(&front).expect("it is there").permissions().mode() & 0o777, 0o600);

    for _ in 0..8 {
        let mut peer = Peer::at(&at(&front)).await;
        for _ in 0..3 {
            peer.send("POST /x HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 6.6.6.6\r\nContent-Length: 3\r\n\r\nabc").await;
            assert_eq!(peer.reply().await.1, "ok");
        }
    }
    let heard = backend.heard();
    let (head, body) = heard.requests.iter().rfind(|(head, _)| head.first_line().contains("/x")).expect("it came");
    assert_eq!(body, b"abc");
    assert_eq!(head.value("x-forwarded-for"), Some("127.0.0.1"), "nobody said that this peer is to be believed");
    assert_eq!(head.value("x-forwarded-port"), Some("80"));
    assert!(heard.by_connection.iter().any(|requests| *requests >= 3), "connections are used again: {heard:?}");
    let label = format!("listener=\"{}\"", at(&front));
    until("their end is noticed", async || match admin.metric("stickpin_connections", &[&label]).await {
        0.0 => Ok(()),
        connections => Err(connections),
    })
    .await;

    tokio::task::spawn_blocking(move || stickpin.stop(Duration::from_secs(20))).await.expect("it stops");
    assert!(!front.exists(), "the file goes with the listener");
}

#[tokio::test]
async fn a_peer_by_path_is_believed_when_the_file_says_unix() {
    let folder = folder();
    let front = folder.path().join("front.sock");
    let backend = Recorder::start().await;
    let yaml = listening_at(&front, backend.address(), &["proxy_protocol: optional"], &[]);
    let _stickpin = Stickpin::start(&format!("trusted_proxies: [unix]\n{yaml}"));
    for (sent, expected) in [
        (GET.to_owned(), "127.0.0.1"),
        (format!("PROXY TCP4 192.0.2.7 198.51.100.1 5 443\r\n{GET}"), "192.0.2.7"),
        ("GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n".to_owned(), "203.0.113.9, 127.0.0.1"),
    ] {
        let mut peer = Peer::at(&at(&front)).await;
        for piece in sent.as_bytes().chunks(7) {
            peer.send(piece).await;
        }
        assert_eq!(peer.reply().await.0.status(), 200);
        assert_eq!(backend.last_head().value("x-forwarded-for"), Some(expected));
    }
}

#[tokio::test]
async fn a_backend_whose_file_is_gone_is_dead_and_lives_again_with_it() {
    let folder = folder();
    let app = folder.path().join("app1.sock");
    let yaml = config(at(&app), &[], &["timeouts: { connect: 500ms }"]);
    let health = "health: { tcp: { interval: 100ms, suspect_interval: 50ms } }";
    let stickpin = Stickpin::start(&yaml.replace("health: off", health));
    let mut admin = stickpin.admin();
    admin.until_health("app", "app1", "unhealthy").await;
    assert_eq!(admin.backend("app", "app1").await["memory"], "gone", "nobody listens: its process is gone");
    let mut peer = Peer::sending(stickpin.front(), GET).await;
    assert_eq!(peer.reply().await.0.status(), 503);

    let backend = UnixRecorder::start(&app);
    admin.until_health("app", "app1", "healthy").await;
    peer.send(GET).await;
    assert_eq!(peer.reply().await.0.status(), 200);
    assert_eq!(backend.heard().requests.len(), 1);
}

#[tokio::test]
async fn a_stale_file_is_replaced_and_a_live_one_is_not() {
    let (folder, backend) = (folder(), Recorder::start().await);
    let path = folder.path().join("front.sock");
    let start = async || {
        StickpinProcess::start(|_, admin| {
            let yaml = listening_at(&path, backend.address(), &[], &[]);
            yaml.replace("admin:\n  address: 127.0.0.1:0", &format!("admin:\n  address: {admin}"))
        })
        .await
    };
    let mut first = start().await;
    let asked = async || Peer::at(&at(&path)).await.reply_to(GET).await;
    assert_eq!(asked().await, 200);

    // A second one must not take its place.
    let again =
        Command::new(env!("CARGO_BIN_EXE_stickpin")).arg("run").arg("--config").arg(first.config_file()).output();
    let again = again.expect("the program can be started");
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(!again.status.success() && said.contains("somebody listens there already"), "{said}");
    assert_eq!(asked().await, 200);

    first.kill();
    assert!(path.exists(), "killed, it leaves its file");
    let mut second = start().await;
    assert_eq!(asked().await, 200);
    assert!(second.terminate().await.success());
    assert!(!path.exists(), "told to end, it removes it");
    drop(UnixListener::bind(&path).expect("the path is free"));
}

#[tokio::test]
async fn connections_by_path_survive_a_reload() {
    let (folder, backend) = (folder(), Recorder::start().await);
    let path = folder.path().join("front.sock");
    let stickpin = StickpinProcess::start(|_, admin| {
        let yaml = listening_at(&path, backend.address(), &[], &[]);
        yaml.replace("admin:\n  address: 127.0.0.1:0", &format!("admin:\n  address: {admin}"))
    })
    .await;
    let mut peer = Peer::at(&at(&path)).await;
    assert_eq!(peer.reply_to(GET).await, 200);
    let mut admin = stickpin.admin();
    assert_eq!(admin.reload().await.status, 200);
    assert_eq!(peer.reply_to(GET).await, 200);
    until("it was counted", async || {
        let connections = admin.metric("stickpin_connections", &[]).await;
        if connections == 1.0 { Ok(()) } else { Err(connections) }
    })
    .await;
}
