//! Reads one instance's log files: their end, and what is added while somebody looks.
//!
//! The files are `current`, then `1`, `2`… the older the higher; `current` becomes `1` when it's
//! full, and so on. The last one is removed. A file is known by its inode, whatever its name is by
//! now. All functions block, and none keeps more than a few MiB in memory.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ace_api::http::LogLine;
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::log_line::{self, Origin};

/// Old files that are looked for at most.
const FILES_MAX: usize = 16;
/// What is read of one instance to show the end of its log.
const TAIL_MAX: u64 = 4 << 20;
/// What one [`Follower::poll`] reads at most.
const POLL_MAX: u64 = 1 << 20;
/// A line without an end is given up at this length; no honest one is as long.
const LINE_MAX: usize = 64 << 10;

/// Reads on in one instance's log from where it stands.
#[derive(Debug)]
pub struct Follower {
    origin: Origin,
    folder: PathBuf,
    /// The file being read; `None` until there is one.
    place: Option<Place>,
}

#[derive(Debug)]
struct Place {
    file: File,
    inode: u64,
    /// The beginning of a line whose end has not been written yet.
    partial: Vec<u8>,
}

impl Follower {
    /// Follows from the oldest line that is kept.
    pub fn from_start(origin: Origin, folder: PathBuf) -> Self {
        Self { origin, folder, place: None }
    }

    /// The last lines, at most `count` of them, and a follower that goes on after the last.
    ///
    /// Very long lines make it fewer: a few MiB are read.
    pub fn from_end(
        origin: Origin,
        folder: PathBuf,
        count: usize,
    ) -> io::Result<(Vec<LogLine>, Self)> {
        let mut follower = Self::from_start(origin, folder);
        let mut newest_first: Vec<Vec<u8>> = Vec::new();
        let (mut budget, mut seen) = (TAIL_MAX, Vec::new());
        for name in names() {
            let Some(mut place) = open_place(&follower.folder, &name)? else { continue };
            // Its name has moved on since the one before was opened.
            if seen.contains(&place.inode) {
                continue;
            }
            seen.push(place.inode);
            let (mut lines, read) = place.read_end(budget)?;
            budget -= read;
            lines.reverse();
            newest_first.append(&mut lines);
            follower.place.get_or_insert(place);
            if newest_first.len() >= count || budget == 0 {
                break;
            }
        }
        newest_first.truncate(count);
        newest_first.reverse();
        Ok((follower.parse(&newest_first), follower))
    }

    /// What has been added since, at most about 1 MiB of it.
    pub fn poll(&mut self) -> io::Result<Vec<LogLine>> {
        let (mut lines, mut budget) = (Vec::new(), POLL_MAX);
        for _ in 0..=FILES_MAX {
            if self.place.is_none() {
                self.place = oldest(&self.folder)?;
            }
            let Some(place) = &mut self.place else { break };
            budget -= place.read_lines(budget, &mut lines)?;
            if budget == 0 {
                break;
            }
            let Some(next) = successor(&self.folder, place.inode)? else { break };
            // The writer may have added to the old file between our reading and its renaming.
            budget -= place.read_lines(budget, &mut lines)?;
            if budget == 0 {
                break;
            }
            lines.push(std::mem::take(&mut place.partial));
            self.place = Some(next);
        }
        Ok(self.parse(&lines))
    }

    fn parse(&self, lines: &[Vec<u8>]) -> Vec<LogLine> {
        lines.iter().filter_map(|line| log_line::parse(&self.origin, line)).collect()
    }
}

impl Place {
    /// Reads up to `max` bytes and adds the lines that are whole. Returns how much was read.
    fn read_lines(&mut self, max: u64, lines: &mut Vec<Vec<u8>>) -> io::Result<u64> {
        let mut bytes = std::mem::take(&mut self.partial);
        let had = bytes.len();
        self.file.by_ref().take(max).read_to_end(&mut bytes)?;
        let read = (bytes.len() - had) as u64;
        let (whole, partial) = split_lines(&bytes);
        lines.extend(whole);
        if partial.len() <= LINE_MAX {
            self.partial = partial;
        }
        Ok(read)
    }

