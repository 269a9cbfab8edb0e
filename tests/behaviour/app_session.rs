//! Pins by the app's own session id: learned, named by the id itself, or put in front of it. No cookie of ours anywhere.

use bytes::Bytes;
use http::{Method, Request};

use crate::shop::{IMPATIENT, Shop, assert_placed, is_logged_in_at, log_in, processes, told, until_gone, who_am_i};
use crate::support::raw::{self, Peer};
use crate::support::{BackendProcess, Client, Reply, Stickpin, StickpinProcess, until};

const NAMES: [&str; 3] = ["red", "green", "blue"];

const LEARN: &str = "affinity: { app_session: { cookie: APPSESSION } }";

fn shop(backends: &[BackendProcess], affinity: &str) -> Shop {
    Shop::of(backends.iter().map(BackendProcess::yaml)).pool(affinity)
}

/// A ring of keys for replicas to share.
fn keys() -> tempfile::NamedTempFile {
    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), "000102030405060708090a0b0c0d0e0f\n").unwrap();
    keys
}

async fn client_at(stickpin: &StickpinProcess, home: &str) -> Client {
    for _ in 0..1000 {
        let mut client = stickpin.client();
        if log_in(&mut client).await == home {
            assert!(client.cookies.names().all(|name| name == "APPSESSION"), "no cookie of ours");
            return client;
        }
    }
    panic!("of 1000 clients none was placed at {home}");
}

/// The same client over another connection, and so perhaps through another worker.
fn twin(stickpin: &StickpinProcess, client: &Client) -> Client {
    let mut twin = stickpin.client();
    twin.cookies = client.cookies.clone();
    twin
}

