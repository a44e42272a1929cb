//! How long something has been waited for, inside a poll function.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Runs from its first [`Stopwatch::poll`] until [`Stopwatch::stop`] or [`Stopwatch::lap`].
///
/// Stopping leaves the timer armed, since most waits are short and start again: a timer that fires
/// early is set to the rest. So a wait costs no change in the runtime's timers.
#[derive(Debug, Default)]
pub struct Stopwatch {
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Stopwatch {
    /// One that has been running since `instant`.
    pub fn since(instant: Instant) -> Self {
        Self { since: Some(instant), timer: None }
    }

    /// The wait is over.
    pub fn stop(&mut self) {
        self.since = None;
    }

    /// The wait is over; returns how long it was.
    pub fn lap(&mut self) -> Duration {
        self.since.take().map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Ready once the wait has lasted `limit`.
    pub fn poll(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
        let now = Instant::now();
        let deadline = *self.since.get_or_insert(now) + limit;
        if now >= deadline {
            return Poll::Ready(());
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() > deadline || timer.deadline() <= now {
            timer.as_mut().reset(deadline);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_measured_from_its_own_start() {
        let mut stopwatch = Stopwatch::default();
        let limit = Duration::from_secs(10);
        let begin = Instant::now();
        let pending = poll_fn(|cx| Poll::Ready(stopwatch.poll(cx, limit).is_pending())).await;
        assert!(pending);
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(stopwatch.lap().as_secs(), 6);
        assert_eq!(stopwatch.lap(), Duration::ZERO);
        poll_fn(|cx| stopwatch.poll(cx, limit)).await;
        assert_eq!(begin.elapsed().as_secs(), 16);
    }
}
