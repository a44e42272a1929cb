//! What every [`Store`] does, whatever keeps its data: examples that panic where one doesn't.
#![allow(clippy::unwrap_used)] // A broken promise is meant to panic here.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{Change, CommitError, Expect, Lease, LeaseError, Op, ReadError, Revision, Store};

/// Long enough that a wake-up which has not come by then will not come.
const SOON: Duration = Duration::from_secs(5);

/// Runs all examples on `store`, which is empty and used by nobody else.
pub async fn check_all(store: &dyn Store) {
    an_empty_store_stands_at_zero(store).await;
    what_was_put_is_read(store).await;
    a_commit_is_all_or_nothing(store).await;
    preconditions_hold_or_nothing_happens(store).await;
    a_list_is_ordered_and_ends_with_its_prefix(store).await;
    a_watch_wakes_for_what_came_before_it(store).await;
    a_watch_sleeps_when_all_is_seen(store).await;
    changes_tell_of_deletions(store).await;
    a_follower_ends_where_the_store_is(store).await;
    a_lease_is_one_holders_for_as_long_as_it_is_renewed(store).await;
    a_lease_goes_by_itself_and_that_is_told(store).await;
    a_lease_is_an_entry_that_can_be_deleted_or_kept(store).await;
    forgotten_deletions_are_admitted(store).await;
}

/// An operation that writes `value`, a JSON document, whatever was there.
pub fn put(key: &str, value: &str) -> Op {
    put_if(key, value, Expect::Any)
}

/// An operation that writes `value`, a JSON document.
pub fn put_if(key: &str, value: &str, expect: Expect) -> Op {
    Op::Put { key: key.to_owned(), value: value.as_bytes().to_vec(), expect }
}

/// An operation that deletes whatever is there.
pub fn delete(key: &str) -> Op {
    Op::Delete { key: key.to_owned(), expect: Expect::Any }
}

async fn value(store: &dyn Store, key: &str) -> Option<String> {
    let entry = store.get(key).await.unwrap()?;
    Some(String::from_utf8(entry.value).unwrap())
}

async fn newest(store: &dyn Store) -> Revision {
    store.list("").await.unwrap().revision
}

async fn an_empty_store_stands_at_zero(store: &dyn Store) {
    let listing = store.list("").await.unwrap();
    assert_eq!((listing.revision, listing.entries), (Revision(0), vec![]));
    assert_eq!(store.get("none").await.unwrap(), None);
}

async fn what_was_put_is_read(store: &dyn Store) {
    let revision = store.commit(vec![put("read/a", "1")]).await.unwrap();
    let entry = store.get("read/a").await.unwrap().unwrap();
    assert_eq!((entry.key.as_str(), entry.revision), ("read/a", revision));
    store.commit(vec![put("read/a", "2")]).await.unwrap();
    assert_eq!(value(store, "read/a").await.as_deref(), Some("2"));
    store.commit(vec![delete("read/a")]).await.unwrap();
    assert_eq!(value(store, "read/a").await, None);
}

async fn a_commit_is_all_or_nothing(store: &dyn Store) {
    let before = newest(store).await;
    let ops = vec![put("all/a", "1"), put_if("all/b", "1", Expect::Revision(Revision(99_999)))];
    let error = store.commit(ops).await.unwrap_err();
    assert!(matches!(error, CommitError::Conflict { key } if key == "all/b"));
    assert_eq!(value(store, "all/a").await, None);
    assert!(matches!(store.commit(vec![]).await, Err(CommitError::Invalid(_))));
    assert_eq!(newest(store).await, before);
}

async fn preconditions_hold_or_nothing_happens(store: &dyn Store) {
    let conflict = |result| assert!(matches!(result, Err(CommitError::Conflict { .. })));
    let first = store.commit(vec![put_if("pre", "1", Expect::Absent)]).await.unwrap();
    conflict(store.commit(vec![put_if("pre", "2", Expect::Absent)]).await);
    let expect = Expect::Revision(first);
    let second = store.commit(vec![put_if("pre", "2", expect)]).await.unwrap();
    conflict(store.commit(vec![put_if("pre", "3", expect)]).await);
    conflict(store.commit(vec![Op::Delete { key: "pre".to_owned(), expect }]).await);
    let expect = Expect::Revision(second);
    store.commit(vec![Op::Delete { key: "pre".to_owned(), expect }]).await.unwrap();
    conflict(store.commit(vec![put_if("pre", "4", expect)]).await);
    store.commit(vec![put_if("pre", "5", Expect::Absent)]).await.unwrap();
    store.commit(vec![delete("never"), put("pre", "6")]).await.unwrap();
    assert_eq!(value(store, "pre").await.as_deref(), Some("6"));
}

async fn a_list_is_ordered_and_ends_with_its_prefix(store: &dyn Store) {
    let keys = ["list/b", "list/a", "list/a/x", "list-", "listen", "list/Z"];
    store.commit(keys.iter().map(|key| put(key, "0")).collect()).await.unwrap();
    let found = store.list("list/").await.unwrap().entries;
    let found: Vec<&str> = found.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(found, ["list/Z", "list/a", "list/a/x", "list/b"]);
}

async fn a_watch_wakes_for_what_came_before_it(store: &dyn Store) {
    let before = newest(store).await;
    let first = store.commit(vec![put("watch", "1")]).await.unwrap();
    let mut watch = store.watch(before);
    assert_eq!(soon(watch.next()).await, Some(first));
    let (woken, second) =
        soon(async { tokio::join!(watch.next(), store.commit(vec![put("watch", "2")])) }).await;
    assert_eq!(woken, Some(second.unwrap()));
}

