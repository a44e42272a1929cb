//! One request's stream: what an app says before its answer, the answer's head, its body.
//!
//! A client may take its request back at any time. Whatever is under way for it is dropped then.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderValue, Request, Response};
use http_body::{Body as _, Frame};
use tokio::sync::oneshot;

use crate::body::{Body, BodyError};
use crate::client_body::ClientBody;
use crate::client_end::{ClientEnd, Upgrade};
use crate::http2::body::StreamBody;
use crate::http2::date;
use crate::http2::request::is_websocket;
use crate::http2::tunnel::StreamTunnel;
use crate::interim::{self, INTERIM_BYTES_MAX, Interim, InterimSink};

/// The side of a stream that answers.
pub struct Answering {
    respond: SendResponse<Bytes>,
    interim: Arc<Interim<Response<()>>>,
    /// How much more may be said before the answer: a client need not take it, and it's not kept back by
    /// a window.
    interim_room_bytes: usize,
    /// What the stream becomes if the answer agrees to it.
    tunnel: Option<(RecvStream, oneshot::Sender<StreamTunnel>)>,
}

/// Why an answer was not sent, or not as a whole.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    #[error("the client has taken its request back ({0})")]
    Withdrawn(Reason),
    #[error(transparent)]
    Stream(#[from] h2::Error),
    #[error("the stream ended before the answer")]
    Ended,
    #[error("the answer broke off")]
    Body(#[source] BodyError),
}

impl Answering {
    /// Takes a stream apart: into who answers, the request's head, and what else the client has for it.
    pub fn begin(
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) -> (Self, Parts, ClientEnd) {
        let (parts, stream) = request.into_parts();
        let interim = Arc::<Interim<_>>::default();
        let (body, upgrade, tunnel) = match is_websocket(&parts) {
            true => {
                let (sender, receiver) = oneshot::channel();
                (None, Some(Upgrade::Stream(receiver)), Some((stream, sender)))
            }
            false => (Some(StreamBody::new(stream, &parts.headers, &interim)), None, None),
        };
        let end = ClientEnd {
            body: body.map(ClientBody::Http2),
            interim: InterimSink::Stream(Arc::clone(&interim)),
            upgrade,
        };
        (Self { respond, interim, interim_room_bytes: INTERIM_BYTES_MAX, tunnel }, parts, end)
    }

    /// Sends what `service` answers.
    pub async fn run(mut self, service: impl Future<Output = Response<Body>>) {
        let answered = match self.response(service).await {
            Ok(response) => self.send(response).await,
            Err(error) => Err(error),
        };
        if let Err(error) = answered {
            tracing::debug!(%error, "a stream of HTTP/2 ended early");
        }
    }

    /// Waits for the answer, and meanwhile passes on what comes before it.
    async fn response(
        &mut self,
        service: impl Future<Output = Response<Body>>,
    ) -> Result<Response<Body>, AnswerError> {
        let mut service = pin!(service);
        poll_fn(|cx| {
            if let Poll::Ready(response) = service.as_mut().poll(cx) {
                return Poll::Ready(Ok(response)); // Which overtakes a hint that has just come.
            }
            // First, since nothing may be sent on a stream that has been reset.
            if let Poll::Ready(reason) = self.respond.poll_reset(cx)? {
                return Poll::Ready(Err(AnswerError::Withdrawn(reason)));
            }
            self.send_interim()?;
            Poll::Pending
        })
        .await
    }

    fn send_interim(&mut self) -> Result<(), h2::Error> {
        let Some(interim) = self.interim.take() else { return Ok(()) };
        match self.interim_room_bytes.checked_sub(interim::size_bytes(interim.headers())) {
            Some(left) => self.interim_room_bytes = left,
            None => return Ok(()),
        }
        self.respond.send_informational(interim)
    }

    async fn send(mut self, response: Response<Body>) -> Result<(), AnswerError> {
        let (head, body) = response.into_parts();
        let mut head = Response::from_parts(head, ());
        date::stamp(head.headers_mut());
        if let Some((stream, sender)) = self.tunnel.take().filter(|_| head.status().is_success()) {
            let tunnel = StreamTunnel::new(stream, self.begin_answer(head, false)?);
            _ = sender.send(tunnel); // Nobody waits for it where the gateway ends.
            return Ok(());
        }
        if body.is_end_stream() {
            self.begin_answer(head, true)?;
            return Ok(());
        }
        if let Some(length) = body.size_hint().exact() {
            let length = || HeaderValue::from(length);
            head.headers_mut().entry(CONTENT_LENGTH).or_insert_with(length);
        }
        send_body(body, self.begin_answer(head, false)?).await
    }

    fn begin_answer(
        &mut self,
        head: Response<()>,
        is_all: bool,
    ) -> Result<SendStream<Bytes>, h2::Error> {
        let sent = self.respond.send_response(head, is_all);
        // Else the stream would end as if the client had left it.
        sent.inspect_err(|_| self.respond.send_reset(Reason::INTERNAL_ERROR))
    }
}

/// Sends `body` as the client takes it, and ends the stream.
async fn send_body(body: Body, mut to: SendStream<Bytes>) -> Result<(), AnswerError> {
    let mut body = pin!(body);
    loop {
        let frame = match poll_fn(|cx| poll_frame(body.as_mut(), &mut to, cx)).await {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(to.send_data(Bytes::new(), true)?),
            Err(error) => {
                to.send_reset(Reason::INTERNAL_ERROR);
                return Err(error);
            }
        };
        match frame.into_data() {
            Ok(bytes) => {
                let is_last = body.is_end_stream();
                if !bytes.is_empty() {
                    poll_fn(|cx| poll_room(&mut to, cx)).await?;
                }
                to.send_data(bytes, is_last)?;
                if is_last {
                    return Ok(());
                }
            }
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                return Ok(to.send_trailers(trailers)?);
            }
        }
    }
}

/// The next of `body`, unless the client has gone from `to`.
fn poll_frame(
    body: Pin<&mut Body>,
    to: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
) -> Poll<Result<Option<Frame<Bytes>>, AnswerError>> {
    match to.poll_reset(cx)? {
        Poll::Ready(reason) => Poll::Ready(Err(AnswerError::Withdrawn(reason))),
        Poll::Pending => {
            body.poll_frame(cx).map(|frame| frame.transpose().map_err(AnswerError::Body))
        }
    }
}

/// Ready when the client's windows have room for a byte.
///
/// More is not asked for: room that one stream has reserved is none for the others of its connection.
/// What does not fit at once waits in the stream's own buffer.
pub fn poll_room(
    to: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), AnswerError>> {
    to.reserve_capacity(1);
    while to.capacity() == 0 {
        match ready!(to.poll_capacity(cx)) {
            Some(room) => _ = room?,
            None => return Poll::Ready(Err(AnswerError::Ended)),
        }
    }
    Poll::Ready(Ok(()))
}
