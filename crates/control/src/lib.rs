//! Decides what should be: the API, on the Unix socket and over TCP, and what follows from it.
//!
//! What is wanted stands in the store (`rows`). `changes` is every way it changes, `plan` what
//! it means for node and gateway, both pure. `operation` and `destroy` carry one wish through;
//! `reconcile` keeps the machine as it should be; `upgrades` notices that its Pythons have changed;
//! `recover` ends what another engine left half done.
//!
//! Not here: building (`builder`), running (`node`), serving (`gateway`). They are known by their
//! traits in `api` alone.

#![forbid(unsafe_code)]

mod archive;
mod attempts;
mod backup;
mod build_log;
mod build_queue;
mod caller;
mod changes;
mod commands;
mod config;
mod destroy;
mod engine;
mod events;
mod hints;
mod http;
mod journal;
mod lanes;
mod log_file;
mod log_line;
mod logs;
mod marks;
mod metrics;
mod missing;
mod names;
mod notices;
mod operation;
mod patience;
mod plan;
mod predeploy;
mod pythons;
mod reconcile;
mod records;
mod recover;
mod refusal;
mod reserve;
mod restore;
mod rows;
mod run;
mod server;
#[cfg(test)]
mod simulation;
mod socket;
mod state;
mod tasks;
#[cfg(test)]
mod testing;
mod tokens;
mod upgrades;
mod views;

use std::sync::Arc;
use std::time::Duration;

use ace_types::NameError;
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use config::ControlConfig;
use engine::Engine;
pub use engine::{Clock, Parts};
pub use records::RecordsError;
pub use recover::RecoverError;
pub use restore::{MissingPython, RestoreError, restore_rows};
pub use socket::ApiSocket;
pub use state::RowError;

/// How long deploys may take to end once the engine is to stop.
const WOUND_DOWN_WITHIN: Duration = Duration::from_secs(20);

/// Where the API is served. The caller makes them, and removes them.
#[derive(Debug)]
pub struct Listeners {
    /// Whoever can connect to it is trusted.
    pub socket: ApiSocket,
    /// Whoever connects to it has to show a token.
    pub tcp: Option<TcpListener>,
}

/// How the engine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was told to stop; the apps go on running.
    Stopped,
    /// Everything was brought down, as the API was asked to.
    Down,
}

/// Why `control` could not start.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("the domain {domain} leaves no room for an app's name before it")]
    Domain { domain: String, source: NameError },
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error(transparent)]
    Recover(#[from] RecoverError),
}

/// Ends what an earlier engine left half done, then serves the API on `listeners` and keeps the
/// machine as it should be, until `stop` turns true, its sender is dropped, or the API is asked to
/// bring everything down.
pub async fn run(
    config: ControlConfig,
    parts: Parts,
    listeners: Listeners,
    stop: watch::Receiver<bool>,
) -> Result<Outcome, ControlError> {
    let engine = start(config, parts).await?;
    engine.tasks.spawn(missing::watch(Arc::clone(&engine)));
    let end = watch::Sender::new(false);
    let router = http::router(Arc::clone(&engine));
    let server = tokio::spawn(server::serve(listeners, router, end.subscribe()));
    let ended = tokio::select! {
        () = becomes_true(engine.is_down.subscribe()) => Outcome::Down,
        () = becomes_true(stop) => {
            wind_down(&engine).await;
            Outcome::Stopped
        }
    };
    end.send_replace(true);
    if let Err(error) = server.await {
        tracing::error!(%error, "the API's server failed");
    }
    Ok(ended)
}

/// Ends what an earlier engine left half done, and begins to keep the machine as it should be.
async fn start(config: ControlConfig, parts: Parts) -> Result<Arc<Engine>, ControlError> {
    check(&config)?;
    let engine = Arc::new(Engine::new(config, parts).await?);
    recover::recover(&engine).await?;
    *engine.reconciler.lock().await = Some(tokio::spawn(reconcile::reconcile(Arc::clone(&engine))));
    recover::resume_destructions(&engine).await?;
    engine.tasks.spawn(upgrades::watch(Arc::clone(&engine)));
    engine.tasks.spawn(notices::watch(Arc::clone(&engine)));
    Ok(engine)
}

fn check(config: &ControlConfig) -> Result<(), ControlError> {
    // The shortest name; longer ones are checked when they are deployed.
    let shortest = format!("a.{}", config.domain).parse::<ace_types::HostName>();
    let domain = || config.domain.to_string();
    shortest.map(|_| ()).map_err(|source| ControlError::Domain { domain: domain(), source })
}

/// Waits until `signal` is true, or can no longer become so because its sender is gone.
async fn becomes_true(mut signal: watch::Receiver<bool>) {
    let _ = signal.wait_for(|signal| *signal).await;
}

/// Begins no new work, gives up what can be given up, and lets go of the machine as it is.
async fn wind_down(engine: &Engine) {
    engine.ending.send_replace(true);
    engine.tasks.finish(WOUND_DOWN_WITHIN).await;
    if let Some(reconciler) = engine.reconciler.lock().await.take() {
        reconciler.abort();
        // Aborted is how it's meant to end.
        let _ = reconciler.await;
    }
}
