//! One exchange with an app server over its Unix socket.
//!
//! uwsgi's protocol has one exchange a connection; over HTTP a [`Pool`] keeps what can have another.
//! Both directions can be used at once, since an
//! app may answer before it has read the whole request: [`Connection::sender`] gives the other half.
//! No deadlines here: callers know how long they will wait, and for what.

use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ace_types::Protocol;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use tokio::net::UnixStream;

use crate::chunked::{ChunkDecoder, ChunkError, Decoded};
use crate::pool::Pool;
use crate::response::{BodyLength, HeadError, ResponseHead, head_end, parse_head};
use crate::spare;
use crate::stream::AppStream;

/// A connection on which no response has been received yet.
pub struct Connection {
    stream: Arc<AppStream>,
    /// What has been received and not been taken.
    buffer: BytesMut,
    /// Where it's received; empty until then.
    room: BytesMut,
    /// Interim heads so far.
    interim: usize,
    /// Whether anything has been received.
    heard: bool,
    protocol: Protocol,
    /// An earlier exchange has been on it.
    reused: bool,
    /// Whether a switch of protocols has been asked for.
    may_upgrade: bool,
    /// Where it goes when the exchange is complete.
    pool: Option<Arc<Pool>>,
}

/// The way to the app. The connection stays open as long as either half of it lives.
#[derive(Clone)]
pub struct Sender {
    stream: Arc<AppStream>,
}

/// A response's body, after its head.
pub struct ResponseBody {
    /// `None` once all of the body has come.
    stream: Option<Arc<AppStream>>,
    buffer: BytesMut,
    room: BytesMut,
    length: BodyLength,
    chunks: ChunkDecoder,
    trailers: Option<Box<HeaderMap>>,
    pool: Option<Arc<Pool>>,
}

/// A connection that has left HTTP behind.
pub struct Tunnel {
    pub stream: UnixStream,
    /// What the app has sent since.
    pub early: Bytes,
}

