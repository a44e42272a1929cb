//! Finds out who asks, before anything else is looked at.

use ace_api::ErrorCode;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use ace_api::http::Author;
use ace_types::TokenId;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;

use crate::attempts::TooMany;
use crate::caller::{Caller, Peer};
use crate::engine::Engine;
use crate::refusal::Refusal;
use crate::tokens;

/// What anybody may have.
const OPEN: &str = "/v1/openapi.json";

/// Lets a request pass with its [`Caller`] and [`Author`], and refuses the others.
pub async fn identify(
    State(engine): State<Arc<Engine>>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = match request.extensions().get::<Peer>() {
        Some(Peer::Socket) => Ok((Caller::Operator, Author::Root)),
        Some(Peer::Address(_)) if request.uri().path() == OPEN => return next.run(request).await,
        Some(Peer::Address(address)) => by_token(&engine, *address, request.headers()).await,
        None => Err(Refusal::no_token().into_response()),
    };
    match caller {
        Ok((caller, author)) => {
            request.extensions_mut().insert(caller);
            request.extensions_mut().insert(author);
            next.run(request).await
        }
        Err(refused) => refused,
    }
}

async fn by_token(
    engine: &Arc<Engine>,
    address: IpAddr,
    headers: &HeaderMap,
) -> Result<(Caller, Author), Response> {
    let text = bearer(headers).ok_or_else(|| Refusal::no_token().into_response())?;
    let state =
        engine.records.state().await.map_err(|error| Refusal::from(error).into_response())?;
    let now = Timestamp::now();
    match tokens::recognise(&state, text, now) {
        Some((row, caller)) => {
            if tokens::is_news(row, now) {
                note_use(engine, row.id.clone(), now);
            }
            Ok((caller, Author::Token { id: row.id.clone(), label: row.label.clone() }))
        }
        None => Err(wrong_token(engine, address)),
    }
}

/// What follows `Bearer` in the one `Authorization` header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (all.next(), all.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' '))
}

/// In a task of its own: nobody waits for it.
fn note_use(engine: &Arc<Engine>, id: TokenId, now: Timestamp) {
    let task_engine = Arc::clone(engine);
    engine.tasks.spawn(async move {
        let change = |state: &_| Ok((tokens::note_use(state, &id, now), ()));
        if let Err(refusal) = task_engine.records.transact(change).await {
            tracing::warn!(token = %id, %refusal, "could not note when a token was used");
        }
    });
}

fn wrong_token(engine: &Engine, address: IpAddr) -> Response {
    match engine.attempts.count(address, Instant::now()) {
        Ok(()) => {
            tracing::warn!(%address, "a wrong token was shown to the API");
            Refusal::wrong_token().into_response()
        }
        Err(TooMany(wait)) => {
            let message = "too many wrong tokens have come from your address; try again later";
            let refusal = Refusal::new(ErrorCode::TooManyAttempts, message);
            let seconds = wait.as_secs() + 1;
            ([(header::RETRY_AFTER, seconds.to_string())], refusal).into_response()
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn of(values: &[&'static str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
        }
        bearer(&headers).map(str::to_owned)
    }

    #[test]
    fn a_token_stands_behind_bearer() {
        assert_eq!(of(&["Bearer ace_x"]).as_deref(), Some("ace_x"));
        assert_eq!(of(&["bearer  ace_x "]).as_deref(), Some("ace_x"));
        for other in [&["Basic YTpi"][..], &["ace_x"], &["Bearer"], &[], &["Bearer a", "Bearer b"]]
        {
            assert_eq!(of(other), None, "{other:?}");
        }
    }
}
