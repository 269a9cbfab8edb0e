//! One request to the admin API, one connection each.

use std::fmt::Write as _;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{CtlError, refusal};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// More than the endpoint allows itself.
const REPLY_TIMEOUT: Duration = Duration::from_secs(35);

/// The longest reply that is read.
const REPLY_LIMIT: usize = 256 * 1024 * 1024;

/// Asks one admin endpoint.
pub(super) struct Client<'a> {
    address: &'a str,
    token: Option<String>,
    /// Refusals are told as they come.
    json: bool,
}

impl<'a> Client<'a> {
    pub(super) fn new(address: &'a str, token: Option<String>, json: bool) -> Self {
        Self { address, token, json }
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, CtlError> {
        self.send(Method::GET, path, None).await
    }

    /// Sends a request and reads its answer.
    pub(super) async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, CtlError> {
        let reply = self.begin(method, path, body).await?;
        let reading = || format!("reading the reply of {}", self.address);
        let (status, body) = (reply.status(), Limited::new(reply.into_body(), REPLY_LIMIT).collect());
        let body = self.within(REPLY_TIMEOUT, body).await?.map_err(CtlError::failed(reading))?.to_bytes();
        if !status.is_success() {
            return Err(refusal(status, &body, self.json));
        }
        serde_json::from_slice(&body).map_err(CtlError::failed(reading))
    }

    /// Begins to read a stream, which the endpoint must not have refused.
    pub(super) async fn stream(&self, path: &str) -> Result<Incoming, CtlError> {
        let reply = self.begin(Method::GET, path, None).await?;
        let status = reply.status();
        if status.is_success() {
            return Ok(reply.into_body());
        }
        let body = Limited::new(reply.into_body(), REPLY_LIMIT).collect();
        let body =
            self.within(REPLY_TIMEOUT, body).await?.map_err(CtlError::failed(|| "reading the reply".to_owned()))?;
        Err(refusal(status, &body.to_bytes(), self.json))
    }

    async fn begin(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response<Incoming>, CtlError> {
        let asking = || format!("asking {}", self.address);
        let connecting = || format!("connecting to {}", self.address);
        let mut request = Request::builder().method(method).uri(path).header(HOST, self.address);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let request = request.body(Full::new(body)).map_err(CtlError::failed(asking))?;
        let stream = self.within(CONNECT_TIMEOUT, TcpStream::connect(self.address)).await?;
        let stream = stream.map_err(CtlError::failed(connecting))?;
        let exchange = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            // It ends with the reply, and its errors reach whoever reads that.
            tokio::spawn(connection);
            sender.send_request(request).await
        };
        self.within(REPLY_TIMEOUT, exchange).await?.map_err(CtlError::failed(asking))
    }

    /// Waits no longer than that.
    pub(super) async fn within<F: Future>(&self, after: Duration, future: F) -> Result<F::Output, CtlError> {
        let late = |_| CtlError::Timeout { what: format!("asking {}", self.address), after };
        timeout(after, future).await.map_err(late)
    }
}

/// A name as one segment of a path.
pub(super) fn segment(name: &str) -> String {
    let mut segment = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) || (byte == b'.' && !matches!(name, "." | "..")) {
            segment.push(char::from(byte));
        } else {
            // Writing to a `String` cannot fail.
            let _ = write!(segment, "%{byte:02X}");
        }
    }
    segment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_segment() {
        for (name, expected) in [("app-1.b_2", "app-1.b_2"), ("a/b?c", "a%2Fb%3Fc"), ("..", "%2E%2E"), ("é", "%C3%A9")]
        {
            assert_eq!(segment(name), expected);
        }
    }
}
