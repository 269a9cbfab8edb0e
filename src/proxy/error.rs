//! Why a request got no reply from a backend: what failed, whose fault it was, and what the client is told.

use http::StatusCode;

use super::accept::https::ToHttps;
use super::accept::request::BadRequest;
use super::forward::AttemptError;

/// What failed.
#[derive(Debug)]
pub(super) enum ProxyError {
    /// The request is not one that every parser reads the same way.
    BadRequest(BadRequest),
    /// It came without https, and the listener sends it there.
    ToHttps(ToHttps),
    /// No route for its host and path.
    NoRoute,
    /// No backend may serve it.
    NoBackend,
    /// The pool's policy says that a client without its home gets an error.
    Refused,
    /// Whoever could serve it is full, and so is the queue, or it has waited there as long as it may.
    Full {
        /// When to come again, in seconds.
        retry_after: u32,
    },
    /// The pool places requests by an affinity key, and turns away those without one.
    NoAffinityKey,
    /// The last attempt failed.
    Attempt(AttemptError),
    /// The whole request took too long.
    RequestTimeout,
}

impl ProxyError {
    /// What the client is told.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(BadRequest::Connect) => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadRequest(_) | Self::NoAffinityKey | Self::Attempt(AttemptError::ClientBody(_)) => {
                StatusCode::BAD_REQUEST
            }
            Self::ToHttps(to) => to.status,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Attempt(AttemptError::ClientStalled) => StatusCode::REQUEST_TIMEOUT,
            Self::NoBackend
            | Self::Refused
            | Self::Full { .. }
            | Self::Attempt(AttemptError::Connect(_) | AttemptError::ConnectTimeout | AttemptError::Refused(_)) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Attempt(AttemptError::Broken { .. } | AttemptError::NoUpgrade | AttemptError::Reply(_)) => {
                StatusCode::BAD_GATEWAY
            }
            Self::Attempt(AttemptError::FirstByteTimeout | AttemptError::AttemptTimeout) | Self::RequestTimeout => {
                StatusCode::GATEWAY_TIMEOUT
            }
        }
    }

    /// Whether the client's connection cannot be used any further.
    pub(super) fn closes(&self) -> bool {
        matches!(self, Self::BadRequest(_) | Self::Attempt(AttemptError::ClientBody(_) | AttemptError::ClientStalled))
    }
}
