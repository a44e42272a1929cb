//! A client's connection as hyper sees it: bytes with deadlines, and only heads that are whole and
//! that hyper will take.
//!
//! A head that [`Framing`] refuses never reaches hyper. In its place comes [`STAND_IN`], which no
//! client can send, and which makes our service answer with the reason: after the answers to earlier
//! requests, and with a page, an id and a line of the log like any other failure.
//!
//! Here rather than by hyper's timer, because hyper has one for the time between requests and the
//! time of a head together, and none for a client that doesn't read.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use http::Method;
use http::request::Parts;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::body_pace::BodyPace;
use crate::failure::Failure;
use crate::file_parts::{FileParts, stands_in};
use crate::framing::{Framing, Refused};
use crate::interim::Interim;
use crate::sending::Sending;
use crate::stopwatch::Stopwatch;

/// A TCP connection that a client opened.
pub struct ClientStream {
    stream: TcpStream,
    framing: Framing,
    shared: Arc<ClientState>,
    /// What has been received and not been passed on.
    held: BytesMut,
    /// How much of it may be passed on.
    checked: usize,
    /// [`Self::framing`] has not seen yet what is held.
    unseen: bool,
    /// A body was refused in its middle, or what came is no HTTP: nothing after that place is passed on.
    cut: bool,
    deadlines: Deadlines,
    /// What is still to be sent of an interim answer.
    interim: Bytes,
    /// What is being waited for, and since when.
    reading: Option<Wait>,
    read_watch: Stopwatch,
    sending: Sending,
    linger_watch: Stopwatch,
    lingered_bytes: usize,
}

/// What a connection's stream and those who answer its requests tell each other.
#[derive(Debug, Default)]
pub struct ClientState {
    /// Requests that are being answered. Their time is bounded by who answers.
    busy: AtomicU32,
    /// Requests so far.
    begun: AtomicU64,
    /// Requests that the client took back before there was an answer.
    withdrawn: AtomicU64,
    /// Answers of which the next part is ready and the client does not take it.
    untaken: AtomicU32,
    /// Parts of answers that have been taken so far.
    taken: AtomicU64,
    /// How often something has come from the client, over HTTP/2.
    heard: AtomicU64,
    /// What the client sends is no HTTP any more.
    tunnel: AtomicBool,
    /// Parts of files for the kernel to send, where the stream has it do so.
    parts: OnceLock<FileParts>,
    /// What an app says before its answer.
    interim: Interim<Bytes>,
    /// The connection ends with the present answer, and the client does not know yet.
    cut_short: AtomicBool,
    /// Why the connection's last head was refused.
    refusal: Mutex<Option<Failure>>,
    /// The client sends nothing any more.
    left: AtomicBool,
    /// Another client needs the place.
    dismissed: AtomicBool,
    /// Wakes the stream where it waits for a request.
    waiting: AtomicWaker,
}

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// From the first byte of a head to its last; and from connecting to the first head's end.
    pub head: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// With taking what is sent to it.
    pub send: BodyPace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Head { number: u64 },
    NextRequest { after: u64 },
}

/// After an answer that came before the whole request: how much more of it is read and dropped,
/// so that the client sees the answer before a reset.
const LINGER_BYTES: usize = 1 << 20;
const LINGER_TIME: Duration = Duration::from_secs(2);

/// What hyper reads in place of a head that was refused. [`Framing`] refuses a target like this, so
/// it comes from nowhere else.
const STAND_IN: &[u8] = b"REFUSED * HTTP/1.1\r\nconnection: close\r\n\r\n";

/// Whether `request` is [`STAND_IN`], and so nothing that a client has asked for.
pub fn is_stand_in(request: &Parts) -> bool {
    request.method.as_str() == "REFUSED" && request.uri.path() == "*"
}

/// How much is read at once while a head is incomplete.
const HEAD_PART_BYTES: usize = 4096;

