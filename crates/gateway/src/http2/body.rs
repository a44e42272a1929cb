//! A request's body as it comes over a stream.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::header::{CONTENT_LENGTH, EXPECT};
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};

use crate::interim::Interim;

/// The body of a stream. The client may send as much more as has been read.
pub struct StreamBody {
    stream: RecvStream,
    /// Bytes still to come, where that was announced.
    remaining: Option<u64>,
    /// Where to tell the client to send it, if it waits for that.
    wanted: Option<Arc<Interim<Response<()>>>>,
    are_trailers_next: bool,
}

impl StreamBody {
    /// `headers` are the request's. h2 has found that what they say of the length is one number, and sees to it
    /// that it's true.
    pub fn new(
        stream: RecvStream,
        headers: &HeaderMap,
        interim: &Arc<Interim<Response<()>>>,
    ) -> Self {
        let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let remaining = match stream.is_end_stream() {
            true => Some(0),
            false => announced.and_then(|length| length.parse().ok()),
        };
        let wanted = headers.contains_key(EXPECT).then(|| Arc::clone(interim));
        Self { stream, remaining, wanted, are_trailers_next: false }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let polled = self.stream.poll_data(cx);
        // Only now has somebody asked for it. It may have come all the same.
        if let Some(interim) = self.wanted.take()
            && polled.is_pending()
        {
            let mut head = Response::new(());
            *head.status_mut() = StatusCode::CONTINUE;
            interim.leave(head);
        }
        polled
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = self.get_mut();
        if !this.are_trailers_next {
            if let Some(bytes) = ready!(this.poll_data(cx)).transpose()? {
                this.stream.flow_control().release_capacity(bytes.len())?;
                let length = bytes.len() as u64;
                this.remaining = this.remaining.map(|left| left.saturating_sub(length));
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            this.are_trailers_next = true;
        }
        let trailers = ready!(this.stream.poll_trailers(cx))?;
        Poll::Ready(trailers.map(Frame::trailers).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining.map(SizeHint::with_exact).unwrap_or_default()
    }
}
