//! What the engine says in an app's log of the app as a whole: that it was deployed, stopped, rolled back.
//!
//! A folder an app, with files like those of its instances (see `log_file`). A disk that refuses is only
//! warned of: nothing depends on it.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ace_api::http::Author;
use ace_types::{AppName, ReleaseNumber, error_chain};
use jiff::Timestamp;

use crate::changes::Wish;
use crate::config::ControlConfig;

/// A file of this size becomes the old one, of which there is one.
const SIZE_MAX: u64 = 256 << 10;

/// What there is to say when what `by` asked for, a deploy where it's no wish, has come true and
/// `release` serves.
pub fn line(wish: Option<&Wish>, release: ReleaseNumber, by: &Author) -> String {
    let what = wish.map_or_else(
        || format!("release {release} serves: deployed"),
        |wish| of_wish(wish, release),
    );
    match by {
        // What it does it says why.
        Author::Engine => what,
        Author::Root | Author::Token { .. } => format!("{what} (by {by})"),
    }
}

fn of_wish(wish: &Wish, release: ReleaseNumber) -> String {
    match wish {
        Wish::Rollback { .. } => format!("release {release} serves: rolled back"),
        Wish::Retreat { from, reason } => {
            format!("release {release} serves again: release {from} died, {reason}")
        }
        Wish::Configure(_) => format!("release {release} serves: its configuration was changed"),
        Wish::Limit(_) => format!("release {release} serves: its limits were changed"),
        Wish::Rebuild => {
            format!("release {release} serves: rebuilt, since its Python was upgraded")
        }
        Wish::Restart => format!("restarted; release {release} serves"),
        Wish::Stop => "stopped".to_owned(),
        Wish::Start => format!("started; release {release} serves"),
        Wish::Scale { instances } => format!("scaled to {instances}"),
    }
}

/// Adds `text` to the log of `app`.
pub async fn write(config: &ControlConfig, app: &AppName, text: &str) {
    let folder = config.journal(app);
    let line = format!("{} ace {}\n", Timestamp::now(), text.replace(char::is_control, " "));
    let path = folder.clone();
    let written = tokio::task::spawn_blocking(move || append(&path, &line)).await;
    if let Err(error) = written.unwrap_or_else(|error| Err(io::Error::other(error))) {
        let path = folder.display();
        tracing::warn!(%path, error = %error_chain(&error), "could not write to an app's log");
    }
}

/// Removes all that was written of `app`. May be called twice.
pub fn remove(config: &ControlConfig, app: &AppName) -> io::Result<()> {
    match fs::remove_dir_all(config.journal(app)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn append(folder: &Path, line: &str) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let current: PathBuf = folder.join("current");
    if fs::metadata(&current).is_ok_and(|file| file.len() >= SIZE_MAX) {
        fs::rename(&current, folder.join("1"))?;
    }
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(current)?;
    // In one call, so that no reader sees half a line.
    file.write_all(line.as_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::log_file::Follower;
    use crate::log_line::Origin;

    #[test]
    fn what_is_written_is_read_as_a_log_and_has_bounds() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("shop");
        let long = "x".repeat(1000);
        for n in 0..1000 {
            append(&path, &format!("{} ace {n} {long}\n", Timestamp::now())).unwrap();
        }
        let (lines, _) = Follower::from_end(Origin::default(), path.clone(), 1).unwrap();
        assert!(lines[0].text.starts_with("999 ") && lines[0].instance.is_none());
        let sizes =
            fs::read_dir(&path).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
        assert!(sizes.sum::<u64>() <= 2 * (SIZE_MAX + 2000));
    }
}
