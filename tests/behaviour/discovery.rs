//! Backends that do not stand in the file: from DNS, from a watched file, from the admin API.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use crate::crowd::{Crowd, Customer, customers};
use crate::shop::{Shop, client_at, is_logged_in_at, log_in, told, who_am_i};
use crate::support::dns::{DnsServer, Mode, Record};
use crate::support::{Admin, Backend, SessionApp, StickpinProcess, until};

/// Session apps at 127.0.0.1, 127.0.0.2 and so on, all at one port, as pods are.
fn pods<const N: usize>(names: [&str; N]) -> ([SessionApp; N], u16) {
    for _ in 0..100 {
        let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port is free");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let started: Vec<SessionApp> =
            (1..).zip(names).map_while(|(n, name)| SessionApp::start(name, pod(n, port)).ok()).collect();
        if let Ok(started) = started.try_into() {
            return (started, port);
        }
    }
    panic!("no port is free at {N} addresses");
}

fn pod(n: u8, port: u16) -> SocketAddr {
    (Ipv4Addr::new(127, 0, 0, n), port).into()
}

fn addresses(pods: &[u8]) -> Vec<Record> {
    pods.iter().map(|n| Record::Address(pod(*n, 1).ip())).collect()
}

/// A pool that is filled from this name server.
fn from_dns(server: &DnsServer, settings: &str) -> Shop {
    let server = server.address();
    Shop::of([]).pool(&format!(
        "backends_from: {{ dns: {{ {settings}, refresh: 100ms, timeout: 1s, servers: [\"{server}\"] }} }}"
    ))
}

async fn source(admin: &mut Admin, source: &str) -> Value {
    let pool = admin.pool("shop").await;
    let sources = pool["backends_from"].as_array().cloned().unwrap_or_default();
    sources.into_iter().find(|it| it["source"] == source).unwrap_or_default()
}

/// Waits until a source has failed at least once more, and says why.
async fn until_failed(admin: &mut Admin, of: &str) -> String {
    let before = source(admin, of).await["failures"].as_u64().expect("a number");
    until(&format!("{of} has failed"), async || {
        let view = source(admin, of).await;
        let error = view["error"].as_str().map(str::to_owned);
        error.filter(|_| view["failures"].as_u64() > Some(before)).ok_or(view)
    })
    .await
}

