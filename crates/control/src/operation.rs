//! One change of what serves an app, from its turn to its end: a deploy, a rollback, a restart…
//!
//! ```text
//! queue ─▶ begin ─▶ (build ─▶ prepare) ─▶ ready ─▶ switch ─▶ drain ─▶ done
//! ```
//!
//! Each step is a commit (see `changes`) followed by what it announces. Up to the switch anything may
//! fail, and whoever asked may leave: then all is as it was. After it there is no way but forward.
//! What a deploy does in addition is in `build`, what happens to a release whose Python has changed in
//! `rebuild`, how new instances are waited for in `ready`.

mod build;
mod ready;
mod rebuild;

use ace_api::{ErrorCode, InstanceStatus};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ace_api::http::{ApiError, Author, DeployEvent, DeployKind, DeployPhase};
use ace_store::Revision;
use ace_types::{AppName, ReleaseNumber, TenantName, error_chain};
use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::build_queue::BuildRoom;
use crate::changes::{self, Asked, Begun, Ending, SCALE_MAX, Wish};
use crate::destroy::{self, GONE_MARGIN};
use crate::engine::{Engine, new_instance_id};
use crate::hints;
use crate::journal;
use crate::lanes::{Ticket, Turn};
use crate::recover;
use crate::refusal::Refusal;
use crate::rows::InstanceRole;
use crate::state::State;

pub use build::Source;

/// Events that may wait for a slow client.
const EVENTS: usize = 256;
/// How long a client may keep an event that matters waiting.
const EVENT_WITHIN: Duration = Duration::from_secs(5);
/// How long requests to an old instance may take to end.
const DRAINED_WITHIN: Duration = Duration::from_secs(30);

/// What is done to one app.
pub struct Operation {
    engine: Arc<Engine>,
    app: AppName,
    tenant: Option<TenantName>,
    by: Author,
    work: Work,
    ticket: Ticket,
    events: mpsc::Sender<DeployEvent>,
    asked: Instant,
}

/// What is to be done.
pub enum Work {
    Deploy(Source),
    Wish(Wish),
}

/// What is asked for.
pub struct OperationRequest {
    pub app: AppName,
    /// Whose app it has to be; `None`: anybody's. A new one is theirs, or the default tenant's.
    pub tenant: Option<TenantName>,
    pub by: Author,
    pub work: Work,
    pub ticket: Ticket,
    /// Held until it has ended. The engine's own operations need none.
    pub admission: Option<OwnedSemaphorePermit>,
}

/// What an operation waits for before it begins.
struct Room<'a> {
    turn: Turn,
    /// Where it builds.
    build: Option<BuildRoom<'a>>,
}

/// How far one that did not fail has come.
enum Reached {
    /// This is what serves now, and the commit that made it so.
    Switched(ReleaseNumber, Revision),
    /// There was nothing to move.
    Noted(String),
}

/// Starts an operation, and returns what it says. Dropping that gives it up, if it's not too late.
pub fn start(engine: &Arc<Engine>, request: OperationRequest) -> mpsc::Receiver<DeployEvent> {
    let (sender, events) = mpsc::channel(EVENTS);
    let operation = Operation {
        engine: Arc::clone(engine),
        app: request.app,
        tenant: request.tenant,
        by: request.by,
        work: request.work,
        ticket: request.ticket,
        events: sender,
        asked: Instant::now(),
    };
    let admission = request.admission;
    engine.tasks.spawn(async move {
        operation.run().await;
        drop(admission);
    });
    events
}

/// Turns `app` back from its new release `from`, which has died because of `reason`. Returns when that
/// has come to its end, whichever it is.
pub async fn retreat(engine: &Arc<Engine>, app: AppName, from: ReleaseNumber, reason: String) {
    tracing::warn!(%app, release = %from, reason, "a new release died; turning back");
    // Whether it failed is told by the operation itself.
    let _ = of_the_engines_own(engine, app, Wish::Retreat { from, reason }).await;
}

/// Has the release that `app` serves built anew, if its Python has changed. Returns when that has come to its
/// end.
pub async fn rebuild(engine: &Arc<Engine>, app: AppName) -> Result<(), ApiError> {
    of_the_engines_own(engine, app, Wish::Rebuild).await
}

/// Carries `wish` through, which nobody has asked for.
async fn of_the_engines_own(
    engine: &Arc<Engine>,
    app: AppName,
    wish: Wish,
) -> Result<(), ApiError> {
    let Some(ticket) = engine.lanes.enter(&app, usize::MAX) else { return Ok(()) };
    let request = OperationRequest {
        app,
        tenant: None,
        by: Author::Engine,
        work: Work::Wish(wish),
        ticket,
        admission: None,
    };
    let mut events = start(engine, request);
    let mut outcome = Ok(());
    while let Some(event) = events.recv().await {
        if let DeployEvent::Failed { error } = event {
            outcome = Err(error);
        }
    }
    outcome
}

