//! How an app arrives at a release, by whichever way: what it is from then on, and what its instances
//! are for.

use ace_api::http::{DeployKind, ReleaseCause};
use ace_store::Op;
use ace_types::{InstanceId, ReleaseNumber};
use jiff::Timestamp;

use crate::rows::{AppRow, DeployRow, InstanceRole, InstanceRow, ReleaseRow, Trial, Withdrawn};
use crate::state::{Row, State};

/// What `app` is once it has been brought to `release`.
///
/// A release brings back its configuration, its limits and, if it has one, its Python. A new one is on trial for its first minute,
/// if there is one to turn back to.
pub fn arrived(app: &AppRow, kind: &DeployKind, release: &ReleaseRow, now: Timestamp) -> AppRow {
    let mut arrived = AppRow {
        serving: Some(release.number),
        config: release.config.clone(),
        limits: release.limits.clone(),
        ..app.clone()
    };
    if let Some(runtime) = release.built.serving.runtime() {
        arrived.python = Some(runtime.python.clone());
    }
    if app.serving != arrived.serving {
        // Built anew, it's the same to those who use it: who rolls back wants what was before both.
        let is_rebuilt =
            matches!(&release.cause, ReleaseCause::Rebuilt { of, .. } if app.serving == Some(*of));
        arrived.served_before = if is_rebuilt { app.served_before } else { app.serving };
        arrived.deployed_at = Some(now);
        arrived.trial = None;
    }
    match kind {
        DeployKind::Deploy => {
            arrived.stopped = false;
            arrived.trial = trial(app);
        }
        DeployKind::Configure | DeployKind::Limit => {
            arrived.trial = trial(app).filter(|_| !app.stopped);
        }
        DeployKind::Rebuild => {
            arrived.trial = trial(app).filter(|_| !app.stopped);
        }
        DeployKind::Rollback | DeployKind::Start => arrived.stopped = false,
        DeployKind::Retreat { .. } => {
            // As if the release that died had never been: a rollback must not lead to it.
            arrived.served_before = app.trial.as_ref().and_then(|trial| trial.served_before);
        }
        DeployKind::Stop => arrived.stopped = true,
        DeployKind::Scale { instances } => arrived.scale = *instances,
        DeployKind::Restart => {}
    }
    arrived
}

fn trial(app: &AppRow) -> Option<Trial> {
    Some(Trial { serving: app.serving?, served_before: app.served_before })
}

/// `count` instances of `release` that are to be ready before a switch; files need none.
pub fn candidates(
    app: &AppRow,
    release: &ReleaseRow,
    count: usize,
    fresh: &[InstanceId],
) -> Vec<InstanceRow> {
    let candidate = |id: &InstanceId| InstanceRow {
        id: id.clone(),
        app: app.name.clone(),
        tenant: app.tenant.clone(),
        release: release.number,
        role: InstanceRole::Candidate,
        replaced: 0,
    };
    let count = release.built.serving.runtime().map_or(0, |_| count);
    fresh.iter().take(count).map(candidate).collect()
}

/// What the instances of `app` are for once a switch has come. Candidates take the place of those that
/// served, but for those of the release `joined`, which they join.
pub fn promoted<'a>(
    state: &'a State,
    app: &'a AppRow,
    joined: Option<ReleaseNumber>,
) -> impl Iterator<Item = Op> + 'a {
    state.instances_of(&app.name).filter_map(move |row| match row.role {
        InstanceRole::Candidate => Some(in_role(row, InstanceRole::Serving)),
        InstanceRole::Serving if joined == Some(row.release) => None,
        InstanceRole::Serving => Some(in_role(row, InstanceRole::Retired)),
        InstanceRole::Retired => None,
    })
}

/// The instances past the first `count` that serve `app` are to serve no longer.
pub fn retired_beyond<'a>(
    state: &'a State,
    app: &'a AppRow,
    count: usize,
) -> impl Iterator<Item = Op> + 'a {
    let serving = state.instances_of(&app.name).filter(|row| row.role == InstanceRole::Serving);
    serving.skip(count).map(|row| in_role(row, InstanceRole::Retired))
}

/// Notes of a release that the engine turns back from why it did.
pub fn withdrawal(state: &State, deploy: &DeployRow, now: Timestamp) -> Option<Op> {
    let DeployKind::Retreat { from, reason } = &deploy.kind else { return None };
    let row = state.release(&deploy.app, *from)?;
    let withdrawn = Withdrawn { at: now, to: deploy.release, reason: reason.clone() };
    Some(row.replace(&ReleaseRow { withdrawn: Some(withdrawn), ..ReleaseRow::clone(row) }))
}

fn in_role(row: &Row<InstanceRow>, role: InstanceRole) -> Op {
    row.replace(&InstanceRow { role, ..InstanceRow::clone(row) })
}