#[tokio::test]
async fn an_address_that_appears_moves_nobody_and_one_that_goes_its_own_clients() {
    let ([_red, _green, _blue], port) = pods(["red", "green", "blue"]);
    let names = [1, 2, 3].map(|n| pod(n, port).to_string());
    let [red, green, blue] = [0, 1, 2].map(|n| names[n].as_str());
    let server = DnsServer::start();
    server.set("app.example", addresses(&[1, 2]));
    let stickpin = from_dns(&server, &format!("name: app.example, port: {port}")).open().await;
    let mut admin = stickpin.admin();
    admin.until_backends("shop", &[red, green]).await;
    let view = admin.backend("shop", red).await;
    assert_eq!((&view["source"], &view["health"]), (&json!("dns"), &json!("healthy")), "ready when it is measured");

    let crowd = Crowd::start(customers(&stickpin, 30).await);
    server.set("app.example", addresses(&[3, 2, 1]));
    admin.until_health("shop", blue, "healthy").await;
    crowd.rounds(3).await;
    assert_eq!(admin.reload().await.status, 200);
    admin.until_backends("shop", &[red, green, blue]).await;
    crowd.rounds(1).await;
    let _at_blue = client_at(&stickpin, "blue").await;
    server.set("app.example", addresses(&[2, 3]));
    admin.until_backends("shop", &[green, blue]).await;
    crowd.rounds(3).await;
    let (orphans, others): (Vec<_>, Vec<_>) = crowd.stop().await.into_iter().partition(|it| it.home == "red");
    others.iter().for_each(Customer::assert_undisturbed);
    assert!(!orphans.is_empty() && !others.is_empty());
    for orphan in &orphans {
        assert!(orphan.failures().is_empty() && orphan.path().len() == 2, "{orphan:?}");
        let [told] = orphan.told()[..] else { panic!("told more or less than once: {orphan:?}") };
        assert_eq!(told["rehome_reason"], "removed");
    }
    assert_eq!(admin.metric("stickpin_rehomes_total", &["reason=\"removed\""]).await, orphans.len() as f64);
    assert_eq!(admin.metric("stickpin_discovered_backends", &["source=\"dns\""]).await, 2.0);
    assert!(admin.metric("stickpin_discovery_last_success_timestamp_seconds", &[]).await > 1.0e9);
    assert_eq!(admin.metric("stickpin_discovery_failures_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_resolver_that_fails_in_any_way_keeps_the_list_and_nobody_notices() {
    let ([_red, _green], port) = pods(["red", "green"]);
    let [red, green] = [1, 2].map(|n| pod(n, port).to_string());
    let server = DnsServer::start();
    server.set("app.example", addresses(&[1, 2]));
    let stickpin = from_dns(&server, &format!("name: app.example, port: {port}")).open().await;
    let mut admin = stickpin.admin();
    let crowd = Crowd::start(customers(&stickpin, 20).await);
    let modes = [Mode::NoSuchName, Mode::Empty, Mode::Failure, Mode::Garbage, Mode::Silence];
    for (times, mode) in (1..).zip(modes) {
        server.mode(mode);
        for _ in 0..2 {
            let error = until_failed(&mut admin, "dns").await;
            assert!(!error.is_empty(), "{mode:?}");
        }
        admin.until_backends("shop", &[&red, &green]).await;
        server.mode(Mode::Well);
        until("it answers again", async || match source(&mut admin, "dns").await {
            view if view["error"].is_null() => Ok(()),
            view => Err(view),
        })
        .await;
        let warned = stickpin.stderr().matches("no backends could be found").count();
        assert_eq!(warned, times, "told once each time: {}", stickpin.stderr());
    }
    drop(server);
    until_failed(&mut admin, "dns").await;
    crowd.rounds(3).await;
    let everybody = crowd.stop().await;
    everybody.iter().for_each(Customer::assert_undisturbed);
    admin.until_backends("shop", &[&red, &green]).await;
    assert!(admin.metric("stickpin_discovery_failures_total", &["source=\"dns\""]).await >= 11.0);
}

#[tokio::test]
async fn a_list_that_is_too_long_for_a_datagram_comes_over_tcp_and_flapping_takes_nobody_out() {
    let ([_red, _green], port) = pods(["red", "green"]);
    let [red, green] = [1, 2].map(|n| pod(n, port).to_string());
    let server = DnsServer::start();
    server.mode(Mode::Truncated);
    server.set("app.example", addresses(&[1, 2]));
    let stickpin = from_dns(&server, &format!("name: app.example, port: {port}")).open().await;
    let mut admin = stickpin.admin();
    admin.until_backends("shop", &[&red, &green]).await;
    server.mode(Mode::Well);

    let crowd = Crowd::start(customers(&stickpin, 20).await);
    let generation = admin.get("/api/v1/pools").await.json()["generation"].clone();
    server.mode(Mode::Flapping);
    let asked = server.queries();
    until("ten answers were given", async || match server.queries() - asked {
        10.. => Ok(()),
        fewer => Err(fewer),
    })
    .await;
    crowd.rounds(2).await;
    let everybody = crowd.stop().await;
    everybody.iter().for_each(Customer::assert_undisturbed);
    let after = admin.get("/api/v1/pools").await.json()["generation"].clone();
    assert_eq!(generation, after, "nothing was published, because nothing changed");
}

#[tokio::test]
async fn srv_records_bring_ports_and_weights_and_a_reused_address_is_another_backend() {
    let apps = ["red", "green"].map(Backend::start);
    let [red, green] = [0, 1].map(|n| apps[n].address().port());
    let server = DnsServer::start();
    let local = || [Record::Address(IpAddr::V4(Ipv4Addr::LOCALHOST))];
    for target in ["a.app.example", "b.app.example", "c.app.example"] {
        server.set(target, local());
    }
    let service = "_http._tcp.app.example";
    server.set(
        service,
        [
            Record::Srv(0, 5, red, "a.app.example"),
            Record::Srv(0, 0, green, "b.app.example"),
            Record::Srv(0, 1, 1, "gone.app.example"),
        ],
    );
    let stickpin = from_dns(&server, &format!("name: {service}, record: srv")).open().await;
    let mut admin = stickpin.admin();
    let (a, b, c) = (format!("a.app.example:{red}"), format!("b.app.example:{green}"), format!("c.app.example:{red}"));
    admin.until_backends("shop", &[&a, &b]).await;
    for (name, weight) in [(&a, 5), (&b, 1)] {
        assert_eq!(admin.backend("shop", name).await["weight"], weight, "{name}");
    }

    // Same address and port, another name: whoever was pinned to the old one does not follow.
    let mut at_red = client_at(&stickpin, "red").await;
    server.set(service, [Record::Srv(0, 5, red, "c.app.example"), Record::Srv(0, 0, green, "b.app.example")]);
    admin.until_backends("shop", &[&b, &c]).await;
    let reply = who_am_i(&mut at_red).await;
    assert_eq!(told(&reply), ["removed"; 3].map(str::to_owned), "{}", reply.text());
    assert_eq!(admin.metric("stickpin_rehomes_total", &["reason=\"removed\""]).await, 1.0);

    // Another address, same name: the client follows.
    let mut at_green = client_at(&stickpin, "green").await;
    let moved = SessionApp::start("moved", pod(2, green)).expect("nobody else is there");
    server.set("b.app.example", addresses(&[2]));
    until("b has moved", async || match admin.backend("shop", &b).await {
        view if view["address"] == moved.address().to_string() => Ok(()),
        view => Err(view),
    })
    .await;
    assert_eq!(who_am_i(&mut at_green).await.served_by(), "moved");
}

/// The name server dies, Stickpin is started again, and still knows whom it had found, and what was ordered.
#[tokio::test]
async fn what_was_found_and_what_was_ordered_outlive_a_restart_without_a_resolver() {
    let ([_red, _green], port) = pods(["red", "green"]);
    let [red, green] = [1, 2].map(|n| pod(n, port).to_string());
    let (state, server) = (tempfile::tempdir().unwrap(), DnsServer::start());
    server.set("app.example", addresses(&[1, 2]));
    let shop = from_dns(&server, &format!("name: app.example, port: {port}"))
        .top(&format!("state_dir: {}", state.path().display()));
    let mut stickpin = shop.open().await;
    stickpin.admin().until_backends("shop", &[&red, &green]).await;
    let mut client = client_at(&stickpin, "green").await;
    stickpin.admin().set_state("shop", &red, "disabled").await;
    let order = format!("/api/v1/pools/shop/backends/{green}/weight");
    assert_eq!(stickpin.admin().put(&order, &json!({ "weight": 7 })).await.status, 200);
    stickpin.terminate().await;
    drop(server);

    let stickpin = shop.open().await;
    let mut admin = stickpin.admin();
    admin.until_backends("shop", &[&red, &green]).await;
    assert_eq!(admin.backend("shop", &red).await["admin_state"], "disabled");
    assert_eq!(admin.backend("shop", &green).await["weight"], 7);
    until_failed(&mut admin, "dns").await;
    client.disconnect();
    let mut moved = stickpin.client();
    moved.cookies = client.cookies;
    assert!(is_logged_in_at(&who_am_i(&mut moved).await, "green"));
}

/// Replaces a file at once.
fn replace(file: &Path, text: &str) {
    let draft = file.with_extension("draft");
    fs::write(&draft, text).and_then(|()| fs::rename(&draft, file)).expect("a writable folder");
}

fn yaml_list(backends: &[(&str, &Backend)]) -> String {
    if backends.is_empty() {
        return "[]".to_owned();
    }
    backends.iter().map(|(name, it)| format!("- {{ name: {name}, address: \"{}\" }}\n", it.address())).collect()
}

#[tokio::test]
async fn a_watched_file_is_followed_and_one_that_is_broken_changes_nothing_and_says_why_once() {
    let (red, green) = (Backend::start("red"), Backend::start("green"));
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("list.yaml"), folder.path().join("backends.yaml"));
    fs::write(&file, yaml_list(&[("red", &red), ("green", &green)])).unwrap();
    symlink(&file, &link).unwrap();
    let shop = Shop::of([]).pool(&format!("backends_from: {{ file: \"{}\" }}", link.display()));
    let stickpin = shop.open().await;
    let mut admin = stickpin.admin();
    admin.until_backends("shop", &["red", "green"]).await;
    assert_eq!(admin.backend("shop", "red").await["source"], "watched_file");

    let crowd = Crowd::start(customers(&stickpin, 20).await);
    for (times, (broken, why)) in (1..).zip([
        ("- { name: red, address: 127.0.0.1:99999 }\n", "[0].address: expected an IP address and port"),
        ("", "expected a list of backends, found an empty file"),
        ("- {", "expected valid YAML"),
    ]) {
        replace(&file, broken);
        let error = until_failed(&mut admin, "watched_file").await;
        assert!(error.contains(why), "{error}");
        admin.until_backends("shop", &["red", "green"]).await;
        let warned = stickpin.stderr().matches("no backends could be found").count();
        assert_eq!(warned, times, "told once each: {}", stickpin.stderr());
    }
    fs::remove_file(&link).unwrap();
    let error = until_failed(&mut admin, "watched_file").await;
    assert!(error.contains("backends.yaml"), "{error}");
    crowd.rounds(2).await;
    crowd.stop().await.iter().for_each(Customer::assert_undisturbed);

    // As Kubernetes swaps a folder; and the address of one belongs to another name now.
    let mut at_red = client_at(&stickpin, "red").await;
    let swapped = folder.path().join("swapped.json");
    let json = json!([
        { "name": "rose", "address": red.address().to_string(), "weight": 3 },
        { "name": "green", "address": green.address().to_string() },
    ]);
    fs::write(&swapped, json.to_string()).unwrap();
    symlink(&swapped, &link).unwrap();
    admin.until_backends("shop", &["rose", "green"]).await;
    assert_eq!(admin.backend("shop", "rose").await["weight"], 3);
    let reply = who_am_i(&mut at_red).await;
    assert_eq!(told(&reply), ["removed"; 3].map(str::to_owned), "{}", reply.text());

    replace(&link, &yaml_list(&[]));
    admin.until_backends("shop", &[]).await;
    assert_eq!(stickpin.client().get("/whoami").await.unwrap().status, 503);
}

#[tokio::test]
async fn an_empty_pool_answers_503_whatever_its_affinity_and_balance() {
    let settings = [
        "sessions: backup",
        "affinity: { hash: { keys: [path] } }",
        "affinity: { app_session: { cookie: sid } }",
        "affinity: { app_session: { cookie: sid, home_by: prefix } }",
        "affinity: off, balance: round_robin",
        "affinity: off, balance: least_requests",
        "affinity: off, balance: random",
        "affinity: off, balance: two_choices",
    ];
    let stickpin = StickpinProcess::start(|front, admin| {
        let mut yaml = format!("workers: 1\nlisteners: [\"{front}\"]\nadmin: {{ address: \"{admin}\" }}\nroutes:\n");
        for n in 0..settings.len() {
            yaml.push_str(&format!("  - {{ path_prefix: /{n}, pool: p{n} }}\n"));
        }
        yaml.push_str("pools:\n");
        for (n, settings) in settings.iter().enumerate() {
            yaml.push_str(&format!("  p{n}: {{ {settings}, backends_from: api }}\n"));
        }
        yaml
    })
    .await;
    let mut client = stickpin.client();
    for (n, settings) in settings.iter().enumerate() {
        for _ in 0..3 {
            client.cookies.set("sid", "0123456789abcdef");
            assert_eq!(client.get(&format!("/{n}/x")).await.unwrap().status, 503, "{settings}");
        }
        let question = json!({ "pool": format!("p{n}"), "key": "x" });
        let status = stickpin.admin().post("/api/v1/explain", &question).await.status;
        assert!(status.as_u16() < 500, "{settings}: {status}");
    }
}

const BACKENDS: &str = "/api/v1/pools/shop/backends";

async fn add(admin: &mut Admin, name: &str, backend: &Backend) {
    let body = json!({ "name": name, "address": backend.address().to_string() });
    let reply = admin.post(BACKENDS, &body).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["source"]), (201, &json!("api")), "{}", reply.text());
}