async fn a_watch_sleeps_when_all_is_seen(store: &dyn Store) {
    let mut watch = store.watch(newest(store).await);
    let woken = tokio::time::timeout(Duration::from_millis(20), watch.next()).await;
    assert!(woken.is_err());
}

async fn changes_tell_of_deletions(store: &dyn Store) {
    let first = store.commit(vec![put("change/a", "1"), put("change/b", "1")]).await.unwrap();
    let deleted = store.commit(vec![delete("change/a")]).await.unwrap();
    let changed = store.commit(vec![put("change/b", "2")]).await.unwrap();
    let changes = store.changes_since(first).await.unwrap();
    assert_eq!(changes.through, changed);
    assert_eq!(
        changes.changes,
        [
            Change { key: "change/a".to_owned(), value: None, revision: deleted },
            Change { key: "change/b".to_owned(), value: Some(b"2".to_vec()), revision: changed },
        ]
    );
    assert!(store.changes_since(changed).await.unwrap().changes.is_empty());
}

async fn lease(store: &dyn Store, key: &str, holder: &str, ttl: Duration) -> Option<Revision> {
    let lease = Lease { key: key.to_owned(), holder: holder.to_owned(), ttl };
    match store.lease(lease).await {
        Ok(revision) => Some(revision),
        Err(LeaseError::Taken { key: taken }) if taken == key => None,
        Err(error) => panic!("{error:?}"),
    }
}

async fn a_lease_is_one_holders_for_as_long_as_it_is_renewed(store: &dyn Store) {
    let taken = lease(store, "lease/a", "one", SOON).await.unwrap();
    assert_eq!(value(store, "lease/a").await.as_deref(), Some(r#"{"holder":"one"}"#));
    assert_eq!(lease(store, "lease/a", "two", SOON).await, None);
    store.commit(vec![put("lease/other", "1")]).await.unwrap();
    assert_eq!(lease(store, "lease/a", "one", SOON).await, Some(taken));
    assert_eq!(store.get("lease/a").await.unwrap().unwrap().revision, taken);
    let malformed = Lease { key: "no key".to_owned(), holder: "one".to_owned(), ttl: SOON };
    assert!(matches!(store.lease(malformed).await, Err(LeaseError::Invalid(_))));
}

async fn a_lease_goes_by_itself_and_that_is_told(store: &dyn Store) {
    let taken = lease(store, "lease/b", "one", Duration::from_millis(30)).await.unwrap();
    let mut watch = store.watch(taken);
    let gone = soon(watch.next()).await.unwrap();
    assert_eq!(value(store, "lease/b").await, None);
    let changes = store.changes_since(taken).await.unwrap();
    let deletion = Change { key: "lease/b".to_owned(), value: None, revision: gone };
    assert_eq!((changes.through, changes.changes), (gone, vec![deletion]));
    assert!(lease(store, "lease/b", "two", SOON).await.unwrap() > gone);
    assert_eq!(lease(store, "lease/b", "one", SOON).await, None);
}

async fn a_lease_is_an_entry_that_can_be_deleted_or_kept(store: &dyn Store) {
    let short = Duration::from_millis(30);
    let taken = lease(store, "lease/c", "one", SOON).await.unwrap();
    let given = Op::Delete { key: "lease/c".to_owned(), expect: Expect::Revision(taken) };
    store.commit(vec![given]).await.unwrap();
    lease(store, "lease/c", "two", short).await.unwrap();
    store.commit(vec![put("lease/c", "1")]).await.unwrap();
    tokio::time::sleep(short * 2).await;
    assert_eq!(value(store, "lease/c").await.as_deref(), Some("1"));
    assert_eq!(lease(store, "lease/c", "two", SOON).await, None);
}

/// More than one part's worth of changes, in commits of several keys.
async fn a_follower_ends_where_the_store_is(store: &dyn Store) {
    let start = newest(store).await;
    for round in 0..300 {
        let ops = (0..10).map(|n| put(&format!("many/{}", (round * 7 + n) % 2500), "1"));
        store.commit(ops.collect()).await.unwrap();
    }
    let mut followed = BTreeMap::new();
    let mut through = start;
    while through < newest(store).await {
        let part = store.changes_since(through).await.unwrap();
        assert!(part.through > through);
        through = part.through;
        followed.extend(part.changes.into_iter().map(|change| (change.key, change.revision)));
    }
    let listed = store.list("many/").await.unwrap().entries;
    let listed: BTreeMap<_, _> =
        listed.into_iter().map(|entry| (entry.key, entry.revision)).collect();
    assert_eq!(followed, listed);
}

async fn forgotten_deletions_are_admitted(store: &dyn Store) {
    let start = newest(store).await;
    for round in 0..10 {
        let keys: Vec<String> = (0..1000).map(|n| format!("gone/{round}/{n}")).collect();
        store.commit(keys.iter().map(|key| put(key, "1")).collect()).await.unwrap();
        store.commit(keys.iter().map(|key| delete(key)).collect()).await.unwrap();
    }
    let error = store.changes_since(start).await.unwrap_err();
    assert!(matches!(error, ReadError::Compacted { since } if since == start));
    assert!(store.changes_since(newest(store).await).await.is_ok());
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.unwrap()
}
