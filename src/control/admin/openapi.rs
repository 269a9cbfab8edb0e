//! The list of endpoints for people (`/`) and programs (`/api/v1/openapi.json`), from one table.

use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::backends::NewBackend;
use super::events;
use super::explain::{ExplainQuestion, ExplainView};
use super::orders::{StateOrder, WeightOrder};
use super::view::{BackendView, ErrorView, LiveView, PoolView, PoolsView, ReadyView, ReloadView};
use crate::telemetry::metrics;

/// One endpoint.
pub(super) struct Endpoint {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    summary: &'static str,
    /// Needs no token even when one is set.
    open: bool,
    body: Option<SchemaOf>,
    /// Status of success.
    done: u16,
    reply: Reply,
    /// Statuses of errors, beside those of the access rules.
    errors: &'static [u16],
}

type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

enum Reply {
    Json(SchemaOf),
    AnyJson,
    Text(&'static str),
}

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

const BACKEND: &str = "/api/v1/pools/{pool}/backends/{backend}";

/// Every endpoint, in the order of the module's list.
pub(super) const ENDPOINTS: [Endpoint; 15] = [
    Endpoint { reply: Reply::Text("text/plain; charset=utf-8"), ..get("/", "the list of endpoints, as text") },
    Endpoint {
        open: true,
        reply: Reply::Json(schema::<LiveView>),
        ..get("/live", "200 as long as the process answers")
    },
    Endpoint {
        open: true,
        reply: Reply::Json(schema::<ReadyView>),
        errors: &[503],
        ..get("/ready", "200 when it may receive traffic, else 503 with the reason")
    },
    Endpoint { reply: Reply::Text(metrics::CONTENT_TYPE), ..get("/metrics", "OpenMetrics text for Prometheus") },
    get("/api/v1/openapi.json", "this list for programs"),
    Endpoint { reply: Reply::Json(schema::<PoolsView>), ..get("/api/v1/pools", "every pool with its backends") },
    Endpoint { reply: Reply::Json(schema::<PoolView>), errors: &[404], ..get("/api/v1/pools/{pool}", "one pool") },
    Endpoint { reply: Reply::Json(schema::<BackendView>), errors: &[404], ..get(BACKEND, "one backend") },
    Endpoint {
        method: "post",
        body: Some(schema::<NewBackend>),
        done: 201,
        reply: Reply::Json(schema::<BackendView>),
        errors: &[400, 404, 409, 413, 415, 422, 503],
        ..get("/api/v1/pools/{pool}/backends", "add a backend")
    },
    Endpoint {
        method: "delete",
        reply: Reply::Json(schema::<BackendView>),
        errors: &[404, 409, 415, 503],
        ..get(BACKEND, "remove a backend that was added here")
    },
    Endpoint {
        method: "put",
        body: Some(schema::<StateOrder>),
        reply: Reply::Json(schema::<BackendView>),
        errors: &[400, 404, 413, 415, 422],
        ..get("/api/v1/pools/{pool}/backends/{backend}/state", "enable, drain or disable it")
    },
    Endpoint {
        method: "put",
        body: Some(schema::<WeightOrder>),
        reply: Reply::Json(schema::<BackendView>),
        errors: &[400, 404, 413, 415, 422],
        ..get("/api/v1/pools/{pool}/backends/{backend}/weight", "order a weight, or take the order back")
    },
    Endpoint {
        method: "post",
        reply: Reply::Json(schema::<ReloadView>),
        errors: &[415, 422, 503],
        ..get("/api/v1/reload", "read the file again")
    },
    Endpoint {
        reply: Reply::Text(events::CONTENT_TYPE),
        errors: &[503],
        ..get("/api/v1/events", "what happens, as it happens (server-sent events)")
    },
    Endpoint {
        method: "post",
        body: Some(schema::<ExplainQuestion>),
        reply: Reply::Json(schema::<ExplainView>),
        errors: &[400, 404, 413, 415, 422],
        ..get("/api/v1/explain", "what a pin says, where it would go, and why")
    },
];

const fn get(path: &'static str, summary: &'static str) -> Endpoint {
    Endpoint { method: "get", path, summary, open: false, body: None, done: 200, reply: Reply::AnyJson, errors: &[] }
}

/// For people.
pub(super) fn list() -> String {
    let line = |endpoint: &Endpoint| {
        format!("{:<6} {:<55} {}\n", endpoint.method.to_uppercase(), endpoint.path, endpoint.summary)
    };
    let lines: String = ENDPOINTS.iter().map(line).collect();
    format!("Stickpin {}: the admin endpoint\n\n{lines}", env!("CARGO_PKG_VERSION"))
}

/// For programs: an OpenAPI 3.1 document.
pub(super) fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        // OpenAPI 3.1 has its own word for it, with this draft as the default.
        settings.meta_schema = None;
    });
    // What is read and what is written differ in which fields must be there.
    let mut read = settings.clone().for_deserialize().into_generator();
    let mut written = settings.for_serialize().into_generator();
    let mut paths = Map::new();
    for endpoint in &ENDPOINTS {
        let methods = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        methods[endpoint.method] = operation(endpoint, &mut read, &mut written);
    }
    let mut schemas = read.take_definitions(true);
    schemas.append(&mut written.take_definitions(true));
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Stickpin admin API", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

