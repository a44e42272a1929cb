//! What changes what serves an app. Each is answered with events, a line each.

use std::sync::Arc;

use ace_api::http::{Rollback, Scale};
use ace_types::{AppName, TenantName};
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;

use super::{Shared, app_name, json_line, lines};
use crate::archive::{self, Archive};
use crate::changes::Wish;
use crate::engine::{Engine, new_build_id};
use crate::operation::{self, OperationRequest, Source, Work};
use crate::refusal::Refusal;

/// Operations on one app: one that runs and eight that wait.
const OPERATIONS_OF_AN_APP: usize = 9;

type Answer = Result<Response, Refusal>;

#[derive(Deserialize)]
pub struct DeployQuery {
    tenant: Option<String>,
}

pub async fn deploy(
    State(engine): Shared,
    Path(app): Path<String>,
    query: Result<Query<DeployQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let app = app_name(&app)?;
    engine.config.host(&app).map_err(|error| Refusal::bad_app_name(app.as_str(), &error))?;
    let tenant = tenant_name(query?.0.tenant)?;
    let state = engine.records.state().await?;
    if state.app(&app).is_some_and(|row| row.destroying) {
        return Err(Refusal::being_destroyed(&app));
    }
    let admission = admit(&engine)?;
    if content_length(&headers).is_some_and(|length| length > archive::SIZE_MAX.0) {
        return Err(archive::too_large());
    }
    let build = new_build_id()?;
    let archive = Archive::receive(&engine.config.archives(), &build, body).await?;
    let work = Work::Deploy(Source { build, archive });
    start_work(&engine, app, tenant, work, admission)
}

pub async fn roll_back(State(engine): Shared, Path(app): Path<String>, body: Bytes) -> Answer {
    let Rollback { release } = document(&body)?;
    grant(&engine, &app, Wish::Rollback { to: release })
}

pub async fn restart(State(engine): Shared, Path(app): Path<String>) -> Answer {
    grant(&engine, &app, Wish::Restart)
}

pub async fn stop(State(engine): Shared, Path(app): Path<String>) -> Answer {
    grant(&engine, &app, Wish::Stop)
}

pub async fn start(State(engine): Shared, Path(app): Path<String>) -> Answer {
    grant(&engine, &app, Wish::Start)
}

pub async fn scale(State(engine): Shared, Path(app): Path<String>, body: Bytes) -> Answer {
    let Scale { instances } = document(&body)?;
    grant(&engine, &app, Wish::Scale { instances })
}

pub async fn configure(State(engine): Shared, Path(app): Path<String>, body: Bytes) -> Answer {
    grant(&engine, &app, Wish::Configure(secret_document(&body)?))
}

pub async fn limit(State(engine): Shared, Path(app): Path<String>, body: Bytes) -> Answer {
    grant(&engine, &app, Wish::Limit(document(&body)?))
}

fn grant(engine: &Arc<Engine>, app: &str, wish: Wish) -> Answer {
    let app = app_name(app)?;
    engine.config.host(&app).map_err(|error| Refusal::bad_app_name(app.as_str(), &error))?;
    let admission = admit(engine)?;
    start_work(engine, app, TenantName::default(), Work::Wish(wish), admission)
}

fn start_work(
    engine: &Arc<Engine>,
    app: AppName,
    tenant: TenantName,
    work: Work,
    admission: OwnedSemaphorePermit,
) -> Answer {
    let ticket = engine.lanes.enter(&app, OPERATIONS_OF_AN_APP).ok_or_else(|| queue_full(&app))?;
    // Only now: an upload may have taken minutes.
    if engine.is_ending() {
        return Err(Refusal::ending());
    }
    let request = OperationRequest { app, tenant, work, ticket, admission: Some(admission) };
    Ok(lines(operation::start(engine, request), |event| json_line(&event)))
}

fn admit(engine: &Arc<Engine>) -> Result<OwnedSemaphorePermit, Refusal> {
    Arc::clone(&engine.operations).try_acquire_owned().map_err(|_| busy())
}

/// The document in a request's body; an empty one is the document without any field.
pub(super) fn document<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        Refusal::bad_request(format!("that is not what is asked for here: {error}"))
    })
}

/// As [`document`]. What is wrong with it is not told in the parser's words, which may quote it.
fn secret_document<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    document(body).map_err(|_| Refusal::bad_request("that is not what is asked for here"))
}

fn tenant_name(text: Option<String>) -> Result<TenantName, Refusal> {
    let Some(text) = text else { return Ok(TenantName::default()) };
    text.parse().map_err(|error| {
        let message = format!("that can't be a tenant's name: {error}");
        Refusal::new(StatusCode::BAD_REQUEST, "bad_name", message)
    })
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn busy() -> Refusal {
    let message = "too many deploys are under way; try again in a minute";
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
}

fn queue_full(app: &AppName) -> Refusal {
    let message = format!("too much is waiting to be done to {app}; try again when it is done");
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", message)
}