impl ClientState {
    /// Counts a request in.
    pub fn begin(&self) {
        self.busy.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request out, which was answered or not.
    pub fn end(&self, answered: bool) {
        self.busy.fetch_sub(1, Ordering::Relaxed);
        self.withdrawn.fetch_add(u64::from(!answered), Ordering::Relaxed);
    }

    /// A part of an answer waits for the client.
    pub fn offer(&self) {
        self.untaken.fetch_add(1, Ordering::Relaxed);
    }

    /// The client has taken it, or never will.
    pub fn take(&self) {
        self.untaken.fetch_sub(1, Ordering::Relaxed);
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests so far.
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Requests that ended before they were answered.
    pub fn withdrawn(&self) -> u64 {
        self.withdrawn.load(Ordering::Relaxed)
    }

    /// Parts of answers taken so far.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Something has come from the client.
    pub fn hear(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    /// How often something has come.
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Whether every request that is being answered waits for the client.
    pub fn is_client_late(&self) -> bool {
        self.untaken.load(Ordering::Relaxed) >= self.busy.load(Ordering::Relaxed)
    }

    /// Where to leave parts of files; `None` where their bytes are to be written.
    pub fn parts(&self) -> Option<&FileParts> {
        self.parts.get()
    }

    /// Where to leave what an app says before its answer.
    pub fn interim(&self) -> &Interim<Bytes> {
        &self.interim
    }

    /// Why `request`, of this connection, must be refused, if it stands for one that was.
    pub fn refusal(&self, request: &Parts) -> Option<Failure> {
        if request.uri.path() != "*" || request.method == Method::OPTIONS {
            return None;
        }
        let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner).take();
        Some(refusal.unwrap_or(Failure::BadRequest("its target is not one")))
    }

    /// The connection ends with the present answer, though the client may go on sending.
    pub fn cut_short(&self) {
        self.cut_short.store(true, Ordering::Relaxed);
    }

    /// Whether the client has closed its side of the connection.
    pub fn has_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// From here on, what the client sends is passed on unseen. Call before the client is told.
    pub fn leave_http(&self) {
        self.tunnel.store(true, Ordering::Relaxed);
    }

    /// Has the connection end, unless a request is being answered. Returns whether that is news.
    pub fn dismiss(&self) -> bool {
        if self.is_busy() || self.dismissed.swap(true, Ordering::AcqRel) {
            return false;
        }
        self.waiting.wake();
        true
    }

    pub fn is_dismissed(&self) -> bool {
        self.dismissed.load(Ordering::Acquire)
    }

    /// Whether another client needs the place and nothing is being answered here. Wakes when that
    /// changes.
    pub fn must_go(&self, cx: &Context<'_>) -> bool {
        self.waiting.register(cx.waker());
        self.is_dismissed() && !self.is_busy()
    }

    /// Returns when the connection [must go](Self::must_go).
    pub async fn dismissed(&self) {
        poll_fn(|cx| if self.must_go(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// Whether the connection is no tunnel.
    pub fn is_http(&self) -> bool {
        !self.tunnel.load(Ordering::Relaxed)
    }

    /// Whether a request is being answered.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }

    fn refuse(&self, failure: Failure) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    }
}

impl ClientStream {
    /// `early` is what has been read since the client connected, at `connected`.
    pub fn new(
        stream: TcpStream,
        shared: Arc<ClientState>,
        deadlines: Deadlines,
        early: BytesMut,
        connected: Instant,
    ) -> Self {
        shared.parts.get_or_init(FileParts::default);
        Self {
            stream,
            framing: Framing::new(),
            shared,
            unseen: !early.is_empty(),
            held: early,
            checked: 0,
            cut: false,
            deadlines,
            interim: Bytes::new(),
            reading: Some(Wait::Head { number: 0 }),
            read_watch: Stopwatch::since(connected),
            sending: Sending::default(),
            linger_watch: Stopwatch::default(),
            lingered_bytes: 0,
        }
    }

    /// Ready when the client has taken too long for what it should send now, or has to go.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.shared.must_go(cx) {
            return Poll::Ready(());
        }
        let heads = self.framing.heads();
        let wait = match self.shared.is_busy() {
            true => None,
            false if heads == 0 || self.framing.is_in_head() => Some(Wait::Head { number: heads }),
            false => Some(Wait::NextRequest { after: heads }),
        };
        if wait != self.reading {
            self.reading = wait;
            self.read_watch.stop();
        }
        match wait {
            None => Poll::Pending,
            Some(Wait::Head { .. }) => self.read_watch.poll(cx, self.deadlines.head),
            Some(Wait::NextRequest { .. }) => self.read_watch.poll(cx, self.deadlines.idle),
        }
    }

    /// Reads what may be passed on right away onto `buffer`, and holds an incomplete head.
    fn poll_read_through(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Received>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let received = &mut buffer.filled_mut()[before..];
        if received.is_empty() {
            return Poll::Ready(Ok(Received::End));
        }
        let passed = match self.framing.feed(received) {
            Ok(passed) => {
                self.held.extend_from_slice(&received[passed..]);
                passed
            }
            Err(Refused::Head { at, failure }) => {
                self.shared.refuse(failure);
                self.held.extend_from_slice(STAND_IN);
                self.checked = STAND_IN.len();
                at
            }
            Err(Refused::Chunk { at } | Refused::Stranger { at }) => {
                self.cut = true;
                at
            }
        };
        buffer.set_filled(before + passed);
        Poll::Ready(Ok(if passed > 0 { Received::Passed } else { Received::Held }))
    }

    /// Reads on where a head is incomplete, and checks it anew.
    fn poll_read_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Received>> {
        if !std::mem::take(&mut self.unseen) {
            let mut scratch = [0; HEAD_PART_BYTES];
            let mut part = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
            if part.filled().is_empty() {
                return Poll::Ready(Ok(Received::End));
            }
            self.held.extend_from_slice(part.filled());
        }
        self.check_held();
        Poll::Ready(Ok(Received::Held))
    }

    /// Finds how much of what is held may be passed on.
    fn check_held(&mut self) {
        self.checked = match self.framing.feed(&mut self.held) {
            Ok(passed) => passed,
            Err(Refused::Head { at, failure }) => {
                self.shared.refuse(failure);
                self.held.truncate(at);
                self.held.extend_from_slice(STAND_IN);
                self.held.len()
            }
            Err(Refused::Chunk { at } | Refused::Stranger { at }) => {
                self.cut = true;
                self.held.truncate(at);
                at
            }
        };
    }

    /// Reads what is no HTTP, beginning with what has been held.
    fn poll_read_tunnel(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.checked = self.held.len();
        match self.pass_on(buffer) {
            true => Poll::Ready(Ok(())),
            false => Pin::new(&mut self.stream).poll_read(cx, buffer),
        }
    }

    /// Passes on what has been held and may pass. Returns whether that was anything.
    fn pass_on(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let count = self.checked.min(buffer.remaining());
        buffer.put_slice(&self.held[..count]);
        self.held.advance(count);
        self.checked -= count;
        count > 0
    }

    /// Makes way for an answer's bytes: an interim answer that has not begun comes too late, and one that has
    /// is sent first.
    fn poll_answering(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.interim.take();
        self.poll_interim(cx)
    }

    /// Sends what is left of an interim answer.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.interim.is_empty() {
            let result = Pin::new(&mut self.stream).poll_write(cx, &self.interim);
            let count = ready!(self.sending.watch(cx, result, self.deadlines.send, &self.shared))?;
            self.interim.advance(count);
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the client may be sending while the connection ends. What it has sent and nobody has read makes
    /// of the end a reset, which can cost it the answer.
    fn has_more_to_come(&self) -> bool {
        let has_asked_again = self.framing.heads() > self.shared.begun();
        let is_cut_short = self.shared.cut_short.load(Ordering::Relaxed);
        self.framing.is_after_head() || has_asked_again || is_cut_short
    }

    /// Reads and drops what the client still sends, within bounds.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; 4096];
        while self.lingered_bytes < LINGER_BYTES {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => return self.linger_watch.poll(cx, LINGER_TIME),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => return Poll::Ready(()),
                Poll::Ready(Ok(())) => self.lingered_bytes += buffer.filled().len(),
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.shared.is_http() {
            return this.poll_read_tunnel(cx, buffer);
        }
        loop {
            if this.pass_on(buffer) {
                return Poll::Ready(Ok(()));
            }
            if this.cut {
                return Poll::Ready(Ok(())); // The end: hyper reports a body that breaks off.
            }
            if this.framing.is_refused() {
                // Whoever answers the stand-in closes the connection.
                return Poll::Pending;
            }
            let received = match this.held.is_empty() {
                true => this.poll_read_through(cx, buffer),
                false => this.poll_read_held(cx),
            };
            match received {
                Poll::Ready(Ok(Received::Held)) => {}
                Poll::Ready(Ok(Received::Passed)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(Received::End)) => {
                    this.shared.left.store(true, Ordering::Relaxed);
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(error)) => {
                    this.shared.left.store(true, Ordering::Relaxed);
                    return Poll::Ready(Err(error));
                }
                // To hyper, who is late has left.
                Poll::Pending => return this.poll_late(cx).map(Ok),
            }
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_answering(cx))?;
        let result = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.sending.watch(cx, result, this.deadlines.send, &this.shared)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_answering(cx))?;
        let result = match this.shared.parts() {
            Some(parts) if slices.iter().any(|slice| stands_in(slice)) => {
                parts.poll_write(cx, &this.stream, slices)
            }
            _ => Pin::new(&mut this.stream).poll_write_vectored(cx, slices),
        };
        this.sending.watch(cx, result, this.deadlines.send, &this.shared)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // hyper has nothing left to write.
        if this.interim.is_empty()
            && let Some(interim) = this.shared.interim.take()
        {
            this.interim = interim;
        }
        ready!(this.poll_interim(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.shared.is_http() && !this.has_more_to_come() {
            // The connection is closed right after this, and nothing is left to be read: one call does for both.
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        match this.shared.is_http() {
            true => this.poll_linger(cx).map(Ok),
            false => Poll::Ready(Ok(())),
        }
    }
}

/// What came of reading from a client.
enum Received {
    Passed,
    /// Something that is held.
    Held,
    /// Nothing, and nothing more will come.
    End,
}
