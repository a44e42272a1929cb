//! A connection to an app server's Unix socket, as bytes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::task::{Context, Poll};

use ace_sandbox::passed::refuse_descriptors;
use rustix::io::retry_on_intr;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, recv, send,
    socket_with,
};
use tokio::net::UnixStream;

use crate::poller::Place;

/// A connection that waits in its thread's [`Poller`](crate::poller::Poller).
#[derive(Debug)]
pub struct AppStream {
    place: Place,
    socket: OwnedFd,
}

impl AppStream {
    /// Connects to `path`, and sends `bytes`, or as many of them as go out without waiting. Returns how many.
    ///
    /// Never waits: a full backlog is [`io::ErrorKind::WouldBlock`]. Call within a runtime.
    pub fn connect_and_send(path: &Path, bytes: &[u8]) -> io::Result<(Self, usize)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // An app has no descriptors to give. Kernels that can't refuse them close them here; see `passed`.
        let _ = refuse_descriptors(socket.as_fd());
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        let sent = match bytes {
            b"" => 0,
            bytes => send(&socket, bytes, SendFlags::NOSIGNAL).unwrap_or(0),
        };
        Ok((Self { place: Place::enter(&socket)?, socket }, sent))
    }

    /// Waits until there may be something to read, if only the end.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.place.poll_readable(cx)
    }

    /// Writes what there is to the beginning of `room`. Returns how many bytes that are; 0 at the end.
    pub fn poll_read(&self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        let length = room.len();
        let read = || Ok(retry_on_intr(|| recv(&self.socket, &mut *room, RecvFlags::empty()))?.0);
        // Less than there was room for is all there is.
        self.place.poll_read(cx, read, |count| (1..length).contains(count))
    }

    /// Sends a part of `bytes`, waiting until that is possible. Returns how many.
    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let write = || Ok(retry_on_intr(|| send(&self.socket, bytes, SendFlags::NOSIGNAL))?);
        self.place.poll_write(cx, &self.socket, write)
    }

    /// Whether nothing has come: neither the end nor bytes.
    pub fn is_quiet(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(recv(&self.socket, &mut [0], flags), Err(rustix::io::Errno::AGAIN))
    }

    /// As the runtime has connections.
    pub fn into_tokio(self) -> io::Result<UnixStream> {
        self.place.leave(&self.socket)?;
        UnixStream::from_std(self.socket.into())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::IoSlice;
    use std::mem::MaybeUninit;

    use ace_sandbox::passed::can_refuse_descriptors;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, sendmsg};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    /// A connection on which `bytes` have been sent, and its other end.
    async fn connected(bytes: &[u8]) -> (AppStream, UnixStream) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let (stream, sent) = AppStream::connect_and_send(&path, bytes).unwrap();
        assert_eq!(sent, bytes.len());
        (stream, listener.accept().await.unwrap().0)
    }

    async fn read(stream: &AppStream, room: usize) -> Vec<u8> {
        let mut room = vec![0; room];
        let count = poll_fn(|cx| stream.poll_read(cx, &mut room)).await.unwrap();
        room.truncate(count);
        room
    }

    #[tokio::test]
    async fn all_that_comes_is_read_in_whatever_room() {
        let (stream, mut app) = connected(b"ask").await;
        app.read_exact(&mut [0; 3]).await.unwrap();
        app.write_all(b"abcdef").await.unwrap();
        assert_eq!(read(&stream, 4).await, b"abcd");
        assert_eq!(read(&stream, 4).await, b"ef");
        let later = tokio::spawn(async move {
            tokio::task::yield_now().await;
            app.write_all(b"gh").await.unwrap();
        });
        assert_eq!(read(&stream, 2).await, b"gh");
        later.await.unwrap();
        assert_eq!(read(&stream, 2).await, b"");
        assert_eq!(read(&stream, 2).await, b"");
    }

    #[tokio::test]
    async fn what_does_not_fit_waits_until_the_app_reads() {
        let (stream, mut app) = connected(b"").await;
        let bytes = vec![7; 4 << 20];
        let receiving = tokio::spawn(async move {
            let mut received = Vec::new();
            app.read_to_end(&mut received).await.unwrap();
            received.len()
        });
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let count = poll_fn(|cx| stream.poll_write(cx, rest)).await.unwrap();
            rest = &rest[count..];
        }
        drop(stream);
        assert_eq!(receiving.await.unwrap(), bytes.len());
    }

    #[tokio::test]
    async fn who_writes_to_an_app_that_has_gone_is_told() {
        let (stream, app) = connected(b"").await;
        drop(app);
        let error = poll_fn(|cx| stream.poll_write(cx, b"a")).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert!(!stream.is_quiet());
    }

    #[tokio::test]
    async fn an_app_can_pass_no_descriptors() {
        if !can_refuse_descriptors().unwrap() {
            eprintln!("SKIPPED: descriptors can't be refused before Linux 6.16");
            return;
        }
        let (_stream, app) = connected(b"").await;
        let app = app.into_std().unwrap();
        let passed = [app.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&passed)));
        let bytes = [IoSlice::new(b"HTTP/1.1 200 OK")];
        let sent = sendmsg(&app, &bytes, &mut control, SendFlags::NOSIGNAL);
        assert_eq!(sent, Err(rustix::io::Errno::PERM));
    }

    #[tokio::test]
    async fn the_runtime_can_take_over() {
        let (stream, mut app) = connected(b"").await;
        assert!(stream.is_quiet());
        let mut stream = stream.into_tokio().unwrap();
        stream.write_all(b"ask").await.unwrap();
        app.read_exact(&mut [0; 3]).await.unwrap();
        app.write_all(b"answer").await.unwrap();
        drop(app);
        let mut received = String::new();
        stream.read_to_string(&mut received).await.unwrap();
        assert_eq!(received, "answer");
    }

    /// As tests of others are: one after the other on one thread.
    #[test]
    fn each_runtime_has_events_of_its_own() {
        for _ in 0..2 {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let (stream, mut app) = connected(b"").await;
                app.write_all(b"a").await.unwrap();
                assert_eq!(read(&stream, 2).await, b"a");
            });
        }
    }
}
