//! What breaks on one side is seen as broken on the other, and never as complete.

use crate::support::raw::{Backend, End, Peer, config, front};
use crate::support::{Stickpin, until};

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Waits until the backend has no request in flight.
async fn until_idle(stickpin: &Stickpin) {
    let mut admin = stickpin.admin();
    until("nothing is in flight", async || {
        let view = admin.backend("app", "app1").await;
        if view["in_flight"] == 0 { Ok(()) } else { Err(view) }
    })
    .await;
}

#[tokio::test]
async fn a_reply_that_breaks_off_ends_with_a_reset_for_every_kind_of_client_and_framing() {
    let replies = [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n",
    ];
    let requests = [GET, "GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"];
    for reply in replies {
        for request in requests {
            for with_reset in [false, true] {
                let backend = Backend::start().await;
                let stickpin = front(backend.address());
                let mut client = Peer::sending(stickpin.front(), request).await;
                let (mut at_backend, _) = backend.request().await;
                at_backend.send(reply).await;
                assert_eq!(client.head().await.status(), 200);
                client.through(b"hello").await;
                if with_reset {
                    at_backend.reset();
                } else {
                    drop(at_backend);
                }
                let (rest, end) = client.end().await;
                assert_eq!(end, End::Reset, "{request} {reply} {with_reset} {}", rest.escape_ascii());
                assert!(memchr::memmem::find(&rest, b"0\r\n\r\n").is_none(), "{request} {reply}");
                until_idle(&stickpin).await;
            }
        }
    }
}

#[tokio::test]
async fn a_reply_that_only_its_end_would_complete_is_broken_by_a_reset() {
    for request in [GET, "GET / HTTP/1.0\r\n\r\n"] {
        let backend = Backend::start().await;
        let stickpin = front(backend.address());
        let mut client = Peer::sending(stickpin.front(), request).await;
        let (mut at_backend, _) = backend.request().await;
        at_backend.send("HTTP/1.1 200 OK\r\n\r\nhello").await;
        client.through(b"hello").await;
        at_backend.reset();
        assert_eq!(client.end().await.1, End::Reset, "{request}");
    }
}

#[tokio::test]
async fn broken_chunks_of_a_reply_break_it() {
    for chunk in ["x\r\n", "5\nhello\n", "5\r\nhelloXY", "fffffffffffffffff\r\n", "0\r\nno colon\r\n\r\n"] {
        let backend = Backend::start().await;
        let stickpin = front(backend.address());
        let mut client = Peer::sending(stickpin.front(), GET).await;
        let (mut at_backend, _) = backend.request().await;
        at_backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
        client.through(b"first\r\n").await;
        at_backend.send(chunk).await;
        assert_eq!(client.end().await.1, End::Reset, "{chunk:?}");
    }
}

