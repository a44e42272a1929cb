//! Gives each request a name, which its answer, the errors in it and the engine's log have in common.

use ace_api::http::ApiError;
use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::{Instrument, info_span};

use crate::engine::random;

/// The header that an answer has it in.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// What an answer refuses with; it's written into its body when the request's name is known.
#[derive(Debug, Clone)]
pub struct Refused(pub ApiError);

/// Answers by `next`, under a new name.
pub async fn identify(request: Request, next: Next) -> Response {
    let id = new_id();
    let span = info_span!("api", request = %id);
    let mut response = next.run(request).instrument(span).await;
    if let Some(Refused(error)) = response.extensions_mut().remove::<Refused>() {
        let body = Json(ApiError { request_id: Some(id.clone()), ..error }).into_response();
        tracing::debug!(request = %id, status = %response.status(), "a request was refused");
        response.headers_mut().extend(body.headers().clone());
        *response.body_mut() = body.into_body();
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(HEADER, value);
    }
    response
}

/// 16 hexadecimal digits.
fn new_id() -> String {
    // It has to be told from others, not to be secret: without randomness it's still an answer's.
    let random = random::<8>().unwrap_or_default();
    format!("{:016x}", u64::from_be_bytes(random))
}
