//! What a tunnel is counted and logged as, and how long it lasts: through reloads, until it is idle, drained, or stopped.
//! What passes through it is in `upgrade`.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::made::{Ca, days};
use crate::support::raw::{Backend, End, Peer, config, front};
use crate::support::tls::{Files, TlsClient, TlsPeer};
use crate::support::{Stickpin, StickpinProcess, until};
use crate::tls::secured;

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Both ends of an open tunnel.
async fn tunnel(front: SocketAddr, backend: &Backend) -> (Peer, Peer) {
    let mut client = Peer::sending(front, UPGRADE).await;
    let (mut at_backend, _) = backend.request().await;
    at_backend.send(SWITCHING).await;
    assert_eq!(client.head().await.status(), 101);
    (client, at_backend)
}

/// The same within TLS.
async fn secured_tunnel(front: SocketAddr, backend: &Backend) -> (TlsPeer, Peer) {
    let mut client = TlsClient::new().connect(front, "shop.example").await.expect("a connection");
    client.send(UPGRADE).await.expect("it is read");
    let (mut at_backend, _) = backend.request().await;
    at_backend.send(SWITCHING).await;
    assert_eq!(client.head().await.expect("a reply").status(), 101);
    (client, at_backend)
}

/// A word there, and one back.
async fn talk(client: &mut Peer, at_backend: &mut Peer) {
    client.send("ping").await;
    assert_eq!(at_backend.exactly(4).await, b"ping");
    at_backend.send("pong").await;
    assert_eq!(client.exactly(4).await, b"pong");
}

/// One worker, so that a stop that does not wait would be seen; `top` and `pool` are further settings, a line each.
fn yaml(front: SocketAddr, admin: SocketAddr, backends: &[(&str, SocketAddr)], top: &str, pool: &str) -> String {
    let backends: String = backends
        .iter()
        .map(|(name, address)| format!("      - {{ name: {name}, address: \"{address}\" }}\n"))
        .collect();
    format!(
        "workers: 1\n{top}\nlisteners: [ \"{front}\" ]\nadmin: {{ address: \"{admin}\" }}\npools:\n  app:\n    health: off\n    \
         {pool}\n    backends:\n{backends}"
    )
}

/// The lines of the access log about tunnels.
fn lines(stickpin: &StickpinProcess) -> Vec<Value> {
    let log = stickpin.stdout();
    let lines = log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")));
    lines.filter(|line: &Value| line["path"] == "/chat").collect()
}

#[tokio::test]
async fn open_tunnels_are_counted_at_their_backend_and_their_101_at_once() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut admin = stickpin.admin();
    let mut counted = async |tunnels: u32, switched: u32| {
        until(&format!("{tunnels} tunnels are counted"), async || {
            let view = admin.backend("app", "app1").await;
            let metric = admin.metric("stickpin_backend_tunnels", &["backend=\"app1\""]).await;
            let codes = admin.metric("stickpin_requests_total", &["backend=\"app1\"", "code=\"101\""]).await;
            let found = (view["tunnels"] == tunnels, view["in_flight"] == tunnels, metric, codes);
            if found == (true, true, tunnels.into(), switched.into()) { Ok(()) } else { Err((view, metric, codes)) }
        })
        .await;
    };
    let (first, _first_backend) = tunnel(stickpin.front(), &backend).await;
    counted(1, 1).await;
    let (second, _second_backend) = tunnel(stickpin.front(), &backend).await;
    counted(2, 2).await;
    first.reset();
    counted(1, 2).await;
    drop((second, _second_backend));
    counted(0, 2).await;
}

