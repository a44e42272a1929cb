//! One deploy, from its turn to its end.
//!
//! ```text
//! queue ─▶ begin ─▶ build ─▶ (prepare) ─▶ propose ─▶ ready ─▶ switch ─▶ drain ─▶ done
//!                     └───────────── publish ────────────────▲     (files alone)
//! ```
//!
//! Each step is a commit (see `changes`) followed by what it announces. Up to the switch anything may
//! fail, and whoever asked may leave: then all is as it was. After it the deploy only goes forward.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ace_api::http::{ApiError, DeployEvent, DeployPhase, LogLine};
use ace_api::{BuildError, BuildRequest, Built, InstanceState, InstanceStatus, Serving};
use ace_store::Revision;
use ace_types::{AppName, BuildId, InstanceId, ReleaseNumber, TenantName, error_chain};
use axum::http::StatusCode;
use futures_util::FutureExt;
use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, SemaphorePermit, mpsc};
use tokio::time::timeout;

use crate::archive::Archive;
use crate::build_log::BuildLog;
use crate::changes::{self, Begin, Begun};
use crate::destroy::{self, GONE_MARGIN};
use crate::engine::{Engine, new_instance_id};
use crate::lanes::{Ticket, Turn};
use crate::log_file::Follower;
use crate::plan;
use crate::predeploy;
use crate::recover;
use crate::refusal::Refusal;

/// Events that may wait for a slow client.
const EVENTS: usize = 256;
/// How long a client may keep an event that matters waiting.
const EVENT_WITHIN: Duration = Duration::from_secs(5);
/// The longest line of a build that is told, in bytes.
const LINE_MAX: usize = 8192;
/// What a new instance may take beyond its own `startup`, for its container to be made.
const STARTUP_MARGIN: Duration = Duration::from_secs(30);
/// How often a new instance's log is looked at.
const LOG_EVERY: Duration = Duration::from_millis(200);
/// Lines of its log that tell why a new instance failed.
const LAST_WORDS: usize = 60;
/// How long requests to the old instance may take to end.
const DRAINED_WITHIN: Duration = Duration::from_secs(30);

/// A deploy that was asked for.
pub struct Deploy {
    engine: Arc<Engine>,
    app: AppName,
    tenant: TenantName,
    build: BuildId,
    archive: Archive,
    ticket: Ticket,
    events: mpsc::Sender<DeployEvent>,
    asked: Instant,
}

/// What is asked for.
pub struct DeployRequest {
    pub app: AppName,
    pub tenant: TenantName,
    pub build: BuildId,
    pub archive: Archive,
    pub ticket: Ticket,
    /// Held until the deploy has ended.
    pub admission: OwnedSemaphorePermit,
}

/// What a deploy waits for before it begins.
struct Room<'a> {
    turn: Turn,
    build: SemaphorePermit<'a>,
}

/// Starts a deploy, and returns what it says. Dropping that gives the deploy up, if it's not too
/// late.
pub fn start(engine: &Arc<Engine>, request: DeployRequest) -> mpsc::Receiver<DeployEvent> {
    let (sender, events) = mpsc::channel(EVENTS);
    let deploy = Deploy {
        engine: Arc::clone(engine),
        app: request.app,
        tenant: request.tenant,
        build: request.build,
        archive: request.archive,
        ticket: request.ticket,
        events: sender,
        asked: Instant::now(),
    };
    let admission = request.admission;
    engine.tasks.spawn(async move {
        deploy.run().await;
        drop(admission);
    });
    events
}

impl Deploy {
    async fn run(&self) {
        let room = tokio::select! {
            room = self.room() => room,
            refusal = self.given_up() => Err(refusal),
        };
        let (turn, outcome) = match room {
            Ok(Room { turn, build }) => {
                // A panic must not leave the app between two states.
                let work = AssertUnwindSafe(self.to_the_switch(build)).catch_unwind();
                (Some(turn), work.await.unwrap_or_else(|_| Err(self.panicked())))
            }
            Err(refusal) => (None, Err(refusal)),
        };
        match outcome {
            Ok((release, revision)) => self.after_the_switch(release, revision).await,
            Err(refusal) => {
                if turn.is_some() {
                    self.undo(&refusal.error).await;
                }
                tracing::info!(app = %self.app, reason = %refusal, "a deploy failed");
                self.tell(DeployEvent::Failed { error: refusal.error }).await;
            }
        }
    }

