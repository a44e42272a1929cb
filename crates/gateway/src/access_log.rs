//! The access log: one JSON document a line for each request that has ended.
//!
//! A request's thread spells its line and adds it to those that wait, of which there are so many bytes at
//! most; a thread of the log's own writes them, many at a time. Where there is no room the line is dropped
//! and counted: neither a slow disk nor a full one is ever waited for. The file is renamed when it is full,
//! and so many old ones are kept; one that somebody else has renamed is begun anew.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ace_types::error_chain;

use crate::access_line::{AccessLine, Pen};

/// Where the access log is written, and how much of it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLogConfig {
    pub file: PathBuf,
    /// A file of this size is renamed to `FILE.1`, that to `FILE.2` and so on.
    pub size_max: u64,
    /// How many renamed ones are kept.
    pub old_files: u32,
}

/// The near end of the log.
#[derive(Debug)]
pub struct AccessLog {
    lines: Arc<Lines>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What may wait for the disk: what comes in a tenth of a second, of short requests to a busy machine.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// How long lines are gathered, unless there are [`GATHERED_BYTES`]: whoever waits for each has to be woken for each.
const GATHER: Duration = Duration::from_millis(50);
/// As many as one write is worth. More would no longer be in the processor's cache when they are written.
const GATHERED_BYTES: usize = 64 << 10;
/// How often it's looked whether the file is still the one of its name.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the operator is told of dropped lines.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// The lines between those who leave them and who writes them.
#[derive(Debug, Default)]
struct Lines {
    waiting: Mutex<Waiting>,
    /// Notified when the first of them has come, when they are worth a write, and at the end.
    worth_a_look: Condvar,
    dropped: AtomicU64,
}

/// The lines that wait to be written.
#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    count: u64,
    /// No more lines come.
    finished: bool,
}

impl AccessLogConfig {
    /// The access log at `file`, with the default of everything else.
    pub fn new(file: PathBuf) -> Self {
        Self { file, size_max: 64 << 20, old_files: 4 }
    }
}

impl AccessLog {
    /// Goes on with the log, or begins it.
    ///
    /// Errors: the file can't be opened, or no thread started.
    pub fn open(config: AccessLogConfig) -> io::Result<Self> {
        let lines = Arc::new(Lines::default());
        let file = LogFile::open(config)?;
        let writer = Writer { file, lines: Arc::clone(&lines), told: None };
        let thread =
            std::thread::Builder::new().name("access-log".to_owned()).spawn(|| writer.run())?;
        Ok(Self { lines, thread: Mutex::new(Some(thread)) })
    }

    /// Leaves `line` to be written. Never waits for a disk.
    pub fn write(&self, line: &AccessLine<'_>) {
        PEN.with_borrow_mut(|pen| self.lines.add(pen.spell(line)));
    }

    /// How many lines have been dropped.
    pub fn dropped(&self) -> u64 {
        self.lines.dropped.load(Ordering::Relaxed)
    }

    /// Waits until the lines that wait are written, or dropped. May be called twice.
    pub fn finish(&self) {
        self.lines.waiting().finished = true;
        self.lines.worth_a_look.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // One that panicked writes nothing more either.
            _ = thread.join();
        }
    }
}

impl Lines {
    /// Adds `line` to those that wait, if there is room.
    fn add(&self, line: &[u8]) {
        let mut waiting = self.waiting();
        if waiting.finished || waiting.bytes.len() + line.len() > WAITING_BYTES_MAX {
            drop(waiting);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let before = waiting.bytes.len();
        waiting.bytes.extend_from_slice(line);
        waiting.count += 1;
        let after = waiting.bytes.len();
        drop(waiting);
        if before == 0 || (before < GATHERED_BYTES && after >= GATHERED_BYTES) {
            self.worth_a_look.notify_one();
        }
    }

    /// Waits for lines, no longer than [`LOOK_EVERY`], and gathers more of them. `room` is empty.
    fn gather(&self, room: Vec<u8>) -> Waiting {
        let none = |waiting: &mut Waiting| waiting.bytes.is_empty() && !waiting.finished;
        let few = |waiting: &mut Waiting| waiting.bytes.len() < GATHERED_BYTES && !waiting.finished;
        let mut waiting = self.wait_while(self.waiting(), LOOK_EVERY, none);
        if !waiting.bytes.is_empty() {
            waiting = self.wait_while(waiting, GATHER, few);
        }
        let finished = waiting.finished;
        std::mem::replace(&mut *waiting, Waiting { bytes: room, count: 0, finished })
    }

    fn wait_while<'a>(
        &self,
        waiting: MutexGuard<'a, Waiting>,
        at_most: Duration,
        condition: impl FnMut(&mut Waiting) -> bool,
    ) -> MutexGuard<'a, Waiting> {
        let waited = self.worth_a_look.wait_timeout_while(waiting, at_most, condition);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that holds the lock leaves half a line behind.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

thread_local! {
    static PEN: RefCell<Pen> = const { RefCell::new(Pen::new()) };
}

/// Writes the lines that wait, batch by batch.
struct Writer {
    file: LogFile,
    lines: Arc<Lines>,
    /// How many dropped lines the operator has been told of, and when.
    told: Option<(u64, Instant)>,
}

impl Writer {
    fn run(mut self) {
        let mut room = Vec::new();
        loop {
            let mut batch = self.lines.gather(room);
            if let Err(error) = self.file.append(&batch.bytes) {
                self.lines.dropped.fetch_add(batch.count, Ordering::Relaxed);
                tracing::debug!(error = %error_chain(&error), "could not write the access log");
            }
            self.tell(Instant::now());
            if batch.finished {
                return; // None was added since.
            }
            batch.bytes.clear();
            room = batch.bytes;
        }
    }