#[tokio::test]
async fn a_tunnel_has_one_line_in_the_log_at_its_end_with_the_bytes_of_both_directions() {
    let backend = Backend::start().await;
    let backends = [("app1", backend.address())];
    let stickpin = StickpinProcess::start(|front, admin| yaml(front, admin, &backends, "", "")).await;
    let mut client = Peer::sending(stickpin.front(), format!("{UPGRADE}early")).await;
    let (mut at_backend, _) = backend.request().await;
    let opened = Instant::now();
    at_backend.send(format!("{SWITCHING}first")).await;
    client.head().await;
    assert_eq!(client.exactly(5).await, b"first");
    assert_eq!(at_backend.exactly(5).await, b"early");
    for _ in 0..10 {
        talk(&mut client, &mut at_backend).await;
    }
    // Lines are handed over twice a second.
    let mut admin = stickpin.admin();
    assert_eq!(admin.backend("app", "app1").await["tunnels"], 1);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(lines(&stickpin), Vec::<Value>::new(), "it goes on");
    at_backend.send("last").await;
    at_backend.finish().await;
    assert_eq!(client.end().await, (b"last".to_vec(), End::Closed));
    client.finish().await;
    let line = until("it is logged", async || lines(&stickpin).pop().ok_or("no line")).await;
    let lasted = opened.elapsed().as_secs_f64() * 1000.0;
    assert_eq!(
        (&line["status"], &line["backend"], &line["attempts"]),
        (&json!(101), &json!("app1"), &json!(1)),
        "{line}"
    );
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&json!(45), &json!(49)), "{line}");
    let duration = line["duration_ms"].as_f64().expect("a number");
    assert!((700.0..=lasted + 1000.0).contains(&duration), "from the request to the end: {line}, {lasted}");
    assert_eq!(lines(&stickpin).len(), 1);
    let took = admin.metric("stickpin_request_duration_seconds_sum", &["pool=\"app\""]).await;
    assert!(took * 1000.0 < duration, "the time to the 101 is counted, not that of the tunnel: {took} s");
}

#[tokio::test]
async fn a_stop_waits_for_tunnels_until_its_deadline_and_each_has_its_line() {
    let backend = Backend::start().await;
    let backends = [("app1", backend.address())];
    for (deadline, is_cut) in [("1h", false), ("1s", true)] {
        let top = format!("stop_deadline: {deadline}");
        let mut stickpin = StickpinProcess::start(|front, admin| yaml(front, admin, &backends, &top, "")).await;
        let (mut client, mut at_backend) = tunnel(stickpin.front(), &backend).await;
        let told = Instant::now();
        stickpin.signal("TERM");
        until("it is stopping", async || {
            let told = stickpin.stderr();
            if told.contains("stopping: finishing what is under way") { Ok(()) } else { Err(told) }
        })
        .await;
        talk(&mut client, &mut at_backend).await;
        if is_cut {
            client.gone().await;
            at_backend.gone().await;
            assert!(told.elapsed() >= Duration::from_secs(1), "{:?}", told.elapsed());
        } else {
            drop((client, at_backend));
        }
        assert!(stickpin.ended().await.success());
        let lines = lines(&stickpin);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!((&lines[0]["bytes_in"], &lines[0]["bytes_out"]), (&json!(4), &json!(4)), "{lines:?}");
    }
}

#[tokio::test]
async fn a_tunnel_survives_reloads_even_those_that_remove_its_backend() {
    let (backend, other) = (Backend::start().await, Backend::start().await);
    let app1 = [("app1", backend.address())];
    let both = [("app1", backend.address()), ("app2", other.address())];
    let app2 = [("app2", other.address())];
    let stickpin = StickpinProcess::start(|front, admin| yaml(front, admin, &app1, "", "")).await;
    let (mut client, mut at_backend) = tunnel(stickpin.front(), &backend).await;
    let mut admin = stickpin.admin();
    let short = "timeouts: { tunnel_idle: 100ms, idle: 100ms, request: 100ms }";
    for (backends, pool) in [
        (&app1[..], ""),
        (&both, ""),
        (&app1, ""),
        (&both, "balance: round_robin"),
        (&app1, short),
        (&both, "sessions: external"),
        (&app2, ""),
        (&app2, short),
        (&both, ""),
        (&app2, "max_requests: 1"),
    ] {
        stickpin.write_config(&yaml(stickpin.front(), stickpin.admin_address(), backends, "", pool));
        let reply = admin.reload().await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        talk(&mut client, &mut at_backend).await;
        if pool == short {
            // Its own time is the one it began with; several of the new one pass.
            tokio::time::sleep(Duration::from_millis(700)).await;
            talk(&mut client, &mut at_backend).await;
        }
    }
    assert!(other.is_untouched().await);
}

