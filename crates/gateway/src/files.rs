//! Files of a release: opened without a way out of its folder, and read without blocking.

use std::ffi::OsStr;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use jiff::Timestamp;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, sendfile};
use rustix::io::{Errno, ReadWriteFlags, retry_on_intr};
use tokio::task::JoinHandle;

use crate::conditional::Version;

/// A release's code, held open: its files can be read as long as this lives, removed or not.
#[derive(Debug)]
pub struct Folder {
    root: OwnedFd,
}

/// What a path in a [`Folder`] leads to.
#[derive(Debug)]
pub enum Entry {
    File(OpenFile),
    Folder,
}

/// A regular file.
#[derive(Debug)]
pub struct OpenFile {
    file: Arc<OwnedFd>,
    pub version: Version,
}

/// Whether a call may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// What is not in memory is an error that [`must_wait`] knows.
    No,
    ForDisk,
}

/// A part of a file, as it is read.
#[derive(Debug)]
pub struct FileReader {
    file: Arc<OwnedFd>,
    position: u64,
    end: u64,
    /// A read that has to wait for the disk.
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

/// A part of a file that the kernel is to send.
#[derive(Debug)]
pub struct FilePart {
    file: Arc<OwnedFd>,
    position: u64,
    end: u64,
    /// The part is being read from the disk, or has been.
    reading: Option<JoinHandle<io::Result<()>>>,
    was_read: bool,
}

/// How much is read at once.
const CHUNK_BYTES: u64 = 128 * 1024;

/// How far apart it's tried whether a part is in memory: what the kernel reads ahead at once.
const PROBE_STRIDE_BYTES: usize = 128 * 1024;

impl Folder {
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: rustix::fs::open(path, flags, Mode::empty())? })
    }

    /// Opens what is at `path`, relative to this folder; `None` where nothing is that can be served.
    ///
    /// Links are followed as long as they stay in this folder: `RESOLVE_BENEATH` has the kernel see
    /// to that at every step. Errors: what is not the request's doing, such as too many open files.
    pub fn entry(&self, path: &[u8], wait: Wait) -> io::Result<Option<Entry>> {
        // Without O_NONBLOCK, opening a FIFO would wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let resolve = match wait {
            Wait::No => resolve | ResolveFlags::CACHED,
            Wait::ForDisk => resolve,
        };
        let path = Path::new(OsStr::from_bytes(path));
        match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
            Ok(file) => entry_of(file),
            Err(error) if leads_nowhere(error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl OpenFile {
    /// All of it. Errors: [`io::ErrorKind::UnexpectedEof`] where it has become shorter.
    pub fn content(&self, wait: Wait) -> io::Result<Bytes> {
        let flags = match wait {
            Wait::No => ReadWriteFlags::NOWAIT,
            Wait::ForDisk => ReadWriteFlags::empty(),
        };
        let mut content = Vec::new();
        while (content.len() as u64) < self.version.size {
            let position = content.len() as u64;
            let part = read_at(&self.file, position, self.version.size - position, flags)?;
            match content.is_empty() {
                true if part.len() as u64 == self.version.size => return Ok(part),
                _ => content.extend_from_slice(&part),
            }
        }
        Ok(content.into())
    }

    /// Reads the bytes from `first` up to, not including, `end`.
    pub fn read(&self, first: u64, end: u64) -> FileReader {
        FileReader { file: Arc::clone(&self.file), position: first, end, reading: None }
    }
}

impl FileReader {
    /// The next bytes, at most `length_max` but at least one; `None` at the end.
    ///
    /// What the page cache holds is read at once; for the rest, a thread waits for the disk. Errors:
    /// [`io::ErrorKind::UnexpectedEof`] where the file has become shorter.
    pub fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
        length_max: u64,
    ) -> Poll<Option<io::Result<Bytes>>> {
        let length = self.remaining().min(CHUNK_BYTES).min(length_max.max(1));
        if length == 0 {
            return Poll::Ready(None);
        }
        let result = match &mut self.reading {
            Some(reading) => {
                ready!(Pin::new(reading).poll(cx)).unwrap_or_else(|error| Err(error.into()))
            }
            None => match read_at(&self.file, self.position, length, ReadWriteFlags::NOWAIT) {
                Err(error) if must_wait(&error) => {
                    self.read_elsewhere(length);
                    return self.poll_chunk(cx, length);
                }
                result => result,
            },
        };
        self.reading = None;
        Poll::Ready(Some(result.inspect(|chunk| self.position += chunk.len() as u64)))
    }

    /// The next part, of at most `length_max` bytes, for the kernel to send; `None` at the end.
    pub fn part(&mut self, length_max: usize) -> Option<FilePart> {
        let position = self.position;
        self.position += self.remaining().min(length_max as u64);
        let end = self.position;
        let file = Arc::clone(&self.file);
        (position < end).then_some(FilePart { file, position, end, reading: None, was_read: false })
    }

    /// Bytes still to come.
    pub fn remaining(&self) -> u64 {
        self.end - self.position
    }

    fn read_elsewhere(&mut self, length: u64) {
        let (file, position) = (Arc::clone(&self.file), self.position);
        let read = move || read_at(&file, position, length, ReadWriteFlags::empty());
        self.reading = Some(tokio::task::spawn_blocking(read));
    }
}

