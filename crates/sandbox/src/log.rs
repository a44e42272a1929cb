//! The files that a container's output goes to: bounded in size and in rate.
//!
//! The format is [`LogSpec`]'s. Every line gets a header of ours, so that nothing a tenant prints
//! can pass for another's line, or for init's. What the disk refuses is dropped and counted as what
//! comes too fast is: a log never stops its app.

mod bucket;
mod lines;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use jiff::Timestamp;
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, ftruncate, openat, renameat};
use rustix::io::{Errno, pread, read, write};

use crate::spec::LogSpec;
use crate::written::{self, WrittenNote};
use bucket::TokenBucket;
pub use lines::LineSplitter;

/// Time and stream before each line's text, with the spaces after them.
const HEADER_BYTES: usize = "2026-11-23T05:49:27.123456Z out ".len();

/// As many as the largest number has.
const DROPPED_DIGITS: usize = 20;

/// Which of the container's outputs a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Out,
    Err,
    /// Init's own remarks.
    Ace,
}

/// Writes lines to the files of one log.
#[derive(Debug)]
pub struct LogWriter {
    folder: OwnedFd,
    file: OwnedFd,
    file_size: u64,
    file_size_max: u64,
    bucket: TokenBucket,
    dropped: Dropped,
    /// All lines that were dropped and told of, since the log was begun.
    lines_dropped: u64,
    /// Lines that wait to be written together.
    pending: Vec<u8>,
}

/// What was dropped since the last remark about it.
#[derive(Debug, Default)]
struct Dropped {
    lines: u64,
    bytes: u64,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::Err => "err",
            Self::Ace => "ace",
        }
    }
}

impl LogWriter {
    /// Goes on with the log in `folder`, or begins it.
    pub fn open(folder: OwnedFd, spec: &LogSpec, now: Instant) -> io::Result<Self> {
        let (file, file_size) = open_current(&folder)?;
        let lines_dropped = read_dropped(&folder).unwrap_or(0);
        let rate = spec.rate_max_per_second.0;
        Ok(Self {
            folder,
            file,
            file_size,
            file_size_max: spec.size_max.0 / LogSpec::FILES,
            bucket: TokenBucket::new(rate, rate.saturating_mul(LogSpec::BURST), now),
            dropped: Dropped::default(),
            lines_dropped,
            pending: Vec::new(),
        })
    }

    /// Takes one line, without its line end. It is on disk after the next [`Self::flush`].
    pub fn line(&mut self, stream: Stream, text: &[u8], at: Timestamp, now: Instant) {
        self.settle(at, now);
        let size = HEADER_BYTES + text.len() + 1;
        if self.bucket.take(size as u64, now) {
            self.append(stream, text, at);
        } else {
            self.dropped.add(1, text.len() as u64);
        }
    }

    /// Takes a line of init's own, however much came before it.
    pub fn remark(&mut self, text: &str, at: Timestamp) {
        self.append(Stream::Ace, text.as_bytes(), at);
    }

    /// Notes what has been written beside the code. A disk that refuses this takes the next note.
    pub fn note(&self, written: &WrittenNote) {
        _ = written::note(&self.folder, written);
    }

    /// Writes what is pending, and says what was dropped if that has come to an end.
    pub fn flush(&mut self, at: Timestamp, now: Instant) {
        self.settle(at, now);
        self.write_pending();
    }

    /// Writes what is pending, and says what was dropped.
    pub fn finish(&mut self, at: Timestamp) {
        self.tell_dropped(at);
        self.write_pending();
    }

    /// Whether lines have been dropped that nothing has been said about yet.
    pub fn is_dropping(&self) -> bool {
        self.dropped.lines > 0
    }

    /// Says what was dropped, where lines are accepted again.
    fn settle(&mut self, at: Timestamp, now: Instant) {
        if self.is_dropping() && self.bucket.is_open(now) {
            self.tell_dropped(at);
        }
    }