#[tokio::test]
async fn the_api_fills_an_empty_pool_and_what_it_added_outlives_a_restart() {
    let apps = ["red", "green", "blue"].map(Backend::start);
    let [red, green, blue] = &apps;
    let state = tempfile::tempdir().unwrap();
    let shop = Shop::of([]).pool("backends_from: api").top(&format!("state_dir: {}", state.path().display()));
    let mut stickpin = shop.open().await;
    assert_eq!(stickpin.client().get("/whoami").await.unwrap().status, 503);
    let mut admin = stickpin.admin();
    for (name, backend) in [("red", red), ("green", green)] {
        add(&mut admin, name, backend).await;
        admin.until_health("shop", name, "healthy").await;
    }
    let crowd = Crowd::start(customers(&stickpin, 30).await);
    add(&mut admin, "blue", blue).await;
    admin.until_health("shop", "blue", "healthy").await;
    crowd.rounds(2).await;
    let reply = admin.delete(&format!("{BACKENDS}/red")).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["name"]), (200, &json!("red")));
    assert_eq!(admin.delete(&format!("{BACKENDS}/red")).await.status, 404);
    crowd.rounds(2).await;
    let (orphans, others): (Vec<_>, Vec<_>) = crowd.stop().await.into_iter().partition(|it| it.home == "red");
    others.iter().for_each(Customer::assert_undisturbed);
    for orphan in &orphans {
        assert!(orphan.failures().is_empty(), "{orphan:?}");
        let [told] = orphan.told()[..] else { panic!("told more or less than once: {orphan:?}") };
        assert_eq!(told["rehome_reason"], "removed");
    }
    let client = client_at(&stickpin, "blue").await;
    stickpin.kill();

    let stickpin = shop.open().await;
    let mut admin = stickpin.admin();
    admin.until_backends("shop", &["green", "blue"]).await;
    let mut again = stickpin.client();
    again.cookies = client.cookies;
    assert!(is_logged_in_at(&who_am_i(&mut again).await, "blue"), "its pin is as good as before");

    // Once the file names one itself, it has it for good.
    let with_blue = Shop { backends: vec![blue.yaml()], ..shop.clone() };
    with_blue.write_to(&stickpin);
    assert_eq!(admin.reload().await.status, 200);
    assert_eq!(admin.backend("shop", "blue").await["source"], "file");
    let refused = admin.delete(&format!("{BACKENDS}/blue")).await;
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(refused.text().contains("comes from the configuration file"), "{}", refused.text());
    assert!(is_logged_in_at(&who_am_i(&mut again).await, "blue"), "and its clients");
    shop.write_to(&stickpin);
    assert_eq!(admin.reload().await.status, 200);
    admin.until_backends("shop", &["green"]).await;
}

