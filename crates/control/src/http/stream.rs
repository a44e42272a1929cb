//! Answers whose documents come one after the other, and go on where something is followed.
//!
//! A list that ends is a document a line. What is followed is a stream of server-sent events, which browsers and
//! tools know not to wait for the end of; whoever accepts `application/x-ndjson` gets lines there, too.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// A document a line.
pub const LINES: &str = "application/x-ndjson";
/// Server-sent events.
pub const EVENTS: &str = "text/event-stream";
/// How long a stream of server-sent events is silent before it has a comment, by which whoever stands between
/// knows that it lives.
const SILENT_FOR: Duration = Duration::from_secs(15);

/// How documents are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Lines,
    Events,
}

impl Form {
    /// That for an answer to a request with `headers`.
    pub fn of(follow: bool, headers: &HeaderMap) -> Self {
        let accepted = headers.get_all(header::ACCEPT).iter();
        let mut accepted = accepted.filter_map(|value| value.to_str().ok());
        match follow && !accepted.any(|value| value.contains(LINES)) {
            true => Self::Events,
            false => Self::Lines,
        }
    }

    /// `document`, whose number is `id` where it has one.
    fn render<T: Serialize>(self, document: &T, id: Option<u64>) -> Vec<u8> {
        // These documents are plain data, which always has a JSON form, in one line.
        let json = serde_json::to_vec(document).unwrap_or_default();
        let id = id.map_or(String::new(), |id| format!("id: {id}\n"));
        match self {
            Self::Lines => [json.as_slice(), b"\n"].concat(),
            Self::Events => [id.as_bytes(), b"data: ", &json, b"\n\n"].concat(),
        }
    }
}

/// The documents that `receiver` gets, as they come; `id` is the number of each.
pub fn answer<T: Serialize + Send + 'static>(
    form: Form,
    receiver: mpsc::Receiver<Vec<T>>,
    id: fn(&T) -> Option<u64>,
) -> Response {
    let stream = unfold(receiver, move |mut receiver| async move {
        let bytes = match next(form, &mut receiver).await {
            Next::Documents(documents) => {
                documents.iter().flat_map(|it| form.render(it, id(it))).collect()
            }
            Next::Silence => b":\n\n".to_vec(),
            Next::End => return None,
        };
        Some((Ok::<_, Infallible>(Bytes::from(bytes)), receiver))
    });
    let media_type = if form == Form::Lines { LINES } else { EVENTS };
    ([(header::CONTENT_TYPE, media_type)], Body::from_stream(stream)).into_response()
}

/// What comes next.
enum Next<T> {
    Documents(Vec<T>),
    /// Nothing for so long that it has to be said.
    Silence,
    End,
}

async fn next<T>(form: Form, receiver: &mut mpsc::Receiver<Vec<T>>) -> Next<T> {
    let received = match form {
        Form::Lines => Ok(receiver.recv().await),
        Form::Events => timeout(SILENT_FOR, receiver.recv()).await,
    };
    match received {
        Ok(Some(documents)) => Next::Documents(documents),
        Ok(None) => Next::End,
        Err(_) => Next::Silence,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::HeaderValue;
    use http_body_util::BodyExt;

    use super::*;

    fn accepting(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(value))])
    }

    #[test]
    fn what_is_followed_is_events_unless_lines_are_asked_for() {
        assert_eq!(Form::of(false, &accepting(EVENTS)), Form::Lines);
        assert_eq!(Form::of(true, &HeaderMap::new()), Form::Events);
        assert_eq!(Form::of(true, &accepting("*/*")), Form::Events);
        assert_eq!(Form::of(true, &accepting("text/html, application/x-ndjson")), Form::Lines);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_is_kept_alive_and_ends_with_its_source() {
        let (sender, receiver) = mpsc::channel(1);
        let response = answer(Form::Events, receiver, |n: &u64| Some(*n));
        tokio::spawn(async move {
            sender.send(vec![7, 8]).await.unwrap();
            tokio::time::sleep(SILENT_FOR + Duration::from_secs(1)).await;
        });
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "id: 7\ndata: 7\n\nid: 8\ndata: 8\n\n:\n\n");
    }
}
