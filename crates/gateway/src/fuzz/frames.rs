//! What a client sends over HTTP/2, after its preface.

use std::convert::Infallible;
use std::io::Cursor;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::Response;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::framing::HEADERS_MAX;
use crate::fuzz::apps::check_request;
use crate::fuzz::{block_on, piece_size};
use crate::http2::{Flood, PREFACE, adopt, builder};

/// No frames keep a connection from its end, and what is a request among them becomes one for an app.
/// Who floods is found however the frames come.
pub fn http2(bytes: &[u8]) {
    let counted = |size: usize| {
        let mut flood = Flood::default();
        bytes.chunks(size).for_each(|piece| _ = flood.receive(piece));
        flood
    };
    assert_eq!(counted(bytes.len().max(1)), counted(piece_size(bytes)));
    let ended = block_on(async { timeout(Duration::from_secs(20), serve(bytes)).await });
    assert!(ended.is_ok(), "the connection does not end");
}

async fn serve(bytes: &[u8]) {
    let handle = service_fn(|request: Request<Incoming>| async move {
        let (mut parts, body) = request.into_parts();
        if adopt(&mut parts).is_ok() {
            assert!(parts.headers.len() <= HEADERS_MAX + 4); // Some are ours by now.
            check_request(parts);
        }
        _ = body.collect().await;
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let received = Cursor::new([PREFACE, bytes].concat());
    let stream = TokioIo::new(tokio::io::join(received, tokio::io::sink()));
    _ = builder().serve_connection(stream, handle).await;
}