    fn tell_dropped(&mut self, at: Timestamp) {
        let Dropped { lines, bytes } = std::mem::take(&mut self.dropped);
        if lines > 0 {
            let text =
                format!("{lines} lines ({bytes} bytes) dropped: the log's limit was reached");
            self.remark(&text, at);
            self.lines_dropped = self.lines_dropped.saturating_add(lines);
            // A disk that refuses this, too, takes the next sum.
            _ = write_dropped(&self.folder, self.lines_dropped);
        }
    }

    fn append(&mut self, stream: Stream, text: &[u8], at: Timestamp) {
        let start = self.pending.len();
        render(&mut self.pending, stream, text, at);
        let size = self.file_size + self.pending.len() as u64;
        if size > self.file_size_max && self.file_size + start as u64 > 0 {
            let line = self.pending.split_off(start);
            self.write_pending();
            self.next_file();
            self.pending = line;
        }
    }

    /// Begins a new file. Where that fails the old one goes on: too large is better than lost.
    fn next_file(&mut self) {
        if rotate(&self.folder).is_ok()
            && let Ok((file, file_size)) = open_current(&self.folder)
        {
            (self.file, self.file_size) = (file, file_size);
        }
    }

    /// Begins the file anew where somebody has removed it: nobody could read what is written to it.
    fn ensure_named(&mut self) {
        if fstat(&self.file).is_ok_and(|found| found.st_nlink == 0)
            && let Ok((file, file_size)) = open_current(&self.folder)
        {
            (self.file, self.file_size) = (file, file_size);
        }
    }

    fn write_pending(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        self.ensure_named();
        match write_all(&self.file, &self.pending) {
            Ok(()) => self.file_size += self.pending.len() as u64,
            Err(_) => {
                // A half line would have the next one join it.
                let _ = ftruncate(&self.file, self.file_size);
                let lines = self.pending.iter().filter(|byte| **byte == b'\n').count();
                self.dropped.add(lines as u64, self.pending.len() as u64);
            }
        }
        self.pending.clear();
    }
}

/// How many lines the log in `folder` has dropped since it was begun; 0 where it says nothing of it.
///
/// Errors: it can't be read, or what stands there is no number.
pub fn lines_dropped(folder: &Path) -> io::Result<u64> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match read_dropped(&openat(CWD, folder, flags, Mode::empty())?) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        result => result,
    }
}

fn read_dropped(folder: &OwnedFd) -> io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(folder, LogSpec::DROPPED, flags, Mode::empty())?;
    let mut digits = [0; DROPPED_DIGITS];
    let count = read(&file, &mut digits)?;
    let text = str::from_utf8(&digits[..count]).map_err(io::Error::other)?;
    text.parse().map_err(io::Error::other)
}

/// Always of one length, so that no reader sees a number in part.
fn write_dropped(folder: &OwnedFd, lines: u64) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(folder, LogSpec::DROPPED, flags, Mode::from_raw_mode(0o644))?;
    write_all(&file, format!("{lines:0DROPPED_DIGITS$}").as_bytes())
}

impl Dropped {
    fn add(&mut self, lines: u64, bytes: u64) {
        self.lines = self.lines.saturating_add(lines);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// Appends a whole line to `to`. `text` has no line end.
fn render(to: &mut Vec<u8>, stream: Stream, text: &[u8], at: Timestamp) {
    to.extend_from_slice(format!("{at:.6} {} ", stream.name()).as_bytes());
    to.extend_from_slice(text);
    to.push(b'\n');
}

/// Opens the file that is being written, at the start of a line; returns its size too.
fn open_current(folder: &OwnedFd) -> io::Result<(OwnedFd, u64)> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(folder, LogSpec::CURRENT, flags, Mode::from_raw_mode(0o644))?;
    let found = fstat(&file)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL.into());
    }
    let size = u64::try_from(found.st_size).unwrap_or_default();
    let added = end_line(&file, size)?;
    Ok((file, size + added))
}

/// Ends a line that a crash left half; returns by how many bytes the file grew.
fn end_line(file: &OwnedFd, size: u64) -> io::Result<u64> {
    let mut last = [b'\n'];
    if size > 0 {
        pread(file, &mut last, size - 1)?;
    }
    if last == [b'\n'] { Ok(0) } else { Ok(write(file, b"\n")? as u64) }
}

