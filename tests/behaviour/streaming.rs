//! Bodies are passed on piece by piece, in both directions, whatever their framing.

use std::hash::{DefaultHasher, Hasher};

use crate::support::raw::{Backend, End, Peer, front};

/// More than all buffers between two sockets hold.
const LARGE: usize = 8 * 1024 * 1024;

/// Bytes that are told apart when they come out of order.
fn large() -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(7);
    (0..LARGE).map(|_| rng.u8(..)).collect()
}

fn checksum(bytes: &[u8]) -> (usize, u64) {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    (bytes.len(), hasher.finish())
}

#[tokio::test]
async fn a_piece_of_a_reply_arrives_before_the_next_one_is_sent() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = Peer::sending(stickpin.front(), "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let (mut at_backend, _) = backend.request().await;
    at_backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!((head.status(), head.value("transfer-encoding")), (200, Some("chunked")));
    for piece in ["5\r\nfirst\r\n", "6\r\nsecond\r\n"] {
        at_backend.send(piece).await;
        assert_eq!(client.exactly(piece.len()).await, piece.as_bytes());
    }
    at_backend.send("0\r\n\r\n").await;
    assert_eq!(client.exactly(5).await, b"0\r\n\r\n");
    // The same with a length, over the same connections.
    client.send("GET /2 HTTP/1.1\r\nHost: x\r\n\r\n").await;
    at_backend.head().await;
    at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nfirst").await;
    assert_eq!(client.head().await.value("content-length"), Some("11"));
    assert_eq!(client.exactly(5).await, b"first");
    at_backend.send("second").await;
    assert_eq!(client.exactly(6).await, b"second");
}

#[tokio::test]
async fn a_piece_of_a_request_arrives_before_the_next_one_is_sent() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client =
        Peer::sending(stickpin.front(), "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let (mut at_backend, head) = backend.request().await;
    assert_eq!((head.value("transfer-encoding"), head.value("content-length")), (Some("chunked"), None));
    for piece in ["5\r\nfirst", "6\r\nsecond"] {
        client.send(piece).await;
        client.send("\r\n").await;
        at_backend.through(piece.as_bytes()).await;
    }
    client.send("0\r\n\r\n").await;
    at_backend.through(b"\r\n0\r\n\r\n").await;
    at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 200);
    // The same with a length, over the same connections.
    client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\nfirst").await;
    let head = at_backend.head().await;
    assert_eq!((head.value("transfer-encoding"), head.value("content-length")), (None, Some("11")));
    assert_eq!(at_backend.exactly(5).await, b"first");
    client.send("second").await;
    assert_eq!(at_backend.exactly(6).await, b"second");
    at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn request_and_reply_can_be_under_way_at_once() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client =
        Peer::sending(stickpin.front(), "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let (mut at_backend, _) = backend.request().await;
    at_backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.head().await;
    for question in ["one", "two", "three"] {
        client.send(format!("{:x}\r\n{question}\r\n", question.len())).await;
        at_backend.through(question.as_bytes()).await;
        let answer = format!("{:x}\r\nre: {question}\r\n", question.len() + 4);
        at_backend.send(&answer).await;
        assert_eq!(client.exactly(answer.len()).await, answer.as_bytes());
    }
    client.send("0\r\n\r\n").await;
    at_backend.through(b"\r\n0\r\n\r\n").await;
    at_backend.send("0\r\n\r\n").await;
    assert_eq!(client.exactly(5).await, b"0\r\n\r\n");
}

#[tokio::test]
async fn a_large_upload_and_a_large_download_arrive_as_they_were() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let (body, front) = (large(), stickpin.front());
    let expected = checksum(&body);
    let mut client = Peer::connect(front).await;
    let upload = async {
        client.send(format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {LARGE}\r\n\r\n")).await;
        client.send(&body).await;
    };
    let receive = async {
        let (mut at_backend, _) = backend.request().await;
        let received = at_backend.exactly(LARGE).await;
        (at_backend, received)
    };
    let ((), (mut at_backend, received)) = tokio::join!(upload, receive);
    assert_eq!(checksum(&received), expected);
    let download = async {
        at_backend.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n")).await;
        at_backend.send(&body).await;
    };
    let ((), received) = tokio::join!(download, async {
        client.head().await;
        client.exactly(LARGE).await
    });
    assert_eq!(checksum(&received), expected);
}

#[tokio::test]
async fn a_backend_that_reads_slowly_slows_the_client_down_instead_of_filling_memory() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", 64 * LARGE);
    let mut client = Peer::sending(stickpin.front(), head).await;
    let (at_backend, _) = backend.request().await;
    let piece = vec![b'a'; LARGE];
    // The backend reads nothing, so sending must get stuck long before the end.
    let stuck = async {
        for _ in 0..64 {
            client.send(&piece).await;
        }
    };
    let stuck = tokio::time::timeout(std::time::Duration::from_millis(1500), stuck).await;
    assert!(stuck.is_err(), "half a gigabyte went somewhere");
    drop(at_backend);
}

