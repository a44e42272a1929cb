//! Interim answers on their way to a client of HTTP/1.1, past hyper, which has no place for them.
//!
//! hyper answers a connection's requests one after the other, and flushes its stream only when it has
//! nothing left to write. So when an answer has not begun and the stream is flushed, all of the answers before
//! it are out, and that is when an interim one may go. One that is overtaken by the answer itself is
//! dropped: it's a hint.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::headers;

/// The interim answer that is next on a connection.
#[derive(Debug, Default)]
pub struct Interim {
    next: Mutex<Option<Bytes>>,
}

/// The largest that is passed on. Larger ones are dropped.
const INTERIM_BYTES_MAX: usize = 16 * 1024;

impl Interim {
    /// Leaves one for whoever writes to the client.
    pub fn leave(&self, interim: Bytes) {
        *self.next() = Some(interim);
    }

    /// Takes it, if there is one.
    pub fn take(&self) -> Option<Bytes> {
        self.next().take()
    }

    fn next(&self) -> MutexGuard<'_, Option<Bytes>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An app's interim answer as a client gets it; `None` for one that ends here: only hints are passed
/// on (103, RFC 8297), without what is about a connection or a body.
pub fn encode(status: StatusCode, headers: HeaderMap) -> Option<Bytes> {
    if status != StatusCode::EARLY_HINTS {
        return None;
    }
    let headers = headers::trailers(headers)?;
    let mut head = b"HTTP/1.1 103 Early Hints\r\n".to_vec();
    for (name, value) in &headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    (head.len() <= INTERIM_BYTES_MAX).then(|| head.into())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::{CONNECTION, CONTENT_LENGTH, LINK, SET_COOKIE};

    use super::*;

    #[test]
    fn hints_are_passed_on_and_nothing_else() {
        let link = (LINK, HeaderValue::from_static("</a.css>; rel=preload"));
        let about = [
            (CONNECTION, HeaderValue::from_static("close")),
            (CONTENT_LENGTH, HeaderValue::from_static("9")),
            (SET_COOKIE, HeaderValue::from_static("a=b")),
        ];
        let headers = HeaderMap::from_iter(about.clone().into_iter().chain([link]));
        assert_eq!(
            encode(StatusCode::EARLY_HINTS, headers.clone()).unwrap(),
            "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n"
        );
        assert_eq!(encode(StatusCode::CONTINUE, headers.clone()), None);
        assert_eq!(encode(StatusCode::PROCESSING, headers), None);
        assert_eq!(encode(StatusCode::EARLY_HINTS, HeaderMap::from_iter(about)), None);
    }

    #[test]
    fn a_hint_of_any_size_is_not() {
        let long = HeaderValue::try_from("a".repeat(INTERIM_BYTES_MAX)).unwrap();
        assert_eq!(encode(StatusCode::EARLY_HINTS, HeaderMap::from_iter([(LINK, long)])), None);
    }
}
