//! The Pythons of the machine as the API shows them, with the apps that run on each.

use std::time::Duration;

use ace_api::http::PythonView;
use ace_api::{Interpreter, KnownPython, PythonState};
use tokio::time::timeout;

use crate::caller::Caller;
use crate::engine::Engine;
use crate::refusal::Refusal;

/// How long the machine's Pythons may take to say what they are.
const ASKED_WITHIN: Duration = Duration::from_secs(60);

/// The Pythons that apps can have, the newest first, and then those that apps had and are gone; with
/// the apps that there are for `caller`.
pub async fn all(engine: &Engine, caller: &Caller) -> Result<Vec<PythonView>, Refusal> {
    let asked = timeout(ASKED_WITHIN, views(engine, caller)).await;
    asked.map_err(|error| Refusal::engine("ask every Python in time", &error))?
}

/// `python`, before any app has it.
pub fn view(python: KnownPython) -> PythonView {
    let Interpreter { version, program, .. } = python.interpreter;
    PythonView { name: version, program, servers: python.servers, apps: Vec::new(), gone: None }
}

async fn views(engine: &Engine, caller: &Caller) -> Result<Vec<PythonView>, Refusal> {
    let mut views: Vec<PythonView> = engine.builder.pythons().await.into_iter().map(view).collect();
    let state = engine.records.state().await?;
    for app in state.apps().filter(|app| caller.sees(app)) {
        let serving = app.serving.and_then(|number| state.release(&app.name, number));
        let runtime = serving.and_then(|row| Some((row, row.built.serving.runtime()?)));
        let Some((release, runtime)) = runtime else { continue };
        let (python, gone) = match engine.builder.python_of(&release.built).await {
            PythonState::Same => (runtime.python.clone(), None),
            PythonState::Replaced(now) => (now, None),
            PythonState::Gone(message) => (runtime.python.clone(), Some(message)),
        };
        let is_it = |view: &&mut PythonView| {
            view.program == python.program && view.gone.is_some() == gone.is_some()
        };
        match views.iter_mut().find(is_it) {
            Some(view) => view.apps.push(app.name.clone()),
            None => views.push(PythonView {
                name: python.version,
                program: python.program,
                servers: Vec::new(),
                apps: vec![app.name.clone()],
                gone,
            }),
        }
    }
    Ok(views)
}
