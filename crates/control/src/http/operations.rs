//! What changes what serves an app. Each is answered with events, a line each.

use std::sync::Arc;

use ace_api::http::{Rollback, Scale};
use ace_types::{AppName, TenantName};
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;

use super::target::Target;
use super::{Shared, json_line, lines};
use crate::archive::{self, Archive};
use crate::changes::Wish;
use crate::engine::{Engine, new_build_id};
use crate::operation::{self, OperationRequest, Source, Work};
use crate::refusal::Refusal;

/// Operations on one app: one that runs and eight that wait.
const OPERATIONS_OF_AN_APP: usize = 9;

type Answer = Result<Response, Refusal>;

#[derive(Deserialize, JsonSchema)]
pub struct OwnerQuery {
    tenant: Option<String>,
}

impl OwnerQuery {
    fn tenant(&self) -> Result<Option<TenantName>, Refusal> {
        let tenant = self.tenant.as_deref().map(str::parse).transpose();
        tenant.map_err(|error| {
            let message = format!("that can't be a tenant's name: {error}");
            Refusal::new(StatusCode::BAD_REQUEST, "bad_name", message)
        })
    }
}

pub async fn deploy(
    State(engine): Shared,
    target: Target,
    query: Result<Query<OwnerQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let target = target.of(query?.tenant()?)?;
    check_host(&engine, &target)?;
    let state = engine.records.state().await?;
    target.check_name(&state)?;
    let admission = admit(&engine)?;
    if content_length(&headers).is_some_and(|length| length > archive::SIZE_MAX.0) {
        return Err(archive::too_large());
    }
    let build = new_build_id()?;
    let archive = Archive::receive(&engine.config.archives(), &build, body).await?;
    let work = Work::Deploy(Source { build, archive });
    start_work(&engine, target, work, admission)
}

pub async fn roll_back(State(engine): Shared, target: Target, body: Bytes) -> Answer {
    let Rollback { release } = document(&body)?;
    grant(&engine, target, Wish::Rollback { to: release }).await
}

pub async fn restart(State(engine): Shared, target: Target) -> Answer {
    grant(&engine, target, Wish::Restart).await
}

pub async fn stop(State(engine): Shared, target: Target) -> Answer {
    grant(&engine, target, Wish::Stop).await
}

pub async fn start(State(engine): Shared, target: Target) -> Answer {
    grant(&engine, target, Wish::Start).await
}

pub async fn scale(State(engine): Shared, target: Target, body: Bytes) -> Answer {
    let Scale { instances } = document(&body)?;
    grant(&engine, target, Wish::Scale { instances }).await
}

pub async fn configure(
    State(engine): Shared,
    target: Target,
    query: Result<Query<OwnerQuery>, QueryRejection>,
    body: Bytes,
) -> Answer {
    let target = target.of(query?.tenant()?)?;
    let wish = Wish::Configure(secret_document(&body)?);
    let state = engine.records.state().await?;
    // It may make the app.
    target.check_name(&state)?;
    begin(&engine, target, wish)
}

pub async fn limit(State(engine): Shared, target: Target, body: Bytes) -> Answer {
    let change = document(&body)?;
    grant(&engine, target, Wish::Limit(change)).await
}

/// Begins `wish` on an app that there is.
async fn grant(engine: &Arc<Engine>, target: Target, wish: Wish) -> Answer {
    let state = engine.records.state().await?;
    // Before it takes a place among those that wait.
    target.row(&state)?;
    begin(engine, target, wish)
}

fn begin(engine: &Arc<Engine>, target: Target, wish: Wish) -> Answer {
    check_host(engine, &target)?;
    let admission = admit(engine)?;
    start_work(engine, target, Work::Wish(wish), admission)
}

/// With the engine's domain behind it, not every name is a host's.
fn check_host(engine: &Engine, target: &Target) -> Result<(), Refusal> {
    let host = engine.config.host(&target.name);
    host.map(|_| ()).map_err(|error| Refusal::bad_app_name(target.name.as_str(), &error))
}

fn start_work(
    engine: &Arc<Engine>,
    target: Target,
    work: Work,
    admission: OwnedSemaphorePermit,
) -> Answer {
    let Target { name: app, tenant, by } = target;
    let ticket = engine.lanes.enter(&app, OPERATIONS_OF_AN_APP).ok_or_else(|| queue_full(&app))?;
    // Only now: an upload may have taken minutes.
    if engine.is_ending() {
        return Err(Refusal::ending());
    }
    let request = OperationRequest { app, tenant, by, work, ticket, admission: Some(admission) };
    Ok(lines(operation::start(engine, request), |event| json_line(&event)))
}

fn admit(engine: &Arc<Engine>) -> Result<OwnedSemaphorePermit, Refusal> {
    Arc::clone(&engine.operations).try_acquire_owned().map_err(|_| busy())
}

/// The document in a request's body; an empty one is the document without any field.
pub fn document<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        Refusal::bad_request(format!("that is not what is asked for here: {error}"))
    })
}

/// As [`document`]. What is wrong with it is not told in the parser's words, which may quote it.
fn secret_document<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    document(body).map_err(|_| Refusal::bad_request("that is not what is asked for here"))
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
