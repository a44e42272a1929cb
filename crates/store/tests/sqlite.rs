//! SQLite's store against the promises, a model, and a kill.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ace_store::conformance::{check_all, put, put_if};
use ace_store::sqlite::OpenError;
use ace_store::{
    CommitError, Expect, Lease, LeaseError, MemoryStore, Op, Revision, SqliteStore, Store,
};
use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;

fn open(folder: &TempDir) -> SqliteStore {
    SqliteStore::open(&folder.path().join("ace.db")).unwrap()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn sqlite_keeps_every_promise_of_a_store() {
    let folder = TempDir::new().unwrap();
    block_on(check_all(&open(&folder)));
}

#[test]
fn so_does_the_one_in_memory() {
    block_on(check_all(&MemoryStore::default()));
}

#[test]
fn the_file_is_for_its_owner_only() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder);
    block_on(store.commit(vec![put("a", "1")])).unwrap();
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let mode = file.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{mode:o}");
    }
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("none/ace.db");
    let error = SqliteStore::open(&path).unwrap_err();
    assert!(error.to_string().contains("none/ace.db"), "{error}");
}

/// What a random client does to a few keys.
#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<(u8, Option<u32>, Guess)>),
    Reopen,
}

/// A precondition, which the model turns into one that holds or one that doesn't.
#[derive(Debug, Clone, Copy)]
enum Guess {
    Any,
    Absent,
    Right,
    Wrong,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let guess = prop_oneof![
        3 => Just(Guess::Any),
        1 => Just(Guess::Absent),
        2 => Just(Guess::Right),
        1 => Just(Guess::Wrong),
    ];
    let op = (0..6_u8, any::<Option<u32>>(), guess);
    let step = prop_oneof![
        10 => vec(op, 1..4).prop_map(Step::Commit),
        1 => Just(Step::Reopen),
    ];
    vec(step, 1..30)
}

/// The store as it should be.
#[derive(Default)]
struct Model {
    revision: u64,
    entries: BTreeMap<String, (Vec<u8>, u64)>,
}

impl Model {
    fn expect(&self, key: &str, guess: Guess) -> Expect {
        let found = self.entries.get(key).map(|(_, revision)| *revision);
        match guess {
            Guess::Any => Expect::Any,
            Guess::Absent => Expect::Absent,
            Guess::Right => found.map_or(Expect::Absent, |n| Expect::Revision(Revision(n))),
            Guess::Wrong => Expect::Revision(Revision(found.unwrap_or(0) + 1_000_000)),
        }
    }

    fn holds(&self, op: &Op) -> bool {
        let (Op::Put { key, expect, .. } | Op::Delete { key, expect }) = op;
        let found = self.entries.get(key).map(|(_, revision)| Revision(*revision));
        match expect {
            Expect::Any => true,
            Expect::Absent => found.is_none(),
            Expect::Revision(revision) => found == Some(*revision),
        }
    }

    fn commit(&mut self, ops: &[Op]) -> bool {
        if !ops.iter().all(|op| self.holds(op)) {
            return false;
        }
        self.revision += 1;
        for op in ops {
            match op {
                Op::Put { key, value, .. } => {
                    self.entries.insert(key.clone(), (value.clone(), self.revision));
                }
                Op::Delete { key, .. } => {
                    self.entries.remove(key);
                }
            }
        }
        true
    }
}

fn ops(model: &Model, ops: Vec<(u8, Option<u32>, Guess)>) -> Vec<Op> {
    let unique: BTreeMap<u8, _> =
        ops.into_iter().map(|(k, value, guess)| (k, (value, guess))).collect();
    let op = |(key, (value, guess)): (u8, (Option<u32>, Guess))| {
        let key = format!("key/{key}");
        let expect = model.expect(&key, guess);
        match value {
            Some(value) => put_if(&key, &value.to_string(), expect),
            None => Op::Delete { key, expect },
        }
    };
    unique.into_iter().map(op).collect()
}

/// A reader that only ever asks what changed since it last asked.
async fn follow(
    store: &dyn Store,
    followed: &mut BTreeMap<String, Vec<u8>>,
    since: Revision,
) -> Revision {
    let changes = store.changes_since(since).await.unwrap();
    for change in changes.changes {
        match change.value {
            Some(value) => followed.insert(change.key, value),
            None => followed.remove(&change.key),
        };
    }
    changes.through
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_history_ends_as_the_model_says(steps in steps()) {
        let folder = TempDir::new().unwrap();
        let mut store = open(&folder);
        let (mut model, mut followed, mut seen) = (Model::default(), BTreeMap::new(), Revision(0));
        for step in steps {
            match step {
                Step::Reopen => { drop(store); store = open(&folder); }
                Step::Commit(wanted) => {
                    let ops = ops(&model, wanted);
                    let done = block_on(store.commit(ops.clone()));
                    let conflict = matches!(done, Err(CommitError::Conflict { .. }));
                    prop_assert!(done.is_ok() || conflict);
                    prop_assert_eq!(done.is_ok(), model.commit(&ops));
                }
            }
            seen = block_on(follow(&store, &mut followed, seen));
        }
        let listing = block_on(store.list("")).unwrap();
        let listed: BTreeMap<_, _> =
            listing.entries.into_iter().map(|e| (e.key, (e.value, e.revision.0))).collect();
        let values: BTreeMap<_, _> =
            model.entries.iter().map(|(key, (value, _))| (key.clone(), value.clone())).collect();
        prop_assert_eq!(listing.revision, Revision(model.revision));
        prop_assert_eq!(&listed, &model.entries);
        prop_assert_eq!(followed, values);
    }
}

