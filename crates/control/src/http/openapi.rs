//! The API's description in OpenAPI 3.1, made of the table of routes and of the types that cross.
//!
//! So neither can have a route, a parameter or a field that the other lacks.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use ace_api::ErrorCode;
use ace_api::http::ApiError;
use ace_types::{AppName, ReleaseNumber, TokenId};
use axum::Json;
use axum::http::StatusCode;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::route::{Gives, Route, Takes};
use super::stream;
use crate::archive;
use crate::caller::Access;

/// Where it is. Open to anybody: it's the same for every engine of a version.
pub const PATH: &str = "/v1/openapi.json";

/// Statuses of refusals that every route may answer with.
const ALWAYS: [u16; 4] = [400, 405, 500, 507];
/// Those that a body may bring about.
const OF_BODIES: [u16; 3] = [408, 413, 415];
/// Those that a token may bring about.
const OF_TOKENS: [u16; 2] = [401, 403];

pub async fn show() -> Json<&'static Value> {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(|| render(&super::routes()));
    Json(&DOCUMENT)
}

/// The document for `routes`.
fn render(routes: &[Route]) -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for route in routes {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation(route, &mut schemas);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "ACE",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "docs/API.md teaches it. Whatever is refused is told by an ApiError, and each \
                answer has its request's name in X-Request-Id.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "responses": refusals(&mut schemas),
            "schemas": schemas.definitions(),
        },
    })
}

/// An answer for each status that something can be refused with, with the codes that go with it.
fn refusals(schemas: &mut Schemas) -> Map<String, Value> {
    let error = schemas.answers.subschema_for::<ApiError>();
    let statuses: BTreeSet<u16> = ErrorCode::ALL.iter().map(|code| code.status()).collect();
    statuses.into_iter().map(|status| (refusal_name(status), refusal(status, &error))).collect()
}

fn refusal_name(status: u16) -> String {
    format!("Refusal{status}")
}

fn refusal(status: u16, error: &Schema) -> Value {
    let codes: Vec<ErrorCode> =
        ErrorCode::ALL.iter().copied().filter(|code| code.status() == status).collect();
    let told = |code: &ErrorCode| format!("- `{code}`: {}; {}", code.meaning(), code.way_out());
    let names: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
    let code = json!({ "properties": { "code": { "enum": names } } });
    let schema = json!({ "allOf": [error, code] });
    let text = json!({ "type": "string" });
    let mut headers = headers();
    let seconds = json!({ "schema": { "type": "integer", "minimum": 1 } });
    match status {
        401 => {
            headers["WWW-Authenticate"] = json!({ "required": true, "schema": text });
            headers["Retry-After"] = seconds;
        }
        405 => headers["Allow"] = json!({ "required": true, "schema": text }),
        _ => {}
    }
    json!({
        "description": codes.iter().map(told).collect::<Vec<_>>().join("\n"),
        "headers": headers,
        "content": { "application/json": { "schema": schema } },
    })
}

/// Those that every answer has.
fn headers() -> Value {
    let id = json!({ "type": "string", "pattern": "^[0-9a-f]{16}$" });
    let about = "The request's name in the engine's log";
    json!({ "X-Request-Id": { "description": about, "required": true, "schema": id } })
}

/// Where the schemas of types are collected: as they are sent to the engine, and by it.
struct Schemas {
    requests: SchemaGenerator,
    answers: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let settings = || {
            let mut settings = SchemaSettings::draft2020_12();
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
            settings
        };
        Self {
            requests: settings().for_deserialize().into_generator(),
            answers: settings().for_serialize().into_generator(),
        }
    }

    fn definitions(mut self) -> Map<String, Value> {
        let mut all = self.requests.take_definitions(true);
        all.extend(self.answers.take_definitions(true));
        all
    }
}

fn operation(route: &Route, schemas: &mut Schemas) -> Value {
    let mut operation = json!({
        "operationId": route.name,
        "summary": route.summary,
        "parameters": parameters(route, schemas),
        "responses": responses(route, schemas),
    });
    if let Some(takes) = &route.takes {
        operation["requestBody"] = body(takes, schemas);
    }
    if route.access == Access::Open {
        operation["security"] = json!([]);
    }
    operation
}

