//! The logs of an app's instances as one, as they are and as they grow.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ace_api::http::LogLine;
use ace_types::{AppName, InstanceId, error_chain};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::engine::Engine;
use crate::log_file::Follower;

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
    /// Lines to begin with.
    pub tail: usize,
    /// Whether to go on when these have been sent.
    pub follow: bool,
}

/// Reads the end of the log, and starts to follow it if that is asked for. Returns what is found, each
/// time all that has come up, in order of time.
///
/// What an instance says after the return is followed. Ends with the app, the engine, or when the
/// receiver is dropped.
pub async fn start(engine: &Arc<Engine>, request: LogRequest) -> mpsc::Receiver<Vec<LogLine>> {
    let (sender, found) = mpsc::channel(QUEUE);
    let (node, app) = (Arc::clone(&engine.node), request.app.clone());
    let current = log_folders(engine, &request.app);
    let read = spawn_blocking(move || {
        let old = node.old_logs(&app).unwrap_or_else(|error| {
            tracing::warn!(%app, error = %error_chain(&error), "could not find its old logs");
            Vec::new()
        });
        let mut folders: Folders = old.into_iter().map(|(id, path)| (Some(id), path)).collect();
        folders.extend(current);
        read_ends(folders, request.tail)
    })
    .await;
    let (lines, followers) = or_empty(read);
    // The channel is empty and its receiver is here: there is room.
    let _ = sender.try_send(lines);
    if request.follow {
        let engine = Arc::clone(engine);
        tokio::spawn(async move {
            tokio::select! {
                () = follow(&engine, &request.app, followers, &sender) => {}
                () = sender.closed() => {}
                () = engine.ended() => {}
            }
        });
    }
    found
}

async fn follow(
    engine: &Engine,
    app: &AppName,
    mut followers: Followers,
    sender: &mpsc::Sender<Vec<LogLine>>,
) {
    loop {
        tokio::time::sleep(EVERY).await;
        let folders = log_folders(engine, app);
        let (lines, rest) = or_empty(spawn_blocking(move || look(followers, folders)).await);
        followers = rest;
        if !lines.is_empty() && sender.send(lines).await.is_err() {
            return;
        }
        let state = engine.records.state().await;
        if state.is_ok_and(|state| state.app(app).is_none()) {
            return;
        }
    }
}

/// By instance; that of `None` is what the engine says of the app as a whole.
type Followers = BTreeMap<Option<InstanceId>, Follower>;
type Folders = Vec<(Option<InstanceId>, PathBuf)>;

/// Where each instance of `app` that there is has its log, each command that was run in it, and where
/// the engine writes of it.
fn log_folders(engine: &Engine, app: &AppName) -> Folders {
    let commands = engine.node.command_logs(app).unwrap_or_else(|error| {
        tracing::warn!(%app, error = %error_chain(&error), "could not find its commands");
        Vec::new()
    });
    let mut folders: Folders = commands.into_iter().map(|(id, path)| (Some(id), path)).collect();
    let statuses = engine.node.statuses();
    let statuses = statuses.borrow();
    let of_app = statuses.iter().filter(|(_, status)| status.app == *app);
    folders.extend(of_app.map(|(id, status)| (Some(id.clone()), status.log.clone())));
    folders.push((None, engine.config.journal(app)));
    folders
}

/// The newest `tail` lines of all `folders`, and followers that go on after them.
fn read_ends(folders: Folders, tail: usize) -> (Vec<LogLine>, Followers) {
    let (mut all, mut followers) = (Vec::new(), Followers::new());
    for (id, folder) in folders {
        match Follower::from_end(id.clone(), folder, tail) {
            Ok((lines, follower)) => {
                all.extend(lines);
                followers.insert(id, follower);
            }
            Err(error) => warn(id.as_ref(), &error),
        }
    }
    // Stable: an instance's own lines stay in their order though their times be equal.
    all.sort_by_key(|line| line.at);
    (all.split_off(all.len().saturating_sub(tail)), followers)
}

/// What has been added since the last look. New instances are read from their beginning; those that
/// are gone are read a last time.
fn look(mut followers: Followers, folders: Folders) -> (Vec<LogLine>, Followers) {
    let ids: Vec<Option<InstanceId>> = folders.iter().map(|(id, _)| id.clone()).collect();
    for (id, folder) in folders {
        followers.entry(id.clone()).or_insert_with(|| Follower::from_start(id, folder));
    }
    let mut lines = Vec::new();
    for (id, follower) in &mut followers {
        match follower.poll() {
            Ok(new) => lines.extend(new),
            Err(error) => warn(id.as_ref(), &error),
        }
    }
    followers.retain(|id, _| ids.contains(id));
    lines.sort_by_key(|line| line.at);
    (lines, followers)
}

fn warn(instance: Option<&InstanceId>, error: &io::Error) {
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
    fn log(folder: &TempDir, n: u32, seconds: &[u32]) -> (Option<InstanceId>, PathBuf) {
        let path = folder.path().join(n.to_string());
        fs::create_dir_all(&path).unwrap();
        let line = |second: &u32| format!("2026-11-23T05:00:{second:02}Z out {n}-{second}\n");
        let text: String = seconds.iter().map(line).collect();
        fs::write(path.join("current"), text).unwrap();
        (Some(instance_id(n)), path)
    }

    fn texts(lines: &[LogLine]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn logs_are_merged_by_time() {
        let folder = TempDir::new().unwrap();
        let folders = vec![log(&folder, 1, &[1, 4, 6]), log(&folder, 2, &[2, 3, 5])];
        let (lines, _) = read_ends(folders, 4);
        assert_eq!(texts(&lines), ["2-3", "1-4", "2-5", "1-6"]);
    }

    #[test]
    fn a_new_instance_joins_and_a_gone_one_has_the_last_word() {
        let folder = TempDir::new().unwrap();
        let first = log(&folder, 1, &[1]);
        let (_, followers) = read_ends(vec![first.clone()], 9);
        log(&folder, 1, &[1, 2]);
        let second = log(&folder, 2, &[3]);
        let (lines, followers) = look(followers, vec![second.clone()]);
        assert_eq!(texts(&lines), ["1-2", "2-3"]);
        assert_eq!(followers.into_keys().collect::<Vec<_>>(), [second.0]);
    }
}
