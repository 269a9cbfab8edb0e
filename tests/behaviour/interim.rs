//! 1xx replies: passed on as they come, and never mistaken for the reply.

use crate::support::raw::{Backend, Peer, front};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

const EXPECTING: &str = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";

#[tokio::test]
async fn a_client_waits_for_100_until_the_backend_says_so() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = Peer::sending(stickpin.front(), EXPECTING).await;
    let (mut at_backend, head) = backend.request().await;
    assert_eq!(head.value("expect"), Some("100-continue"));
    assert!(client.is_silent());
    at_backend.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 100);
    client.send("hello").await;
    assert_eq!(at_backend.exactly(5).await, b"hello");
    at_backend.send(OK).await;
    let (head, body) = client.reply().await;
    assert_eq!((head.status(), &*body), (200, "ok"));
    client.send("GET /next HTTP/1.1\r\nHost: x\r\n\r\n").await;
    at_backend.head().await;
    at_backend.send(OK).await;
    assert_eq!(client.reply().await.0.status(), 200);
}

#[tokio::test]
async fn a_backend_that_refuses_before_the_body_is_heard_and_gets_no_body() {
    for status in ["417 Expectation Failed", "401 Unauthorized"] {
        let backend = Backend::start().await;
        let stickpin = front(backend.address());
        let mut client = Peer::sending(stickpin.front(), EXPECTING).await;
        let (mut at_backend, _) = backend.request().await;
        at_backend.send(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno")).await;
        let (head, body) = client.reply().await;
        assert!(head.first_line().ends_with(status) && body == "no", "{head:?}");
        // Whether the client sends its body nevertheless is not known, so neither connection can go on.
        let _ = client.try_send("helloGET /evil HTTP/1.1\r\nHost: x\r\n\r\n").await;
        client.gone().await;
        assert!(at_backend.end().await.0.is_empty());
        assert!(backend.is_untouched().await);
    }
}

#[tokio::test]
async fn a_backend_that_says_nothing_gets_the_body_all_the_same() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = Peer::sending(stickpin.front(), EXPECTING).await;
    let (mut at_backend, _) = backend.request().await;
    assert_eq!(client.head().await.status(), 100, "after a while");
    client.send("hello").await;
    assert_eq!(at_backend.exactly(5).await, b"hello");
    at_backend.send(OK).await;
    assert_eq!(client.reply().await.0.status(), 200);
}

#[tokio::test]
async fn a_client_that_does_not_wait_for_100_is_served() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = Peer::sending(stickpin.front(), format!("{EXPECTING}hello")).await;
    let (mut at_backend, _) = backend.request().await;
    at_backend.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(at_backend.exactly(5).await, b"hello");
    at_backend.send(OK).await;
    let mut head = client.head().await;
    if head.status() == 100 {
        head = client.head().await;
    }
    assert_eq!(head.status(), 200);
    assert_eq!(client.exactly(2).await, b"ok");
}

#[tokio::test]
async fn early_hints_come_one_by_one_before_the_reply() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = Peer::sending(stickpin.front(), "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let (mut at_backend, _) = backend.request().await;
    for n in 1..=3 {
        let hint = format!("HTTP/1.1 103 Early Hints\r\nLink: </{n}.css>\r\nStickpin-Pin: release\r\n\r\n");
        at_backend.send(hint).await;
        let head = client.head().await;
        assert_eq!((head.status(), head.value("link")), (103, Some(&*format!("</{n}.css>"))));
        assert_eq!((head.value("stickpin-pin"), head.value("set-cookie")), (None, None));
    }
    // All at once, with the reply behind them.
    at_backend.send("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </4.css>\r\n\r\n").await;
    at_backend.send(OK).await;
    assert_eq!(client.head().await.status(), 102);
    assert_eq!(client.head().await.value("link"), Some("</4.css>"));
    let (head, body) = client.reply().await;
    assert_eq!((head.status(), &*body), (200, "ok"));
    assert!(head.value("set-cookie").is_some());
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_interim_reply() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let request = "POST / HTTP/1.0\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello";
    let mut client = Peer::sending(stickpin.front(), request).await;
    let (mut at_backend, head) = backend.request().await;
    assert_eq!(head.value("expect"), None);
    at_backend.exactly(5).await;
    at_backend.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n").await;
    at_backend.send(OK).await;
    let (head, body) = client.reply().await;
    assert_eq!((head.status(), &*body), (200, "ok"));
}

#[tokio::test]
async fn a_100_that_nobody_waits_for_is_swallowed() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = Peer::sending(stickpin.front(), "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let (mut at_backend, _) = backend.request().await;
    at_backend.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    at_backend.send(OK).await;
    assert_eq!(client.reply().await.0.status(), 200);
}

#[tokio::test]
async fn a_backend_that_never_stops_hinting_is_given_up() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = Peer::sending(stickpin.front(), "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await;
    let (mut at_backend, _) = backend.request().await;
    let hints = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1000);
    let _ = at_backend.try_send(hints).await;
    let status = loop {
        let status = client.head().await.status();
        if status != 103 {
            break status;
        }
    };
    assert_eq!(status, 502);
    at_backend.gone().await;
}
