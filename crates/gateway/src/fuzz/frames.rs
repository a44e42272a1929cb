//! What a client sends over HTTP/2, after its preface.

use std::future::pending;
use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use http::request::Parts;
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::body::Body;
use crate::body_pace::BodyPace;
use crate::client_end::ClientEnd;
use crate::framing::HEADERS_MAX;
use crate::fuzz::apps::check_request;
use crate::fuzz::{block_on, piece_size};
use crate::http2::{self, Flood, PREFACE, adopt};

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
    let handle = |mut parts: Parts, end: ClientEnd| async move {
        if adopt(&mut parts).is_ok() {
            assert!(parts.headers.len() <= HEADERS_MAX + 4); // Some are ours by now.
            check_request(parts);
        }
        if let Some(body) = end.body {
            _ = body.collect().await;
        }
        Response::new(Body::none())
    };
    let received = Cursor::new([PREFACE, bytes].concat());
    let stream = tokio::io::join(received, tokio::io::sink());
    let pace = BodyPace { between: Duration::MAX, grace: Duration::from_secs(20) };
    _ = http2::serve(stream, &Arc::default(), pace, pending(), handle).await;
}
