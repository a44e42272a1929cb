//! Reads and changes the rows in the store.
//!
//! A change is a pure function from the state to the operations that it takes (see `changes`). It is
//! committed only if nobody has changed a row it looked at, and worked out anew otherwise.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ace_api::http::Author;
use ace_store::{
    Change, Changes, CommitError, Entry, Listing, Op, ReadError, Revision, Store, Watch,
};
use tokio::sync::Mutex;

use crate::engine::Clock;
use crate::events;
use crate::metrics::Tally;
use crate::refusal::Refusal;
use crate::state::{RowError, State};

/// How often a change is worked out anew before it is given up.
const TRIES: u32 = 10;
/// The pause before a further try.
const PAUSE: Duration = Duration::from_millis(5);

/// The rows. Whoever asks for the state gets one that shows every commit that was acknowledged
/// before.
pub struct Records {
    store: Arc<dyn Store>,
    /// Counts the commits.
    tally: Arc<Tally>,
    /// The state as it was last seen.
    state: Mutex<Arc<State>>,
    /// Held for the length of a change: events are numbered one after the other.
    turn: Mutex<()>,
    clock: Clock,
}

/// Why the rows could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    #[error("could not read the engine's state")]
    Read(#[from] ReadError),
    #[error("could not understand the engine's state")]
    Row(#[from] RowError),
    #[error("could not keep the engine's state")]
    Commit(#[from] CommitError),
    #[error("others changed the same rows {TRIES} times in a row")]
    Contended,
}

impl Records {
    /// Reads all rows.
    pub async fn open(
        store: Arc<dyn Store>,
        tally: Arc<Tally>,
        clock: Clock,
    ) -> Result<Self, RecordsError> {
        let state = Mutex::new(Arc::new(read_all(store.as_ref()).await?));
        Ok(Self { store, tally, state, turn: Mutex::default(), clock })
    }

    /// All rows as they are now.
    pub async fn state(&self) -> Result<Arc<State>, RecordsError> {
        let mut state = self.state.lock().await;
        loop {
            let changes = match self.store.changes_since(state.revision).await {
                Ok(changes) => changes,
                Err(ReadError::Compacted { .. }) => {
                    *state = Arc::new(read_all(self.store.as_ref()).await?);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if changes.through == state.revision {
                return Ok(Arc::clone(&state));
            }
            // A copy only where a reader still holds the old one.
            take_over(Arc::make_mut(&mut state), &changes)?;
        }
    }

    /// All rows of one moment, as they are in the store as well.
    pub async fn snapshot(&self) -> Result<(State, Vec<Entry>), RecordsError> {
        let listing = self.store.list("").await?;
        Ok((state_of(listing.clone())?, listing.entries))
    }

    /// Commits what `change` makes of the state, with the events that tell of it, and returns what else it
    /// says. No operations, no commit. The revision is one that shows the change.
    ///
    /// Errors: whatever `change` refuses with; where the store fails, that, after logging it.
    pub async fn transact<T>(
        &self,
        change: impl Fn(&State) -> Result<(Vec<Op>, T), Refusal>,
    ) -> Result<(T, Revision), Refusal> {
        self.transact_for(None, change).await
    }

    /// The same, asked for by `by`.
    pub async fn transact_for<T>(
        &self,
        by: Option<&Author>,
        change: impl Fn(&State) -> Result<(Vec<Op>, T), Refusal>,
    ) -> Result<(T, Revision), Refusal> {
        for _ in 0..TRIES {
            if let Some(done) = self.try_once(by, &change).await? {
                return Ok(done);
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(RecordsError::Contended.into())
    }

    /// `None` where somebody changed a row meanwhile.
    async fn try_once<T>(
        &self,
        by: Option<&Author>,
        change: impl Fn(&State) -> Result<(Vec<Op>, T), Refusal>,
    ) -> Result<Option<(T, Revision)>, Refusal> {
        let _turn = self.turn.lock().await;
        let state = self.state().await?;
        let (ops, said) = change(&state)?;
        if ops.is_empty() {
            return Ok(Some((said, state.revision)));
        }
        let ops = events::with_events(&state, ops, by, (self.clock)());
        let began = Instant::now();
        let committed = self.store.commit(ops.clone()).await;
        self.tally.committed(began.elapsed());
        match committed {
            Ok(revision) => Ok(Some((said, revision))),
            Err(CommitError::Conflict { .. }) => Ok(None),
            // A store that failed may have kept it all the same.
            Err(error) => match self.done_after_all(&ops, state.revision).await {
                Some(revision) => Ok(Some((said, revision))),
                None => Err(RecordsError::from(error).into()),
            },
        }
    }

    /// A revision that shows all of `ops`, if they have come about after `before`.
    async fn done_after_all(&self, ops: &[Op], before: Revision) -> Option<Revision> {
        for op in ops {
            let (Op::Put { key, .. } | Op::Delete { key, .. }) = op;
            let stands = match (op, self.store.get(key).await.ok()?) {
                (Op::Put { value, .. }, Some(entry)) => {
                    entry.value == *value && entry.revision > before
                }
                (Op::Delete { .. }, found) => found.is_none(),
                (Op::Put { .. }, None) => false,
            };
            if !stands {
                return None;
            }
        }
        let state = self.state().await.ok()?;
        (state.revision > before).then_some(state.revision)
    }

    /// Wakes whoever has seen everything up to `from` as soon as there is more.
    pub fn watch(&self, from: Revision) -> Watch {
        self.store.watch(from)
    }
}

async fn read_all(store: &dyn Store) -> Result<State, RecordsError> {
    state_of(store.list("").await?)
}

fn state_of(listing: Listing) -> Result<State, RecordsError> {
    let change = |entry: Entry| Change {
        key: entry.key,
        value: Some(entry.value),
        revision: entry.revision,
    };
    let changes = listing.entries.into_iter().map(change).collect();
    let mut state = State::default();
    take_over(&mut state, &Changes { through: listing.revision, changes })?;
    Ok(state)
}

fn take_over(state: &mut State, changes: &Changes) -> Result<(), RowError> {
    changes.changes.iter().try_for_each(|change| state.apply(change))?;
    state.revision = changes.through;
    Ok(())
}
