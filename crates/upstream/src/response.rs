//! The head of an app's response. Pure.
//!
//! uWSGI copies an app's status line and headers as they are, so this is where a tenant's bytes are
//! first looked at. Lines end in CR LF and nothing else; what is ambiguous is refused, never mended.

use std::borrow::Cow;
use std::mem::MaybeUninit;

use ace_types::Protocol;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

/// The head of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    pub status: StatusCode,
    /// The words after the status; empty where there are none.
    pub reason: Cow<'static, str>,
    /// As the app sent them, `Content-Length` included; without `Transfer-Encoding`.
    pub headers: HeaderMap,
    /// What `Content-Length` says.
    pub content_length: Option<u64>,
    /// The body comes in chunks.
    pub chunked: bool,
    /// The server takes another request on the same connection.
    pub persistent: bool,
}

/// How far a response's body goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// So many bytes. Less is an error; more is cut off.
    Known(u64),
    /// To the chunk that says it is the last.
    Chunked,
    /// To the end of the connection.
    UntilClose,
}

/// Why an app's head was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("the head of the response is larger than {HEAD_BYTES_MAX} bytes")]
    TooLarge,
    #[error("a line of the response's head ends in LF without CR")]
    BareLineFeed,
    #[error("the response is not HTTP")]
    Malformed(#[source] httparse::Error),
    #[error("the response's status {status} is none")]
    Status { status: u16 },
    #[error("the response's header {name:?} holds what no header may")]
    Header { name: String },
    #[error("the response's Content-Length is not one whole number")]
    ContentLength,
    /// Over uwsgi's protocol there is none: a WSGI app may not set it, and the server does not.
    #[error("the response's Transfer-Encoding is not one that it may have")]
    TransferEncoding,
    #[error("the response switches protocols, which was not asked for")]
    Upgrade,
}

/// The largest head taken from an app.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The most headers taken from an app.
const HEADERS_MAX: usize = 256;
/// Room for what whoever passes the head on adds to it.
const HEADERS_ADDED: usize = 4;

/// Finds where the head in `bytes` ends: the offset after its empty line.
///
/// Looks at `bytes[from..]` only; what is before has been looked at by an earlier call that
/// returned `None`. Errors: [`HeadError::BareLineFeed`], [`HeadError::TooLarge`].
pub fn head_end(bytes: &[u8], from: usize) -> Result<Option<usize>, HeadError> {
    for offset in memchr::memchr_iter(b'\n', &bytes[from..]) {
        let lines = &bytes[..=from + offset];
        if !lines.ends_with(b"\r\n") {
            return Err(HeadError::BareLineFeed);
        }
        if lines.ends_with(b"\r\n\r\n") {
            let is_small = lines.len() <= HEAD_BYTES_MAX;
            return is_small.then_some(Some(lines.len())).ok_or(HeadError::TooLarge);
        }
    }
    if bytes.len() < HEAD_BYTES_MAX { Ok(None) } else { Err(HeadError::TooLarge) }
}

/// Parses a whole head that came over `protocol`, its empty line included.
pub fn parse_head(bytes: &[u8], protocol: Protocol) -> Result<ResponseHead, HeadError> {
    let bytes = as_http_1(bytes, protocol);
    let mut fields = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let complete = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut parsed, &bytes, &mut fields)
        .map_err(HeadError::Malformed)?;
    if complete.is_partial() {
        return Err(HeadError::Malformed(httparse::Error::NewLine));
    }
    let status = parsed.code.unwrap_or_default();
    let status = StatusCode::from_u16(status).map_err(|_| HeadError::Status { status })?;
    let mut headers = HeaderMap::with_capacity(parsed.headers.len() + HEADERS_ADDED);
    for field in parsed.headers.iter() {
        let (name, value) = header(field)?;
        headers.append(name, value);
    }
    let reason = reason(status, parsed.reason.unwrap_or_default());
    let is_http_1_1 = parsed.version == Some(1) && protocol == Protocol::Http;
    let content_length = content_length(&headers)?;
    let chunked = is_chunked(&headers)?;
    if chunked && (content_length.is_some() || !is_http_1_1) {
        return Err(HeadError::TransferEncoding);
    }
    if chunked {
        headers.remove(TRANSFER_ENCODING);
    }
    let persistent = is_http_1_1 && !closes(&headers);
    Ok(ResponseHead { status, reason, headers, content_length, chunked, persistent })
}

impl ResponseHead {
    /// How far the body of this response to `method` goes; `Known(0)` where it can have none.
    pub fn body_length(&self, method: &Method) -> BodyLength {
        match self.content_length {
            _ if self.is_bodiless(method) => BodyLength::Known(0),
            Some(length) => BodyLength::Known(length),
            None if self.chunked => BodyLength::Chunked,
            None => BodyLength::UntilClose,
        }
    }

    /// Whether this response to `method` can have no body, whatever it says of one.
    pub fn is_bodiless(&self, method: &Method) -> bool {
        *method == Method::HEAD
            || matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }

    /// Whether another head follows this one.
    pub fn is_interim(&self) -> bool {
        self.status.is_informational() && self.status != StatusCode::SWITCHING_PROTOCOLS
    }
}

/// A head that begins with the version that uWSGI was told of the request, HTTP/2.0, as what it is otherwise.
fn as_http_1(head: &[u8], protocol: Protocol) -> Cow<'_, [u8]> {
    match head.strip_prefix(b"HTTP/2.0 ") {
        Some(rest) if protocol == Protocol::Uwsgi => [b"HTTP/1.1 ", rest].concat().into(),
        _ => head.into(),
    }
}

