//! How full the file systems of a container are, seen from the host.

use std::io;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, StatVfs, fstat, fstatvfs, openat, openat2};

use crate::process::ProcessRef;

/// How full a file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub used_bytes: u64,
    pub size_bytes: u64,
    /// `None` where nothing bounds their number.
    pub files: Option<Files>,
}

/// How many files, folders and links a file system has, and can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Files {
    pub used: u64,
    pub most: u64,
}

impl From<StatVfs> for Space {
    fn from(found: StatVfs) -> Self {
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        let used = found.f_files.saturating_sub(found.f_ffree);
        Self {
            used_bytes: bytes(found.f_blocks.saturating_sub(found.f_bfree)),
            size_bytes: bytes(found.f_blocks),
            files: (found.f_files > 0).then_some(Files { used, most: found.f_files }),
        }
    }
}

/// How full what is mounted at `mount` in the container of `process` is; `None` where nothing is.
///
/// No link of the container's is followed. Blocks, as the file system does.
/// Errors: the process is gone, or nothing can be seen of it.
pub fn space(process: ProcessRef, mount: &Path) -> io::Result<Option<Space>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, format!("/proc/{}/root", process.pid), flags, Mode::empty())?;
    // Looked at once its root is held: then it is the root of no later process of that id.
    if ProcessRef::of(process.pid)? != process {
        return Err(io::ErrorKind::NotFound.into());
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let below = mount.strip_prefix("/").unwrap_or(mount);
    let place = openat2(&root, below, flags, Mode::empty(), resolve)?;
    if fstat(&place)?.st_dev == fstat(&root)?.st_dev {
        return Ok(None);
    }
    Ok(Some(fstatvfs(&place)?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_of_this_process_has_its_size() {
        let this = ProcessRef::of(std::process::id()).unwrap();
        let shm = space(this, Path::new("/dev/shm")).unwrap();
        assert!(shm.is_none_or(|shm| shm.size_bytes > 0 && shm.used_bytes <= shm.size_bytes));
        let files = shm.and_then(|shm| shm.files);
        assert!(files.is_none_or(|files| files.used > 0 && files.used <= files.most));
        assert_eq!(space(this, Path::new("/")).err().map(|_| ()), Some(()));
    }

    #[test]
    fn another_process_with_the_same_id_is_not_looked_into() {
        let this = ProcessRef::of(std::process::id()).unwrap();
        let earlier = ProcessRef { start_time: this.start_time - 1, ..this };
        assert!(space(earlier, Path::new("/dev/shm")).is_err());
    }
}
