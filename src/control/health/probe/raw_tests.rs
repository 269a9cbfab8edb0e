//! Probes over HTTP/1.1, against whatever bytes may come.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};

use http::HeaderName;
use siphasher::sip::SipHasher24;

use super::exchange::INSTANCE_LIMIT;
use super::*;
use crate::config::HttpProbe;

const OK: Evidence = Evidence::ProbeOk;
const BROKEN: Evidence = Evidence::ProbeFailed(Failure::Broken);
const SILENT: Evidence = Evidence::ProbeFailed(Failure::Silent);
const UNEXPECTED: Evidence = Evidence::ProbeFailed(Failure::Unexpected);

fn settings(probe: Probe) -> config::Health {
    config::Health { probe, timeout: Duration::from_secs(10), ..config::Health::default() }
}

fn get() -> HttpProbe {
    HttpProbe {
        path: "/health?deep=1".into(),
        expected_status: vec![(200, 299), (418, 418)],
        instance_header: Some(HeaderName::from_static("x-instance")),
        ..HttpProbe::default()
    }
}

/// What a plain answer shows.
fn plain(evidence: Evidence) -> ProbeReport {
    ProbeReport { evidence, instance: None, words: None, tls_problem: None }
}

async fn probe(settings: &config::Health, address: SocketAddr) -> io::Result<ProbeReport> {
    super::probe(settings, Target::plain(&address.into())).await
}

/// What one accepted connection is answered with.
enum Answer {
    /// These bytes, then the end.
    Then(Vec<u8>),
    /// These bytes, and then nothing more.
    Hang(&'static str),
    /// These bytes again and again.
    Endless(&'static str),
}

/// Answers one connection after it sent a whole head, and returns that head and what the probe made of it.
async fn answered(probe_settings: &config::Health, answer: Answer) -> (String, io::Result<ProbeReport>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let backend = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        // The probe may leave before it has read everything.
        match answer {
            Answer::Then(bytes) => drop(stream.write_all(&bytes).await),
            Answer::Hang(bytes) => {
                drop(stream.write_all(bytes.as_bytes()).await);
                drop(stream.read_u8().await);
            }
            Answer::Endless(bytes) => while stream.write_all(bytes.as_bytes()).await.is_ok() {},
        }
        String::from_utf8(head).unwrap()
    };
    tokio::join!(backend, probe(probe_settings, address))
}

async fn evidence(answer: Answer) -> Evidence {
    answered(&settings(Probe::Http(get())), answer).await.1.unwrap().evidence
}

#[tokio::test]
async fn the_request_is_a_plain_one_on_its_own_connection() {
    let reply = || Answer::Then(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec());
    let (head, report) = answered(&settings(Probe::Http(get())), reply()).await;
    assert_eq!(report.unwrap(), plain(OK));
    assert!(head.starts_with("GET /health?deep=1 HTTP/1.1\r\nhost: 127.0.0.1:"), "{head}");
    assert!(head.contains("\r\nuser-agent: stickpin-probe\r\n"), "{head}");
    assert!(head.contains("\r\nconnection: close\r\n"), "{head}");

    let named = HttpProbe { host: Some("shop.example.com".into()), method: http::Method::HEAD, ..get() };
    let (head, report) = answered(&settings(Probe::Http(named)), reply()).await;
    assert_eq!(report.unwrap().evidence, OK);
    assert!(head.starts_with("HEAD /health?deep=1 HTTP/1.1\r\nhost: shop.example.com\r\n"), "{head}");
}

#[tokio::test]
async fn an_answer_is_held_against_the_expected_one() {
    let rows: [(&str, Evidence); 13] = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", OK),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", OK),
        ("HTTP/1.1 200 OK\r\n\r\nuntil the end", OK),
        ("HTTP/1.0 299 Fine\r\n\r\n", OK),
        ("HTTP/1.1 418 Teapot\r\nContent-Length: 0\r\n\r\n", OK),
        ("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", UNEXPECTED),
        ("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", UNEXPECTED),
        ("SSH-2.0-OpenSSH_9.6\r\n", BROKEN),
        ("\0\0\0\x04\0\0\0\0\0", BROKEN),
        ("", BROKEN),
        ("HTTP/1.1 200 OK\r\nContent-Le", BROKEN),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", BROKEN),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", BROKEN),
    ];
    for (reply, expected) in rows {
        assert_eq!(evidence(Answer::Then(reply.into())).await, expected, "{reply:?}");
    }
}

