//! Notices that a Python of the machine's was upgraded or removed, and has the apps that run on it rebuilt.
//!
//! One app at a time is looked at, when the engine starts, then every few minutes, when a Python was
//! added, and when an instance has ended by itself. A rebuild is an operation like any other (see `operation`): the old release serves until the
//! new one is ready, and goes on where that fails.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ace_api::http::PythonTrouble;
use ace_api::{Interpreter, PythonState};
use ace_types::{AppName, ReleaseNumber, error_chain};
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use crate::engine::Engine;
use crate::operation;
use crate::records::RecordsError;
use crate::rows::ReleaseRow;
use crate::state::State;

/// How long the machine's Pythons may take to say what they are.
const ASKED_WITHIN: Duration = Duration::from_secs(60);
/// The pause after a rebuild before the same one is tried again; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(300);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 3600);

/// What is known of the Pythons of the apps that serve. An engine that starts looks anew.
#[derive(Debug, Default)]
pub struct Upgrades {
    apps: Mutex<BTreeMap<AppName, Known>>,
    wake: Notify,
}

#[derive(Debug, Clone)]
struct Known {
    /// The release that was looked at.
    release: ReleaseNumber,
    trouble: Option<PythonTrouble>,
    last: Option<Attempt>,
}

/// A rebuild, however it ended: a release that was rebuilt may have died, and been turned back from.
#[derive(Debug, Clone)]
struct Attempt {
    python: Interpreter,
    /// How many there have been for `python`.
    count: u32,
    again_at: Instant,
}

impl Upgrades {
    /// What is wrong with the Python of `release` of `app`.
    pub fn trouble(&self, app: &AppName, release: ReleaseNumber) -> Option<PythonTrouble> {
        let known = self.lock().get(app).cloned()?;
        known.trouble.filter(|_| known.release == release)
    }

    /// Has all apps looked at now.
    pub fn look_now(&self) {
        self.wake.notify_one();
    }

    /// Notes how the Python of `release` is, after the attempt `last` if there was one.
    fn note(
        &self,
        app: &AppName,
        release: ReleaseNumber,
        trouble: Option<PythonTrouble>,
        last: Option<Attempt>,
    ) {
        self.lock().insert(app.clone(), Known { release, trouble, last });
    }

    fn last_attempt(&self, app: &AppName) -> Option<Attempt> {
        self.lock().get(app)?.last.clone()
    }