    /// Tells the operator of lines that were dropped, from time to time.
    fn tell(&mut self, now: Instant) {
        let dropped = self.lines.dropped.load(Ordering::Relaxed);
        let (told, at) = self.told.unwrap_or((0, now));
        let is_due = self.told.is_none() || now.duration_since(at) >= TELL_EVERY;
        if dropped > told && is_due {
            let file = self.file.config.file.display();
            tracing::warn!(%file, lines = dropped - told, "lines of the access log were dropped");
            self.told = Some((dropped, now));
        }
    }
}

/// The files of the log.
struct LogFile {
    config: AccessLogConfig,
    /// The one that is being written; `None` while the disk can't have one.
    current: Option<Current>,
    looked: Instant,
}

struct Current {
    file: File,
    inode: u64,
    size: u64,
}

impl LogFile {
    /// Errors: others than that the disk is full or read-only, which may pass.
    fn open(config: AccessLogConfig) -> io::Result<Self> {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let current = match Current::open(&config.file) {
            Err(error)
                if matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem) =>
            {
                None
            }
            result => Some(result?),
        };
        Ok(Self { config, current, looked: Instant::now() })
    }

    /// Adds whole lines, in a new file where the current one is full.
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let size = self.current.as_ref().map_or(0, |current| current.size);
        if size > 0 && size + lines.len() as u64 > self.config.size_max {
            self.rotate()?;
        } else if self.looked.elapsed() >= LOOK_EVERY {
            self.look();
        }
        match &mut self.current {
            Some(current) => current.append(lines),
            None => self.current.insert(Current::open(&self.config.file)?).append(lines),
        }
    }

    /// Renames the full file, and the old ones; the oldest is overwritten.
    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.config.old_files).rev() {
            rename_if_there(&self.old(number), &self.old(number + 1))?;
        }
        match self.config.old_files {
            0 => fs::remove_file(&self.config.file)?,
            _ => rename_if_there(&self.config.file, &self.old(1))?,
        }
        self.current = None;
        Ok(())
    }

    /// Lets go of a file that somebody has renamed or removed.
    fn look(&mut self) {
        self.looked = Instant::now();
        let inode = fs::metadata(&self.config.file).map(|found| found.ino()).ok();
        self.current.take_if(|current| inode != Some(current.inode));
    }

    fn old(&self, number: u32) -> PathBuf {
        let mut name = self.config.file.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

impl Current {
    /// Opens `path` for adding to it. Other users can't read it.
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let found = file.metadata()?;
        Ok(Self { file, inode: found.ino(), size: found.len() })
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all(lines) {
            // Half a line would have the next one join it.
            _ = self.file.set_len(self.size);
            return Err(error);
        }
        self.size += lines.len() as u64;
        Ok(())
    }
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tempfile::TempDir;

    use super::*;
    use crate::access_line::with_line;

    /// Leaves a line for a request for `path`.
    fn ask(log: &AccessLog, path: &str) {
        with_line(path, b"", |line| log.write(line));
    }

    fn config(folder: &TempDir, size_max: u64) -> AccessLogConfig {
        let file = folder.path().join("access.log");
        AccessLogConfig { file, size_max, old_files: 2 }
    }

    fn documents(path: &Path) -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn all_that_was_left_is_written_before_the_end() {
        let folder = TempDir::new().unwrap();
        let log = AccessLog::open(config(&folder, 1 << 20)).unwrap();
        for number in 0..100 {
            ask(&log, &format!("/{number}"));
        }
        log.finish();
        let paths: Vec<Value> = documents(&folder.path().join("access.log"))
            .iter()
            .map(|document| document["path"].clone())
            .collect();
        assert_eq!((paths.len(), &paths[99]), (100, &Value::from("/99")));
        ask(&log, "/late");
        log.finish();
        assert_eq!(log.dropped(), 1);
    }

    #[test]
    fn files_rotate_and_the_oldest_goes() {
        let folder = TempDir::new().unwrap();
        let mut file = LogFile::open(config(&folder, 10)).unwrap();
        for number in 0..5 {
            file.append(format!("line {number}\n").as_bytes()).unwrap();
        }
        let kept = ["access.log", "access.log.1", "access.log.2"]
            .map(|name| fs::read_to_string(folder.path().join(name)).unwrap());
        assert_eq!(kept, ["line 4\n", "line 3\n", "line 2\n"]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_file_that_was_renamed_is_begun_anew() {
        let folder = TempDir::new().unwrap();
        let mut file = LogFile::open(config(&folder, 1 << 20)).unwrap();
        file.append(b"one\n").unwrap();
        let path = folder.path().join("access.log");
        fs::rename(&path, folder.path().join("moved")).unwrap();
        file.look();
        file.append(b"two\n").unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "two\n");
    }

    #[test]
    fn a_disk_that_is_full_costs_lines_and_nothing_else() {
        // It takes no byte, and says so.
        let full = AccessLogConfig::new(PathBuf::from("/dev/full"));
        let log = AccessLog::open(full).unwrap();
        for _ in 0..1000 {
            ask(&log, "/");
        }
        log.finish();
        assert_eq!(log.dropped(), 1000);
    }

    #[test]
    fn what_the_disk_does_not_take_in_time_is_dropped() {
        let (lines, line) = (Lines::default(), [b'x'; 1 << 10]);
        let room = WAITING_BYTES_MAX / line.len();
        for _ in 0..room + 3 {
            lines.add(&line);
        }
        assert_eq!(lines.dropped.load(Ordering::Relaxed), 3);
        let batch = lines.gather(Vec::new());
        assert_eq!((batch.count, batch.bytes.len()), (room as u64, WAITING_BYTES_MAX));
        lines.add(&line);
        assert_eq!(lines.waiting().count, 1);
    }
}
