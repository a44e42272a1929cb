//! The build's log: lines of bounded length, and a bounded number of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ace_types::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

use crate::mistagged;
use crate::old_setuptools;
use crate::remedy::{package_for, remedy};
use crate::wheels::{self, Version};

/// The longest line; what is longer goes on in the next one.
const LINE_MAX: usize = 4096;
/// The most packages that are noted as missing.
const MISSING_MAX: usize = 5;

/// Where the lines of one build go.
#[derive(Debug)]
pub struct BuildLog {
    lines: mpsc::Sender<String>,
    left: AtomicU64,
    max: Bytes,
    noted: Mutex<Noted>,
}

/// What the lines told about things that this server lacks.
#[derive(Debug, Default)]
struct Noted {
    /// The app's Python: `3.11`.
    python: String,
    /// Packages that would bring them, in the order in which they were missing.
    missing: Vec<String>,
    /// The package that could not be built.
    failed: Option<Version>,
    /// Packages whose wheels say in an old way what they are for.
    mistagged: Vec<String>,
    /// The first setuptools that lacks something which a package's build misses.
    setuptools_below: Option<u32>,
}

impl BuildLog {
    /// At most `max` bytes are sent to `lines`.
    pub fn new(lines: mpsc::Sender<String>, max: Bytes) -> Self {
        Self { lines, left: AtomicU64::new(max.0), max, noted: Mutex::default() }
    }

    /// Sends a line, once there is room for it. That nobody listens any more is no error.
    pub async fn say(&self, line: impl Into<String>) {
        let line = line.into();
        let size = line.len() as u64 + 1;
        let take = |left: u64| Some(left.saturating_sub(size));
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).unwrap_or(0);
        if left >= size {
            let _ = self.lines.send(line).await;
        } else if left > 0 {
            let end = format!("the build's log is longer than {}; the rest is left out", self.max);
            let _ = self.lines.send(end).await;
        }
    }

    /// From now on, what installers say is about this Python, such as `3.11`.
    pub fn set_python(&self, minor_version: String) {
        self.noted().python = minor_version;
    }

    /// What could be done about things that were missing.
    pub fn remedy(&self) -> Option<String> {
        remedy(&self.noted().missing)
    }

    /// The package that could not be built, and the Python for which.
    pub fn failed_build(&self) -> Option<(Version, String)> {
        let noted = self.noted();
        Some((noted.failed.clone()?, noted.python.clone()))
    }

    /// Packages whose wheels say in an old way what they are for; see [`mistagged`].
    pub fn mistagged(&self) -> Vec<String> {
        self.noted().mistagged.clone()
    }

    /// The setuptools below which all is there that builds have missed; see [`old_setuptools`].
    pub fn setuptools_below(&self) -> Option<u32> {
        self.noted().setuptools_below
    }

    /// Sends each line of `output` until its end. An error of reading ends it as well.
    pub async fn say_all(&self, mut output: impl AsyncRead + Unpin) {
        let mut splitter = LineSplitter::default();
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = output.read(&mut buffer).await {
            for line in splitter.push(&buffer[..length]) {
                self.note(&line);
                self.say(line).await;
            }
        }
        if let Some(line) = splitter.rest() {
            self.note(&line);
            self.say(line).await;
        }
    }

    fn note(&self, line: &str) {
        let mut noted = self.noted();
        if let Some(failed) = wheels::failed_in(line) {
            noted.failed = Some(failed);
        }
        if let Some(name) = mistagged::named_in(line)
            && !noted.mistagged.contains(&name)
        {
            noted.mistagged.push(name);
        }
        if let Some(below) = old_setuptools::removed_in(line) {
            let lowest = noted.setuptools_below.map_or(below, |known| known.min(below));
            noted.setuptools_below = Some(lowest);
        }
        if noted.missing.len() == MISSING_MAX {
            return;
        }
        if let Some(package) = package_for(line, &noted.python)
            && !noted.missing.contains(&package)
        {
            noted.missing.push(package);
        }
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cuts bytes into lines, whatever pieces they arrive in.
#[derive(Default)]
struct LineSplitter {
    line: Vec<u8>,
}

impl LineSplitter {
    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
            }
            if *byte == b'\n' || self.line.len() == LINE_MAX {
                lines.push(self.take());
            }
        }
        lines
    }

    fn rest(&mut self) -> Option<String> {
        (!self.line.is_empty()).then(|| self.take())
    }

    fn take(&mut self) -> String {
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        String::from_utf8_lossy(line).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_at_their_ends_and_at_a_length() {
        let mut splitter = LineSplitter::default();
        assert_eq!(splitter.push(b"one\r\ntw"), ["one"]);
        assert_eq!(splitter.push(b"o\n\nrest"), ["two", ""]);
        assert_eq!(splitter.rest().as_deref(), Some("rest"));
        let long = splitter.push(&[b'x'; LINE_MAX + 1]);
        assert_eq!(long, ["x".repeat(LINE_MAX)]);
    }

    #[tokio::test]
    async fn a_log_that_is_too_long_says_so_once() {
        let (sender, mut receiver) = mpsc::channel(16);
        let log = BuildLog::new(sender, Bytes(10));
        for line in ["12345678", "too long", "more"] {
            log.say(line).await;
        }
        drop(log);
        assert_eq!(receiver.recv().await.as_deref(), Some("12345678"));
        let end = "the build's log is longer than 10; the rest is left out";
        assert_eq!(receiver.recv().await.as_deref(), Some(end));
        assert_eq!(receiver.recv().await, None);
    }
}
