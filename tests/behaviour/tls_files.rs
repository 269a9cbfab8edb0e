//! Files of TLS that change while the program runs, and files that are wrong: at start, in a reload, and by themselves.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::events::Listener;
use crate::support::made::{Ca, Made, days};
use crate::support::raw::{Peer, Recorder};
use crate::support::tls::{Files, TlsClient, turn};
use crate::support::{StickpinProcess, until};

fn yaml(backend: SocketAddr, front: SocketAddr, admin: SocketAddr, tls: &str) -> String {
    format!(
        "workers: 2\nlisteners:\n  - address: \"{front}\"\n    tls: {{ {tls} }}\nadmin: {{ address: \"{admin}\" }}\npools:\n  \
         app:\n    health: off\n    backends: [ {{ name: app1, address: \"{backend}\" }} ]\n"
    )
}

/// The real program in front of a backend, with what `tls` has.
async fn start(backend: &Recorder, tls: &str) -> StickpinProcess {
    StickpinProcess::start(|front, admin| yaml(backend.address(), front, admin, tls)).await
}

fn reconfigure(stickpin: &StickpinProcess, backend: &Recorder, tls: &str) {
    stickpin.write_config(&yaml(backend.address(), stickpin.front(), stickpin.admin_address(), tls));
}

async fn shown(stickpin: &StickpinProcess, name: &str) -> rustls::pki_types::CertificateDer<'static> {
    TlsClient::new().connect(stickpin.front(), name).await.expect("a connection").certificate()
}