#[tokio::test]
async fn a_huge_body_is_not_read_to_its_end() {
    let mut reply = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    reply.resize(8 * 1024 * 1024, b'x');
    assert_eq!(evidence(Answer::Then(reply)).await, OK);
    assert_eq!(evidence(Answer::Endless("HTTP/1.1 200 OK\r\n\r\n")).await, OK);
}

#[tokio::test]
async fn a_huge_head_is_a_broken_answer() {
    let mut reply = b"HTTP/1.1 200 OK\r\nX-Fill: ".to_vec();
    reply.resize(1024 * 1024, b'x');
    assert_eq!(evidence(Answer::Then(reply)).await, BROKEN);
    assert_eq!(evidence(Answer::Endless("HTTP/1.1 100 Continue\r\nX: y\r\nZ: 1")).await, BROKEN);
}

#[tokio::test]
async fn no_whole_answer_in_time_is_silence() {
    let short = config::Health { timeout: Duration::from_millis(50), ..settings(Probe::Http(get())) };
    for begun in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhalf"] {
        let (_, report) = answered(&short, Answer::Hang(begun)).await;
        assert_eq!(report.unwrap().evidence, SILENT, "{begun:?}");
    }
}

#[tokio::test]
async fn a_reply_that_is_whole_need_not_close_the_connection() {
    assert_eq!(evidence(Answer::Hang("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")).await, OK);
}

#[tokio::test]
async fn the_instance_is_read_from_whatever_answers() {
    let ask = async |reply: String| {
        answered(&settings(Probe::Http(get())), Answer::Then(reply.into())).await.1.unwrap().instance
    };
    let head = "Content-Length: 0\r\nX-Instance: ";
    let one = ask(format!("HTTP/1.1 200 OK\r\n{head}boot-1\r\n\r\n")).await;
    assert!(one.is_some());
    assert_eq!(ask(format!("HTTP/1.1 503 Starting\r\n{head}boot-1\r\n\r\n")).await, one);
    assert_ne!(ask(format!("HTTP/1.1 200 OK\r\n{head}boot-2\r\n\r\n")).await, one);
    assert_eq!(ask(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n")).await, None);
    let long = |end: &str| format!("HTTP/1.1 200 OK\r\n{head}{}{end}\r\n\r\n", "x".repeat(INSTANCE_LIMIT));
    assert_eq!(ask(long("1")).await, ask(long("2")).await);
    // Replicas have to agree on it, for it goes into the pin.
    assert_eq!(one, Some(SipHasher24::new().hash(b"boot-1")));
}

#[tokio::test]
async fn a_tcp_probe_is_content_with_a_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for kind in [Probe::Tcp, Probe::Off] {
        let report = probe(&settings(kind), listener.local_addr().unwrap()).await.unwrap();
        assert_eq!(report, plain(OK));
    }
}

#[tokio::test]
async fn a_port_nobody_listens_on_refuses() {
    // Bound and not listening: refuses, and nobody else can take the port meanwhile.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    for kind in [Probe::Tcp, Probe::Http(get())] {
        let report = probe(&settings(kind), socket.local_addr().unwrap()).await.unwrap();
        assert_eq!(report.evidence, Evidence::ProbeFailed(Failure::Refused));
    }
}

#[test]
fn errors_of_the_network_are_told_apart() {
    let rows = [
        (libc::ECONNREFUSED, Failure::Refused),
        (libc::ECONNRESET, Failure::Broken),
        (libc::EPIPE, Failure::Broken),
        (libc::ETIMEDOUT, Failure::Silent),
        (libc::EHOSTUNREACH, Failure::Silent),
        (libc::ENETUNREACH, Failure::Silent),
        (libc::EPERM, Failure::Silent),
    ];
    for (errno, failure) in rows {
        assert_eq!(failure_of(&io::Error::from_raw_os_error(errno)), failure, "{errno}");
    }
}

#[tokio::test]
async fn settings_that_make_no_request_are_no_evidence() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let odd = HttpProbe { path: "no target at all".into(), ..get() };
    assert!(probe(&settings(Probe::Http(odd)), listener.local_addr().unwrap()).await.is_err());
}
