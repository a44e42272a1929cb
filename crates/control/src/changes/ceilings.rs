//! Whether an app may have what it asks for, beside what its tenant has already.

use ace_api::http::DeployKind;
use ace_api::{Built, ErrorCode, Serving};
use ace_types::ceilings::Claim;
use ace_types::{Bytes, Limits};

use super::Asked;
use crate::refusal::Refusal;
use crate::rows::{AppRow, ReleaseRow};
use crate::state::State;

/// What an app has, by the release that it serves.
struct Share {
    limits: Limits,
    volume: Option<Bytes>,
    instances: u16,
    runs: bool,
}

/// Whether the app that is deployed may have what it was `built` with.
pub fn check_built(state: &State, asked: &Asked, built: &Built) -> Result<(), Refusal> {
    let Some(app) = state.app(&asked.app) else { return Ok(()) };
    let limits = app.limits.over(&built.app_yaml.limits);
    check(state, asked, app, Share::of(built, limits, app.scale))
}

/// Whether the app may have what `kind` is to give it with `release`. What gives it no more than it has
/// is not asked: a ceiling that was lowered stops no app.
pub fn check_wish(
    state: &State,
    asked: &Asked,
    app: &AppRow,
    release: &ReleaseRow,
    kind: &DeployKind,
) -> Result<(), Refusal> {
    let instances = match kind {
        DeployKind::Scale { instances } => *instances,
        DeployKind::Rollback | DeployKind::Limit | DeployKind::Start => app.scale,
        _ => return Ok(()),
    };
    let limits = release.limits.over(&release.built.app_yaml.limits);
    check(state, asked, app, Share::of(&release.built, limits, instances))
}

fn check(state: &State, asked: &Asked, app: &AppRow, share: Share) -> Result<(), Refusal> {
    let others = state.apps().filter(|other| other.tenant == app.tenant && other.name != app.name);
    let others: Vec<Share> = others.map(|other| Share::now(state, other)).collect();
    asked
        .ceilings
        .check(share.claim(), others.iter().map(Share::claim))
        .map_err(|above| Refusal::new(ErrorCode::AboveCeiling, above.to_string()))
}

impl Share {
    fn of(built: &Built, limits: Limits, instances: u16) -> Self {
        let runs = matches!(built.serving, Serving::Program(_));
        Self { limits, volume: built.app_yaml.volume, instances, runs }
    }

    /// What `app` has; nothing but its name before its first release.
    fn now(state: &State, app: &AppRow) -> Self {
        let release = app.serving.and_then(|number| state.release(&app.name, number));
        let Some(release) = release else {
            return Self { limits: Limits::for_app(), volume: None, instances: 0, runs: false };
        };
        let limits = release.limits.over(&release.built.app_yaml.limits);
        let share = Self::of(&release.built, limits, app.scale);
        Self { runs: share.runs && !app.stopped, ..share }
    }

    fn claim(&self) -> Claim<'_> {
        let Self { limits, volume, instances, runs } = self;
        Claim { limits, volume: *volume, instances: *instances, runs: *runs }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ace_types::ceilings::TenantCeilings;
    use ace_types::{Ceilings, LimitChange};

    use crate::changes::{Wish, begin};
    use crate::testing::{Rows, asked, deploy};

    use super::*;

    fn with_memory(most: Bytes) -> Asked {
        let tenant = TenantCeilings { memory: Some(most), ..TenantCeilings::default() };
        Asked { ceilings: Ceilings { tenant, ..Ceilings::default() }, ..asked("shop", 1) }
    }

    fn memory(text: &str) -> Wish {
        let set = [("memory".to_owned(), text.to_owned())].into();
        Wish::Limit(LimitChange { set, ..LimitChange::default() })
    }

    #[test]
    fn an_app_gets_no_more_than_its_tenant_has_left() {
        let mut state = Rows::default();
        deploy(&mut state, "shop", 1);
        deploy(&mut state, "blog", 2);
        let asked = with_memory(Bytes::gib(1));
        assert!(begin(&state, &asked, &memory("500M"), None).is_ok());
        let refusal = begin(&state, &asked, &memory("600M"), None).unwrap_err();
        assert_eq!(refusal.error.code, "above_ceiling");
        let wish = Wish::Scale { instances: 2 };
        assert!(begin(&state, &asked, &wish, None).is_err());
    }

    #[test]
    fn a_ceiling_that_was_lowered_stops_no_app() {
        let mut state = Rows::default();
        deploy(&mut state, "shop", 1);
        assert!(begin(&state, &with_memory(Bytes::mib(32)), &Wish::Restart, None).is_ok());
    }
}
