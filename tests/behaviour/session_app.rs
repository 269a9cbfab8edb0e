//! The session app itself: what the other tests believe of it.

use std::time::Duration;

use crate::support::session_app::{Checksum, pattern};
use crate::support::{Backend, BackendProcess, Client, ClientError, until};

#[tokio::test]
async fn a_login_lives_in_the_memory_of_one_server() {
    let (one, other) = (Backend::start("one"), Backend::start("other"));
    let mut client = Client::new(one.address());
    assert_eq!(client.get("/whoami").await.unwrap().field("session"), "none");

    let login = client.post("/login?user=ann", "").await.unwrap();
    assert_eq!(
        (login.field("user"), login.served_by(), login.field("session")),
        ("ann".into(), "one".into(), "new".into())
    );
    let known = client.get("/whoami").await.unwrap();
    assert_eq!((known.field("user"), known.json()["visits"].as_u64()), ("ann".into(), Some(1)));
    assert_eq!(client.connects(), 1);

    let mut elsewhere = Client::new(other.address());
    elsewhere.cookies = client.cookies.clone();
    let unknown = elsewhere.get("/whoami").await.unwrap();
    assert_eq!((unknown.status.as_u16(), unknown.field("session")), (200, "unknown".into()));
    assert!(unknown.json()["user"].is_null());
    assert!(elsewhere.get("/").await.unwrap().text().contains("Your login is lost"));
}

#[tokio::test]
async fn a_browser_logs_in_with_the_form_and_no_name_becomes_markup() {
    let app = Backend::start("app");
    let mut browser = Client::new(app.address());
    let form = http::Request::post("/login").header("Accept", "text/html").body("user=%3Cb%3E".into()).unwrap();
    let reply = browser.send(form).await.unwrap();
    assert_eq!((reply.status.as_u16(), reply.header("location")), (303, "/"));
    assert!(browser.get("/").await.unwrap().text().contains("You are <b>&lt;b&gt;</b>"));
    let logout = http::Request::post("/logout").header("Accept", "text/html").body("".into()).unwrap();
    let reply = browser.send(logout).await.unwrap();
    assert_eq!((reply.status.as_u16(), reply.header("location")), (303, "/"));
    assert!(browser.get("/").await.unwrap().text().contains("You are not logged in"));
}

