//! Tokens: listed, made, revoked.

use ace_api::ErrorCode;
use ace_api::http::{Author, CreatedToken, Done, NewToken, TokensView};
use ace_types::TokenId;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use jiff::Timestamp;

use super::page::PageQuery;
use super::{Document, Shared};
use crate::engine::random;
use crate::refusal::Refusal;
use crate::tokens::{self, Ingredients};

pub async fn list(
    State(engine): Shared,
    query: Result<Query<PageQuery<TokenId>>, QueryRejection>,
) -> Result<Json<TokensView>, Refusal> {
    let page = query?.0;
    let state = engine.records.state().await?;
    let rest = state.tokens().filter(|row| page.after.as_ref().is_none_or(|id| row.id > *id));
    let (tokens, next) = page.cut(rest.map(|row| tokens::view(row)), |token| token.id.clone())?;
    Ok(Json(TokensView { tokens, next }))
}

pub async fn create(
    State(engine): Shared,
    Extension(by): Extension<Author>,
    Document(asked): Document<NewToken>,
) -> Result<(StatusCode, Json<CreatedToken>), Refusal> {
    let id = TokenId::from_random(random()?);
    let of = Ingredients { id, secret: random()?, now: Timestamp::now() };
    let (row, secret) = tokens::make(&asked, &of)?;
    let change = |state: &_| Ok((tokens::keep(state, &row)?, ()));
    engine.records.transact_for(Some(&by), change).await?;
    tracing::info!(token = %row.id, role = %row.role, "a token was made");
    Ok((StatusCode::CREATED, Json(CreatedToken { token: tokens::view(&row), secret })))
}

pub async fn revoke(
    State(engine): Shared,
    Extension(by): Extension<Author>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Done>, Refusal> {
    let id: TokenId = id?.parse().map_err(|_| {
        let message = "a token is named by the 8 characters that `ace token list` shows first";
        Refusal::new(ErrorCode::BadName, message)
    })?;
    let change = |state: &_| Ok((tokens::revoke(state, &id)?, ()));
    engine.records.transact_for(Some(&by), change).await?;
    tracing::info!(token = %id, "a token was revoked");
    Ok(Json(Done { message: format!("token {id} is good for nothing any more") }))
}
