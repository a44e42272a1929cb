//! What a response carries, whatever it comes from.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ace_upstream::{BodyLength, ReceiveError, ResponseBody};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use crate::access::RequestRecord;
use crate::answer_buffer::AnswerBuffer;
use crate::bandwidth::{Allowance, SMALL_BYTES, Way};
use crate::file_parts::{FileParts, PART_BYTES_MAX};
use crate::files::FileReader;
use crate::headers;
use crate::request_body::PumpError;
use crate::routes::InstancePermit;
use crate::spool::AppSpool;
use crate::stopwatch::Stopwatch;

/// A response's body, and the request's record, which ends with it.
pub struct Body {
    content: Content,
    /// `None` where the request goes on in another way.
    record: Option<Box<RequestRecord>>,
    /// `None` for what is small.
    allowance: Option<Box<Allowance>>,
}

/// Where a body comes from.
pub enum Content {
    Empty,
    Bytes(Bytes),
    File(FileReader),
    /// One after the other.
    Sequence(VecDeque<Content>),
    App(Box<AppContent>),
}

/// What an app sends. Its beginning is passed on as the client takes it, since that fits into
/// buffers anyway; the rest is received ahead of the client.
pub struct AppContent {
    manner: Manner,
    spool: AppSpool,
    /// Bytes still to come, where that is known.
    remaining: Option<u64>,
    passed: u64,
    /// What may be received ahead of the client.
    ahead: Option<Allowance>,
}

#[expect(clippy::large_enum_variant, reason = "it's in a box already, and mostly stays the larger")]
enum Manner {
    Direct(AppSource),
    Buffered(AnswerBuffer),
    /// While one becomes the other.
    Between,
}

/// What an app sends, while the rest of the request may still be going to it.
pub struct AppSource {
    body: ResponseBody,
    /// The way of the request's body to the app, as far as it has not ended.
    pump: Option<Pump>,
    silence: Stopwatch,
    timeout: Duration,
    /// The request has left the instance when its answer has been received, whoever still reads it.
    _permit: InstancePermit,
}

/// How much of an answer is passed on directly.
const DIRECT_BYTES: u64 = SMALL_BYTES;

/// A request's body on its way to an app.
pub type Pump = Pin<Box<dyn Future<Output = Result<(), PumpError>> + Send>>;

