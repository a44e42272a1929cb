//! `ace backup`: the engine's whole state in one file, while apps serve.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ace_backup::Manifest;
use ace_types::Bytes;
use clap::Args;
use http::Method;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::client::Client;
use crate::error::CommandError;
use crate::screen::{self, Screen};

/// Keep all that the engine has in one file, while apps serve
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ace backup /mnt/ace-monday.tar.gz
  ace restore /mnt/ace-monday.tar.gz --data /var/lib/ace

In it are all apps with their releases, environments, configuration and volumes: keep it where
secrets may be. Volumes are each of one moment. Logs and caches are left out.")]
pub struct BackupArgs {
    /// The file to make
    file: PathBuf,
}

/// What was kept.
#[derive(Debug, Serialize)]
struct Kept {
    file: PathBuf,
    size: Bytes,
    apps: u64,
    releases: u64,
    volumes: Vec<Volume>,
}

#[derive(Debug, Serialize)]
struct Volume {
    app: String,
    size: Bytes,
    /// For so long its app could not write to it.
    paused_ms: u64,
}

/// A file that has its name only once it's whole. Removed when dropped before.
struct Draft {
    path: PathBuf,
    file: Option<File>,
}

pub async fn run(args: BackupArgs, client: &Client, screen: &Screen) -> Result<(), CommandError> {
    let path = std::path::absolute(&args.file)?;
    if path.exists() {
        let path = path.display();
        let message = format!("{path} is there already; choose another name, or remove it first");
        return Err(CommandError::Refused(message));
    }
    let mut draft = Draft::create(&path)?;
    tokio::select! {
        received = receive(client, screen, &mut draft) => received?,
        _ = tokio::signal::ctrl_c() => {
            return Err(CommandError::Interrupted("no backup was made".to_owned()));
        }
    }
    let (manifest, size) = tokio::task::spawn_blocking(move || draft.keep(&path))
        .await
        .map_err(io::Error::other)??;
    let kept = Kept {
        file: args.file,
        size,
        apps: manifest.apps,
        releases: manifest.releases,
        volumes: volumes(&manifest),
    };
    Ok(screen.show(&kept, || text(&kept))?)
}

async fn receive(client: &Client, screen: &Screen, draft: &mut Draft) -> Result<(), CommandError> {
    let progress = progress(screen);
    let mut answer = client.download(Method::POST, "/v1/backup").await?;
    while let Some(bytes) = answer.next().await? {
        draft.write(&bytes)?;
        progress.inc(bytes.len() as u64);
    }
    progress.finish_and_clear();
    Ok(())
}

fn progress(screen: &Screen) -> ProgressBar {
    if !screen.draws() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} backing up: {bytes}, {bytes_per_sec}");
    // A template of ours can't be wrong at run time; without it the default serves.
    let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::new_spinner().with_style(style)
}

impl Draft {
    /// Begins the file that is to be `path`, for its owner's eyes only.
    fn create(path: &Path) -> Result<Self, CommandError> {
        let mut name = path.as_os_str().to_owned();
        name.push(".part");
        let draft = PathBuf::from(name);
        // One that is there was left by a command that was killed.
        let removed = fs::remove_file(&draft);
        if let Err(error) = removed.or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        }) {
            return Err(not_written(&draft, &error));
        }
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&draft);
        let file = file.map_err(|error| not_written(&draft, &error))?;
        Ok(Self { path: draft, file: Some(file) })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CommandError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(bytes).map_err(|error| not_written(&self.path, &error))
    }

    /// Reads what was written once more, and gives it its name if it's whole. Returns what is in it, and
    /// the file's size.
    fn keep(mut self, path: &Path) -> Result<(Manifest, Bytes), CommandError> {
        let failed = |error: &io::Error| not_written(path, error);
        if let Some(file) = self.file.take() {
            file.sync_all().map_err(|error| failed(&error))?;
        }
        let written = File::open(&self.path).map_err(|error| failed(&error))?;
        let size = written.metadata().map_err(|error| failed(&error))?.len();
        let (_, manifest) = ace_backup::check(BufReader::new(written)).map_err(|error| {
            CommandError::Refused(format!(
                "the engine's backup is not whole ({error}); the engine's log says why"
            ))
        })?;
        fs::rename(&self.path, path).map_err(|error| failed(&error))?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| failed(&error))?;
        Ok((manifest, Bytes(size)))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Where it was kept, it has another name.
        let _ = fs::remove_file(&self.path);
    }
}

fn not_written(path: &Path, error: &io::Error) -> CommandError {
    CommandError::Refused(format!("could not write {}: {error}", path.display()))
}

fn volumes(manifest: &Manifest) -> Vec<Volume> {
    let name = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let volumes = manifest.volumes.iter().map(|(path, volume)| Volume {
        app: name(path).unwrap_or_default(),
        size: Bytes(volume.size),
        paused_ms: volume.paused_ms,
    });
    volumes.collect()
}

fn text(kept: &Kept) -> String {
    let Kept { file, size, apps, releases, volumes } = kept;
    let file = screen::escape(&file.display().to_string());
    let mut text = format!(
        "{file} has all of {}, {} ({size})",
        count(*apps, "app"),
        count(*releases, "release")
    );
    for Volume { app, size, paused_ms } in volumes {
        text += &format!("\nvolume of {app}, {size}: writing had to wait for {paused_ms} ms");
    }
    text
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_that_is_not_whole_gets_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backup");
        fs::write(folder.path().join("backup.part"), "left by a kill").unwrap();
        let mut draft = Draft::create(&path).unwrap();
        draft.write(b"half").unwrap();
        assert!(draft.keep(&path).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
