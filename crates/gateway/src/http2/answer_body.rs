//! An answer's body on its way to a client, as its windows have room.
//!
//! What has no room stays with who sends it: so an answer is under way until all of it has been taken, and
//! what h2 keeps of it could go out at once. A client that opens its windows too slowly is left. No wait by
//! itself is too long, since the others of the connection may be what holds an answer up.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::{Body as _, Frame};

use crate::body::Body;
use crate::body_pace::BodyPace;
use crate::http2::answer::AnswerError;
use crate::stopwatch::Stopwatch;

/// The way of one answer's body.
pub struct AnswerBody {
    to: SendStream<Bytes>,
    pace: BodyPace,
    sent_bytes: u64,
    waiting: Stopwatch,
    /// For the client, in all.
    waited: Duration,
}

impl AnswerBody {
    pub fn new(to: SendStream<Bytes>, pace: BodyPace) -> Self {
        let waiting = Stopwatch::default();
        Self { to, pace, sent_bytes: 0, waiting, waited: Duration::ZERO }
    }

    /// Sends `body` as the client takes it, and ends the stream.
    pub async fn send(mut self, body: Body) -> Result<(), AnswerError> {
        let mut body = pin!(body);
        loop {
            let frame = match poll_fn(|cx| self.poll_frame(body.as_mut(), cx)).await {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(self.to.send_data(Bytes::new(), true)?),
                Err(error) => {
                    self.to.send_reset(Reason::INTERNAL_ERROR);
                    return Err(error);
                }
            };
            match frame.into_data() {
                Ok(bytes) => {
                    let is_last = body.is_end_stream();
                    self.send_all(bytes, is_last).await?;
                    if is_last {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return Ok(self.to.send_trailers(trailers)?);
                }
            }
        }
    }

    /// The next of `body`, unless the client has gone.
    fn poll_frame(
        &mut self,
        body: Pin<&mut Body>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame<Bytes>>, AnswerError>> {
        match self.to.poll_reset(cx)? {
            Poll::Ready(reason) => Poll::Ready(Err(AnswerError::Withdrawn(reason))),
            Poll::Pending => {
                body.poll_frame(cx).map(|frame| frame.transpose().map_err(AnswerError::Body))
            }
        }
    }

    /// Sends `bytes`, as much at once as there is room for; if they are the last, the stream ends with them.
    async fn send_all(&mut self, mut bytes: Bytes, is_last: bool) -> Result<(), AnswerError> {
        if bytes.is_empty() && is_last {
            return Ok(self.to.send_data(bytes, true)?);
        }
        while !bytes.is_empty() {
            let room = poll_fn(|cx| self.poll_room(bytes.len(), cx)).await?;
            let part = bytes.split_to(room.min(bytes.len()));
            self.sent_bytes += part.len() as u64;
            self.to.send_data(part, is_last && bytes.is_empty())?;
        }
        Ok(())
    }

    /// Ready with how much there is room for, of `wanted` bytes.
    fn poll_room(
        &mut self,
        wanted: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, AnswerError>> {
        if let Poll::Ready(room) = poll_room(&mut self.to, wanted, cx) {
            self.waited += self.waiting.lap();
            return Poll::Ready(room);
        }
        let limit = self.pace.left_in_all(self.sent_bytes, self.waited);
        ready!(self.waiting.poll(cx, limit));
        self.to.send_reset(Reason::CANCEL);
        Poll::Ready(Err(AnswerError::Slow { sent_bytes: self.sent_bytes }))
    }
}

/// Ready with how much the client's windows have room for, at least a byte of the `wanted` ones.
///
/// Ask only for what is there to be sent: room that one stream has reserved is none for the others of its
/// connection.
pub fn poll_room(
    to: &mut SendStream<Bytes>,
    wanted: usize,
    cx: &mut Context<'_>,
) -> Poll<Result<usize, AnswerError>> {
    to.reserve_capacity(wanted);
    while to.capacity() == 0 {
        match ready!(to.poll_capacity(cx)) {
            Some(room) => _ = room?,
            None => return Poll::Ready(Err(AnswerError::Ended)),
        }
    }
    Poll::Ready(Ok(to.capacity()))
}
