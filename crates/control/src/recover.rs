//! Ends what an engine left half done, and removes what no row knows.
//!
//! The same functions clean up after a deploy in a living engine and after one that a kill cut
//! short: they look only at the rows and the folders.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ace_api::Built;
use ace_api::http::DeployKind;
use ace_types::{AppName, error_chain};

use crate::backup;
use crate::changes::{self, Ending};
use crate::commands::Commands;
use crate::config::ControlConfig;
use crate::destroy;
use crate::engine::Engine;
use crate::records::RecordsError;
use crate::refusal::Refusal;
use crate::reserve;
use crate::rows::DeployState;
use crate::state::State;

/// Why the engine could not take up where it was left.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error("could not remove what earlier builds left")]
    Builder(#[source] io::Error),
    #[error("could not make the folder {path}")]
    Folder { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// Ends every deploy that was under way when the last engine stopped, and removes its traces.
///
/// Called once, before anything else is done.
pub async fn recover(engine: &Engine) -> Result<(), RecoverError> {
    engine.builder.recover().await.map_err(RecoverError::Builder)?;
    for path in [engine.config.archives(), engine.config.build_logs()] {
        tokio::fs::create_dir_all(&path)
            .await
            .map_err(|source| RecoverError::Folder { path, source })?;
    }
    let apps: Vec<AppName> =
        engine.records.state().await?.apps().map(|app| app.name.clone()).collect();
    for app in &apps {
        if let Err(refusal) = settle_stopped(engine, app).await {
            // The app's next deploy tries again; the other apps must not wait for it.
            tracing::error!(%app, %refusal, "an unfinished deploy could not be ended");
        }
    }
    remove_archives(&engine.config).await;
    remove_backup(&engine.config).await;
    sweep_all(engine).await?;
    keep_reserve(&engine.config).await;
    Ok(())
}

/// Takes up every destruction that was under way.
pub async fn resume_destructions(engine: &Arc<Engine>) -> Result<(), RecordsError> {
    let state = engine.records.state().await?;
    for app in state.apps().filter(|app| app.destroying) {
        engine.tasks.spawn(destroy::run(Arc::clone(engine), app.name.clone()));
    }
    Ok(())
}

/// Ends a deploy of `app` that nobody carries on any more.
pub async fn settle_stopped(engine: &Engine, app: &AppName) -> Result<(), Refusal> {
    let change = |state: &State| {
        let error = interruption(state, app);
        Ok((changes::settle(state, app, Ending::Interrupted(&error), engine.now()), ()))
    };
    engine.records.transact(change).await?;
    Ok(())
}

/// What is said of a deploy of `app` whose engine went away.
fn interruption(state: &State, app: &AppName) -> String {
    let during = match state.deploy(app) {
        Some(deploy) if deploy.state == DeployState::Preparing => {
            "while the predeploy command ran, which may have been cut short".to_owned()
        }
        Some(deploy) => format!("during this {}", deploy.kind),
        None => format!("during this {}", DeployKind::Deploy),
    };
    let remains = match state.app(app).and_then(|app| Some((app.serving?, app.stopped))) {
        Some((_, true)) => "the app is still stopped".to_owned(),
        Some((number, false)) => format!("the app still serves release {number}"),
        None => "nothing was deployed".to_owned(),
    };
    format!("the engine stopped {during}; {remains}")
}

/// Removes the code and the environments of `app` that no release has any more.
///
/// The caller has the app's turn: no build of it may be under way. What can't be removed is logged,
/// and tried again at the app's next deploy.
pub async fn sweep(engine: &Engine, app: &AppName) -> Result<(), RecordsError> {
    let state = engine.records.state().await?;
    let used = used_paths(&state, &engine.commands);
    let folders = engine.config.made_by_builds().map(|kind| kind.join(app.as_str()));
    let unused = blocking(move || {
        folders.iter().flat_map(|folder| unused(folder, &used)).collect::<Vec<_>>()
    });
    remove(engine, unused.await).await;
    sweep_build_logs(engine).await
}

/// The same for every app, and for folders of apps that are no more.
async fn sweep_all(engine: &Engine) -> Result<(), RecordsError> {
    let state = engine.records.state().await?;
    let used = used_paths(&state, &engine.commands);
    let kinds = engine.config.made_by_builds();
    let unused = blocking(move || {
        let apps = kinds.iter().flat_map(|kind| entries(kind));
        apps.flat_map(|folder| unused(&folder, &used)).collect::<Vec<_>>()
    });
    remove(engine, unused.await).await;
    sweep_build_logs(engine).await
}

/// Everything on disk that a release needs, or a command that still runs in one that is gone.
fn used_paths(state: &State, commands: &Commands) -> BTreeSet<PathBuf> {
    let paths = |built: &Built| {
        let environment = built.serving.runtime().map(|runtime| runtime.environment.clone());
        [Some(built.code.clone()), environment].into_iter().flatten()
    };
    state.releases().flat_map(|row| paths(&row.built)).chain(commands.paths()).collect()
}

/// What stands in `folder` and neither is nor holds anything `used`.
fn unused(folder: &Path, used: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let is_used = |path: &PathBuf| used.iter().any(|used| used.starts_with(path));
    entries(folder).into_iter().filter(|path| !is_used(path)).collect()
}

async fn remove(engine: &Engine, paths: Vec<PathBuf>) {
    // A backup has the rest of what it was begun with; the app's next deploy tries again.
    if paths.is_empty() || engine.backups.is_running() {
        return;
    }
    tracing::info!(count = paths.len(), "removing files that no release needs");
    if let Err(error) = engine.builder.remove(paths).await {
        tracing::warn!(error = %error_chain(&error), "could not remove files that no release needs");
    }
}

/// Removes the logs of builds that no row names.
async fn sweep_build_logs(engine: &Engine) -> Result<(), RecordsError> {
    let folder = engine.config.build_logs();
    // The folder first and then the rows: a deploy's row is there before its log is.
    let found = blocking(move || entries(&folder)).await;
    let state = engine.records.state().await?;
    let releases = state.releases().map(|row| &row.build);
    let builds = releases.chain(state.builds().map(|row| &row.id));
    let kept: BTreeSet<PathBuf> = builds.map(|build| engine.config.build_log(build)).collect();
    let unused: Vec<PathBuf> = found.into_iter().filter(|path| !kept.contains(path)).collect();
    blocking(move || remove_files(&unused)).await;
    Ok(())
}

/// Removes every archive. None is needed: the deploy it was for has been ended.
async fn remove_archives(config: &ControlConfig) {
    let folder = config.archives();
    blocking(move || remove_files(&entries(&folder))).await;
}

/// Takes room on the disk, where there is some.
pub async fn keep_reserve(config: &ControlConfig) {
    let path = config.reserve();
    if let Some(error) = blocking(move || reserve::keep(&path).err()).await {
        tracing::warn!(%error, "could not keep room on the disk for when it's full");
    }
}

/// Removes what a backup that was cut short had copied.
async fn remove_backup(config: &ControlConfig) {
    let folder = config.backups();
    let removed = blocking(move || backup::remove_scratch(&folder).err()).await;
    if let Some(error) = removed {
        tracing::warn!(%error, "could not remove what a backup left");
    }
}

fn remove_files(paths: &[PathBuf]) {
    for path in paths {
        if let Err(error) = fs::remove_file(path) {
            tracing::warn!(path = %path.display(), %error, "could not remove a file");
        }
    }
}

/// What stands in `folder`; nothing where there is no such folder.
fn entries(folder: &Path) -> Vec<PathBuf> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %folder.display(), %error, "could not list a folder");
            }
            Vec::new()
        }
    }
}

/// Does `work`, which touches the disk, where it holds nobody up.
async fn blocking<T: Send + Default + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    // An error means that the runtime is going down.
    tokio::task::spawn_blocking(work).await.unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_something_used_is_used() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["a/code", "b/code"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        let used = BTreeSet::from([path("a/code")]);
        assert_eq!(unused(folder.path(), &used), [path("b")]);
        assert!(unused(&path("none"), &used).is_empty());
    }
}
