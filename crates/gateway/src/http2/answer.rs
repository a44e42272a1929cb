//! One request's stream: what an app says before its answer, the answer's head, its body.
//!
//! A client may take its request back at any time. Whatever is under way for it is dropped then.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderValue, Request, Response};
use http_body::Body as _;
use tokio::sync::oneshot;

use crate::body::{Body, BodyError};
use crate::body_pace::BodyPace;
use crate::client_body::ClientBody;
use crate::client_end::{ClientEnd, Upgrade};
use crate::http2::answer_body::AnswerBody;
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
    #[error("the client took only {sent_bytes} bytes of the answer in its time")]
    Slow { sent_bytes: u64 },
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

    /// Sends what `service` answers, at `pace`.
    pub async fn run(mut self, service: impl Future<Output = Response<Body>>, pace: BodyPace) {
        let answered = match self.response(service).await {
            Ok(response) => self.send(response, pace).await,
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

    async fn send(mut self, response: Response<Body>, pace: BodyPace) -> Result<(), AnswerError> {
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
        AnswerBody::new(self.begin_answer(head, false)?, pace).send(body).await
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
