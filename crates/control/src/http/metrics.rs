//! `GET /metrics`, and what it says of the API itself.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Shared;
use crate::engine::Engine;
use crate::metrics;
use crate::refusal::Refusal;

pub async fn show(State(engine): Shared) -> Result<Response, Refusal> {
    let state = engine.records.state().await?;
    let rendered = tokio::task::spawn_blocking(move || metrics::render(&engine, &state)).await;
    let text = rendered
        .map_err(|error| Refusal::engine("gather the metrics", &error))?
        .map_err(|error| Refusal::engine("write the metrics", &error))?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

/// Counts how requests to the API are answered.
pub async fn count(State(engine): State<Arc<Engine>>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    engine.tally.answered(response.status().as_u16());
    response
}
