//! One connection: takes its requests, and has each answered by a task of its own.

use std::pin::pin;
use std::sync::Arc;

use h2::server::Builder;
use http::Response;
use http::request::Parts;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::body::Body;
use crate::body_pace::BodyPace;
use crate::client::ClientState;
use crate::client_end::ClientEnd;
use crate::framing::HEAD_BYTES_MAX;
use crate::http2::answer::Answering;
use crate::http2::pings::silence;

/// Requests of one connection at once.
const STREAMS_MAX: u32 = 128;

/// What a client may send ahead of us, of one body and of all. Bodies are moved on as they come,
/// so this is what a connection can hold of memory.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// What is kept of one answer for a client that does not take it.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Serves `stream`, over which HTTP/2 is spoken from its first byte on, until it ends by itself, or with
/// the answers it is at once `closing` has come. `handle` answers a request; `pace` is that of answers.
///
/// Deadlines but that for a silent client are the stream's; see [`Http2Stream`](crate::http2::Http2Stream).
/// Errors: the client has broken the protocol, and been told so, or the stream has failed.
pub async fn serve<S, H, F>(
    stream: S,
    state: &Arc<ClientState>,
    pace: BodyPace,
    closing: impl Future<Output = ()>,
    handle: H,
) -> Result<(), h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Parts, ClientEnd) -> F,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let mut connection = builder().handshake(stream).await?;
    let mut silence = pin!(silence(connection.ping_pong(), state));
    let mut closing = pin!(closing);
    let mut is_closing = false;
    loop {
        tokio::select! {
            biased;
            accepted = connection.accept() => match accepted.transpose()? {
                Some((request, respond)) => {
                    let (answering, parts, end) = Answering::begin(request, respond);
                    // In a box, lest it be copied over and over: it's large.
                    let service = Box::pin(handle(parts, end));
                    tokio::spawn(answering.run(service, pace));
                }
                None => return Ok(()),
            },
            () = closing.as_mut(), if !is_closing => {
                is_closing = true;
                connection.graceful_shutdown();
            }
            () = silence.as_mut() => {
                tracing::debug!("a client of HTTP/2 is not there any more");
                return Ok(());
            }
        }
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .enable_connect_protocol();
    builder
}
