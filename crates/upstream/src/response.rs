//! The head of an app's response. Pure.
//!
//! uWSGI copies an app's status line and headers as they are, so this is where a tenant's bytes are
//! first looked at. Lines end in CR LF and nothing else; what is ambiguous is refused, never mended.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

/// The head of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    pub status: StatusCode,
    /// The words after the status; empty where there are none.
    pub reason: String,
    /// As the app sent them, `Content-Length` included; without `Transfer-Encoding`.
    pub headers: HeaderMap,
    /// What `Content-Length` says.
    pub content_length: Option<u64>,
}

/// How far a response's body goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// So many bytes. Less is an error; more is cut off.
    Known(u64),
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
    /// A WSGI app may not set it, and the server has not when it speaks uwsgi's protocol.
    #[error("the response says how it is framed by itself (Transfer-Encoding)")]
    TransferEncoding,
    #[error("the response switches protocols, which was not asked for")]
    Upgrade,
}

/// The largest head taken from an app.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The most headers taken from an app.
const HEADERS_MAX: usize = 256;

/// Finds where the head in `bytes` ends: the offset after its empty line.
///
/// Looks at `bytes[from..]` only; what is before has been looked at by an earlier call that
/// returned `None`. Errors: [`HeadError::BareLineFeed`], [`HeadError::TooLarge`].
pub fn head_end(bytes: &[u8], from: usize) -> Result<Option<usize>, HeadError> {
    for (offset, _) in bytes.iter().enumerate().skip(from).filter(|(_, byte)| **byte == b'\n') {
        let line = &bytes[..=offset];
        if !line.ends_with(b"\r\n") {
            return Err(HeadError::BareLineFeed);
        }
        if line.ends_with(b"\r\n\r\n") {
            return if offset < HEAD_BYTES_MAX {
                Ok(Some(offset + 1))
            } else {
                Err(HeadError::TooLarge)
            };
        }
    }
    if bytes.len() < HEAD_BYTES_MAX { Ok(None) } else { Err(HeadError::TooLarge) }
}

/// Parses a whole head, its empty line included.
pub fn parse_head(bytes: &[u8]) -> Result<ResponseHead, HeadError> {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut fields);
    let complete = parsed.parse(bytes).map_err(HeadError::Malformed)?;
    if complete.is_partial() {
        return Err(HeadError::Malformed(httparse::Error::NewLine));
    }
    let status = parsed.code.unwrap_or_default();
    let status = StatusCode::from_u16(status).map_err(|_| HeadError::Status { status })?;
    let mut headers = HeaderMap::with_capacity(parsed.headers.len());
    for field in parsed.headers.iter() {
        let (name, value) = header(field)?;
        headers.append(name, value);
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        return Err(HeadError::TransferEncoding);
    }
    let content_length = content_length(&headers)?;
    Ok(ResponseHead {
        status,
        reason: parsed.reason.unwrap_or_default().to_owned(),
        headers,
        content_length,
    })
}

impl ResponseHead {
    /// How far the body of this response to `method` goes; `Known(0)` where it can have none.
    pub fn body_length(&self, method: &Method) -> BodyLength {
        let none = *method == Method::HEAD
            || matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        match self.content_length {
            _ if none => BodyLength::Known(0),
            Some(length) => BodyLength::Known(length),
            None => BodyLength::UntilClose,
        }
    }

    /// Whether another head follows this one.
    pub fn is_interim(&self) -> bool {
        self.status.is_informational() && self.status != StatusCode::SWITCHING_PROTOCOLS
    }
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
            Some(end) => parse_head(&text.as_bytes()[..end]),
            None => panic!("not a whole head: {text:?}"),
        }
    }

    #[test]
    fn a_head_has_a_status_a_reason_and_headers() {
        let head = parse("HTTP/1.0 404 Not here\r\nA: b\r\nContent-Length: 3\r\n\r\n").unwrap();
        assert_eq!((head.status, head.reason.as_str()), (StatusCode::NOT_FOUND, "Not here"));
        assert_eq!(head.headers["a"], "b");
        assert_eq!(head.body_length(&Method::GET), BodyLength::Known(3));
        assert_eq!(head.body_length(&Method::HEAD), BodyLength::Known(0));
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
            "HTTP/2.0 200 OK\r\n\r\n",
            "Status: 200\r\n\r\n",
            "\r\n\r\n",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
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
                let _ = parse_head(&text[..end]);
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
