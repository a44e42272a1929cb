//! What an app is set to, and what there is of it.

use ace_api::http::{ConfigView, LimitsView, ReleasesView};
use ace_types::ReleaseNumber;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Shared;
use super::page::PageQuery;
use super::target::Target;
use crate::caller::{Access, Caller};
use crate::refusal::Refusal;
use crate::rows::AppRow;
use crate::{state, views};

#[derive(Deserialize, JsonSchema)]
pub struct ConfigQuery {
    #[serde(default)]
    reveal: bool,
}

pub async fn config(
    State(engine): Shared,
    Extension(caller): Extension<Caller>,
    target: Target,
    query: Result<Query<ConfigQuery>, QueryRejection>,
) -> Result<Json<ConfigView>, Refusal> {
    let ConfigQuery { reveal } = query?.0;
    if reveal && !caller.may(Access::Deploy) {
        return Err(Refusal::forbidden());
    }
    view_of(&engine, &target, |_, app| views::config(app, reveal)).await
}

pub async fn limits(State(engine): Shared, target: Target) -> Result<Json<LimitsView>, Refusal> {
    let observed = engine.observed();
    view_of(&engine, &target, |state, app| views::limits(state, &observed, app)).await
}

pub async fn releases(
    State(engine): Shared,
    target: Target,
    query: Result<Query<PageQuery<ReleaseNumber>>, QueryRejection>,
) -> Result<Json<ReleasesView>, Refusal> {
    let page = query?.0;
    let Json(all) = view_of(&engine, &target, views::releases).await?;
    let rest = all.releases.into_iter().filter(|it| page.after.is_none_or(|n| it.number < n));
    let (releases, next) = page.cut(rest, |release| release.number)?;
    Ok(Json(ReleasesView { releases, next, ..all }))
}

pub(super) async fn view_of<T>(
    engine: &crate::engine::Engine,
    target: &Target,
    view: impl Fn(&state::State, &AppRow) -> T,
) -> Result<Json<T>, Refusal> {
    let state = engine.records.state().await?;
    Ok(Json(view(&state, target.row(&state)?)))
}