    /// Reads the last `max` bytes and goes on from their end. Returns the lines that are whole, and
    /// how much was read.
    fn read_end(&mut self, max: u64) -> io::Result<(Vec<Vec<u8>>, u64)> {
        let size = self.file.metadata()?.len();
        let start = size.saturating_sub(max);
        self.file.seek(SeekFrom::Start(start))?;
        let mut lines = Vec::new();
        let read = self.read_lines(size - start, &mut lines)?;
        if start > 0 && !lines.is_empty() {
            // It lacks its beginning.
            lines.remove(0);
        }
        Ok((lines, read))
    }
}

/// The whole lines in `bytes`, without their ends, and what comes after the last of them.
fn split_lines(bytes: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut lines: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let partial = lines.pop().unwrap_or_default();
    (lines, partial)
}

/// The files' names, the newest first.
fn names() -> impl DoubleEndedIterator<Item = String> {
    std::iter::once("current".to_owned()).chain((1..FILES_MAX).map(|n| n.to_string()))
}

/// The oldest file there is.
fn oldest(folder: &Path) -> io::Result<Option<Place>> {
    for name in names().rev() {
        if let Some(place) = open_place(folder, &name)? {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

/// The file that was begun after the one with `inode` was full; `None` while that is the current
/// one.
///
/// From the newest to the oldest, each opened before the next is looked for: so a file that is being
/// renamed meanwhile is met under its old name, or its new one, or both.
fn successor(folder: &Path, inode: u64) -> io::Result<Option<Place>> {
    let mut newer = None;
    for name in names() {
        match open_place(folder, &name)? {
            Some(place) if place.inode == inode => return Ok(newer),
            Some(place) => newer = Some(place),
            None => {}
        }
    }
    // It has been removed: what is left begins later.
    oldest(folder)
}

/// Opens a log file at its beginning; `None` where there is none.
///
/// Follows no link and waits for no pipe: init writes there, and it might have been taken over.
fn open_place(folder: &Path, name: &str) -> io::Result<Option<Place>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(CWD, folder, flags | OFlags::DIRECTORY, Mode::empty())
        .and_then(|folder| openat(folder, name, flags, Mode::empty()))
    {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let metadata = file.metadata()?;
    let place = Place { inode: metadata.ino(), file, partial: Vec::new() };
    Ok(metadata.is_file().then_some(place))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    const FILES: usize = 5;

    /// A log as init writes it.
    struct Log {
        folder: TempDir,
        written: usize,
    }

    impl Log {
        fn new() -> Self {
            Self { folder: TempDir::new().unwrap(), written: 0 }
        }

        fn path(&self, name: impl ToString) -> PathBuf {
            self.folder.path().join(name.to_string())
        }

        fn append(&self, bytes: &str) {
            let mut options = fs::OpenOptions::new();
            let mut file = options.create(true).append(true).open(self.path("current")).unwrap();
            file.write_all(bytes.as_bytes()).unwrap();
        }

        fn write(&mut self, lines: usize) {
            for _ in 0..lines {
                self.append(&format!("2026-11-23T05:49:27.000000Z out {}\n", self.written));
                self.written += 1;
            }
        }

        fn rotate(&self) {
            for n in (1..FILES - 1).rev() {
                let _ = fs::rename(self.path(n), self.path(n + 1));
            }
            let _ = fs::rename(self.path("current"), self.path(1));
        }

        fn follow(&self) -> Follower {
            Follower::from_start(Origin::default(), self.folder.path().to_owned())
        }

        fn tail(&self, count: usize) -> (Vec<usize>, Follower) {
            let folder = self.folder.path().to_owned();
            let (lines, follower) = Follower::from_end(Origin::default(), folder, count).unwrap();
            (numbers(lines), follower)
        }
    }

    fn numbers(lines: Vec<LogLine>) -> Vec<usize> {
        lines.iter().map(|line| line.text.parse().unwrap()).collect()
    }

    fn range(range: std::ops::Range<usize>) -> Vec<usize> {
        range.collect()
    }

    #[test]
    fn a_log_that_is_not_there_yet_is_empty() {
        let mut log = Log::new();
        let mut follower = log.follow();
        assert_eq!(numbers(follower.poll().unwrap()), range(0..0));
        assert_eq!(log.tail(9).0, range(0..0));
        log.write(2);
        assert_eq!(numbers(follower.poll().unwrap()), range(0..2));
    }

    #[test]
    fn the_end_reaches_back_into_older_files() {
        let mut log = Log::new();
        log.write(3);
        log.rotate();
        log.write(2);
        assert_eq!(log.tail(4).0, range(1..5));
        assert_eq!(log.tail(2).0, range(3..5));
        assert_eq!(log.tail(99).0, range(0..5));
        assert_eq!(log.tail(0).0, range(0..0));
    }

    #[test]
    fn a_follower_goes_on_where_the_end_was() {
        let mut log = Log::new();
        log.write(3);
        let (_, mut follower) = log.tail(1);
        log.write(2);
        assert_eq!(numbers(follower.poll().unwrap()), range(3..5));
        assert_eq!(numbers(follower.poll().unwrap()), range(0..0));
    }

    #[test]
    fn half_a_line_waits_for_its_other_half() {
        let log = Log::new();
        log.append("2026-11-23T05:49:27Z out 4");
        let mut follower = log.follow();
        assert_eq!(numbers(follower.poll().unwrap()), range(0..0));
        let (_, mut from_end) = log.tail(5);
        log.append("2\n");
        assert_eq!(numbers(follower.poll().unwrap()), [42]);
        assert_eq!(numbers(from_end.poll().unwrap()), [42]);
    }

    #[test]
    fn two_rotations_between_two_looks_lose_nothing() {
        let mut log = Log::new();
        log.write(2);
        let (_, mut follower) = log.tail(9);
        for _ in 0..3 {
            log.write(2);
            log.rotate();
        }
        log.write(1);
        assert_eq!(numbers(follower.poll().unwrap()), range(2..9));
    }

    #[test]
    fn what_was_removed_before_it_was_read_is_skipped() {
        let mut log = Log::new();
        log.write(1);
        let (_, mut follower) = log.tail(9);
        for _ in 0..FILES {
            log.rotate();
            log.write(1);
        }
        // The file that we hold is gone from the folder, and so is the one after it.
        fs::remove_file(log.path(FILES - 1)).unwrap();
        assert_eq!(numbers(follower.poll().unwrap()), range(2..6));
    }

    #[test]
    fn neither_links_nor_pipes_are_read() {
        let log = Log::new();
        let secret = TempDir::new().unwrap();
        fs::write(secret.path().join("secret"), "2026-11-23T05:49:27Z out 1\n").unwrap();
        symlink(secret.path().join("secret"), log.path("current")).unwrap();
        assert!(log.follow().poll().is_err());
        fs::remove_file(log.path("current")).unwrap();
        let pipe = std::ffi::CString::new(log.path("current").to_str().unwrap()).unwrap();
        rustix::fs::mkfifoat(CWD, pipe, Mode::RWXU).unwrap();
        assert_eq!(numbers(log.follow().poll().unwrap()), range(0..0));
    }

    #[test]
    fn a_line_that_never_ends_is_given_up() {
        let log = Log::new();
        log.append(&"x".repeat(LINE_MAX + 1));
        let mut follower = log.follow();
        assert!(follower.poll().unwrap().is_empty());
        assert!(follower.place.unwrap().partial.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Looks come at least once in three rotations, so that nothing is removed unread.
        #[test]
        fn a_follower_sees_each_line_once_and_in_order(
            rounds in proptest::collection::vec((0_usize..4, any::<bool>()), 1..40)
        ) {
            let mut log = Log::new();
            let (mut follower, mut seen, mut rotations) = (log.follow(), Vec::new(), 0);
            for (lines, rotate) in rounds {
                log.write(lines);
                if rotate {
                    log.rotate();
                    rotations += 1;
                }
                if rotations == 3 || lines == 3 {
                    seen.extend(numbers(follower.poll().unwrap()));
                    rotations = 0;
                }
            }
            seen.extend(numbers(follower.poll().unwrap()));
            prop_assert_eq!(seen, range(0..log.written));
        }
    }
}
