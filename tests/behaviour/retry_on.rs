//! Replies that another attempt may better, attempts that are given up for another, and a second backend for slow ones.

use http::{Method, Request};

use crate::moody::{Mood, Moody};
use crate::shop::{Shop, assert_placed, client_at};
use crate::support::{Client, Reply, StickpinProcess, until};

const RETRY_ALL: &str = "retry: { retry_on: [connect, reset_before_reply, 502, 503, 504], backoff: 1ms }";

/// Two backends, and a client that is pinned to `home`.
async fn opened(pool: &[&str]) -> (Moody, Moody, StickpinProcess, Client) {
    let (home, other) = (Moody::start("home").await, Moody::start("other").await);
    let shop = Shop::of([home.yaml(), other.yaml()]);
    let stickpin = pool.iter().fold(shop, |shop, keys| shop.pool(keys)).open().await;
    let client = client_at(&stickpin, "home").await;
    home.asked();
    other.asked();
    (home, other, stickpin, client)
}

async fn send(client: &mut Client, method: &Method, body: &str) -> Reply {
    let request = Request::builder().method(method).uri("/x").body(body.to_owned().into()).unwrap();
    client.send(request).await.unwrap()
}

async fn retried(stickpin: &StickpinProcess, reason: &str) -> f64 {
    stickpin.admin().metric("stickpin_retries_total", &[&format!("reason=\"{reason}\"")]).await
}

#[tokio::test]
async fn a_reply_of_502_503_or_504_is_bettered_elsewhere_where_all_backends_have_the_session() {
    let (home, other, stickpin, mut client) = opened(&["sessions: external", RETRY_ALL]).await;
    let pin = client.cookies.value("stickpin").unwrap().to_owned();
    for status in [502, 503, 504] {
        for (method, body) in [(Method::GET, ""), (Method::PUT, "12345"), (Method::DELETE, "")] {
            home.will([Mood::Status(status)]);
            let reply = send(&mut client, &method, body).await;
            assert_eq!((reply.status.as_u16(), reply.served_by()), (200, "other".into()), "{method} {status}");
            let asked = format!("{method} /x {body}");
            assert_eq!((home.asked(), other.asked()), (vec![asked.clone()], vec![asked]), "the same, body included");
        }
        assert_eq!(retried(&stickpin, &status.to_string()).await, 3.0);
    }
    assert_placed(&stickpin, "detour", "connect_failed", 9).await;
    assert_eq!(client.cookies.value("stickpin"), Some(&*pin), "the pin is as it was");
}

#[tokio::test]
async fn a_reply_is_passed_on_where_asking_again_might_do_harm_or_was_not_asked_for() {
    let (home, other, _stickpin, mut client) = opened(&["sessions: external", RETRY_ALL]).await;
    for (method, mood, expected) in [
        (Method::POST, Mood::Status(503), 503),
        (Method::PATCH, Mood::Status(502), 502),
        (Method::GET, Mood::Status(500), 500),
        (Method::GET, Mood::Status(429), 429),
    ] {
        home.will([mood]);
        let reply = send(&mut client, &method, "").await;
        assert_eq!((reply.status.as_u16(), other.asked().len()), (expected, 0), "{method}");
        assert_eq!(reply.text(), "in a mood", "it is the backend's own reply");
    }
    let (home, other, _stickpin, mut client) = opened(&["sessions: external"]).await;
    home.will([Mood::Status(503)]);
    assert_eq!((send(&mut client, &Method::GET, "").await.status.as_u16(), other.asked().len()), (503, 0));
}

#[tokio::test]
async fn a_key_of_the_clients_makes_a_post_one_that_may_be_repeated() {
    let (home, other, _stickpin, mut client) = opened(&["sessions: external", RETRY_ALL]).await;
    home.will([Mood::Status(503)]);
    let request = Request::post("/pay").header("Idempotency-Key", "8e03978e").body("12345".to_owned().into()).unwrap();
    let reply = client.send(request).await.unwrap();
    assert_eq!((reply.status.as_u16(), reply.served_by()), (200, "other".into()));
    assert_eq!((home.asked(), other.asked()), (vec!["POST /pay 12345".to_owned()], vec!["POST /pay 12345".to_owned()]));
}

