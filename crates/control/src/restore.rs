//! Takes over the rows of a backup into an empty store.

use std::collections::BTreeSet;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};

use ace_api::Program;
use ace_backup::Row;
use ace_store::{CommitError, Expect, Op, Store};
use ace_types::AppName;

use crate::rows::{AppRow, Record, ReleaseRow};

/// Rows in one commit.
const ROWS_AT_ONCE: usize = 256;
/// Bytes of rows in one commit, before the last one.
const BYTES_AT_ONCE: usize = 8 << 20;

/// A Python that a restored app runs on, and that this machine lacks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MissingPython {
    pub app: AppName,
    pub version: String,
    pub program: PathBuf,
}

/// Why rows could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("could not read the rows of the backup")]
    Read(#[source] io::Error),
    #[error("row {key} of the backup is malformed")]
    Malformed { key: String, source: serde_json::Error },
    #[error("could not keep the rows of the backup")]
    Commit(#[from] CommitError),
}

/// Commits `rows`, a line each, to `store`. They come from an engine whose data folder was `from`; it is
/// `to` now.
///
/// Returns what their apps lack on this machine.
pub async fn restore_rows(
    store: &dyn Store,
    rows: impl BufRead,
    from: &Path,
    to: &Path,
) -> Result<Vec<MissingPython>, RestoreError> {
    let (mut ops, mut size) = (Vec::new(), 0);
    let (mut serving, mut releases) = (BTreeSet::new(), Vec::new());
    for line in rows.lines() {
        let line = line.map_err(RestoreError::Read)?;
        let row: Row = serde_json::from_str(&line)
            .map_err(|source| RestoreError::Malformed { key: String::new(), source })?;
        let malformed = |source| RestoreError::Malformed { key: row.key.clone(), source };
        let mut value = row.value;
        if row.key.starts_with(ReleaseRow::FOLDER) {
            let release: ReleaseRow = serde_json::from_value(value).map_err(malformed)?;
            let release = relocated(release, from, to);
            value = serde_json::to_value(&release).map_err(malformed)?;
            releases.push(release);
        } else if row.key.starts_with(AppRow::FOLDER) {
            let app: AppRow = serde_json::from_value(value.clone()).map_err(malformed)?;
            serving.extend(app.serving.map(|number| (app.name, number)));
        }
        let value = serde_json::to_vec(&value).map_err(malformed)?;
        size += value.len();
        ops.push(Op::Put { key: row.key, value, expect: Expect::Absent });
        if ops.len() == ROWS_AT_ONCE || size >= BYTES_AT_ONCE {
            store.commit(std::mem::take(&mut ops)).await?;
            size = 0;
        }
    }
    if !ops.is_empty() {
        store.commit(ops).await?;
    }
    releases.retain(|row| serving.contains(&(row.app.clone(), row.number)));
    Ok(releases.iter().filter_map(missing_python).collect())
}

/// `release` where the data folder is `to` instead of `from`.
fn relocated(mut release: ReleaseRow, from: &Path, to: &Path) -> ReleaseRow {
    let moved = |path: &mut PathBuf| {
        if let Ok(below) = path.strip_prefix(from) {
            *path = to.join(below);
        }
    };
    moved(&mut release.built.code);
    if let ace_api::Serving::Program(runtime) = &mut release.built.serving {
        moved(&mut runtime.environment);
        if let Program::Server { packages, .. } = &mut runtime.program {
            moved(packages);
        }
    }
    release
}

fn missing_python(release: &ReleaseRow) -> Option<MissingPython> {
    let python = &release.built.serving.runtime()?.python;
    (!python.program.exists()).then(|| MissingPython {
        app: release.app.clone(),
        version: python.version.clone(),
        program: python.program.clone(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Rows, deploy};

    #[test]
    fn a_release_moves_with_its_data_folder() {
        let mut state = Rows::default();
        deploy(&mut state, "shop", 1);
        let release = ReleaseRow::clone(state.releases().next().unwrap());
        let moved = relocated(release.clone(), Path::new("/data"), Path::new("/srv/ace"));
        let text = serde_json::to_string(&moved.built).unwrap();
        assert!(!text.contains("/data/") && text.contains("/srv/ace/environments"), "{text}");
        let back = relocated(moved, Path::new("/srv/ace"), Path::new("/data"));
        assert_eq!(back.built.code, release.built.code);
    }

    #[test]
    fn only_a_python_that_is_not_there_is_missing() {
        let mut state = Rows::default();
        deploy(&mut state, "shop", 1);
        let mut release = ReleaseRow::clone(state.releases().next().unwrap());
        let ace_api::Serving::Program(runtime) = &mut release.built.serving else { panic!() };
        runtime.python.program = "/nonexistent/python3".into();
        assert_eq!(missing_python(&release).unwrap().version, "3.13.1");
        let ace_api::Serving::Program(runtime) = &mut release.built.serving else { panic!() };
        runtime.python.program = "/".into();
        assert_eq!(missing_python(&release), None);
    }
}
