//! A build's scratch folder, `DATA/builds/ID`, and how its results leave it.
//!
//! It's a disk of the build's own, in the image `DATA/builds/ID.img`, so that no build can fill or flood the
//! engine's. With nothing but the installer's cache in it, the image is kept for the app's next build. On a machine
//! without loop devices it's a folder of the engine's disk.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ace_api::BuildError;
use ace_sandbox::disk::Device;
use ace_sandbox::volume::VolumeError;
use ace_sandbox::volume::scratch::{Room, Scratch};
use ace_types::error_chain;
use tokio::task::spawn_blocking;

use crate::caches::CACHE_MAX;
use crate::environment::Lock;
use crate::files::{self, Usage};
use crate::kept::Kept;

pub use ace_types::limits::{BUILD_DISK as SIZE_MAX, BUILD_INODES as ENTRIES_MAX};

/// A scratch folder. [`Site::remove`] removes it; after a crash, the next start of the engine does.
#[derive(Debug, Clone)]
pub struct Site {
    folder: PathBuf,
    /// The user of the build's containers.
    user: u32,
    /// What is mounted there; `None` where this machine can't.
    disk: Option<Arc<Scratch>>,
}

impl Site {
    /// Makes the scratch folder, which must not be there. Its disk is the one of the app's last build, where that
    /// is at `kept`.
    pub async fn make(folder: PathBuf, kept: PathBuf, user: u32) -> Result<Self, BuildError> {
        blocking("make a folder for the build", move || {
            fs::create_dir_all(folder.parent().unwrap_or(Path::new("/")))?;
            DirBuilder::new().mode(0o700).create(&folder)?;
            let image = image_of(&folder);
            if kept.symlink_metadata().is_ok_and(|found| found.is_file()) {
                fs::rename(&kept, &image)?;
            }
            let disk = mount(&image, &folder)?.map(Arc::new);
            let site = Self { folder, user, disk };
            site.empty()?;
            site.make_writable(&site.code())?;
            site.make_writable(&site.user_folder())?;
            Ok(site)
        })
        .await
    }

    /// The device of its disk, where it has one.
    pub fn device(&self) -> Option<Device> {
        self.disk.as_ref().map(|disk| disk.device())
    }

