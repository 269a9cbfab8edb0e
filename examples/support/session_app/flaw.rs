//! What is wrong with a server, to order: probes find it well, and whoever asks for anything else is ill served.
//!
//! `PUT /_flaw?kind=KIND` orders it, of the server itself: for requests that came through Stickpin there is no such page.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::StatusCode;
use http::header::VIA;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use serde_json::json;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::body::ReplyBody;
use super::handle::App;
use super::parameters::{number, parameter};
use super::reply::{json_reply, problem};

const PATH: &str = "/_flaw";

/// What is wrong with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flaw {
    /// `none`: nothing.
    #[default]
    None,
    /// `silent`: it takes requests and never answers them, not even once it is well again.
    Silent,
    /// `half_head`: it resets the connection half way through the head of a reply.
    HalfHead,
    /// `half_body`: it resets the connection half way through the body of a reply.
    HalfBody,
    /// `slow&ms=MS`: this long between two bytes of a reply. Once it is well again the rest comes with the next one.
    Slow(Duration),
    /// `unavailable&percent=N`: so many of a hundred requests, at random, are answered with 503 and change nothing.
    Unavailable(u8),
}

impl Flaw {
    fn parse(query: &str) -> Option<Self> {
        match &*parameter(query, "kind")? {
            "none" => Some(Self::None),
            "silent" => Some(Self::Silent),
            "half_head" => Some(Self::HalfHead),
            "half_body" => Some(Self::HalfBody),
            "slow" => number(query, "ms").map(Duration::from_millis).map(Self::Slow),
            "unavailable" => number(query, "percent").map(Self::Unavailable),
            _ => None,
        }
    }
}

/// The flaw of a server, and what of it applies to the replies on one connection.
#[derive(Clone, Debug, Default)]
pub struct Flaws(Arc<Mutex<Flaw>>);

impl Flaws {
    /// What is wrong now.
    pub fn current(&self) -> Flaw {
        *self.lock()
    }

    /// From now on this is wrong.
    pub fn set(&self, flaw: Flaw) {
        *self.lock() = flaw;
    }

    fn lock(&self) -> MutexGuard<'_, Flaw> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether this is an order about the flaw.
pub fn is_order(request: &Request<Incoming>) -> bool {
    request.uri().path() == PATH && request.method() == Method::PUT && !request.headers().contains_key(VIA)
}

/// Takes the order.
pub fn obey(app: &App, request: &Request<Incoming>) -> Response<ReplyBody> {
    match Flaw::parse(request.uri().query().unwrap_or_default()) {
        Some(flaw) => {
            app.flaws.set(flaw);
            json_reply(Response::builder(), &json!({ "served_by": app.name() }))
        }
        None => problem(app, StatusCode::BAD_REQUEST, "expected kind=none|silent|half_head|half_body|slow|unavailable"),
    }
}

/// A connection whose replies come as its flaw says.
#[derive(Debug)]
pub struct FlawedStream {
    io: TcpStream,
    /// Whether the reply that is being written is an ill one.
    is_ill: Flaws,
    /// Of the whole server, which may be well again by now.
    server: Flaws,
    pause: Option<Pin<Box<Sleep>>>,
}

impl FlawedStream {
    /// `is_ill` is set by whoever answers the requests on it.
    pub fn new(io: TcpStream, is_ill: Flaws, server: Flaws) -> Self {
        Self { io, is_ill, server, pause: None }
    }

    /// Sends this much, and resets the connection.
    fn break_off(&mut self, cx: &mut Context<'_>, part: &[u8]) -> Poll<io::Result<usize>> {
        // A few bytes into an empty buffer: all of them go.
        ready!(Pin::new(&mut self.io).poll_write(cx, part))?;
        SockRef::from(&self.io).set_linger(Some(Duration::ZERO))?;
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }

    fn write_slowly(&mut self, cx: &mut Context<'_>, bytes: &[u8], apart: Duration) -> Poll<io::Result<usize>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
        }
        self.pause = Some(Box::pin(sleep(apart)));
        Pin::new(&mut self.io).poll_write(cx, &bytes[..1.min(bytes.len())])
    }
}

impl AsyncWrite for FlawedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let head = memchr::memmem::find(bytes, b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
        match (self.is_ill.current(), self.server.current()) {
            (Flaw::HalfHead, _) => self.break_off(cx, &bytes[..head / 2]),
            (Flaw::HalfBody, _) => self.break_off(cx, &bytes[..head + (bytes.len() - head) / 2]),
            (Flaw::Slow(_), Flaw::Slow(apart)) => self.write_slowly(cx, bytes, apart),
            _ => Pin::new(&mut self.io).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl AsyncRead for FlawedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}
