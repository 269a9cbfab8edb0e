//! `stickpin ctl`: the admin API from a shell.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use crate::crowd::{Crowd, customers};
use crate::shop::{Shop, client_at};
use crate::support::{Backend, ReservedPort, StickpinProcess, until};

/// `stickpin ctl` for this endpoint.
fn ctl(admin: SocketAddr, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stickpin"));
    command.arg("ctl").args(arguments).env("STICKPIN_ADMIN", admin.to_string()).stdin(Stdio::null());
    command
}

/// Runs it to its end: exit code, standard output, standard error.
async fn run(mut command: Command) -> (i32, String, String) {
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
    let Output { status, stdout, stderr } = output.expect("the program can be started");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (status.code().expect("ended by itself"), text(stdout), text(stderr))
}

/// What it writes when it succeeds.
async fn told(stickpin: &StickpinProcess, arguments: &[&str]) -> String {
    let (code, stdout, stderr) = run(ctl(stickpin.admin_address(), arguments)).await;
    assert_eq!((code, &*stderr), (0, ""), "{arguments:?}: {stdout}");
    stdout
}

#[tokio::test]
async fn pools_and_backends_are_shown_as_tables_or_as_json() {
    let backends = ["app1", "app2"].map(Backend::start);
    let stickpin = Shop::of(backends.iter().map(Backend::yaml)).open().await;
    for arguments in [&["pools"][..], &["pool", "shop"]] {
        let text = told(&stickpin, arguments).await;
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "shop: sessions local, balance least_pins, affinity cookie");
        assert!(lines[1].starts_with("BACKEND") && lines.len() == 4, "{text}");
        let cells: Vec<&str> = lines[2].split_whitespace().collect();
        assert_eq!(cells, ["app1", &backends[0].address().to_string(), "1", "healthy", "enabled", "0", "0"]);
    }
    let text = told(&stickpin, &["backend", "shop", "app2"]).await;
    assert!(text.contains("name         app2\n") && text.contains("admin state  enabled\n"), "{text}");

    let view: Value = serde_json::from_str(&told(&stickpin, &["--json", "pool", "shop"]).await).expect("JSON");
    assert_eq!(view["backends"][1]["name"], "app2");
    let view: Value = serde_json::from_str(&told(&stickpin, &["pools", "--json"]).await).expect("JSON");
    assert_eq!(view["pools"][0]["name"], "shop");
}

#[tokio::test]
async fn orders_are_given_and_what_became_of_them_is_told() {
    let backends = ["app1", "app2"].map(Backend::start);
    let shop = Shop::of(backends.iter().map(Backend::yaml));
    let stickpin = shop.open().await;
    let mut admin = stickpin.admin();

    assert_eq!(told(&stickpin, &["disable", "shop", "app1"]).await, "shop/app1: disabled, weight 1\n");
    assert_eq!(admin.backend("shop", "app1").await["admin_state"], "disabled");
    let text = told(&stickpin, &["drain", "shop", "app1", "--deadline", "10m", "--pace", "1%/m"]).await;
    assert!(text.starts_with("shop/app1: draining, weight 1; 0 pins left, ") && text.contains("deadline 2"), "{text}");
    let drain = admin.backend("shop", "app1").await["drain"].clone();
    assert!(drain["deadline"].is_string() && drain["pace"] == "1%/m", "{drain}");
    assert_eq!(told(&stickpin, &["enable", "shop", "app1"]).await, "shop/app1: enabled, weight 1\n");

    let text = told(&stickpin, &["weight", "shop", "app2", "50"]).await;
    assert_eq!(text, "shop/app2: enabled, weight 50 (file: 1)\n");
    assert_eq!(told(&stickpin, &["weight", "shop", "app2", "file"]).await, "shop/app2: enabled, weight 1\n");

    let generation = admin.get("/api/v1/pools").await.json()["generation"].as_u64().expect("a number");
    assert_eq!(told(&stickpin, &["reload"]).await, format!("generation {} is in effect\n", generation + 1));
}

#[tokio::test]
async fn a_pin_is_explained_in_a_few_lines() {
    let (home, other) = (Backend::start("home"), Backend::start("other"));
    let stickpin = Shop::of([home.yaml(), other.yaml()]).open().await;
    let client = client_at(&stickpin, "home").await;
    let token = client.cookies.value("stickpin").expect("a pin");
    let text = told(&stickpin, &["explain", "shop", "--cookie", token]).await;
    assert!(text.starts_with("valid: ") && text.trim_end().ends_with("A request goes home to home."), "{text}");
    assert!(text.contains("lives at home") && text.contains("other takes over"), "{text}");
    let (code, _, stderr) = run(ctl(stickpin.admin_address(), &["explain", "shop", "--key", "x"])).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("does not place requests by hash"), "{stderr}");
}

#[tokio::test]
async fn a_drain_can_be_waited_for() {
    let backends = ["app1", "app2"].map(Backend::start);
    let stickpin = Shop::of(backends.iter().map(Backend::yaml)).pool("sessions: external").open().await;
    let crowd = Crowd::start(customers(&stickpin, 30).await);
    let text = told(&stickpin, &["drain", "shop", "app1", "--pace", "50%/s", "--wait"]).await;
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() >= 2 && lines[0].starts_with("shop/app1: draining"), "{text}");
    assert!(lines.last().is_some_and(|last| last.starts_with("drained since ")), "{text}");
    for customer in crowd.stop().await {
        assert!(customer.failures().is_empty(), "{customer:?}");
    }
}

