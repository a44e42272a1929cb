//! A release whose Python has changed under it is built anew before it starts, as a release under a number of
//! its own.

use ace_api::Built;
use ace_api::http::{DeployKind, ReleaseCause};
use ace_store::Op;
use ace_types::{BuildId, ReleaseNumber};

use super::{
    Asked, BuildBegun, building, check_owner, ended_build, free_build_ids, free_ranges, no_ranges,
};
use crate::names;
use crate::refusal::Refusal;
use crate::rows::{AppRow, IdsOwner, IdsRow, ReleaseRow};
use crate::state::{State, create};

/// A release that was built anew.
#[derive(Debug, Clone)]
pub struct Rebuilt {
    pub of: ReleaseNumber,
    /// The number that it has now.
    pub release: ReleaseNumber,
    pub build: BuildId,
    pub built: Built,
}

/// A release is built anew, as the first part of what `kind` says.
pub fn begin_rebuild(
    state: &State,
    asked: &Asked,
    kind: DeployKind,
    build: &BuildId,
) -> Result<(Vec<Op>, BuildBegun), Refusal> {
    let tenant = asked.tenant.as_ref();
    let app = state.app(&asked.app).ok_or_else(|| names::no_such_app(state, &asked.app, tenant))?;
    check_owner(app, tenant)?;
    let build_ids = free_ranges(state, asked).next().ok_or_else(no_ranges)?;
    let release = app.next_release;
    let mut ops = vec![
        create(&IdsRow { index: build_ids, owner: IdsOwner::Build(build.clone()) }),
        app.replace(&AppRow { next_release: release.next(), ..AppRow::clone(app) }),
    ];
    ops.extend(building(state, asked, &app.tenant, kind, release, build));
    let (tenant, python) = (app.tenant.clone(), app.python.clone());
    Ok((ops, BuildBegun { tenant, release, build_ids, python }))
}

impl Rebuilt {
    /// `release` as it was built anew.
    pub fn over(&self, release: &ReleaseRow) -> ReleaseRow {
        let (build, built) = (self.build.clone(), self.built.clone());
        ReleaseRow { number: self.release, build, built, ..release.clone() }
    }

    /// Why there is another release besides the one that it is of.
    pub fn cause(&self) -> ReleaseCause {
        let runtime = self.built.serving.runtime();
        let python = runtime.map_or(String::new(), |runtime| runtime.python.version.clone());
        ReleaseCause::Rebuilt { of: self.of, python }
    }

    /// The build has ended well.
    pub fn ended(&self, state: &State, asked: &Asked) -> Vec<Op> {
        let row = state.build(&asked.app, self.release);
        let ended = row.map(|row| row.replace(&ended_build(row, asked.now)));
        ended.into_iter().chain(free_build_ids(state, &self.build)).collect()
    }
}
