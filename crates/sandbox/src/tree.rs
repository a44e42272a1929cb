//! What root does with folders that tenants' programs wrote: goes through them, and removes them.
//!
//! Every name is looked at without following links, from the descriptor of the folder above it.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, open, openat, renameat, unlinkat};
use rustix::io::Errno;

/// How a folder is opened that may be a link by now.
pub const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Folders within each other that are open at once.
const OPEN_MAX: usize = 100;

/// Removes `folder` and all in it, however deep it goes. It may be absent; what is added meanwhile
/// may make it fail.
pub fn remove_tree(folder: &Path) -> io::Result<()> {
    let root = match open(folder, FOLDER, Mode::empty()) {
        Ok(root) => root,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return std::fs::remove_file(folder),
        Err(errno) => return Err(errno.into()),
    };
    // A pass lifts what lies too deep up to the root, where the next one finds it.
    let mut lifted = 0;
    loop {
        let before = lifted;
        remove_content(&root, &root, 0, &mut lifted)?;
        if lifted == before {
            return std::fs::remove_dir(folder);
        }
    }
}

/// The names in `folder`, as they are now: it can be changed while they are gone through.
pub fn names(folder: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = match entry {
            Err(Errno::NOENT) => break, // The folder itself is gone by now.
            entry => entry?,
        };
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

fn remove_content(
    root: &OwnedFd,
    folder: &OwnedFd,
    depth: usize,
    lifted: &mut u64,
) -> io::Result<()> {
    for name in names(folder)? {
        match unlinkat(folder, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(errno) => return Err(errno.into()),
        }
        if depth == OPEN_MAX {
            lift(root, folder, &name, lifted)?;
            continue;
        }
        let child = openat(folder, &name, FOLDER, Mode::empty())?;
        remove_content(root, &child, depth + 1, lifted)?;
        unlinkat(folder, &name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// Moves `name` up to the root, under a name that nobody has there.
fn lift(root: &OwnedFd, folder: &OwnedFd, name: &CStr, lifted: &mut u64) -> io::Result<()> {
    loop {
        *lifted += 1;
        match renameat(folder, name, root, format!(".lifted-{lifted}")) {
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_depth_keeps_a_folder_from_being_removed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink(folder.path(), root.join("link")).unwrap();
        // A name that what is lifted would get.
        std::fs::create_dir_all(root.join(".lifted-1/full")).unwrap();
        let mut inner = open(&root, FOLDER, Mode::empty()).unwrap();
        for _ in 0..1_500 {
            rustix::fs::mkdirat(&inner, "d", Mode::from_raw_mode(0o700)).unwrap();
            inner = openat(&inner, "d", FOLDER, Mode::empty()).unwrap();
        }
        remove_tree(&root).unwrap();
        assert!(!root.exists() && folder.path().exists());
        remove_tree(&root).unwrap();
    }
}
