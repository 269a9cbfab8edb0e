//! An answer that is an error: status, and what to tell the operator.

use axum::Json;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::view::{ErrorView, ProblemView};
use crate::config::{Problem, Problems};

/// Names of pools or backends listed in an error; more would only hide what went wrong.
const KNOWN: usize = 50;

/// See the module.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    // Boxed to keep `Result`s small.
    body: Box<ErrorView>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        let body = ErrorView { error: error.into(), reason: None, known: Vec::new(), problems: Vec::new() };
        Self { status, body: Box::new(body) }
    }

    /// 503 with a reason that programs can tell apart.
    pub(super) fn not_ready(reason: &'static str) -> Self {
        let mut error = Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}"));
        error.body.reason = Some(reason);
        error
    }

    /// 404 for a name that is none of the `known` ones.
    pub(super) fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Self {
        let mut error = Self::new(StatusCode::NOT_FOUND, format!("there is no {what} {name:?}"));
        error.body.known = known.take(KNOWN).map(str::to_owned).collect();
        error
    }

    /// 422 for a file with problems.
    pub(super) fn invalid_file(problems: &Problems) -> Self {
        Self::invalid(&format!("{} is wrong, nothing was changed", problems.file), &problems.list)
    }

    /// 422 for something with problems.
    pub(super) fn invalid(text: &str, problems: &[Problem]) -> Self {
        let mut error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, text);
        error.body.problems = problems
            .iter()
            .map(|problem| ProblemView {
                path: problem.path.clone(),
                line: problem.line,
                message: problem.message.clone(),
            })
            .collect();
        error
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut reply = (self.status, Json(self.body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            reply.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        reply
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<BytesRejection> for ApiError {
    fn from(rejection: BytesRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}
