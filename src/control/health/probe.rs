//! One probe: a fresh connection, a request on it if the settings say so, and what it shows of the backend.
//!
//! It changes nothing and knows nothing of the probes before it.

use std::error::Error as _;
use std::hash::Hasher;
use std::io;
use std::pin::pin;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use siphasher::sip::SipHasher24;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::trouble;
use crate::config::{self, Address, HttpProbe, Probe};
use crate::pool::{Evidence, Failure};
use crate::{proxy_protocol, socket};

/// What a probe showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProbeReport {
    /// About its health.
    pub(super) evidence: Evidence,
    /// Which life of its process answered: a hash of the instance header, if there is one and it was in the reply. Two
    /// replicas of Stickpin, and one before and after its restart, have the same hash for the same value.
    pub(super) instance: Option<u64>,
}

/// Probes the backend at `address` once, within `settings.timeout`.
///
/// Without probes in the settings, it is a connection that opens. Where requests begin with the header of the PROXY protocol
/// probes do, too: it says that they are our own.
///
/// # Errors
/// Those of our own, which say nothing of the backend.
pub(super) async fn probe(
    settings: &config::Health,
    address: &Address,
    sends_proxy_protocol: bool,
) -> io::Result<ProbeReport> {
    let exchange = async {
        let mut stream = socket::connect(address).await?;
        if sends_proxy_protocol {
            let mut header = Vec::new();
            proxy_protocol::write(&mut header, None);
            stream.write_all(&header).await?;
        }
        match &settings.probe {
            Probe::Off | Probe::Tcp => Ok(None),
            Probe::Http(http) => ask(http, address, stream).await,
        }
    };
    let failure = match timeout(settings.timeout, exchange).await {
        Ok(Ok(instance)) => return Ok(ProbeReport { evidence: Evidence::ProbeOk, instance }),
        Ok(Err(ProbeError::Unexpected { instance })) => {
            return Ok(ProbeReport { evidence: Evidence::ProbeFailed(Failure::Unexpected), instance });
        }
        Ok(Err(ProbeError::Local(error))) => return Err(error),
        Ok(Err(ProbeError::Failed(failure))) => failure,
        Err(_elapsed) => Failure::Silent,
    };
    Ok(ProbeReport { evidence: Evidence::ProbeFailed(failure), instance: None })
}

/// Why a probe did not succeed.
enum ProbeError {
    /// It could not be made.
    Local(io::Error),
    /// Nobody answered in HTTP.
    Failed(Failure),
    /// The answer was another one; it may still say which instance gave it.
    Unexpected { instance: Option<u64> },
}

impl From<io::Error> for ProbeError {
    fn from(error: io::Error) -> Self {
        if trouble::is_local(&error) { Self::Local(error) } else { Self::Failed(failure_of(&error)) }
    }
}

impl From<hyper::Error> for ProbeError {
    fn from(error: hyper::Error) -> Self {
        let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
        // Without a cause in the network, the answer is at fault: cut off, or not HTTP.
        Self::Failed(cause.map_or(Failure::Broken, failure_of))
    }
}

/// What a failed connection shows.
fn failure_of(error: &io::Error) -> Failure {
    use io::ErrorKind as K;
    match error.kind() {
        K::ConnectionRefused => Failure::Refused,
        K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe | K::UnexpectedEof | K::InvalidData => {
            Failure::Broken
        }
        // Timeouts, missing routes, and whatever else does not prove that the process is gone.
        _ => Failure::Silent,
    }
}

/// Sends the request, and reads the reply as far as it matters.
async fn ask(probe: &HttpProbe, address: &Address, stream: TcpStream) -> Result<Option<u64>, ProbeError> {
    let request = request(probe, address)?;
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(HEAD_LIMIT).handshake(TokioIo::new(stream)).await?;
    let mut exchange = pin!(async {
        let reply = sender.send_request(request).await?;
        judge(probe, reply).await
    });
    // Driven here and not by a task of its own, so that a probe which is given up leaves nothing behind.
    tokio::select! {
        outcome = &mut exchange => outcome,
        // What the connection read before it ended, or how it broke, comes out of the exchange.
        _ended = connection => exchange.await,
    }
}