#[tokio::test]
async fn waiting_for_a_drain_ends_when_somebody_is_left_after_everybody_had_to_go() {
    let backends = ["app1", "app2"].map(Backend::start);
    let stickpin = Shop::of(backends.iter().map(Backend::yaml)).open().await;
    // It does not come again, so that nothing can move it.
    client_at(&stickpin, "app1").await;
    let arguments = ["drain", "shop", "app1", "--deadline", "0s", "--pace", "100%/s", "--wait"];
    let (code, stdout, stderr) = run(ctl(stickpin.admin_address(), &arguments)).await;
    assert_eq!(code, 1, "{stdout}");
    assert!(stderr.starts_with("the deadline has passed: 1 pin left"), "{stderr}");
}

#[tokio::test]
async fn a_refusal_is_told_in_the_words_of_the_api() {
    let app = Backend::start("app1");
    let stickpin = Shop::of([app.yaml()]).open().await;
    let admin = stickpin.admin_address();
    let refused = async |arguments: &[&str]| {
        let (code, stdout, stderr) = run(ctl(admin, arguments)).await;
        assert_eq!((code, &*stdout), (1, ""), "{arguments:?}: {stderr}");
        stderr
    };
    assert_eq!(refused(&["pool", "shep"]).await, "there is no pool \"shep\"; there are: shop\n");
    assert_eq!(refused(&["enable", "shop", "a/b"]).await, "there is no backend \"a/b\"; there are: app1\n");
    let told: Value = serde_json::from_str(&refused(&["pool", "shep", "--json"]).await).expect("JSON");
    assert_eq!(told, json!({ "error": "there is no pool \"shep\"", "known": ["shop"] }));
    stickpin.write_config("listeners: [ 127.0.0.1:0 ]\nwrkers: 1\n");
    let told = refused(&["reload"]).await;
    assert!(told.contains("nothing was changed") && told.contains("line 2: ") && told.contains("wrkers"), "{told}");

    // Nobody is there, or somebody who is no endpoint.
    let nobody = ReservedPort::new().expect("a loopback port is free");
    let (code, _, stderr) = run(ctl(nobody.address(), &["pools"])).await;
    assert!(code == 1 && stderr.starts_with(&format!("connecting to {}: ", nobody.address())), "{stderr}");
    let (code, _, stderr) = run(ctl(stickpin.front(), &["pools"])).await;
    assert!(code == 1 && !stderr.is_empty() && !stderr.contains("panic"), "{stderr}");
}

#[tokio::test]
async fn a_token_is_taken_from_its_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let (right, wrong) = (folder.path().join("right"), folder.path().join("wrong"));
    std::fs::write(&right, "s3cret\n").and_then(|()| std::fs::write(&wrong, "other")).expect("written");
    let app = Backend::start("app1");
    let stickpin = StickpinProcess::start(|front, admin| {
        let line = format!("admin: {{ address: \"{admin}\" }}");
        let with_token = format!("admin: {{ address: \"{admin}\", token_file: \"{}\" }}", right.display());
        Shop::of([app.yaml()]).yaml(front, admin).replace(&line, &with_token)
    })
    .await;
    let with = async |file: &std::path::Path| {
        let file = file.to_str().expect("text");
        run(ctl(stickpin.admin_address(), &["pools", "--token-file", file])).await
    };
    assert_eq!(with(&right).await.0, 0);
    let (code, _, stderr) = with(&wrong).await;
    assert!(code == 1 && stderr.contains("expected the token"), "{stderr}");
    let (code, _, stderr) = with(&folder.path().join("none")).await;
    assert!(code == 1 && stderr.contains("none: "), "{stderr}");
}

#[test]
fn wrong_arguments_exit_with_2() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    for arguments in [
        &[][..],
        &["dance"],
        &["pool"],
        &["enable", "shop"],
        &["drain", "shop", "app1", "--deadline", "10"],
        &["drain", "shop", "app1", "--pace", "5%"],
        &["weight", "shop", "app1", "1001"],
        &["weight", "shop", "app1", "heavy"],
        &["explain", "shop"],
        &["explain", "shop", "--cookie", "a", "--key", "b"],
    ] {
        let output = ctl(nobody, arguments).output().expect("the program can be started");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}

/// A program that runs on, until dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Either fails only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn events_are_shown_a_line_each_until_the_endpoint_ends() {
    let app = Backend::start("app1");
    let mut stickpin = Shop::of([app.yaml()]).open().await;
    for (arguments, expected) in [
        (&["events"][..], " admin_state shop/app1 enabled -> disabled"),
        (&["events", "--json"], "\"event\":\"admin_state\",\"from\":\"enabled\""),
    ] {
        let mut command = ctl(stickpin.admin_address(), arguments);
        let mut running = Running(command.stdout(Stdio::piped()).spawn().expect("the program can be started"));
        let lines = BufReader::new(running.0.stdout.take().expect("piped")).lines();
        let line =
            tokio::task::spawn_blocking(move || lines.map_while(Result::ok).find(|line| line.contains(expected)));
        // It may not listen yet when the first order comes.
        let mut admin = stickpin.admin();
        until("the order is shown", async || {
            admin.set_state("shop", "app1", "disabled").await;
            admin.set_state("shop", "app1", "enabled").await;
            if line.is_finished() { Ok(()) } else { Err("not yet") }
        })
        .await;
        assert!(line.await.expect("no panic").is_some());
    }
    let ended = tokio::spawn(run(ctl(stickpin.admin_address(), &["events"])));
    stickpin.kill();
    let (code, _, stderr) = ended.await.expect("no panic");
    assert!(code == 1 && !stderr.is_empty(), "whether it had begun to listen or not: {stderr}");
}
