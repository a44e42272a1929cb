//! Why a request gets no answer from an app or a file, and what the client sees instead.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ace_upstream::{EncodeError, ReceiveError};
use http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::client_end::ClientError;
use crate::places::NoPlace;

/// Why a request failed. The text is for our log, and names nothing that a client may not know;
/// [`Failure::explanation`] is for the client.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    BadRequest(&'static str),
    #[error("the request's head is larger than any may be")]
    HeadTooLarge,
    #[error("the request's path is longer than any, or than the app's rules take")]
    TargetTooLong,
    #[error("the request expects something else than 100-continue")]
    Expectation,
    #[error("`last` in the app's rewrite rules led back to the first one more than {rounds} times")]
    RewriteCycle { rounds: usize },
    #[error("the app's rewrite rules lead to a path or query that is too long")]
    RewriteTooLong,
    #[error("the request is of a version that is not spoken here")]
    Version,
    #[error("no route has the host {host:?}")]
    UnknownHost { host: String },
    #[error("there is no such file to serve")]
    NoSuchFile,
    #[error("the method is not one of {allow}")]
    Method { allow: &'static str },
    #[error("only {received} bytes of the request's body came in {waited:?}")]
    BodyLate { received: u64, waited: Duration },
    #[error("the request's body is larger than the {max_bytes} bytes that the app takes")]
    BodyTooLarge { max_bytes: u64 },
    #[error("could not read the request's body")]
    Body(#[source] ClientError),
    #[error("the file is not the version that the request asks for")]
    Precondition,
    #[error("none of the wanted range is in the file's {size} bytes")]
    Range { size: u64 },
    #[error("could not encode the request")]
    Encode(#[from] EncodeError),
    #[error("could not read the file")]
    File(#[source] io::Error),
    #[error("could not read the request's body back from the spool")]
    Spool(#[source] io::Error),
    #[error("could not draw a random number")]
    Random(#[source] io::Error),
    #[error("spooled bodies take all the room there is")]
    SpoolFull,
    #[error("no usable answer came from the app")]
    Answer(#[source] ReceiveError),
    #[error("could not send the request to the app")]
    Send(#[source] io::Error),
    #[error("{connections} requests to the app are under way, as many as it may have")]
    Busy { connections: u32 },
    #[error("few of the app's {connections} places are left, and the client's address has many")]
    Crowding { connections: u32 },
    #[error("{held} requests wait already, as many as may")]
    Held { held: u32 },
    #[error("no routes were known within {waited:?}")]
    NoRoutes { waited: Duration },
    #[error("no instance took the request within {waited:?}")]
    NoInstance { waited: Duration, source: Option<Arc<io::Error>> },
    #[error("the app was asked not to run")]
    Stopped,
    #[error("the app did nothing for {waited:?}")]
    Timeout { waited: Duration },
}

/// How long a client is asked to wait before it tries again.
const RETRY_AFTER_SECONDS: &str = "5";

impl Failure {
    /// Says of a place among `connections` why there was none.
    pub fn no_place(connections: u32) -> impl Fn(NoPlace) -> Self {
        move |why| match why {
            NoPlace::Full => Self::Busy { connections },
            NoPlace::ForOthers => Self::Crowding { connections },
        }
    }

    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::Body(_) => StatusCode::BAD_REQUEST,
            Self::UnknownHost { .. } | Self::NoSuchFile => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyLate { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Precondition => StatusCode::PRECONDITION_FAILED,
            Self::Range { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::HeadTooLarge | Self::Encode(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::RewriteCycle { .. }
            | Self::RewriteTooLong
            | Self::File(_)
            | Self::Spool(_)
            | Self::Random(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Answer(_) | Self::Send(_) => StatusCode::BAD_GATEWAY,
            Self::Crowding { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::SpoolFull
            | Self::Busy { .. }
            | Self::Held { .. }
            | Self::NoRoutes { .. }
            | Self::NoInstance { .. }
            | Self::Stopped => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// One sentence for the client.
    fn explanation(&self) -> String {
        match self {
            Self::BadRequest(what) => format!("The request can't be understood: {what}."),
            Self::Body(_) => "The request's body can't be understood.".to_owned(),
            Self::UnknownHost { host } => format!("No app is named \u{201c}{host}\u{201d} here."),
            Self::NoSuchFile => "There is nothing at this address.".to_owned(),
            Self::Method { allow } => format!("This address answers to {allow} only."),
            Self::BodyLate { .. } => "The request took too long to arrive.".to_owned(),
            Self::BodyTooLarge { max_bytes } => {
                format!("The request's body is larger than the {max_bytes} bytes allowed.")
            }
            Self::Precondition => "The file has changed.".to_owned(),
            Self::Range { .. } => "The file does not have the wanted part.".to_owned(),
            Self::HeadTooLarge | Self::Encode(_) => {
                "The request's headers are too large.".to_owned()
            }
            Self::TargetTooLong => "The request's address is too long.".to_owned(),
            Self::Expectation => "The only expectation met here is 100-continue.".to_owned(),
            Self::RewriteCycle { .. } => {
                "The app's rewrite rules lead in a circle; `break` ends one.".to_owned()
            }
            Self::RewriteTooLong => "The app's rewrite rules lead too far.".to_owned(),
            Self::Version => "Only HTTP/1.0, HTTP/1.1 and HTTP/2 are spoken here.".to_owned(),
            Self::File(_) | Self::Spool(_) | Self::Random(_) => {
                "The request could not be handled.".to_owned()
            }
            Self::Answer(ReceiveError::NoAnswer | ReceiveError::Reset) => {
                "The app ended the request without an answer; its log says why.".to_owned()
            }
            Self::Answer(_) | Self::Send(_) => "The app gave no valid answer.".to_owned(),
            Self::SpoolFull | Self::Busy { .. } | Self::Held { .. } => {
                "The app has too many requests at the moment.".to_owned()
            }
            Self::Crowding { .. } => {
                "Too many requests from your address are under way at the moment.".to_owned()
            }
            Self::NoRoutes { .. } => "The server has not finished starting.".to_owned(),
            Self::NoInstance { .. } => "The app is not running at the moment.".to_owned(),
            Self::Stopped => "The app has been stopped.".to_owned(),
            Self::Timeout { .. } => "The app took too long to answer.".to_owned(),
        }
    }

    /// The page that says so, in the form that `request` (its headers) prefers.
    pub fn page(&self, request: &HeaderMap, request_id: &str) -> Response<String> {
        let status = self.status();
        let (media_type, text) = match Form::preferred(request) {
            Form::Html => ("text/html; charset=utf-8", self.html(request_id)),
            Form::Json => ("application/json", self.json(request_id)),
            Form::Text => ("text/plain; charset=utf-8", self.text(request_id)),
        };
        let mut page = Response::new(text);
        *page.status_mut() = status;
        let headers = page.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if matches!(self, Self::BadRequest(_) | Self::Body(_)) {
            // Who misunderstands one request may not know where the next begins.
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        match self {
            Self::Method { allow } => _ = headers.insert(ALLOW, HeaderValue::from_static(allow)),
            Self::Range { size } => {
                if let Ok(range) = HeaderValue::from_str(&format!("bytes */{size}")) {
                    headers.insert(CONTENT_RANGE, range);
                }
            }
            // Nobody can tell when a stopped app will run again.
            Self::Stopped => {}
            _ if status == StatusCode::SERVICE_UNAVAILABLE
                || status == StatusCode::TOO_MANY_REQUESTS =>
            {
                headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
            }
            _ => {}
        }
        page
    }

    fn html(&self, request_id: &str) -> String {
        let title = title(self.status());
        let explanation = escape(&self.explanation());
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
             <style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:15vh auto;\
             padding:0 1rem}}small{{color:#666}}</style>\n\
             <h1>{title}</h1>\n<p>{explanation}</p>\n<p><small>Request {request_id}</small></p>\n\
             </html>\n"
        )
    }

    fn text(&self, request_id: &str) -> String {
        let title = title(self.status());
        format!("{title}\n\n{}\n\nRequest {request_id}\n", self.explanation())
    }

    fn json(&self, request_id: &str) -> String {
        let status = self.status();
        let page = serde_json::json!({
            "status": status.as_u16(),
            "error": status.canonical_reason().unwrap_or_default(),
            "message": self.explanation(),
            "request_id": request_id,
        });
        format!("{page}\n")
    }
}

/// What a page is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Html,
    Text,
    Json,
}

impl Form {
    /// The first of ours that `Accept` names; without one, what a person reads at a terminal.
    fn preferred(request: &HeaderMap) -> Self {
        let accept = request.get(ACCEPT).map_or(&b""[..], |value| value.as_bytes());
        let named = accept.split(|byte| *byte == b',').find_map(|range| {
            let media_type = range.split(|byte| *byte == b';').next().unwrap_or_default();
            match media_type.trim_ascii() {
                b"text/html" | b"application/xhtml+xml" => Some(Self::Html),
                b"application/json" => Some(Self::Json),
                b"text/plain" => Some(Self::Text),
                _ => None,
            }
        });
        named.unwrap_or(Self::Text)
    }
}

/// Whether who sent `request` (its headers) is a program that wants no page.
pub fn wants_data(request: &HeaderMap) -> bool {
    Form::preferred(request) == Form::Json
}

fn title(status: StatusCode) -> String {
    format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default())
}

/// Makes `text` safe inside an HTML element.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(failure: &Failure, accept: Option<&'static str>) -> Response<String> {
        let mut headers = HeaderMap::new();
        if let Some(accept) = accept {
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
        }
        failure.page(&headers, "1d")
    }

    #[test]
    fn the_form_follows_accept() {
        for (accept, form) in [
            (None, "text/plain; charset=utf-8"),
            (Some("*/*"), "text/plain; charset=utf-8"),
            (Some("text/html,application/xhtml+xml;q=0.9"), "text/html; charset=utf-8"),
            (Some("image/png, application/json;q=0.1"), "application/json"),
        ] {
            assert_eq!(page(&Failure::NoSuchFile, accept).headers()[CONTENT_TYPE], form);
        }
    }

    #[test]
    fn a_name_can_not_bring_markup() {
        let failure = Failure::UnknownHost { host: "<script>".to_owned() };
        let page = page(&failure, Some("text/html"));
        assert!(page.body().contains("No app is named \u{201c}&lt;script&gt;\u{201d}"));
    }

    #[test]
    fn statuses_come_with_the_headers_they_ask_for() {
        let unavailable = Failure::Held { held: 1 };
        assert_eq!(page(&unavailable, None).headers()[RETRY_AFTER], "5");
        let crowding = Failure::Crowding { connections: 100 };
        assert_eq!(page(&crowding, None).headers()[RETRY_AFTER], "5");
        assert!(!page(&Failure::Stopped, None).headers().contains_key(RETRY_AFTER));
        assert_eq!(
            page(&Failure::Method { allow: "GET, HEAD" }, None).headers()[ALLOW],
            "GET, HEAD"
        );
        assert_eq!(page(&Failure::Range { size: 9 }, None).headers()[CONTENT_RANGE], "bytes */9");
    }
}
