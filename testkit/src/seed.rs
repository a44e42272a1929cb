//! Keeps what every engine would download again, uv and the app server, from one test to the next.
//!
//! Both are checked by their hashes when an engine fetches them, and lie in folders named by their
//! versions. The demo starts without them, so fetching stays tested.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const FOLDERS: [&str; 2] = ["tools", "servers"];

/// Gives the engine folder `data` what an earlier test has kept.
pub fn give(data: &Path) {
    for name in FOLDERS {
        let kept = kept(name);
        if kept.is_dir() {
            copy(&kept, &data.join(name));
        }
    }
}

/// Keeps what the engine folder `data` has, unless some is kept already.
pub fn keep(data: &Path) {
    for name in FOLDERS {
        let (made, kept) = (data.join(name), kept(name));
        let is_empty = fs::read_dir(&made).map_or(true, |mut entries| entries.next().is_none());
        if is_empty || kept.exists() {
            continue;
        }
        let partial = kept.with_extension(std::process::id().to_string());
        copy(&made, &partial);
        // Another test may have been faster; then its copy serves.
        if fs::rename(&partial, &kept).is_err() {
            let _ = fs::remove_dir_all(&partial);
        }
    }
}

/// The kept `name`; beside the test programs, so that `cargo clean` removes it.
fn kept(name: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let folder = program.parent().unwrap_or(Path::new(".")).join("ace-testkit");
    // Without the folder nothing is kept, and engines fetch for themselves.
    let _ = fs::create_dir_all(&folder);
    folder.join(name)
}

fn copy(from: &Path, to: &Path) {
    // As above: a copy that failed costs time and no test its result.
    let _ = Command::new("cp").arg("-a").arg(from).arg(to).status();
}
