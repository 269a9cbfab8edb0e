//! TLS towards backends: who is trusted under which name, what we show, and what is said when it does not fit.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use rustls::HandshakeKind;

use crate::support::made::{Ca, days};
use crate::support::raw::{Peer, config};
use crate::support::tls::Files;
use crate::support::tls_backend::TlsRecorder;
use crate::support::{Stickpin, StickpinProcess, until};

const GET: &str = "GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n";

fn yaml(backend: SocketAddr, tls: &str) -> String {
    config(backend, &[], &[&format!("tls: {{ {tls} }}")])
}

async fn status(front: SocketAddr) -> u16 {
    Peer::sending(front, GET).await.reply().await.0.status()
}

fn process_yaml(front: SocketAddr, admin: SocketAddr, backend: SocketAddr, pool: &str) -> String {
    format!(
        "workers: 1\nlisteners: [ \"{front}\" ]\nadmin: {{ address: \"{admin}\" }}\npools:\n  app:\n    {pool}\n    \
         backends: [ {{ name: app1, address: \"{backend}\" }} ]\n"
    )
}

#[tokio::test]
async fn a_backend_is_trusted_whose_certificate_is_of_the_ca_and_has_the_name() {
    let (files, ca, other) = (Files::new(), Ca::new("ca"), Ca::new("another"));
    let path = files.write("ca.pem", ca.pem());
    let ca_file = path.display();
    let named = "server_name: inner.example";
    let rows = [
        ("as it should be", ca.server(&["inner.example"], days(-1, 1)), named, 200),
        ("another name", ca.server(&["outer.example"], days(-1, 1)), named, 503),
        ("no name asked for: the address counts", ca.server(&["inner.example"], days(-1, 1)), "verify: true", 503),
        ("expired", ca.server(&["inner.example"], days(-2, -1)), named, 503),
        ("not good yet", ca.server(&["inner.example"], days(1, 2)), named, 503),
        ("of another CA", other.server(&["inner.example"], days(-1, 1)), named, 503),
        ("of another CA, which nobody asks for", other.server(&["x"], days(-1, 1)), "verify: false", 200),
    ];
    for (what, made, setting, expected) in rows {
        let backend = TlsRecorder::start(&made, None).await;
        let stickpin = Stickpin::start(&yaml(backend.address(), &format!("ca_file: \"{ca_file}\", {setting}")));
        assert_eq!(status(stickpin.front()).await, expected, "{what}");
        assert_eq!(backend.heard().requests.len(), usize::from(expected == 200), "{what}");
    }
}

