//! Takes an app's answer off its hands as fast as it comes, for a client that reads slowly.
//!
//! An app server's threads are few. A task reads the answer into memory, then into the spool, and
//! waits only when there is no room in either. What has come goes out in its order at once.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::bandwidth::Allowance;
use crate::body::{AppSource, BodyError};
use crate::spool::{AppSpool, Room};

/// An answer that is received without waiting for who reads it.
pub struct AnswerBuffer {
    shared: Arc<Shared>,
    reading: Option<JoinHandle<io::Result<Vec<u8>>>>,
    task: JoinHandle<()>,
}

struct Shared {
    state: Mutex<State>,
    /// Notified when something has been read.
    room_made: Notify,
}

/// What has been received and not been read. What is in memory comes before what is in the file, and
/// nothing goes into memory while something is in the file.
struct State {
    memory: VecDeque<Bytes>,
    memory_bytes: usize,
    file: Option<Arc<File>>,
    /// What of the file has been written and read.
    written: u64,
    read: u64,
    room: Room,
    end: Option<Result<(), BodyError>>,
    /// What came after the end.
    trailers: Option<HeaderMap>,
    reader: Option<Waker>,
}

/// Where the next bytes go.
enum Place {
    Memory,
    File { file: Option<Arc<File>>, at: u64 },
    Nowhere,
}

/// How much is kept in memory.
const MEMORY_BYTES: usize = 64 * 1024;

/// How much is read from the file at once.
const READ_BYTES: u64 = 64 * 1024;

impl AnswerBuffer {
    /// Begins to receive what `source` still has, as fast as `allowance` lets it. Call within the runtime that has its
    /// connection.
    pub fn start(source: AppSource, spool: AppSpool, allowance: Option<Allowance>) -> Self {
        let state = State {
            memory: VecDeque::new(),
            memory_bytes: 0,
            file: None,
            written: 0,
            read: 0,
            room: spool.room(),
            end: None,
            trailers: None,
            reader: None,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), room_made: Notify::new() });
        let task = tokio::spawn(fill(Arc::clone(&shared), source, spool, allowance));
        Self { shared, reading: None, task }
    }

    /// The next bytes; `None` at the end.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if let Some(reading) = &mut self.reading {
            let read = ready!(Pin::new(reading).poll(cx)).map_err(io::Error::from).flatten();
            self.reading = None;
            let read = read.map_err(BodyError::Spool);
            return Poll::Ready(Some(read.map(|bytes| self.shared.read_from_file(bytes))));
        }
        let mut state = self.shared.state();
        if let Some(bytes) = state.memory.pop_front() {
            state.memory_bytes -= bytes.len();
            drop(state);
            self.shared.room_made.notify_one();
            return Poll::Ready(Some(Ok(bytes)));
        }
        let unread = state.written - state.read;
        if let Some(file) = state.file.clone().filter(|_| unread > 0) {
            let (at, length) = (state.read, unread.min(READ_BYTES));
            drop(state);
            self.reading = Some(spawn_blocking(move || read_part(&file, at, length)));
            return self.poll_chunk(cx);
        }
        match state.end.take() {
            Some(end) => {
                state.end = Some(Ok(()));
                Poll::Ready(end.err().map(Err))
            }
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AnswerBuffer {
    /// What came after the end, once.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.shared.state().trailers.take()
    }
}

impl Drop for AnswerBuffer {
    fn drop(&mut self) {
        self.task.abort(); // Which closes the connection to the app.
    }
}

/// Receives to the end, or until nobody reads any more.
async fn fill(
    shared: Arc<Shared>,
    mut source: AppSource,
    spool: AppSpool,
    mut allowance: Option<Allowance>,
) {
    let end = loop {
        if let Some(allowance) = &mut allowance {
            allowance.ready().await;
        }
        match std::future::poll_fn(|cx| source.poll_chunk(cx)).await {
            Some(Ok(bytes)) => {
                if let Some(allowance) = &mut allowance {
                    allowance.spend(bytes.len() as u64);
                }
                shared.push(bytes, &spool).await;
            }
            Some(Err(error)) => break Err(error),
            None => break Ok(()),
        }
    };
    let trailers = source.take_trailers();
    // The app's thread is free from here on.
    drop(source);
    let mut state = shared.state();
    state.trailers = trailers;
    state.end = Some(end);
    state.wake_reader();
}

impl Shared {
    async fn push(&self, bytes: Bytes, spool: &AppSpool) {
        loop {
            let place = self.state().place_for(bytes.len());
            match place {
                Place::Memory => return self.state().push_to_memory(bytes),
                Place::File { file, at } => match write(file, at, bytes.clone(), spool).await {
                    Ok(file) => return self.state().push_to_file(file, bytes.len()),
                    Err(error) => {
                        tracing::warn!(%error, "could not keep an answer on disk");
                    }
                },
                Place::Nowhere => {}
            }
            // A permit is kept if the reader was faster than this.
            self.room_made.notified().await;
        }
    }

    /// Notes that `bytes` have been read from the file.
    fn read_from_file(&self, bytes: Vec<u8>) -> Bytes {
        let mut state = self.state();
        state.read += bytes.len() as u64;
        drop(state);
        self.room_made.notify_one();
        bytes.into()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock leaves half a change behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn place_for(&mut self, length: usize) -> Place {
        let file_is_read = self.read == self.written;
        if file_is_read && (self.memory.is_empty() || self.memory_bytes + length <= MEMORY_BYTES) {
            // What the file had is not needed any more; it is written anew from its beginning.
            (self.written, self.read) = (0, 0);
            self.room.clear();
            return Place::Memory;
        }
        match self.room.take(length as u64) {
            true => Place::File { file: self.file.clone(), at: self.written },
            false => Place::Nowhere,
        }
    }

    fn push_to_memory(&mut self, bytes: Bytes) {
        self.memory_bytes += bytes.len();
        self.memory.push_back(bytes);
        self.wake_reader();
    }

    fn push_to_file(&mut self, file: Arc<File>, length: usize) {
        self.file = Some(file);
        self.written += length as u64;
        self.wake_reader();
    }

    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

async fn write(
    file: Option<Arc<File>>,
    at: u64,
    bytes: Bytes,
    spool: &AppSpool,
) -> io::Result<Arc<File>> {
    let spool = spool.clone();
    let write = move || {
        let file = file.map_or_else(|| spool.file().map(Arc::new), Ok)?;
        file.write_all_at(&bytes, at)?;
        Ok(file)
    };
    spawn_blocking(write).await.map_err(io::Error::from)?
}

fn read_part(file: &File, at: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}
