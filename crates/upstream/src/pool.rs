//! Connections to one app server, between two exchanges.
//!
//! A connection belongs to the runtime that opened it, and each thread of the gateway has its own. So
//! a thread is only given what it brought.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::connection::Connection;
use crate::stream::AppStream;

/// The idle connections to one app server.
#[derive(Debug, Default)]
pub struct Pool {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The one that was used last is at the end.
    idle: Vec<Idle>,
    /// A task is on its way that drops what has been idle for long.
    swept: bool,
    closed: bool,
}

#[derive(Debug)]
struct Idle {
    stream: AppStream,
    thread: ThreadId,
    since: Instant,
}

/// The most that are kept.
const IDLE_MAX: usize = 64;

/// How long one is kept. App servers are told to keep theirs for longer, so that it's hardly ever
/// they who close.
const IDLE_TIME: Duration = Duration::from_secs(20);

impl Pool {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A connection of this thread's that is open as far as one can tell.
    pub fn take(self: &Arc<Self>) -> Option<Connection> {
        let mine = thread::current().id();
        let mut state = self.state();
        while let Some(at) = state.idle.iter().rposition(|idle| idle.thread == mine) {
            let idle = state.idle.remove(at);
            if idle.since.elapsed() < IDLE_TIME && idle.stream.is_quiet() {
                return Some(Connection::again(idle.stream, self));
            }
        }
        None
    }

    /// Keeps `stream` for the next exchange, unless there are enough. Call within its runtime.
    pub(crate) fn put(self: &Arc<Self>, stream: AppStream) {
        let mut state = self.state();
        if state.closed || state.idle.len() >= IDLE_MAX {
            return;
        }
        state.idle.push(Idle { stream, thread: thread::current().id(), since: Instant::now() });
        if !state.swept {
            state.swept = true;
            tokio::spawn(Arc::clone(self).sweep());
        }
    }

    /// Drops all there is, and keeps no more.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.idle.clear();
    }

    /// Undoes [`Self::close`].
    pub fn open(&self) {
        self.state().closed = false;
    }

    /// Drops what has been idle for long, until nothing is left.
    async fn sweep(self: Arc<Self>) {
        loop {
            sleep(IDLE_TIME / 2).await;
            let mut state = self.state();
            state.idle.retain(|idle| idle.since.elapsed() < IDLE_TIME);
            if state.idle.is_empty() {
                state.swept = false;
                return;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock leaves half a change behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};

    use super::*;
    use crate::connection::ReceiveError;

    /// Sends a request on `connection` and reads the answer of `server` to its end.
    async fn exchange(connection: Connection, server: &mut UnixStream, answer: &str) {
        let mut connection = connection;
        connection.sender().send(b"ask").await.unwrap();
        server.read_exact(&mut [0; 3]).await.unwrap();
        server.write_all(answer.as_bytes()).await.unwrap();
        let head = connection.receive_head().await.unwrap();
        let mut body = connection.into_body(&head, &Method::GET);
        while let Some(chunk) = body.chunk().await {
            chunk.unwrap();
        }
    }

    /// A pool, a connection for it, and its other end.
    async fn connected() -> (Arc<Pool>, Connection, UnixStream) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let pool = Pool::new();
        let (connection, _) = Connection::connect_for(&pool, &path, b"").unwrap();
        let (server, _) = listener.accept().await.unwrap();
        (pool, connection, server)
    }

    const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

    #[tokio::test]
    async fn a_connection_is_used_again() {
        let (pool, mut connection, mut server) = connected().await;
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
        let empty = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        for answer in [ANSWER, chunked, empty] {
            exchange(connection, &mut server, answer).await;
            connection = pool.take().unwrap();
        }
        assert!(pool.take().is_none());
    }

    #[tokio::test]
    async fn what_is_no_longer_clean_is_not_used_again() {
        let unclean = [
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more",
        ];
        for answer in unclean {
            let (pool, connection, mut server) = connected().await;
            exchange(connection, &mut server, answer).await;
            assert!(pool.take().is_none(), "{answer:?}");
        }
        let (pool, connection, mut server) = connected().await;
        exchange(connection, &mut server, ANSWER).await;
        server.write_all(b"HTTP/1.1 200 Unasked\r\n\r\n").await.unwrap();
        tokio::task::yield_now().await;
        assert!(pool.take().is_none());
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_in_between_is_told() {
        let (pool, connection, mut server) = connected().await;
        exchange(connection, &mut server, ANSWER).await;
        let mut again = pool.take().unwrap();
        drop(server);
        let heard = again.receive_head().await;
        assert!(matches!(heard, Err(ReceiveError::Stale)), "{heard:?}");
    }

    #[tokio::test]
    async fn a_closed_pool_keeps_nothing() {
        let (pool, connection, mut server) = connected().await;
        pool.close();
        exchange(connection, &mut server, ANSWER).await;
        assert!(pool.take().is_none());
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_idle_for_long_is_dropped() {
        let (pool, connection, mut server) = connected().await;
        exchange(connection, &mut server, ANSWER).await;
        tokio::time::sleep(2 * IDLE_TIME).await;
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
        assert!(pool.take().is_none());
    }
}
