//! All rows of one moment, in memory, as types.
//!
//! A [`State`] is read once as a whole and then kept up with the store change by change. Who wants
//! to change something asks `records`.

use std::collections::BTreeMap;
use std::ops::{Bound, Deref};
use std::sync::Arc;

use ace_api::event::Event;
use ace_store::{Change, Expect, Op, Revision};
use ace_types::{AppName, Domain, ReleaseNumber, TokenId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::rows::{
    AppRow, BuildRow, DeployRow, DomainRow, IdsRow, InstanceRow, Record, ReleaseRow, TokenRow,
    event_key,
};

/// Every row there is. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The newest commit that it shows.
    pub revision: Revision,
    apps: Table<AppRow>,
    releases: Table<ReleaseRow>,
    deploys: Table<DeployRow>,
    builds: Table<BuildRow>,
    domains: Table<DomainRow>,
    instances: Table<InstanceRow>,
    ids: Table<IdsRow>,
    tokens: Table<TokenRow>,
    events: Table<Event>,
}

/// A row and the commit that last wrote it, which a change to it must still find there.
#[derive(Debug, Clone)]
pub struct Row<T> {
    value: T,
    revision: Revision,
}

/// Rows of one kind by their whole keys.
type Table<T> = BTreeMap<String, Arc<Row<T>>>;

/// The store holds something that this program can't read.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    #[error("row {key} is malformed")]
    Malformed { key: String, source: serde_json::Error },
    #[error("row {key} is of a kind that this program does not know")]
    Unknown { key: String },
}

impl State {
    pub fn app(&self, name: &AppName) -> Option<&Row<AppRow>> {
        self.apps.get(&AppRow::key_of(name)).map(Arc::as_ref)
    }

    pub fn apps(&self) -> impl Iterator<Item = &Row<AppRow>> {
        self.apps.values().map(Arc::as_ref)
    }

    pub fn release(&self, app: &AppName, number: ReleaseNumber) -> Option<&Row<ReleaseRow>> {
        self.releases.get(&ReleaseRow::key_of(app, number)).map(Arc::as_ref)
    }

    /// An app's releases, the oldest first.
    pub fn releases_of(&self, app: &AppName) -> impl DoubleEndedIterator<Item = &Row<ReleaseRow>> {
        under(&self.releases, ReleaseRow::prefix(app))
    }

    pub fn releases(&self) -> impl Iterator<Item = &Row<ReleaseRow>> {
        self.releases.values().map(Arc::as_ref)
    }

    /// The newest deploy of an app.
    pub fn deploy(&self, app: &AppName) -> Option<&Row<DeployRow>> {
        self.deploys.get(&DeployRow::key_of(app)).map(Arc::as_ref)
    }

    pub fn build(&self, app: &AppName, number: ReleaseNumber) -> Option<&Row<BuildRow>> {
        self.builds.get(&BuildRow::key_of(app, number)).map(Arc::as_ref)
    }

    /// An app's builds, the oldest first.
    pub fn builds_of(&self, app: &AppName) -> impl DoubleEndedIterator<Item = &Row<BuildRow>> {
        under(&self.builds, BuildRow::prefix(app))
    }

    pub fn builds(&self) -> impl Iterator<Item = &Row<BuildRow>> {
        self.builds.values().map(Arc::as_ref)
    }

    pub fn domain(&self, name: &Domain) -> Option<&Row<DomainRow>> {
        self.domains.get(&DomainRow::key_of(name)).map(Arc::as_ref)
    }

    /// Every app's domains, by name.
    pub fn domains(&self) -> impl Iterator<Item = &Row<DomainRow>> {
        self.domains.values().map(Arc::as_ref)
    }

    /// An app's domains, by name.
    pub fn domains_of(&self, app: &AppName) -> impl Iterator<Item = &Row<DomainRow>> {
        self.domains().filter(move |row| row.app == *app)
    }

    pub fn instances_of(&self, app: &AppName) -> impl Iterator<Item = &Row<InstanceRow>> {
        under(&self.instances, InstanceRow::prefix(app))
    }

    pub fn instances(&self) -> impl Iterator<Item = &Row<InstanceRow>> {
        self.instances.values().map(Arc::as_ref)
    }

    /// The ranges of user ids that are taken.
    pub fn ids(&self) -> impl Iterator<Item = &Row<IdsRow>> {
        self.ids.values().map(Arc::as_ref)
    }

    pub fn token(&self, id: &TokenId) -> Option<&Row<TokenRow>> {
        self.tokens.get(&TokenRow::key_of(id)).map(Arc::as_ref)
    }

