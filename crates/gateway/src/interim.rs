//! Interim answers on their way to a client.
//!
//! Over HTTP/2 they go out on the request's stream. Over HTTP/1.1 they go past hyper, which has no place for
//! them: it answers a connection's requests one after the other, and flushes its stream only when it has
//! nothing left to write. So when an answer has not begun and the stream is flushed, all of the answers before
//! it are out, and that is when an interim one may go. One that is overtaken by the answer itself is
//! dropped: it's a hint.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};

use crate::client::ClientState;
use crate::headers;

/// The interim answer that is next on a connection, or on a stream of one.
#[derive(Debug)]
pub struct Interim<T> {
    next: Mutex<Option<T>>,
}

/// Where what an app says before its answer is to be left.
#[derive(Debug, Default)]
pub enum InterimSink {
    /// Its client would not know what it is.
    #[default]
    Nobody,
    Connection(Arc<ClientState>),
    Stream(Arc<Interim<Response<()>>>),
}

/// The largest that is passed on. Larger ones are dropped.
pub const INTERIM_BYTES_MAX: usize = 16 * 1024;

impl<T> Interim<T> {
    /// Leaves one for whoever writes to the client.
    pub fn leave(&self, interim: T) {
        *self.next() = Some(interim);
    }

    /// Takes it, if there is one.
    pub fn take(&self) -> Option<T> {
        self.next().take()
    }

    fn next(&self) -> MutexGuard<'_, Option<T>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for Interim<T> {
    fn default() -> Self {
        Self { next: Mutex::new(None) }
    }
}

impl InterimSink {
    /// Leaves an app's interim answer, if it's one that is passed on. Returns whether it is.
    pub fn leave(&self, status: StatusCode, headers: HeaderMap) -> bool {
        let Some(hints) = hints(status, headers) else { return false };
        match self {
            Self::Nobody => return false,
            Self::Connection(client) => client.interim().leave(encode(&hints)),
            Self::Stream(stream) => {
                let mut head = Response::new(());
                *head.status_mut() = StatusCode::EARLY_HINTS;
                *head.headers_mut() = hints;
                stream.leave(head);
            }
        }
        true
    }
}

/// How much `headers` take, as they are written in HTTP/1.
pub fn size_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum()
}

/// What a client gets of an interim answer with `headers`; `None` for one that ends here: only hints are passed
/// on (103, RFC 8297), without what is about a connection or a body.
fn hints(status: StatusCode, headers: HeaderMap) -> Option<HeaderMap> {
    if status != StatusCode::EARLY_HINTS {
        return None;
    }
    headers::trailers(headers).filter(|headers| size_bytes(headers) <= INTERIM_BYTES_MAX)
}

fn encode(hints: &HeaderMap) -> Bytes {
    let mut head = b"HTTP/1.1 103 Early Hints\r\n".to_vec();
    for (name, value) in hints {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head.into()
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
            encode(&hints(StatusCode::EARLY_HINTS, headers.clone()).unwrap()),
            "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n"
        );
        assert_eq!(hints(StatusCode::CONTINUE, headers.clone()), None);
        assert_eq!(hints(StatusCode::PROCESSING, headers), None);
        assert_eq!(hints(StatusCode::EARLY_HINTS, HeaderMap::from_iter(about)), None);
    }

    #[test]
    fn a_hint_of_any_size_is_not() {
        let long = HeaderValue::try_from("a".repeat(INTERIM_BYTES_MAX)).unwrap();
        assert_eq!(hints(StatusCode::EARLY_HINTS, HeaderMap::from_iter([(LINK, long)])), None);
    }
}
