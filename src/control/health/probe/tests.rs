//! Every kind of probe against a real server of its kind.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::super::agent::Words;
use super::*;
use crate::config::{Agent, BackendTls, CaFile, GrpcProbe, HttpProbe};
use crate::pool::{AdminState, AgentWord};

const CA: &[u8] = include_bytes!("../../../../tests/support/tls/ca.pem");
const CERTIFICATE: &[u8] = include_bytes!("../../../../tests/support/tls/backend.pem");
const KEY: &[u8] = include_bytes!("../../../../tests/support/tls/backend.key");

const OK: Evidence = Evidence::ProbeOk;
const BROKEN: Evidence = Evidence::ProbeFailed(Failure::Broken);
const UNEXPECTED: Evidence = Evidence::ProbeFailed(Failure::Unexpected);

type ReplyBody = http_body_util::combinators::BoxBody<Bytes, Infallible>;

/// A head and a body as a test wants them.
fn reply(status: u16, headers: &[(&'static str, &'static str)], body: impl Into<Bytes>) -> Response<ReplyBody> {
    let mut reply = Response::new(Full::new(body.into()).boxed());
    *reply.status_mut() = http::StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        reply.headers_mut().append(*name, HeaderValue::from_static(value));
    }
    reply
}

/// An answer of gRPC: a message, then the status among the trailers.
fn grpc_reply(message: &'static [u8], status: &'static str) -> Response<ReplyBody> {
    let mut framed = vec![0, 0, 0, 0, message.len() as u8];
    framed.extend_from_slice(message);
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static(status))]);
    let frames = [Frame::data(Bytes::from(framed)), Frame::trailers(trailers)];
    let mut reply = Response::new(Frames(frames.into_iter()).boxed());
    reply.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    reply
}

/// Frames that are all there.
struct Frames<I>(I);

impl<I: Iterator<Item = Frame<Bytes>> + Unpin> http_body::Body for Frames<I> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.next().map(Ok))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Http1,
    Http2,
}

