//! A client's connection as hyper sees it: bytes with deadlines, and no ambiguous request.
//!
//! Here rather than by hyper's timer, because hyper has one for the time between requests and the
//! time of a head together, and none for a client that doesn't read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::framing::Framing;
use crate::stopwatch::Stopwatch;

/// A TCP connection that a client opened.
pub struct ClientStream {
    stream: TcpStream,
    framing: Framing,
    busy: Arc<Busy>,
    deadlines: Deadlines,
    /// What is being waited for, and since when.
    reading: Option<Wait>,
    read_watch: Stopwatch,
    write_watch: Stopwatch,
    linger_watch: Stopwatch,
    lingered_bytes: usize,
}

/// Whether a request of the connection is being answered. Its time is bounded by who answers.
#[derive(Debug, Default)]
pub struct Busy(AtomicBool);

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// From the first byte of a head to its last; and from connecting to the first head's end.
    pub head: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// Without taking a byte of what is sent to it.
    pub send: Duration,
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

impl Busy {
    pub fn set(&self, busy: bool) {
        self.0.store(busy, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl ClientStream {
    pub fn new(stream: TcpStream, busy: Arc<Busy>, deadlines: Deadlines) -> Self {
        Self {
            stream,
            framing: Framing::new(),
            busy,
            deadlines,
            reading: None,
            read_watch: Stopwatch::default(),
            write_watch: Stopwatch::default(),
            linger_watch: Stopwatch::default(),
            lingered_bytes: 0,
        }
    }

    /// Ready when the client has taken too long for what it should send now.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let heads = self.framing.heads();
        let wait = match self.busy.get() {
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

    /// Passes on what a write came to, unless nothing has been taken for too long.
    fn watch_write(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if result.is_ready() {
            self.write_watch.stop();
            return result;
        }
        ready!(self.write_watch.poll(cx, self.deadlines.send));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }

    /// Reads and drops the rest of a request, within bounds.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; 4096];
        while self.framing.is_in_request() && self.lingered_bytes < LINGER_BYTES {
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
        let before = buffer.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) => {
                let received = &mut buffer.filled_mut()[before..];
                if let Err(ambiguous) = this.framing.feed(received) {
                    // A byte that no such line may hold: hyper refuses the request and closes.
                    received[ambiguous.line_at] = 0;
                }
                Poll::Ready(Ok(()))
            }
            // To hyper, who is late has left.
            Poll::Pending => this.poll_late(cx).map(Ok),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
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
        let result = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.watch_write(cx, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.watch_write(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        this.poll_linger(cx).map(Ok)
    }
}