async fn ask(client: &mut Client, method: Method, path: &str, header: Option<(&str, &str)>) -> Reply {
    let mut request = Request::builder().method(method).uri(path);
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    client.send(request.body(Bytes::new()).unwrap()).await.unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[tokio::test]
async fn a_learned_session_keeps_its_home_over_every_connection() {
    let backends = processes(NAMES);
    let stickpin = shop(&backends, LEARN).open().await;
    for home in NAMES {
        let client = client_at(&stickpin, home).await;
        for _ in 0..10 {
            assert!(is_logged_in_at(&who_am_i(&mut twin(&stickpin, &client)).await, home));
        }
    }
    assert_placed(&stickpin, "kept", "", 30).await;
    let mut admin = stickpin.admin();
    until("every learned pin is counted", async || {
        let mut pins = 0.0;
        for name in NAMES {
            pins += admin.backend("shop", name).await["active_pins"].as_f64().unwrap();
        }
        let new = admin.metric("stickpin_placements_total", &["placement=\"new\""]).await;
        if pins == new { Ok(()) } else { Err((pins, new)) }
    })
    .await;
}

#[tokio::test]
async fn a_client_without_a_session_fills_no_store() {
    let backends = processes(NAMES);
    let stickpin = shop(&backends, LEARN).open().await;
    let mut client = stickpin.client();
    for _ in 0..20 {
        who_am_i(&mut client).await;
    }
    assert_placed(&stickpin, "unpinned", "", 20).await;
    assert_placed(&stickpin, "new", "", 0).await;
}

#[tokio::test]
async fn an_id_that_nobody_learned_goes_to_one_place_through_every_replica() {
    let backends = processes(NAMES);
    let keys = keys();
    let shop = shop(&backends, LEARN).top(&format!("cookie_keys_file: {}", keys.path().display()));
    let (one, two) = (shop.open().await, shop.open().await);
    for number in 0..20 {
        let mut places = std::collections::HashSet::new();
        for stickpin in [&one, &two] {
            for _ in 0..3 {
                let mut client = stickpin.client();
                client.cookies.set("APPSESSION", &format!("unknown-{number}"));
                places.insert(who_am_i(&mut client).await.served_by());
            }
        }
        assert_eq!(places.len(), 1, "unknown-{number}");
    }
}

#[tokio::test]
async fn a_learned_session_is_lost_with_its_home_told_once_and_learned_anew() {
    let mut backends = processes(NAMES);
    let stickpin = shop(&backends, LEARN).open().await;
    let (mut client, mut admin) = (client_at(&stickpin, "red").await, stickpin.admin());
    backends[0].kill();
    until_gone(&mut admin, "red").await;
    let moved = who_am_i(&mut client).await;
    assert_eq!(told(&moved), ["red", "gone", "gone"].map(str::to_owned));
    let heir = moved.served_by();
    let again = who_am_i(&mut twin(&stickpin, &client)).await;
    assert_eq!((again.served_by(), told(&again)), (heir.clone(), [""; 3].map(str::to_owned)));
    backends[0].restart().unwrap();
    admin.until_health("shop", "red", "healthy").await;
    assert_eq!(who_am_i(&mut client).await.served_by(), heir, "it stays");
    let home = log_in(&mut client).await;
    assert_eq!(home, heir);
    assert!(is_logged_in_at(&who_am_i(&mut twin(&stickpin, &client)).await, &home));
    assert_eq!(admin.metric("stickpin_sessions_lost_total", &[]).await, 1.0);
}

#[tokio::test]
async fn a_learned_session_comes_home_after_a_pause_still_logged_in_unless_it_began_anew() {
    let backends = processes(NAMES);
    let stickpin = shop(&backends, LEARN).probed(IMPATIENT).open().await;
    let (mut waits, mut moves) = (client_at(&stickpin, "red").await, client_at(&stickpin, "red").await);
    let mut admin = stickpin.admin();
    backends[0].pause().await.unwrap();
    admin.until_health("shop", "red", "unhealthy").await;
    assert_ne!(who_am_i(&mut waits).await.served_by(), "red");
    let other = log_in(&mut moves).await;
    assert_ne!(other, "red");
    assert_placed(&stickpin, "rehomed", "new_session", 1).await;
    backends[0].resume().unwrap();
    admin.until_health("shop", "red", "healthy").await;
    assert!(is_logged_in_at(&who_am_i(&mut twin(&stickpin, &waits)).await, "red"));
    assert!(is_logged_in_at(&who_am_i(&mut twin(&stickpin, &moves)).await, &other));
}

#[tokio::test]
async fn the_app_ends_a_learned_pin() {
    let backends = processes(NAMES);
    let stickpin = shop(&backends, LEARN).open().await;
    let mut client = client_at(&stickpin, "green").await;
    let before = client.cookies.clone();
    let reply = client.post("/logout", "").await.unwrap();
    assert_eq!((reply.status.as_u16(), reply.served_by()), (200, "green".to_owned()));
    assert_eq!(reply.header("stickpin-pin"), "");
    client.cookies = before;
    let question = serde_json::json!({ "session_id": client.cookies.value("APPSESSION").unwrap() });
    let told = stickpin.admin().post("/api/v1/explain", &question).await.json();
    assert_eq!(told["verdict"], "none", "{told}");
}

#[tokio::test]
async fn a_session_is_learned_from_a_header_and_found_there() {
    let backends = BackendProcess::cluster(NAMES, &["--session-header", "Mcp-Session-Id"]);
    let stickpin = shop(&backends, "affinity: { app_session: { header: Mcp-Session-Id } }").open().await;
    for _ in 0..12 {
        let login = ask(&mut stickpin.client(), Method::POST, "/login?user=ann", None).await;
        let (home, id) = (login.served_by(), login.header("mcp-session-id").to_owned());
        assert!(!id.is_empty(), "{}", login.text());
        for _ in 0..4 {
            let reply = ask(&mut stickpin.client(), Method::GET, "/whoami", Some(("mcp-session-id", &id))).await;
            assert!(is_logged_in_at(&reply, &home), "{}", reply.text());
        }
    }
}

#[tokio::test]
async fn a_session_is_found_in_the_path_and_in_the_query_too() {
    let backends = processes(NAMES);
    let affinity =
        "affinity: { app_session: { cookie: APPSESSION, path_parameter: jsessionid, query_parameter: sid } }";
    let stickpin = shop(&backends, affinity).open().await;
    for home in NAMES {
        let client = client_at(&stickpin, home).await;
        let id = client.cookies.value("APPSESSION").unwrap().to_owned();
        for path in [format!("/whoami;jsessionid={id}"), format!("/whoami?a=b&sid={id}")] {
            let reply = ask(&mut stickpin.client(), Method::GET, &path, None).await;
            assert!(is_logged_in_at(&reply, home), "{path}: {}", reply.text());
        }
    }
}

#[tokio::test]
async fn a_route_in_the_id_names_the_home_and_nothing_is_stored() {
    let mut backends = BackendProcess::cluster(NAMES, &["--sessions", "replicated", "--route", "{name}"]);
    let affinity =
        "affinity: { app_session: { cookie: APPSESSION, path_parameter: jsessionid, home_by: route_suffix } }";
    let keys = keys();
    let shop = shop(&backends, affinity)
        .pool("sessions: replicated")
        .top(&format!("cookie_keys_file: {}", keys.path().display()));
    let (stickpin, replica) = (shop.open().await, shop.open().await);
    let mut client = client_at(&stickpin, "red").await;
    let id = client.cookies.value("APPSESSION").unwrap().to_owned();
    assert!(id.ends_with(".red"), "{id}");
    for front in [&stickpin, &replica] {
        assert!(is_logged_in_at(&who_am_i(&mut twin(front, &client)).await, "red"), "a replica needs no store");
        let reply = ask(&mut front.client(), Method::GET, &format!("/whoami;jsessionid={id}"), None).await;
        assert!(is_logged_in_at(&reply, "red"), "{}", reply.text());
    }

    backends[0].kill();
    until_gone(&mut stickpin.admin(), "red").await;
    until_gone(&mut replica.admin(), "red").await;
    let old = twin(&replica, &client);
    let moved = who_am_i(&mut client).await;
    let heir = moved.served_by();
    assert_eq!((told(&moved), moved.field("user")), (["red", "gone", ""].map(str::to_owned), "ann".to_owned()));
    let reissued = client.cookies.value("APPSESSION").unwrap();
    assert!(reissued.ends_with(&format!(".{heir}")), "the app names its new home: {reissued}");
    assert!(is_logged_in_at(&who_am_i(&mut twin(&replica, &client)).await, &heir));
    // A request that was sent before with the old id.
    assert_eq!(who_am_i(&mut twin(&replica, &old)).await.served_by(), heir, "the same heir at every replica");
    assert_eq!(stickpin.admin().metric("stickpin_rehomes_total", &[]).await, 1.0);
}

/// A browser that takes no cookies has old links, and requests may be on their way: the old id names the home that the
/// session has left, where it is known no more, or as it was.
#[tokio::test]
async fn the_former_id_of_a_session_that_moved_leads_to_its_new_home_though_the_old_one_is_back() {
    let backends = BackendProcess::cluster(NAMES, &["--sessions", "backup", "--route", "{name}"]);
    let affinity =
        "affinity: { app_session: { cookie: APPSESSION, path_parameter: jsessionid, home_by: route_suffix } }";
    let stickpin = shop(&backends, affinity).pool("sessions: backup").open().await;
    let (mut client, mut admin) = (client_at(&stickpin, "red").await, stickpin.admin());
    who_am_i(&mut client).await;
    let mut former = client.cookies.clone();
    let mut home = "red".to_owned();
    // There and back, so that an id is the former one and then the present one again.
    for _ in 0..2 {
        admin.set_state("shop", &home, "disabled").await;
        let moved = who_am_i(&mut client).await;
        assert_eq!(told(&moved), [&home, "disabled", ""], "{}", moved.text());
        admin.set_state("shop", &home, "enabled").await;
        let heir = moved.served_by();
        for cookies in [former, client.cookies.clone()] {
            let mut late = stickpin.client();
            late.cookies = cookies;
            let reply = who_am_i(&mut late).await;
            assert!(is_logged_in_at(&reply, &heir), "{}", reply.text());
            assert_eq!(told(&reply), [""; 3], "it has moved already");
        }
        (former, home) = (client.cookies.clone(), heir);
    }
    assert_eq!(admin.metric("stickpin_rehomes_total", &[]).await, 2.0);
    assert_placed(&stickpin, "rehomed", "", 2).await;
}

#[tokio::test]
async fn the_secondary_in_an_id_is_its_heir() {
    let mut backends =
        BackendProcess::cluster(NAMES, &["--sessions", "backup", "--route", "{name}", "--route-separator", "!"]);
    let affinity = "affinity: { app_session: { cookie: APPSESSION, home_by: route_suffix, separator: '!' } }";
    let stickpin = shop(&backends, affinity).pool("sessions: backup").open().await;
    let mut client = client_at(&stickpin, "red").await;
    who_am_i(&mut client).await;
    let id = client.cookies.value("APPSESSION").unwrap().to_owned();
    let routes: Vec<&str> = id.split('!').skip(1).collect();
    assert_eq!(routes[0], "red", "{id}");
    backends[0].kill();
    until_gone(&mut stickpin.admin(), "red").await;
    assert!(is_logged_in_at(&who_am_i(&mut client).await, routes[1]), "{id}");
}

/// The copy that the login's reply speaks of is with the heir that takes over, though the id was not known before it.
#[tokio::test]
async fn a_learned_session_with_a_backup_is_found_at_its_heir_even_if_its_home_dies_right_after_the_login() {
    let mut backends = BackendProcess::cluster(NAMES, &["--sessions", "backup"]);
    let stickpin = shop(&backends, LEARN).pool("sessions: backup").open().await;
    let mut clients = Vec::new();
    while clients.len() < 12 {
        let mut client = stickpin.client();
        let login = client.post("/login?user=ann", "").await.unwrap();
        if login.served_by() == "red" {
            clients.push((client, login.field("copied_to")));
        }
    }
    backends[0].kill();
    until_gone(&mut stickpin.admin(), "red").await;
    for (client, heir) in &mut clients {
        assert!(is_logged_in_at(&who_am_i(client).await, heir), "the copy is at {heir}");
    }
}

#[tokio::test]
async fn a_name_in_front_of_the_cookie_never_reaches_the_backend() {
    let mut backends = processes(NAMES);
    let affinity = "affinity: { app_session: { cookie: APPSESSION, home_by: prefix } }";
    let stickpin = shop(&backends, affinity).open().await;
    let mut client = client_at(&stickpin, "blue").await;
    let value = client.cookies.value("APPSESSION").unwrap().to_owned();
    let id = value.strip_prefix("blue~").expect("the name and a tilde come first").to_owned();
    assert!(is_logged_in_at(&who_am_i(&mut twin(&stickpin, &client)).await, "blue"));
    client.cookies.set("theme", "dark");
    let seen = ask(&mut client, Method::GET, "/echo", None).await.text();
    assert!(seen.contains(&format!("APPSESSION={id}")) && !seen.contains('~') && seen.contains("theme=dark"), "{seen}");

    backends[2].kill();
    until_gone(&mut stickpin.admin(), "blue").await;
    let moved = who_am_i(&mut client).await;
    assert_eq!(told(&moved), ["blue", "gone", "gone"].map(str::to_owned));
    let again = who_am_i(&mut twin(&stickpin, &client)).await;
    assert_eq!((again.served_by(), told(&again)[0].clone()), (moved.served_by(), String::new()), "once");
    let home = log_in(&mut client).await;
    assert!(client.cookies.value("APPSESSION").unwrap().starts_with(&format!("{home}~")));
    assert!(is_logged_in_at(&who_am_i(&mut client).await, &home));
}

#[tokio::test]
async fn a_new_session_on_a_detour_names_where_it_began() {
    let backends = processes(["red", "green"]);
    let affinity = "affinity: { app_session: { cookie: APPSESSION, home_by: prefix } }";
    let stickpin = shop(&backends, affinity).probed(IMPATIENT).open().await;
    let mut client = client_at(&stickpin, "red").await;
    backends[0].pause().await.unwrap();
    let mut admin = stickpin.admin();
    admin.until_health("shop", "red", "unhealthy").await;
    assert_eq!(log_in(&mut client).await, "green");
    assert!(client.cookies.value("APPSESSION").unwrap().starts_with("green~"));
    backends[0].resume().unwrap();
    admin.until_health("shop", "red", "healthy").await;
    assert!(is_logged_in_at(&who_am_i(&mut client).await, "green"));
}

/// The bad input of every way to pin: nobody panics, nobody gets an error for it, and good clients go on.
#[tokio::test]
async fn odd_ids_are_no_pin_and_never_an_error() {
    let backend = raw::Recorder::start().await;
    let ways = [
        "app_session: { cookie: SID, header: X-Sid, path_parameter: sid, query_parameter: sid }",
        "app_session: { cookie: SID, header: X-Sid, path_parameter: sid, query_parameter: sid, home_by: route_suffix }",
        "app_session: { cookie: SID, home_by: route_suffix, separator: '!' }",
        "app_session: { cookie: SID, home_by: prefix }",
        "hash: { keys: [{ jwt_claim: sub }, { jwt_claim: { claim: sub, cookie: SID } }, { cookie: SID }, path] }",
    ];
    let long = "x".repeat(60 * 1024);
    let many = (0..5000).map(|n| format!("SID=v{n}")).collect::<Vec<_>>().join("; ");
    let lines = [
        format!("Cookie: SID={long}\r\n"),
        format!("Cookie: {many}\r\n"),
        "Cookie: SID\r\nCookie: SID=\r\nCookie: SID=\"\"\r\nCookie: ;;;=;SID==\r\n".to_owned(),
        "Cookie: SID=a.app1; SID=b.nobody; SID=..; SID=.; SID=!; SID=!!!; SID=~; SID=~~\r\n".to_owned(),
        format!("X-Sid: {long}\r\nX-Sid: a\r\nX-Sid:\r\n"),
        "Authorization: Bearer a.b\r\n".to_owned(),
        format!("Authorization: Bearer {long}.{long}.\r\n").chars().take(61_000).collect::<String>() + "\r\n",
        "Authorization: Bearer .eyJzdWIiOls.\r\nCookie: SID=.W10.\r\n".to_owned(),
    ];
    for way in ways {
        let affinity = format!("affinity: {{ {way} }}");
        let yaml = raw::config(backend.address(), &[], &[&affinity]);
        let stickpin = Stickpin::start(&yaml);
        let mut client = Peer::connect(stickpin.front()).await;
        for line in &lines {
            client.send(format!("GET /a;sid=;b/c;sid=%00;sid=x?sid=&sid=%ff HTTP/1.1\r\nHost: x\r\n{line}\r\n")).await;
            let (head, _) = client.reply().await;
            assert_eq!(head.status(), 200, "{way}: {}", &line[..line.len().min(80)]);
        }
        // Bytes that are no text.
        let mut odd =
            b"GET / HTTP/1.1\r\nHost: x\r\nCookie: SID=\xff\xfe\x80.app1; a=\xc3\x28\r\nX-Sid: \xff\r\n\r\n".to_vec();
        odd.extend_from_slice(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        client.send(odd).await;
        assert_eq!(client.reply().await.0.status(), 200, "{way}");
        assert_eq!(client.reply().await.0.status(), 200, "{way}");
    }
}

/// A route without affinity shares the pool; the app refreshes its cookie there.
#[tokio::test]
async fn a_route_without_affinity_leaves_the_name_in_front_of_the_cookie() {
    let backend = raw::Backend::start().await;
    let affinity = "affinity: { app_session: { cookie: SID, home_by: prefix } }";
    let yaml = raw::config(backend.address(), &[], &[affinity])
        + "routes:\n  - { path_prefix: /static, pool: app, affinity: off }\n  - { path_prefix: /, pool: app }\n";
    let stickpin = Stickpin::start(&yaml);
    let mut client =
        Peer::sending(stickpin.front(), "GET /static/x HTTP/1.1\r\nHost: x\r\nCookie: SID=app1~v\r\n\r\n").await;
    let (mut connection, _) = backend.request().await;
    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSet-Cookie: SID=v; Max-Age=600\r\n\r\n").await;
    let head = client.reply().await.0;
    assert_eq!(head.values("set-cookie"), ["SID=app1~v; Max-Age=600"]);
}
