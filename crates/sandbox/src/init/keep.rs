//! Puts what an app wants to keep of its code on its volume, with a link in its place.
//!
//! All of it is done by the tenant's own process before it becomes the program, so whatever links are
//! in the way lead nowhere that the tenant could not go. A link, not a mount: a database that is named
//! by one has its journal beside the file that is kept, and not in the layer.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::failure::{Failure, Step};
use crate::spec::Keep;

/// Ends the name of what is being copied, beside the store. There is one at a time, and what is there
/// before is of a copy that was cut short.
const UNFINISHED: &str = "unfinished";

/// Sees to it that each path of `keep` is in the store and leads there.
pub fn link(keep: &Keep) -> Result<(), Failure> {
    if keep.paths.is_empty() {
        return Ok(());
    }
    let _lock = lock(&keep.store).step(format!("enter {}", keep.store.display()))?;
    keep.paths.iter().try_for_each(|path| {
        link_one(keep, path).step(format!("keep {} on the volume", path.display()))
    })
}

fn link_one(Keep { code, store, .. }: &Keep, path: &Path) -> io::Result<()> {
    let (original, kept) = (code.join(path), store.join(path));
    for parent in [&original, &kept].into_iter().filter_map(|path| path.parent()) {
        fs::create_dir_all(parent)?;
    }
    if !is_there(&kept)? {
        fill(&original, &kept, &store.with_extension(UNFINISHED))?;
    }
    remove(&original)?;
    symlink(kept, original)
}

/// Copies `original` to `kept`, whole or not at all.
fn fill(original: &Path, kept: &Path, unfinished: &Path) -> io::Result<()> {
    remove(unfinished)?;
    match is_there(original)? {
        true => copy(original, unfinished)?,
        // A file comes into being with the first write through the link.
        false if looks_like_file(kept) => return Ok(()),
        false => fs::create_dir(unfinished)?,
    }
    fs::rename(unfinished, kept)
}

/// Whether the name of something that is not there yet is a file's: it has an extension.
fn looks_like_file(path: &Path) -> bool {
    path.extension().is_some()
}

fn lock(store: &Path) -> io::Result<File> {
    fs::create_dir_all(store)?;
    let lock = File::open(store)?;
    // Another container of the app copies, which ends, if only with that container.
    flock(&lock, FlockOperation::LockExclusive)?;
    Ok(lock)
}

/// Copies a file, a link or a folder with all that is in it.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(from)?;
    if found.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    if !found.is_dir() {
        return fs::copy(from, to).map(drop);
    }
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        copy(&from.join(&name), &to.join(&name))?;
    }
    fs::set_permissions(to, found.permissions())
}

/// Removes whatever is at `path`, if anything is.
fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn is_there(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// A release's code, and a store; see [`Keep`].
    fn place() -> (TempDir, Keep) {
        let folder = TempDir::new().unwrap();
        let code = folder.path().join("code");
        fs::create_dir_all(code.join("site/media")).unwrap();
        fs::write(code.join("site/media/logo"), "logo").unwrap();
        fs::write(code.join("db.sqlite3"), "first").unwrap();
        let paths = ["site/media", "db.sqlite3", "new.db", "instance/x"].map(Into::into).into();
        let store = folder.path().join("data/.keep");
        (folder, Keep { code, store, paths })
    }

    #[test]
    fn what_is_kept_begins_as_the_source_has_it_and_stays() {
        let (_folder, keep) = place();
        link(&keep).unwrap();
        let read = |path: &str| fs::read_to_string(keep.code.join(path)).unwrap();
        assert_eq!(
            (read("site/media/logo").as_str(), read("db.sqlite3").as_str()),
            ("logo", "first")
        );
        fs::write(keep.code.join("new.db"), "new").unwrap();
        fs::write(keep.code.join("db.sqlite3"), "second").unwrap();
        fs::write(keep.code.join("instance/x/y"), "y").unwrap();

        // The next container begins with the release's files again.
        fs::remove_dir_all(&keep.code).unwrap();
        fs::create_dir_all(keep.code.join("site/media")).unwrap();
        fs::write(keep.code.join("db.sqlite3"), "third").unwrap();
        link(&keep).unwrap();
        let read = |path: &str| fs::read_to_string(keep.code.join(path)).unwrap();
        assert_eq!(
            (read("site/media/logo").as_str(), read("db.sqlite3").as_str()),
            ("logo", "second")
        );
        assert_eq!((read("new.db").as_str(), read("instance/x/y").as_str()), ("new", "y"));
    }

    #[test]
    fn a_copy_that_was_cut_short_is_made_anew() {
        let (_folder, keep) = place();
        let unfinished = keep.store.with_extension(UNFINISHED);
        fs::create_dir_all(&unfinished).unwrap();
        fs::write(unfinished.join("half"), "").unwrap();
        link(&keep).unwrap();
        assert_eq!(fs::read_dir(keep.store.join("site/media")).unwrap().count(), 1);
        assert!(!unfinished.exists());
    }
}
