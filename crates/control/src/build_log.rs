//! What a build says, kept in a file of bounded size.

use std::io;
use std::path::{Path, PathBuf};

use ace_types::{Bytes, error_chain};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncWriteExt, BufWriter};

/// The largest file.
const SIZE_MAX: Bytes = Bytes::mib(8);

/// A build's log. A disk that refuses is no reason for a build to fail: that is only warned of.
pub struct BuildLog {
    path: PathBuf,
    /// `None` once it's full or the disk has refused.
    file: Option<BufWriter<File>>,
    room: u64,
}

impl BuildLog {
    /// Begins the log at `path`.
    pub async fn create(path: &Path) -> Self {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(path).await;
        let mut log = Self { path: path.to_owned(), file: None, room: SIZE_MAX.0 };
        match file {
            Ok(file) => log.file = Some(BufWriter::new(file)),
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
                log.file = Some(BufWriter::new(file));
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
            file.write_all(line.as_bytes()).await?;
            file.write_all(b"\n").await
        };
        if let Err(error) = written.await {
            self.warn(&error);
            self.file = None;
        } else if full {
            self.finish().await;
        }
    }

    /// Writes out what is still in memory.
    pub async fn finish(&mut self) {
        if let Some(mut file) = self.file.take()
            && let Err(error) = file.flush().await
        {
            self.warn(&error);
        }
    }

    fn warn(&self, error: &io::Error) {
        let path = self.path.display();
        tracing::warn!(%path, error = %error_chain(error), "could not keep a build's log");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
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
        log.finish().await;
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.len() as u64 <= SIZE_MAX.0 + 64);
        assert_eq!(text.lines().last(), Some("(the log is full)"));
    }

    #[tokio::test]
    async fn a_disk_that_refuses_does_not_stop_a_build() {
        let mut log = BuildLog::create(Path::new("/nowhere/log")).await;
        log.add("a line").await;
        log.finish().await;
    }
}
