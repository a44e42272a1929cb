//! Carries the tenant's standard output and error from pipes to the log.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::io::{Errno, ioctl_fionbio, read};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::log::{LineSplitter, LogWriter, Stream};
use crate::spec::LogSpec;
use crate::written::WrittenNote;

/// Read from a pipe at once; what a pipe holds by default.
const CHUNK_BYTES: usize = 64 << 10;

/// How long nothing is read after a read whose lines were dropped. Init's processor time is not the
/// tenant's, so a flood must not be able to buy much of it.
const PAUSE_WHILE_DROPPING: Duration = Duration::from_millis(10);

/// How long dropped lines may go unmentioned where nothing more is printed.
const REMARK_AFTER: Duration = Duration::from_secs(1);

/// The most that is read after the tenant's end: what the largest pipe can hold, of each.
const LAST_CHUNKS: usize = (1 << 20) / CHUNK_BYTES;

/// The reading ends of the tenant's output, and the log.
pub struct LogPump {
    writer: LogWriter,
    pipes: Vec<Pipe>,
    /// The writing ends, until the tenant has them: standard output and error.
    writing_ends: Option<(OwnedFd, OwnedFd)>,
    buffer: Vec<u8>,
    /// Nothing is read before.
    resume_at: Option<Instant>,
}

struct Pipe {
    stream: Stream,
    reading_end: OwnedFd,
    splitter: LineSplitter,
}

/// What reading a pipe gave.
enum Chunk {
    Bytes(usize),
    NothingYet,
    End,
}

impl LogPump {
    /// Opens the log in `folder` and makes the pipes to it.
    pub fn open(folder: OwnedFd, spec: &LogSpec) -> io::Result<Self> {
        let (out, out_writer) = pipe_with(PipeFlags::CLOEXEC)?;
        let (err, err_writer) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Self {
            writer: LogWriter::open(folder, spec, Instant::now())?,
            pipes: vec![Pipe::new(Stream::Out, out)?, Pipe::new(Stream::Err, err)?],
            writing_ends: Some((out_writer, err_writer)),
            buffer: vec![0; CHUNK_BYTES],
            resume_at: None,
        })
    }

    /// Standard output and error for the tenant, once.
    pub fn take_writing_ends(&mut self) -> Option<(OwnedFd, OwnedFd)> {
        self.writing_ends.take()
    }

    /// What to poll for reading, now.
    pub fn sources(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let is_paused = self.resume_at.is_some();
        self.pipes.iter().filter(move |_| !is_paused).map(|pipe| pipe.reading_end.as_fd())
    }

    /// When [`Self::pump`] is wanted though no source has anything.
    pub fn due(&self) -> Option<Instant> {
        let remark = self.writer.is_dropping().then(|| Instant::now() + REMARK_AFTER);
        self.resume_at.or(remark)
    }

    /// Writes what the pipes have, at most one chunk of each.
    pub fn pump(&mut self) {
        if self.resume_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        self.resume_at = None;
        let had_any = self.read_chunks();
        self.writer.flush(Timestamp::now(), Instant::now());
        if had_any && self.writer.is_dropping() {
            self.resume_at = Some(Instant::now() + PAUSE_WHILE_DROPPING);
        }
    }

    /// Writes what is left in the pipes, and what has no line end.
    pub fn finish(&mut self) {
        for _ in 0..LAST_CHUNKS {
            if !self.read_chunks() {
                break;
            }
        }
        let at = Timestamp::now();
        for Pipe { stream, splitter, .. } in &mut self.pipes {
            splitter.finish(|line| self.writer.line(*stream, line, at, Instant::now()));
        }
        self.writer.finish(at);
    }

    /// Writes a line of init's own.
    pub fn remark(&mut self, text: &str) {
        let at = Timestamp::now();
        self.writer.remark(text, at);
        self.writer.finish(at);
    }

    /// Notes what the tenant has written beside its code.
    pub fn note(&self, written: &WrittenNote) {
        self.writer.note(written);
    }

    /// Reads a chunk of each pipe; returns whether any had one. A pipe that has ended is let go.
    fn read_chunks(&mut self) -> bool {
        let Self { writer, pipes, buffer, .. } = self;
        let mut had_any = false;
        pipes.retain_mut(|pipe| match pipe.read(buffer) {
            Chunk::Bytes(count) => {
                had_any = true;
                let (at, now) = (Timestamp::now(), Instant::now());
                let bytes = &buffer[..count];
                pipe.splitter.feed(bytes, |line| writer.line(pipe.stream, line, at, now));
                true
            }
            Chunk::NothingYet => true,
            Chunk::End => {
                let (at, now) = (Timestamp::now(), Instant::now());
                pipe.splitter.finish(|line| writer.line(pipe.stream, line, at, now));
                false
            }
        });
        had_any
    }
}

impl Pipe {
    fn new(stream: Stream, reading_end: OwnedFd) -> io::Result<Self> {
        ioctl_fionbio(&reading_end, true)?;
        Ok(Self { stream, reading_end, splitter: LineSplitter::default() })
    }

    fn read(&self, buffer: &mut [u8]) -> Chunk {
        match read(&self.reading_end, buffer) {
            Ok(0) => Chunk::End,
            Ok(count) => Chunk::Bytes(count),
            Err(Errno::AGAIN | Errno::INTR) => Chunk::NothingYet,
            Err(_) => Chunk::End,
        }
    }
}
