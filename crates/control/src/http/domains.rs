//! Names besides its own at which an app answers.

use ace_api::http::{DomainChange, DomainView, DomainsView};
use ace_types::Domain;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use jiff::Timestamp;

use super::page::PageQuery;
use super::settings::view_of;
use super::target::Target;
use super::{Document, Shared};
use crate::changes;
use crate::refusal::Refusal;
use crate::views;

pub async fn list(
    State(engine): Shared,
    target: Target,
    query: Result<Query<PageQuery<Domain>>, QueryRejection>,
) -> Result<Json<DomainsView>, Refusal> {
    let page = query?.0;
    let Json(mut all) = view_of(&engine, &target, views::domains).await?;
    all.domains.sort_by_key(|domain| domain.name.to_string());
    let is_behind = |domain: &DomainView| {
        page.after.as_ref().is_none_or(|after| domain.name.to_string() > after.to_string())
    };
    let rest = all.domains.into_iter().filter(is_behind);
    let (domains, next) = page.cut(rest, |domain| domain.name.clone())?;
    Ok(Json(DomainsView { domains, next, ..all }))
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
    let ((), revision) = engine.records.transact_for(Some(&target.by), change).await?;
    if !engine.applied(revision).await {
        tracing::error!(app = %name, "the routes did not follow its domains in time");
    }
    view_of(&engine, &target, views::domains).await
}
