//! Tasks that go on when whoever started them has left, and that the engine waits for at its end.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tracing::Instrument;

/// Tasks under way.
#[derive(Debug, Default)]
pub struct Tasks {
    running: Mutex<JoinSet<()>>,
}

impl Tasks {
    /// Starts `task`.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        // What has ended is let go here, so that the set holds only what runs.
        while running.try_join_next().is_some() {}
        // What it says in the log belongs to the request that it's for.
        running.spawn(task.in_current_span())
    }

    /// Waits for all that were started before, and aborts those that run longer than `within`.
    pub async fn finish(&self, within: Duration) {
        let mut running =
            std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        let all = async { while running.join_next().await.is_some() {} };
        if timeout(within, all).await.is_err() {
            tracing::warn!(left = running.len(), "some work did not end in time and was cut short");
            running.shutdown().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_ends_in_time_ends_by_itself_and_the_rest_is_cut() {
        let tasks = Tasks::default();
        let done = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&done);
        tasks.spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            flag.store(true, Ordering::SeqCst);
        });
        let endless = tasks.spawn(std::future::pending());
        tasks.finish(Duration::from_secs(2)).await;
        assert!(done.load(Ordering::SeqCst));
        assert!(endless.is_finished());
    }
}
