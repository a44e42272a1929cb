//! One engine is one data folder: its lock, its id, its slot.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ace_types::EngineId;
use anyhow::{Context, Result, bail};
use rustix::fs::FlockOperation;
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

/// The longest data folder: below it stand sockets, whose paths have at most 107 bytes.
const DATA_PATH_MAX: usize = 80;

/// A data folder that this process alone holds.
pub struct EngineFolder {
    path: PathBuf,
    pub identity: Identity,
    /// Unlocked by the kernel when the process ends, however it ends.
    _lock: File,
}

/// `DATA/engine.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub id: EngineId,
    /// The slot of subnets and user ids that it holds, once it has one. Volumes are owned by user
    /// ids of it, so it's for good.
    pub slot: Option<u8>,
}

impl EngineFolder {
    /// Opens `path`, making it where it's missing.
    ///
    /// Errors: not a folder of ours to use, its path too long, or another engine holds it.
    pub fn open(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path)?;
        if path.as_os_str().len() > DATA_PATH_MAX {
            bail!(
                "the data folder's path has more than {DATA_PATH_MAX} bytes: {}; choose a shorter one",
                path.display()
            );
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("could not make the data folder {}", path.display()))?;
        // One that was there may be open to all of the host's users, and tenants' files with it.
        fs::set_permissions(&path, Permissions::from_mode(0o700))
            .with_context(|| format!("could not close the data folder {}", path.display()))?;
        let lock = lock(&path)?;
        if let Some(identity) = read_identity(&path)? {
            return Ok(Self { path, identity, _lock: lock });
        }
        let engine = Self { path, identity: Identity { id: new_id()?, slot: None }, _lock: lock };
        engine.save()?;
        Ok(engine)
    }

    /// The folder that `name` names inside it, made where it's missing.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.path.join(name);
        fs::create_dir_all(&folder)
            .with_context(|| format!("could not make the folder {}", folder.display()))?;
        Ok(folder)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Remembers the slot, for the next start.
    pub fn set_slot(&mut self, slot: u8) -> Result<()> {
        // On a full disk nothing can be written, and an engine that starts again need not.
        if self.identity.slot == Some(slot) {
            return Ok(());
        }
        self.identity.slot = Some(slot);
        self.save()
    }

    fn save(&self) -> Result<()> {
        let draft = self.path.join("engine.json.new");
        let mut file =
            File::create(&draft).with_context(|| format!("could not write {}", draft.display()))?;
        let mut write = || {
            file.write_all(&serde_json::to_vec(&self.identity)?)?;
            file.sync_all()?;
            fs::rename(&draft, self.path.join("engine.json"))?;
            File::open(&self.path)?.sync_all()
        };
        write().with_context(|| format!("could not write {}", draft.display()))
    }
}

/// Takes the folder's lock and writes our process id into it, for the error of the next who tries.
fn lock(path: &Path) -> Result<File> {
    let name = path.join("lock");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&name)
        .with_context(|| format!("could not open {}", name.display()))?;
    // A lock of the process, not of the descriptor: a child of a killed engine that has yet to exec
    // would still hold the other kind.
    if rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        file.read_to_string(&mut holder)?;
        bail!(
            "an engine with the data folder {} is running already (process {})",
            path.display(),
            holder.trim()
        );
    }
    // For people alone: on a full disk it's left out.
    let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
    Ok(file)
}

fn read_identity(path: &Path) -> Result<Option<Identity>> {
    let name = path.join("engine.json");
    match fs::read(&name) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .with_context(|| format!("{} is not an engine's identity", name.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("could not read {}", name.display())),
    }
}

fn new_id() -> Result<EngineId> {
    let mut random = [0; EngineId::LENGTH];
    getrandom(&mut random, GetRandomFlags::empty()).context("could not draw a random id")?;
    Ok(EngineId::from_random(random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_was_open_to_all_is_closed() -> Result<()> {
        let folder = tempfile::tempdir()?;
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        let _engine = EngineFolder::open(folder.path())?;
        assert_eq!(fs::metadata(folder.path())?.permissions().mode() & 0o777, 0o700);
        Ok(())
    }
}