#[tokio::test]
async fn what_is_not_a_reply_is_answered_with_502() {
    let huge = format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(300_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(1000));
    let replies = [
        "garbage\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/2 200\r\n\r\n",
        "HTTP/1.1 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA\0: b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        &huge,
        &many,
        "",
        "HTTP/1.1 200 OK\r\nA: b\r\n",
    ];
    for reply in replies {
        let shown = &reply[..reply.len().min(100)];
        let backend = Backend::start().await;
        let stickpin = Stickpin::start(&config(backend.address(), &[], &["retry: { attempts: 0 }"]));
        let mut client = Peer::sending(stickpin.front(), GET).await;
        let (mut at_backend, _) = backend.request().await;
        let _ = at_backend.try_send(reply).await;
        at_backend.finish().await;
        let (head, body) = client.reply().await;
        assert_eq!((head.status(), &*body), (502, "502 Bad Gateway\n"), "{shown:?}");
        drop(at_backend);
        // The client's connection is in order.
        client.send(GET).await;
        let (mut at_backend, _) = backend.request().await;
        at_backend.send(OK).await;
        assert_eq!(client.reply().await.0.status(), 200, "{shown:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_the_reply_takes_its_request_along() {
    for with_reset in [false, true] {
        let backend = Backend::start().await;
        let stickpin = front(backend.address());
        let client = Peer::sending(stickpin.front(), GET).await;
        let (mut at_backend, _) = backend.request().await;
        if with_reset {
            client.reset();
        } else {
            drop(client);
        }
        at_backend.gone().await;
        until_idle(&stickpin).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_within_the_reply_takes_its_request_along() {
    for framing in ["Content-Length: 100000000", "Transfer-Encoding: chunked", "X-Until: close"] {
        let backend = Backend::start().await;
        let stickpin = front(backend.address());
        let mut client = Peer::sending(stickpin.front(), GET).await;
        let (mut at_backend, _) = backend.request().await;
        at_backend.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n5\r\nhello\r\n")).await;
        client.through(b"hello").await;
        drop(client);
        at_backend.gone().await;
        until_idle(&stickpin).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_within_its_own_body_leaves_no_complete_request() {
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let backend = Backend::start().await;
        let stickpin = front(backend.address());
        let request = format!("POST / HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n5\r\nhello\r\n");
        let client = Peer::sending(stickpin.front(), request).await;
        let (mut at_backend, _) = backend.request().await;
        at_backend.through(b"hello").await;
        drop(client);
        let (rest, _) = at_backend.end().await;
        assert!(memchr::memmem::find(&rest, b"0\r\n\r\n").is_none(), "{}", rest.escape_ascii());
        until_idle(&stickpin).await;
    }
}

#[tokio::test]
async fn a_get_that_meets_a_connection_being_closed_is_sent_again_over_a_new_one() {
    for with_reset in [false, true] {
        let backend = Backend::start().await;
        let stickpin = Stickpin::start(&config(backend.address(), &[], &["retry: { attempts: 0 }"]));
        let mut client = Peer::sending(stickpin.front(), GET).await;
        let (mut at_backend, _) = backend.request().await;
        at_backend.send(OK).await;
        client.reply().await;
        client.send("GET /again HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(at_backend.head().await.first_line(), "GET /again HTTP/1.1", "over the same connection");
        if with_reset {
            at_backend.reset();
        } else {
            drop(at_backend);
        }
        let (mut at_backend, head) = backend.request().await;
        assert_eq!(head.first_line(), "GET /again HTTP/1.1");
        at_backend.send(OK).await;
        assert_eq!(client.reply().await.0.status(), 200);
    }
}

#[tokio::test]
async fn a_post_that_may_have_been_heard_is_not_sent_again() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = Peer::sending(stickpin.front(), GET).await;
    let (mut at_backend, _) = backend.request().await;
    at_backend.send(OK).await;
    client.reply().await;
    client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello").await;
    at_backend.through(b"hello").await;
    drop(at_backend);
    assert_eq!(client.reply().await.0.status(), 502);
    assert!(backend.is_untouched().await);
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_not_used() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = Peer::sending(stickpin.front(), GET).await;
    let (mut at_backend, _) = backend.request().await;
    at_backend.send(OK).await;
    client.reply().await;
    drop(at_backend);
    client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await;
    let (mut at_backend, _) = backend.request().await;
    at_backend.send(OK).await;
    assert_eq!(client.reply().await.0.status(), 200);
}

#[tokio::test]
async fn what_a_backend_sends_beyond_its_reply_answers_nobody() {
    const UNASKED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    for comes_later in [false, true] {
        let backend = Backend::start().await;
        let stickpin = front(backend.address());
        let mut client = Peer::sending(stickpin.front(), GET).await;
        let (mut at_backend, _) = backend.request().await;
        if comes_later {
            at_backend.send(OK).await;
            assert_eq!(client.reply().await.1, "ok");
            at_backend.send(UNASKED).await;
        } else {
            at_backend.send(format!("{OK}{UNASKED}")).await;
            assert_eq!(client.reply().await.1, "ok");
        }
        let mut other = Peer::sending(stickpin.front(), "GET /other HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let (mut new, head) = backend.request().await;
        assert_eq!(head.first_line(), "GET /other HTTP/1.1");
        new.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright").await;
        assert_eq!(other.reply().await.1, "right");
        assert!(at_backend.end().await.0.is_empty(), "the poisoned connection was used");
    }
}

#[tokio::test]
async fn a_body_where_none_belongs_answers_nobody() {
    for (method, reply) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 40\r\n\r\n"),
    ] {
        let backend = Backend::start().await;
        let stickpin = front(backend.address());
        let mut client = Peer::sending(stickpin.front(), format!("{method} / HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        let (mut at_backend, _) = backend.request().await;
        at_backend.send(format!("{reply}HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: poison\r\n\r\n")).await;
        client.head().await;
        client.send(GET).await;
        let (mut at_backend, _) = backend.request().await;
        at_backend.send(OK).await;
        let (head, _) = client.reply().await;
        assert_eq!((head.status(), head.value("x")), (200, None), "{reply}");
    }
}

#[tokio::test]
async fn a_connection_is_not_used_again_when_the_backend_says_so() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = Peer::connect(stickpin.front()).await;
    for reply in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: foo, Close\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ] {
        client.send(GET).await;
        let (mut at_backend, _) = backend.request().await;
        at_backend.send(reply).await;
        assert_eq!(client.reply().await.1, "ok", "{reply}");
        at_backend.gone().await;
    }
}
