//! A small HTTP client with a cookie jar, which keeps one connection as a browser would.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, COOKIE, HOST, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::traffic::{CountedStream, Traffic};

/// One client: one cookie jar, at most one connection.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    /// Sent and kept like a browser's; public, so that a test can forge or forget.
    pub cookies: Cookies,
    /// A request and its whole reply may take this long.
    pub timeout: Duration,
    sender: Option<SendRequest<Full<Bytes>>>,
    connects: u64,
    traffic: Arc<Traffic>,
}

impl Client {
    /// A client without cookies. Connects with its first request.
    pub fn new(address: SocketAddr) -> Self {
        Self::counted(address, Arc::default())
    }

    /// The same, whose bytes are counted there.
    pub fn counted(address: SocketAddr, traffic: Arc<Traffic>) -> Self {
        let timeout = Duration::from_secs(20);
        Self { address, cookies: Cookies::default(), timeout, sender: None, connects: 0, traffic }
    }

    /// Connections opened so far.
    pub fn connects(&self) -> u64 {
        self.connects
    }

    /// Closes the connection; the next request opens another. The cookies stay.
    pub fn disconnect(&mut self) {
        self.sender = None;
    }

    /// `GET`
    ///
    /// # Errors
    /// See [`Client::send`].
    pub async fn get(&mut self, path: &str) -> Result<Reply, ClientError> {
        self.send(request(Method::GET, path, Bytes::new())).await
    }

    /// `POST`
    ///
    /// # Errors
    /// See [`Client::send`].
    pub async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> Result<Reply, ClientError> {
        self.send(request(Method::POST, path, body.into())).await
    }

    /// `PUT` of a JSON value.
    ///
    /// # Errors
    /// See [`Client::send`].
    pub async fn put_json(&mut self, path: &str, value: &Value) -> Result<Reply, ClientError> {
        self.send(request_of_json(Method::PUT, path, value)).await
    }

    /// `POST` of a JSON value.
    ///
    /// # Errors
    /// See [`Client::send`].
    pub async fn post_json(&mut self, path: &str, value: &Value) -> Result<Reply, ClientError> {
        self.send(request_of_json(Method::POST, path, value)).await
    }

    /// Sends any request, adding `Host` and the cookies where it has none, and reads the whole reply.
    ///
    /// A connection that was closed since the last request is replaced. A request is sent a second time only when the
    /// first attempt sent nothing, so that no failure is hidden.
    ///
    /// # Errors
    /// No connection, no reply, or a reply that was broken off.
    pub async fn send(&mut self, mut request: Request<Bytes>) -> Result<Reply, ClientError> {
        let host = HeaderValue::try_from(self.address.to_string()).expect("an address is a valid value");
        request.headers_mut().entry(HOST).or_insert(host);
        if let Some(cookies) = self.cookies.header() {
            request.headers_mut().entry(COOKIE).or_insert(cookies);
        }
        let exchanged = timeout(self.timeout, self.exchange(request)).await;
        exchanged.unwrap_or(Err(ClientError::Timeout(self.timeout)))
    }

    /// The connection is put back only after the last byte: a cancelled exchange closes it.
    async fn exchange(&mut self, request: Request<Bytes>) -> Result<Reply, ClientError> {
        let mut sender = self.connection().await?;
        let response = match sender.try_send_request(request.map(Full::new)).await {
            Ok(response) => response,
            Err(mut error) => match error.take_message() {
                Some(unsent) => {
                    sender = self.connect().await?;
                    sender.send_request(unsent).await.map_err(ClientError::Exchange)?
                }
                None => return Err(ClientError::Exchange(error.into_error())),
            },
        };
        self.cookies.remember(response.headers());
        let reply = read(response).await?;
        self.sender = Some(sender);
        Ok(reply)
    }

