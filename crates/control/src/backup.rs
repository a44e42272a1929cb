//! The engine's whole state as one stream, while apps serve.
//!
//! The rows are of one moment, and what they name stays on disk until the backup has ended: meanwhile
//! nothing is swept and no app's files are removed. A volume is copied as of a moment of its own, when its
//! turn comes.
//!
//! Not in it: what can be had again (caches, tools), logs, and what is under way.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ace_api::{ErrorCode, Program};
use ace_backup::{FORMAT, Header, ROWS, Row, Writer};
use ace_store::Entry;
use ace_types::error_chain;
use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::config::ControlConfig;
use crate::engine::Engine;
use crate::refusal::Refusal;
use crate::rows::ReleaseRow;

/// Files beside the store that an engine can't do without.
const FILES: [&str; 2] = ["engine.json", "pythons.json"];
/// What is sent at once.
const CHUNK: usize = 64 << 10;
/// Chunks that may wait for the client.
const CHUNKS: usize = 16;
/// How long a client may keep a chunk waiting.
const CHUNK_WITHIN: Duration = Duration::from_secs(60);

/// Whether a backup is being made.
#[derive(Debug, Default)]
pub struct Backups {
    running: watch::Sender<bool>,
}

/// A backup is being made until this is dropped.
struct Running(Arc<Engine>);

/// What goes into a backup.
struct Contents {
    rows: Vec<Entry>,
    /// Files and folders below the data folder.
    paths: BTreeSet<PathBuf>,
    volumes: Vec<PathBuf>,
    apps: u64,
    releases: u64,
}

impl Backups {
    pub fn is_running(&self) -> bool {
        *self.running.borrow()
    }

    /// Waits until none is being made.
    pub async fn ended(&self) {
        // The sender is ours: it's there for as long as this waits.
        let _ = self.running.subscribe().wait_for(|running| !running).await;
    }

    /// `false` where one is being made already.
    fn begin(&self) -> bool {
        self.running.send_if_modified(|running| !std::mem::replace(running, true))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.backups.running.send_replace(false);
    }
}

/// A piece of a backup, or why there is no more of it.
pub type Piece = Result<Bytes, String>;

/// Begins a backup, and returns it in pieces. It's whole only where its own end says so; dropping the
/// receiver gives it up.
pub async fn start(engine: &Arc<Engine>) -> Result<mpsc::Receiver<Piece>, Refusal> {
    if engine.is_ending() {
        return Err(Refusal::ending());
    }
    if !engine.backups.begin() {
        let message = "a backup is being made already; wait for its end";
        return Err(Refusal::new(ErrorCode::BackupRunning, message));
    }
    let running = Running(Arc::clone(engine));
    let contents = contents(engine).await?;
    let (chunks, receiver) = mpsc::channel(CHUNKS);
    let sink = Sink {
        engine: Arc::clone(engine),
        runtime: Handle::current(),
        chunks: chunks.clone(),
        buffer: BytesMut::with_capacity(CHUNK),
    };
    engine.tasks.spawn(async move {
        let engine = Arc::clone(&running.0);
        let written = tokio::task::spawn_blocking(move || write(&engine, &contents, sink)).await;
        match written.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(()) => tracing::info!("a backup was made"),
            Err(error) => {
                let reason = error_chain(&error);
                tracing::error!(error = %reason, "a backup was not finished");
                // Gone or stuck: then that is the reason.
                let _ = chunks.send_timeout(Err(reason), CHUNK_WITHIN).await;
            }
        }
        drop(running);
    });
    Ok(receiver)
}

/// Removes what a backup that was cut short left.
pub fn remove_scratch(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn contents(engine: &Engine) -> Result<Contents, Refusal> {
    let (state, rows) = engine.records.snapshot().await?;
    let files = FILES.iter().map(|name| engine.config.data.join(name));
    let made = state.releases().flat_map(|release| folders(release));
    let volumes = state.apps().map(|app| engine.config.volume(&app.name));
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    Ok(Contents {
        paths: files.chain(made).collect(),
        volumes: volumes.filter(|volume| ControlConfig::is_volume(volume)).collect(),
        apps: number(state.apps().count()),
        releases: number(state.releases().count()),
        rows,
    })
}

/// The folders that `release` needs.
fn folders(release: &ReleaseRow) -> Vec<PathBuf> {
    let parent = |path: &Path| path.parent().map(Path::to_owned);
    let mut folders: Vec<PathBuf> = parent(&release.built.code).into_iter().collect();
    if let Some(runtime) = release.built.serving.runtime() {
        // With the lock that it was made from.
        folders.extend(parent(&runtime.environment));
        if let Program::Server { packages, .. } = &runtime.program {
            folders.push(packages.clone());
        }
    }
    folders
}

fn write(engine: &Engine, contents: &Contents, sink: Sink) -> io::Result<()> {
    let data = &engine.config.data;
    let header = Header {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        made_at: engine.now(),
        data: data.clone(),
    };
    let name = |path: &Path| path.strip_prefix(data).map(Path::to_owned).map_err(io::Error::other);
    let mut backup = Writer::new(sink, &header)?;
    backup.add_bytes(Path::new(ROWS), &lines(&contents.rows)?)?;
    for path in &contents.paths {
        match path.exists() {
            true => backup.add_tree(path, &name(path)?)?,
            // A release whose files somebody has removed can't be had back, but all else can.
            false => tracing::debug!(path = %path.display(), "not in the backup: it is not there"),
        }
    }
    let scratch = engine.config.backups();
    for volume in &contents.volumes {
        remove_scratch(&scratch)?;
        fs::create_dir_all(&scratch)?;
        let copy = scratch.join("volume.img");
        let copied = engine.node.copy_volume(volume.clone(), copy.clone());
        let paused = Handle::current().block_on(copied)?;
        backup.add_volume(&copy, &name(volume)?, paused)?;
    }
    remove_scratch(&scratch)?;
    backup.finish(contents.apps, contents.releases)?.flush()
}

fn lines(rows: &[Entry]) -> io::Result<Vec<u8>> {
    let mut lines = Vec::new();
    for entry in rows {
        let value = serde_json::from_slice(&entry.value)?;
        serde_json::to_writer(&mut lines, &Row { key: entry.key.clone(), value })?;
        lines.push(b'\n');
    }
    Ok(lines)
}

/// Sends what is written to it to the client, in pieces.
struct Sink {
    engine: Arc<Engine>,
    runtime: Handle,
    chunks: mpsc::Sender<Piece>,
    buffer: BytesMut,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let chunk = self.buffer.split().freeze();
        if chunk.is_empty() {
            return Ok(());
        }
        self.runtime.block_on(async {
            tokio::select! {
                sent = timeout(CHUNK_WITHIN, self.chunks.send(Ok(chunk))) => match sent {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(_)) => Err(io::Error::other("whoever asked for it has left")),
                    Err(_) => Err(io::Error::other("whoever asked for it does not read")),
                },
                () = self.engine.ended() => Err(io::Error::other("the engine is about to end")),
            }
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Rows, deploy};

    #[test]
    fn a_release_needs_its_code_its_environment_and_its_server() {
        let mut state = Rows::default();
        deploy(&mut state, "shop", 1);
        let release = state.releases().next().unwrap();
        let found = folders(release);
        let wanted = ["releases/shop/00000001", "environments/shop", "servers/uwsgi"];
        assert_eq!(found, wanted.map(|path| Path::new("/data").join(path)));
    }
}
