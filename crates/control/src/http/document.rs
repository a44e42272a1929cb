//! Documents in the bodies of requests: how large, how slow and of which media type they may be.

use std::time::Duration;

use ace_api::ErrorCode;
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::{DeserializeOwned, Error as _};
use tokio::time::timeout;

use crate::refusal::Refusal;

/// The largest document, in bytes: some times what the largest configuration has.
pub const SIZE_MAX: usize = 1 << 20;
/// How long one may take to come.
const WITHIN: Duration = Duration::from_secs(10);

/// What a request carries. An empty body is the document without any field.
pub struct Document<T>(pub T);

/// The same, of what nobody may see: what is wrong with it is not told in the parser's words, which may
/// quote it.
pub struct SecretDocument<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Document<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        let body = read(&parts.headers, body).await?;
        parse(&body).map(Self).map_err(|error| {
            Refusal::bad_request(format!("that is not what is asked for here: {error}"))
        })
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for SecretDocument<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        let body = read(&parts.headers, body).await?;
        let parsed = parse(&body).map(Self);
        parsed.map_err(|_| Refusal::bad_request("that is not what is asked for here"))
    }
}

/// Refuses a body that says it is anything but one of `wanted`. What says nothing is taken for the first.
pub fn check_media_type(headers: &HeaderMap, wanted: &[&str]) -> Result<(), Refusal> {
    let mut all = headers.get_all(header::CONTENT_TYPE).iter();
    let Some(value) = all.next() else { return Ok(()) };
    let text = value.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    let is_one = wanted.iter().any(|wanted| essence.eq_ignore_ascii_case(wanted));
    if is_one && all.next().is_none() {
        return Ok(());
    }
    let message = format!("the body is to be {}", wanted.join(" or "));
    Err(Refusal::new(ErrorCode::UnsupportedMediaType, message))
}

async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, Refusal> {
    check_media_type(headers, &["application/json"])?;
    let whole = timeout(WITHIN, Limited::new(body, SIZE_MAX).collect()).await;
    match whole.map_err(|_| too_slow())? {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(Refusal::bad_request("the body came only in part")),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    // A list would be taken for the fields in their order.
    if body.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(serde_json::Error::custom("a document is an object, {…}"));
    }
    serde_json::from_slice(if body.is_empty() { b"{}" } else { body })
}

fn too_slow() -> Refusal {
    let message = format!("the body did not come within {} s", WITHIN.as_secs());
    Refusal::new(ErrorCode::TooSlow, message)
}

fn too_large() -> Refusal {
    let message = format!("a document is at most {} KiB", SIZE_MAX >> 10);
    Refusal::new(ErrorCode::TooLarge, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ace_api::http::Scale;
    use futures_util::stream;

    use super::*;

    /// The code with which `request` is refused.
    async fn refused(request: Request) -> String {
        let read = Document::<Scale>::from_request(request, &()).await;
        read.map(|_| ()).unwrap_err().error.code
    }

    fn request(media_type: &str, body: Body) -> Request {
        Request::builder().header(header::CONTENT_TYPE, media_type).body(body).unwrap()
    }

    #[tokio::test]
    async fn a_document_is_json_of_bounded_size_and_depth() {
        let text = r#"{"instances": 2}"#;
        for media_type in ["application/json", "Application/JSON; charset=utf-8"] {
            let read = Document::<Scale>::from_request(request(media_type, text.into()), &()).await;
            assert_eq!(read.map(|document| document.0.instances).unwrap(), 2);
        }
        assert_eq!(refused(request("text/plain", text.into())).await, "unsupported_media_type");
        let large = vec![b' '; SIZE_MAX + 1];
        assert_eq!(refused(request("application/json", large.into())).await, "too_large");
        assert_eq!(refused(request("application/json", "[2]".into())).await, "bad_request");
        let deep = r#"{"instances":"#.repeat(1000);
        assert_eq!(refused(request("application/json", deep.into())).await, "bad_request");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let never = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(refused(request("application/json", never)).await, "too_slow");
    }

    #[tokio::test]
    async fn a_secret_is_not_quoted() {
        let body = Body::from(r#"{"instances": "secret"}"#);
        let request = request("application/json", body);
        let read = SecretDocument::<Scale>::from_request(request, &()).await;
        assert!(!read.map(|_| ()).unwrap_err().error.message.contains("secret"));
    }
}
