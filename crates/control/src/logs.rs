//! The logs of an app's instances as one, as they are and as they grow.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ace_api::KeptLog;
use ace_api::http::LogLine;
use ace_types::{AppName, InstanceId, ReleaseNumber, error_chain};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::engine::Engine;
use crate::log_file::Follower;
use crate::log_line::Origin;

/// The most lines that may be asked for.
pub const TAIL_MAX: usize = 10_000;
/// How often the files are looked at.
const EVERY: Duration = Duration::from_millis(200);
/// Looks that may wait for a slow client.
const QUEUE: usize = 4;

/// What to read.
#[derive(Debug, Clone)]
pub struct LogRequest {
    pub app: AppName,
    pub filter: Filter,
    /// Lines to begin with.
    pub tail: usize,
    /// Whether to go on when these have been sent.
    pub follow: bool,
}

/// Which lines are wanted; all of them unless told otherwise.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Older ones are not.
    pub since: Option<Timestamp>,
    /// Those of its instances alone.
    pub release: Option<ReleaseNumber>,
    /// Its own alone.
    pub instance: Option<InstanceId>,
}

/// Reads the end of the log, and starts to follow it if that is asked for. Returns what is found, each
/// time all that has come up, in order of time; `None` where the instance that is asked for has no log.
///
/// What an instance says after the return is followed. Ends with the app, the engine, or when the
/// receiver is dropped.
pub async fn start(
    engine: &Arc<Engine>,
    request: LogRequest,
) -> Option<mpsc::Receiver<Vec<LogLine>>> {
    let (sender, found) = mpsc::channel(QUEUE);
    let (node, app) = (Arc::clone(&engine.node), request.app.clone());
    let (filter, tail) = (request.filter.clone(), request.tail);
    let current = log_folders(engine, &request.app);
    let read = spawn_blocking(move || {
        let mut folders = kept(node.old_logs(&app), &app);
        folders.extend(current);
        folders.retain(|(origin, _)| filter.wants(origin));
        (!folders.is_empty() || filter.instance.is_none())
            .then(|| read_ends(folders, &filter, tail))
    });
    let (lines, followers) = or_empty(read.await)?;
    // The channel is empty and its receiver is here: there is room.
    let _ = sender.try_send(lines);
    if request.follow {
        let engine = Arc::clone(engine);
        tokio::spawn(async move {
            tokio::select! {
                () = follow(&engine, &request, followers, &sender) => {}
                () = sender.closed() => {}
                () = engine.ended() => {}
            }
        });
    }
    Some(found)
}

async fn follow(
    engine: &Engine,
    LogRequest { app, filter, .. }: &LogRequest,
    mut followers: Followers,
    sender: &mpsc::Sender<Vec<LogLine>>,
) {
    loop {
        tokio::time::sleep(EVERY).await;
        let mut folders = log_folders(engine, app);
        folders.retain(|(origin, _)| filter.wants(origin));
        let (mut lines, rest) = or_empty(spawn_blocking(move || look(followers, folders)).await);
        followers = rest;
        lines.retain(|line| filter.is_recent(line));
        if !lines.is_empty() && sender.send(lines).await.is_err() {
            return;
        }
        let state = engine.records.state().await;
        if state.is_ok_and(|state| state.app(app).is_none()) {
            return;
        }
    }
}

impl Filter {
    fn wants(&self, origin: &Origin) -> bool {
        let of_release = self.release.is_none_or(|release| origin.release == Some(release));
        let of_instance = self.instance.is_none() || self.instance == origin.instance;
        of_release && of_instance
    }

    fn is_recent(&self, line: &LogLine) -> bool {
        self.since.is_none_or(|since| line.at >= since)
    }
}

type Followers = BTreeMap<Origin, Follower>;
type Folders = Vec<(Origin, PathBuf)>;

/// Where each instance of `app` that there is has its log, each command that was run in it, and where
/// the engine writes of it.
fn log_folders(engine: &Engine, app: &AppName) -> Folders {
    let mut folders = kept(engine.node.command_logs(app), app);
    let statuses = engine.node.statuses();
    let statuses = statuses.borrow();
    let of_app = statuses.iter().filter(|(_, status)| status.app == *app);
    folders.extend(of_app.map(|(id, status)| {
        let origin = Origin { instance: Some(id.clone()), release: Some(status.release) };
        (origin, status.log.clone())
    }));
    folders.push((Origin::default(), engine.config.journal(app)));
    folders
}

fn kept(logs: io::Result<Vec<KeptLog>>, app: &AppName) -> Folders {
    let logs = logs.unwrap_or_else(|error| {
        tracing::warn!(%app, error = %error_chain(&error), "could not find logs that are kept");
        Vec::new()
    });
    let folder =
        |log: KeptLog| (Origin { instance: Some(log.instance), release: log.release }, log.folder);
    logs.into_iter().map(folder).collect()
}

