//! What was built for an app, and what the builds said.

use ace_api::ErrorCode;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ace_api::http::{BuildLine, BuildView, BuildsView};
use ace_types::{AppName, BuildId, ReleaseNumber, error_chain};
use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::Shared;
use super::page::PageQuery;
use super::settings::view_of;
use super::stream::{self, Form};
use super::target::Target;
use crate::build_log::BuildLogReader;
use crate::engine::Engine;
use crate::refusal::Refusal;
use crate::rows::{BuildRow, BuildState, DeployState};
use crate::state::{self, Row};
use crate::views;

/// How often a log that grows is looked at.
const EVERY: Duration = Duration::from_millis(200);
/// Pieces of a log that may wait for a slow client.
const QUEUE: usize = 4;

#[derive(Deserialize, JsonSchema)]
pub struct LogQuery {
    #[serde(default)]
    follow: bool,
}

/// The release in a path; its app is the [`Target`].
#[derive(Deserialize, JsonSchema)]
pub struct OfRelease {
    release: ReleaseNumber,
}

type ReleasePath = Result<Path<OfRelease>, PathRejection>;

pub async fn list(
    State(engine): Shared,
    target: Target,
    query: Result<Query<PageQuery<ReleaseNumber>>, QueryRejection>,
) -> Result<Json<BuildsView>, Refusal> {
    let page = query?.0;
    let Json(all) = view_of(&engine, &target, views::builds).await?;
    let rest = all.builds.into_iter().filter(|it| page.after.is_none_or(|n| it.release < n));
    let (builds, next) = page.cut(rest, |build| build.release)?;
    Ok(Json(BuildsView { builds, next, ..all }))
}

pub async fn show(
    State(engine): Shared,
    target: Target,
    path: ReleasePath,
) -> Result<Json<BuildView>, Refusal> {
    let state = engine.records.state().await?;
    Ok(Json(views::build(find(&state, &target, path?.release)?)))
}

pub async fn log(
    State(engine): Shared,
    target: Target,
    path: ReleasePath,
    headers: HeaderMap,
    query: Result<Query<LogQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let LogQuery { follow } = query?.0;
    let state = engine.records.state().await?;
    let build = find(&state, &target, path?.release)?.id.clone();
    let app = target.name;
    let (sender, found) = mpsc::channel(QUEUE);
    let reading = Reading { path: engine.config.build_log(&build), app, build, engine, sender };
    tokio::spawn(reading.run(follow));
    Ok(stream::answer(Form::of(follow, &headers), found, |_| None))
}

/// One client's way through a build's log.
struct Reading {
    engine: Arc<Engine>,
    app: AppName,
    build: BuildId,
    path: PathBuf,
    sender: mpsc::Sender<Vec<BuildLine>>,
}

impl Reading {
    /// Sends what there is and, if it's to `follow`, what is added until the build has ended. Ends with the
    /// engine, too, and when nobody listens any more.
    async fn run(self, follow: bool) {
        tokio::select! {
            () = self.send_all(follow) => {}
            () = self.sender.closed() => {}
            () = self.engine.ended() => {}
        }
    }

    async fn send_all(&self, follow: bool) {
        let mut reader = None;
        loop {
            // Asked before the last lines are read, so that none is missed.
            let may_grow = follow && self.is_under_way().await;
            let (lines, rest) = self.read(reader).await;
            reader = rest;
            if lines.is_empty() {
                if !may_grow {
                    return;
                }
                tokio::time::sleep(EVERY).await;
            } else {
                let lines = lines.into_iter().map(|line| BuildLine { line }).collect();
                if self.sender.send(lines).await.is_err() {
                    return;
                }
            }
        }
    }

    /// The next lines that there are by now.
    async fn read(&self, reader: Option<BuildLogReader>) -> (Vec<String>, Option<BuildLogReader>) {
        let path = self.path.clone();
        let read = spawn_blocking(move || -> std::io::Result<_> {
            let mut reader = match reader {
                Some(reader) => Some(reader),
                None => BuildLogReader::open(&path)?,
            };
            let lines = reader.as_mut().map_or(Ok(Vec::new()), BuildLogReader::read)?;
            Ok((lines, reader))
        });
        match read.await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => {
                let path = self.path.display();
                tracing::warn!(%path, error = %error_chain(&error), "could not read a build's log");
                (Vec::new(), None)
            }
            // The engine goes down.
            Err(_) => (Vec::new(), None),
        }
    }

    /// Whether the build, or what the app wants to have run after it, has not ended.
    async fn is_under_way(&self) -> bool {
        let Ok(state) = self.engine.records.state().await else { return false };
        let build = state.builds_of(&self.app).find(|row| row.id == self.build);
        let builds = build.is_some_and(|row| row.state == BuildState::Building);
        let prepares = state.deploy(&self.app).is_some_and(|deploy| {
            deploy.build.as_ref() == Some(&self.build) && deploy.state == DeployState::Preparing
        });
        builds || prepares
    }
}

/// The build that `release` of the app is of, or was to be.
fn find<'a>(
    state: &'a state::State,
    target: &Target,
    release: ReleaseNumber,
) -> Result<&'a Row<BuildRow>, Refusal> {
    let app = &target.row(state)?.name;
    let shared = || {
        let build = &state.release(app, release)?.build;
        state.builds_of(app).find(|row| row.id == *build)
    };
    state.build(app, release).or_else(shared).ok_or_else(|| {
        let message = format!("no build is kept of release {release} of {app}; `ace builds {app}` lists those that are");
        Refusal::new(ErrorCode::NoSuchBuild, message)
    })
}

impl From<PathRejection> for Refusal {
    fn from(error: PathRejection) -> Self {
        Self::bad_request(error.body_text())
    }
}