#[tokio::test]
async fn whoever_has_its_session_in_one_place_is_asked_for_there_again() {
    let (home, other, stickpin, mut client) = opened(&[RETRY_ALL]).await;
    home.will([Mood::Status(503)]);
    let reply = send(&mut client, &Method::PUT, "12345").await;
    assert_eq!(
        (reply.status.as_u16(), reply.served_by(), &reply.json()["body_length"]),
        (200, "home".into(), &5.into())
    );
    assert_eq!((home.asked().len(), other.asked().len()), (2, 0));
    // A home that says when to come back is not asked at once, and one that goes on failing is believed.
    home.will([Mood::Later]);
    let reply = send(&mut client, &Method::GET, "").await;
    assert_eq!((reply.status.as_u16(), reply.header("retry-after"), home.asked().len()), (503, "7", 1));
    home.will([Mood::Status(503), Mood::Status(503), Mood::Status(502)]);
    let reply = send(&mut client, &Method::GET, "").await;
    assert_eq!((reply.status.as_u16(), home.asked().len(), other.asked().len()), (502, 3, 0), "three attempts");
    assert_placed(&stickpin, "detour", "", 0).await;
}

/// A reply that was to be bettered sent it to a third backend, which knew nothing of what it had done at the second.
#[tokio::test]
async fn whoever_is_on_a_long_detour_is_asked_for_there_again() {
    let backends = [Moody::start("home").await, Moody::start("red").await, Moody::start("green").await];
    let stickpin = Shop::of(backends.iter().map(Moody::yaml)).pool(RETRY_ALL).open().await;
    let mut client = client_at(&stickpin, "home").await;
    stickpin.admin().set_state("shop", "home", "disabled").await;
    let detour = send(&mut client, &Method::GET, "").await.served_by();
    let heir = &backends[if detour == "red" { 1 } else { 2 }];
    heir.will([Mood::Status(503)]);
    assert_eq!(send(&mut client, &Method::GET, "").await.served_by(), detour);
    heir.will([Mood::Status(503), Mood::Status(502), Mood::Status(504)]);
    assert_eq!(send(&mut client, &Method::GET, "").await.status, 504);
    assert_eq!(send(&mut client, &Method::GET, "").await.served_by(), detour);
}

#[tokio::test]
async fn the_last_reply_is_passed_on_when_nobody_has_a_better_one() {
    let (home, other, stickpin, mut client) = opened(&["sessions: external", RETRY_ALL]).await;
    home.will([Mood::Status(503)]);
    other.will([Mood::Later]);
    let reply = send(&mut client, &Method::GET, "").await;
    assert_eq!((reply.status.as_u16(), reply.header("retry-after"), reply.text()), (503, "7", "later".into()));
    // New clients likewise, and they are pinned to whoever replied.
    home.will([Mood::Status(502)]);
    other.will([Mood::Status(502)]);
    let mut new = stickpin.client();
    assert_eq!(send(&mut new, &Method::GET, "").await.status, 502);
    assert_eq!(home.asked().len() + other.asked().len(), 2 + 2);
}

