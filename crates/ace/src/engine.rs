//! One engine is one data folder: its lock, its id, its slot.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ace_types::EngineId;
use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{FlockOperation, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

/// The longest data folder: below it stand sockets, whose paths have at most 107 bytes.
const DATA_PATH_MAX: usize = 80;

/// How long a child of a killed engine may hold the folder's lock until it has started its own program.
const CHILDREN_WITHIN: Duration = Duration::from_secs(3);
const CHILDREN_PAUSE: Duration = Duration::from_millis(20);

/// How long an engine that ends may take to let go of its folder, and how long to say that it does.
const ENDED_WITHIN: Duration = Duration::from_secs(30);
const SAID_WITHIN: Duration = Duration::from_millis(500);
const ENDED_PAUSE: Duration = Duration::from_millis(20);
/// Stands behind the process id in the lock file of an engine that ends.
const ENDING: &str = " ends";

/// How often it's looked whether [`IDENTITY`] is there.
const IDENTITY_RESYNC: Duration = Duration::from_secs(5);
const IDENTITY: &str = "engine.json";

/// Stands in a folder that is being restored.
const RESTORING: &str = "restoring";

/// A data folder that this process alone holds.
pub struct EngineFolder {
    path: PathBuf,
    pub identity: Identity,
    /// Unlocked by the kernel when the process ends, however it ends.
    lock: Arc<Lock>,
}

/// A data folder that this process alone holds, and that no engine has yet.
///
/// From the first moment on it's marked: until [`EmptyFolder::finish`] no engine takes it, however this
/// process ends.
pub struct EmptyFolder {
    path: PathBuf,
    _lock: Lock,
}

/// What says that a folder is taken.
struct Lock {
    file: File,
    _folder: File,
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
        let (path, lock) = take(path)?;
        if path.join(RESTORING).exists() {
            bail!(
                "a restore into {} was cut short; run it again: ace restore FILE --data {0}",
                path.display()
            );
        }
        if let Some(identity) = read_identity(&path)? {
            return Ok(Self { path, identity, lock: Arc::new(lock) });
        }
        refuse_without_identity(&path)?;
        let identity = Identity { id: new_id()?, slot: None };
        let engine = Self { path, identity, lock: Arc::new(lock) };
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

    /// Tells the next engine, which may have been started already, that it need not wait for long.
    pub fn say_that_it_ends(&self) -> impl FnOnce() + Send + use<> {
        let lock = Arc::clone(&self.lock);
        // Whoever does not learn of it is told that this one is running.
        move || _ = (&lock.file).write_all(ENDING.as_bytes())
    }

    fn save(&self) -> Result<()> {
        save_identity(&self.path, &self.identity)
    }

    /// Writes the engine's identity again, for as long as it's polled, whenever somebody has removed it.
    pub fn keep_identity(&self) -> impl Future<Output = ()> + Send + use<> {
        let (path, identity) = (self.path.clone(), self.identity.clone());
        async move {
            loop {
                tokio::time::sleep(IDENTITY_RESYNC).await;
                if !matches!(path.join(IDENTITY).try_exists(), Ok(false)) {
                    continue;
                }
                match save_identity(&path, &identity) {
                    Ok(()) => tracing::warn!("{IDENTITY} was removed; it is there again"),
                    Err(error) => tracing::error!("{IDENTITY} is gone: {error:#}"),
                }
            }
        }
    }
}

fn save_identity(path: &Path, identity: &Identity) -> Result<()> {
    let draft = path.join("engine.json.new");
    let mut file =
        File::create(&draft).with_context(|| format!("could not write {}", draft.display()))?;
    let mut write = || {
        file.write_all(&serde_json::to_vec(identity)?)?;
        file.sync_all()?;
        fs::rename(&draft, path.join(IDENTITY))?;
        File::open(path)?.sync_all()
    };
    write().with_context(|| format!("could not write {}", draft.display()))
}

/// An engine with another id would know nothing of the containers that run, and have other user ids than the
/// volumes.
fn refuse_without_identity(path: &Path) -> Result<()> {
    if !path.join("ace.db").exists() {
        return Ok(());
    }
    bail!(
        "{}/{IDENTITY} is gone, which says who this engine is; bring it back from a copy of the folder, or \
         restore a backup. Until the machine restarts, /run/ace/claims.json has what stood in it: \
         {{\"id\": \"…\", \"slot\": …}}",
        path.display()
    )
}

impl EmptyFolder {
    /// Opens `path`, making it where it's missing. What another such process left there goes.
    ///
    /// Errors: it holds anything else, or an engine runs with it.
    pub fn open(path: &Path) -> Result<Self> {
        let (path, lock) = take(path)?;
        let folder = Self { path, _lock: lock };
        let found = folder.content()?;
        let marker = folder.path.join(RESTORING);
        if !marker.exists() && !found.is_empty() {
            bail!(
                "the data folder {} is not empty; choose another, or move away what is in it",
                folder.path.display()
            );
        }
        let write = || File::create(&marker)?.sync_all().and_then(|()| folder.sync());
        write().with_context(|| format!("could not write {}", marker.display()))?;
        for path in found.iter().filter(|path| **path != marker) {
            remove(path).with_context(|| format!("could not remove {}", path.display()))?;
        }
        Ok(folder)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All of it is there: engines may take it.
    pub fn finish(self) -> Result<()> {
        let finish = || {
            rustix::fs::syncfs(File::open(&self.path)?)?;
            fs::remove_file(self.path.join(RESTORING))?;
            self.sync()
        };
        finish().with_context(|| format!("could not write {}", self.path.display()))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    /// What stands in it, but for what is there in any.
    fn content(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.path)
            .and_then(|entries| entries.collect::<io::Result<Vec<_>>>())
            .with_context(|| format!("could not read {}", self.path.display()))?;
        let of_ours = |path: &PathBuf| !path.ends_with("lock") && !path.ends_with("lost+found");
        Ok(entries.iter().map(|entry| entry.path()).filter(of_ours).collect())
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path)?.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

/// Makes `path` where it's missing, closes it to others, and takes its lock.
fn take(path: &Path) -> Result<(PathBuf, Lock)> {
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
    refuse_read_only(&path)?;
    // One that was there may be open to all of the host's users, and tenants' files with it.
    let close = || match fs::metadata(&path)?.permissions().mode() & 0o7777 {
        0o700 => Ok(()), // A disk that can only be read is told of below.
        _ => fs::set_permissions(&path, Permissions::from_mode(0o700)),
    };
    close().with_context(|| format!("could not close the data folder {}", path.display()))?;
    let lock = lock(&path)?;
    Ok((path, lock))
}

/// Nothing could be kept there; what runs goes on without an engine.
fn refuse_read_only(path: &Path) -> Result<()> {
    let shown = path.display();
    let disk = rustix::fs::statvfs(path).with_context(|| format!("could not look at {shown}"))?;
    if disk.f_flag.contains(StatVfsMountFlags::RDONLY) {
        bail!("{}", read_only(path));
    }
    Ok(())
}

fn read_only(path: &Path) -> String {
    format!(
        "the disk of the data folder {0} can only be read; nothing was changed, and containers go on. \
         `dmesg` may say why. Mount it writable again, with a check of the file system where it had \
         errors, and start the engine then; `findmnt -T {0}` shows which disk it is",
        path.display()
    )
}

/// Takes the folder's lock and writes our process id into it, for the error of the next who tries.
fn lock(path: &Path) -> Result<Lock> {
    let name = path.join("lock");
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(&name).map_err(|error| match error.kind() {
        // As after errors of the file system, though it may still be mounted to be written.
        io::ErrorKind::ReadOnlyFilesystem => anyhow!("{}", read_only(path)),
        _ => anyhow::Error::new(error).context(format!("could not open {}", name.display())),
    })?;
    // A lock of the process, not of the descriptor: a child of a killed engine that has yet to exec
    // would still hold the other kind.
    wait_for_lock(path, &mut file)?;
    let folder = lock_folder(path)?;
    // For people alone: on a full disk it's left out.
    let _ = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| write!(file, "{}", std::process::id()));
    Ok(Lock { file, _folder: folder })
}

/// Locks `file` as soon as the engine that has it has ended, if it's about to.
fn wait_for_lock(path: &Path, file: &mut File) -> Result<()> {
    let begun = Instant::now();
    let mut is_told = false;
    while rustix::fs::fcntl_lock(&*file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        file.rewind()?;
        file.read_to_string(&mut holder)?;
        let is_ending = holder.ends_with(ENDING);
        if is_ending && !is_told {
            is_told = true;
            tracing::info!("waiting for the end of the engine before");
        }
        if begun.elapsed() >= if is_ending { ENDED_WITHIN } else { SAID_WITHIN } {
            bail!(
                "an engine with the data folder {} is running already (process {})",
                path.display(),
                holder.trim()
            );
        }
        std::thread::sleep(ENDED_PAUSE);
    }
    Ok(())
}

/// Locks the folder itself: somebody may have removed the file that an engine has locked, and made room for
/// another of the same name.
fn lock_folder(path: &Path) -> Result<File> {
    let folder = File::open(path).with_context(|| format!("could not open {}", path.display()))?;
    let until = Instant::now() + CHILDREN_WITHIN;
    while let Err(error) = rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        if error != Errno::WOULDBLOCK || Instant::now() >= until {
            let path = path.display();
            return Err(error)
                .context(format!("an engine has the data folder {path}; its lock file is gone"));
        }
        std::thread::sleep(CHILDREN_PAUSE);
    }
    Ok(folder)
}

fn read_identity(path: &Path) -> Result<Option<Identity>> {
    let name = path.join(IDENTITY);
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
