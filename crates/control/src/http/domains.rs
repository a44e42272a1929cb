//! Names besides its own at which an app answers.

use ace_api::http::{DomainChange, DomainsView};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use jiff::Timestamp;

use super::operations::document;
use super::settings::view_of;
use super::{Shared, app_name};
use crate::changes;
use crate::refusal::Refusal;
use crate::views;

pub async fn list(
    State(engine): Shared,
    Path(app): Path<String>,
) -> Result<Json<DomainsView>, Refusal> {
    view_of(&engine, &app, views::domains).await
}

pub async fn change(
    State(engine): Shared,
    Path(app): Path<String>,
    body: Bytes,
) -> Result<Json<DomainsView>, Refusal> {
    let name = app_name(&app)?;
    let wanted: DomainChange = document(&body)?;
    if engine.is_ending() {
        return Err(Refusal::ending());
    }
    let own = &engine.config.domain;
    let change = |state: &_| {
        Ok((changes::change_domains(state, &name, own, &wanted, Timestamp::now())?, ()))
    };
    let ((), revision) = engine.records.transact(change).await?;
    if !engine.applied(revision).await {
        tracing::error!(app = %name, "the routes did not follow its domains in time");
    }
    view_of(&engine, &app, views::domains).await
}
