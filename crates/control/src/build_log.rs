//! What a build says, kept in a file of bounded size, and read from there.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ace_types::{Bytes, error_chain};
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;

/// The largest file.
const SIZE_MAX: Bytes = Bytes::mib(8);

/// A build's log. A disk that refuses is no reason for a build to fail: that is only warned of.
pub struct BuildLog {
    path: PathBuf,
    /// `None` once it's full or the disk has refused.
    file: Option<File>,
    room: u64,
}

/// Reads a build's log, and what is added to it meanwhile. Blocks.
#[derive(Debug)]
pub struct BuildLogReader {
    file: fs::File,
    /// The beginning of a line whose end has not been written yet.
    partial: Vec<u8>,
}

impl BuildLog {
    /// Begins the log at `path`.
    pub async fn create(path: &Path) -> Self {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(path).await;
        let mut log = Self { path: path.to_owned(), file: None, room: SIZE_MAX.0 };
        match file {
            Ok(file) => log.file = Some(file),
            Err(error) => log.warn(&error),
        }
        log
    }

    /// Goes on with the log at `path`.
    pub async fn append(path: &Path) -> Self {
        let opened = async {
            let file = OpenOptions::new().append(true).open(path).await?;
            let size = file.metadata().await?.len();
            Ok::<_, io::Error>((file, size))
        };
        let mut log = Self { path: path.to_owned(), file: None, room: 0 };
        match opened.await {
            // One that is full says so already.
            Ok((_, size)) if size >= SIZE_MAX.0 => {}
            Ok((file, size)) => {
                log.file = Some(file);
                log.room = SIZE_MAX.0 - size;
            }
            Err(error) => log.warn(&error),
        }
        log
    }

    /// Adds a line, or nothing where the log is full.
    pub async fn add(&mut self, line: &str) {
        let Some(file) = &mut self.file else { return };
        let size = line.len() as u64 + 1;
        let full = size > self.room;
        self.room = self.room.saturating_sub(size);
        let line = if full { "(the log is full)" } else { line };
        let written = async {
            // In one piece, and at once: somebody may be reading along.
            file.write_all(format!("{line}\n").as_bytes()).await?;
            file.flush().await
        };
        if let Err(error) = written.await {
            self.warn(&error);
            self.file = None;
        } else if full {
            self.file = None;
        }
    }

    fn warn(&self, error: &io::Error) {
        let path = self.path.display();
        tracing::warn!(%path, error = %error_chain(error), "could not keep a build's log");
    }
}

impl BuildLogReader {
    /// What one [`Self::read`] reads at most.
    const PIECE_MAX: u64 = 256 << 10;

    /// `None` where there is no log at `path`.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        match fs::File::open(path) {
            Ok(file) => Ok(Some(Self { file, partial: Vec::new() })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The next lines; none at the end of what there is by now.
    pub fn read(&mut self) -> io::Result<Vec<String>> {
        loop {
            let read = self.file.by_ref().take(Self::PIECE_MAX).read_to_end(&mut self.partial)?;
            if let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') {
                let rest = self.partial.split_off(end + 1);
                let lines = std::mem::replace(&mut self.partial, rest);
                return Ok(String::from_utf8_lossy(&lines).lines().map(str::to_owned).collect());
            }
            if read == 0 {
                return Ok(Vec::new());
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn a_log_ends_where_it_is_full() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("log");
        let mut log = BuildLog::create(&path).await;
        let line = "x".repeat(1 << 20);
        for _ in 0..20 {
            log.add(&line).await;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.len() as u64 <= SIZE_MAX.0 + 64);
        assert_eq!(text.lines().last(), Some("(the log is full)"));
    }

    #[tokio::test]
    async fn a_log_is_read_while_it_grows() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("log");
        assert!(BuildLogReader::open(&path).unwrap().is_none());
        let mut log = BuildLog::create(&path).await;
        let mut reader = BuildLogReader::open(&path).unwrap().unwrap();
        assert!(reader.read().unwrap().is_empty());
        log.add("one").await;
        log.add("two").await;
        assert_eq!(reader.read().unwrap(), ["one", "two"]);
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"th").unwrap();
        assert!(reader.read().unwrap().is_empty());
        BuildLog::append(&path).await.add("ree").await;
        assert_eq!(reader.read().unwrap(), ["three"]);
        assert!(reader.read().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_disk_that_refuses_does_not_stop_a_build() {
        let mut log = BuildLog::create(Path::new("/nowhere/log")).await;
        log.add("a line").await;
    }
}