async fn until_shown(stickpin: &StickpinProcess, name: &str, made: &Made) {
    until("the other certificate is shown", async || {
        if shown(stickpin, name).await == made.der { Ok(()) } else { Err("another") }
    })
    .await;
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_new_connections_and_old_ones_go_on() {
    let (backend, files, ca) = (Recorder::start().await, Files::new(), Ca::new("ca"));
    let [old, new, newest] = [1, 2, 3].map(|_| ca.server(&["shop.example"], days(-1, 1)));
    // As Kubernetes lays them: the files are links through a folder that is itself a link, which is turned in one step.
    for (folder, made) in [("v1", &old), ("v2", &new), ("v3", &newest)] {
        fs::create_dir(files.path(folder)).expect("a writable folder");
        files.certificate(&format!("{folder}/tls"), made);
    }
    std::os::unix::fs::symlink("v1", files.path("data")).expect("a writable folder");
    let link = |name: &str| {
        std::os::unix::fs::symlink(format!("data/tls.{name}"), files.path(name)).expect("a writable folder");
        files.path(name).display().to_string()
    };
    let item = format!("{{ cert_file: \"{}\", key_file: \"{}\" }}", link("pem"), link("key"));
    let stickpin = start(&backend, &format!("certificates: [ {item} ]")).await;
    let mut events = Listener::of(&stickpin).await;
    let mut open = TlsClient::new().connect(stickpin.front(), "shop.example").await.expect("a connection");
    open.get("/", "").await.expect("a reply");
    assert_eq!(open.certificate(), old.der);

    turn(&files.path("data"), "v2");
    until_shown(&stickpin, "shop.example", &new).await;
    let event = events.next("tls_files").await;
    assert_eq!((&event["listener"], &event["result"]), (&json!("listeners[0]"), &json!("ok")), "{event}");
    open.get("/", "").await.expect("the connection goes on");

    // By signal without waiting.
    turn(&files.path("data"), "v3");
    assert_eq!(stickpin.admin().reload().await.status, 200);
    assert_eq!(shown(&stickpin, "shop.example").await, newest.der);
    open.get("/", "").await.expect("the connection goes on");
}

#[tokio::test]
async fn a_bad_certificate_changes_nothing_is_told_once_and_does_not_keep_others_from_being_renewed() {
    let (backend, files, ca) = (Recorder::start().await, Files::new(), Ca::new("ca"));
    let [shop, renewed_shop] = [1, 2].map(|_| ca.server(&["shop.example"], days(-1, 1)));
    let [blog, renewed_blog] = [1, 2].map(|_| ca.server(&["blog.example"], days(-1, 1)));
    let items = [files.certificate("shop", &shop), files.certificate("blog", &blog)].join(", ");
    let stickpin = start(&backend, &format!("certificates: [ {items} ]")).await;
    let (mut admin, mut events) = (stickpin.admin(), Listener::of(&stickpin).await);
    let mut failures = async |count: f64| {
        until("the failure is counted", async || {
            let found = admin.metric("stickpin_tls_file_changes_total", &["result=\"failed\""]).await;
            if found == count { Ok(()) } else { Err(found) }
        })
        .await;
    };

    // The certificate without its key.
    files.write("shop.pem", &renewed_shop.chain);
    failures(1.0).await;
    let event = events.next("tls_files").await;
    assert!(event["error"].as_str().is_some_and(|error| error.contains("private key is not that")), "{event}");
    files.write("blog.pem", &renewed_blog.chain);
    files.write("blog.key", &renewed_blog.key);
    until_shown(&stickpin, "blog.example", &renewed_blog).await;
    assert_eq!(shown(&stickpin, "shop.example").await, shop.der);
    let told = stickpin.stderr();
    assert_eq!(told.matches("cannot be used").count(), 1, "{told}");

    files.write("shop.pem", "");
    failures(2.0).await;
    fs::remove_file(files.path("shop.pem")).expect("it is there");
    failures(3.0).await;
    assert_eq!(shown(&stickpin, "shop.example").await, shop.der);
    files.write("shop.pem", &renewed_shop.chain);
    files.write("shop.key", &renewed_shop.key);
    until_shown(&stickpin, "shop.example", &renewed_shop).await;
}

#[tokio::test]
async fn a_reload_takes_other_settings_of_tls_and_one_with_a_bad_certificate_changes_nothing() {
    let (backend, files, ca) = (Recorder::start().await, Files::new(), Ca::new("ca"));
    let [shop, blog] = ["shop.example", "blog.example"].map(|name| ca.server(&[name], days(-1, 1)));
    let (shop_item, blog_item) = (files.certificate("shop", &shop), files.certificate("blog", &blog));
    let stickpin = start(&backend, &format!("certificates: [ {shop_item} ]")).await;
    let client = TlsClient::new();
    client.visit(stickpin.front(), "shop.example").await;
    assert_eq!(shown(&stickpin, "blog.example").await, shop.der);

    let tls = format!("certificates: [ {shop_item}, {blog_item} ], min_version: 1.3 }}\n    hsts: {{ max_age: 1d");
    reconfigure(&stickpin, &backend, &tls);
    let reply = stickpin.admin().reload().await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(shown(&stickpin, "blog.example").await, blog.der);
    TlsClient::speaking(&rustls::version::TLS12).connect(stickpin.front(), "shop.example").await.expect_err("too old");
    let mut peer = client.connect(stickpin.front(), "shop.example").await.expect("a connection");
    assert_eq!(peer.kind(), rustls::HandshakeKind::Resumed, "tickets outlive a reload");
    let (head, _) = peer.get("/", "").await.expect("a reply");
    assert_eq!(head.value("strict-transport-security"), Some("max-age=86400"));
    assert!(!stickpin.stderr().contains("takes effect at the next start"), "{}", stickpin.stderr());

    files.write("blog.pem", "nothing");
    reconfigure(&stickpin, &backend, &format!("certificates: [ {blog_item} ]"));
    let reply = stickpin.admin().reload().await;
    assert_ne!(reply.status, 200, "{}", reply.text());
    assert!(reply.text().contains("expected a certificate in PEM form"), "{}", reply.text());
    assert_eq!(shown(&stickpin, "shop.example").await, shop.der);
    assert_eq!(shown(&stickpin, "blog.example").await, blog.der);
}

/// What `stickpin check` says of a file with this in `tls`, and how it ends.
fn check(folder: &Path, tls: &str) -> (Option<i32>, String) {
    let text = format!(
        "listeners: [ {{ address: '127.0.0.1:443', tls: {{ {tls} }} }} ]\npools: {{ p: {{ backends: ['127.0.0.1:1'] }} }}\n"
    );
    fs::write(folder.join("my.yaml"), text).expect("a writable folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_stickpin"));
    let output = command.args(["check", "--config", "my.yaml"]).current_dir(folder).output().expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn check_tells_what_is_wrong_with_the_files_and_warns_of_what_is_odd() {
    let files = Files::new();
    let folder = files.path("");
    let ca = Ca::new("ca");
    files.certificate("good", &ca.server(&["a.example"], days(-1, 1)));
    files.certificate("late", &ca.server(&["a.example"], days(-3, -1)));
    files.certificate("early", &ca.server(&["a.example"], days(1, 3)));
    files.write("empty.pem", "");
    files.write(
        "odd.pem",
        format!("{}{}", fs::read_to_string(files.path("good.pem")).expect("it is there"), Ca::new("b").pem()),
    );
    let item = |cert: &str, key: &str| format!("certificates: [ {{ cert_file: {cert}.pem, key_file: {key}.key }} ]");
    for (tls, code, expected) in [
        (item("good", "good"), 0, ""),
        (
            item("late", "late"),
            0,
            "my.yaml: warning: listeners[0].tls.certificates[0]: ./late.pem: the certificate has expired\n",
        ),
        (item("early", "early"), 0, "the certificate is not good yet\n"),
        (item("odd", "good"), 0, "certificate 2 of the file did not issue the one before it"),
        (item("good", "late"), 1, "./good.pem: the private key is not that of the certificate"),
        (item("empty", "good"), 1, "./empty.pem: expected a certificate in PEM form"),
        (item("none", "good"), 1, "reading ./none.pem: No such file"),
        (
            format!("{}, session_tickets: {{ keys_file: empty.pem }}", item("good", "good")),
            1,
            "session_tickets.keys_file: ./empty.pem: expected at least one key",
        ),
        (
            format!("{}, client_certificates: {{ mode: optional, ca_file: good.key }}", item("good", "good")),
            1,
            "client_certificates.ca_file: ./good.key: expected at least one certificate in PEM, found none",
        ),
        (
            item("good", "good").replace(" }", ", ocsp_file: good.pem }"),
            0,
            "ocsp_file: expected the DER form of an OCSP response",
        ),
    ] {
        let (found, text) = check(&folder, &tls);
        assert_eq!(found, Some(code), "{tls}: {text}");
        assert!(if expected.is_empty() { text.is_empty() } else { text.contains(expected) }, "{tls}: {text}");
    }
}

/// An expired one would be as good as none: whoever renews has mistaken the file.
#[tokio::test]
async fn a_certificate_that_has_expired_does_not_take_the_place_of_a_good_one() {
    let (backend, files, ca) = (Recorder::start().await, Files::new(), Ca::new("ca"));
    let [good, renewed] = [1, 2].map(|_| ca.server(&["shop.example"], days(-1, 1)));
    let expired = ca.server(&["shop.example"], days(-3, -1));
    let item = files.certificate("shop", &good);
    let stickpin = start(&backend, &format!("certificates: [ {item} ]")).await;
    let mut events = Listener::of(&stickpin).await;
    files.certificate("shop", &expired);
    let event = events.next("tls_files").await;
    assert!(event["error"].as_str().is_some_and(|error| error.contains("has expired")), "{event}");
    assert_eq!(shown(&stickpin, "shop.example").await, good.der);
    let reply = stickpin.admin().reload().await;
    assert!(reply.status == 422 && reply.text().contains("has expired"), "{} {}", reply.status, reply.text());
    assert_eq!(shown(&stickpin, "shop.example").await, good.der);
    files.certificate("shop", &renewed);
    until_shown(&stickpin, "shop.example", &renewed).await;
}

#[tokio::test]
async fn a_certificate_is_renewed_though_its_ocsp_response_is_gone() {
    let (backend, files, ca) = (Recorder::start().await, Files::new(), Ca::new("ca"));
    let [good, renewed] = [1, 2].map(|_| ca.server(&["shop.example"], days(-1, 1)));
    let ocsp = files.write("shop.ocsp", "whatever");
    let item = files.certificate("shop", &good).replace(" }", &format!(", ocsp_file: \"{}\" }}", ocsp.display()));
    let stickpin = start(&backend, &format!("certificates: [ {item} ]")).await;
    fs::remove_file(ocsp).expect("it is there");
    files.certificate("shop", &renewed);
    until_shown(&stickpin, "shop.example", &renewed).await;
}

#[tokio::test]
async fn a_client_that_has_not_begun_its_handshake_does_not_hold_up_a_stop() {
    let (backend, files) = (Recorder::start().await, Files::new());
    let item = files.certificate("shop", &Ca::new("ca").server(&["shop.example"], days(-1, 1)));
    let tls = format!("certificates: [ {item} ], handshake_timeout: 1h");
    let mut stickpin = StickpinProcess::start(|front, admin| {
        format!("stop_deadline: 1h\n{}", yaml(backend.address(), front, admin, &tls))
    })
    .await;
    let mut silent = Peer::connect(stickpin.front()).await;
    assert!(stickpin.terminate().await.success());
    silent.gone().await;
}

#[tokio::test]
async fn certificates_are_renewed_by_a_reload_that_also_names_another_listener() {
    let (backend, files, ca) = (Recorder::start().await, Files::new(), Ca::new("ca"));
    let [old, new] = [1, 2].map(|_| ca.server(&["shop.example"], days(-1, 1)));
    let (old_item, new_item) = (files.certificate("old", &old), files.certificate("new", &new));
    let stickpin = start(&backend, &format!("certificates: [ {old_item} ]")).await;
    fs::remove_file(files.path("old.key")).expect("it is there");
    let tls = format!("certificates: [ {new_item} ] }}\n  - address: 127.0.0.1:1\n    hsts: {{ max_age: 1d");
    reconfigure(&stickpin, &backend, &tls);
    let reply = stickpin.admin().reload().await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(shown(&stickpin, "shop.example").await, new.der);
    assert!(stickpin.stderr().contains("takes effect at the next start"), "{}", stickpin.stderr());
}

#[tokio::test]
async fn an_expired_certificate_and_an_open_key_are_told_loudly_and_do_not_keep_it_from_starting() {
    let (backend, files) = (Recorder::start().await, Files::new());
    let item = files.certificate("late", &Ca::new("ca").server(&["shop.example"], days(-3, -1)));
    fs::set_permissions(files.path("late.key"), fs::Permissions::from_mode(0o644)).expect("our own file");
    let stickpin = start(&backend, &format!("certificates: [ {item} ]")).await;
    TlsClient::new().visit(stickpin.front(), "shop.example").await;
    let told = stickpin.stderr();
    assert!(told.contains("ERROR") && told.contains("the certificate has expired"), "{told}");
    assert!(told.contains("a secret that every user of this machine can reach"), "{told}");
}
