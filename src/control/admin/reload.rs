//! `POST /api/v1/reload`: asks whoever reloads, and passes on the answer.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use tokio::sync::oneshot;

use super::Context;
use super::error::ApiError;
use super::view::ReloadView;
use crate::control::reload::ReloadError;
use crate::telemetry::with_causes;

/// An order to reload, answered with the number of the generation that took effect.
pub type ReloadRequest = oneshot::Sender<Result<u64, ReloadError>>;

pub(super) async fn reload(State(context): State<Arc<Context>>) -> Result<Json<ReloadView>, ApiError> {
    let stopping = || ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the process is stopping");
    let (request, answer) = oneshot::channel();
    context.shared.reload.send(request).await.map_err(|_| stopping())?;
    match answer.await.map_err(|_| stopping())? {
        Ok(generation) => Ok(Json(ReloadView { generation })),
        Err(ReloadError::Invalid(problems)) => Err(ApiError::invalid_file(&problems)),
        Err(error) => Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, with_causes(&error))),
    }
}
