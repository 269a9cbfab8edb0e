//! What happened to one request: filled in as it goes, counted and logged when it is over, however it ends.

use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::SystemTime;

use http::{HeaderValue, Method, Uri};
use tokio::time::Instant;

use super::Proxy;
use super::view::View;
use crate::telemetry::access_log::Entry;
use crate::telemetry::words::{PinVerdict, Placement};

/// The client went away before it got a reply; nginx made the number known.
const CLIENT_LEFT: u16 = 499;

/// The record of one request.
pub(in crate::proxy) struct Journal {
    proxy: Rc<Proxy>,
    view: Rc<View>,
    started: Instant,
    /// `None` until a route is found.
    pub pool: Option<usize>,
    /// Index of the backend that replied.
    pub backend: Option<usize>,
    /// Where the request went, and why.
    pub placement: Option<Placement>,
    /// What its pin was; `None` where pins do not count.
    pub verdict: Option<PinVerdict>,
    /// The pin's id.
    pub pin: Option<u64>,
    /// Attempts made.
    pub attempts: u32,
    /// Status of the reply; the client left when it stays `None`.
    pub status: Option<u16>,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the reply's body.
    pub bytes_out: u64,
    /// Only when there is an access log.
    line: Option<Box<Line>>,
    /// It was counted before its end.
    is_counted: bool,
}

/// What only the access log wants to know.
struct Line {
    at: SystemTime,
    client: IpAddr,
    method: Method,
    host: Option<HeaderValue>,
    uri: Uri,
}

impl Journal {
    /// Begins a record.
    pub(super) fn new(proxy: &Rc<Proxy>, view: &Rc<View>, started: Instant) -> Self {
        Self {
            proxy: Rc::clone(proxy),
            view: Rc::clone(view),
            started,
            pool: None,
            backend: None,
            placement: None,
            verdict: None,
            pin: None,
            attempts: 0,
            status: None,
            bytes_in: 0,
            bytes_out: 0,
            line: None,
            is_counted: false,
        }
    }

    /// Counts it now: of a tunnel, replies and times are those of its `101`, for it may last for days. Its line, with all
    /// bytes of both directions, comes at its end.
    pub(super) fn switched(mut self) -> Self {
        self.count();
        self.is_counted = true;
        self
    }

    /// Keeps what the access log will want.
    pub(super) fn keep_line(&mut self, at: SystemTime, client: IpAddr, parts: &http::request::Parts) {
        // In HTTP/2 the host is no line.
        let authority = || HeaderValue::from_str(parts.uri.authority()?.as_str()).ok();
        let host = parts.headers.get(http::header::HOST).cloned().or_else(authority);
        let (method, uri) = (parts.method.clone(), parts.uri.clone());
        self.line = Some(Box::new(Line { at, client, method, host, uri }));
    }

    /// When the request came.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    fn count(&self) {
        let Some(index) = self.pool else { return };
        let worker = self.proxy.worker;
        let pool = self.view.pool(index);
        let shard = pool.counters.shard(worker);
        let status = self.status.unwrap_or(CLIENT_LEFT);
        shard.took(self.started.elapsed());
        if let Some(placement) = self.placement {
            shard.placed(placement);
        }
        if let Some(verdict) = self.verdict {
            shard.judged(verdict);
        }
        match self.backend {
            Some(backend) => pool.members[backend].backend.counters().shard(worker).replied(status),
            None => shard.replied_itself(status),
        }
    }

    fn log(&self) {
        let Some(line) = &self.line else { return };
        let pool = self.pool.map(|pool| self.view.pool(pool));
        let backend = self.backend.zip(pool).map(|(backend, pool)| &*pool.members[backend].backend.id().name);
        self.proxy.log.borrow_mut().log(&Entry {
            at: line.at,
            client: line.client,
            method: line.method.as_str().as_bytes(),
            host: line.host.as_ref().map(HeaderValue::as_bytes),
            path: line.uri.path().as_bytes(),
            status: self.status.unwrap_or(CLIENT_LEFT),
            duration: self.started.elapsed(),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            pool: pool.map(|pool| &*pool.settings.name),
            backend,
            placement: self.placement,
            pin: self.pin,
            attempts: self.attempts,
        });
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if !self.is_counted {
            self.count();
        }
        self.log();
    }
}