impl Operation {
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
        self.count(&outcome);
        match outcome {
            Ok(Reached::Switched(release, revision)) => {
                self.after_the_switch(release, revision).await;
            }
            Ok(Reached::Noted(message)) => {
                self.tell(DeployEvent::Noted { app: self.app.clone(), message }).await;
            }
            Err(refusal) => {
                if turn.is_some() {
                    self.undo(&refusal.error).await;
                }
                tracing::info!(app = %self.app, reason = %refusal, "{} failed", self.work.name());
                self.tell(DeployEvent::Failed { error: refusal.error }).await;
            }
        }
    }

    fn count(&self, outcome: &Result<Reached, Refusal>) {
        let (result, duration) = match outcome {
            Ok(Reached::Switched(..)) => ("done", Some(self.asked.elapsed())),
            Ok(Reached::Noted(_)) => ("noted", None),
            Err(_) => ("failed", None),
        };
        self.engine.tally.operation(self.work.kind().word(), result, duration);
    }

    /// Waits for the app's turn, then for room to build, if that is needed.
    async fn room(&self) -> Result<Room<'_>, Refusal> {
        if !self.ticket.is_free() {
            self.phase(DeployPhase::Queued).await;
        }
        let turn = self.ticket.turn().await;
        let build = match self.work {
            Work::Deploy(_) => Some(self.room_to_build().await?),
            Work::Wish(_) => None,
        };
        Ok(Room { turn, build })
    }

    /// Waits until the app's tenant may build, and says so if that's not at once.
    async fn room_to_build(&self) -> Result<BuildRoom<'_>, Refusal> {
        let state = self.engine.records.state().await?;
        let owner = state.app(&self.app).map(|app| app.tenant.clone()).or(self.tenant.clone());
        let place = self.engine.builds.enter(&owner.unwrap_or_default());
        if let Some(room) = place.try_room() {
            return Ok(room);
        }
        self.phase(DeployPhase::Queued).await;
        let builds = if place.before == 1 { "build" } else { "builds" };
        let line = format!("waiting for {} {builds}", place.before);
        self.mention(DeployEvent::Log { line });
        Ok(place.room().await)
    }

    /// All that can fail.
    async fn to_the_switch(&self, room: Option<BuildRoom<'_>>) -> Result<Reached, Refusal> {
        recover::settle_stopped(&self.engine, &self.app).await?;
        let (begun, revision) = match &self.work {
            Work::Deploy(source) => self.build(source, room).await?,
            Work::Wish(wish) => self.grant(wish).await?,
        };
        let (release, candidates, startup) = match begun {
            Begun::Noted(message) => return Ok(Reached::Noted(message)),
            Begun::Switched { release } => return Ok(Reached::Switched(release, revision)),
            Begun::Starting { release, candidates, startup } => (release, candidates, startup),
        };
        if !candidates.is_empty() {
            self.phase(DeployPhase::Starting).await;
            tokio::select! {
                ready = self.ready(&candidates, release, startup) => ready?,
                refusal = self.given_up() => return Err(refusal),
            }
        }
        self.phase(DeployPhase::Switching).await;
        let change = |state: &_| Ok((changes::switch(state, &self.app, self.engine.now())?, ()));
        let ((), revision) = self.engine.records.transact(change).await?;
        Ok(Reached::Switched(release, revision))
    }

    /// Begins `wish`.
    async fn grant(&self, wish: &Wish) -> Result<(Begun, Revision), Refusal> {
        let outdated = self.outdated(wish).await;
        let asked = self.asked()?;
        if let Err(refusal) = &outdated {
            let error = &refusal.error;
            let change = |state: &_| Ok((changes::refuse_retreat(state, &asked, wish, error), ()));
            self.engine.records.transact(change).await?;
        }
        let rebuilt = match outdated? {
            Some(outdated) => Some(self.rebuild(wish, outdated).await?),
            None => None,
        };
        let change = |state: &_| changes::begin(state, &asked, wish, rebuilt.as_ref());
        self.engine.records.transact(change).await
    }

    fn asked(&self) -> Result<Asked, Refusal> {
        let fresh = (0..SCALE_MAX).map(|_| new_instance_id()).collect::<Result<_, _>>()?;
        Ok(Asked {
            app: self.app.clone(),
            tenant: self.tenant.clone(),
            by: self.by.clone(),
            now: self.engine.now(),
            fresh,
            ceilings: self.engine.config.ceilings.clone(),
            ranges: u32::try_from(self.engine.config.id_ranges.len()).unwrap_or(u32::MAX),
            first_range: self.engine.next_range(),
        })
    }

    /// Nothing here fails any more: the route moves, the old instances end.
    async fn after_the_switch(&self, release: ReleaseNumber, revision: Revision) {
        if !self.engine.applied(revision).await {
            tracing::error!(app = %self.app, %release, "the route did not move in time");
        }
        let seconds = self.asked.elapsed().as_secs_f64();
        tracing::info!(app = %self.app, %release, seconds, "{} done", self.work.name());
        self.write_journal(release).await;
        let (url, note) = (self.engine.config.url(&self.app), self.note(release).await);
        self.tell(DeployEvent::Done { app: self.app.clone(), release, url, seconds, note }).await;
        tokio::select! {
            ended = self.end() => {
                if let Err(refusal) = ended {
                    tracing::error!(app = %self.app, %refusal, "a deploy could not be ended");
                }
            }
            // The next engine ends it: it has no requests to the old instances.
            () = self.engine.ended() => {}
        }
    }

    /// What a developer may not know of an app that runs, by the worst of its first answers, and by what it has
    /// written at its start.
    async fn note(&self, release: ReleaseNumber) -> Option<String> {
        let state = self.engine.records.state().await.ok()?;
        let has_volume = state.release(&self.app, release)?.built.app_yaml.volume.is_some();
        let usage = self.engine.node.usage().instances;
        let statuses = self.engine.node.statuses();
        let statuses = statuses.borrow();
        let is_own = |it: &InstanceStatus| it.app == self.app && it.release == release;
        let own = statuses.iter().filter(|(_, status)| is_own(status));
        let written = own.clone().find_map(|(id, _)| usage.get(id)?.written.as_ref());
        let worst = own.filter_map(|(_, status)| status.first_answer).max();
        let answer = worst.and_then(|status| {
            let host = self.engine.config.host(&self.app).ok()?;
            hints::of_first_answer(status, &self.app, &host)
        });
        let lost = written.map(|written| written.told(has_volume));
        let notes: Vec<String> = answer.into_iter().chain(lost).collect();
        (!notes.is_empty()).then(|| notes.join("; "))
    }

    /// Says in the app's log what it is now.
    async fn write_journal(&self, release: ReleaseNumber) {
        let wish = match &self.work {
            Work::Deploy(_) => None,
            Work::Wish(wish) => Some(wish),
        };
        let line = journal::line(wish, release, &self.by);
        journal::write(&self.engine.config, &self.app, &line).await;
    }

    /// Lets go of the instances that have served.
    async fn end(&self) -> Result<(), Refusal> {
        let state = self.engine.records.state().await?;
        let retired = |role| role == InstanceRole::Retired;
        let old = state.instances_of(&self.app).filter(|row| retired(row.role));
        let drained = old.map(|row| self.engine.gateway.drained(&row.id, DRAINED_WITHIN));
        join_all(drained).await;
        recover::settle_stopped(&self.engine, &self.app).await?;
        recover::sweep(&self.engine, &self.app).await?;
        Ok(())
    }

    /// Removes what the operation has made.
    async fn undo(&self, error: &ApiError) {
        let ending = match self.engine.is_ending() {
            true => Ending::Interrupted(&error.message),
            false => Ending::Failed { code: &error.code, error: &error.message },
        };
        let change = |state: &State| {
            let is_destroyed = state.app(&self.app).is_none_or(|app| app.destroying);
            Ok((changes::settle(state, &self.app, ending, self.engine.now()), is_destroyed))
        };
        let (is_destroyed, revision) = match self.engine.records.transact(change).await {
            Ok(done) => done,
            // The next operation, or the next engine, finds it unfinished and tries again.
            Err(refusal) => {
                return tracing::error!(app = %self.app, %refusal, "a failed deploy is not undone");
            }
        };
        // Whoever destroys the app, or the next engine, does the rest.
        if is_destroyed || self.engine.is_ending() {
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
        let wanted: Vec<_> = state.instances_of(&self.app).map(|row| row.id.clone()).collect();
        let within = self.engine.config.stop_grace + GONE_MARGIN;
        if !self.engine.gone(&self.app, |id| !wanted.contains(id), within).await {
            return Err(destroy::DestroyError::Running);
        }
        recover::sweep(&self.engine, &self.app).await.map_err(records)
    }

    fn panicked(&self) -> Refusal {
        tracing::error!(app = %self.app, "{} panicked", self.work.name());
        broken()
    }

    /// Waits until the operation should be given up, and says why.
    async fn given_up(&self) -> Refusal {
        tokio::select! {
            () = self.events.closed() => {
                let name = self.work.name();
                Refusal::bad_request(format!("the {name} was given up by whoever asked for it"))
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
        // Gone or stuck: either way the operation goes its own way.
        let _ = self.events.send_timeout(event, EVENT_WITHIN).await;
    }

    /// Says something that a slow client may miss.
    fn mention(&self, event: DeployEvent) {
        let _ = self.events.try_send(event);
    }
}

impl Work {
    /// What it is, in a word.
    fn name(&self) -> String {
        self.kind().to_string()
    }

    fn kind(&self) -> DeployKind {
        match self {
            Self::Deploy(_) => DeployKind::Deploy,
            Self::Wish(wish) => wish.kind(),
        }
    }
}

/// A mistake of ours, which the log has in full.
fn broken() -> Refusal {
    let message = "the engine made a mistake of its own; its log says which";
    Refusal::new(ErrorCode::EngineError, message)
}
