//! HTTP/2 in clear text, from clients that know beforehand that it is spoken here.
//!
//! hyper speaks the protocol. What is ours: to find out which version a client speaks (`preface`), its
//! deadlines (`stream`), who floods us with frames that ask for nothing (`flood`), and to make of its
//! requests what the rest of the gateway knows from HTTP/1 (`request`).

mod flood;
mod preface;
mod request;
mod stream;

use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::framing::HEAD_BYTES_MAX;

#[cfg(any(test, feature = "fuzzing"))]
pub use flood::Flood;
#[cfg(any(test, feature = "fuzzing"))]
pub use preface::PREFACE;
pub use preface::{Spoken, sniff};
pub use request::{adopt, answer_websocket, is_websocket};
pub use stream::Http2Stream;

/// Requests of one connection at once.
const STREAMS_MAX: u32 = 128;

/// What a client may send ahead of us, of one body and of all. Bodies are moved on as they come,
/// so this is what a connection can hold of memory.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// What is kept of one answer for a client that does not take it.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// How often a client is asked whether it is still there, and how long it may take to say so.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// HTTP/2 as we speak it. Deadlines are kept by [`Http2Stream`].
pub fn builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .enable_connect_protocol();
    builder
}
