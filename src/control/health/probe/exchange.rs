//! A request and its reply on a connection that is open, and what they show.

use std::error::Error as _;
use std::hash::Hasher;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use memchr::memmem;
use siphasher::sip::SipHasher24;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use super::super::agent::{self, Words};
use super::{ProbeError, failure_of, grpc};
use crate::config::{Agent, GrpcProbe, HttpProbe};
use crate::pool::Failure;

/// What a reply tells, whether it is the expected one or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// See [`super::ProbeReport::instance`].
    pub(super) instance: Option<u64>,
    /// See [`super::ProbeReport::words`].
    pub(super) words: Option<Words>,
}

/// Where a request is addressed to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// What the settings say, else the address.
    pub(super) authority: &'a str,
    /// Over TLS.
    pub(super) is_https: bool,
}

/// Asks as the settings say, and holds the reply against what is expected.
pub(super) async fn ask<I>(probe: &HttpProbe, place: Place<'_>, io: I) -> Result<Answer, ProbeError>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = request(probe, place)?;
    if probe.http2 {
        over_http2(request, io, async |reply| judge(probe, reply).await).await
    } else {
        over_http1(request, io, async |reply| judge(probe, reply).await).await
    }
}

/// Asks whether the service is served.
pub(super) async fn ask_grpc<I>(probe: &GrpcProbe, place: Place<'_>, io: I) -> Result<Answer, ProbeError>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = Request::post(uri(place, grpc::PATH)?)
        .version(Version::HTTP_2)
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, PROBE)
        .body(Full::new(grpc::question(&probe.service)))
        .map_err(unusable)?;
    over_http2(request, io, judge_grpc).await
}

async fn over_http1<I>(
    request: Request<Full<Bytes>>,
    io: I,
    judge: impl AsyncFnOnce(Response<Incoming>) -> Result<Answer, ProbeError>,
) -> Result<Answer, ProbeError>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::Builder::new().max_buf_size(HEAD_LIMIT).handshake(TokioIo::new(io)).await?;
    let mut exchange = pin!(async { judge(sender.send_request(request).await?).await });
    // Driven here and not by a task of its own, so that a probe which is given up leaves nothing behind.
    tokio::select! {
        outcome = &mut exchange => outcome,
        // What the connection read before it ended, or how it broke, comes out of the exchange.
        _ended = connection => exchange.await,
    }
}

async fn over_http2<I>(
    request: Request<Full<Bytes>>,
    io: I,
    judge: impl AsyncFnOnce(Response<Incoming>) -> Result<Answer, ProbeError>,
) -> Result<Answer, ProbeError>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let tasks = Tasks::default();
    let (mut sender, connection) = http2::Builder::new(tasks.clone())
        .max_header_list_size(HEAD_LIMIT as u32)
        .initial_stream_window_size(BODY_LIMIT as u32)
        .initial_connection_window_size(BODY_LIMIT as u32)
        .handshake(TokioIo::new(io))
        .await?;
    let mut exchange = pin!(async { judge(sender.send_request(request).await?).await });
    tokio::select! {
        outcome = &mut exchange => outcome,
        _ended = connection => exchange.await,
    }
}

/// What hyper's HTTP/2 does beside the connection; ends with the probe.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, future: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).spawn(future);
    }
}

fn request(probe: &HttpProbe, place: Place<'_>) -> Result<Request<Full<Bytes>>, ProbeError> {
    let mut request = Request::builder().method(probe.method.clone());
    if probe.http2 {
        request = request.version(Version::HTTP_2).uri(uri(place, &probe.path)?);
    } else {
        // Checked when the file is read; what slips through is no fault of the backend.
        let host = HeaderValue::from_str(place.authority).map_err(|error| unusable(error.into()))?;
        request = request.uri(&*probe.path).header(HOST, host).header(CONNECTION, "close");
    }
    for (name, default) in [(USER_AGENT, PROBE), (ACCEPT, "*/*")] {
        if !probe.headers.iter().any(|(given, _)| *given == name) {
            request = request.header(name, default);
        }
    }
    if let Some(headers) = request.headers_mut() {
        headers.extend(probe.headers.clone());
    }
    request.body(Full::default()).map_err(unusable)
}