fn parameters(route: &Route, schemas: &mut Schemas) -> Vec<Value> {
    let names = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut all: Vec<Value> = names
        .map(|name| {
            let schema = match name {
                "app" => schemas.requests.subschema_for::<AppName>(),
                "token" => schemas.requests.subschema_for::<TokenId>(),
                _ => ReleaseNumber::json_schema(&mut schemas.requests),
            };
            json!({ "name": name, "in": "path", "required": true, "schema": schema })
        })
        .collect();
    let query = route.query.map(|query| query(&mut schemas.requests));
    let properties = query.as_ref().and_then(|query| query.get("properties")?.as_object());
    all.extend(properties.into_iter().flatten().map(|(name, schema)| {
        json!({ "name": name, "in": "query", "required": false, "schema": given(schema) })
    }));
    all
}

/// `schema` of a parameter that is there: an absent one has no form in a query.
fn given(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Some(types) = schema.get_mut("type").filter(|types| types.is_array()) {
        *types = types[0].clone();
    }
    match schema.get("anyOf").and_then(Value::as_array) {
        Some(choices) => choices[0].clone(),
        None => schema,
    }
}

fn body(takes: &Takes, schemas: &mut Schemas) -> Value {
    match takes {
        Takes::Json { schema, is_needed } => {
            let schema = schema(&mut schemas.requests);
            let content = json!({ "application/json": { "schema": schema } });
            json!({ "required": is_needed, "content": content })
        }
        Takes::Archive => {
            let about =
                "A .tar.gz of the app's folder, up to 200 MiB; application/gzip says the same";
            let schema = json!({ "type": "string", "format": "binary", "minLength": 1 });
            let content = json!({ archive::MEDIA_TYPES[1]: { "schema": schema } });
            json!({ "description": about, "required": true, "content": content })
        }
    }
}

fn responses(route: &Route, schemas: &mut Schemas) -> Map<String, Value> {
    let of_tokens: &[u16] = if route.access == Access::Open { &[] } else { &OF_TOKENS };
    let of_bodies: &[u16] = if route.takes.is_some() { &OF_BODIES } else { &[] };
    let refusals = ALWAYS.iter().chain(of_tokens).chain(of_bodies).chain(route.refusals);
    let refusal = |status: &u16| {
        let link = format!("#/components/responses/{}", refusal_name(*status));
        (status.to_string(), json!({ "$ref": link }))
    };
    let mut all: Map<String, Value> = refusals.map(refusal).collect();
    let (status, content) = match &route.gives {
        Gives::Json { status, schema } => {
            let schema = schema(&mut schemas.answers);
            (*status, json!({ "application/json": { "schema": schema } }))
        }
        Gives::Lines(schema) => {
            let line = schema(&mut schemas.answers);
            let schema = json!({ "type": "string", "x-line": line });
            let mut content = json!({ stream::LINES: { "schema": schema } });
            if route.is_followed {
                content[stream::EVENTS] = json!({});
            }
            (200, content)
        }
        Gives::Bytes(media_type) => (200, json!({ *media_type: {} })),
        Gives::Frames => (101, json!({})),
    };
    let reason = StatusCode::from_u16(status).ok().and_then(|it| it.canonical_reason());
    let done = json!({ "description": reason.unwrap_or("Done"), "headers": headers(), "content": content });
    all.insert(status.to_string(), done);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refs<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|value| refs(value, found));
            }
            Value::Array(all) => all.iter().for_each(|value| refs(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = render(&super::super::routes());
        let mut found = BTreeSet::new();
        refs(&document, &mut found);
        assert!(found.len() > 20, "{found:?}");
        for found in found {
            let pointer = found.strip_prefix('#').unwrap_or_default();
            assert!(document.pointer(pointer).is_some(), "{found}");
        }
    }

    #[test]
    fn an_operation_has_a_name_of_its_own() {
        let routes = super::super::routes();
        let names: BTreeSet<&str> = routes.iter().map(|route| route.name).collect();
        assert_eq!(names.len(), routes.len());
    }

    #[test]
    fn what_is_sent_and_what_comes_back_have_one_name_only_where_they_are_alike() {
        let mut schemas = Schemas::new();
        for route in super::super::routes() {
            operation(&route, &mut schemas);
        }
        let requests = schemas.requests.take_definitions(true);
        let answers = schemas.answers.take_definitions(true);
        for (name, schema) in &requests {
            assert!(answers.get(name).is_none_or(|other| other == schema), "{name}");
        }
    }
}