    async fn connection(&mut self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        if let Some(mut sender) = self.sender.take() {
            // Lets the connection's task notice first that the other side has closed it.
            yield_now().await;
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        self.connect().await
    }

    async fn connect(&mut self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let stream = TcpStream::connect(self.address).await.map_err(ClientError::Connect)?;
        stream.set_nodelay(true).map_err(ClientError::Connect)?;
        let stream = CountedStream::new(stream, Arc::clone(&self.traffic));
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(ClientError::Exchange)?;
        // It ends with its sender, and its errors reach whoever waits for the reply.
        tokio::spawn(connection);
        self.connects += 1;
        Ok(sender)
    }
}

fn request_of_json(method: Method, path: &str, value: &Value) -> Request<Bytes> {
    let mut request = request(method, path, value.to_string().into());
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    request
}

fn request(method: Method, path: &str, body: Bytes) -> Request<Bytes> {
    Request::builder().method(method).uri(path).body(body).expect("the path is written in the program")
}

async fn read(response: Response<Incoming>) -> Result<Reply, ClientError> {
    let (head, mut body) = response.into_parts();
    let mut bytes = BytesMut::new();
    let mut trailers = HeaderMap::new();
    let mut broken = None;
    while let Some(frame) = body.frame().await {
        match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(data)) => bytes.extend_from_slice(&data),
            Ok(Err(frame)) => trailers = frame.into_trailers().unwrap_or_default(),
            Err(error) => {
                broken = Some(error);
                break;
            }
        }
    }
    let reply = Reply { status: head.status, headers: head.headers, body: bytes.freeze(), trailers };
    match broken {
        None => Ok(reply),
        Some(source) => Err(ClientError::Broken { reply: Box::new(reply), source }),
    }
}

/// A reply, read to its end.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status code.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its whole body.
    pub body: Bytes,
    /// What followed the body.
    pub trailers: HeaderMap,
}

impl Reply {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; `Null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A header's first value; empty when there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// A string field of the JSON body; empty when there is none.
    pub fn field(&self, name: &str) -> String {
        self.json()[name].as_str().unwrap_or_default().to_owned()
    }

    /// Which session app answered; empty when none did.
    pub fn served_by(&self) -> String {
        self.field("served_by")
    }
}

/// A cookie jar that knows one site and no attributes but the removal of a cookie.
#[derive(Clone, Debug, Default)]
pub struct Cookies(Vec<(String, String)>);

impl Cookies {
    /// The value of one.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Adds or replaces one.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }

    /// Forgets one.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| known != name);
    }

    /// Names, oldest first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// Takes every `Set-Cookie` of a reply.
    pub fn remember(&mut self, headers: &HeaderMap) {
        for value in headers.get_all(SET_COOKIE).iter().filter_map(|value| value.to_str().ok()) {
            let mut parts = value.split(';').map(str::trim);
            let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else { continue };
            if parts.any(|attribute| attribute.eq_ignore_ascii_case("max-age=0")) {
                self.remove(name);
            } else {
                self.set(name, value);
            }
        }
    }

    fn header(&self) -> Option<HeaderValue> {
        let pairs: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        (!pairs.is_empty()).then(|| HeaderValue::try_from(pairs.join("; ")).ok()).flatten()
    }
}

/// Why there is no reply.
#[derive(Debug)]
pub enum ClientError {
    /// No connection.
    Connect(io::Error),
    /// The connection broke, or what came was not HTTP.
    Exchange(hyper::Error),
    /// The reply began and was broken off.
    Broken {
        /// What came of it.
        reply: Box<Reply>,
        /// How it broke.
        source: hyper::Error,
    },
    /// The reply did not end in time.
    Timeout(Duration),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "connecting: {error}"),
            Self::Exchange(error) => write!(f, "waiting for the reply: {error}"),
            Self::Broken { reply, source } => {
                write!(f, "reply {} broken off after {} bytes: {source}", reply.status, reply.body.len())
            }
            Self::Timeout(timeout) => write!(f, "no whole reply within {timeout:?}"),
        }
    }
}

impl std::error::Error for ClientError {}