#[tokio::test]
async fn a_connection_within_tls_is_used_again_and_a_session_is_resumed() {
    let (files, ca) = (Files::new(), Ca::new("ca"));
    let backend = TlsRecorder::start(&ca.server(&["inner.example"], days(-1, 1)), None).await;
    let ca_file = files.write("ca.pem", ca.pem());
    let tls = format!("ca_file: \"{}\", server_name: inner.example", ca_file.display());
    let stickpin = Stickpin::start(&yaml(backend.address(), &tls));
    let mut client = Peer::connect(stickpin.front()).await;
    for _ in 0..3 {
        client.send(GET).await;
        assert_eq!(client.reply().await.0.status(), 200);
    }
    assert_eq!(backend.heard().by_connection, [3], "tickets that come unasked do not make it stale");
    assert_eq!(backend.shaken()[0].name.as_deref(), Some("inner.example"));
    // Idle connections are closed after a while.
    until("another connection is made", async || {
        client.send(GET).await;
        assert_eq!(client.reply().await.0.status(), 200);
        if backend.shaken().len() > 1 {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        Err("not yet")
    })
    .await;
    assert_eq!(backend.shaken()[1].kind, HandshakeKind::Resumed);
}

#[tokio::test]
async fn a_backend_that_asks_for_a_certificate_is_shown_ours_in_probes_too() {
    let (files, ca, clients) = (Files::new(), Ca::new("ca"), Ca::new("clients"));
    let backend = TlsRecorder::start(&ca.server(&["inner.example"], days(-1, 1)), Some(&clients)).await;
    let ca_file = files.write("ca.pem", ca.pem());
    let own = clients.server(&["stickpin.example"], days(-1, 1));
    let item = files.certificate("own", &own);
    let tls = |more: &str| format!("tls: {{ ca_file: \"{}\", server_name: inner.example{more} }}", ca_file.display());
    let pool = tls(&format!(", client_certificate: {item}"));
    let health = "health: { http: { interval: 100ms } }";
    let stickpin = StickpinProcess::start(|front, admin| {
        process_yaml(front, admin, backend.address(), &format!("{pool}\n    {health}"))
    })
    .await;
    assert_eq!(status(stickpin.front()).await, 200);
    assert!(backend.shaken().iter().all(|shaken| shaken.certificate.as_ref() == Some(&own.der)));
    let heard = backend.heard();
    assert!(heard.requests.iter().any(|(head, _)| head.value("user-agent") == Some("stickpin-probe")), "{heard:?}");

    let stickpin = Stickpin::start(&config(backend.address(), &[], &[&tls("")]));
    assert!(matches!(status(stickpin.front()).await, 502 | 503), "with TLS 1.3 it is only told later");
}

#[tokio::test]
async fn anybody_being_trusted_is_said_loudly_at_each_start_and_reload_and_by_check() {
    let made = Ca::new("ca").server(&["x"], days(-1, 1));
    let backend = TlsRecorder::start(&made, None).await;
    let stickpin = StickpinProcess::start(|front, admin| {
        process_yaml(front, admin, backend.address(), "tls: { verify: false }\n    health: off")
    })
    .await;
    assert_eq!(status(stickpin.front()).await, 200);
    let told = || stickpin.stderr().matches("pools.app.tls.verify: false").count();
    assert_eq!(told(), 1);
    assert_eq!(stickpin.admin().reload().await.status, 200);
    assert_eq!(told(), 2);
    let check =
        Command::new(env!("CARGO_BIN_EXE_stickpin")).args(["check", "--config"]).arg(stickpin.config_file()).output();
    let check = check.expect("the program can be started");
    assert!(check.status.success(), "{check:?}");
    assert!(String::from_utf8_lossy(&check.stderr).contains("warning: pools.app.tls.verify: false"), "{check:?}");
}

#[tokio::test]
async fn a_reload_with_a_bad_ca_changes_nothing_and_one_with_another_ca_takes_effect() {
    let (files, ca, other) = (Files::new(), Ca::new("ca"), Ca::new("another"));
    let backend = TlsRecorder::start(&ca.server(&["inner.example"], days(-1, 1)), None).await;
    let ca_file = files.write("ca.pem", ca.pem());
    let pool = format!("health: off\n    tls: {{ ca_file: \"{}\", server_name: inner.example }}", ca_file.display());
    let stickpin = StickpinProcess::start(|front, admin| process_yaml(front, admin, backend.address(), &pool)).await;
    assert_eq!(status(stickpin.front()).await, 200);
    fs::write(&ca_file, "nothing").expect("a writable folder");
    let reply = stickpin.admin().reload().await;
    assert!(reply.status != 200, "{}", reply.text());
    assert!(reply.text().contains("pools.app.tls") && reply.text().contains("ca.pem"), "{}", reply.text());
    assert_eq!(status(stickpin.front()).await, 200);
    assert_eq!(backend.heard().by_connection, [2], "the connection stays");

    files.write("ca.pem", other.pem());
    assert_eq!(stickpin.admin().reload().await.status, 200);
    assert_eq!(status(stickpin.front()).await, 503, "the idle connection is not used under other settings");
    until("it is told why", async || {
        let log = stickpin.stderr();
        if log.contains("requests fail because of TLS") { Ok(()) } else { Err(log) }
    })
    .await;
    assert_eq!(status(stickpin.front()).await, 503);
    assert_eq!(stickpin.stderr().matches("requests fail because of TLS").count(), 1, "once");
}
