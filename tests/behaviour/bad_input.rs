//! What two parsers could read differently is refused, the connection closed, and no backend hears of it.

use fastrand::Rng;

use crate::support::Stickpin;
use crate::support::raw::{End, Head, Peer, Recorder, config, front};

const GOOD: &str = "GET /good HTTP/1.1\r\nHost: shop.example\r\n\r\n";

/// Requests that are refused, and the statuses that may say so. Each names `/evil`, so that its traces can be found.
async fn are_refused(table: &[(&[u16], &[u8])]) {
    let backend = Recorder::start().await;
    let stickpin = front(backend.address());
    for (statuses, request) in table {
        let shown = request[..request.len().min(300)].escape_ascii();
        for good_before in [0, 2] {
            let mut client = Peer::connect(stickpin.front()).await;
            for _ in 0..good_before {
                client.send(GOOD).await;
                assert_eq!(client.reply().await.0.status(), 200);
            }
            // A refusal may come before everything was sent.
            let _ = client.try_send(request).await;
            is_refused(&mut client, statuses, &shown).await;
        }
        let pipelined = [GOOD.as_bytes(), request].concat();
        let mut client = Peer::connect(stickpin.front()).await;
        let _ = client.try_send(&pipelined).await;
        assert_eq!(client.reply().await.0.status(), 200, "before {shown}");
        is_refused(&mut client, statuses, &shown).await;
    }
    let mut client = Peer::sending(stickpin.front(), GOOD).await;
    assert_eq!(client.reply().await.0.status(), 200);
    let heard = backend.heard();
    assert_eq!(heard.requests.len(), table.len() * 3 + 1);
    assert!(heard.requests.iter().all(|(head, body)| head.first_line() == "GET /good HTTP/1.1" && body.is_empty()));
    assert!(heard.unfinished.is_empty() && heard.complaints.is_empty(), "{heard:?}");
}

/// One reply with one of these statuses, and then the end.
async fn is_refused(client: &mut Peer, statuses: &[u16], request: &impl std::fmt::Display) {
    let (rest, _) = client.end().await;
    let text = String::from_utf8_lossy(&rest).into_owned();
    assert!(text.starts_with("HTTP/1.1 "), "{request}: {text:?}");
    assert!(statuses.contains(&Head(text.clone()).status()), "{request}: {text}");
    assert_eq!(text.matches("HTTP/1.").count(), 1, "{request}: {text}");
    let head = Head(text.split_inclusive("\r\n\r\n").next().unwrap_or_default().to_owned());
    assert_eq!(head.value("connection"), Some("close"), "{request}: {text}");
}