#[tokio::test]
async fn a_tunnel_to_a_backend_that_was_removed_ends_when_nothing_moves_or_at_the_deadline_of_its_drain() {
    let (backend, other) = (Backend::start().await, Backend::start().await);
    let both = [("app1", backend.address()), ("app2", other.address())];
    let app2 = [("app2", other.address())];
    for is_drained in [false, true] {
        let idle = if is_drained { "1h" } else { "1s" };
        let pool = format!("timeouts: {{ tunnel_idle: {idle} }}");
        let stickpin = StickpinProcess::start(|front, admin| yaml(front, admin, &both[..1], "", &pool)).await;
        let mut admin = stickpin.admin();
        let (mut client, mut at_backend) = tunnel(stickpin.front(), &backend).await;
        let begun = Instant::now();
        if is_drained {
            let order = json!({ "state": "draining", "deadline": "1s", "pace": "100%/s" });
            let reply = admin.put("/api/v1/pools/app/backends/app1/state", &order).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
        stickpin.write_config(&yaml(stickpin.front(), stickpin.admin_address(), &app2, "", &pool));
        assert_eq!(admin.reload().await.status, 200);
        talk(&mut client, &mut at_backend).await;
        client.gone().await;
        at_backend.gone().await;
        assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn whichever_direction_moves_keeps_a_tunnel_open_and_both_ends_are_closed_when_none_does() {
    let backend = Backend::start().await;
    let stickpin = Stickpin::start(&config(backend.address(), &[], &["timeouts: { tunnel_idle: 1500ms }"]));
    let steps = async |mut from: Peer, mut to: Peer| {
        let mut moved = Instant::now();
        // Longer than the limit, in steps far shorter than it.
        for _ in 0..25 {
            from.send("tick").await;
            assert_eq!(to.exactly(4).await, b"tick");
            moved = Instant::now();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::join!(from.gone(), to.gone());
        assert!(moved.elapsed() >= Duration::from_millis(1500), "{:?} after the last step", moved.elapsed());
    };
    let (client, at_backend) = tunnel(stickpin.front(), &backend).await;
    let (second_client, at_second_backend) = tunnel(stickpin.front(), &backend).await;
    tokio::join!(steps(client, at_backend), steps(at_second_backend, second_client));
}

#[tokio::test]
async fn within_tls_either_side_can_stop_sending_and_go_on_reading() {
    let (backend, files) = (Backend::start().await, Files::new());
    let item = files.certificate("shop", &Ca::new("ca").server(&["shop.example"], days(-1, 1)));
    let stickpin = secured(backend.address(), &format!("certificates: [ {item} ]"));
    let (mut client, mut at_backend) = secured_tunnel(stickpin.front(), &backend).await;
    client.send("last words").await.expect("it is read");
    client.finish().await;
    assert_eq!(at_backend.end().await, (b"last words".to_vec(), End::Closed));
    at_backend.send("an answer").await;
    at_backend.finish().await;
    assert_eq!(client.exactly(9).await.expect("an answer"), b"an answer");
    client.end().await.expect("TLS ends in order");

    let (mut client, mut at_backend) = secured_tunnel(stickpin.front(), &backend).await;
    at_backend.send("last words").await;
    at_backend.finish().await;
    assert_eq!(client.exactly(10).await.expect("last words"), b"last words");
    client.end().await.expect("TLS ends in order");
    client.send("an answer").await.expect("it is read");
    client.finish().await;
    assert_eq!(at_backend.end().await, (b"an answer".to_vec(), End::Closed));
    let mut admin = stickpin.admin();
    until("none is open", async || match admin.backend("app", "app1").await {
        view if view["tunnels"] == 0 => Ok(()),
        view => Err(view),
    })
    .await;
}