#[tokio::test]
async fn it_repeats_what_it_was_told_and_what_it_saw() {
    let app = Backend::start("app");
    let mut client = Client::new(app.address());
    let told = http::Request::get("/whoami").header("Stickpin-Rehomed-From", "blue");
    let reply = client.send(told.header("Stickpin-Session-Lost", "gone").body("".into()).unwrap()).await.unwrap();
    assert_eq!((reply.field("rehomed_from"), reply.field("session_lost")), ("blue".into(), "gone".into()));

    let seen = http::Request::patch("/echo?a=%20b").header("B", "1").header("A", "2").header("B", "3");
    let seen = client.send(seen.body("12345".into()).unwrap()).await.unwrap().json();
    assert_eq!(seen["method"], "PATCH");
    assert_eq!(seen["path"], "/echo?a=%20b");
    assert_eq!(seen["body_length"], 5);
    let headers = seen["headers"].to_string();
    assert!(headers.starts_with(r#"[["b","1"],["b","3"],["a","2"]"#), "{headers}");
}

#[tokio::test]
async fn bodies_go_both_ways_whole_or_broken() {
    let app = Backend::start("app");
    let mut client = Client::new(app.address());
    let bytes = client.get("/bytes?n=200000").await.unwrap();
    assert_eq!(bytes.header("content-length"), "200000");
    assert_eq!(bytes.body, pattern(200_000));

    let up = client.post("/upload", bytes.body.clone()).await.unwrap();
    assert_eq!(up.json()["length"], 200_000);
    assert_eq!(up.field("checksum"), Checksum::of(&bytes.body).hex());

    let chunks = client.get("/chunks?n=3&delay_ms=1").await.unwrap();
    assert_eq!(
        (chunks.header("transfer-encoding"), chunks.text().as_str()),
        ("chunked", "chunk 0\nchunk 1\nchunk 2\n")
    );

    assert_eq!(client.get("/bytes?n=0").await.unwrap().header("content-length"), "0");
    assert_eq!(client.connects(), 1);
    match client.get("/broken?n=1000").await {
        Err(ClientError::Broken { reply, .. }) => assert_eq!(reply.body.len(), 500),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_wrong_with_it_is_wrong_until_the_next_order_and_never_with_probes() {
    let app = BackendProcess::start("app");
    let mut client = Client::new(app.address());
    client.post("/login?user=ann", "").await.unwrap();
    app.set_flaw("half_head").await;
    assert!(matches!(client.get("/whoami").await, Err(ClientError::Exchange(_))));
    app.set_flaw("half_body").await;
    match client.get("/whoami").await {
        Err(ClientError::Broken { reply, .. }) => assert!(reply.text().starts_with('{'), "{}", reply.text()),
        other => panic!("{other:?}"),
    }
    app.set_flaw("unavailable&percent=100").await;
    assert_eq!(client.get("/whoami").await.unwrap().status, 503);
    client.timeout = Duration::from_millis(300);
    for flaw in ["silent", "slow&ms=100"] {
        app.set_flaw(flaw).await;
        assert!(matches!(client.get("/whoami").await, Err(ClientError::Timeout(_))), "{flaw}");
        assert_eq!(client.get("/health").await.unwrap().status, 200, "{flaw}");
    }
    app.set_flaw("none").await;
    assert_eq!(client.get("/whoami").await.unwrap().field("user"), "ann");
    let through_a_proxy = http::Request::put("/_flaw?kind=silent").header("Via", "1.1 stickpin").body("".into());
    assert_eq!(client.send(through_a_proxy.unwrap()).await.unwrap().status, 405);
}

#[tokio::test]
async fn stopped_it_refuses_and_restarted_it_has_forgotten() {
    let mut app = Backend::start("app");
    let mut client = Client::new(app.address());
    client.post("/login?user=ann", "").await.unwrap();
    let instance = client.get("/health").await.unwrap().header("x-instance").to_owned();
    assert_eq!((app.requests(), app.connections()), (1, 1));

    app.stop();
    assert_eq!(app.connections(), 0);
    assert!(matches!(client.get("/whoami").await, Err(ClientError::Connect(_))));

    app.restart().unwrap();
    assert_eq!(client.get("/whoami").await.unwrap().field("session"), "unknown");
    assert_ne!(client.get("/health").await.unwrap().header("x-instance"), instance);
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_with_it() {
    let app = Backend::start("app");
    let mut client = Client::new(app.address());
    let request = client.get("/slow?ms=60000");
    let seen = until("the request is there", async || (app.in_flight() == 1).then_some(()).ok_or(app.in_flight()));
    tokio::select! {
        reply = request => panic!("{reply:?}"),
        () = seen => {}
    }
    until("it is gone", async || (app.in_flight() == 0).then_some(()).ok_or(app.in_flight())).await;
}

#[tokio::test]
async fn finishing_lets_a_request_end_and_takes_no_new_one() {
    let mut app = Backend::start("app");
    let mut client = Client::new(app.address());
    let request = tokio::spawn(async move { client.get("/slow?ms=100").await });
    until("the request is there", async || (app.in_flight() == 1).then_some(()).ok_or(app.in_flight())).await;
    let (app, reply) = tokio::join!(
        tokio::task::spawn_blocking(move || {
            app.finish(Duration::from_secs(20));
            app
        }),
        request
    );
    assert_eq!(reply.unwrap().unwrap().status, 200);
    assert!(Client::new(app.unwrap().address()).get("/").await.is_err());
}

#[tokio::test]
async fn a_process_keeps_its_port_and_loses_its_memory_when_killed_but_not_when_paused() {
    let mut app = BackendProcess::start("app");
    let mut client = Client::new(app.address());
    client.post("/login?user=ann", "").await.unwrap();

    app.pause().await.unwrap();
    client.timeout = Duration::from_millis(100);
    assert!(matches!(client.get("/whoami").await, Err(ClientError::Timeout(_))));
    app.resume().unwrap();
    client.timeout = Duration::from_secs(20);
    assert_eq!(client.get("/whoami").await.unwrap().field("user"), "ann");

    let (address, pid) = (app.address(), app.pid());
    app.kill();
    assert!(app.has_exited());
    assert!(matches!(client.get("/whoami").await, Err(ClientError::Connect(_))));
    app.restart().unwrap();
    assert_eq!(app.address(), address);
    assert_ne!(app.pid(), pid);
    assert_eq!(client.get("/whoami").await.unwrap().field("session"), "unknown");
}
