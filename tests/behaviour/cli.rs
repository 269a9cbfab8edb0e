//! The program as a shell sees it: exit codes, what is written where, and the lines of the access log.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::raw::{Peer, Recorder};
use crate::support::{StickpinProcess, until};

/// Runs the program in a folder that holds this configuration file.
fn stickpin(arguments: &[&str], config: &str) -> (i32, String, String) {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    fs::write(folder.path().join("my.yaml"), config).expect("a writable folder");
    let output = Command::new(env!("CARGO_BIN_EXE_stickpin")).args(arguments).current_dir(folder.path()).output();
    let Output { status, stdout, stderr } = output.expect("the program can be started");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (status.code().expect("ended by itself"), text(stdout), text(stderr))
}

const GOOD: &str = "listeners: [ 127.0.0.1:0 ]\npools:\n  app:\n    backends: [ 127.0.0.1:9101, 127.0.0.1:9102 ]\n";

#[test]
fn check_is_brief_about_a_good_file() {
    let (code, stdout, stderr) = stickpin(&["check", "--config", "my.yaml"], GOOD);
    assert_eq!((code, &*stderr), (0, ""));
    assert_eq!(stdout.lines().count(), 1, "{stdout}");
    assert!(stdout.starts_with("my.yaml: ok"), "{stdout}");
}

#[test]
fn check_and_run_tell_every_problem_with_its_line_and_exit_with_1() {
    let bad = "listeners: [ 127.0.0.1:0 ]\nwrkers: 4\npools:\n  app:\n    sessions: lokal\n    backends:\n      \
               - { address: 127.0.0.1:9101, weight: 5000 }\n      - { name: b }\n    timeouts: { connect: 2 }\n";
    for command in ["check", "run"] {
        let (code, stdout, stderr) = stickpin(&[command, "--config", "my.yaml"], bad);
        assert_eq!((code, &*stdout), (1, ""), "{stderr}");
        for (line, words) in [
            (2, ["wrkers", "workers"]),
            (5, ["sessions", "lokal"]),
            (7, ["weight", "5000"]),
            (8, ["backends[1]", "address"]),
            (9, ["connect", "2"]),
        ] {
            let place = format!("my.yaml:{line}:");
            let found = stderr.lines().find(|told| told.contains(&place));
            let found = found.unwrap_or_else(|| panic!("nothing about line {line}: {stderr}"));
            assert!(words.iter().all(|word| found.contains(word)), "{found}");
        }
        assert!(!stderr.contains("panic"), "{stderr}");
    }
}

#[test]
fn a_file_that_is_not_there_or_not_yaml_is_named() {
    let (code, _, stderr) = stickpin(&["check", "--config", "none.yaml"], GOOD);
    assert_eq!(code, 1);
    assert!(stderr.contains("none.yaml"), "{stderr}");
    let (code, _, stderr) = stickpin(&["check", "--config", "my.yaml"], "listeners: [\n  a: }\n");
    assert_eq!(code, 1);
    assert!(stderr.contains("my.yaml"), "{stderr}");
    let (code, _, _) = stickpin(&["check", "--config", "my.yaml"], "");
    assert_eq!(code, 1, "an empty file has no listener");
}

#[test]
fn check_names_the_files_that_run_could_not_use() {
    let files =
        "cookie_keys_file: none.keys\nadmin: { address: 127.0.0.1:0, token_file: none.token }\nstate_dir: my.yaml\n";
    let (code, stdout, stderr) = stickpin(&["check", "--config", "my.yaml"], &format!("{files}{GOOD}"));
    assert_eq!((code, &*stdout), (1, ""));
    for (key, file) in [("cookie_keys_file", "none.keys"), ("admin.token_file", "none.token"), ("state_dir", "my.yaml")]
    {
        let found = stderr.lines().find(|line| line.starts_with(&format!("my.yaml: {key}:")));
        assert!(found.is_some_and(|line| line.contains(file)), "{stderr}");
    }
    let from = "listeners: [127.0.0.1:0]\npools: { app: { backends_from: { file: my.yaml } } }";
    let (code, _, stderr) = stickpin(&["check", "--config", "my.yaml"], from);
    assert_eq!(code, 1);
    assert!(
        stderr.contains("my.yaml: pools.app.backends_from.file: ./my.yaml: expected a list, found a m"),
        "{stderr}"
    );
}

