//! A thread that owns one database connection and does one job after the other.

use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::BackendError;

/// Jobs that may wait.
const QUEUE: usize = 256;
/// How long a job may wait for room in the queue. Once there, it's done without a time limit.
const ROOM_WITHIN: Duration = Duration::from_secs(10);

/// Something for the thread to do.
pub type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// The thread's near end. The thread ends, and closes its connection, when this is dropped.
#[derive(Debug)]
pub struct Worker {
    queue: mpsc::Sender<Job>,
}

impl Worker {
    /// Starts a thread named `name` that owns `connection`.
    pub fn start(name: &str, mut connection: Connection) -> std::io::Result<Self> {
        let (queue, mut jobs) = mpsc::channel::<Job>(QUEUE);
        let run = move || {
            while let Some(job) = jobs.blocking_recv() {
                job(&mut connection);
            }
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Self { queue })
    }

    /// Has the thread do `work` some time, from a thread that may wait.
    pub fn defer(&self) -> impl Fn(Job) + Send + 'static {
        let queue = self.queue.clone();
        move |job| {
            // A store that is closed needs no more of it.
            let _ = queue.blocking_send(job);
        }
    }

    /// Has the thread do `work`, and returns what came of it.
    ///
    /// Dropping the future after the job is in the queue does not undo the job.
    /// Errors: [`BackendError::Busy`], and then it was not done; [`BackendError::Stopped`].
    pub async fn call<T, F>(&self, work: F) -> Result<T, BackendError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> T + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // Whoever asked may have left; the work counts all the same.
            let _ = answer.send(work(connection));
        });
        match self.queue.send_timeout(job, ROOM_WITHIN).await {
            Ok(()) => answered.await.map_err(|_| BackendError::Stopped),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(BackendError::Busy),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(BackendError::Stopped),
        }
    }
}
