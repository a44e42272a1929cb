//! The logs of what is gone: why a release did not start is asked after it's gone.
//!
//! `FOLDER/APP/ID/`, as init wrote them. Of each app the newest few are kept.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ace_sandbox::spec::LogSpec;
use ace_types::{AppName, InstanceId};
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

    /// Takes the folder `log` of an instance that is gone over, and lets the oldest go that is one
    /// too many. No error where there is no such folder.
    pub fn keep(&self, app: &AppName, id: &InstanceId, log: &Path) -> io::Result<()> {
        let of_app = self.folder.join(app.as_str());
        fs::create_dir_all(&of_app)?;
        let kept = of_app.join(id.as_str());
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

    /// What is kept of `app`, the oldest first: each instance with its folder.
    pub fn list(&self, app: &AppName) -> io::Result<Vec<(InstanceId, PathBuf)>> {
        let entries = match fs::read_dir(self.folder.join(app.as_str())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Ok(id) = name.parse::<InstanceId>() {
                found.push((last_written(&path), id, path));
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, id, path)| (id, path)).collect())
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
        all[..too_many].iter().try_for_each(|(_, path)| fs::remove_dir_all(path))
    }
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
            logs.keep(&app, &id(n), &log)?;
        }
        let kept: Vec<_> = logs.list(&app)?.into_iter().map(|(id, _)| id).collect();
        assert_eq!(kept, [id(3), id(4), id(5)]);
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
            logs.keep(&app, &id(1), &log)?;
        }
        let kept = logs.list(&app)?.pop().expect("one is kept").1;
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
        let kept = logs.list(&app)?.pop().expect("one is kept").1;
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
        logs.keep(&app, &id(1), &folder.path().join("nothing"))?;
        logs.remove(&app)
    }
}
