//! Clients of HTTP/2 that mean harm: each is ended, by itself, while others are served as before.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::http2::{CALM, END_HEADERS, END_STREAM, Frames, Http2Client, block, frame, get_frame, kind};
use crate::support::raw::Recorder;
use crate::support::{StickpinProcess, until};

/// The real program in front of a backend.
async fn program(backend: &Recorder) -> StickpinProcess {
    let backend = backend.address();
    StickpinProcess::start(|front, admin| {
        format!(
            "workers: 1\naccess_log: off\nadmin: {{ address: \"{admin}\" }}\nlisteners: [ \"{front}\" ]\npools:\n  \
             app:\n    health: off\n    backends: [ {{ name: app1, address: \"{backend}\" }} ]\n"
        )
    })
    .await
}

/// Memory of the process, in KiB.
fn memory(program: &StickpinProcess) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.pid())).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// The slowest of so many requests, one after the other.
async fn slowest(front: SocketAddr, count: usize) -> Duration {
    let mut client = Http2Client::connect(front).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..count {
        let begun = Instant::now();
        assert_eq!(client.get("/").await.status, 200);
        slowest = slowest.max(begun.elapsed());
    }
    slowest
}

/// Sends a flood, and looks that it is ended, told and counted as one of `kinds`, while another client gets every reply.
async fn is_ended(kinds: &[&str], before: &[Vec<u8>], flood: impl Fn(u32) -> Vec<u8>) {
    let backend = Recorder::start().await;
    let program = program(&backend).await;
    let undisturbed = slowest(program.front(), 50).await;
    let memory_before = memory(&program);
    let floods = async {
        for _ in 0..5 {
            let mut hostile = Frames::connect(program.front()).await;
            for bytes in before {
                hostile.send(bytes).await.expect("an open connection");
            }
            // What was sent behind the end may reset the connection, and take the word along.
            let told = hostile.until_ended(&flood).await;
            assert!(told.is_none_or(|error| error == CALM), "{told:?}");
        }
    };
    let ((), disturbed) = tokio::join!(floods, slowest(program.front(), 50));
    let limit = undisturbed * 20 + Duration::from_millis(500);
    assert!(disturbed < limit, "{disturbed:?} for another client, {undisturbed:?} before");
    let grown = memory(&program).saturating_sub(memory_before);
    assert!(grown < 32 * 1024, "{grown} KiB more");
    let mut admin = program.admin();
    until("it is counted", async || {
        let mut count = 0.0;
        for kind in kinds {
            count += admin.metric("stickpin_http2_floods_total", &[&format!("kind=\"{kind}\"")]).await;
        }
        if count == 5.0 { Ok(()) } else { Err(count) }
    })
    .await;
    until("nothing is in flight", async || {
        let view = admin.backend("app", "app1").await;
        if view["in_flight"] == 0 { Ok(()) } else { Err(view) }
    })
    .await;
}

fn stream(count: u32) -> u32 {
    2 * count + 1
}

/// CVE-2023-44487: requests and their resets by the hundred, or one by one so that each has begun.
#[tokio::test]
async fn rapid_reset_is_ended() {
    let reset = |stream| frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    is_ended(&["reset", "streams"], &[], |count| {
        let stream = stream(count);
        [get_frame(stream, "/"), reset(stream)].concat()
    })
    .await;
    is_ended(&["reset", "streams"], &[], |count| match count % 2 {
        0 => get_frame(stream(count / 2), "/"),
        _ => reset(stream(count / 2)),
    })
    .await;
}

/// CVE-2025-8671: the client has us reset its streams.
#[tokio::test]
async fn made_you_reset_is_ended() {
    is_ended(&["streams"], &[], |count| {
        let stream = stream(count);
        // A window that grows beyond all bounds is an error of the stream.
        [get_frame(stream, "/"), frame(kind::WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes())].concat()
    })
    .await;
}

/// CVE-2024-27316.
#[tokio::test]
async fn endless_continuation_is_ended() {
    let lines = [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", "/")];
    let begin = frame(kind::HEADERS, END_STREAM, 1, &block(&lines));
    is_ended(&["continuation", "streams"], &[begin], |_| frame(kind::CONTINUATION, 0, 1, &[])).await;
}

/// The same with something in it.
#[tokio::test]
async fn a_head_without_end_is_ended() {
    let backend = Recorder::start().await;
    let program = program(&backend).await;
    let before = memory(&program);
    let lines = [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", "/")];
    let mut hostile = Frames::connect(program.front()).await;
    hostile.send(&frame(kind::HEADERS, END_STREAM, 1, &block(&lines))).await.expect("an open connection");
    let line = block(&[("x-long", &"x".repeat(16_000))]);
    hostile.until_ended(|_| frame(kind::CONTINUATION, 0, 1, &line)).await;
    assert!(memory(&program) < before + 16 * 1024);
    assert!(backend.heard().requests.is_empty());
    slowest(program.front(), 1).await;
}

#[tokio::test]
async fn floods_of_ping_and_settings_are_ended() {
    is_ended(&["ping"], &[], |_| frame(kind::PING, 0, 0, &[7; 8])).await;
    is_ended(&["settings"], &[], |_| frame(kind::SETTINGS, 0, 0, &[])).await;
}

#[tokio::test]
async fn floods_of_priority_and_of_windows_are_ended() {
    is_ended(&["priority"], &[], |_| frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 3, 1])).await;
    is_ended(&["window_update"], &[], |_| frame(kind::WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())).await;
}

#[tokio::test]
async fn a_flood_of_empty_data_is_ended() {
    let lines = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", "/")];
    let begin = frame(kind::HEADERS, END_HEADERS, 1, &block(&lines));
    is_ended(&["empty_data"], &[begin], |_| frame(kind::DATA, 0, 1, &[])).await;
}

#[tokio::test]
async fn a_client_that_takes_no_replies_is_ended() {
    let backend = Recorder::start().await;
    let address = backend.address();
    let program = StickpinProcess::start(|front, admin| {
        format!(
            "workers: 1\naccess_log: off\nadmin: {{ address: \"{admin}\" }}\nlisteners: [ \"{front}\" ]\npools:\n  \
             app:\n    health: off\n    timeouts: {{ idle: 1s }}\n    backends: [ {{ name: app1, address: \"{address}\" }} ]\n"
        )
    })
    .await;
    let before = memory(&program);
    let mut hostile = Frames::connect(program.front()).await;
    let requests: Vec<u8> = (0..).map(|count| get_frame(stream(count), "/")).take(100).flatten().collect();
    hostile.send(&requests).await.expect("an open connection");
    // It neither reads nor opens a window that was zero from the start.
    let closed = frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    hostile.send(&closed).await.expect("an open connection");
    let mut admin = program.admin();
    until("nothing is in flight", async || {
        let view = admin.backend("app", "app1").await;
        if view["in_flight"] == 0 { Ok(()) } else { Err(view) }
    })
    .await;
    assert!(memory(&program) < before + 16 * 1024);
}

#[tokio::test]
async fn an_ordinary_client_with_a_hundred_streams_never_meets_a_limit() {
    let backend = Recorder::start().await;
    let program = program(&backend).await;
    let mut client = Http2Client::connect(program.front()).await;
    for _ in 0..20 {
        let mut replies = Vec::new();
        for _ in 0..100 {
            replies.push(client.begin(crate::support::http2::get("/"), true).await.0);
        }
        for reply in replies {
            assert_eq!(crate::support::http2::whole(reply).await.expect("a reply").status, 200);
        }
    }
    assert!(!client.is_over());
}