fn operation(endpoint: &Endpoint, read: &mut SchemaGenerator, written: &mut SchemaGenerator) -> Value {
    let content = match endpoint.reply {
        Reply::Json(schema) => json!({ "application/json": { "schema": schema(written) } }),
        Reply::AnyJson => json!({ "application/json": { "schema": { "type": "object" } } }),
        Reply::Text(media_type) => json!({ media_type: { "schema": { "type": "string" } } }),
    };
    let mut responses = Map::new();
    responses.insert(endpoint.done.to_string(), json!({ "description": "done", "content": content }));
    let of_access: &[u16] = if endpoint.open { &[] } else { &[401, 403] };
    for status in endpoint.errors.iter().chain(of_access) {
        let content = json!({ "application/json": { "schema": schema::<ErrorView>(written) } });
        responses.insert(status.to_string(), json!({ "description": error(*status), "content": content }));
    }
    let parameters: Vec<Value> = ["pool", "backend"]
        .into_iter()
        .filter(|name| endpoint.path.contains(&format!("{{{name}}}")))
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    let mut operation = json!({
        "summary": endpoint.summary,
        "parameters": parameters,
        "responses": responses,
        // Without a token set, none is needed.
        "security": if endpoint.open { json!([]) } else { json!([{ "token": [] }, {}]) },
    });
    if let Some(schema) = endpoint.body {
        let content = json!({ "application/json": { "schema": schema(read) } });
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    operation
}

fn error(status: u16) -> &'static str {
    match status {
        400 => "not JSON",
        401 => "no token, or a wrong one",
        403 => "not meant for this endpoint, or sent by a page of another origin",
        404 => "unknown pool or backend",
        409 => "something stands in the way",
        413 => "the body is too large",
        415 => "the body is not declared to be JSON",
        422 => "not what was expected",
        _ => "not now",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_at_the_top_of_the_module_is_this_table() {
        let source = include_str!("mod.rs");
        for Endpoint { method, path, summary, .. } in &ENDPOINTS {
            let row = format!("//! | `{} {path}` | {summary} |", method.to_uppercase());
            assert!(source.contains(&row), "missing: {row}");
        }
        assert_eq!(source.matches("//! | `").count(), ENDPOINTS.len());
    }

    #[test]
    fn every_reference_in_the_document_leads_somewhere() {
        let document = document();
        let mut references = Vec::new();
        collect_references(&document, &mut references);
        assert!(references.len() > 20);
        for reference in references {
            let pointer = reference.strip_prefix('#').expect("within the document");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn what_must_be_there_is_required() {
        let document = document();
        let required = |schema: &str| document["components"]["schemas"][schema]["required"].clone();
        assert_eq!(required("StateOrder"), json!(["state"]));
        assert_eq!(required("WeightOrder"), json!(["weight"]));
        assert_eq!(required("ErrorView"), json!(["error"]));
        assert_eq!(required("DrainView"), json!(["deadline", "pace", "pins_left", "eta", "drained", "drained_since"]));
    }

    fn collect_references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|value| collect_references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| collect_references(value, found)),
            _ => {}
        }
    }
}