/// A server that answers every request in the same way, over TLS with these protocols if there are any.
struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<(http::request::Parts, Bytes)>>>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(
        speaks: Speaks,
        tls: Option<&[&[u8]]>,
        answer: impl Fn() -> Response<ReplyBody> + Clone + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let acceptor = tls.map(acceptor);
        let noted = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, noted) = (answer.clone(), Arc::clone(&noted));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (answer, noted) = (answer.clone(), Arc::clone(&noted));
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                        noted.lock().unwrap().push((parts, body));
                        Ok::<_, Infallible>(answer())
                    }
                });
                match &acceptor {
                    // A client that does not like us goes away.
                    Some(acceptor) => match acceptor.accept(stream).await {
                        Ok(stream) => drop(tokio::spawn(serve(speaks, TokioIo::new(stream), service))),
                        Err(_) => continue,
                    },
                    None => drop(tokio::spawn(serve(speaks, TokioIo::new(stream), service))),
                }
            }
        });
        Self { address, seen, task }
    }

    fn only_request(&self) -> (http::request::Parts, Bytes) {
        let mut seen = self.seen.lock().unwrap();
        assert_eq!(seen.len(), 1);
        seen.remove(0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<I, S>(speaks: Speaks, io: I, service: S)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    S: hyper::service::Service<Request<Incoming>, Response = Response<ReplyBody>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
{
    // It ends when the probe has its answer, in whatever way.
    let _ = match speaks {
        Speaks::Http1 => http1::Builder::new().serve_connection(io, service).await,
        Speaks::Http2 => http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await,
    };
}

fn acceptor(protocols: &[&[u8]]) -> TlsAcceptor {
    let chain = CertificateDer::pem_slice_iter(CERTIFICATE).collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(KEY).unwrap();
    let provider = crate::tls::provider::provider();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

fn settings(probe: Probe) -> config::Health {
    config::Health { probe, timeout: Duration::from_secs(10), ..config::Health::default() }
}

fn trusting(pem: &[u8]) -> BackendTls {
    BackendTls { ca: Some(CaFile { path: "ca.pem".into(), pem: pem.into() }), server_name: None, verify: true }
}

async fn report(settings: &config::Health, address: SocketAddr) -> ProbeReport {
    let tls = settings.tls.as_ref().map(|tls| tls::client(tls, protocols(&settings.probe)).unwrap());
    probe(settings, Target { tls: tls.as_ref(), ..Target::plain(&address.into()) }).await.unwrap()
}

async fn evidence(probe: Probe, address: SocketAddr) -> Evidence {
    report(&settings(probe), address).await.evidence
}

fn grpc(service: &str) -> Probe {
    Probe::Grpc(GrpcProbe { service: service.into(), host: None })
}

#[tokio::test]
async fn the_expected_text_may_stand_anywhere_in_the_first_64_kib() {
    let long = |at: usize, length: usize| {
        let mut body = vec![b'.'; length];
        body[at..at + 2].copy_from_slice(b"UP");
        body
    };
    let rows: [(Vec<u8>, Evidence); 6] = [
        (b"UP".to_vec(), OK),
        (b"status: UP and running".to_vec(), OK),
        (b"up".to_vec(), UNEXPECTED),
        (b"".to_vec(), UNEXPECTED),
        (long(65534, 200_000), OK),
        (long(65535, 200_000), UNEXPECTED),
    ];
    for (body, expected) in rows {
        for (speaks, http2) in [(Speaks::Http1, false), (Speaks::Http2, true)] {
            let (body, length) = (body.clone(), body.len());
            let server = Server::start(speaks, None, move || reply(200, &[], body.clone())).await;
            let probe = HttpProbe { expected_body: Some("UP".into()), http2, ..HttpProbe::default() };
            assert_eq!(evidence(Probe::Http(probe), server.address).await, expected, "{length} bytes, {http2}");
        }
    }
}

#[tokio::test]
async fn headers_of_the_operators_are_sent_and_may_stand_in_for_ours() {
    for (speaks, http2) in [(Speaks::Http1, false), (Speaks::Http2, true)] {
        let server = Server::start(speaks, None, || reply(200, &[], "")).await;
        let headers = [("authorization", "Bearer abc"), ("user-agent", "doctor")];
        let headers = headers.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let probe = HttpProbe { headers: headers.to_vec(), http2, ..HttpProbe::default() };
        assert_eq!(evidence(Probe::Http(probe), server.address).await, OK);
        let (parts, _) = server.only_request();
        let of =
            |name: &str| parts.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(
            (of("authorization"), of("user-agent"), of("accept")),
            (vec!["Bearer abc"], vec!["doctor"], vec!["*/*"])
        );
    }
}

#[tokio::test]
async fn http2_is_spoken_by_prior_knowledge() {
    let server = Server::start(Speaks::Http2, None, || reply(204, &[("x-instance", "boot-1")], "")).await;
    let instance_header = Some(HeaderName::from_static("x-instance"));
    let probe = HttpProbe {
        http2: true,
        path: "/health?deep=1".into(),
        host: Some("shop.example.com".into()),
        instance_header,
        ..HttpProbe::default()
    };
    let shown = report(&settings(Probe::Http(probe.clone())), server.address).await;
    assert_eq!((shown.evidence, shown.instance.is_some()), (OK, true));
    let (parts, _) = server.only_request();
    assert_eq!(
        (parts.version, parts.uri.to_string()),
        (http::Version::HTTP_2, "http://shop.example.com/health?deep=1".to_owned())
    );

    let ill = Server::start(Speaks::Http2, None, || reply(503, &[], "")).await;
    assert_eq!(evidence(Probe::Http(probe.clone()), ill.address).await, UNEXPECTED);
    let old = Server::start(Speaks::Http1, None, || reply(204, &[], "")).await;
    assert_eq!(evidence(Probe::Http(probe), old.address).await, BROKEN);
}

#[tokio::test]
async fn grpc_is_asked_about_a_service_and_only_serving_is_good() {
    let server = Server::start(Speaks::Http2, None, || grpc_reply(b"\x08\x01", "0")).await;
    assert_eq!(evidence(grpc("shop.v1.Carts"), server.address).await, OK);
    let (parts, body) = server.only_request();
    assert_eq!((parts.method.as_str(), parts.uri.path()), ("POST", "/grpc.health.v1.Health/Check"));
    assert_eq!(parts.headers["content-type"], "application/grpc");
    assert_eq!(parts.headers["te"], "trailers");
    assert_eq!(&body[..], b"\0\0\0\0\x0f\x0a\x0dshop.v1.Carts");

    let of = async |answer: fn() -> Response<ReplyBody>| {
        let server = Server::start(Speaks::Http2, None, answer).await;
        evidence(grpc(""), server.address).await
    };
    assert_eq!(of(|| grpc_reply(b"\x08\x02", "0")).await, UNEXPECTED, "NOT_SERVING");
    assert_eq!(of(|| grpc_reply(b"", "0")).await, UNEXPECTED, "UNKNOWN");
    assert_eq!(of(|| grpc_reply(b"\x08\x01", "13")).await, UNEXPECTED, "a message, but an error");
    assert_eq!(of(|| reply(200, &[("grpc-status", "5")], "")).await, UNEXPECTED, "no such service");
    assert_eq!(of(|| reply(200, &[], "hello")).await, UNEXPECTED, "no gRPC");
    assert_eq!(of(|| reply(404, &[("grpc-status", "0")], "")).await, UNEXPECTED, "no gRPC");
    assert_eq!(of(|| grpc_reply(b"\x08", "0")).await, BROKEN, "cut off");
    let old = Server::start(Speaks::Http1, None, || reply(200, &[], "")).await;
    assert_eq!(evidence(grpc(""), old.address).await, BROKEN);
}

#[tokio::test]
async fn every_kind_of_probe_can_be_made_over_tls() {
    let good = || reply(200, &[], "");
    for (probe, server) in [
        (Probe::Tcp, Server::start(Speaks::Http1, Some(&[]), good).await),
        (Probe::Http(HttpProbe::default()), Server::start(Speaks::Http1, Some(&[]), good).await),
        (Probe::Http(HttpProbe::default()), Server::start(Speaks::Http1, Some(&[b"h2", b"http/1.1"]), good).await),
        (
            Probe::Http(HttpProbe { http2: true, ..HttpProbe::default() }),
            Server::start(Speaks::Http2, Some(&[b"h2", b"http/1.1"]), good).await,
        ),
        (grpc(""), Server::start(Speaks::Http2, Some(&[b"h2"]), || grpc_reply(b"\x08\x01", "0")).await),
    ] {
        let settings = config::Health { tls: Some(trusting(CA)), ..settings(probe) };
        let shown = report(&settings, server.address).await;
        assert_eq!((shown.evidence, shown.tls_problem), (OK, None), "{:?}", settings.probe);
    }
}

#[tokio::test]
async fn a_backend_whose_certificate_or_protocol_does_not_fit_fails_and_it_is_said_why() {
    let http = || Probe::Http(HttpProbe::default());
    let server = Server::start(Speaks::Http1, Some(&[b"http/1.1"]), || reply(200, &[], "")).await;
    let named = |name: &str| BackendTls { server_name: Some(name.into()), ..trusting(CA) };
    let stranger = trusting(CERTIFICATE);
    let rows = [
        (http(), named("backend.test"), OK, ""),
        (http(), named("other.test"), BROKEN, "not valid for"),
        // Trusts itself only, and not whoever signed it.
        (http(), stranger.clone(), BROKEN, "invalid peer certificate"),
        (Probe::Tcp, stranger.clone(), BROKEN, "invalid peer certificate"),
        (http(), BackendTls { verify: false, ..stranger }, OK, ""),
        (Probe::Http(HttpProbe { http2: true, ..HttpProbe::default() }), trusting(CA), BROKEN, ""),
    ];
    for (probe, tls, expected, problem) in rows {
        let settings = config::Health { tls: Some(tls), ..settings(probe) };
        let shown = report(&settings, server.address).await;
        let said = shown.tls_problem.unwrap_or_default();
        assert!(shown.evidence == expected && said.contains(problem), "{:?} {said:?} for {settings:?}", shown.evidence);
        assert!(expected == OK || !said.is_empty(), "{settings:?}");
    }
    // Without ALPN nobody can know that it speaks HTTP/2.
    let silent = Server::start(Speaks::Http1, Some(&[]), || reply(200, &[], "")).await;
    let http2 = Probe::Http(HttpProbe { http2: true, ..HttpProbe::default() });
    let shown = report(&config::Health { tls: Some(trusting(CA)), ..settings(http2) }, silent.address).await;
    assert_eq!((shown.evidence, shown.tls_problem.as_deref()), (BROKEN, Some("it does not agree to HTTP/2 (ALPN)")));
    // And one that speaks no TLS at all.
    let plain = Server::start(Speaks::Http1, None, || reply(200, &[], "")).await;
    let shown = report(&config::Health { tls: Some(trusting(CA)), ..settings(http()) }, plain.address).await;
    assert_eq!((shown.evidence, shown.tls_problem.is_some()), (BROKEN, true));
}

#[tokio::test]
async fn the_agents_words_are_heard_in_a_header_or_the_body_whatever_the_status() {
    let words =
        |admin, weight_percent| Some(Words { said: AgentWord { admin: Some(admin), weight_percent }, unknown: None });
    let of = async |agent: Agent, answer: fn() -> Response<ReplyBody>| {
        let server = Server::start(Speaks::Http1, None, answer).await;
        let probe = HttpProbe { agent: Some(agent), ..HttpProbe::default() };
        let shown = report(&settings(Probe::Http(probe)), server.address).await;
        (shown.evidence, shown.words)
    };
    let header = || Agent::Header(HeaderName::from_static("x-load"));
    let draining = words(AdminState::Draining, None);
    assert_eq!(of(header(), || reply(200, &[("x-load", "draining")], "up")).await, (OK, draining.clone()));
    assert_eq!(of(header(), || reply(503, &[("x-load", "draining")], "up")).await, (UNEXPECTED, draining.clone()));
    assert_eq!(of(header(), || reply(200, &[], "draining")).await, (OK, None));
    let both = of(header(), || reply(200, &[("x-load", "up"), ("x-load", "weight: 50%")], "")).await;
    assert_eq!(both, (OK, words(AdminState::Enabled, Some(50))));
    assert_eq!(of(Agent::Body, || reply(200, &[("x-load", "up")], "draining\n")).await, (OK, draining.clone()));
    assert_eq!(of(Agent::Body, || reply(500, &[], "draining")).await, (UNEXPECTED, draining));
    assert_eq!(of(Agent::Body, || reply(200, &[], "")).await, (OK, None));
}

#[tokio::test]
async fn an_own_port_that_refuses_does_not_prove_that_the_backend_is_gone() {
    let server = Server::start(Speaks::Http1, None, || reply(200, &[], "")).await;
    // Bound and not listening: they refuse, and nobody else can take the ports meanwhile.
    let sockets = [(); 2].map(|()| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        socket
    });
    let [dead, dead_too] = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
    for (address, backend, expected) in [
        (server.address, dead, OK),
        (dead, server.address, Evidence::ProbeFailed(Failure::Silent)),
        (dead, dead_too, Evidence::ProbeFailed(Failure::Refused)),
    ] {
        let (address, backend) = (&address.into(), &backend.into());
        let shown = probe(&settings(Probe::Tcp), Target { backend, ..Target::plain(address) }).await.unwrap();
        assert_eq!(shown.evidence, expected);
    }
}

#[tokio::test]
async fn without_anybody_to_trust_no_probe_is_made() {
    let server = Server::start(Speaks::Http1, None, || reply(200, &[], "")).await;
    let settings = config::Health { tls: Some(trusting(b"")), ..settings(Probe::Tcp) };
    assert!(probe(&settings, Target::plain(&server.address.into())).await.is_err(), "and above all none without TLS");
}
