//! The access log: one JSON document a line for each request that has ended.
//!
//! Lines are written by a thread of their own. A request leaves its line in a bounded queue, and where
//! that is full the line is dropped and counted: neither a slow disk nor a full one is ever waited
//! for. The file is renamed when it is full, and so many old ones are kept; one that somebody else has
//! renamed is begun anew.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ace_types::{AppName, InstanceId, ReleaseNumber, error_chain};
use http::{HeaderValue, Method, StatusCode, Uri, Version};
use jiff::Timestamp;
use serde::Serialize;

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
    queue: SyncSender<AccessLine>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// One request.
#[derive(Debug, Clone)]
pub struct AccessLine {
    /// When it had ended.
    pub at: Timestamp,
    pub request: String,
    pub client: IpAddr,
    /// `None`: the head was refused before it could be told.
    pub asked: Option<Asked>,
    /// At most [`HEADER_MAX`] bytes, as is the user agent.
    pub host: Option<String>,
    pub user_agent: Option<String>,
    /// `None`: the client left before there was an answer.
    pub status: Option<StatusCode>,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub duration: Duration,
    pub first_byte: Option<Duration>,
    pub app: Option<(AppName, ReleaseNumber)>,
    pub instance: Option<InstanceId>,
}

/// What a request line says.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: Method,
    /// At most [`PATH_MAX`] bytes.
    pub path: String,
    pub version: Version,
}

/// Lines that may wait for the disk.
const QUEUE: usize = 8192;
/// How much of a path is logged, in bytes.
const PATH_MAX: usize = 2048;
/// How much of a host or user agent is logged, in bytes.
const HEADER_MAX: usize = 256;
/// How long lines are gathered: whoever waits for each has to be woken for each.
const GATHER: Duration = Duration::from_millis(50);
/// How often it's looked whether the file is still the one of its name.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the operator is told of dropped lines.
const TELL_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Shared {
    dropped: AtomicU64,
    /// No more lines come.
    finished: AtomicBool,
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
        let (queue, lines) = sync_channel(QUEUE);
        let shared = Arc::new(Shared::default());
        let file = LogFile::open(config)?;
        let writer = Writer { file, shared: Arc::clone(&shared), told: None };
        let thread = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(|| writer.run(lines))?;
        Ok(Self { queue, shared, thread: Mutex::new(Some(thread)) })
    }

    /// Leaves `line` to be written. Never waits.
    pub fn write(&self, line: AccessLine) {
        match self.queue.try_send(line) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// How many lines have been dropped.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Waits until what is in the queue is written, or dropped. May be called twice.
    pub fn finish(&self) {
        self.shared.finished.store(true, Ordering::Relaxed);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // One that panicked writes nothing more either.
            _ = thread.join();
        }
    }
}

impl AccessLine {
    /// As much of the path in `uri` as is logged.
    pub fn path_of(uri: &Uri) -> String {
        let path = uri.path();
        path[..path.floor_char_boundary(PATH_MAX)].to_owned()
    }

    /// As much of a header's value as is logged. A copy: the value itself would hold on to the whole
    /// head that it came in.
    pub fn header_of(value: &HeaderValue) -> String {
        let bytes = value.as_bytes();
        String::from_utf8_lossy(&bytes[..bytes.len().min(HEADER_MAX)]).into_owned()
    }

    /// Adds the line, with its end, to `bytes`.
    fn render(&self, bytes: &mut Vec<u8>) {
        let document = Document {
            time: format!("{:.6}", self.at),
            request: &self.request,
            client: self.client,
            method: self.asked.as_ref().map(|asked| asked.method.as_str()),
            host: self.host.as_deref(),
            path: self.asked.as_ref().map(|asked| asked.path.as_str()),
            protocol: self.asked.as_ref().map(|asked| protocol(asked.version)),
            user_agent: self.user_agent.as_deref(),
            status: self.status.map(|status| status.as_u16()),
            received_bytes: self.received_bytes,
            sent_bytes: self.sent_bytes,
            duration_ms: millis(self.duration),
            first_byte_ms: self.first_byte.map(millis),
            app: self.app.as_ref().map(|(app, _)| app.as_str()),
            release: self.app.as_ref().map(|(_, release)| release.0),
            instance: self.instance.as_ref().map(InstanceId::as_str),
        };
        // Plain data always has a JSON form.
        let text = serde_json::to_string(&document).unwrap_or_default();
        push_ascii(bytes, &text);
        bytes.push(b'\n');
    }
}

/// A line's form, which is documented.
#[derive(Serialize)]
struct Document<'a> {
    time: String,
    request: &'a str,
    client: IpAddr,
    method: Option<&'a str>,
    host: Option<&'a str>,
    path: Option<&'a str>,
    protocol: Option<&'static str>,
    user_agent: Option<&'a str>,
    status: Option<u16>,
    received_bytes: u64,
    sent_bytes: u64,
    duration_ms: f64,
    first_byte_ms: Option<f64>,
    app: Option<&'a str>,
    release: Option<u32>,
    instance: Option<&'a str>,
}