impl FilePart {
    /// Bytes that have not been sent.
    pub fn length(&self) -> usize {
        usize::try_from(self.end - self.position).unwrap_or(usize::MAX)
    }

    /// Ready when what is left of the part can be sent without waiting for the disk, as far as one can tell.
    ///
    /// A thread that may wait reads it into the page cache first where it's not there, or where the file
    /// system can't tell. Errors: it could not be read.
    pub fn poll_in_memory(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.reading.is_none() {
            if self.was_read || self.is_in_memory() {
                return Poll::Ready(Ok(()));
            }
            let (file, position, length) = (Arc::clone(&self.file), self.position, self.length());
            let read = move || read_and_forget(&file, position, length);
            self.reading = Some(tokio::task::spawn_blocking(read));
        }
        if let Some(reading) = &mut self.reading {
            let read = ready!(Pin::new(reading).poll(cx)).map_err(io::Error::from).flatten();
            self.reading = None;
            self.was_read = true; // What has gone again since is waited for, lest this never end.
            read?;
        }
        Poll::Ready(Ok(()))
    }

    /// Has the kernel send on `socket` what that takes. Returns how many bytes that were: 0 where the file
    /// has become shorter.
    pub fn send_to(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let length = self.length();
        let send = || sendfile(&socket, &self.file, Some(&mut self.position), length);
        Ok(retry_on_intr(send)?)
    }

    /// Whether the page cache has what is left, as far as samples tell.
    fn is_in_memory(&self) -> bool {
        let samples = (self.position..self.end).step_by(PROBE_STRIDE_BYTES).chain([self.end - 1]);
        samples.into_iter().all(|position| {
            let mut byte = [0];
            let mut slices = [IoSliceMut::new(&mut byte)];
            rustix::io::preadv2(&self.file, &mut slices, position, ReadWriteFlags::NOWAIT).is_ok()
        })
    }
}

/// Reads a part of a file for nothing but to have it in the page cache.
fn read_and_forget(file: &OwnedFd, position: u64, length: usize) -> io::Result<()> {
    let mut buffer = vec![0; length];
    let mut slices = [IoSliceMut::new(&mut buffer)];
    rustix::io::preadv2(file, &mut slices, position, ReadWriteFlags::empty())?;
    Ok(())
}

fn entry_of(file: OwnedFd) -> io::Result<Option<Entry>> {
    let stat = rustix::fs::fstat(&file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            Ok(Some(Entry::File(OpenFile { file: Arc::new(file), version: version_of(&stat) })))
        }
        FileType::Directory => Ok(Some(Entry::Folder)),
        _ => Ok(None),
    }
}