/// Why no response, or not all of one, could be received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// Not a byte of a response came, and everything that was sent had been read: the app has seen
    /// the request.
    #[error("the app closed the connection without an answer")]
    NoAnswer,
    /// Not a byte of a response came, and not everything that was sent had been read. The app has
    /// not seen the request's head unless bytes of a body followed it: they may be what was unread.
    #[error("the connection was closed before the app had read the request")]
    Reset,
    /// Not a byte of a response came on a connection that an earlier exchange had been on. The app may
    /// have closed it before there was a request.
    #[error("the app closed the connection between two requests")]
    Stale,
    #[error("the app closed the connection in the middle of its answer")]
    Truncated,
    #[error("the app's answer can't be passed on")]
    Head(#[from] HeadError),
    #[error("the app's answer can't be passed on")]
    Chunks(#[from] ChunkError),
    #[error("could not read the app's answer")]
    Io(#[source] io::Error),
}

/// The most interim (1xx) heads before the response's own.
const INTERIM_MAX: usize = 8;

impl Connection {
    /// Connects to `socket` for one exchange over `protocol`. Never waits: a full backlog is
    /// [`io::ErrorKind::WouldBlock`]. Call within a runtime.
    pub fn connect(socket: &Path, protocol: Protocol) -> io::Result<Self> {
        Self::connect_and_send(socket, protocol, b"").map(|(connection, _)| connection)
    }

    /// As [`Self::connect`], and sends `bytes`, or as many of them as go out without waiting. Returns how many.
    ///
    /// To have them on their way before the runtime knows the connection saves a round through its
    /// event loop. A connection that breaks meanwhile tells so when the rest is sent.
    pub fn connect_and_send(
        socket: &Path,
        protocol: Protocol,
        bytes: &[u8],
    ) -> io::Result<(Self, usize)> {
        let (stream, sent) = AppStream::connect_and_send(socket, bytes)?;
        Ok((Self::new(stream, protocol), sent))
    }

    /// As [`Self::connect_and_send`], for one exchange and then others, over HTTP. `pool` has the connection
    /// in between. Send only requests without a body on it.
    pub fn connect_for(pool: &Arc<Pool>, socket: &Path, bytes: &[u8]) -> io::Result<(Self, usize)> {
        let (connection, sent) = Self::connect_and_send(socket, Protocol::Http, bytes)?;
        Ok((Self { pool: Some(Arc::clone(pool)), ..connection }, sent))
    }

    /// The next exchange on a connection that `pool` had.
    pub(crate) fn again(stream: AppStream, pool: &Arc<Pool>) -> Self {
        let connection = Self::new(stream, Protocol::Http);
        Self { reused: true, pool: Some(Arc::clone(pool)), ..connection }
    }

    fn new(stream: AppStream, protocol: Protocol) -> Self {
        Self {
            stream: Arc::new(stream),
            buffer: BytesMut::new(),
            room: BytesMut::new(),
            interim: 0,
            heard: false,
            protocol,
            reused: false,
            may_upgrade: false,
            pool: None,
        }
    }

    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// From here on, a head with status 101 is received like any other.
    pub fn allow_upgrade(&mut self) {
        self.may_upgrade = true;
    }

    pub fn sender(&self) -> Sender {
        Sender { stream: Arc::clone(&self.stream) }
    }

    /// Receives the response's head; interim ones (1xx) are skipped.
    ///
    /// May be dropped and called again: what has come is kept.
    pub async fn receive_head(&mut self) -> Result<ResponseHead, ReceiveError> {
        loop {
            let head = self.receive_next_head().await?;
            if !head.is_interim() {
                return Ok(head);
            }
        }
    }

    /// Receives the next head: an interim one (1xx), of which there may be a few, or the response's.
    ///
    /// May be dropped and called again: what has come is kept.
    pub async fn receive_next_head(&mut self) -> Result<ResponseHead, ReceiveError> {
        let head = self.receive_any_head().await?;
        if head.status == http::StatusCode::SWITCHING_PROTOCOLS && !self.may_upgrade {
            return Err(HeadError::Upgrade.into());
        }
        self.interim += usize::from(head.is_interim());
        match self.interim <= INTERIM_MAX {
            true => Ok(head),
            false => Err(HeadError::TooLarge.into()),
        }
    }

    /// The body that follows `head`, the response to `method`.
    pub fn into_body(self, head: &ResponseHead, method: &http::Method) -> ResponseBody {
        let mut body = ResponseBody {
            stream: Some(self.stream),
            buffer: self.buffer,
            room: self.room,
            length: head.body_length(method),
            chunks: ChunkDecoder::default(),
            trailers: None,
            // There are servers that send a body after all, which would be taken for the next answer.
            pool: self.pool.filter(|_| head.persistent && !head.is_bodiless(method)),
        };
        if body.length == BodyLength::Known(0) {
            body.complete();
        }
        body
    }

    /// The connection after a head with status 101; `None` while a [`Sender`] of it lives.
    pub fn into_tunnel(self) -> Option<Tunnel> {
        let stream = Arc::into_inner(self.stream)?.into_tokio().ok()?;
        Some(Tunnel { stream, early: self.buffer.freeze() })
    }

    async fn receive_any_head(&mut self) -> Result<ResponseHead, ReceiveError> {
        let mut scanned = 0;
        loop {
            if let Some(end) = head_end(&self.buffer, scanned)? {
                return Ok(parse_head(&self.buffer.split_to(end), self.protocol)?);
            }
            scanned = self.buffer.len();
            let Self { stream, buffer, room, .. } = self;
            match poll_fn(|cx| poll_fill(stream, buffer, room, cx)).await {
                Ok(Filled::Some) => self.heard = true,
                Ok(Filled::End | Filled::Reset) if self.heard => {
                    return Err(ReceiveError::Truncated);
                }
                Ok(Filled::End | Filled::Reset) if self.reused => return Err(ReceiveError::Stale),
                Ok(Filled::End) => return Err(ReceiveError::NoAnswer),
                Ok(Filled::Reset) => return Err(ReceiveError::Reset),
                Err(error) => return Err(ReceiveError::Io(error)),
            }
        }
    }
}

impl Sender {
    /// Sends all of `bytes`, waiting while the app doesn't read.
    pub async fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = poll_fn(|cx| self.stream.poll_write(cx, bytes)).await?;
            bytes = &bytes[count..];
        }
        Ok(())
    }
}