/// Why a response ended early. The client sees its connection end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("could not read the file")]
    File(#[source] io::Error),
    #[error("the app's answer broke off")]
    App(#[source] ReceiveError),
    #[error("the app sent nothing for {waited:?}")]
    Silence { waited: Duration },
    #[error("could not read the answer back from the spool")]
    Spool(#[source] io::Error),
    #[error("the request's body broke off")]
    Request(#[source] PumpError),
}

impl Body {
    pub fn new(content: Content, record: Box<RequestRecord>) -> Self {
        Self { content, record: Some(record), allowance: None }
    }

    /// No body, of a response that does not end its request.
    pub fn none() -> Self {
        Self { content: Content::Empty, record: None, allowance: None }
    }

    /// Ready with how many bytes may pass, where that is bounded.
    fn poll_allowance(&mut self, cx: &mut Context<'_>) -> Poll<Option<u64>> {
        if self.allowance.is_none() {
            self.allowance = self.begin_allowance();
        }
        match &mut self.allowance {
            Some(allowance) => allowance.poll_ready(cx).map(Some),
            None => Poll::Ready(None),
        }
    }

    /// What a body needs that turns out not to be small.
    fn begin_allowance(&mut self) -> Option<Box<Allowance>> {
        let record = self.record.as_mut()?;
        let bandwidth = record.route.as_ref()?.bandwidth();
        let sent = record.sent_bytes();
        let is_small = sent < SMALL_BYTES
            && self.content.remaining().is_none_or(|left| sent + left <= SMALL_BYTES);
        if is_small && !(sent == 0 && bandwidth.is_in_arrears(Way::Sent)) {
            return None;
        }
        let mut allowance = Box::new(Allowance::with_credit(bandwidth, Way::Sent));
        allowance.spend(sent);
        if let Content::App(app) = &mut self.content {
            app.ahead = Some(allowance.ahead());
        }
        record.pace(Way::Sent);
        Some(allowance)
    }
}

impl AppContent {
    pub fn new(source: AppSource, spool: AppSpool) -> Self {
        let remaining = match source.body.length() {
            BodyLength::Known(length) => Some(length),
            BodyLength::Chunked | BodyLength::UntilClose => None,
        };
        Self { manner: Manner::Direct(source), spool, remaining, passed: 0, ahead: None }
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.passed >= DIRECT_BYTES && matches!(self.manner, Manner::Direct(_)) {
            let direct = std::mem::replace(&mut self.manner, Manner::Between);
            if let Manner::Direct(source) = direct {
                let (spool, ahead) = (self.spool.clone(), self.ahead.take());
                let buffer = AnswerBuffer::start(source, spool, ahead);
                self.manner = Manner::Buffered(buffer);
            }
        }
        let chunk = ready!(match &mut self.manner {
            Manner::Direct(source) => source.poll_chunk(cx),
            Manner::Buffered(buffer) => buffer.poll_chunk(cx),
            Manner::Between => Poll::Ready(None),
        });
        if let Some(Ok(bytes)) = &chunk {
            self.passed += bytes.len() as u64;
            self.remaining = self.remaining.map(|left| left.saturating_sub(bytes.len() as u64));
        }
        Poll::Ready(chunk)
    }

    fn take_trailers(&mut self) -> Option<HeaderMap> {
        match &mut self.manner {
            Manner::Direct(source) => source.take_trailers(),
            Manner::Buffered(buffer) => buffer.take_trailers(),
            Manner::Between => None,
        }
    }
}

impl AppSource {
    pub fn new(
        body: ResponseBody,
        pump: Option<Pump>,
        timeout: Duration,
        permit: InstancePermit,
    ) -> Self {
        Self { body, pump, silence: Stopwatch::default(), timeout, _permit: permit }
    }

    /// What the app has sent after its answer's body, once, after the body's end.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.body.take_trailers()
    }

    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if let Some(Poll::Ready(result)) = self.pump.as_mut().map(|pump| pump.as_mut().poll(cx)) {
            self.pump = None;
            match result {
                Err(error @ PumpError::Client(_)) => {
                    return Poll::Ready(Some(Err(BodyError::Request(error))));
                }
                // An app need not read all that is sent to it.
                Ok(()) | Err(PumpError::App(_) | PumpError::AppStalled { .. }) => {}
            }
        }
        match self.body.poll_chunk(cx) {
            Poll::Ready(chunk) => {
                self.silence.stop();
                Poll::Ready(chunk.map(|chunk| chunk.map_err(BodyError::App)))
            }
            Poll::Pending => {
                let waited = self.timeout;
                self.silence.poll(cx, waited).map(|()| Some(Err(BodyError::Silence { waited })))
            }
        }
    }
}

impl Content {
    /// The next bytes, or, where there are `parts`, what stands in for them; of files no more than `bytes_max`.
    fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
        parts: Option<&FileParts>,
        bytes_max: usize,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Bytes(bytes) => Poll::Ready(Some(Ok(std::mem::take(bytes)))),
            Self::File(file) => match parts {
                Some(parts) => Poll::Ready(file.part(bytes_max).map(|part| Ok(parts.leave(part)))),
                None => file
                    .poll_chunk(cx, bytes_max as u64)
                    .map(|chunk| chunk.map(|chunk| chunk.map_err(BodyError::File))),
            },
            Self::Sequence(contents) => {
                while let Some(content) = contents.front_mut() {
                    match ready!(content.poll_chunk(cx, parts, bytes_max)) {
                        None => _ = contents.pop_front(),
                        chunk => return Poll::Ready(chunk),
                    }
                }
                Poll::Ready(None)
            }
            Self::App(app) => app.poll_chunk(cx),
        }
    }

    /// What comes after the body, once, after its end.
    fn take_trailers(&mut self) -> Option<HeaderMap> {
        match self {
            Self::App(app) => app.take_trailers(),
            _ => None,
        }
    }

    /// Bytes still to come, where that is known.
    pub fn remaining(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Bytes(bytes) => Some(bytes.len() as u64),
            Self::File(file) => Some(file.remaining()),
            Self::Sequence(contents) => contents.iter().map(Self::remaining).sum(),
            Self::App(app) => app.remaining,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Poll::Ready(allowed) = this.poll_allowance(cx) else {
            // It's us who the client waits for.
            if let Some(record) = &mut this.record {
                record.note_offer(false);
            }
            return Poll::Pending;
        };
        let bytes_max = allowed.and_then(|bytes| usize::try_from(bytes).ok());
        let bytes_max = bytes_max.map_or(PART_BYTES_MAX, |bytes| bytes.min(PART_BYTES_MAX));
        let parts = this.record.as_deref().and_then(RequestRecord::parts);
        let polled = this.content.poll_chunk(cx, parts, bytes_max);
        if let Some(record) = &mut this.record {
            record.note_offer(matches!(polled, Poll::Ready(Some(Ok(_)))));
        }
        polled.map(|chunk| match chunk {
            Some(Ok(bytes)) => {
                if let Some(record) = &mut this.record {
                    record.sent(bytes.len());
                }
                if let Some(allowance) = &mut this.allowance {
                    allowance.spend(bytes.len() as u64);
                }
                Some(Ok(Frame::data(bytes)))
            }
            Some(Err(error)) => {
                if let Some(record) = &this.record {
                    record.broke_off(&error);
                }
                Some(Err(error))
            }
            None => this
                .content
                .take_trailers()
                .and_then(headers::trailers)
                .map(Frame::trailers)
                .map(Ok),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.content.remaining() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.content.remaining().map(SizeHint::with_exact).unwrap_or_default()
    }
}