/// An etag of inode, change time and size. The change time, unlike the modification time, is not
/// the archive's to choose, and tells a file from one of a later release that got its inode.
fn version_of(stat: &Stat) -> Version {
    let (inode, seconds, nanoseconds, size) =
        (stat.st_ino, stat.st_ctime, stat.st_ctime_nsec, stat.st_size);
    Version {
        etag: format!("\"{inode:x}-{seconds:x}.{nanoseconds:x}-{size:x}\""),
        modified: Timestamp::from_second(stat.st_mtime).unwrap_or(Timestamp::UNIX_EPOCH),
        size: u64::try_from(size).unwrap_or(0),
    }
}

/// Whether a path can't be opened for a reason that lies in the path.
fn leads_nowhere(error: Errno) -> bool {
    matches!(
        error,
        Errno::NOENT
            | Errno::NOTDIR
            | Errno::LOOP
            | Errno::XDEV // It leads out of the folder.
            | Errno::NAMETOOLONG
            | Errno::NXIO // A socket, or a device that is not there.
            | Errno::ACCESS
    )
}

/// Whether something was refused for it would have waited, or because the file system or (before
/// Linux 5.12) the kernel can't tell.
pub fn must_wait(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INVAL))
}

fn read_at(file: &OwnedFd, position: u64, length: u64, flags: ReadWriteFlags) -> io::Result<Bytes> {
    let mut buffer = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let count = rustix::io::preadv2(file, &mut slices, position, flags)?;
    buffer.truncate(count);
    if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(buffer.into()) }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let outside = tempfile::tempdir().unwrap();
        let code = outside.path().join("code");
        std::fs::create_dir_all(code.join("folder")).unwrap();
        std::fs::write(outside.path().join("secret"), "secret").unwrap();
        std::fs::write(code.join("file"), vec![7; 300_000]).unwrap();
        std::os::unix::fs::symlink("file", code.join("inside")).unwrap();
        std::os::unix::fs::symlink("../secret", code.join("outside")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", code.join("absolute")).unwrap();
        let folder = Folder::open(&code).unwrap();
        (outside, folder)
    }

    #[test]
    fn links_lead_no_further_than_the_folder() {
        let (_outside, folder) = folder();
        let is_file = |path: &[u8]| {
            matches!(folder.entry(path, Wait::ForDisk).unwrap(), Some(Entry::File(_)))
        };
        assert!(is_file(b"file") && is_file(b"inside"));
        for path in ["outside", "absolute", "../secret", "/etc/passwd", "folder/../../secret"] {
            assert!(folder.entry(path.as_bytes(), Wait::ForDisk).unwrap().is_none(), "{path}");
        }
        assert!(matches!(folder.entry(b"folder", Wait::ForDisk).unwrap(), Some(Entry::Folder)));
    }

    #[test]
    fn what_is_no_file_is_not_served_and_not_waited_for() {
        let (outside, folder) = folder();
        let fifo = outside.path().join("code/fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert!(folder.entry(b"fifo", Wait::ForDisk).unwrap().is_none());
    }

    #[tokio::test]
    async fn a_part_is_read_whole_in_chunks() {
        let (_outside, folder) = folder();
        let Some(Entry::File(file)) = folder.entry(b"file", Wait::ForDisk).unwrap() else {
            panic!("no file")
        };
        let mut reader = file.read(1, 299_999);
        let mut total = 0;
        while let Some(chunk) = poll_fn(|cx| reader.poll_chunk(cx, u64::MAX)).await {
            total += chunk.unwrap().len();
        }
        assert_eq!(total, 299_998);
    }

    #[test]
    fn another_file_has_another_etag() {
        let (outside, folder) = folder();
        std::fs::write(outside.path().join("code/other"), vec![7; 300_000]).unwrap();
        let etag = |path: &[u8]| match folder.entry(path, Wait::ForDisk).unwrap() {
            Some(Entry::File(file)) => file.version.etag.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(etag(b"file"), etag(b"inside"));
        assert_ne!(etag(b"file"), etag(b"other"));
    }
}
