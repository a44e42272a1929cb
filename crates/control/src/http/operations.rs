//! What changes what serves an app. Each is answered with events, a line each.

use ace_api::ErrorCode;
use std::sync::Arc;

use ace_api::http::{Rollback, Scale};
use ace_types::{AppName, Config, ConfigChange, LimitChange, LimitOverrides, TenantName};
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

use super::document::{Document, SecretDocument, check_media_type};
use super::target::Target;
use super::{Shared, json_line, lines};
use crate::archive::{self, Archive};
use crate::changes::{self, Wish};
use crate::engine::{Engine, new_build_id};
use crate::operation::{self, OperationRequest, Source, Work};
use crate::refusal::Refusal;

/// Operations on one app: one that runs and eight that wait.
const OPERATIONS_OF_AN_APP: usize = 9;

type Answer = Result<Response, Refusal>;

#[derive(Deserialize, JsonSchema)]
pub struct OwnerQuery {
    /// Whose app a new one is.
    #[schemars(with = "Option<TenantName>")]
    tenant: Option<String>,
}

impl OwnerQuery {
    fn tenant(&self) -> Result<Option<TenantName>, Refusal> {
        let tenant = self.tenant.as_deref().map(str::parse).transpose();
        tenant.map_err(|error| {
            let message = format!("that can't be a tenant's name: {error}");
            Refusal::new(ErrorCode::BadName, message)
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
    check_media_type(&headers, &archive::MEDIA_TYPES)?;
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

pub async fn roll_back(
    State(engine): Shared,
    target: Target,
    Document(asked): Document<Rollback>,
) -> Answer {
    grant(&engine, target, Wish::Rollback { to: asked.release }).await
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

pub async fn scale(
    State(engine): Shared,
    target: Target,
    Document(asked): Document<Scale>,
) -> Answer {
    changes::check_scale(asked.instances)?;
    grant(&engine, target, Wish::Scale { instances: asked.instances }).await
}

pub async fn configure(
    State(engine): Shared,
    target: Target,
    query: Result<Query<OwnerQuery>, QueryRejection>,
    SecretDocument(change): SecretDocument<ConfigChange>,
) -> Answer {
    let target = target.of(query?.tenant()?)?;
    // What is wrong with it whatever the app has is told before anything begins.
    Config::default().with(&change).map_err(changes::bad_config)?;
    let wish = Wish::Configure(change);
    let state = engine.records.state().await?;
    // It may make the app.
    target.check_name(&state)?;
    begin(&engine, target, wish)
}

pub async fn limit(
    State(engine): Shared,
    target: Target,
    Document(change): Document<LimitChange>,
) -> Answer {
    LimitOverrides::default().with(&change).map_err(changes::bad_limits)?;
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

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn busy() -> Refusal {
    let message = "too many deploys are under way; try again in a minute";
    Refusal::new(ErrorCode::Busy, message)
}

fn queue_full(app: &AppName) -> Refusal {
    let message = format!("too much is waiting to be done to {app}; try again when it is done");
    Refusal::new(ErrorCode::QueueFull, message)
}
