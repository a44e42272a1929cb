//! The installers' caches, one an app: `DATA/caches/APP`, as it was when the app's last build ended. It's the image of
//! that build's disk, or a folder on a machine whose builds have none.
//!
//! A build has its app's cache moved into its scratch folder, so that what lies here is in nobody's use.
//! Together they take [`SHARE_MAX`] at most: those go first that were used the longest ago. A cache that is gone
//! costs time and nothing else.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use ace_types::{AppName, Bytes};

use crate::files;

/// The largest cache that is kept for an app's next build.
pub const CACHE_MAX: Bytes = Bytes::gib(1);
/// The most that all take, on a large disk.
const SHARE_MAX: Bytes = Bytes::gib(8);
/// On a smaller one they take up to this part of it.
const DISK_PART: u64 = 10;

/// All caches that are kept.
#[derive(Debug)]
pub struct Caches {
    folder: PathBuf,
    /// What each takes on disk, as far as somebody has looked since the engine started. Held by whoever makes
    /// room.
    sizes: Mutex<HashMap<PathBuf, Bytes>>,
}

/// A kept cache.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cache {
    path: PathBuf,
    used_at: SystemTime,
    size: Bytes,
}

impl Caches {
    /// Those in `folder`, which need not be there.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, sizes: Mutex::default() }
    }

    /// Where the cache of `app` is kept.
    pub fn of(&self, app: &AppName) -> PathBuf {
        self.folder.join(app.as_str())
    }

    /// Keeps the cache `made` as that of `app`, unless it's too large, and returns which caches there is no room
    /// for any more. Nothing may write to it any more.
    pub fn keep(&self, made: &Path, app: &AppName) -> io::Result<Vec<PathBuf>> {
        let size = match size_of(made) {
            Ok(size) if size <= CACHE_MAX => size,
            Ok(_) | Err(_) => return Ok(Vec::new()),
        };
        let kept = self.of(app);
        files::remove_tree(&kept)?; // Of the other kind, where there is one.
        fs::create_dir_all(&self.folder)?;
        File::open(made)?.set_modified(SystemTime::now())?; // See `Cache::used_at`.
        fs::rename(made, &kept)?;
        let mut sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        sizes.insert(kept, size);
        Ok(surplus(self.all(&mut sizes)?, share(disk_size(&self.folder)?)))
    }

    /// All that are kept. Sizes that nobody knows yet are found out, which takes time once an engine.
    fn all(&self, sizes: &mut HashMap<PathBuf, Bytes>) -> io::Result<Vec<Cache>> {
        let paths = files::entries(&self.folder)?;
        sizes.retain(|path, _| paths.contains(path));
        let mut caches = Vec::new();
        for path in paths {
            // A build may have taken it meanwhile.
            let Ok(used_at) = path.symlink_metadata().and_then(|found| found.modified()) else {
                continue;
            };
            let known = sizes.get(&path).copied();
            let Some(size) = known.or_else(|| size_of(&path).ok()) else {
                continue;
            };
            sizes.insert(path.clone(), size);
            caches.push(Cache { path, used_at, size });
        }
        Ok(caches)
    }
}

/// What an image, or a folder, takes on disk.
fn size_of(path: &Path) -> io::Result<Bytes> {
    let metadata = path.symlink_metadata()?;
    match metadata.is_file() {
        true => Ok(Bytes(metadata.blocks().saturating_mul(512))),
        false => Ok(files::usage(path)?.size),
    }
}

/// Those of `caches` that have to go for the others to take `share` at most.
fn surplus(mut caches: Vec<Cache>, share: Bytes) -> Vec<PathBuf> {
    caches.sort_by_key(|cache| std::cmp::Reverse(cache.used_at));
    let mut taken = 0_u64;
    let too_much = caches.into_iter().skip_while(|cache| {
        taken = taken.saturating_add(cache.size.0);
        taken <= share.0
    });
    too_much.map(|cache| cache.path).collect()
}

/// What all caches may take on a disk of the size `disk`.
fn share(disk: Bytes) -> Bytes {
    SHARE_MAX.min(Bytes(disk.0 / DISK_PART))
}

fn disk_size(folder: &Path) -> io::Result<Bytes> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(Bytes(disk.f_blocks.saturating_mul(disk.f_frsize)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn cache(name: &str, used_at: u64, size: u64) -> Cache {
        let used_at = SystemTime::UNIX_EPOCH + Duration::from_secs(used_at);
        Cache { path: name.into(), used_at, size: Bytes(size) }
    }

    #[test]
    fn what_was_used_the_longest_ago_goes_first() {
        let caches = || vec![cache("old", 1, 4), cache("new", 9, 4), cache("middle", 5, 4)];
        assert!(surplus(caches(), Bytes(12)).is_empty());
        assert_eq!(surplus(caches(), Bytes(11)), [PathBuf::from("old")]);
        assert_eq!(surplus(caches(), Bytes(4)), ["middle", "old"].map(PathBuf::from));
    }

    #[test]
    fn a_small_disk_has_a_small_share() {
        assert_eq!(share(Bytes::gib(20)), Bytes::gib(2));
        assert_eq!(share(Bytes::gib(2000)), SHARE_MAX);
    }

    #[test]
    fn a_cache_that_is_kept_counts_with_those_of_earlier_engines() {
        let data = tempfile::tempdir().unwrap();
        let (folder, made) = (data.path().join("caches"), data.path().join("made"));
        fs::create_dir_all(folder.join("earlier")).unwrap();
        fs::write(folder.join("earlier/wheel"), [1; 9000]).unwrap();
        fs::create_dir(&made).unwrap();
        fs::write(made.join("wheel"), [1; 9000]).unwrap();
        let caches = Caches::new(folder);
        let shop = "shop".parse().unwrap();
        assert!(caches.keep(&made, &shop).unwrap().is_empty());
        assert!(caches.of(&shop).join("wheel").exists() && !made.exists());
        let mut sizes = caches.sizes.lock().unwrap();
        let mut all = caches.all(&mut sizes).unwrap();
        all.sort_by_key(|cache| cache.used_at);
        assert!(all.iter().all(|cache| cache.size >= Bytes(9000)), "{all:?}");
        assert_eq!(surplus(all.clone(), Bytes(all[1].size.0)), [all[0].path.clone()]);
    }
}