/// The newest `tail` lines of all `folders`, and followers that go on after them.
fn read_ends(folders: Folders, filter: &Filter, tail: usize) -> (Vec<LogLine>, Followers) {
    let (mut all, mut followers) = (Vec::new(), Followers::new());
    for (origin, folder) in folders {
        match Follower::from_end(origin.clone(), folder, tail) {
            Ok((lines, follower)) => {
                all.extend(lines.into_iter().filter(|line| filter.is_recent(line)));
                followers.insert(origin, follower);
            }
            Err(error) => warn(&origin, &error),
        }
    }
    // Stable: an instance's own lines stay in their order though their times be equal.
    all.sort_by_key(|line| line.at);
    (all.split_off(all.len().saturating_sub(tail)), followers)
}

/// What has been added since the last look. New instances are read from their beginning; those that
/// are gone are read a last time.
fn look(mut followers: Followers, folders: Folders) -> (Vec<LogLine>, Followers) {
    let origins: Vec<Origin> = folders.iter().map(|(origin, _)| origin.clone()).collect();
    for (origin, folder) in folders {
        followers.entry(origin.clone()).or_insert_with(|| Follower::from_start(origin, folder));
    }
    let mut lines = Vec::new();
    for (origin, follower) in &mut followers {
        match follower.poll() {
            Ok(new) => lines.extend(new),
            Err(error) => warn(origin, &error),
        }
    }
    followers.retain(|origin, _| origins.contains(origin));
    lines.sort_by_key(|line| line.at);
    (lines, followers)
}

fn warn(origin: &Origin, error: &io::Error) {
    let instance = &origin.instance;
    tracing::warn!(?instance, error = %error_chain(error), "could not read a log");
}

/// What a blocking function returned, or nothing where it has panicked.
fn or_empty<T: Default>(result: Result<T, tokio::task::JoinError>) -> T {
    result.unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::testing::instance_id;

    /// A log of instance `n` with lines at these seconds.
    fn log(folder: &TempDir, n: u32, seconds: &[u32]) -> (Origin, PathBuf) {
        let path = folder.path().join(n.to_string());
        fs::create_dir_all(&path).unwrap();
        let line = |second: &u32| format!("2026-11-23T05:00:{second:02}Z out {n}-{second}\n");
        let text: String = seconds.iter().map(line).collect();
        fs::write(path.join("current"), text).unwrap();
        (Origin { instance: Some(instance_id(n)), release: Some(ReleaseNumber(n)) }, path)
    }

    fn texts(lines: &[LogLine]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn logs_are_merged_by_time() {
        let folder = TempDir::new().unwrap();
        let folders = vec![log(&folder, 1, &[1, 4, 6]), log(&folder, 2, &[2, 3, 5])];
        let (lines, _) = read_ends(folders, &Filter::default(), 4);
        assert_eq!(texts(&lines), ["2-3", "1-4", "2-5", "1-6"]);
    }

    #[test]
    fn lines_can_be_those_of_a_time_a_release_or_an_instance() {
        let folder = TempDir::new().unwrap();
        let logs = [log(&folder, 1, &[1, 4]), log(&folder, 2, &[2, 3, 5])];
        let read = |filter: &Filter| {
            let wanted = logs.iter().filter(|(origin, _)| filter.wants(origin)).cloned().collect();
            texts(&read_ends(wanted, filter, 9).0).join(" ")
        };
        let since = "2026-11-23T05:00:03Z".parse().ok();
        assert_eq!(read(&Filter { since, ..Filter::default() }), "2-3 1-4 2-5");
        let release = Some(ReleaseNumber(2));
        assert_eq!(read(&Filter { release, ..Filter::default() }), "2-2 2-3 2-5");
        let instance = Some(instance_id(1));
        assert_eq!(read(&Filter { instance: instance.clone(), since, ..Filter::default() }), "1-4");
        assert_eq!(read(&Filter { release, instance, since: None }), "");
    }

    #[test]
    fn a_new_instance_joins_and_a_gone_one_has_the_last_word() {
        let folder = TempDir::new().unwrap();
        let first = log(&folder, 1, &[1]);
        let (_, followers) = read_ends(vec![first.clone()], &Filter::default(), 9);
        log(&folder, 1, &[1, 2]);
        let second = log(&folder, 2, &[3]);
        let (lines, followers) = look(followers, vec![second.clone()]);
        assert_eq!(texts(&lines), ["1-2", "2-3"]);
        assert_eq!(followers.into_keys().collect::<Vec<_>>(), [second.0]);
    }
}
