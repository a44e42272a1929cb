//! What has happened, kept as rows: in the same commit as what it tells of, so that neither is without the
//! other, however the engine ends.
//!
//! [`with_events`] reads it from the operations of a commit and the rows before it. What befalls instances is
//! in no row; `notices` adds that. The newest events of each tenant are kept.

use std::collections::BTreeMap;

use ace_api::event::{Event, Happening};
use ace_api::http::Author;
use ace_store::Op;
use ace_types::{AppName, Domain, TenantName};
use jiff::Timestamp;
use serde::de::DeserializeOwned;

use crate::rows::{AppRow, DeployRow, DeployState, DomainRow, Record, TokenRow};
use crate::state::{Row, State, create};

/// Events that are kept of each tenant, and of the engine itself.
pub const KEPT: usize = 1000;

/// An event that has no number yet.
#[derive(Debug, Clone, PartialEq)]
pub struct News {
    pub tenant: Option<TenantName>,
    pub app: Option<AppName>,
    /// `None`: whoever asked for the commit.
    pub by: Option<Author>,
    pub what: Happening,
}

/// `ops`, asked for by `by`, and the events that tell of them.
pub fn with_events(
    state: &State,
    mut ops: Vec<Op>,
    by: Option<&Author>,
    now: Timestamp,
) -> Vec<Op> {
    let news = told_by(state, &ops);
    let signed = |news: News| News { by: news.by.or_else(|| by.cloned()), ..news };
    ops.extend(keep(state, news.into_iter().map(signed).collect(), now));
    ops
}

/// Keeps `news`, and lets the oldest of those tenants go that have more than [`KEPT`] by that.
pub fn keep(state: &State, news: Vec<News>, now: Timestamp) -> Vec<Op> {
    let mut counts: BTreeMap<Option<TenantName>, usize> = BTreeMap::new();
    let first = state.next_event();
    let mut ops = Vec::new();
    for (id, News { tenant, app, by, what }) in (first..).zip(news) {
        *counts.entry(tenant.clone()).or_default() += 1;
        ops.push(create(&Event { id, at: now, tenant, app, by, what }));
    }
    for (tenant, new) in counts {
        let of_tenant = || state.events().filter(|event| event.tenant == tenant);
        let surplus = (of_tenant().count() + new).saturating_sub(KEPT);
        ops.extend(of_tenant().take(surplus).map(Row::delete));
    }
    ops
}

/// What the operations of one commit tell.
fn told_by(state: &State, ops: &[Op]) -> Vec<News> {
    let mut news = Vec::new();
    for op in ops {
        match op {
            Op::Put { key, value, .. } => match folder(key) {
                AppRow::FOLDER => news.extend(app_written(state, value, ops)),
                DeployRow::FOLDER => news.extend(deploy_written(state, value)),
                TokenRow::FOLDER => news.extend(token_written(state, value)),
                _ => {}
            },
            Op::Delete { key, .. } => match folder(key) {
                AppRow::FOLDER => news.extend(app_deleted(state, key)),
                TokenRow::FOLDER => news.extend(token_deleted(state, key)),
                _ => {}
            },
        }
    }
    news.extend(domains_changed(state, ops));
    news
}

fn folder(key: &str) -> &str {
    key.split_inclusive('/').next().unwrap_or_default()
}

/// A row that was made of a type here is one again; what is none tells nothing.
fn row<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    serde_json::from_slice(value).ok()
}

fn of_app(app: &AppRow, what: Happening) -> News {
    News { tenant: Some(app.tenant.clone()), app: Some(app.name.clone()), by: None, what }
}

fn app_written(state: &State, value: &[u8], ops: &[Op]) -> Vec<News> {
    let Some(new) = row::<AppRow>(value) else { return Vec::new() };
    let Some(old) = state.app(&new.name) else { return vec![of_app(&new, Happening::AppCreated)] };
    if new.destroying && !old.destroying {
        return vec![of_app(&new, Happening::AppDestroying)];
    }
    // With a deploy that says what it is, the app's own row adds nothing.
    let deploy = DeployRow::key_of(&new.name);
    if ops.iter().any(|op| matches!(op, Op::Put { key, .. } if *key == deploy)) {
        return Vec::new();
    }
    let mut all = Vec::new();
    let names = old.config.difference(&new.config);
    if !names.is_empty() {
        all.push(of_app(&new, Happening::Configured { names }));
    }
    let names = old.limits.difference(&new.limits);
    if !names.is_empty() {
        all.push(of_app(&new, Happening::Limited { names }));
    }
    if old.scale != new.scale {
        all.push(of_app(&new, Happening::Scaled { instances: new.scale }));
    }
    all
}

fn app_deleted(state: &State, key: &str) -> Option<News> {
    let app = state.apps().find(|app| app.key() == key)?;
    Some(of_app(app, Happening::AppDestroyed))
}

