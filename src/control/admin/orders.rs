//! The operator's orders: a backend's admin state, and its weight.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use tokio::sync::oneshot;

use super::error::ApiError;
use super::view::{AdminStateView, BackendView, Now};
use super::{Context, find_member, find_pool};
use crate::config::{self, Pace, Weight};
use crate::pool::DrainOrder;

/// The order for a backend's admin state.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StateOrder {
    /// Who may come to the backend from now on.
    state: AdminStateView,
    /// How long a drain lets its clients stay, as in `10m`; without it they stay until they are idle.
    #[serde(default, deserialize_with = "duration")]
    #[schemars(with = "Option<String>")]
    deadline: Option<Duration>,
    /// The share of its clients that a drain moves in a time, as in `5%/s` (the default) or `1%/m`: at once where their
    /// sessions allow it, else from the deadline on.
    #[serde(default, deserialize_with = "pace")]
    #[schemars(with = "Option<String>")]
    pace: Option<Pace>,
}

/// The order for a backend's weight.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WeightOrder {
    /// Stands in for the weight in the file, until that one changes; `null` takes the order back.
    #[serde(deserialize_with = "weight_or_null")]
    #[schemars(schema_with = "weight_schema")]
    weight: Option<Weight>,
}

type Target = Result<Path<(String, String)>, PathRejection>;

pub(super) async fn state(
    State(context): State<Arc<Context>>,
    path: Target,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<BackendView>, ApiError> {
    let Path((pool, backend)) = path?;
    let snapshot = context.shared.published.load();
    let found = find_pool(&snapshot, &pool)?;
    let member = find_member(found, &backend)?;
    let order: StateOrder = order(&body?)?;
    let given = [("deadline", order.deadline.is_some()), ("pace", order.pace.is_some())];
    let given = given.into_iter().find(|(_, is_given)| *is_given);
    let now = Now::read();
    match (order.state, given) {
        (AdminStateView::Draining, _) => {
            let deadline = order.deadline.map(|deadline| now.monotonic + deadline);
            let pace = order.pace.unwrap_or(found.settings.drain_pace);
            member.backend.order_drain(DrainOrder { deadline, pace }, now.monotonic);
        }
        (_, Some((key, _))) => {
            let message = format!("{key}: only a drain has one");
            return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, message));
        }
        (state, None) => member.backend.set_admin_state(state.into(), None, now.monotonic),
    }
    keep(&context).await?;
    Ok(Json(BackendView::of(found, member, now)))
}

pub(super) async fn weight(
    State(context): State<Arc<Context>>,
    path: Target,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<BackendView>, ApiError> {
    let Path((pool, backend)) = path?;
    let snapshot = context.shared.published.load();
    let found = find_pool(&snapshot, &pool)?;
    let member = find_member(found, &backend)?;
    let order: WeightOrder = order(&body?)?;
    let (from, now) = (member.backend.weight(), Now::read());
    member.backend.order_weight(order.weight.map(Weight::get), now.monotonic);
    tracing::info!(pool, backend, from, to = member.backend.weight(), "weight ordered");
    keep(&context).await?;
    Ok(Json(BackendView::of(found, member, Now::read())))
}

/// Has the order kept before it is answered: what was confirmed must outlive a crash.
async fn keep(context: &Context) -> Result<(), ApiError> {
    let (notice, kept) = oneshot::channel();
    let is_stopping = context.shared.ordered.send(notice).await.is_err();
    match kept.await {
        Ok(Err(error)) => {
            let message = format!("the order is in force, but could not be kept for a restart: {error}");
            Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message))
        }
        Err(_) if !is_stopping => {
            Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the order is in force, but the process is stopping"))
        }
        Ok(Ok(())) | Err(_) => Ok(()),
    }
}

/// Reads an order: 400 for what is not JSON, 422 for JSON that is not the order.
pub(super) fn order<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let order = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let status = if error.inner().is_data() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::BAD_REQUEST };
        ApiError::new(status, error.to_string())
    })?;
    json.end().map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    Ok(order)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| config::duration(&text).map_err(D::Error::custom)).transpose()
}

fn pace<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Pace>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
}

fn weight_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Weight>, D::Error> {
    let Some(value) = Option::<serde_json::Value>::deserialize(deserializer)? else { return Ok(None) };
    let weight = value.as_u64().and_then(|weight| u32::try_from(weight).ok()).and_then(Weight::new);
    let expected = || D::Error::custom(format!("expected 0 to {} or null, found {value}", Weight::MAX));
    weight.map(Some).ok_or_else(expected)
}

fn weight_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["integer", "null"], "minimum": 0, "maximum": Weight::MAX })
}
