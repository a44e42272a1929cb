//! How long a client may leave what is sent to it.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::body_pace::BodyPace;
use crate::client::ClientState;
use crate::stopwatch::Stopwatch;

/// Watches one connection's writes.
#[derive(Debug, Default)]
pub struct Sending {
    waiting: Stopwatch,
    /// For the client, in all.
    waited: Duration,
    taken_bytes: u64,
}

impl Sending {
    /// Passes on what a write came to, unless the client takes less than `pace` asks for, or the connection has to go.
    /// What goes through a tunnel has no pace; a client may take nothing of it for no longer.
    pub fn watch(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<usize>>,
        pace: BodyPace,
        state: &ClientState,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(taken) = &result {
            self.waited += self.waiting.lap();
            self.taken_bytes += taken.as_ref().map_or(0, |bytes| *bytes as u64);
            return result;
        }
        if state.must_go(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let limit = match state.is_http() {
            true => pace.left(self.taken_bytes, self.waited),
            false => pace.between,
        };
        ready!(self.waiting.poll(cx, limit));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::advance;

    use super::*;

    /// Whether a client that takes `bytes`, each time after `pause`, may do so `times`.
    async fn may_take(bytes: usize, pause: Duration, times: u32, state: &ClientState) -> bool {
        let second = Duration::from_secs(1);
        let pace = BodyPace { between: 60 * second, grace: 60 * second };
        let mut sending = Sending::default();
        for _ in 0..times {
            for _ in 0..2 {
                let full = poll_fn(|cx| {
                    Poll::Ready(sending.watch(cx, Poll::Pending, pace, state).is_pending())
                });
                if !full.await {
                    return false;
                }
                advance(pause / 2).await;
            }
            let taken = poll_fn(|cx| sending.watch(cx, Poll::Ready(Ok(bytes)), pace, state)).await;
            assert_eq!(taken.unwrap(), bytes);
        }
        true
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_has_its_time_and_a_tunnel_all() {
        let (state, second) = (ClientState::default(), Duration::from_secs(1));
        assert!(may_take(1000, second, 1000, &state).await);
        assert!(!may_take(100, second, 1000, &state).await);
        assert!(!may_take(1 << 30, 200 * second, 2, &state).await);
        state.leave_http();
        assert!(may_take(100, second, 1000, &state).await);
    }
}