    /// Forgets the apps that there are no more.
    fn retain(&self, is_there: impl Fn(&AppName) -> bool) {
        self.lock().retain(|app, _| is_there(app));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AppName, Known>> {
        self.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at all apps again and again, until the engine ends.
pub async fn watch(engine: Arc<Engine>) {
    tokio::select! {
        () = look_again_and_again(&engine) => {}
        () = engine.ended() => {}
    }
}

async fn look_again_and_again(engine: &Arc<Engine>) {
    loop {
        if let Err(error) = look_at_all(engine).await {
            tracing::error!(error = %error_chain(&error), "could not look at the apps' Pythons");
        }
        tokio::select! {
            () = sleep(engine.config.python_check) => {}
            () = engine.upgrades.wake.notified() => {}
        }
    }
}

async fn look_at_all(engine: &Arc<Engine>) -> Result<(), RecordsError> {
    let state = engine.records.state().await?;
    engine.upgrades.retain(|app| state.app(app).is_some());
    for app in state.apps().map(|row| &row.name) {
        look_at(engine, app).await?;
    }
    Ok(())
}

async fn look_at(engine: &Arc<Engine>, name: &AppName) -> Result<(), RecordsError> {
    let state = engine.records.state().await?;
    let app = state.app(name).filter(|app| !app.destroying);
    let serving = app.and_then(|app| state.release(name, app.serving?));
    let Some(release) = serving else { return Ok(()) };
    let asked = timeout(ASKED_WITHIN, engine.builder.python_of(&release.built)).await;
    let last = engine.upgrades.last_attempt(name);
    match asked {
        Ok(PythonState::Same) => engine.upgrades.note(name, release.number, None, last),
        Ok(PythonState::Gone(message)) => {
            tracing::warn!(app = %name, message, "a Python is gone");
            let gone = PythonTrouble::Gone { message };
            engine.upgrades.note(name, release.number, Some(gone), last);
        }
        Ok(PythonState::Replaced(python)) if is_due(last.as_ref(), &python) => {
            rebuild(engine, name, release.number, python, last).await;
        }
        // Its pause is not over.
        Ok(PythonState::Replaced(python)) => {
            if let (Some(last), Some(error)) = (last, end_of_rebuilt(&state, release, &python)) {
                let retry_at = at(engine, last.again_at);
                let version = python.version;
                let trouble = PythonTrouble::NotRebuilt { version, error, retry_at };
                engine.upgrades.note(name, release.number, Some(trouble), Some(last));
            }
        }
        // A Python takes its time: the next look will tell.
        Err(_) => {}
    }
    Ok(())
}

/// How `release`, which serves, as it was built anew for `python` came to be taken back, if it was.
fn end_of_rebuilt(state: &State, release: &ReleaseRow, python: &Interpreter) -> Option<String> {
    let mut newest_first = state.releases_of(&release.app).rev();
    newest_first.find_map(|row| {
        let withdrawn = row.withdrawn.as_ref().filter(|_| row.is_rebuilt(release, python))?;
        Some(format!("release {}, built for it, died {}", row.number, withdrawn.reason))
    })
}

fn at(engine: &Engine, instant: Instant) -> Timestamp {
    let left = instant.saturating_duration_since(Instant::now());
    engine.now().saturating_add(left).unwrap_or(Timestamp::MAX)
}

/// Rebuilds `release` for what its Python has become.
async fn rebuild(
    engine: &Arc<Engine>,
    app: &AppName,
    release: ReleaseNumber,
    python: Interpreter,
    last: Option<Attempt>,
) {
    let version = python.version.clone();
    let result = operation::rebuild(engine, app.clone()).await;
    let attempt = next_attempt(last, python);
    let retry_at = at(engine, attempt.again_at);
    let trouble = result.err().map(|error| PythonTrouble::NotRebuilt {
        version,
        error: error.message,
        retry_at,
    });
    engine.upgrades.note(app, release, trouble, Some(attempt));
}

fn is_due(last: Option<&Attempt>, python: &Interpreter) -> bool {
    last.is_none_or(|last| last.python != *python || Instant::now() >= last.again_at)
}

/// What is remembered of an attempt for `python` that has just ended, after `last`.
fn next_attempt(last: Option<Attempt>, python: Interpreter) -> Attempt {
    let before = last.filter(|last| last.python == python).map_or(0, |last| last.count);
    let pause = FIRST_PAUSE.saturating_mul(1 << before.min(16)).min(LONGEST_PAUSE);
    let again_at = Instant::now() + pause;
    Attempt { python, count: before + 1, again_at }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn python(build: u64) -> Interpreter {
        Interpreter {
            version: "3.13.1".to_owned(),
            program: "/usr/bin/python3.13".into(),
            prefix: "/usr".into(),
            build,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_rebuild_is_tried_again_after_a_pause_that_doubles() {
        let first = next_attempt(None, python(1));
        assert!(!is_due(Some(&first), &python(1)));
        tokio::time::advance(FIRST_PAUSE).await;
        assert!(is_due(Some(&first), &python(1)));
        let second = next_attempt(Some(first), python(1));
        assert_eq!(second.again_at - Instant::now(), FIRST_PAUSE * 2);
        let many = Attempt { count: 40, ..second };
        let next = next_attempt(Some(many), python(1));
        assert_eq!(next.again_at - Instant::now(), LONGEST_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_further_upgrade_is_tried_at_once() {
        let first = next_attempt(None, python(1));
        assert!(is_due(Some(&first), &python(2)));
        assert_eq!(next_attempt(Some(first), python(2)).count, 1);
    }
}
