//! Backends that the API adds and removes: asks whoever reloads, and passes on the answer.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::Value;
use tokio::sync::oneshot;

use super::error::ApiError;
use super::view::{BackendView, Now};
use super::{Context, find_member, find_pool};
use crate::config::{self, Source};
use crate::control::discovery::{Change, ChangeOrder, Refusal};

/// A backend to add: what may stand in `backends` of the file. Read by the parser of the file.
pub(super) struct NewBackend;

impl JsonSchema for NewBackend {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "NewBackend".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // As the file's own schema has it, so that a new setting of a backend needs no line here.
        let file = config::schema();
        file.pointer("/$defs/Backend").and_then(|schema| schema.clone().try_into().ok()).unwrap_or_default()
    }
}

pub(super) async fn add(
    State(context): State<Arc<Context>>,
    path: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<BackendView>), ApiError> {
    let Path(pool) = path?;
    let body = body?;
    let affinity = {
        let snapshot = context.shared.published.load();
        find_pool(&snapshot, &pool)?.settings.affinity.clone()
    };
    let not_json = |error: &dyn std::error::Error| ApiError::new(StatusCode::BAD_REQUEST, error.to_string());
    let posted: Value = serde_json::from_slice(&body).map_err(|error| not_json(&error))?;
    let text = std::str::from_utf8(&body).map_err(|error| not_json(&error))?;
    // The text as it was sent, because a value has forgotten its lines, and which keys stood there twice.
    let backend = config::parse_backend(text.trim(), &affinity, Source::Api)
        .map_err(|problems| ApiError::invalid("the backend is wrong, nothing was changed", &problems))?;
    let name = Arc::clone(&backend.name);
    obey(&context, &pool, &name, Change::Add { backend: Box::new(backend), posted }).await?;
    let snapshot = context.shared.published.load();
    let found = find_pool(&snapshot, &pool)?;
    Ok((StatusCode::CREATED, Json(BackendView::of(found, find_member(found, &name)?, Now::read()))))
}

pub(super) async fn remove(
    State(context): State<Arc<Context>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<BackendView>, ApiError> {
    let Path((pool, backend)) = path?;
    let snapshot = context.shared.published.load();
    let found = find_pool(&snapshot, &pool)?;
    // As it was at the end.
    let view = BackendView::of(found, find_member(found, &backend)?, Now::read());
    obey(&context, &pool, &backend, Change::Remove(backend.clone())).await?;
    Ok(Json(view))
}

async fn obey(context: &Context, pool: &str, backend: &str, change: Change) -> Result<(), ApiError> {
    let stopping = || ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the process is stopping");
    let (answer, answered) = oneshot::channel();
    let order = ChangeOrder { pool: pool.into(), change, answer };
    context.shared.change.send(order).await.map_err(|_| stopping())?;
    answered.await.map_err(|_| stopping())?.map_err(|refusal| {
        let snapshot = context.shared.published.load();
        let pool_found = find_pool(&snapshot, pool);
        match (refusal, pool_found) {
            (Refusal::UnknownPool, Ok(_)) | (Refusal::UnknownBackend, _) => {
                ApiError::new(StatusCode::NOT_FOUND, format!("there is no backend {backend:?} in pool {pool:?}"))
            }
            (Refusal::UnknownPool, Err(error)) => error,
            (Refusal::Conflict(why), _) => ApiError::new(StatusCode::CONFLICT, format!("backend {backend:?}: {why}")),
            (Refusal::NotKept(why), _) => {
                let message = format!("the change is in force, but could not be kept for a restart: {why}");
                ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
            }
        }
    })
}