/// Writes what is in the queue, batch by batch.
struct Writer {
    file: LogFile,
    shared: Arc<Shared>,
    /// How many dropped lines the operator has been told of, and when.
    told: Option<(u64, Instant)>,
}

impl Writer {
    fn run(mut self, lines: Receiver<AccessLine>) {
        let mut batch = Vec::new();
        loop {
            let is_last = self.shared.finished.load(Ordering::Relaxed);
            let first = match is_last {
                true => lines.try_recv().ok(),
                false => match lines.recv_timeout(LOOK_EVERY) {
                    Ok(line) => Some(line),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return,
                },
            };
            if first.is_some() && !is_last {
                std::thread::sleep(GATHER);
            }
            let mut count = 0;
            for line in first.into_iter().chain(lines.try_iter()).take(QUEUE) {
                line.render(&mut batch);
                count += 1;
            }
            if let Err(error) = self.file.append(&batch) {
                self.shared.dropped.fetch_add(count, Ordering::Relaxed);
                tracing::debug!(error = %error_chain(&error), "could not write the access log");
            }
            batch.clear();
            self.tell(Instant::now());
            if is_last && count == 0 {
                return;
            }
        }
    }

    /// Tells the operator of lines that were dropped, from time to time.
    fn tell(&mut self, now: Instant) {
        let dropped = self.shared.dropped.load(Ordering::Relaxed);
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

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

/// To a thousandth of a millisecond.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// Adds JSON to `bytes` with everything but ASCII escaped: then nothing in it can move a terminal's
/// cursor or turn text around. JSON itself leaves no other control character than DEL.
fn push_ascii(bytes: &mut Vec<u8>, json: &str) {
    for c in json.chars() {
        if c.is_ascii() && c != '\x7f' {
            bytes.push(c as u8);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                bytes.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;
    use tempfile::TempDir;

    use super::*;

    fn line(path: &str, user_agent: &[u8]) -> AccessLine {
        AccessLine {
            at: "2026-11-23T05:49:27Z".parse().unwrap(),
            request: "0f".to_owned(),
            client: IpAddr::from([192, 0, 2, 1]),
            asked: Some(Asked {
                method: Method::GET,
                path: path.to_owned(),
                version: Version::HTTP_11,
            }),
            host: Some("shop.localhost".to_owned()),
            user_agent: HeaderValue::from_bytes(user_agent)
                .ok()
                .as_ref()
                .map(AccessLine::header_of),
            status: Some(StatusCode::OK),
            received_bytes: 0,
            sent_bytes: 12,
            duration: Duration::from_micros(1234),
            first_byte: None,
            app: Some(("shop".parse().unwrap(), ReleaseNumber(3))),
            instance: None,
        }
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
    fn a_request_is_one_line_of_json() {
        let mut bytes = Vec::new();
        line("/x", b"curl/8").render(&mut bytes);
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            "{\"time\":\"2026-11-23T05:49:27.000000Z\",\"request\":\"0f\",\"client\":\"192.0.2.1\",\
             \"method\":\"GET\",\"host\":\"shop.localhost\",\"path\":\"/x\",\"protocol\":\"HTTP/1.1\",\
             \"user_agent\":\"curl/8\",\"status\":200,\"received_bytes\":0,\"sent_bytes\":12,\
             \"duration_ms\":1.234,\"first_byte_ms\":null,\"app\":\"shop\",\"release\":3,\
             \"instance\":null}\n"
        );
    }

    #[test]
    fn all_that_was_left_is_written_before_the_end() {
        let folder = TempDir::new().unwrap();
        let log = AccessLog::open(config(&folder, 1 << 20)).unwrap();
        for number in 0..100 {
            log.write(line(&format!("/{number}"), b""));
        }
        log.finish();
        let paths: Vec<Value> = documents(&folder.path().join("access.log"))
            .iter()
            .map(|document| document["path"].clone())
            .collect();
        assert_eq!((paths.len(), &paths[99]), (100, &Value::from("/99")));
        log.write(line("/late", b""));
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
        for _ in 0..QUEUE * 2 {
            log.write(line("/", b""));
        }
        log.finish();
        assert_eq!(log.dropped(), QUEUE as u64 * 2);
    }

    proptest! {
        #[test]
        fn no_client_forges_a_line(path in "\\PC{0,40}", agent: Vec<u8>) {
            let mut bytes = Vec::new();
            line(&path, &agent).render(&mut bytes);
            let text = String::from_utf8(bytes).unwrap();
            let (one, rest) = text.split_once('\n').unwrap();
            prop_assert_eq!(rest, "");
            prop_assert!(one.chars().all(|c| (' '..='~').contains(&c)), "{}", one);
            let document: Value = serde_json::from_str(one).unwrap();
            prop_assert_eq!(document["path"].as_str(), Some(path.as_str()));
        }
    }
}