#[tokio::test]
async fn a_malformed_request_line_is_refused() {
    are_refused(&[
        (&[400], b"GET /evil\r\nHost: x\r\n\r\n"),
        (&[400], b"GET  /evil HTTP/1.1\r\nHost: x\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1 HTTP/1.1\r\nHost: x\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.2\r\nHost: x\r\n\r\n"),
        (&[400], b"GET /evil HTTP/9.9\r\nHost: x\r\n\r\n"),
        (&[400], b"GET /evil http/1.1\r\nHost: x\r\n\r\n"),
        (&[400], b"GET /evil\0 HTTP/1.1\r\nHost: x\r\n\r\n"),
        (&[400], b"G@T /evil HTTP/1.1\r\nHost: x\r\n\r\n"),
        (&[400], b"GET /evil\x7f HTTP/1.1\r\nHost: x\r\n\r\n"),
        (&[400], b" GET /evil HTTP/1.1\r\nHost: x\r\n\r\n"),
        (&[400], b"GET evil HTTP/1.1\r\nHost: x\r\n\r\n"),
        (&[400], b"GET ?evil HTTP/1.1\r\nHost: x\r\n\r\n"),
        (&[400], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 evil\r\n\r\n"),
        (&[400], b"{\"evil\": 1}\r\n\r\n"),
    ])
    .await;
}

#[tokio::test]
async fn a_malformed_header_line_is_refused() {
    are_refused(&[
        (&[400], b"GET /evil HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\nHost: x\r\nA\0: b\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\nHost: x\r\nA: b\rC: d\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\nHost: x\r\nA: b\r\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\nHost: x\r\nA: b\x0bc\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\nHost : x\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\nHost: x\r\nA\t: b\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\n Host: x\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\nHost: x\r\nA: b\r\n\tc\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\nHost: x\r\n: no name\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\nHost: x\r\nA(B): c\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\nHost: x\r\n\xc3\xa9: c\r\n\r\n"),
    ])
    .await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_with_431() {
    let long_line = format!("GET /evil HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "a".repeat(70_000));
    let many_lines = format!("GET /evil HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(200));
    let long_target = format!("GET /evil{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(70_000));
    let endless = format!("GET /evil HTTP/1.1\r\nHost: x\r\nA: {}", "a".repeat(200_000));
    are_refused(&[
        (&[431], long_line.as_bytes()),
        (&[431], many_lines.as_bytes()),
        (&[414, 431], long_target.as_bytes()),
        (&[431], endless.as_bytes()),
    ])
    .await;
}

#[tokio::test]
async fn a_request_without_one_valid_host_is_refused() {
    are_refused(&[
        (&[400], b"GET /evil HTTP/1.1\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\nX: y\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\nHost: x\r\nA: b\r\nhost: y\r\n\r\n"),
        (&[400], b"GET http://x/evil HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"),
        (&[400], b"GET http://x/evil HTTP/1.1\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\nHost: x, y\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\nHost: x y\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\nHost: x/y\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\nHost: u@x\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\nHost: x?y\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\nHost: x#y\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\nHost: x\\y\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\nHost: \"x\"\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\nHost: x\xff\r\n\r\n"),
        (&[400], b"GET /evil HTTP/1.1\r\nHost: http://x\r\n\r\n"),
        (&[400], b"GET http://u@x/evil HTTP/1.1\r\nHost: x\r\n\r\n"),
    ])
    .await;
}

#[tokio::test]
async fn connect_and_an_asterisk_that_is_not_for_options_are_refused() {
    are_refused(&[
        (&[400, 405], b"CONNECT evil:443 HTTP/1.1\r\nHost: evil:443\r\n\r\n"),
        (&[400, 405], b"CONNECT /evil HTTP/1.1\r\nHost: x\r\n\r\n"),
        (&[400], b"GET * HTTP/1.1\r\nHost: evil\r\n\r\n"),
    ])
    .await;
}

#[tokio::test]
async fn a_body_whose_length_is_ambiguous_is_refused() {
    are_refused(&[
        (&[400], b"POST /evil HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
        (&[400], b"POST /evil HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nContent-Length: 5\r\n\r\nhello!"),
        (&[400], b"POST /evil HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 6\r\n\r\nhello!"),
        (&[400], b"POST /evil HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 5\r\n\r\nhello"),
        (&[400], b"POST /evil HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello"),
        (&[400], b"POST /evil HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\nhello"),
        (&[400], b"POST /evil HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\nhello"),
        (&[400], b"POST /evil HTTP/1.1\r\nHost: x\r\nContent-Length: 5 5\r\n\r\nhello"),
        (&[400], b"POST /evil HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\nhello"),
        (&[400], b"POST /evil HTTP/1.1\r\nHost: x\r\nContent-Length: five\r\n\r\nhello"),
        (&[400, 431], b"POST /evil HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551616\r\n\r\nhello"),
        (&[400, 431], b"POST /evil HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551615\r\n\r\nhello"),
    ])
    .await;
}

/// The classics: whoever believes the length, and whoever believes the coding, see another request behind this one.
#[tokio::test]
async fn a_length_beside_a_coding_is_refused_in_either_order() {
    let padded = |lines: &str| {
        let padding = format!("A: {}\r\n", "a".repeat(40_000));
        format!("POST /evil HTTP/1.1\r\nHost: x\r\n{padding}{lines}\r\n0\r\n\r\nGET /evil HTTP/1.1\r\nHost: x\r\n\r\n")
    };
    let far_behind = padded("Content-Length: 40\r\nTransfer-Encoding: chunked\r\n");
    let far_behind_too = padded("Transfer-Encoding: chunked\r\nContent-Length: 40\r\n");
    are_refused(&[
        (
            &[400],
            b"POST /evil HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
        ),
        (
            &[400],
            b"POST /evil HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nG",
        ),
        (
            &[400],
            b"POST /evil HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
              26\r\nGET /evil HTTP/1.1\r\nHost: evil\r\nX: \r\n\r\n0\r\n\r\n",
        ),
        (&[400], b"GET /evil HTTP/1.1\r\nHost: x\r\ncontent-length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (
            &[400],
            b"POST /evil HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: bogus\r\n\r\n0\r\n\r\n",
        ),
        (&[400], far_behind.as_bytes()),
        (&[400], far_behind_too.as_bytes()),
    ])
    .await;
}

#[tokio::test]
async fn a_length_beside_a_coding_is_found_at_the_end_of_the_longest_head() {
    let backend = Recorder::start().await;
    let stickpin = Stickpin::start(&config(backend.address(), &["head_limit: 1MiB"], &[]));
    let padding = format!("A: {}\r\n", "a".repeat(100_000)).repeat(9);
    for (length_at_the_end, is_good) in [("Content-Length: 5\r\n", false), ("", true)] {
        let head =
            format!("POST /evil HTTP/1.1\r\nHost: x\r\n{padding}Transfer-Encoding: chunked\r\n{length_at_the_end}");
        let mut client = Peer::sending(stickpin.front(), format!("{head}\r\n0\r\n\r\n")).await;
        if is_good {
            assert_eq!(client.reply().await.0.status(), 200);
        } else {
            is_refused(&mut client, &[400], &length_at_the_end).await;
        }
    }
    assert_eq!(backend.heard().requests.len(), 1);
}

/// What is looked at is only the half that comes in its turn, and it may look like a whole.
#[tokio::test]
async fn a_length_in_the_half_of_a_head_that_came_ahead_of_its_turn_is_not_overlooked() {
    let backend = Recorder::start().await;
    let stickpin = front(backend.address());
    let halves = [
        ("POST /evil HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (
            "POST /evil HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nX: ",
            "GET /evil HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
    ];
    for (ahead, rest) in halves {
        let mut client = Peer::sending(stickpin.front(), format!("{GOOD}{ahead}")).await;
        assert_eq!(client.reply().await.0.status(), 200);
        client.send(rest).await;
        is_refused(&mut client, &[400], &rest).await;
    }
    assert!(backend.heard().requests.iter().all(|(head, _)| !head.0.contains("evil")));
}

#[tokio::test]
async fn a_coding_that_is_not_just_chunked_is_refused() {
    let lines: [&[u8]; 16] = [
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked, gzip",
        b"Transfer-Encoding: gzip",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding: \x0bchunked",
        b"Transfer-Encoding: chunked;a=b",
        b"Transfer-Encoding: \"chunked\"",
        b"Transfer-Encoding:",
        b"Transfer-Encoding: ,chunked",
        b"Transfer-Encoding:\r\n chunked",
    ];
    let requests =
        lines.map(|line| [b"POST /evil HTTP/1.1\r\nHost: x\r\n", line, b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n"].concat());
    let table: Vec<(&[u16], &[u8])> = requests.iter().map(|request| (&[400][..], &request[..])).collect();
    are_refused(&table).await;
    are_refused(&[(&[400], b"POST /evil HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")]).await;
}

#[tokio::test]
async fn a_body_with_broken_chunks_never_becomes_a_complete_request() {
    let chunks: [&[u8]; 12] = [
        b"x\r\n",
        b"-1\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5 5\r\nhello\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"10000000000000005\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5\rX\nhello\r\n0\r\n\r\n",
        b"\r\n5\r\nhello\r\n0\r\n\r\n",
        b"5;a=b\rc\r\nhello\r\n0\r\n\r\n",
        b"5;a=b\nc\r\nhello\r\n0\r\n\r\n",
    ];
    let backend = Recorder::start().await;
    let stickpin = front(backend.address());
    for chunk in chunks {
        for good_before in [0, 1] {
            let mut client = Peer::connect(stickpin.front()).await;
            for _ in 0..good_before {
                client.send(GOOD).await;
                assert_eq!(client.reply().await.0.status(), 200);
            }
            client.send(b"POST /evil HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            let _ = client.try_send(chunk).await;
            is_refused(&mut client, &[400], &chunk.escape_ascii()).await;
        }
    }
    let mut client = Peer::sending(stickpin.front(), GOOD).await;
    assert_eq!(client.reply().await.0.status(), 200);
    let heard = backend.heard();
    assert_eq!(heard.requests.len(), chunks.len() + 1, "only the good ones are complete: {heard:?}");
    assert!(heard.complaints.is_empty(), "{heard:?}");
}

#[tokio::test]
async fn the_authority_of_an_absolute_target_wins_over_the_host_line() {
    let backend = Recorder::start().await;
    let stickpin = front(backend.address());
    let mut client =
        Peer::sending(stickpin.front(), "GET http://real.example:81/a?b HTTP/1.1\r\nHost: other.example\r\n\r\n").await;
    assert_eq!(client.reply().await.0.status(), 200);
    let head = backend.last_head();
    assert_eq!(head.first_line(), "GET /a?b HTTP/1.1");
    assert_eq!(head.value("host"), Some("real.example:81"));
    assert!(!head.0.contains("other"), "{head:?}");
    client.send("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(client.reply().await.0.status(), 200);
    assert_eq!(backend.last_head().first_line(), "OPTIONS * HTTP/1.1");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let backend = Recorder::start().await;
    let stickpin = front(backend.address());
    let request = |n| format!("GET /{n} HTTP/1.1\r\nHost: x\r\n\r\n");
    let post = "POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello";
    let all = (0..20).map(request).chain([post.to_owned()]).chain((20..40).map(request)).collect::<String>();
    let mut client = Peer::sending(stickpin.front(), all).await;
    for _ in 0..41 {
        assert_eq!(client.reply().await.0.status(), 200);
    }
    let heard = backend.heard();
    let paths: Vec<_> = heard.requests.iter().map(|(head, _)| head.first_line().to_owned()).collect();
    let expected = (0..20).map(|n| format!("GET /{n} HTTP/1.1")).chain(["POST /body HTTP/1.1".to_owned()]);
    assert_eq!(paths, expected.chain((20..40).map(|n| format!("GET /{n} HTTP/1.1"))).collect::<Vec<_>>());
    assert_eq!(heard.requests[20].1, b"hello");
}

#[tokio::test]
async fn thousands_of_mutated_requests_leave_no_trace_of_doubt_at_the_backend() {
    const SEED: u64 = 0x5eed;
    const REQUESTS: usize = 2000;
    let backend = Recorder::start().await;
    let stickpin = front(backend.address());
    let mut rng = Rng::with_seed(SEED);
    for _ in 0..REQUESTS / 4 {
        // A few on each connection, so that what is left over of one would meet the next.
        let bytes: Vec<u8> = (0..4).flat_map(|_| mutated(&mut rng)).collect();
        let mut client = Peer::connect(stickpin.front()).await;
        if client.try_send(&bytes).await.is_ok() {
            client.finish().await;
        }
        client.gone().await;
    }
    let mut client = Peer::sending(stickpin.front(), GOOD).await;
    assert_eq!(client.reply().await.0.status(), 200);
    let heard = backend.heard();
    assert!(heard.complaints.is_empty(), "seed {SEED}: {:#?}", heard.complaints);
    // Were all of them refused, nothing would have been tried.
    assert!(heard.requests.len() > REQUESTS / 10, "{} came through", heard.requests.len());
}

/// A request with up to three bytes or pieces of it changed.
fn mutated(rng: &mut Rng) -> Vec<u8> {
    const PIECES: [&[u8]; 20] = [
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b"\x0b",
        b"\r\n\r\n",
        b"Host: y\r\n",
        b"Content-Length: 3\r\n",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Connection: Content-Length, Host\r\n",
        b"Connection: Transfer-Encoding\r\n",
        b"0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"Cookie: stickpin=x\r\n",
        b"\xff",
    ];
    const REQUESTS: [&[u8]; 3] = [
        b"GET /a?b=c HTTP/1.1\r\nHost: x\r\nAccept: */*\r\nCookie: a=b; stickpin=v\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello",
        b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ];
    let mut request = REQUESTS[rng.usize(..REQUESTS.len())].to_vec();
    for _ in 0..rng.usize(0..4) {
        let at = rng.usize(..request.len());
        match rng.u8(..5) {
            0 => request[at] = rng.u8(..),
            1 => {
                request.remove(at);
            }
            2 => request.insert(at, rng.u8(..)),
            3 => {
                request.splice(at..at, PIECES[rng.usize(..PIECES.len())].iter().copied());
            }
            _ => {
                // Where a line begins is where it hurts most.
                let starts: Vec<_> = memchr::memmem::find_iter(&request, b"\r\n").map(|at| at + 2).collect();
                if !starts.is_empty() {
                    let at = starts[rng.usize(..starts.len())];
                    request.splice(at..at, PIECES[rng.usize(..PIECES.len())].iter().copied());
                }
            }
        }
    }
    request
}

#[tokio::test]
async fn a_client_that_leaves_within_a_head_is_let_go_in_silence() {
    let backend = Recorder::start().await;
    let stickpin = front(backend.address());
    let mut client = Peer::sending(stickpin.front(), "GET /evil HTTP/1.1\r\nHo").await;
    client.finish().await;
    let (rest, end) = client.end().await;
    assert_eq!((rest, end), (Vec::new(), End::Closed));
    assert!(backend.heard().requests.is_empty());
}