/// Renames `current` to `1`, `1` to `2` and so on; the oldest is overwritten.
fn rotate(folder: &OwnedFd) -> io::Result<()> {
    let name = |number: u64| match number {
        0 => LogSpec::CURRENT.to_owned(),
        _ => number.to_string(),
    };
    for number in (0..LogSpec::FILES - 1).rev() {
        match renameat(folder, name(number), folder, name(number + 1)) {
            Err(Errno::NOENT) => {}
            result => result?,
        }
    }
    Ok(())
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match write(file, bytes) {
            Err(Errno::INTR) => {}
            result => bytes = &bytes[result?..],
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    use ace_types::Bytes;
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    const HEADER: &str = "2026-11-23T05:49:27.123456Z out ";

    fn at() -> Timestamp {
        "2026-11-23T05:49:27.123456Z".parse().unwrap()
    }

    fn writer(folder: &Path, size_max: u64, rate: u64, now: Instant) -> LogWriter {
        let spec = LogSpec {
            folder: folder.to_owned(),
            size_max: Bytes(size_max),
            rate_max_per_second: Bytes(rate),
        };
        LogWriter::open(fs::File::open(folder).unwrap().into(), &spec, now).unwrap()
    }

    fn content(folder: &Path, name: &str) -> String {
        String::from_utf8(fs::read(folder.join(name)).unwrap()).unwrap()
    }

    #[test]
    fn a_line_has_its_time_and_stream_before_it() {
        let (folder, now) = (TempDir::new().unwrap(), Instant::now());
        let mut log = writer(folder.path(), 1 << 20, 1 << 20, now);
        log.line(Stream::Out, b"hello", at(), now);
        log.line(Stream::Err, b"", at(), now);
        log.flush(at(), now);
        let expected = format!("{HEADER}hello\n2026-11-23T05:49:27.123456Z err \n");
        assert_eq!(content(folder.path(), "current"), expected);
    }

    #[test]
    fn a_whole_second_still_has_six_digits() {
        let mut line = Vec::new();
        render(&mut line, Stream::Ace, b"x", "2026-11-23T05:49:27Z".parse().unwrap());
        assert_eq!(line, b"2026-11-23T05:49:27.000000Z ace x\n");
    }

    #[test]
    fn a_log_goes_on_after_a_crash_at_the_start_of_a_line() {
        let (folder, now) = (TempDir::new().unwrap(), Instant::now());
        fs::write(folder.path().join("current"), "half a li").unwrap();
        let mut log = writer(folder.path(), 1 << 20, 1 << 20, now);
        log.line(Stream::Out, b"next", at(), now);
        log.flush(at(), now);
        assert_eq!(content(folder.path(), "current"), format!("half a li\n{HEADER}next\n"));
    }

    #[test]
    fn a_file_that_somebody_removed_is_begun_anew() {
        let (folder, now) = (TempDir::new().unwrap(), Instant::now());
        let mut log = writer(folder.path(), 1 << 20, 1 << 20, now);
        for text in ["lost", "found"] {
            let _ = fs::remove_file(folder.path().join("current"));
            log.line(Stream::Out, text.as_bytes(), at(), now);
            log.flush(at(), now);
        }
        assert_eq!(content(folder.path(), "current"), format!("{HEADER}found\n"));
    }

    #[test]
    fn files_rotate_within_the_size() {
        let (folder, now) = (TempDir::new().unwrap(), Instant::now());
        let mut log = writer(folder.path(), 5 * 100, 1 << 20, now);
        for number in 0..100 {
            log.line(Stream::Out, format!("{number:020}").as_bytes(), at(), now);
            log.flush(at(), now);
        }
        // One line is 53 bytes, so a file of 100 holds one.
        let kept = ["current", "1", "2", "3", "4"].map(|name| content(folder.path(), name));
        for (age, text) in kept.iter().enumerate() {
            assert_eq!(*text, format!("{HEADER}{:020}\n", 99 - age));
        }
        assert!(!folder.path().join("5").exists());
    }

    #[test]
    fn what_comes_too_fast_is_dropped_and_counted() {
        let (folder, start) = (TempDir::new().unwrap(), Instant::now());
        let mut log = writer(folder.path(), 1 << 30, 1000, start);
        for _ in 0..10_000 {
            log.line(Stream::Out, &[b'x'; 67], at(), start);
        }
        log.flush(at(), start);
        // A line with its header is 100 bytes, and 16 seconds' worth may come at once.
        assert_eq!(content(folder.path(), "current").lines().count(), 160);
        assert!(log.is_dropping());

        log.flush(at(), start + Duration::from_secs(2));
        let text = content(folder.path(), "current");
        let last = text.lines().last().unwrap();
        assert!(
            last.ends_with(" ace 9840 lines (659280 bytes) dropped: the log's limit was reached")
        );
        assert!(!log.is_dropping());
        assert_eq!(lines_dropped(folder.path()).unwrap(), 9840);
    }

    #[test]
    fn lines_that_were_dropped_are_counted_over_the_log_s_whole_life() {
        let (folder, now) = (TempDir::new().unwrap(), Instant::now());
        assert_eq!(lines_dropped(folder.path()).unwrap(), 0);
        for total in [1, 2] {
            let mut log = writer(folder.path(), 1 << 30, 1, now);
            log.line(Stream::Out, b"too long for its rate", at(), now);
            log.finish(at());
            assert_eq!(lines_dropped(folder.path()).unwrap(), total);
        }
        fs::write(folder.path().join("dropped"), "many").unwrap();
        assert!(lines_dropped(folder.path()).is_err());
    }

    #[test]
    fn a_full_disk_drops_whole_lines() {
        let (folder, now) = (TempDir::new().unwrap(), Instant::now());
        let mut log = writer(folder.path(), 1 << 20, 1 << 20, now);
        log.line(Stream::Out, b"before", at(), now);
        log.flush(at(), now);
        // A descriptor that can't be written to stands in for a disk that can't.
        let writable = std::mem::replace(
            &mut log.file,
            fs::File::open(folder.path().join("current")).unwrap().into(),
        );
        log.line(Stream::Out, b"lost", at(), now);
        log.flush(at(), now);
        log.file = writable;
        log.line(Stream::Out, b"after", at(), now);
        log.flush(at(), now);
        let text = content(folder.path(), "current");
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("ace 1 lines (37 bytes) dropped"), "{text}");
    }

    proptest! {
        /// Whatever a tenant prints, however it is cut, each line in the file has our header, and
        /// what follows the headers is what was printed.
        #[test]
        fn no_bytes_pass_for_a_header(
            chunks in prop::collection::vec(prop::collection::vec(prop_oneof![
                4 => Just(b"\n".to_vec()),
                2 => Just(HEADER.as_bytes().to_vec()),
                2 => prop::collection::vec(any::<u8>(), 0..40),
                1 => Just(vec![b'x'; LogSpec::LINE_MAX]),
            ], 0..8).prop_map(|parts| parts.concat()), 0..8)
        ) {
            let (folder, now) = (TempDir::new().unwrap(), Instant::now());
            let mut log = writer(folder.path(), 1 << 40, 1 << 40, now);
            let mut splitter = LineSplitter::default();
            for chunk in &chunks {
                splitter.feed(chunk, |line| log.line(Stream::Out, line, at(), now));
            }
            splitter.finish(|line| log.line(Stream::Out, line, at(), now));
            log.finish(at());

            let written = fs::read(folder.path().join("current")).unwrap();
            let mut texts = Vec::new();
            for line in written.split_inclusive(|byte| *byte == b'\n') {
                let text = line.strip_prefix(HEADER.as_bytes());
                prop_assert!(text.is_some(), "no header: {:?}", String::from_utf8_lossy(line));
                let text = text.unwrap().strip_suffix(b"\n").unwrap();
                prop_assert!(text.len() <= LogSpec::LINE_MAX);
                texts.extend_from_slice(text);
            }
            let printed = chunks.concat().into_iter().filter(|byte| *byte != b'\n');
            prop_assert_eq!(texts, printed.collect::<Vec<_>>());
        }
    }
}