#[tokio::test]
async fn what_is_wrong_with_a_new_backend_is_said_and_changes_nothing() {
    let (one, other) = (Backend::start("one"), Backend::start("other"));
    let stickpin = Shop::of([one.yaml(), other.yaml()]).open().await;
    let mut admin = stickpin.admin();
    let before = admin.get("/api/v1/pools").await.json()["generation"].clone();
    let taken = one.address().to_string();
    for (body, status, part) in [
        (json!({ "name": "one", "address": "127.0.0.1:9" }), 409, "the name is taken by backend \\\"one\\\""),
        (json!({ "name": "new", "address": taken }), 409, "the address is taken by backend \\\"one\\\""),
        (json!({ "name": "new", "address": "127.0.0.1:9", "route": "other" }), 409, "the route is taken"),
        (json!({}), 422, "\"path\":\"address\""),
        (json!([]), 422, "expected a mapping"),
        (json!(null), 422, "expected a mapping"),
        (json!(5), 422, "expected a mapping"),
        (json!({ "address": "app.example:80" }), 422, "names are not resolved"),
        (json!({ "address": "127.0.0.1:0" }), 422, "a port from 1 to 65535"),
        (json!({ "address": 80 }), 422, "\"path\":\"address\""),
        (json!({ "address": "127.0.0.1:9", "weight": 1001 }), 422, "\"path\":\"weight\""),
        (json!({ "address": "127.0.0.1:9", "weight": -1 }), 422, "\"path\":\"weight\""),
        (json!({ "address": "127.0.0.1:9", "max_pins": 0 }), 422, "\"path\":\"max_pins\""),
        (json!({ "address": "127.0.0.1:9", "name": "a/b" }), 422, "\"path\":\"name\""),
        (json!({ "address": "127.0.0.1:9", "name": "é\n" }), 422, "\"path\":\"name\""),
        (json!({ "address": "127.0.0.1:9", "name": "x".repeat(65) }), 422, "\"path\":\"name\""),
        (json!({ "address": "127.0.0.1:9", "colour": "red" }), 422, "unknown key"),
        (json!({ "address": { "a": [[[[[[[[]]]]]]]] } }), 422, "\"path\":\"address\""),
    ] {
        let reply = admin.post(BACKENDS, &body).await;
        assert!(reply.status == status && reply.text().contains(part), "{body}: {} {}", reply.status, reply.text());
        assert!(reply.json()["error"].is_string());
    }
    // What is not JSON, though some of it is YAML.
    let mut client = crate::support::Client::new(stickpin.admin_address());
    for body in [
        &b""[..],
        b"address: 127.0.0.1:9",
        b"{address: 127.0.0.1:9}",
        b"{\"address\":\"127.0.0.1:9\"} {}",
        b"{\"address\":\"127.0.0.1:9\"",
        b"&a [*a, *a]",
        b"\xff\xfe",
        &[b'['; 60_000],
    ] {
        let request = http::Request::post(BACKENDS).header("Content-Type", "application/json");
        let reply = client.send(request.body(bytes::Bytes::copy_from_slice(body)).unwrap()).await.unwrap();
        assert_eq!(reply.status, 400, "{}", String::from_utf8_lossy(&body[..body.len().min(40)]));
    }
    let twice = http::Request::post(BACKENDS).header("Content-Type", "application/json");
    let body = r#"{"address":"127.0.0.1:9","weight":1,"weight":2}"#;
    let reply = client.send(twice.body(body.into()).unwrap()).await.unwrap();
    assert_eq!((reply.status.as_u16(), reply.text().contains("each key once")), (422, true), "{}", reply.text());
    let good = json!({ "address": "127.0.0.1:9" });
    assert_eq!(admin.post("/api/v1/pools/shed/backends", &good).await.status, 404);
    assert_eq!(admin.delete("/api/v1/pools/shed/backends/one").await.status, 404);
    assert_eq!(admin.delete(&format!("{BACKENDS}/nobody")).await.status, 404);
    assert_eq!(admin.delete(&format!("{BACKENDS}/one")).await.status, 409);
    assert_eq!(admin.get("/api/v1/pools").await.json()["generation"], before);
    assert!(["one", "other"].contains(&log_in(&mut stickpin.client()).await.as_str()));
}

/// What `stickpin ctl` writes when it succeeds.
async fn ctl(stickpin: &StickpinProcess, arguments: &[&str]) -> String {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_stickpin"));
    command.arg("ctl").args(arguments).env("STICKPIN_ADMIN", stickpin.admin_address().to_string());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn backends_are_added_and_removed_from_a_shell() {
    let (one, other) = (Backend::start("one"), Backend::start("other"));
    let stickpin = Shop::of([one.yaml()]).open().await;
    let address = other.address().to_string();
    let text = ctl(&stickpin, &["add", "shop", &address, "name=other", "weight=50"]).await;
    assert_eq!(text, "added shop/other: enabled, weight 50\n");
    assert!(ctl(&stickpin, &["backend", "shop", "other"]).await.contains("source       api\n"));
    let text = ctl(&stickpin, &["remove", "shop", "other"]).await;
    assert_eq!(text, format!("removed shop/other, which was at {address}\n"));
    stickpin.admin().until_backends("shop", &["one"]).await;
}
