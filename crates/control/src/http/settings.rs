//! What an app is set to, and what there is of it.

use ace_api::http::{ConfigView, LimitsView, ReleasesView};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use serde::Deserialize;

use super::{Shared, app_name};
use crate::names;
use crate::refusal::Refusal;
use crate::rows::AppRow;
use crate::{state, views};

#[derive(Deserialize)]
pub struct ConfigQuery {
    #[serde(default)]
    reveal: bool,
}

pub async fn config(
    State(engine): Shared,
    Path(app): Path<String>,
    query: Result<Query<ConfigQuery>, QueryRejection>,
) -> Result<Json<ConfigView>, Refusal> {
    let ConfigQuery { reveal } = query?.0;
    view_of(&engine, &app, |_, app| views::config(app, reveal)).await
}

pub async fn limits(
    State(engine): Shared,
    Path(app): Path<String>,
) -> Result<Json<LimitsView>, Refusal> {
    view_of(&engine, &app, views::limits).await
}

pub async fn releases(
    State(engine): Shared,
    Path(app): Path<String>,
) -> Result<Json<ReleasesView>, Refusal> {
    view_of(&engine, &app, views::releases).await
}

pub(super) async fn view_of<T>(
    engine: &crate::engine::Engine,
    app: &str,
    view: impl Fn(&state::State, &AppRow) -> T,
) -> Result<Json<T>, Refusal> {
    let name = app_name(app)?;
    let state = engine.records.state().await?;
    let app = state.app(&name).ok_or_else(|| names::no_such_app(&state, &name))?;
    Ok(Json(view(&state, app)))
}
