//! Tokens: listed, made, revoked.

use ace_api::ErrorCode;
use ace_api::http::{CreatedToken, Done, NewToken, TokenView};
use ace_types::TokenId;
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use jiff::Timestamp;

use super::{Document, Shared};
use crate::engine::random;
use crate::refusal::Refusal;
use crate::tokens::{self, Ingredients};

pub async fn list(State(engine): Shared) -> Result<Json<Vec<TokenView>>, Refusal> {
    let state = engine.records.state().await?;
    let mut all: Vec<TokenView> = state.tokens().map(|row| tokens::view(row)).collect();
    all.sort_by_key(|token| token.created_at);
    Ok(Json(all))
}

pub async fn create(
    State(engine): Shared,
    Document(asked): Document<NewToken>,
) -> Result<(StatusCode, Json<CreatedToken>), Refusal> {
    let id = TokenId::from_random(random()?);
    let of = Ingredients { id, secret: random()?, now: Timestamp::now() };
    let (row, secret) = tokens::make(&asked, &of)?;
    engine.records.transact(|state| Ok((tokens::keep(state, &row)?, ()))).await?;
    tracing::info!(token = %row.id, role = %row.role, "a token was made");
    Ok((StatusCode::CREATED, Json(CreatedToken { token: tokens::view(&row), secret })))
}

pub async fn revoke(
    State(engine): Shared,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Done>, Refusal> {
    let id: TokenId = id?.parse().map_err(|_| {
        let message = "a token is named by the 8 characters that `ace token list` shows first";
        Refusal::new(ErrorCode::BadName, message)
    })?;
    engine.records.transact(|state| Ok((tokens::revoke(state, &id)?, ()))).await?;
    tracing::info!(token = %id, "a token was revoked");
    Ok(Json(Done { message: format!("token {id} is good for nothing any more") }))
}