fn uri(place: Place<'_>, path: &str) -> Result<Uri, ProbeError> {
    let scheme = if place.is_https { "https" } else { "http" };
    Uri::builder().scheme(scheme).authority(place.authority).path_and_query(path).build().map_err(unusable)
}

fn unusable(error: http::Error) -> ProbeError {
    ProbeError::Local(io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// Holds the reply against what is expected.
async fn judge(probe: &HttpProbe, reply: Response<Incoming>) -> Result<Answer, ProbeError> {
    let mut answer = Answer {
        instance: probe.instance_header.as_ref().and_then(|name| instance_of(reply.headers(), name)),
        words: match &probe.agent {
            Some(Agent::Header(name)) => words_of(reply.headers(), name),
            Some(Agent::Body) | None => None,
        },
    };
    let is_body_the_agents = probe.agent == Some(Agent::Body);
    let status = reply.status().as_u16();
    let mut is_expected = probe.expected_status.iter().any(|(from, to)| (*from..=*to).contains(&status));
    if is_expected || is_body_the_agents {
        let keeps_text = is_body_the_agents || probe.expected_body.is_some();
        let (text, _) = read(reply.into_body(), keeps_text).await?;
        if is_body_the_agents {
            answer.words = agent::words(&text);
        }
        is_expected &= probe.expected_body.as_ref().is_none_or(|part| memmem::find(&text, part.as_bytes()).is_some());
    }
    if is_expected { Ok(answer) } else { Err(ProbeError::Unexpected(answer)) }
}

/// Success is `SERVING`, with a status of gRPC's own that says that all is well.
async fn judge_grpc(reply: Response<Incoming>) -> Result<Answer, ProbeError> {
    let unexpected = || ProbeError::Unexpected(Answer::default());
    if reply.status() != StatusCode::OK {
        return Err(unexpected());
    }
    // A reply without a message has its trailers in the head.
    let in_head = reply.headers().get(GRPC_STATUS).cloned();
    let (message, trailers) = read(reply.into_body(), true).await?;
    let status = trailers.as_ref().and_then(|trailers| trailers.get(GRPC_STATUS)).or(in_head.as_ref());
    if status.is_none_or(|status| status != "0") {
        return Err(unexpected());
    }
    match grpc::is_serving(&message) {
        Some(true) => Ok(Answer::default()),
        Some(false) => Err(unexpected()),
        None => Err(ProbeError::Failed(Failure::Broken)),
    }
}

/// Reads the body to its end, so that a backend which breaks off is noticed, or as much of it as is reasonable; keeps that
/// if it is wanted.
async fn read(mut body: Incoming, keeps_text: bool) -> Result<(BytesMut, Option<HeaderMap>), ProbeError> {
    let (mut left, mut text, mut trailers) = (BODY_LIMIT, BytesMut::new(), None);
    while left > 0 && !body.is_end_stream() {
        let Some(frame) = body.frame().await else { break };
        let frame = frame?;
        match frame.into_data() {
            Ok(data) => {
                if keeps_text {
                    text.extend_from_slice(&data[..data.len().min(left)]);
                }
                left = left.saturating_sub(data.len());
            }
            Err(frame) => trailers = frame.into_trailers().ok().or(trailers),
        }
    }
    Ok((text, trailers))
}

impl From<hyper::Error> for ProbeError {
    fn from(error: hyper::Error) -> Self {
        let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
        // Without a cause in the network, the answer is at fault: cut off, or not HTTP.
        Self::Failed(cause.map_or(Failure::Broken, failure_of))
    }
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

/// The agent's words in all lines of this name.
fn words_of(headers: &HeaderMap, name: &HeaderName) -> Option<Words> {
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    agent::words(&lines.join(&b','))
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

const PROBE: &str = "stickpin-probe";

/// Longest head of a reply, in bytes.
const HEAD_LIMIT: usize = 64 * 1024;

/// How much of a body is read, in bytes; the rest cannot make the reply wrong.
const BODY_LIMIT: usize = 64 * 1024;

/// How much of the instance header's value counts, in bytes.
pub(super) const INSTANCE_LIMIT: usize = 256;