fn deploy_written(state: &State, value: &[u8]) -> Option<News> {
    let new = row::<DeployRow>(value)?;
    let old = state.deploy(&new.app).map(|row| &row.state);
    let (operation, release) = (new.kind, new.release);
    let is_under_way = |state: &DeployState| {
        matches!(state, DeployState::Building | DeployState::Preparing | DeployState::Starting)
    };
    let what = match new.state {
        state if is_under_way(&state) && !old.is_some_and(is_under_way) => {
            Happening::Began { operation, release }
        }
        DeployState::Draining if !matches!(old, Some(DeployState::Draining)) => {
            Happening::Switched { operation, release }
        }
        DeployState::Failed { code, error, .. }
            if !matches!(old, Some(DeployState::Failed { .. })) =>
        {
            Happening::Failed { operation, release, code, error }
        }
        _ => return None,
    };
    Some(News { tenant: Some(new.tenant), app: Some(new.app), by: Some(new.by), what })
}

fn token_written(state: &State, value: &[u8]) -> Option<News> {
    let new = row::<TokenRow>(value).filter(|new| state.token(&new.id).is_none())?;
    let what = Happening::TokenCreated { token: new.id, role: new.role, label: new.label };
    Some(News { tenant: new.tenant, app: None, by: None, what })
}

fn token_deleted(state: &State, key: &str) -> Option<News> {
    let old = state.tokens().find(|token| token.key() == key)?;
    let what = Happening::TokenRevoked { token: old.id.clone() };
    Some(News { tenant: old.tenant.clone(), app: None, by: None, what })
}

/// One event for all domains of an app that come and go in one commit, but for those that go with it.
fn domains_changed(state: &State, ops: &[Op]) -> Option<News> {
    let (mut added, mut removed, mut app): (Vec<Domain>, Vec<Domain>, _) = (vec![], vec![], None);
    for op in ops {
        match op {
            Op::Put { key, value, .. } if folder(key) == DomainRow::FOLDER => {
                let new: DomainRow = row(value)?;
                app = Some(new.app);
                added.push(new.name);
            }
            Op::Delete { key, .. } if folder(key) == DomainRow::FOLDER => {
                let old = state.domains().find(|row| row.key() == *key)?;
                app = Some(old.app.clone());
                removed.push(old.name.clone());
            }
            Op::Delete { key, .. } if folder(key) == AppRow::FOLDER => return None,
            _ => {}
        }
    }
    Some(of_app(state.app(&app?)?, Happening::DomainsChanged { added, removed }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ace_types::ConfigChange;

    use super::*;
    use crate::changes::{self, Wish};
    use crate::testing::{Rows, at, deploy, name};

    /// What the events say that `change` leaves.
    fn told(state: &mut Rows, change: impl FnOnce(&mut Rows)) -> Vec<String> {
        let before = state.next_event();
        change(state);
        state.events().filter(|event| event.id >= before).map(|it| it.what.to_string()).collect()
    }

    #[test]
    fn a_deploy_is_told_when_it_begins_and_when_it_serves_or_fails() {
        let mut state = Rows::default();
        let first = told(&mut state, |state| deploy(state, "shop", 1));
        let serves = "release 1 serves: deploy";
        assert_eq!(first, ["the app was created", "deploy began: release 1", serves]);
        let second = told(&mut state, |state| {
            state.begin("shop", 2);
            state.settle("shop", 7);
        });
        assert_eq!(second, ["deploy began: release 2", "deploy failed: it broke"]);
    }

    #[test]
    fn what_is_done_at_once_is_told_once() {
        let mut state = Rows::default();
        deploy(&mut state, "shop", 1);
        let stopped = told(&mut state, |state| {
            state.wish("shop", 2, &Wish::Stop);
            state.settle("shop", 7);
        });
        assert_eq!(stopped, ["stopped"]);
        let scaled = told(&mut state, |state| {
            state.wish("shop", 3, &Wish::Scale { instances: 3 });
        });
        assert_eq!(scaled, ["set to 3 instances"]);
    }

    #[test]
    fn variables_are_named_and_never_told() {
        let mut state = Rows::default();
        state.begin("shop", 1);
        state.settle("shop", 1);
        let set = [("KEY".to_owned(), "secret".to_owned())].into();
        let change = ConfigChange { set, ..ConfigChange::default() };
        let told = told(&mut state, |state| {
            state.wish("shop", 2, &Wish::Configure(change));
        });
        assert_eq!(told, ["variables set or unset: KEY"]);
    }

    #[test]
    fn an_app_that_goes_takes_its_domains_along_silently() {
        let mut state = Rows::default();
        deploy(&mut state, "shop", 1);
        let told = told(&mut state, |state| {
            state.commit(changes::begin_destroy(state, &name("shop"), None).unwrap());
            state.commit(changes::forget_app(state, &name("shop")));
        });
        assert_eq!(told, ["the app is being destroyed", "the app is gone"]);
    }

    #[test]
    fn a_tenant_has_the_newest_of_its_own_and_takes_nothing_from_others() {
        let mut state = Rows::default();
        let news = |tenant: &str| News {
            tenant: tenant.parse().ok(),
            app: None,
            by: None,
            what: Happening::AppCreated,
        };
        let ops = keep(&state, vec![news("quiet")], at(0));
        state.commit(ops);
        for _ in 0..KEPT / 100 + 1 {
            let ops = keep(&state, vec![news("loud"); 100], at(0));
            state.commit(ops);
        }
        let ids: Vec<u64> = state.events().map(|event| event.id).collect();
        assert_eq!((ids.len(), ids[0], ids[1]), (KEPT + 1, 1, 102));
    }
}
