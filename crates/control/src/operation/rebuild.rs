//! What is done before a release starts whose Python has changed since its environment was made.

use std::time::{Duration, Instant};

use ace_api::http::DeployPhase;
use ace_api::{BuildError, ErrorCode, Interpreter, PythonState, RebuildRequest};
use ace_types::error_chain;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{EVENTS, Operation, broken};
use crate::build_log::BuildLog;
use crate::changes::{self, Rebuilt, Wish};
use crate::engine::new_build_id;
use crate::refusal::Refusal;
use crate::rows::ReleaseRow;

/// How long the machine's Pythons may take to say what they are.
const ASKED_WITHIN: Duration = Duration::from_secs(60);

/// A release that can't start as it is.
pub struct Outdated {
    release: ReleaseRow,
    /// What its Python has become.
    python: Interpreter,
}

impl Operation {
    /// The release that `wish` would start, if that has to be built anew for it.
    ///
    /// Errors: its Python is gone, or what was built anew of it has died.
    pub(super) async fn outdated(&self, wish: &Wish) -> Result<Option<Outdated>, Refusal> {
        let state = self.engine.records.state().await?;
        let Some(release) = changes::started_by(&state, &self.app, wish) else { return Ok(None) };
        let asked = timeout(ASKED_WITHIN, self.engine.builder.python_of(&release.built)).await;
        let python =
            match asked.map_err(|error| Refusal::engine("ask every Python in time", &error))? {
                PythonState::Same => return Ok(None),
                PythonState::Replaced(python) => python,
                PythonState::Gone(reason) => return Err(cannot_start(release, &reason)),
            };
        if let Wish::Retreat { from, .. } = wish {
            // What was upgraded in its place runs the environment that there is, which has worked; one
            // made anew may be what has died.
            if is_in_place(release, &python) {
                return Ok(None);
            }
            let from = state.release(&self.app, *from);
            if let Some(died) = from.filter(|from| from.is_rebuilt(release, &python)) {
                return Err(cannot_start(release, &died_in_place(release, died, &python)));
            }
        }
        Ok(Some(Outdated { release: release.clone(), python }))
    }

    /// Has `outdated` built anew, for `wish` to start.
    pub(super) async fn rebuild(
        &self,
        wish: &Wish,
        outdated: Outdated,
    ) -> Result<Rebuilt, Refusal> {
        let Outdated { release, python } = outdated;
        let room = tokio::select! {
            room = self.room_to_build() => room?,
            refusal = self.given_up() => return Err(refusal),
        };
        let build = new_build_id()?;
        let asked = self.asked()?;
        let change = |state: &_| changes::begin_rebuild(state, &asked, wish.kind(), &build);
        let (begun, _) = self.engine.records.transact(change).await?;
        let (app, of, version) = (&self.app, release.number, &python.version);
        tracing::info!(%app, release = %of, python = version, %build, "rebuilding");
        self.phase(DeployPhase::Building).await;
        let request = RebuildRequest {
            id: build.clone(),
            tenant: release.tenant,
            app: self.app.clone(),
            ids: self.engine.config.id_range(begun.build_ids).ok_or_else(broken)?,
            built: release.built,
        };
        let mut log = BuildLog::create(&self.engine.config.build_log(&build)).await;
        let line = format!("the Python of release {of} was upgraded: rebuilding its environment");
        self.log(&mut log, line).await;
        let (lines, said) = mpsc::channel(EVENTS);
        let began = Instant::now();
        let work = async {
            tokio::select! {
                built = self.engine.builder.rebuild(request, lines) => built.map_err(|error| {
                    let what = format!("the environment of release {of} for Python {version}");
                    rebuild_failed(&what, &error)
                }),
                refusal = self.given_up() => Err(refusal),
            }
        };
        let built = self.hear_out(work, said, &mut log).await;
        self.engine.tally.built(began.elapsed());
        let built = built?;
        drop(room);
        Ok(Rebuilt { of, release: begun.release, build, built })
    }
}

fn cannot_start(release: &ReleaseRow, reason: &str) -> Refusal {
    let message = format!("release {} can't start: {reason}", release.number);
    Refusal::new(ErrorCode::PythonGone, message)
}

/// Whether `python` is the program that `release` was built with, upgraded.
fn is_in_place(release: &ReleaseRow, python: &Interpreter) -> bool {
    let runtime = release.built.serving.runtime();
    runtime.is_some_and(|runtime| runtime.python.program == python.program)
}

fn died_in_place(release: &ReleaseRow, died: &ReleaseRow, python: &Interpreter) -> String {
    let runtime = release.built.serving.runtime();
    let gone = runtime.map_or(String::new(), |runtime| {
        format!(
            "Python {} is gone from {}",
            runtime.python.version,
            runtime.python.program.display()
        )
    });
    format!(
        "{gone}, and release {}, the same built for Python {}, has died",
        died.number, python.version
    )
}

fn rebuild_failed(what: &str, error: &BuildError) -> Refusal {
    match error {
        BuildError::Rejected(message) => {
            let message = format!("could not rebuild {what}: {message}");
            Refusal::new(ErrorCode::BuildFailed, message)
        }
        BuildError::Engine { doing, .. } => {
            tracing::error!(what, error = %error_chain(error), "could not rebuild");
            Refusal::engine(doing, error)
        }
    }
}