/// `said`, which mostly is what everybody says with `status`.
fn reason(status: StatusCode, said: &str) -> Cow<'static, str> {
    let usual = status.canonical_reason().filter(|usual| *usual == said);
    usual.map_or_else(|| said.to_owned().into(), Cow::Borrowed)
}

fn header(field: &httparse::Header<'_>) -> Result<(HeaderName, HeaderValue), HeadError> {
    let error = || HeadError::Header { name: field.name.to_owned() };
    let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| error())?;
    let value = HeaderValue::from_bytes(field.value).map_err(|_| error())?;
    Ok((name, value))
}

/// The one length that all `Content-Length` headers agree on.
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, HeadError> {
    let mut agreed = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let length = decimal(value.as_bytes()).ok_or(HeadError::ContentLength)?;
        if agreed.is_some_and(|agreed| agreed != length) {
            return Err(HeadError::ContentLength);
        }
        agreed = Some(length);
    }
    Ok(agreed)
}

/// Whether the one transfer coding is `chunked`; any other, or several, are refused.
fn is_chunked(headers: &HeaderMap) -> Result<bool, HeadError> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(false),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err(HeadError::TransferEncoding),
    }
}

/// Whether `Connection` says that this response is the connection's last.
fn closes(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CONNECTION).iter();
    let mut options = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// Digits only: `str::parse` would take a sign.
fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if digits { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<ResponseHead, HeadError> {
        match head_end(text.as_bytes(), 0)? {
            Some(end) => parse_head(&text.as_bytes()[..end], Protocol::Uwsgi),
            None => panic!("not a whole head: {text:?}"),
        }
    }

    #[test]
    fn a_head_has_a_status_a_reason_and_headers() {
        let head = parse("HTTP/1.0 404 Not here\r\nA: b\r\nContent-Length: 3\r\n\r\n").unwrap();
        assert_eq!((head.status, head.reason.as_ref()), (StatusCode::NOT_FOUND, "Not here"));
        assert_eq!(head.headers["a"], "b");
        assert_eq!(head.body_length(&Method::GET), BodyLength::Known(3));
        assert_eq!(head.body_length(&Method::HEAD), BodyLength::Known(0));
    }

    #[test]
    fn uwsgi_answers_in_the_version_of_the_request() {
        let answer = "HTTP/2.0 200 OK\r\nContent-Length: 3\r\n\r\n";
        let head = parse(answer).unwrap();
        assert_eq!(
            (head.status, head.content_length, head.persistent),
            (StatusCode::OK, Some(3), false)
        );
        assert!(parse_http(answer).is_err());
    }

    #[test]
    fn a_line_feed_alone_ends_no_line() {
        assert_eq!(head_end(b"HTTP/1.1 200 OK\nA: b\r\n\r\n", 0), Err(HeadError::BareLineFeed));
        assert_eq!(head_end(b"HTTP/1.1 200 OK\r\n\n", 0), Err(HeadError::BareLineFeed));
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        for bad in [
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\n A: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: \0\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/2.1 200 OK\r\n\r\n",
            "HTTP/3.0 200 OK\r\n\r\n",
            "Status: 200\r\n\r\n",
            "\r\n\r\n",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    fn parse_http(text: &str) -> Result<ResponseHead, HeadError> {
        parse_head(text.as_bytes(), Protocol::Http)
    }

    #[test]
    fn over_http_a_body_may_come_in_chunks() {
        let head = parse_http("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n").unwrap();
        assert_eq!(head.body_length(&Method::GET), BodyLength::Chunked);
        assert_eq!(head.body_length(&Method::HEAD), BodyLength::Known(0));
        assert!(head.persistent && head.headers.is_empty());
        for bad in [
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        ] {
            assert_eq!(parse_http(bad), Err(HeadError::TransferEncoding), "{bad:?}");
        }
    }

    #[test]
    fn only_a_connection_that_stays_open_is_persistent() {
        for (head, persistent) in [
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nConnection: a, Close\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", false),
        ] {
            assert_eq!(parse_http(head).unwrap().persistent, persistent, "{head:?}");
        }
    }

    #[test]
    fn a_head_is_bounded() {
        let long = format!("HTTP/1.1 200 OK\r\nA: {}", "b".repeat(HEAD_BYTES_MAX));
        assert_eq!(head_end(long.as_bytes(), 0), Err(HeadError::TooLarge));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut text = b"HTTP/1.1 200 OK\r\n".to_vec();
            text.extend_from_slice(&bytes);
            text.extend_from_slice(b"\r\n\r\n");
            if let Ok(Some(end)) = head_end(&text, 0) {
                let _ = parse_head(&text[..end], Protocol::Http);
            }
        }

        #[test]
        fn where_a_head_ends_does_not_depend_on_how_it_comes(
            lines in prop::collection::vec("[a-z]{1,8}: [ -~]{0,20}\r\n", 0..5),
            cut in 0_usize..40,
        ) {
            let text = format!("HTTP/1.1 200 OK\r\n{}\r\nbody\r\n\r\n", lines.concat());
            let whole = head_end(text.as_bytes(), 0);
            let cut = cut.min(text.len());
            let in_parts = match head_end(&text.as_bytes()[..cut], 0) {
                Ok(None) => head_end(text.as_bytes(), cut),
                other => other,
            };
            prop_assert_eq!(&in_parts, &whole);
            prop_assert_eq!(whole, Ok(Some(text.len() - "body\r\n\r\n".len())));
        }
    }
}
