//! What somebody has removed of a release that serves. It can't be made again without its source, so all that can be
//! done is to tell, while what runs goes on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ace_api::http::ReleasePart;
use ace_api::{Built, Program};
use ace_types::AppName;
use tokio::time::sleep;

use crate::engine::Engine;
use crate::journal;
use crate::state::State;

/// How often it's looked.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What is missing, by app.
pub type Missing = BTreeMap<AppName, Vec<ReleasePart>>;

/// Tells in an app's log, and in the engine's, what has gone missing, until the engine ends.
pub async fn watch(engine: Arc<Engine>) {
    let mut told = Missing::new();
    loop {
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = engine.ended() => return,
        }
        // What can't be read now is told by whoever needs it.
        let Ok(state) = engine.records.state().await else { continue };
        let now = find(&state).await;
        for (app, parts) in now.iter().filter(|(app, parts)| told.get(*app) != Some(*parts)) {
            let text = sentence(parts, app);
            tracing::error!(%app, "{text}");
            journal::write(&engine.config, app, &text).await;
        }
        told = now;
    }
}

/// What is missing of the releases that serve.
pub async fn find(state: &State) -> Missing {
    let release = |app: &AppName, number| state.release(app, number);
    let serving = state.apps().filter(|app| !app.destroying).filter_map(|app| {
        Some((app.name.clone(), parts(&release(&app.name, app.serving?)?.built)))
    });
    let serving: Vec<_> = serving.collect();
    let look = move || {
        let missing = |parts: Vec<(ReleasePart, PathBuf)>| {
            let gone = parts.into_iter().filter(|(_, path)| matches!(path.try_exists(), Ok(false)));
            gone.map(|(part, _)| part).collect::<Vec<_>>()
        };
        let found = serving.into_iter().map(|(app, parts)| (app, missing(parts)));
        found.filter(|(_, missing)| !missing.is_empty()).collect()
    };
    // An error means that the runtime is going down.
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}

fn parts(built: &Built) -> Vec<(ReleasePart, PathBuf)> {
    let mut parts = vec![(ReleasePart::Code, built.code.clone())];
    if let Some(runtime) = built.serving.runtime() {
        parts.push((ReleasePart::Environment, runtime.environment.clone()));
        if let Program::Server { packages, .. } = &runtime.program {
            parts.push((ReleasePart::Server, packages.clone()));
        }
    }
    parts
}

fn sentence(parts: &[ReleasePart], app: &AppName) -> String {
    let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
    format!(
        "the release's {} was removed from the engine's disk; no instance can start until the app is \
         deployed again: ace deploy DIR --app {app}",
        parts.join(", ")
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_release_needs_its_code_its_environment_and_its_server() {
        let found: Vec<ReleasePart> =
            parts(&testing::built("shop", 1)).into_iter().map(|(part, _)| part).collect();
        assert_eq!(found, [ReleasePart::Code, ReleasePart::Environment, ReleasePart::Server]);
    }
}
