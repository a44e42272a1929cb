//! Tells node and gateway what follows from the rows, whenever the rows or the instances change.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use ace_api::{InstanceSpec, RouteTable};
use ace_store::Revision;
use ace_types::{AppName, InstanceId, error_chain};
use futures_util::FutureExt;
use tokio::time::{Instant, sleep, sleep_until};

use crate::changes;
use crate::engine::{Engine, new_instance_id};
use crate::operation;
use crate::plan::{Death, Plan, Statuses, plan};
use crate::records::RecordsError;
use crate::refusal::Refusal;

/// How often everything is looked at though nothing seems to have changed.
const RESYNC: Duration = Duration::from_secs(5);
/// The pause after a pass that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// What node and gateway were last told; `None` before the first time.
type Told = Option<(RouteTable, Vec<InstanceSpec>)>;

/// Brings what runs to what should run, until its task is aborted, which leaves everything running.
///
/// It goes on while the engine ends: the last deploys still count on it.
pub async fn reconcile(engine: Arc<Engine>) {
    let mut told = None;
    let mut statuses = engine.node.statuses();
    let mut resync = Instant::now() + RESYNC;
    let mut seen = Revision(0);
    loop {
        let now = Arc::clone(&statuses.borrow_and_update());
        // A panic must not end the one task that every app depends on.
        match AssertUnwindSafe(pass(&engine, &now, &mut told)).catch_unwind().await {
            Ok(Ok(revision)) => seen = revision,
            Ok(Err(error)) => {
                tracing::error!(error = %error_chain(&error), "could not bring the machine up to date");
                sleep(PAUSE).await;
            }
            Err(_) => {
                tracing::error!("the reconciler panicked; it goes on");
                sleep(PAUSE).await;
            }
        }
        let mut rows = engine.records.watch(seen);
        tokio::select! {
            Some(_) = rows.next() => {}
            Ok(()) = statuses.changed() => {}
            () = sleep_until(resync) => {
                // Say it again, whether it has changed or not.
                told = None;
                resync = Instant::now() + RESYNC;
            }
        }
    }
}

/// Looks at everything once and says what has changed. Returns what it has seen of the rows.
async fn pass(
    engine: &Arc<Engine>,
    statuses: &Statuses,
    told: &mut Told,
) -> Result<Revision, RecordsError> {
    let state = engine.records.state().await?;
    let Plan { routes, instances, replace, died } =
        plan(&engine.config, &state, statuses, engine.now());
    let now = (routes, instances);
    if told.as_ref() != Some(&now) {
        // Routes first: an instance must have lost its requests before it is asked to stop.
        engine.gateway.set_routes(now.0.clone());
        engine.node.set_desired(now.1.clone());
        *told = Some(now);
    }
    engine.applied.send_replace(state.revision);
    for (app, failed) in replace {
        if let Err(refusal) = replace_instance(engine, &app, &failed).await {
            tracing::error!(%app, instance = %failed, %refusal, "could not replace an instance");
        }
    }
    died.into_iter().for_each(|death| turn_back(engine, death));
    Ok(state.revision)
}

/// Has the app turn back from its dead release, unless it's at that already.
fn turn_back(engine: &Arc<Engine>, death: Death) {
    let Death { app, release, reason } = death;
    let Some(mark) = engine.retreats.mark(&app).filter(|_| !engine.is_ending()) else { return };
    let task_engine = Arc::clone(engine);
    engine.tasks.spawn(async move {
        operation::retreat(&task_engine, app, release, reason).await;
        // The release that serves again may be one whose Python has changed, which is to be told.
        task_engine.upgrades.look_now();
        drop(mark);
    });
}

async fn replace_instance(
    engine: &Engine,
    app: &AppName,
    failed: &InstanceId,
) -> Result<(), Refusal> {
    let instance = new_instance_id()?;
    tracing::info!(%app, %failed, %instance, "a failed instance gets a successor");
    let change = |state: &_| Ok((changes::replace_instance(state, app, failed, &instance), ()));
    engine.records.transact(change).await?;
    Ok(())
}