    /// Waits for the app's turn, then for room to build.
    async fn room(&self) -> Result<Room<'_>, Refusal> {
        if !self.ticket.is_free() || self.engine.builds.available_permits() == 0 {
            self.phase(DeployPhase::Queued).await;
        }
        let turn = self.ticket.turn().await;
        let build = self.engine.builds.acquire().await.map_err(|_| Refusal::ending())?;
        Ok(Room { turn, build })
    }

    /// All that can fail. Returns the release that serves now, and the commit that made it so.
    async fn to_the_switch(
        &self,
        room: SemaphorePermit<'_>,
    ) -> Result<(ReleaseNumber, Revision), Refusal> {
        recover::settle_stopped(&self.engine, &self.app).await?;
        let begun = self.begin().await?;
        self.phase(DeployPhase::Building).await;
        let built = self.build(&begun).await?;
        drop(room);
        let revision = match &built.serving {
            Serving::Files if built.app_yaml.predeploy.is_some() => return Err(nothing_to_run_in()),
            Serving::Files => self.publish(&built).await?,
            Serving::Program(_) => self.start_and_switch(&built, begun.release).await?,
        };
        Ok((begun.release, revision))
    }

    /// Starts an instance of the new release, and moves requests to it once it is ready.
    async fn start_and_switch(
        &self,
        built: &Built,
        release: ReleaseNumber,
    ) -> Result<Revision, Refusal> {
        if let Some(line) = &built.app_yaml.predeploy {
            self.prepare(built, line).await?;
        }
        let instance = self.propose(built).await?;
        self.phase(DeployPhase::Starting).await;
        tokio::select! {
            ready = self.ready(&instance, release, built.app_yaml.startup) => ready?,
            refusal = self.given_up() => return Err(refusal),
        }
        self.phase(DeployPhase::Switching).await;
        let change = |state: &_| Ok((changes::switch(state, &self.app, Timestamp::now())?, ()));
        let ((), revision) = self.engine.records.transact(change).await?;
        Ok(revision)
    }

    /// Runs what the app wants to have run before the new release starts.
    async fn prepare(&self, built: &Built, line: &str) -> Result<(), Refusal> {
        self.phase(DeployPhase::Preparing).await;
        let change = |state: &_| changes::prepare(state, &self.app, built, Timestamp::now());
        let (release, _) = self.engine.records.transact(change).await?;
        let state = self.engine.records.state().await?;
        let id = new_instance_id()?;
        let like = state
            .app(&self.app)
            .and_then(|app| plan::like_an_instance(&self.engine.config, app, &release, id));
        let like = like.ok_or_else(broken)?;
        let mut log = BuildLog::append(&self.engine.config.build_log(&self.build)).await;
        let (lines, said) = mpsc::channel(EVENTS);
        let work = predeploy::run(&self.engine, like, line, lines, self.given_up());
        match self.hear_out(work, said, &mut log).await {
            Ok(()) => Ok(()),
            Err(error) => Err(error.refusal(&self.what_remains().await)),
        }
    }

    /// Moves requests to files, which nothing has to start for.
    async fn publish(&self, built: &Built) -> Result<Revision, Refusal> {
        self.phase(DeployPhase::Switching).await;
        let change =
            |state: &_| Ok((changes::publish(state, &self.app, built, Timestamp::now())?, ()));
        let ((), revision) = self.engine.records.transact(change).await?;
        Ok(revision)
    }

    async fn begin(&self) -> Result<Begun, Refusal> {
        let begin = Begin {
            app: self.app.clone(),
            tenant: self.tenant.clone(),
            build: self.build.clone(),
            now: Timestamp::now(),
            ranges: u32::try_from(self.engine.config.id_ranges.len()).unwrap_or(u32::MAX),
            first_range: self.engine.next_range(),
        };
        let change = |state: &_| changes::begin_deploy(state, &begin);
        let (begun, _) = self.engine.records.transact(change).await?;
        tracing::info!(app = %self.app, release = %begun.release, build = %self.build, "deploying");
        Ok(begun)
    }

    /// Has the release built, and passes on what the build says.
    async fn build(&self, begun: &Begun) -> Result<Built, Refusal> {
        let ids = self.engine.config.id_range(begun.build_ids).ok_or_else(broken)?;
        let request = BuildRequest {
            id: self.build.clone(),
            tenant: self.tenant.clone(),
            app: self.app.clone(),
            ids,
            archive: self.archive.path().to_owned(),
            python: begun.python.clone(),
        };
        let mut log = BuildLog::create(&self.engine.config.build_log(&self.build)).await;
        let (lines, said) = mpsc::channel(EVENTS);
        let work = async {
            tokio::select! {
                built = self.engine.builder.build(request, lines) => {
                    built.map_err(|error| build_failed(&error))
                }
                refusal = self.given_up() => Err(refusal),
            }
        };
        self.hear_out(work, said, &mut log).await
    }

    /// Does `work`, and passes on what it says, in the deploy's events and in its log.
    async fn hear_out<T>(
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
        log.finish().await;
        done
    }

    async fn log(&self, log: &mut BuildLog, mut line: String) {
        line.truncate(line.floor_char_boundary(LINE_MAX));
        log.add(&line).await;
        self.mention(DeployEvent::Log { line });
    }

    /// Keeps the release, and has an instance of it started.
    async fn propose(&self, built: &Built) -> Result<InstanceId, Refusal> {
        let instance = new_instance_id()?;
        let change = |state: &_| {
            let now = Timestamp::now();
            Ok((changes::propose(state, &self.app, built, &instance, now)?, ()))
        };
        self.engine.records.transact(change).await?;
        Ok(instance)
    }

    /// Waits until the new instance runs, and passes on what the app says meanwhile.
    ///
    /// Errors: why it does not, with the app's last words.
    async fn ready(
        &self,
        instance: &InstanceId,
        release: ReleaseNumber,
        startup: Duration,
    ) -> Result<(), Refusal> {
        let within = startup + STARTUP_MARGIN;
        match timeout(within, self.started(instance)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => {
                let reason = match &status.last_end {
                    Some(reason) => reason.to_string(),
                    None => "it ended".to_owned(),
                };
                let words = last_words(instance, &status).await;
                Err(self.start_failed(release, &reason, words).await)
            }
            Err(_) => {
                let reason = format!("it was not ready after {} s", within.as_secs());
                let status = self.engine.node.statuses().borrow().get(instance).cloned();
                let words = match status {
                    Some(status) => last_words(instance, &status).await,
                    None => None,
                };
                Err(self.start_failed(release, &reason, words).await)
            }
        }
    }

    /// Waits until the new instance runs; an error is the state in which it failed.
    async fn started(&self, instance: &InstanceId) -> Result<(), InstanceStatus> {
        let mut statuses = self.engine.node.statuses();
        let mut follower = None;
        loop {
            let status = statuses.borrow_and_update().get(instance).cloned();
            if let Some(status) = status {
                let follow = || Follower::from_start(instance.clone(), status.log.clone());
                follower = self.mention_app_log(follower.unwrap_or_else(follow)).await;
                match status.state {
                    InstanceState::Running => return Ok(()),
                    InstanceState::Failed | InstanceState::Crashed { .. } => return Err(status),
                    InstanceState::Starting | InstanceState::Draining => {}
                }
            }
            tokio::select! {
                Ok(()) = statuses.changed() => {}
                () = tokio::time::sleep(LOG_EVERY) => {}
            }
        }
    }

    async fn mention_app_log(&self, mut follower: Follower) -> Option<Follower> {
        let polled = tokio::task::spawn_blocking(move || (follower.poll(), follower)).await;
        let (lines, follower) = polled.ok()?;
        for line in lines.unwrap_or_default() {
            self.mention(DeployEvent::AppLog { line: line.text });
        }
        Some(follower)
    }

    async fn start_failed(
        &self,
        release: ReleaseNumber,
        reason: &str,
        words: Option<String>,
    ) -> Refusal {
        let remains = self.what_remains().await;
        let message = format!("release {release} did not start: {reason}; {remains}");
        let mut refusal = Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "start_failed", message);
        refusal.error.detail = words;
        refusal
    }

    /// What those who use the app have after a deploy that failed.
    async fn what_remains(&self) -> String {
        let state = self.engine.records.state().await.ok();
        let serving = state.as_ref().and_then(|state| state.app(&self.app)?.serving);
        match serving {
            Some(number) => format!("release {number} still serves"),
            None => "nothing was deployed".to_owned(),
        }
    }

    /// Nothing here fails any more: the route moves, the old instance ends.
    async fn after_the_switch(&self, release: ReleaseNumber, revision: Revision) {
        if !self.engine.applied(revision).await {
            tracing::error!(app = %self.app, %release, "the route did not move in time");
        }
        let seconds = self.asked.elapsed().as_secs_f64();
        tracing::info!(app = %self.app, %release, seconds, "deployed");
        let url = self.engine.config.url(&self.app);
        self.tell(DeployEvent::Done { app: self.app.clone(), release, url, seconds }).await;
        tokio::select! {
            ended = self.end(release) => {
                if let Err(refusal) = ended {
                    tracing::error!(app = %self.app, %refusal, "a deploy could not be ended");
                }
            }
            // The next engine ends it: it has no requests to the old instance.
            () = self.engine.ended() => {}
        }
    }

    /// Lets go of what served before `release`.
    async fn end(&self, release: ReleaseNumber) -> Result<(), Refusal> {
        let state = self.engine.records.state().await?;
        let old = state.instances_of(&self.app).filter(|row| row.release != release);
        let drained = old.map(|row| self.engine.gateway.drained(&row.id, DRAINED_WITHIN));
        join_all(drained).await;
        recover::settle_stopped(&self.engine, &self.app).await?;
        recover::sweep(&self.engine, &self.app).await?;
        Ok(())
    }

    /// Removes what the deploy has made, and the app where that was to be its first release.
    async fn undo(&self, error: &ApiError) {
        let change = |state: &crate::state::State| {
            let was_destroyed = state.app(&self.app).is_some_and(|app| app.destroying);
            let ops = changes::settle(state, &self.app, &error.message, Timestamp::now());
            Ok((ops, was_destroyed))
        };
        let (was_destroyed, revision) = match self.engine.records.transact(change).await {
            Ok(done) => done,
            // The next deploy, or the next engine, finds it unfinished and tries again.
            Err(refusal) => {
                return tracing::error!(app = %self.app, %refusal, "a failed deploy is not undone");
            }
        };
        // Whoever destroys the app, or the next engine, does the rest.
        if was_destroyed || self.engine.is_ending() {
            return;
        }
        self.engine.applied(revision).await;
        if let Err(error) = self.remove_leftovers().await {
            tracing::warn!(app = %self.app, error = %error_chain(&error), "a failed deploy left something");
        }
    }

    async fn remove_leftovers(&self) -> Result<(), destroy::DestroyError> {
        let records = |error: crate::records::RecordsError| {
            destroy::DestroyError::Records(Refusal::from(error))
        };
        let state = self.engine.records.state().await.map_err(records)?;
        if state.app(&self.app).is_some_and(|app| app.destroying) {
            let removed = destroy::attempt(&self.engine, &self.app).await;
            if removed.is_err() {
                let (engine, app) = (Arc::clone(&self.engine), self.app.clone());
                self.engine.tasks.spawn(destroy::run(engine, app));
            }
            return removed;
        }
        let wanted: Vec<_> = state.instances_of(&self.app).map(|row| row.id.clone()).collect();
        let within = self.engine.config.stop_grace + GONE_MARGIN;
        if !self.engine.gone(&self.app, |id| !wanted.contains(id), within).await {
            return Err(destroy::DestroyError::Running);
        }
        recover::sweep(&self.engine, &self.app).await.map_err(records)
    }

    fn panicked(&self) -> Refusal {
        tracing::error!(app = %self.app, build = %self.build, "a deploy panicked");
        broken()
    }

    /// Waits until the deploy should be given up, and says why.
    async fn given_up(&self) -> Refusal {
        tokio::select! {
            () = self.events.closed() => {
                Refusal::bad_request("the deploy was given up by whoever asked for it")
            }
            () = self.ticket.cancelled() => Refusal::being_destroyed(&self.app),
            () = self.engine.ended() => Refusal::ending(),
        }
    }

    async fn phase(&self, phase: DeployPhase) {
        self.tell(DeployEvent::Phase { phase }).await;
    }

    /// Says something that the client must get, unless it does not read.
    async fn tell(&self, event: DeployEvent) {
        // Gone or stuck: either way the deploy goes its own way.
        let _ = self.events.send_timeout(event, EVENT_WITHIN).await;
    }

    /// Says something that a slow client may miss.
    fn mention(&self, event: DeployEvent) {
        let _ = self.events.try_send(event);
    }
}

/// The end of the instance's log, where there is one.
async fn last_words(instance: &InstanceId, status: &InstanceStatus) -> Option<String> {
    let (instance, folder): (InstanceId, PathBuf) = (instance.clone(), status.log.clone());
    let read = move || Follower::from_end(instance, folder, LAST_WORDS);
    let (lines, _): (Vec<LogLine>, _) = tokio::task::spawn_blocking(read).await.ok()?.ok()?;
    let lines: Vec<String> = lines.into_iter().map(|line| line.text).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

fn nothing_to_run_in() -> Refusal {
    let message = "the build failed: predeploy has no Python to run in, since the app is files \
                   alone; take it out of app.yaml";
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "build_failed", message)
}

fn build_failed(error: &BuildError) -> Refusal {
    match error {
        BuildError::Rejected(message) => {
            let message = format!("the build failed: {message}");
            Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "build_failed", message)
        }
        BuildError::Engine { doing, .. } => Refusal::engine(doing, error),
    }
}

/// A mistake of ours, which the log has in full.
fn broken() -> Refusal {
    let message = "the engine made a mistake of its own; its log says which";
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "engine_error", message)
}
