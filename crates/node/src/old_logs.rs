//! The logs of what is gone: why a release did not start is asked after it's gone.
//!
//! `FOLDER/APP/ID.RELEASE/`, as init wrote them; `FOLDER/APP/ID/` for what is no instance's. Of each app
//! the newest few are kept.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ace_api::KeptLog;
use ace_sandbox::spec::LogSpec;
use ace_types::{AppName, InstanceId, ReleaseNumber};
use jiff::Timestamp;

/// Old logs of all apps.
#[derive(Debug, Clone)]
pub struct OldLogs {
    folder: PathBuf,
    /// How many are kept of each app.
    kept: usize,
}

impl OldLogs {
    pub fn new(folder: PathBuf, kept: usize) -> Self {
        Self { folder, kept }
    }

    /// Adds a line of the engine's own to the log of `id`; the first one begins it.
    pub fn say(&self, app: &AppName, id: &InstanceId, text: &str) -> io::Result<()> {
        let folder = self.folder.join(app.as_str()).join(id.as_str());
        if !folder.is_dir() {
            fs::create_dir_all(&folder)?;
        }
        let mut file =
            File::options().create(true).append(true).open(folder.join(LogSpec::CURRENT))?;
        writeln!(file, "{:.6} ace {text}", Timestamp::now())?;
        self.forget_oldest(app)
    }

    /// Takes the folder `log` of an instance of `release` that is gone over, and lets the oldest go that is
    /// one too many. No error where there is no such folder.
    pub fn keep(
        &self,
        app: &AppName,
        id: &InstanceId,
        release: ReleaseNumber,
        log: &Path,
    ) -> io::Result<()> {
        let of_app = self.folder.join(app.as_str());
        fs::create_dir_all(&of_app)?;
        let kept = of_app.join(format!("{id}.{release}"));
        // An instance that is gone after `ace down` comes again under its id.
        if log.is_dir() && kept.exists() {
            fs::remove_dir_all(&kept)?;
        }
        match fs::rename(log, kept) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.forget_oldest(app)
    }

    /// What is kept of `app`, the oldest first.
    pub fn list(&self, app: &AppName) -> io::Result<Vec<KeptLog>> {
        let entries = match fs::read_dir(self.folder.join(app.as_str())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if let Some(log) = kept_log(path) {
                found.push((last_written(&log.folder), log));
            }
        }
        found.sort_by(|(left, log), (right, other)| {
            left.cmp(right).then_with(|| log.instance.cmp(&other.instance))
        });
        Ok(found.into_iter().map(|(_, log)| log).collect())
    }

    /// Removes all that is kept of `app`. May be called twice.
    pub fn remove(&self, app: &AppName) -> io::Result<()> {
        match fs::remove_dir_all(self.folder.join(app.as_str())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn forget_oldest(&self, app: &AppName) -> io::Result<()> {
        let all = self.list(app)?;
        let too_many = all.len().saturating_sub(self.kept);
        all[..too_many].iter().try_for_each(|log| fs::remove_dir_all(&log.folder))
    }
}

/// The log in `folder`, by the folder's name.
fn kept_log(folder: PathBuf) -> Option<KeptLog> {
    let name = folder.file_name()?.to_str()?;
    let (instance, release) = match name.split_once('.') {
        Some((instance, release)) => (instance, Some(ReleaseNumber(release.parse().ok()?))),
        None => (name, None),
    };
    Some(KeptLog { instance: instance.parse().ok()?, release, folder })
}

/// When the newest file in `folder` was written; what can't be told is the oldest.
fn last_written(folder: &Path) -> SystemTime {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let times = files.filter_map(|file| file.metadata().and_then(|file| file.modified()).ok());
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;
    use std::time::Duration;

    use super::*;

    fn id(n: usize) -> InstanceId {
        format!("{n:a>8}").parse().expect("an id")
    }

    #[test]
    fn the_newest_few_are_kept() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let logs = OldLogs::new(folder.path().join("old"), 3);
        let app = "shop".parse().expect("a name");
        for n in 1..=5 {
            let log = folder.path().join("log");
            fs::create_dir(&log)?;
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(n as u64);
            File::create(log.join("current"))?.set_times(FileTimes::new().set_modified(time))?;
            logs.keep(&app, &id(n), ReleaseNumber(7), &log)?;
        }
        let kept: Vec<_> =
            logs.list(&app)?.into_iter().map(|log| (log.instance, log.release)).collect();
        assert_eq!(kept, [3, 4, 5].map(|n| (id(n), Some(ReleaseNumber(7)))));
        logs.remove(&app)?;
        assert_eq!(logs.list(&app)?, []);
        Ok(())
    }

    #[test]
    fn an_instance_that_goes_again_keeps_its_newer_log() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let logs = OldLogs::new(folder.path().join("old"), 3);
        let app = "shop".parse().expect("a name");
        for text in ["older", "newer"] {
            let log = folder.path().join("log");
            fs::create_dir(&log)?;
            fs::write(log.join("current"), text)?;
            logs.keep(&app, &id(1), ReleaseNumber(7), &log)?;
        }
        let kept = logs.list(&app)?.pop().expect("one is kept").folder;
        assert_eq!(fs::read_to_string(kept.join("current"))?, "newer");
        Ok(())
    }

    #[test]
    fn lines_of_the_engines_own_are_added() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let logs = OldLogs::new(folder.path().to_owned(), 2);
        let app = "shop".parse().expect("a name");
        logs.say(&app, &id(1), "one")?;
        logs.say(&app, &id(1), "two")?;
        let kept = logs.list(&app)?.pop().expect("one is kept").folder;
        let text = fs::read_to_string(kept.join("current"))?;
        let words: Vec<_> = text.lines().filter_map(|line| line.split_once(" ace ")).collect();
        assert_eq!(words.iter().map(|(_, text)| *text).collect::<Vec<_>>(), ["one", "two"]);
        assert!(words.iter().all(|(time, _)| time.parse::<Timestamp>().is_ok()), "{text}");
        Ok(())
    }

    #[test]
    fn an_instance_without_a_log_is_no_error() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let logs = OldLogs::new(folder.path().to_owned(), 3);
        let app = "shop".parse().expect("a name");
        logs.keep(&app, &id(1), ReleaseNumber(7), &folder.path().join("nothing"))?;
        logs.remove(&app)
    }
}
