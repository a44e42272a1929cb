//! What a client sends over HTTP/1.

use std::convert::Infallible;
use std::io::Cursor;
use std::sync::{Arc, Mutex, PoisonError};

use ace_upstream::chunked::{ChunkDecoder, Decoded};
use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use crate::framing::{Framing, Refused};
use crate::fuzz::{block_on, piece_size};
use crate::server::http1_builder;

/// Three readers see the same requests: ours, hyper, and a plain one. What ours lets pass, hyper takes, and
/// how the bytes come makes no difference.
pub fn client(bytes: &[u8]) {
    let whole = pass([bytes]);
    assert_eq!(whole, pass(bytes.chunks(piece_size(bytes))), "it depends on how bytes come");
    let Some(Passed { bytes, heads }) = whole else { return };
    let plainly = read_plainly(&bytes);
    assert_eq!(plainly.len() as u64, heads, "another number of requests");
    let by_hyper = block_on(read_by_hyper(bytes));
    // It may give up in a body, where trailers are none, and then reads no more.
    let given_up = by_hyper.last().filter(|seen| seen.body_bytes.is_none());
    let complete = &by_hyper[..by_hyper.len() - usize::from(given_up.is_some())];
    assert!(plainly.starts_with(complete), "hyper reads {by_hyper:?} where there is {plainly:?}");
    assert!(given_up.is_none_or(|seen| plainly[complete.len()].method == seen.method));
}

/// What [`Framing`] lets pass.
#[derive(Debug, PartialEq, Eq)]
pub struct Passed {
    pub bytes: Vec<u8>,
    pub heads: u64,
}

/// A request as somebody reads it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    method: Method,
    /// `None` where it has no end.
    body_bytes: Option<u64>,
}

/// Feeds `pieces` as a connection does; `None` where a body was refused, since how much of it has passed
/// by then depends on how it came.
pub fn pass<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<Passed> {
    let (mut framing, mut held, mut bytes) = (Framing::new(), Vec::new(), Vec::new());
    for piece in pieces {
        held.extend_from_slice(piece);
        match framing.feed(&mut held) {
            Ok(count) => bytes.extend(held.drain(..count)),
            Err(Refused::Head { at, .. }) => {
                bytes.extend(held.drain(..at));
                break;
            }
            Err(Refused::Chunk { .. } | Refused::Stranger { .. }) => return None,
        }
    }
    Some(Passed { bytes, heads: framing.heads() })
}

/// The requests in `bytes`, none of which is refused.
fn read_plainly(mut bytes: &[u8]) -> Vec<Seen> {
    let mut seen = Vec::new();
    loop {
        while let Some(rest) = bytes.strip_prefix(b"\r\n") {
            bytes = rest;
        }
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut head = httparse::Request::new(&mut fields);
        let Ok(httparse::Status::Complete(length)) = head.parse(bytes) else {
            assert_eq!(bytes, b"", "what is no head has passed");
            return seen;
        };
        assert!(!bytes[..length].windows(2).any(|pair| pair[1] == b'\n' && pair[0] != b'\r'));
        let method = head.method.unwrap_or_default().parse().expect("it is one");
        let (body_bytes, rest) = read_body(head.headers, &bytes[length..]);
        seen.push(Seen { method, body_bytes });
        if body_bytes.is_none() {
            return seen;
        }
        bytes = rest;
    }
}

/// How long the body is that `rest` begins with, and what comes after it.
fn read_body<'a>(fields: &[httparse::Header<'_>], rest: &'a [u8]) -> (Option<u64>, &'a [u8]) {
    let all = |name: &str| {
        let fields = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        fields.map(|field| String::from_utf8_lossy(field.value).into_owned()).collect::<Vec<_>>()
    };
    match (all("transfer-encoding").as_slice(), all("content-length").as_slice()) {
        ([], []) => (Some(0), rest),
        ([], [length]) => {
            let length: u64 = length.parse().expect("it is a number");
            match usize::try_from(length).ok().and_then(|length| rest.get(length..)) {
                Some(after) => (Some(length), after),
                None => (None, &[]),
            }
        }
        ([coding], []) if coding.eq_ignore_ascii_case("chunked") => read_chunks(rest),
        framing => panic!("a body with two meanings has passed: {framing:?}"),
    }
}

fn read_chunks(rest: &[u8]) -> (Option<u64>, &[u8]) {
    let (mut decoder, mut buffer, mut length) = (ChunkDecoder::default(), BytesMut::from(rest), 0);
    loop {
        match decoder.decode(&mut buffer).expect("no bad chunk passes") {
            Decoded::Data(data) => length += data.len() as u64,
            Decoded::NeedsMore => return (None, &[]),
            Decoded::End => return (Some(length), &rest[rest.len() - buffer.len()..]),
        }
    }
}

async fn read_by_hyper(bytes: Vec<u8>) -> Vec<Seen> {
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let handle = service_fn(|request: Request<Incoming>| {
        let seen = Arc::clone(&seen);
        async move {
            let method = request.method().clone();
            let body_bytes = read_incoming(request.into_body()).await;
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.push(Seen { method, body_bytes });
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let stream = TokioIo::new(tokio::io::join(Cursor::new(bytes), tokio::io::sink()));
    let result = http1_builder().half_close(true).serve_connection(stream, handle).await;
    if let Err(error) = result {
        assert!(!error.is_parse(), "hyper does not take what has passed: {error}");
    }
    std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner))
}

async fn read_incoming(mut body: Incoming) -> Option<u64> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.ok()?.data_ref().map_or(0, |data| data.len() as u64);
    }
    Some(length)
}
