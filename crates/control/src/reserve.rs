//! Room on the disk that is kept for what makes room: on one that is full, an app could not even be
//! destroyed, since that has to be noted first.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

/// More than the store's log grows by with one commit, with what its file system needs for itself.
const SIZE: u64 = 4 << 20;

/// Takes the room, where it's not taken yet.
pub fn keep(path: &Path) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|found| found.len() == SIZE) {
        return Ok(());
    }
    let file: File =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let kept = fallocate(&file, FallocateFlags::empty(), 0, SIZE);
    kept.or_else(|error| {
        // Half of it would look like the whole another time.
        fs::remove_file(path)?;
        Err(error.into())
    })
}

/// Gives the room back. Returns whether there was any.
pub fn give_up(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn room_is_taken_once_and_given_back_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reserve");
        keep(&path).unwrap();
        keep(&path).unwrap();
        assert!(path.metadata().unwrap().blocks() * 512 >= SIZE);
        assert!(give_up(&path).unwrap());
        assert!(!give_up(&path).unwrap());
    }
}
