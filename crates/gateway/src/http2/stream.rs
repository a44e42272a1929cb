//! A client's connection as h2 sees it while HTTP/2 is spoken: bytes with deadlines.
//!
//! As over HTTP/1, a client has so long for its first request, so long between two, and so long to
//! take what it asked for. Many answers share the connection, and each is held back by itself, so
//! the client is late when every answer under way waits for it and none has moved for that long.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::client::{ClientState, Deadlines};
use crate::http2::flood::Flood;
use crate::http2::preface::PREFACE;
use crate::sending::Sending;
use crate::stopwatch::Stopwatch;

/// A TCP connection over which a client speaks HTTP/2.
pub struct Http2Stream {
    stream: TcpStream,
    /// What was read to find that out, as far as h2 has not seen it.
    early: BytesMut,
    state: Arc<ClientState>,
    deadlines: Deadlines,
    flood: Flood,
    /// What is being waited for, and since when.
    wait: Wait,
    waiting: Stopwatch,
    sending: Sending,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    FirstRequest,
    NextRequest {
        after: u64,
    },
    /// That the client takes more than so many parts of answers.
    Answers {
        taken: u64,
    },
}

/// A client that takes back most of what it asks for, this often, wants to make work.
const WITHDRAWN_MAX: u64 = 200;

impl Http2Stream {
    /// `early`, the preface and what has come with it, has been read since the client connected, at `connected`.
    pub fn new(
        stream: TcpStream,
        state: Arc<ClientState>,
        deadlines: Deadlines,
        early: BytesMut,
        connected: Instant,
    ) -> Self {
        let mut flood = Flood::default();
        // So little is none yet; it counts towards one.
        _ = flood.receive(early.get(PREFACE.len()..).unwrap_or_default());
        Self {
            stream,
            early,
            state,
            deadlines,
            flood,
            wait: Wait::FirstRequest,
            waiting: Stopwatch::since(connected),
            sending: Sending::default(),
        }
    }

    /// Ready when the client has taken too long for what it should do now, or has to go.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.state.must_go(cx) {
            return Poll::Ready(());
        }
        let (wait, limit) = match (self.state.is_busy(), self.state.begun()) {
            (true, _) => (Wait::Answers { taken: self.state.taken() }, self.deadlines.send.between),
            (false, 0) => (Wait::FirstRequest, self.deadlines.head),
            (false, after) => (Wait::NextRequest { after }, self.deadlines.idle),
        };
        if wait != self.wait {
            self.wait = wait;
            self.waiting.stop();
        }
        loop {
            ready!(self.waiting.poll(cx, limit));
            if !self.state.is_busy() || self.state.is_client_late() {
                return Poll::Ready(());
            }
            // It's an app that is waited for, which has a deadline of its own.
            self.waiting.stop();
        }
    }

    fn is_wasteful(&self) -> bool {
        let withdrawn = self.state.withdrawn();
        withdrawn > WITHDRAWN_MAX && withdrawn * 2 > self.state.begun()
    }

    fn after_write(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = &result {
            self.flood.sent(*count);
        }
        self.sending.watch(cx, result, self.deadlines.send, &self.state)
    }
}

impl AsyncRead for Http2Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.early.is_empty() {
            let count = this.early.len().min(buffer.remaining());
            buffer.put_slice(&this.early[..count]);
            this.early.advance(count);
            return Poll::Ready(Ok(()));
        }
        if this.is_wasteful() {
            return Poll::Ready(Err(io::Error::other("the client takes back what it asks for")));
        }
        let before = buffer.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) if this.flood.receive(&buffer.filled()[before..]) => {
                this.state.hear();
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(())) => {
                Poll::Ready(Err(io::Error::other("the client sends frames that ask for nothing")))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // To h2, who is late has left.
            Poll::Pending => this.poll_late(cx).map(Ok),
        }
    }
}

impl AsyncWrite for Http2Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.after_write(cx, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.after_write(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
