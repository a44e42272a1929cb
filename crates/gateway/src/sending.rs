//! How long a client may leave what is sent to it.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::client::ClientState;
use crate::stopwatch::Stopwatch;

/// Watches one connection's writes.
#[derive(Debug, Default)]
pub struct Sending {
    waiting: Stopwatch,
}

impl Sending {
    /// Passes on what a write came to, unless nothing has been taken for `limit`, or the connection has
    /// to go.
    pub fn watch(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<usize>>,
        limit: Duration,
        state: &ClientState,
    ) -> Poll<io::Result<usize>> {
        if result.is_ready() {
            self.waiting.stop();
            return result;
        }
        if state.must_go(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        ready!(self.waiting.poll(cx, limit));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}
