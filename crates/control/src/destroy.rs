//! Removes an app and all that it has.
//!
//! [`begin`] is the decision; from then on the app has no route and nothing of it should run. The
//! rest can be done over and over, and is, until nothing is left: by [`run`], in this engine or the
//! next.

use ace_api::http::Author;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ace_types::{AppName, TenantName, error_chain};

use crate::changes;
use crate::engine::Engine;
use crate::journal;
use crate::names;
use crate::recover;
use crate::refusal::Refusal;
use crate::reserve;

/// How long an instance of an app that is to go has for what it has under way: nobody will ask for
/// the outcome, so no longer than a request usually takes.
const GRACE: Duration = Duration::from_secs(3);
/// How much longer than its grace an instance may take until it's gone.
pub const GONE_MARGIN: Duration = Duration::from_secs(30);
/// The pause before a further attempt; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Why an app is not gone yet.
#[derive(Debug, thiserror::Error)]
pub enum DestroyError {
    #[error("could not end its instances")]
    Kill(#[source] io::Error),
    #[error("its instances have not stopped yet")]
    Running,
    #[error("commands that were run in it have not stopped yet")]
    Commands,
    #[error("could not remove its volume and logs")]
    Volume(#[source] io::Error),
    #[error("could not remove its files")]
    Files(#[source] io::Error),
    #[error("the engine's state could not be changed")]
    Records(#[source] Refusal),
}

/// Decides that `app`, where it's one of `tenant`'s, is to go, and gives up its deploys.
pub async fn begin(
    engine: &Engine,
    app: &AppName,
    tenant: Option<&TenantName>,
    by: &Author,
) -> Result<(), Refusal> {
    let change = |state: &_| match changes::begin_destroy(state, app, tenant) {
        Some(ops) => Ok((ops, ())),
        None => Err(names::no_such_app(state, app, tenant)),
    };
    let begun = match engine.records.transact_for(Some(by), change).await {
        Err(refusal) if refusal.is_full_disk() && give_up_reserve(engine) => {
            engine.records.transact_for(Some(by), change).await
        }
        begun => begun,
    };
    let ((), revision) = begun?;
    engine.lanes.cancel(app);
    engine.commands.stop(app);
    engine.applied(revision).await;
    Ok(())
}

/// Makes room for the decision. Returns whether there was any to make.
fn give_up_reserve(engine: &Engine) -> bool {
    reserve::give_up(&engine.config.reserve()).unwrap_or_else(|error| {
        tracing::warn!(%error, "could not make room on a full disk");
        false
    })
}

/// Removes all that an app being destroyed still has, however often it takes, until it's gone or the
/// engine is about to end.
pub async fn run(engine: Arc<Engine>, app: AppName) {
    let Some(ticket) = engine.lanes.enter(&app, usize::MAX) else { return };
    let work = async {
        let _turn = ticket.turn().await;
        let mut pause = FIRST_PAUSE;
        while let Err(error) = attempt(&engine, &app).await {
            tracing::warn!(%app, error = %error_chain(&error), "an app is not gone yet");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    };
    tokio::select! {
        () = work => {}
        () = engine.ended() => {}
    }
}

/// Removes all that `app` still has, once. The caller has the app's turn.
pub async fn attempt(engine: &Engine, app: &AppName) -> Result<(), DestroyError> {
    let state = engine.records.state().await.map_err(|e| DestroyError::Records(e.into()))?;
    // Another may have finished it, and the name may be somebody's again.
    if !state.app(app).is_some_and(|row| row.destroying) {
        return Ok(());
    }
    // A deploy that the destruction has cut short may have left an instance to stop.
    recover::settle_stopped(engine, app).await.map_err(DestroyError::Records)?;
    engine.commands.stop(app);
    if !engine.gone(app, |_| true, GRACE).await {
        engine.node.kill_app(app).await.map_err(DestroyError::Kill)?;
    }
    if !engine.gone(app, |_| true, engine.config.stop_grace + GONE_MARGIN).await {
        return Err(DestroyError::Running);
    }
    if !engine.commands.gone(app, GONE_MARGIN).await {
        return Err(DestroyError::Commands);
    }
    // One that is being made has the app in it.
    engine.backups.ended().await;
    let volume = engine.config.volume(app);
    engine.node.remove_app(app, volume).await.map_err(DestroyError::Volume)?;
    engine.builder.remove_app(app).await.map_err(DestroyError::Files)?;
    journal::remove(&engine.config, app).map_err(DestroyError::Files)?;
    let change = |state: &_| Ok((changes::forget_app(state, app), ()));
    engine.records.transact(change).await.map_err(DestroyError::Records)?;
    if let Err(error) = recover::sweep(engine, app).await {
        tracing::warn!(%app, error = %error_chain(&error), "could not remove an app's build logs");
    }
    recover::keep_reserve(&engine.config).await;
    tracing::info!(%app, "destroyed");
    Ok(())
}
