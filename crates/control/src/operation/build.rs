//! What a deploy does before its instances can start: it has its release built, and what the app wants
//! to have run before that starts.

use std::pin::pin;
use std::time::Instant;

use ace_api::http::{DeployEvent, DeployPhase};
use ace_api::{BuildError, BuildRequest, Built, ErrorCode, Serving};
use ace_store::Revision;
use ace_types::{BuildId, ReleaseNumber};
use tokio::sync::mpsc;

use super::{EVENTS, Operation, broken};
use crate::archive::Archive;
use crate::build_log::BuildLog;
use crate::build_queue::BuildRoom;
use crate::changes::{self, Begun, BuildBegun};
use crate::engine::new_instance_id;
use crate::plan;
use crate::predeploy;
use crate::refusal::Refusal;

/// The longest line of a build that is told, in bytes.
const LINE_MAX: usize = 8192;

/// What is to be deployed.
pub struct Source {
    pub build: BuildId,
    pub archive: Archive,
}

impl Operation {
    /// Makes a release of `source`, in `room`, and has instances of it started.
    pub(super) async fn build(
        &self,
        source: &Source,
        room: Option<BuildRoom<'_>>,
    ) -> Result<(Begun, Revision), Refusal> {
        let begun = self.begin_build(source).await?;
        self.phase(DeployPhase::Building).await;
        let built = self.run_build(source, &begun).await?;
        drop(room);
        // Before anything of it runs; and once more with the commit that gives it.
        let (asked, state) = (self.asked()?, self.engine.records.state().await?);
        changes::check_built(&state, &asked, &built)?;
        match (&built.app_yaml.predeploy, &built.serving) {
            (Some(_), Serving::Files) => return Err(nothing_to_run_in()),
            (Some(line), Serving::Program(_)) => {
                self.prepare(source, &built, begun.release, line).await?;
            }
            (None, _) => {}
        }
        let change = |state: &_| {
            changes::check_built(state, &asked, &built)?;
            changes::propose(state, &self.app, &built, &asked.fresh, self.engine.now())
        };
        let (candidates, revision) = self.engine.records.transact(change).await?;
        let (release, startup) = (begun.release, built.app_yaml.startup);
        Ok((Begun::Starting { release, candidates, startup }, revision))
    }

    async fn begin_build(&self, source: &Source) -> Result<BuildBegun, Refusal> {
        let asked = self.asked()?;
        let change = |state: &_| changes::begin_deploy(state, &asked, &source.build);
        let (begun, _) = self.engine.records.transact(change).await?;
        tracing::info!(app = %self.app, release = %begun.release, build = %source.build, "deploying");
        Ok(begun)
    }

    /// Has the release built, and passes on what the build says.
    async fn run_build(&self, source: &Source, begun: &BuildBegun) -> Result<Built, Refusal> {
        let ids = self.engine.config.id_range(begun.build_ids).ok_or_else(broken)?;
        let request = BuildRequest {
            id: source.build.clone(),
            tenant: begun.tenant.clone(),
            app: self.app.clone(),
            ids,
            archive: source.archive.path().to_owned(),
            python: begun.python.clone(),
        };
        let mut log = BuildLog::create(&self.engine.config.build_log(&source.build)).await;
        let (lines, said) = mpsc::channel(EVENTS);
        let began = Instant::now();
        let work = async {
            tokio::select! {
                built = self.engine.builder.build(request, lines) => {
                    built.map_err(|error| build_failed(&error))
                }
                refusal = self.given_up() => Err(refusal),
            }
        };
        let built = self.hear_out(work, said, &mut log).await;
        self.engine.tally.built(began.elapsed());
        built
    }

    /// Runs what the app wants to have run before the new release starts.
    async fn prepare(
        &self,
        source: &Source,
        built: &Built,
        release: ReleaseNumber,
        line: &str,
    ) -> Result<(), Refusal> {
        self.phase(DeployPhase::Preparing).await;
        let change = |state: &_| changes::prepare(state, &self.app, built, self.engine.now());
        let (row, _) = self.engine.records.transact(change).await?;
        let state = self.engine.records.state().await?;
        let id = new_instance_id()?;
        let like = state
            .app(&self.app)
            .and_then(|app| plan::like_an_instance(&self.engine.config, app, &row, id));
        let like = like.ok_or_else(broken)?;
        let mut log = BuildLog::append(&self.engine.config.build_log(&source.build)).await;
        let (lines, said) = mpsc::channel(EVENTS);
        let work = predeploy::run(&self.engine, like, line, lines, self.given_up());
        match self.hear_out(work, said, &mut log).await {
            Ok(()) => Ok(()),
            Err(error) => Err(error.refusal(&self.what_remains(release).await)),
        }
    }

    /// Does `work`, and passes on what it says, in the events and in the build's log.
    pub(super) async fn hear_out<T>(
        &self,
        work: impl Future<Output = T>,
        mut said: mpsc::Receiver<String>,
        log: &mut BuildLog,
    ) -> T {
        let mut work = pin!(work);
        let done = loop {
            tokio::select! {
                Some(line) = said.recv() => self.log(log, line).await,
                done = &mut work => break done,
            }
        };
        while let Ok(line) = said.try_recv() {
            self.log(log, line).await;
        }
        done
    }

    pub(super) async fn log(&self, log: &mut BuildLog, mut line: String) {
        line.truncate(line.floor_char_boundary(LINE_MAX));
        log.add(&line).await;
        self.mention(DeployEvent::Log { line });
    }
}

fn nothing_to_run_in() -> Refusal {
    let message = "the build failed: predeploy has no Python to run in, since the app is files \
                   alone; take it out of app.yaml";
    Refusal::new(ErrorCode::BuildFailed, message)
}

fn build_failed(error: &BuildError) -> Refusal {
    match error {
        BuildError::Rejected(message) => {
            let message = format!("the build failed: {message}");
            Refusal::new(ErrorCode::BuildFailed, message)
        }
        BuildError::Engine { doing, .. } => Refusal::engine(doing, error),
    }
}