/// Set in the child alone: where its store is.
const CHILD_FOLDER: &str = "ACE_STORE_TEST_FOLDER";

/// What the child of the next test does.
fn write_until_killed(folder: &Path) {
    let store = SqliteStore::open(&folder.join("ace.db")).unwrap();
    for n in 0_u64.. {
        let key = format!("n/{n}");
        let revision = block_on(store.commit(vec![put(&key, "1"), put("last", &n.to_string())]));
        println!("acknowledged {}", revision.unwrap());
    }
}

#[test]
fn a_killed_process_keeps_what_it_acknowledged() {
    if let Some(folder) = std::env::var_os(CHILD_FOLDER) {
        return write_until_killed(Path::new(&folder));
    }
    let folder = TempDir::new().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_process_keeps_what_it_acknowledged", "--nocapture"])
        .env(CHILD_FOLDER, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut acknowledged = 0;
    for line in lines {
        // The test runner may have begun the first such line with words of its own.
        let Some((_, number)) = line.split_once("acknowledged ") else { continue };
        acknowledged = number.parse().unwrap();
        if acknowledged == 50 {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    let listing = block_on(open(&folder).list("n/")).unwrap();
    assert!(acknowledged >= 50, "{acknowledged}");
    assert!(listing.revision.0 >= acknowledged, "{} < {acknowledged}", listing.revision);
    assert_eq!(listing.entries.len() as u64, listing.revision.0);
}

/// Opens a database that `script` makes.
fn made_by(folder: &TempDir, script: &str) -> Result<SqliteStore, OpenError> {
    let path = folder.path().join("ace.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch(script).unwrap();
    SqliteStore::open(&path)
}

#[test]
fn a_database_of_any_earlier_version_is_brought_up_to_date_with_all_in_it() {
    for script in [include_str!("fixtures/v1.sql")] {
        let folder = TempDir::new().unwrap();
        for _ in 0..2 {
            let store = match folder.path().join("ace.db").exists() {
                false => made_by(&folder, script).unwrap(),
                true => open(&folder),
            };
            let listing = block_on(store.list("")).unwrap();
            assert_eq!(listing.revision, Revision(7));
            assert_eq!(listing.entries[0].value, br#"{"name":"shop"}"#);
            let changes = block_on(store.changes_since(Revision(5))).unwrap();
            assert_eq!(changes.changes[0].key, "apps/gone");
            drop(store);
        }
        let store = open(&folder);
        assert_eq!(block_on(store.commit(vec![put("apps/new", "1")])).unwrap(), Revision(8));
        assert_eq!(block_on(check_lease(&store)), Revision(9));
    }
}

async fn check_lease(store: &dyn Store) -> Revision {
    let (key, holder) = ("leases/x".to_owned(), "one".to_owned());
    store.lease(Lease { key, holder, ttl: Duration::from_secs(60) }).await.unwrap()
}

#[test]
fn a_database_of_a_later_version_is_refused_with_the_way_out() {
    let folder = TempDir::new().unwrap();
    let newer = "CREATE TABLE schema (version INTEGER NOT NULL) STRICT;
                 INSERT INTO schema VALUES (99);";
    let OpenError::Migrate { source, .. } = made_by(&folder, newer).unwrap_err() else { panic!() };
    let said = source.to_string();
    assert!(said.contains("version 99") && said.contains("run the `ace` that wrote it"), "{said}");
}

#[test]
fn a_lease_outlives_the_process_and_ends_as_it_should() {
    let folder = TempDir::new().unwrap();
    let ttl = Duration::from_millis(1500);
    let lease = |holder: &str| Lease { key: "leader".into(), holder: holder.into(), ttl };
    let taken = block_on(open(&folder).lease(lease("one"))).unwrap();
    let store = open(&folder);
    let refused = block_on(store.lease(lease("two")));
    assert!(matches!(refused, Err(LeaseError::Taken { .. })), "{refused:?}");
    let mut watch = store.watch(taken);
    block_on(async { tokio::time::timeout(Duration::from_secs(20), watch.next()).await }).unwrap();
    assert_eq!(block_on(store.get("leader")).unwrap(), None);
    block_on(store.lease(lease("two"))).unwrap();
}

#[test]
fn a_log_that_was_torn_by_a_loss_of_power_loses_no_more_than_was_torn() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let store = open(&folder);
    let mut ends = Vec::new();
    for n in 0..20 {
        block_on(store.commit(vec![put(&format!("n/{n:02}"), "1")])).unwrap();
        ends.push(path("ace.db-wal").metadata().unwrap().len());
    }
    // As it is on disk now; what the living store does later must not count.
    let (database, log) =
        (fs::read(path("ace.db")).unwrap(), fs::read(path("ace.db-wal")).unwrap());
    let last = usize::try_from(*ends.last().unwrap()).unwrap();
    for cut in (0..last).step_by(1013) {
        for garbage in [&b""[..], &[0xAA; 3000]] {
            let copy = TempDir::new().unwrap();
            fs::write(copy.path().join("ace.db"), &database).unwrap();
            fs::write(copy.path().join("ace.db-wal"), [&log[..cut], garbage].concat()).unwrap();
            let whole = ends.iter().filter(|end| **end <= cut as u64).count();
            let listing = block_on(open(&copy).list("n/")).unwrap();
            assert!(listing.entries.len() >= whole, "{cut}: {} < {whole}", listing.entries.len());
            assert_eq!(
                listing.entries.len() as u64,
                listing.revision.0,
                "a commit is there whole or not"
            );
        }
    }
}