impl ResponseBody {
    /// The next bytes of the body; `None` at its end.
    ///
    /// Errors: [`ReceiveError::Truncated`] where less came than was announced;
    /// [`ReceiveError::Io`].
    pub fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, ReceiveError>>> {
        loop {
            match self.take() {
                Ok(Some(bytes)) => return Poll::Ready(Some(Ok(bytes))),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
            let Some(stream) = &self.stream else { return Poll::Ready(None) };
            match ready!(poll_fill(stream, &mut self.buffer, &mut self.room, cx)) {
                // Also an app that answers before it has read the whole request resets.
                Ok(Filled::End | Filled::Reset) => {
                    return Poll::Ready(self.closed().err().map(Err));
                }
                Ok(Filled::Some) => {}
                Err(error) => return Poll::Ready(Some(Err(ReceiveError::Io(error)))),
            }
        }
    }

    /// As [`Self::poll_chunk`].
    pub async fn chunk(&mut self) -> Option<Result<Bytes, ReceiveError>> {
        poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// What came after the body, once, when all of that has come; `None` where that is nothing.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take().map(|trailers| *trailers).filter(|trailers| !trailers.is_empty())
    }

    /// What is still to come.
    pub fn length(&self) -> BodyLength {
        self.length
    }

    /// What has been received, as far as it belongs to the body; `None` where more has to come, or
    /// the body is complete.
    fn take(&mut self) -> Result<Option<Bytes>, ChunkError> {
        if self.stream.is_none() || self.buffer.is_empty() {
            return Ok(None);
        }
        match &mut self.length {
            BodyLength::UntilClose => {}
            BodyLength::Known(remaining) => {
                let wanted = usize::try_from(*remaining).unwrap_or(usize::MAX);
                let bytes = self.buffer.split_to(wanted.min(self.buffer.len())).freeze();
                *remaining -= bytes.len() as u64;
                if *remaining == 0 {
                    self.complete();
                }
                return Ok(Some(bytes));
            }
            BodyLength::Chunked => {
                return Ok(match self.chunks.decode(&mut self.buffer)? {
                    Decoded::Data(bytes) => Some(bytes),
                    Decoded::NeedsMore => None,
                    Decoded::End => {
                        self.trailers = Some(Box::new(self.chunks.take_trailers()?));
                        self.complete();
                        None
                    }
                });
            }
        }
        Ok(Some(self.buffer.split().freeze()))
    }

    /// All of the body has come. What comes after it on the same connection is nobody's, so a
    /// connection with more on it is not used again.
    fn complete(&mut self) {
        let stream = self.stream.take().and_then(Arc::into_inner);
        if let (Some(stream), Some(pool)) = (stream, self.pool.take())
            && self.buffer.is_empty()
        {
            pool.put(stream);
        }
        spare::keep(std::mem::take(&mut self.room));
    }

    /// Whether the body may end here.
    fn closed(&self) -> Result<(), ReceiveError> {
        match self.length {
            BodyLength::Known(_) | BodyLength::Chunked => Err(ReceiveError::Truncated),
            BodyLength::UntilClose => Ok(()),
        }
    }
}

/// What a read came to.
enum Filled {
    Some,
    /// The app has closed, after having read all that was sent.
    End,
    /// The app has closed, or nobody has accepted the connection and nobody will.
    ///
    /// That is how a Unix socket says that a part of what was sent was never read. What its peer
    /// had sent comes before.
    Reset,
}

/// Reads what there is into `room`, and moves that on to `buffer`.
fn poll_fill(
    stream: &AppStream,
    buffer: &mut BytesMut,
    room: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Filled>> {
    ready!(stream.poll_readable(cx)); // Most wait here, and room would be idle with them.
    spare::renew(room);
    Poll::Ready(match ready!(stream.poll_read(cx, room)) {
        Ok(0) => Ok(Filled::End),
        Ok(count) => {
            buffer.unsplit(room.split_to(count));
            Ok(Filled::Some)
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Filled::Reset),
        Err(error) => Err(error),
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    /// What a client of a server that says `answer` and closes gets: status and body.
    async fn exchange(answer: &'static [u8]) -> Result<(u16, Vec<u8>), ReceiveError> {
        exchange_over(Protocol::Uwsgi, answer).await
    }

    async fn exchange_over(
        protocol: Protocol,
        answer: &[u8],
    ) -> Result<(u16, Vec<u8>), ReceiveError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let answer = answer.to_vec();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for half in answer.chunks(answer.len().div_ceil(2).max(1)) {
                stream.write_all(half).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let mut connection = Connection::connect(&path, protocol).map_err(ReceiveError::Io)?;
        let head = connection.receive_head().await?;
        let mut body = connection.into_body(&head, &http::Method::GET);
        let mut received = Vec::new();
        while let Some(chunk) = body.chunk().await {
            received.extend_from_slice(&chunk?);
        }
        Ok((head.status.as_u16(), received))
    }

    #[tokio::test]
    async fn a_body_without_length_goes_to_the_end() {
        let (status, body) = exchange(b"HTTP/1.1 200 OK\r\n\r\nhello").await.unwrap();
        assert_eq!((status, body.as_slice()), (200, &b"hello"[..]));
    }

    #[tokio::test]
    async fn what_exceeds_the_announced_length_is_cut() {
        let (_, body) =
            exchange(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhello").await.unwrap();
        assert_eq!(body, b"he");
    }

    #[tokio::test]
    async fn less_than_the_announced_length_is_an_error() {
        let error = exchange(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello").await;
        assert!(matches!(error, Err(ReceiveError::Truncated)), "{error:?}");
    }

    #[tokio::test]
    async fn chunks_are_joined_and_must_end() {
        let over_http = async |chunks: &str| {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            exchange_over(Protocol::Http, format!("{head}{chunks}").as_bytes()).await
        };
        let whole = over_http("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").await.unwrap();
        assert_eq!(whole.1, b"abcde");
        let cut = over_http("3\r\nabc\r\n").await;
        assert!(matches!(cut, Err(ReceiveError::Truncated)), "{cut:?}");
        let bad = over_http("x\r\nabc\r\n").await;
        assert!(matches!(bad, Err(ReceiveError::Chunks(_))), "{bad:?}");
    }

    #[tokio::test]
    async fn interim_heads_are_skipped() {
        let (status, body) =
            exchange(b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 201 Made\r\n\r\n")
                .await
                .unwrap();
        assert_eq!((status, body.len()), (201, 0));
    }

    #[tokio::test]
    async fn silence_and_half_a_head_are_told_apart() {
        assert!(matches!(exchange(b"").await, Err(ReceiveError::NoAnswer)));
        assert!(matches!(exchange(b"HTTP/1.1 2").await, Err(ReceiveError::Truncated)));
    }

    /// What a client hears that has sent a request of ten bytes to a server that does `serve`.
    async fn hear(serve: impl AsyncFnOnce(UnixListener)) -> ReceiveError {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let mut connection = Connection::connect(&path, Protocol::Uwsgi).unwrap();
        connection.sender().send(&[b'a'; 10]).await.unwrap();
        serve(listener).await;
        connection.receive_head().await.unwrap_err()
    }

    #[tokio::test]
    async fn a_request_that_was_read_and_one_that_was_not_are_told_apart() {
        let never_accepted = hear(async |listener| drop(listener)).await;
        assert!(matches!(never_accepted, ReceiveError::Reset), "{never_accepted:?}");
        for read in [0, 9, 10] {
            let heard = hear(async |listener| {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.read_exact(&mut [0; 10][..read]).await.unwrap();
            })
            .await;
            let expected = if read == 10 { ReceiveError::NoAnswer } else { ReceiveError::Reset };
            assert_eq!(heard.to_string(), expected.to_string(), "{read} bytes were read");
        }
    }

    #[tokio::test]
    async fn who_has_said_anything_has_seen_the_request() {
        let heard = hear(async |listener| {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 103 Early\r\n\r\n").await.unwrap();
        })
        .await;
        assert!(matches!(heard, ReceiveError::Truncated), "{heard:?}");
    }

    #[tokio::test]
    async fn a_switch_of_protocols_is_refused() {
        let error = exchange(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").await;
        assert!(matches!(error, Err(ReceiveError::Head(HeadError::Upgrade))), "{error:?}");
    }
}
