//! Names besides its own at which an app answers.

use ace_api::http::{DomainChange, DomainsView};
use axum::Json;
use axum::extract::State;
use jiff::Timestamp;

use super::settings::view_of;
use super::target::Target;
use super::{Document, Shared};
use crate::changes;
use crate::refusal::Refusal;
use crate::views;

pub async fn list(State(engine): Shared, target: Target) -> Result<Json<DomainsView>, Refusal> {
    view_of(&engine, &target, views::domains).await
}

pub async fn change(
    State(engine): Shared,
    target: Target,
    Document(wanted): Document<DomainChange>,
) -> Result<Json<DomainsView>, Refusal> {
    let Target { name, tenant, .. } = &target;
    if engine.is_ending() {
        return Err(Refusal::ending());
    }
    let own = &engine.config.domain;
    let change = |state: &_| {
        Ok((
            changes::change_domains(state, name, tenant.as_ref(), own, &wanted, Timestamp::now())?,
            (),
        ))
    };
    let ((), revision) = engine.records.transact(change).await?;
    if !engine.applied(revision).await {
        tracing::error!(app = %name, "the routes did not follow its domains in time");
    }
    view_of(&engine, &target, views::domains).await
}