#[tokio::test]
async fn replies_without_a_body_have_none_and_the_connection_goes_on() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = Peer::connect(stickpin.front()).await;
    let mut connection = None;
    let replies = [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", 200, Some("1234")),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, None),
        ("HEAD", "HTTP/1.1 200 OK\r\n\r\n", 200, None),
        ("HEAD", "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\n", 404, Some("9")),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", 204, None),
        ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204, None),
        ("GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", 204, None),
        ("GET", "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n", 304, None),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, Some("0")),
    ];
    for (method, reply, status, length) in replies {
        client.send(format!("{method} / HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        let at_backend = match &mut connection {
            Some(connection) => connection,
            None => connection.insert(backend.accept().await),
        };
        assert_eq!(at_backend.head().await.first_line(), format!("{method} / HTTP/1.1"));
        at_backend.send(reply).await;
        let head = client.head().await;
        assert_eq!((head.status(), head.value("content-length")), (status, length), "{reply}");
        assert_eq!(head.value("transfer-encoding"), None, "{reply}");
    }
    assert!(client.is_silent() && backend.is_untouched().await);
}

#[tokio::test]
async fn announced_trailers_of_a_reply_reach_a_client_that_takes_them() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: TE\r\nTE: trailers\r\n\r\n";
    let mut client = Peer::sending(stickpin.front(), request).await;
    let (mut at_backend, head) = backend.request().await;
    assert_eq!(head.value("te"), Some("trailers"));
    at_backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Stickpin-Pin\r\n\r\n").await;
    at_backend.send("2\r\nok\r\n0\r\nX-Sum: 42\r\nStickpin-Pin: release\r\n\r\n").await;
    client.head().await;
    let rest = client.through(b"\r\n\r\n").await;
    assert_eq!(String::from_utf8_lossy(&rest).to_ascii_lowercase(), "2\r\nok\r\n0\r\nx-sum: 42\r\n\r\n");
    // The connections are in order: both go on.
    client.send("GET /next HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(at_backend.head().await.first_line(), "GET /next HTTP/1.1");
}

#[tokio::test]
async fn trailers_of_a_request_reach_the_backend_but_for_those_that_would_pass_for_headers() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let request = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\n\
                   X-Sum: 42\r\nContent-Length: 3\r\nTransfer-Encoding: gzip\r\nHost: evil\r\nX-Forwarded-For: 10.0.0.1\r\n\
                   Forwarded: for=10.0.0.1\r\nCookie: stickpin=x\r\nStickpin-Rehomed-From: evil\r\nstickpin_heir: evil\r\n\
                   Authorization: evil\r\n\r\n";
    let mut client = Peer::sending(stickpin.front(), request).await;
    let (mut at_backend, _) = backend.request().await;
    let body = at_backend.through(b"0\r\nx-sum: 42\r\n\r\n").await;
    assert_eq!(String::from_utf8_lossy(&body), "2\r\nok\r\n0\r\nx-sum: 42\r\n\r\n");
    at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 200);
    assert!(at_backend.is_silent());
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_chunks_and_the_end_of_the_connection_instead() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client = Peer::sending(stickpin.front(), "GET / HTTP/1.0\r\nHost: x\r\n\r\n").await;
    let (mut at_backend, head) = backend.request().await;
    assert_eq!(head.first_line(), "GET / HTTP/1.1");
    at_backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    let head = client.head().await;
    assert_eq!((head.status(), head.value("transfer-encoding"), head.value("content-length")), (200, None, None));
    assert_eq!(client.exactly(5).await, b"hello");
    at_backend.send("6\r\n world\r\n0\r\n\r\n").await;
    assert_eq!(client.end().await, (b" world".to_vec(), End::Closed));
}

#[tokio::test]
async fn a_client_of_http_1_0_can_keep_its_connection_when_the_length_is_known() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let request = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let mut client = Peer::sending(stickpin.front(), request).await;
    let (mut at_backend, head) = backend.request().await;
    assert_eq!(head.value("host"), Some(""));
    for _ in 0..2 {
        at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let (head, body) = client.reply().await;
        assert_eq!((head.value("connection"), &*body), (Some("keep-alive"), "ok"));
        client.send(request).await;
        at_backend.head().await;
    }
    at_backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").await;
    client.head().await;
    assert_eq!(client.end().await, (b"ok".to_vec(), End::Closed), "without a length only the end tells the end");
}

#[tokio::test]
async fn a_reply_that_ends_with_its_connection_is_complete_then() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    for version in ["1.0", "1.1"] {
        let mut client = Peer::sending(stickpin.front(), "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let (mut at_backend, _) = backend.request().await;
        at_backend.send(format!("HTTP/{version} 200 OK\r\n\r\nhello")).await;
        let head = client.head().await;
        assert_eq!((head.first_line(), head.value("transfer-encoding")), ("HTTP/1.1 200 OK", Some("chunked")));
        assert_eq!(client.through(b"\r\n").await, b"5\r\n");
        assert_eq!(client.exactly(7).await, b"hello\r\n");
        drop(at_backend);
        assert_eq!(client.exactly(5).await, b"0\r\n\r\n");
        client.send("GET /next HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let (mut at_backend, _) = backend.request().await;
        at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
        assert_eq!(client.reply().await.1, "ok");
    }
}

#[tokio::test]
async fn a_reply_that_comes_before_the_request_is_complete_reaches_the_client() {
    let backend = Backend::start().await;
    let stickpin = front(backend.address());
    let mut client =
        Peer::sending(stickpin.front(), "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nhello").await;
    let (mut at_backend, _) = backend.request().await;
    at_backend.exactly(5).await;
    at_backend.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nmuch").await;
    let (head, body) = client.reply().await;
    assert_eq!((head.status(), &*body), (413, "much"));
    // What is left of the body must never be taken for a request.
    let _ = client.try_send("GET /evil HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(client.end().await.0.is_empty());
    at_backend.gone().await;
    assert!(backend.is_untouched().await);
}