    /// What has happened, the oldest first.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &Row<Event>> {
        self.events.values().map(Arc::as_ref)
    }

    /// What has happened after event `id`.
    pub fn events_after(&self, id: u64) -> impl Iterator<Item = &Row<Event>> {
        let behind = (Bound::Excluded(event_key(id)), Bound::Unbounded);
        self.events.range(behind).map(|(_, row)| row.as_ref())
    }

    /// The number of the next event. The first is 1.
    pub fn next_event(&self) -> u64 {
        self.events.last_key_value().map_or(0, |(_, newest)| newest.id) + 1
    }

    pub fn tokens(&self) -> impl Iterator<Item = &Row<TokenRow>> {
        self.tokens.values().map(Arc::as_ref)
    }

    /// Takes over one change.
    pub fn apply(&mut self, change: &Change) -> Result<(), RowError> {
        let folder = change.key.split_inclusive('/').next().unwrap_or_default();
        match folder {
            AppRow::FOLDER => apply(&mut self.apps, change),
            ReleaseRow::FOLDER => apply(&mut self.releases, change),
            DeployRow::FOLDER => apply(&mut self.deploys, change),
            BuildRow::FOLDER => apply(&mut self.builds, change),
            DomainRow::FOLDER => apply(&mut self.domains, change),
            InstanceRow::FOLDER => apply(&mut self.instances, change),
            IdsRow::FOLDER => apply(&mut self.ids, change),
            TokenRow::FOLDER => apply(&mut self.tokens, change),
            Event::FOLDER => apply(&mut self.events, change),
            _ => Err(RowError::Unknown { key: change.key.clone() }),
        }
    }
}

impl<T: Record + Serialize> Row<T> {
    /// Writes `value` in its place, if nobody has changed it since.
    pub fn replace(&self, value: &T) -> Op {
        put(value, Expect::Revision(self.revision))
    }

    /// Deletes it, if nobody has changed it since.
    pub fn delete(&self) -> Op {
        Op::Delete { key: self.value.key(), expect: Expect::Revision(self.revision) }
    }
}

/// Writes `value` where nothing is.
pub fn create<T: Record + Serialize>(value: &T) -> Op {
    put(value, Expect::Absent)
}

impl<T> Deref for Row<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

fn put<T: Record + Serialize>(value: &T, expect: Expect) -> Op {
    // A row is plain data with text for keys, which always has a JSON form; were there none, the
    // store would refuse the empty document.
    let json = serde_json::to_vec(value).unwrap_or_default();
    Op::Put { key: value.key(), value: json, expect }
}

fn under<T>(table: &Table<T>, prefix: String) -> impl DoubleEndedIterator<Item = &Row<T>> {
    let end = format!("{prefix}\u{7f}");
    table.range(prefix..end).map(|(_, row)| row.as_ref())
}

fn apply<T: DeserializeOwned>(table: &mut Table<T>, change: &Change) -> Result<(), RowError> {
    let Some(json) = &change.value else {
        table.remove(&change.key);
        return Ok(());
    };
    let value = serde_json::from_slice(json)
        .map_err(|source| RowError::Malformed { key: change.key.clone(), source })?;
    table.insert(change.key.clone(), Arc::new(Row { value, revision: change.revision }));
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::rows::IdsOwner;

    fn change(value: Option<&str>) -> Change {
        let value = value.map(|text| text.as_bytes().to_vec());
        Change { key: "ids/00007".to_owned(), value, revision: Revision(3) }
    }

    #[test]
    fn a_change_comes_and_goes() {
        let mut state = State::default();
        state.apply(&change(Some(r#"{"index": 7, "owner": {"app": "shop"}}"#))).unwrap();
        let owners: Vec<_> = state.ids().map(|row| row.owner.clone()).collect();
        assert_eq!(owners, [IdsOwner::App("shop".parse().unwrap())]);
        state.apply(&change(None)).unwrap();
        assert_eq!(state.ids().count(), 0);
    }

    #[test]
    fn what_is_not_known_is_refused_not_skipped() {
        let mut state = State::default();
        let malformed = state.apply(&change(Some(r#"{"index": "x"}"#)));
        assert!(matches!(malformed, Err(RowError::Malformed { key, .. }) if key == "ids/00007"));
        let unknown = Change { key: "secrets/x".to_owned(), ..change(Some("1")) };
        assert!(matches!(state.apply(&unknown), Err(RowError::Unknown { .. })));
    }
}