#[tokio::test]
async fn the_budget_bounds_what_is_bettered() {
    let shape = "retry: { retry_on: [connect, 503], backoff: 0ms, budget: 0% }";
    let (home, other, stickpin, mut client) = opened(&["sessions: external", shape]).await;
    // Whoever has no traffic to speak of may make 50 a worker: two workers, and each reply costs one retry.
    for _ in 0..200 {
        home.will([Mood::Status(503)]);
        send(&mut client, &Method::GET, "").await;
    }
    let retries = retried(&stickpin, "503").await;
    assert!((50.0..=100.0).contains(&retries) && other.asked().len() as f64 == retries, "{retries} retries");
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_given_up_for_another_if_there_may_be_one() {
    let (home, other, stickpin, mut client) =
        opened(&["sessions: external", "timeouts: { attempt: 200ms, first_byte: 60s }"]).await;
    home.will([Mood::Waits]);
    let reply = send(&mut client, &Method::PUT, "12345").await;
    assert_eq!((reply.status.as_u16(), reply.served_by()), (200, "other".into()));
    assert_eq!(retried(&stickpin, "attempt_timeout").await, 1.0);
    other.asked();
    // What must not be sent twice waits for the one attempt that there is, and so does the last attempt.
    for method in [Method::POST, Method::GET] {
        home.will([Mood::Waits]);
        let is_last = method == Method::GET;
        if is_last {
            other.will([Mood::Waits]);
        }
        let before = home.asked().len();
        assert!(before <= 1);
        let (mut waiting, slow) = (client, if is_last { &other } else { &home });
        let request = tokio::spawn(async move {
            let reply = send(&mut waiting, &method, "").await;
            (waiting, reply)
        });
        until("the last one is asked", async || {
            let asked = slow.asked();
            if asked.is_empty() { Err("nobody asked") } else { Ok(()) }
        })
        .await;
        // Far longer than an attempt may take, and still not given up.
        tokio::time::sleep(std::time::Duration::from_millis(600)).await;
        assert!(!request.is_finished());
        slow.go_on();
        let reply;
        (client, reply) = request.await.unwrap();
        assert_eq!(reply.status, 200);
    }
}

#[tokio::test]
async fn a_late_reply_is_tried_elsewhere_only_where_504_is_named() {
    for (named, expected) in [("retry_on: [504]", (200, 1)), ("retry_on: [503]", (504, 0))] {
        let retry = format!("retry: {{ {named}, backoff: 1ms }}");
        let (home, other, _stickpin, mut client) =
            opened(&["sessions: external", &retry, "timeouts: { first_byte: 200ms }"]).await;
        home.will([Mood::Waits]);
        let reply = send(&mut client, &Method::GET, "").await;
        assert_eq!((reply.status.as_u16(), other.asked().len()), expected, "{named}");
    }
}

#[tokio::test]
async fn a_slow_reply_is_overtaken_by_a_second_backend() {
    let (home, other, stickpin, mut client) = opened(&["sessions: external", "retry: { hedge_after: 100ms }"]).await;
    let pin = client.cookies.value("stickpin").unwrap().to_owned();
    home.will([Mood::Waits]);
    let reply = send(&mut client, &Method::GET, "").await;
    assert_eq!((reply.status.as_u16(), reply.served_by()), (200, "other".into()));
    assert_eq!(retried(&stickpin, "hedge").await, 1.0);
    assert_placed(&stickpin, "detour", "busy", 1).await;
    // The first one is let go of: its place is free again.
    let mut admin = stickpin.admin();
    until("nobody is asked any more", async || {
        let view = admin.backend("shop", "home").await;
        if view["in_flight"] == 0 { Ok(()) } else { Err(view) }
    })
    .await;
    home.asked();
    other.asked();
    // The home wins when the second one is slower still, and whoever is left when one fails.
    home.will([Mood::Waits]);
    other.will([Mood::Waits]);
    let mut waiting = client;
    let request = tokio::spawn(async move {
        let reply = send(&mut waiting, &Method::GET, "").await;
        (waiting, reply)
    });
    until("both are asked", async || {
        let asked = other.asked();
        if asked.is_empty() { Err("only one") } else { Ok(()) }
    })
    .await;
    home.go_on();
    let (mut client, reply) = request.await.unwrap();
    assert_eq!((reply.served_by(), client.cookies.value("stickpin")), ("home".into(), Some(&*pin)));
    // What may not be sent twice at once is not: only the home is asked.
    home.asked();
    other.asked();
    home.will([Mood::Waits]);
    let request = tokio::spawn(async move { send(&mut client, &Method::POST, "1").await });
    until("the home is asked", async || if home.asked().is_empty() { Err("not yet") } else { Ok(()) }).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(other.asked().len(), 0);
    home.go_on();
    assert_eq!(request.await.unwrap().status, 200);
}

/// With a second backend in view, an attempt had all the time of the whole request.
#[tokio::test]
async fn an_attempt_that_takes_too_long_is_given_up_though_a_second_backend_is_to_be_asked_later() {
    let (home, _other, stickpin, mut client) = opened(&[
        "sessions: external",
        "timeouts: { attempt: 200ms, first_byte: 60s }",
        "retry: { hedge_after: 5s, backoff: 1ms }",
    ])
    .await;
    home.will([Mood::Waits]);
    assert_eq!(send(&mut client, &Method::GET, "").await.served_by(), "other");
    assert_eq!((retried(&stickpin, "attempt_timeout").await, retried(&stickpin, "hedge").await), (1.0, 0.0));
}

/// Nothing was known of how long a backend takes that was always overtaken, so it was taken for a fast one.
#[tokio::test]
async fn whoever_is_always_overtaken_is_known_to_be_slow() {
    let (slow, fast) = (Moody::start("slow").await, Moody::start("fast").await);
    let shop = Shop::of([slow.yaml(), fast.yaml()]).workers(1);
    let shop = ["affinity: off", "sessions: external", "balance: peak_ewma", "retry: { hedge_after: 100ms }"]
        .into_iter()
        .fold(shop, Shop::pool);
    let stickpin = shop.open().await;
    slow.will(vec![Mood::Waits; 40]);
    let mut client = stickpin.client();
    for _ in 0..40 {
        assert_eq!(send(&mut client, &Method::GET, "").await.served_by(), "fast");
    }
    let asked = slow.asked().len();
    assert!(asked <= 8, "the slow one was asked {asked} times");
}
