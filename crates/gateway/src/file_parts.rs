//! Parts of files that the kernel sends in the place of bytes.
//!
//! hyper writes bytes and gives nobody its socket. So a body yields bytes of [`STAND_IN`] for a part of a
//! file, and leaves the part here. Below hyper, the connection's stream knows those bytes by their place in
//! memory and has the kernel send the part instead (`sendfile`), from the page cache and without a copy.
//!
//! What is written has to agree to the byte with what was left here, else the connection ends: neither
//! bytes of [`STAND_IN`] nor those of another part can reach a client.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustix::io::retry_on_intr;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::files::FilePart;

/// The largest part.
pub const PART_BYTES_MAX: usize = 1 << 20;

/// What hyper is given to write. Nobody reads it, so it takes no memory.
static STAND_IN: LazyLock<Vec<u8>> = LazyLock::new(|| vec![0; PART_BYTES_MAX]);

/// The parts that one connection still has to send, in their order. hyper bounds how many it takes.
#[derive(Debug, Default)]
pub struct FileParts {
    queue: Mutex<VecDeque<FilePart>>,
}

impl FileParts {
    /// Leaves `part` here. Returns what is to be written in its place.
    pub fn leave(&self, part: FilePart) -> Bytes {
        let length = part.length();
        self.queue().push_back(part);
        Bytes::from_static(&STAND_IN[..length])
    }

    /// Writes the beginning of `slices`, of which some stand in for parts: bytes as they are, or such a part.
    ///
    /// Errors: [`io::ErrorKind::InvalidData`] where they stand in for nothing that was left here;
    /// [`io::ErrorKind::UnexpectedEof`] where the file has become shorter.
    pub fn poll_write(
        &self,
        cx: &mut Context<'_>,
        stream: &TcpStream,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match slices.iter().position(|slice| stands_in(slice)) {
            Some(0) => self.poll_send_part(cx, stream, slices[0].len()),
            // The part's first bytes go with the last ones before it.
            Some(plain) => poll_send(cx, stream, &slices[..plain], SendFlags::MORE),
            None => poll_send(cx, stream, slices, SendFlags::empty()),
        }
    }

    /// Has the kernel send of the part that is next, of which `length` bytes have not been sent.
    fn poll_send_part(
        &self,
        cx: &mut Context<'_>,
        stream: &TcpStream,
        length: usize,
    ) -> Poll<io::Result<usize>> {
        let mut queue = self.queue();
        let Some(part) = queue.front_mut().filter(|part| part.length() == length) else {
            let error = "what is written is not the part of a file that is next";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        };
        ready!(part.poll_in_memory(cx))?;
        let sent = ready!(poll_when_writable(cx, stream, || part.send_to(stream)))?;
        if part.length() == 0 {
            queue.pop_front();
        }
        match sent {
            0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            sent => Poll::Ready(Ok(sent)),
        }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<FilePart>> {
        // Nothing that holds the lock leaves half a change behind.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether `slice` is to be written by [`FileParts::poll_write`].
pub fn stands_in(slice: &[u8]) -> bool {
    !slice.is_empty() && STAND_IN.as_ptr_range().contains(&slice.as_ptr())
}

fn poll_send(
    cx: &mut Context<'_>,
    stream: &TcpStream,
    slices: &[IoSlice<'_>],
    flags: SendFlags,
) -> Poll<io::Result<usize>> {
    let send = || {
        let mut control = SendAncillaryBuffer::default();
        retry_on_intr(|| sendmsg(stream, slices, &mut control, flags | SendFlags::NOSIGNAL))
            .map_err(io::Error::from)
    };
    poll_when_writable(cx, stream, send)
}

/// Calls `write`, again each time when `stream` takes bytes, until that does not find it full.
fn poll_when_writable(
    cx: &mut Context<'_>,
    stream: &TcpStream,
    mut write: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        match stream.try_io(Interest::WRITABLE, &mut write) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ready!(stream.poll_write_ready(cx))?;
            }
            result => return Poll::Ready(result),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::files::{Entry, Folder, Wait};

    /// Two ends of a connection.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (listener.accept().await.unwrap().0, client)
    }

    /// The part of a file `abcdef` from `first` to before `end`.
    fn part(first: u64, end: u64) -> FilePart {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "abcdef").unwrap();
        let entry = Folder::open(folder.path()).unwrap().entry(b"file", Wait::ForDisk).unwrap();
        let Some(Entry::File(file)) = entry else { panic!("no file") };
        file.read(first, end).part(PART_BYTES_MAX).unwrap()
    }

    async fn write(parts: &FileParts, stream: &TcpStream, bytes: &[&[u8]]) -> io::Result<usize> {
        let slices: Vec<_> = bytes.iter().map(|bytes| IoSlice::new(bytes)).collect();
        poll_fn(|cx| parts.poll_write(cx, stream, &slices)).await
    }

    #[tokio::test]
    async fn parts_take_the_place_of_what_stands_in_for_them() {
        let ((server, mut client), parts) = (pair().await, FileParts::default());
        let first = parts.leave(part(1, 3));
        let second = parts.leave(part(0, 1));
        assert!(stands_in(&first) && !stands_in(b"GET"));
        assert_eq!(write(&parts, &server, &[b"<", b"p>", &first, b"!"]).await.unwrap(), 3);
        assert_eq!(write(&parts, &server, &[&first, b"!", &second]).await.unwrap(), 2);
        assert_eq!(write(&parts, &server, &[b"!", &second]).await.unwrap(), 1);
        assert_eq!(write(&parts, &server, &[&second]).await.unwrap(), 1);
        drop(server);
        let mut received = String::new();
        client.read_to_string(&mut received).await.unwrap();
        assert_eq!(received, "<p>bc!a");
    }

    #[tokio::test]
    async fn what_stands_in_is_never_sent_itself() {
        let ((server, mut client), parts) = (pair().await, FileParts::default());
        let bytes = parts.leave(part(0, 6));
        for wrong in [&bytes[1..], &bytes[..5]] {
            let error = write(&parts, &server, &[wrong]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        assert_eq!(write(&parts, &server, &[&bytes]).await.unwrap(), 6);
        assert!(write(&parts, &server, &[&bytes]).await.is_err());
        drop(server);
        let mut received = String::new();
        client.read_to_string(&mut received).await.unwrap();
        assert_eq!(received, "abcdef");
    }
}