#[tokio::test]
async fn an_access_log_can_be_switched_on_by_a_reload() {
    let backend = Recorder::start().await;
    let yaml = |log: &str, front, admin| {
        format!(
            "access_log: {log}\nlisteners: [ \"{front}\" ]\nadmin: {{ address: \"{admin}\" }}\npools:\n  app:\n    \
             health: off\n    backends: [ \"{}\" ]\n",
            backend.address()
        )
    };
    let stickpin = StickpinProcess::start(|front, admin| yaml("off", front, admin)).await;
    let request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(Peer::sending(stickpin.front(), request).await.reply().await.0.status(), 200);
    stickpin.write_config(&yaml("stdout", stickpin.front(), stickpin.admin_address()));
    assert_eq!(stickpin.admin().reload().await.status, 200);
    until("a line is logged", async || {
        assert_eq!(Peer::sending(stickpin.front(), request).await.reply().await.0.status(), 200);
        let log = stickpin.stdout();
        if log.lines().any(|line| line.contains("\"status\":200")) { Ok(()) } else { Err(log) }
    })
    .await;
}

#[tokio::test]
async fn idle_clients_do_not_take_the_descriptors_that_backends_need() {
    let backend = Recorder::start().await;
    let stickpin = StickpinProcess::start_with_open_files(100, |front, admin| {
        format!(
            "workers: 1\naccess_log: off\nlisteners: [ \"{front}\" ]\nadmin: {{ address: \"{admin}\" }}\npools:\n  app:\n    \
             health: off\n    backends: [ \"{}\" ]\n",
            backend.address()
        )
    })
    .await;
    // More than there are descriptors for; those that are not accepted wait in the kernel's queue.
    let mut crowd = Vec::new();
    for _ in 0..150 {
        crowd.push(Peer::connect(stickpin.front()).await);
    }
    // The first were accepted, and each is served: 503 would mean that no connection to the backend could be opened.
    for client in &mut crowd[..30] {
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(client.reply().await.0.status(), 200);
    }
    // Whoever leaves makes room for whoever waits.
    drop(crowd.drain(..100));
    let last = crowd.last_mut().expect("there are some left");
    last.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(last.reply().await.0.status(), 200);
    assert_eq!(stickpin.stderr().matches("accepting pauses").count(), 1, "{}", stickpin.stderr());
}

#[test]
fn wrong_arguments_exit_with_2() {
    for arguments in [&[][..], &["dance"], &["run"], &["check", "--config"], &["schema", "--loud"]] {
        let (code, stdout, stderr) = stickpin(arguments, GOOD);
        assert_eq!((code, &*stdout), (2, ""), "{arguments:?} {stderr}");
    }
}

#[test]
fn the_schema_is_one_valid_json_document() {
    let (code, stdout, stderr) = stickpin(&["schema"], GOOD);
    assert_eq!((code, &*stderr), (0, ""));
    let schema: Value = serde_json::from_str(&stdout).expect("valid JSON");
    assert!(schema["$schema"].is_string() && schema["properties"]["listeners"].is_object(), "{stdout}");
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
    let address = taken.local_addr().expect("a bound socket").to_string();
    let (code, stdout, stderr) = stickpin(&["run", "--config", "my.yaml"], &GOOD.replace("127.0.0.1:0", &address));
    assert_eq!((code, &*stdout), (1, ""));
    assert!(stderr.contains(&address) && stderr.contains("listeners[0]"), "{stderr}");
    let admin = format!("{GOOD}admin: {{ address: \"{address}\" }}\n");
    let (code, _, stderr) = stickpin(&["run", "--config", "my.yaml"], &admin);
    assert_eq!(code, 1);
    assert!(stderr.contains(&address) && stderr.contains("admin"), "{stderr}");
}

