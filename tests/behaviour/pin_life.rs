//! How a pin begins and ends: with the first request or a session, by the app's word, and when a session is lost.

use std::net::SocketAddr;

use crate::shop::{Shop, client_at, log_in, until_gone, who_am_i};
use crate::support::raw::{Backend as RawBackend, Head, Peer, config};
use crate::support::{BackendProcess, Client, Stickpin};

/// Sends `GET /` with this cookie, answers it with these lines, and gives what the client gets.
async fn visit(front: SocketAddr, backend: &RawBackend, cookie: &str, lines: &str) -> Head {
    let cookie = if cookie.is_empty() { String::new() } else { format!("Cookie: {cookie}\r\n") };
    let mut client = Peer::sending(front, format!("GET / HTTP/1.1\r\nHost: x\r\n{cookie}\r\n")).await;
    let (mut connection, _) = backend.request().await;
    connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n{lines}\r\n")).await;
    client.reply().await.0
}

/// `name=value` of the pin that a reply sets, if it does.
fn pin(reply: &Head) -> Option<String> {
    let line = reply.values("set-cookie").into_iter().find(|line| line.starts_with("stickpin="))?;
    Some(line.split(';').next().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn an_app_can_end_a_pin() {
    let backend = RawBackend::start().await;
    let stickpin = Stickpin::start(&config(backend.address(), &[], &[]));
    let pinned = pin(&visit(stickpin.front(), &backend, "", "").await).expect("a pin with the first reply");
    let released = visit(stickpin.front(), &backend, &pinned, "Stickpin-Pin: release\r\n").await;
    assert_eq!(pin(&released).as_deref(), Some("stickpin="), "the cookie is taken away");
    assert!(released.values("set-cookie")[0].contains("Max-Age=0"));
    assert_eq!(released.value("stickpin-pin"), None);
    let never = visit(stickpin.front(), &backend, "", "Stickpin-Pin: Release\r\n").await;
    assert_eq!(never.values("set-cookie"), [""; 0], "a client without a pin has none to lose");
}

#[tokio::test]
async fn with_pin_on_session_start_only_a_session_pins() {
    let backend = RawBackend::start().await;
    let affinity = "affinity: { cookie: { pin_on: session_start } }";
    let stickpin = Stickpin::start(&config(backend.address(), &[], &[affinity]));
    let front = stickpin.front();
    assert_eq!(pin(&visit(front, &backend, "", "").await), None);
    assert_eq!(pin(&visit(front, &backend, "", "Set-Cookie: theme=dark\r\n").await), None);
    assert!(pin(&visit(front, &backend, "", "Set-Cookie: JSESSIONID=1; Path=/\r\n").await).is_some());
    assert!(pin(&visit(front, &backend, "", "Stickpin-Pin: keep\r\n").await).is_some());
    let mut admin = stickpin.admin();
    let placed = async |admin: &mut crate::support::Admin, placement: &str| {
        admin.metric("stickpin_placements_total", &[&format!("placement=\"{placement}\"")]).await
    };
    assert_eq!((placed(&mut admin, "unpinned").await, placed(&mut admin, "new").await), (2.0, 2.0));
}

#[tokio::test]
async fn six_first_requests_of_one_browser_get_one_home() {
    six_first_requests("affinity: { cookie: {} }", "").await;
    six_first_requests("affinity: { app_session: { cookie: SID } }", "Set-Cookie: SID=1\r\n").await;
}

async fn six_first_requests(affinity: &str, line: &str) {
    let backends = [RawBackend::start().await, RawBackend::start().await, RawBackend::start().await];
    let list = backends.each_ref().map(|backend| backend.address().to_string()).join(", ");
    let yaml = format!(
        "workers: 2\naccess_log: off\nlisteners: ['127.0.0.1:0']\npools: {{ app: {{ {affinity}, health: off, backends: [{list}] }} }}\n"
    );
    let stickpin = Stickpin::start(&yaml);
    let request = "GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: one\r\n\r\n";
    let first = Peer::sending(stickpin.front(), request).await;
    let (home, mut open) = tokio::select! {
        (peer, _) = backends[0].request() => (0, vec![peer]),
        (peer, _) = backends[1].request() => (1, vec![peer]),
        (peer, _) = backends[2].request() => (2, vec![peer]),
    };
    // The first is on its way, and none of the others has a pin yet.
    let mut others = Vec::new();
    for _ in 1..6 {
        others.push(Peer::sending(stickpin.front(), request).await);
        open.push(backends[home].request().await.0);
    }
    for connection in &mut open {
        connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{line}\r\n")).await;
    }
    others.push(first);
    for client in &mut others {
        let (head, _) = client.reply().await;
        assert_eq!(pin(&head).is_some(), line.is_empty(), "our own cookie, where that is how to pin: {head:?}");
    }
}

/// A client whose home is killed, under this setting.
async fn bereft(on_session_lost: &str) -> (crate::support::StickpinProcess, Client, BackendProcess) {
    let (mut home, other) = (BackendProcess::start("home"), BackendProcess::start("other"));
    let shop = Shop::of([home.yaml(), other.yaml()]);
    let stickpin = shop.pool(&format!("rehome: {{ on_session_lost: {on_session_lost} }}")).open().await;
    let client = client_at(&stickpin, "home").await;
    home.kill();
    until_gone(&mut stickpin.admin(), "home").await;
    (stickpin, client, other)
}

#[tokio::test]
async fn a_client_whose_session_is_lost_can_get_a_status_once() {
    let (stickpin, mut client, _other) = bereft("{ status: 410 }").await;
    let told = client.get("/whoami").await.unwrap();
    assert_eq!((told.status.as_u16(), told.text().as_str()), (410, "410 Gone\n"));
    let next = who_am_i(&mut client).await;
    assert_eq!((next.served_by(), next.field("rehomed_from")), ("other".into(), String::new()));
    let mut admin = stickpin.admin();
    assert_eq!(admin.metric("stickpin_sessions_lost_total", &[]).await, 1.0);
    assert_eq!(admin.metric("stickpin_rehomes_total", &["reason=\"gone\""]).await, 1.0);
}

#[tokio::test]
async fn a_client_whose_session_is_lost_can_be_redirected_once() {
    let (_stickpin, mut client, _other) = bereft("{ redirect: /login?lost }").await;
    let told = client.post("/whoami", "").await.unwrap();
    assert_eq!((told.status.as_u16(), told.header("location")), (303, "/login?lost"));
    assert_eq!(who_am_i(&mut client).await.served_by(), "other");
}

/// The page of a browser sends two requests with the same pin: one rehome, one loss.
#[tokio::test]
async fn a_loss_is_counted_and_told_once_though_two_requests_meet_it() {
    let (stickpin, mut client, _other) = bereft("{ status: 410 }").await;
    let mut twin = stickpin.client();
    twin.cookies = client.cookies.clone();
    let told =
        [client.get("/whoami").await.unwrap().status.as_u16(), twin.get("/whoami").await.unwrap().status.as_u16()];
    let mut admin = stickpin.admin();
    let lost = admin.metric("stickpin_sessions_lost_total", &[]).await;
    let rehomed = admin.metric("stickpin_rehomes_total", &["reason=\"gone\""]).await;
    assert_eq!((told, lost, rehomed), ([410, 200], 1.0, 1.0));
}

/// The second loss was taken for the first one, told a moment ago to the same pin, and neither told nor counted.
#[tokio::test]
async fn a_client_that_loses_two_sessions_in_a_row_is_told_of_both() {
    let mut backends = ["one", "two"].map(BackendProcess::start);
    let shop = Shop::of(backends.iter().map(|backend| backend.yaml()));
    let stickpin = shop.pool("rehome: { on_session_lost: { status: 410 } }").open().await;
    let (mut client, mut admin) = (client_at(&stickpin, "one").await, stickpin.admin());
    for (number, name) in ["one", "two"].into_iter().enumerate() {
        backends[number].kill();
        until_gone(&mut admin, name).await;
        assert_eq!(client.get("/whoami").await.unwrap().status, 410, "{name} is lost");
        assert_eq!(log_in(&mut client).await, ["two", "one"][number]);
        backends[number].restart().unwrap();
        admin.until_health("shop", name, "healthy").await;
    }
    assert_eq!(admin.metric("stickpin_sessions_lost_total", &[]).await, 2.0);
}