fn request(probe: &HttpProbe, address: &Address) -> Result<Request<Empty<Bytes>>, ProbeError> {
    let host = match &probe.host {
        Some(host) => HeaderValue::from_str(host),
        None => match address {
            Address::Ip(address) => HeaderValue::from_str(&address.to_string()),
            // A path is no host.
            Address::Unix(_) => Ok(HeaderValue::from_static("localhost")),
        },
    };
    // Both are checked when the file is read; what slips through is no fault of the backend.
    let unusable = |error: http::Error| ProbeError::Local(io::Error::new(io::ErrorKind::InvalidInput, error));
    let host = host.map_err(|error| unusable(error.into()))?;
    Request::builder()
        .method(probe.method.clone())
        .uri(&*probe.path)
        .header(HOST, host)
        .header(USER_AGENT, "stickpin-probe")
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(unusable)
}

/// Holds the reply against what is expected.
async fn judge(probe: &HttpProbe, reply: Response<Incoming>) -> Result<Option<u64>, ProbeError> {
    let instance = probe.instance_header.as_ref().and_then(|name| instance_of(reply.headers(), name));
    let status = reply.status().as_u16();
    if !probe.expected_status.iter().any(|(from, to)| (*from..=*to).contains(&status)) {
        return Err(ProbeError::Unexpected { instance });
    }
    read(reply.into_body()).await?;
    Ok(instance)
}

/// Reads the body to its end, so that a backend which breaks off is noticed, or as much of it as is reasonable.
async fn read(mut body: Incoming) -> Result<(), hyper::Error> {
    let mut left = BODY_LIMIT;
    while left > 0 && !body.is_end_stream() {
        let Some(frame) = body.frame().await else { break };
        left = left.saturating_sub(frame?.data_ref().map_or(0, Bytes::len));
    }
    Ok(())
}

/// The hash of the instance header's value. An empty one names nothing.
fn instance_of(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let value = headers.get(name)?.as_bytes();
    if value.is_empty() {
        return None;
    }
    let mut hasher = SipHasher24::new();
    hasher.write(&value[..value.len().min(INSTANCE_LIMIT)]);
    Some(hasher.finish())
}

/// Longest head of a reply, in bytes.
const HEAD_LIMIT: usize = 64 * 1024;

/// How much of a body is read, in bytes; the rest cannot make the reply wrong.
const BODY_LIMIT: usize = 64 * 1024;

/// How much of the instance header's value counts, in bytes.
const INSTANCE_LIMIT: usize = 256;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    const OK: Evidence = Evidence::ProbeOk;
    const BROKEN: Evidence = Evidence::ProbeFailed(Failure::Broken);
    const SILENT: Evidence = Evidence::ProbeFailed(Failure::Silent);
    const UNEXPECTED: Evidence = Evidence::ProbeFailed(Failure::Unexpected);

    fn settings(probe: Probe) -> config::Health {
        config::Health {
            probe,
            interval: Duration::from_secs(3600),
            suspect_interval: Duration::from_secs(3600),
            timeout: Duration::from_secs(10),
            healthy_after: 1,
            unhealthy_after: 1,
        }
    }

    fn get() -> HttpProbe {
        HttpProbe {
            path: "/health?deep=1".into(),
            method: http::Method::GET,
            host: None,
            expected_status: vec![(200, 299), (418, 418)],
            instance_header: Some(HeaderName::from_static("x-instance")),
        }
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
        let address = address.into();
        tokio::join!(backend, probe(probe_settings, &address, false))
    }

    async fn evidence(answer: Answer) -> Evidence {
        answered(&settings(Probe::Http(get())), answer).await.1.unwrap().evidence
    }

    #[tokio::test]
    async fn the_request_is_a_plain_one_on_its_own_connection() {
        let reply = || Answer::Then(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec());
        let (head, report) = answered(&settings(Probe::Http(get())), reply()).await;
        assert_eq!(report.unwrap(), ProbeReport { evidence: OK, instance: None });
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
            let report = probe(&settings(kind), &listener.local_addr().unwrap().into(), false).await.unwrap();
            assert_eq!(report, ProbeReport { evidence: OK, instance: None });
        }
    }

    #[tokio::test]
    async fn a_port_nobody_listens_on_refuses() {
        // Bound and not listening: refuses, and nobody else can take the port meanwhile.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        for kind in [Probe::Tcp, Probe::Http(get())] {
            let report = probe(&settings(kind), &socket.local_addr().unwrap().into(), false).await.unwrap();
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
        assert!(probe(&settings(Probe::Http(odd)), &listener.local_addr().unwrap().into(), false).await.is_err());
    }
}