#[test]
fn an_admin_endpoint_for_everybody_without_a_token_is_refused() {
    let admin = format!("{GOOD}admin: {{ address: \"0.0.0.0:0\" }}\n");
    let (code, _, stderr) = stickpin(&["check", "--config", "my.yaml"], &admin);
    assert_eq!(code, 1);
    assert!(stderr.contains("token"), "{stderr}");
}

#[tokio::test]
async fn every_request_is_one_line_of_json_on_standard_output() {
    let backend = Recorder::start().await;
    let address = backend.address();
    let mut stickpin = StickpinProcess::start(|front, admin| {
        format!(
            "admin: {{ address: \"{admin}\" }}\nlisteners: [ \"{front}\" ]\npools:\n  shop:\n    health: off\n    \
             backends: [ {{ name: app1, address: \"{address}\" }} ]\nroutes:\n  - {{ path_prefix: /shop, pool: shop }}\n"
        )
    })
    .await;
    let mut client = Peer::connect(stickpin.front()).await;
    client.send("POST /shop/cart?secret=1 HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 5\r\n\r\nhello").await;
    let (head, _) = client.reply().await;
    let cookie = head.value("set-cookie").and_then(|set| set.split(';').next()).expect("a new client is pinned");
    let token = cookie.strip_prefix("stickpin=").expect("our cookie").to_owned();
    client.send(format!("GET /shop HTTP/1.1\r\nHost: shop.example\r\nCookie: {cookie}\r\n\r\n")).await;
    client.reply().await;
    client.send("GET /\" HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    client.reply().await;
    let lines = until("three lines are written", async || {
        let text = stickpin.stdout();
        if text.lines().count() == 3 && text.ends_with('\n') { Ok(text) } else { Err(text) }
    })
    .await;
    assert!(!lines.contains(&token) && !lines.contains("secret"), "{lines}");
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("valid JSON")).collect();
    let keys = [
        "attempts",
        "backend",
        "bytes_in",
        "bytes_out",
        "client",
        "duration_ms",
        "host",
        "method",
        "path",
        "pin",
        "placement",
        "pool",
        "reason",
        "status",
        "time",
    ];
    for line in &lines {
        let mut found: Vec<_> = line.as_object().expect("an object").keys().map(String::as_str).collect();
        found.sort_unstable();
        assert_eq!(found, keys);
        assert_eq!((&line["client"], &line["host"]), (&"127.0.0.1".into(), &"shop.example".into()));
        assert!(line["duration_ms"].is_f64() && line["time"].as_str().is_some_and(|time| time.ends_with('Z')));
    }
    let shown = |line: &Value, key: &str| line[key].to_string().replace('"', "");
    let row = |line: &Value| {
        ["method", "path", "status", "bytes_in", "bytes_out", "pool", "backend", "placement", "attempts"]
            .map(|key| shown(line, key))
            .join(" ")
    };
    assert_eq!(row(&lines[0]), "POST /shop/cart 200 5 2 shop app1 new 1");
    assert_eq!(row(&lines[1]), "GET /shop 200 0 2 shop app1 kept 1");
    assert_eq!(lines[2]["status"], 404);
    assert_eq!(lines[2]["path"], "/\"");
    for key in ["pool", "backend", "placement", "reason", "pin"] {
        assert!(lines[2][key].is_null(), "{key}: {}", lines[2]);
    }
    let pin = lines[0]["pin"].as_str().expect("a pin");
    assert!(pin.len() == 16 && pin.bytes().all(|byte| byte.is_ascii_hexdigit()), "{pin}");
    assert_eq!(lines[1]["pin"], pin);
    drop(client);
    assert!(stickpin.terminate().await.success());
}