    /// What the disk has room for yet, where there is one.
    pub fn room(&self) -> Option<io::Result<Room>> {
        self.disk.as_ref().map(|disk| disk.room())
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `/ace/code`.
    pub fn code(&self) -> PathBuf {
        self.folder.join("code")
    }

    /// `/ace/user`, in which the environment is made.
    pub fn user_folder(&self) -> PathBuf {
        self.folder.join("user")
    }

    /// The environment while it is made, as [`Kept`] environments have it.
    pub fn environment(&self) -> PathBuf {
        self.user_folder().join("virtualenv")
    }

    pub fn cache(&self) -> PathBuf {
        self.folder.join("cache")
    }

    /// A further folder that the build's containers can write to.
    pub async fn add(&self, name: &str) -> Result<PathBuf, BuildError> {
        let (site, folder) = (self.clone(), self.folder.join(name));
        let made = folder.clone();
        blocking("make a folder for the build", move || site.make_writable(&made)).await?;
        Ok(folder)
    }

    /// Removes what is left of a folder that was [added](Self::add).
    pub async fn remove_added(&self, name: &str) -> Result<(), BuildError> {
        let folder = self.folder.join(name);
        blocking("remove a folder of the build", move || files::remove_tree(&folder)).await
    }

    /// Moves the installer's cache `kept`, from the app's last build, into the scratch folder.
    ///
    /// While it is here it is no one else's; if this build is cut short, it is lost, which costs time
    /// and nothing else.
    pub async fn borrow_cache(&self, kept: PathBuf) -> Result<(), BuildError> {
        let site = self.clone();
        blocking("take the app's cache", move || {
            if site.disk.is_some() {
                return site.take_over_cache();
            }
            match fs::rename(&kept, site.cache()) {
                Ok(()) if files::hand_over(&site.cache(), site.user).is_ok() => Ok(()),
                // One that can't be handed over is no loss either.
                Ok(()) => {
                    files::remove_tree(&site.cache())?;
                    site.make_writable(&site.cache())
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    site.make_writable(&site.cache())
                }
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// What there is to be kept for the app's next build: the cache, or the disk with nothing but that. `None` where
    /// the cache is too large. Nothing of the build may run any more, and nothing else of it be wanted.
    pub fn let_go_of_cache(&self) -> io::Result<Option<PathBuf>> {
        let Some(disk) = &self.disk else { return Ok(Some(self.cache())) };
        if files::usage(&self.cache())?.size > CACHE_MAX {
            return Ok(None);
        }
        self.empty()?;
        disk.unmount()?;
        Ok(Some(image_of(&self.folder)))
    }

    /// Makes the folder `made` root's own and moves it to `place`, for good. Nothing that may write
    /// to it may run any more.
    pub async fn keep(&self, made: PathBuf, place: PathBuf) -> Result<Usage, BuildError> {
        let site = self.clone();
        keeping("keep what was built", move || {
            let usage = files::hand_over(&made, 0)?;
            site.settle(&made, &place)?;
            Ok(usage)
        })
        .await
    }

    /// The same for the environment, with the `lock` that made it.
    pub async fn keep_environment(&self, lock: Lock, place: Kept) -> Result<Usage, BuildError> {
        let site = self.clone();
        keeping("keep the environment", move || {
            let whole = Kept::new(site.folder.join("environment"));
            fs::create_dir(whole.folder())?;
            fs::rename(site.environment(), whole.virtualenv())?;
            let downloads = site.user_folder().join("downloads");
            if downloads.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                fs::rename(downloads, whole.downloads())?;
            }
            files::hand_over(whole.folder(), 0)?;
            whole.write_lock(&lock)?; // After the modes were set: this one is not for all.
            let usage = files::usage(whole.folder())?;
            site.settle(whole.folder(), place.folder())?;
            Ok(usage)
        })
        .await
    }

    pub async fn remove(&self) -> Result<(), BuildError> {
        let site = self.clone();
        blocking("remove the build's folder", move || {
            if let Some(disk) = &site.disk {
                // Whoever keeps the disk has let go of it already.
                let _ = disk.unmount();
            }
            files::remove_tree(&image_of(&site.folder))?;
            files::remove_tree(&site.on_its_way_out())?;
            files::remove_tree(&site.folder)
        })
        .await
    }

    /// Removes all but the cache from its disk.
    fn empty(&self) -> io::Result<()> {
        let entries = files::entries(&self.folder)?;
        let left = entries.iter().filter(|entry| **entry != self.cache());
        left.into_iter().try_for_each(|entry| files::remove_tree(entry))
    }

    /// Gives the cache that is on its disk to this build's user, or makes one.
    fn take_over_cache(&self) -> io::Result<()> {
        if files::hand_over(&self.cache(), self.user).is_ok() {
            return Ok(());
        }
        files::remove_tree(&self.cache())?;
        self.make_writable(&self.cache())
    }

    /// Where what leaves its disk stands until it's whole.
    fn on_its_way_out(&self) -> PathBuf {
        self.folder.with_extension("kept")
    }

    /// Moves `made` to `place`, so that it is there whole or not at all.
    fn settle(&self, made: &Path, place: &Path) -> io::Result<()> {
        if self.disk.is_none() {
            return settle(made, place);
        }
        let copy = self.on_its_way_out();
        files::remove_tree(&copy)?;
        files::copy_tree(made, &copy, SIZE_MAX)?;
        settle(&copy, place)
    }

    fn make_writable(&self, folder: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o755).create(folder)?;
        chown(folder, Some(self.user), Some(self.user))
    }
}

fn image_of(folder: &Path) -> PathBuf {
    folder.with_extension("img")
}

/// Mounts the disk in `image` at `folder`. `None`, and a warning, where this machine has no loop devices.
fn mount(image: &Path, folder: &Path) -> io::Result<Option<Scratch>> {
    match Scratch::mount(image, SIZE_MAX, ENTRIES_MAX, folder) {
        Ok(disk) => Ok(Some(disk)),
        Err(error @ VolumeError::Attach { .. }) => {
            tracing::warn!("a build has no disk of its own: {}", error_chain(&error));
            Ok(None)
        }
        Err(error) => Err(io::Error::other(error)),
    }
}

/// As [`blocking`], for what may be too large to be kept.
async fn keeping<T: Send + 'static>(
    doing: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, BuildError> {
    let result = spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    result.map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => BuildError::Rejected(format!(
            "the files that it leaves are longer than {SIZE_MAX} together"
        )),
        _ => engine(doing, error),
    })
}

/// Runs `work`, which blocks, and says what it was `doing` if it fails.
pub async fn blocking<T: Send + 'static>(
    doing: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, BuildError> {
    let result = spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    result.map_err(|error| engine(doing, error))
}

/// An error that is not the tenant's doing.
pub fn engine(
    doing: &str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> BuildError {
    BuildError::Engine { doing: doing.to_owned(), source: source.into() }
}

/// Moves `made` to `place`, so that it is there whole or not at all.
fn settle(made: &Path, place: &Path) -> io::Result<()> {
    // All content before the name that stands for it.
    rustix::fs::syncfs(File::open(made)?)?;
    let parent = place.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent)?;
    fs::rename(made, place)?;
    sync_upwards(parent)
}

/// A new folder's name is in its parent, whose name may be as new.
fn sync_upwards(folder: &Path) -> io::Result<()> {
    for folder in folder.ancestors().take(3) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use ace_sandbox::volume::device_of;

    use super::*;

    #[tokio::test]
    async fn what_is_kept_is_roots_and_the_rest_goes() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skipped: only root can give files away");
        }
        let data = tempfile::tempdir().unwrap();
        let kept = data.path().join("caches/shop");
        let site = Site::make(data.path().join("builds/b1"), kept, 12_345).await.unwrap();
        assert_eq!(fs::metadata(site.code()).unwrap().uid(), 12_345);
        fs::write(site.code().join("index.py"), "").unwrap();
        let place = data.path().join("releases/shop/b1/code");
        assert_eq!(site.keep(site.code(), place.clone()).await.unwrap().entries, 1);
        assert_eq!(fs::metadata(place.join("index.py")).unwrap().uid(), 0);
        site.remove().await.unwrap();
        assert!(!site.folder.exists() && place.exists());
    }

    #[tokio::test]
    async fn a_cache_goes_from_build_to_build() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skipped: only root can give files away");
        }
        let data = tempfile::tempdir().unwrap();
        let kept = data.path().join("caches/shop");
        let first = Site::make(data.path().join("builds/b1"), kept.clone(), 12_345).await.unwrap();
        first.borrow_cache(kept.clone()).await.unwrap();
        fs::write(first.cache().join("wheel"), "").unwrap();
        fs::create_dir_all(kept.parent().unwrap()).unwrap();
        let made = first.let_go_of_cache().unwrap().unwrap();
        fs::rename(&made, &kept).unwrap();
        first.remove().await.unwrap();
        drop(first);
        while device_of(&kept).is_ok_and(|device| device.is_some()) {
            std::thread::yield_now(); // It goes a moment after its last mount.
        }
        let second = Site::make(data.path().join("builds/b2"), kept.clone(), 54_321).await.unwrap();
        second.borrow_cache(kept.clone()).await.unwrap();
        assert_eq!(fs::metadata(second.cache().join("wheel")).unwrap().uid(), 54_321);
        assert!(!kept.exists());
        second.remove().await.unwrap();
    }
}
