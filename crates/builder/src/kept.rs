//! An environment as it is kept, `DATA/environments/APP/HASH`: what makes it can make it anew.
//!
//! | in it | what it is |
//! |---|---|
//! | `virtualenv` | the environment: `/ace/user/virtualenv` |
//! | `lock.json` | the [`Lock`] that it was made from, for root alone |
//! | `downloads` | the files that the lock names, where it names files: pip's |

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::environment::{LOCK_MAX, Lock};

const LOCK: &str = "lock.json";
/// JSON of a text can be longer than the text.
const LOCK_FILE_MAX: u64 = 6 * LOCK_MAX as u64;

/// One kept environment, which need not be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    folder: PathBuf,
}

impl Kept {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The one that `virtualenv` belongs to.
    pub fn of(virtualenv: &Path) -> Self {
        Self::new(virtualenv.parent().unwrap_or(virtualenv).to_owned())
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// It comes to its name by a rename, so it is whole.
    pub fn exists(&self) -> bool {
        self.folder.is_dir()
    }

    pub fn virtualenv(&self) -> PathBuf {
        self.folder.join("virtualenv")
    }

    pub fn downloads(&self) -> PathBuf {
        self.folder.join("downloads")
    }

    pub fn write_lock(&self, lock: &Lock) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.folder.join(LOCK))?;
        file.write_all(&serde_json::to_vec(lock)?)?;
        file.sync_all()
    }

    pub fn read_lock(&self) -> io::Result<Lock> {
        let mut text = Vec::new();
        File::open(self.folder.join(LOCK))?.take(LOCK_FILE_MAX).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::unpack::Requirements;

    #[test]
    fn a_lock_is_read_as_it_was_written_and_roots_alone() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::new(folder.path().to_owned());
        let requirements = Requirements::File { prereleases: false, rewritten: None };
        let lock =
            Lock::resolved(&requirements, b"flask==3.1.0 --hash=sha256:aa\n", "abc").unwrap();
        kept.write_lock(&lock).unwrap();
        assert_eq!(Kept::of(&kept.virtualenv()).read_lock().unwrap(), lock);
        let mode = folder.path().join(LOCK).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
