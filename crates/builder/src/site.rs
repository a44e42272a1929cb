//! A build's scratch folder, `DATA/builds/ID`, and how its results leave it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use ace_api::BuildError;
use tokio::task::spawn_blocking;

use crate::environment::Lock;
use crate::files::{self, Usage};
use crate::kept::Kept;

/// A scratch folder. [`Site::remove`] removes it; after a crash, the next start of the engine does.
#[derive(Debug, Clone)]
pub struct Site {
    folder: PathBuf,
    /// The user of the build's containers.
    user: u32,
}

impl Site {
    /// Makes the scratch folder, which must not be there.
    pub async fn make(folder: PathBuf, user: u32) -> Result<Self, BuildError> {
        let site = Self { folder, user };
        let made = site.clone();
        blocking("make a folder for the build", move || {
            fs::create_dir_all(made.folder.parent().unwrap_or(Path::new("/")))?;
            DirBuilder::new().mode(0o700).create(&made.folder)?;
            made.make_writable(&made.code())?;
            made.make_writable(&made.user_folder())
        })
        .await?;
        Ok(site)
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

    /// Makes the folder `made` root's own and moves it to `place`, for good. Nothing that may write
    /// to it may run any more.
    pub async fn keep(&self, made: PathBuf, place: PathBuf) -> Result<Usage, BuildError> {
        blocking("keep what was built", move || {
            let usage = files::hand_over(&made, 0)?;
            settle(&made, &place)?;
            Ok(usage)
        })
        .await
    }

    /// The same for the environment, with the `lock` that made it.
    pub async fn keep_environment(&self, lock: Lock, place: Kept) -> Result<Usage, BuildError> {
        let site = self.clone();
        blocking("keep the environment", move || {
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
            settle(whole.folder(), place.folder())?;
            Ok(usage)
        })
        .await
    }

    pub async fn remove(&self) -> Result<(), BuildError> {
        let folder = self.folder.clone();
        blocking("remove the build's folder", move || files::remove_tree(&folder)).await
    }

    fn make_writable(&self, folder: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o755).create(folder)?;
        chown(folder, Some(self.user), Some(self.user))
    }
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

    use super::*;

    #[tokio::test]
    async fn what_is_kept_is_roots_and_the_rest_goes() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skipped: only root can give files away");
        }
        let data = tempfile::tempdir().unwrap();
        let site = Site::make(data.path().join("builds/b1"), 12_345).await.unwrap();
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
        let first = Site::make(data.path().join("builds/b1"), 12_345).await.unwrap();
        first.borrow_cache(kept.clone()).await.unwrap();
        fs::write(first.cache().join("wheel"), "").unwrap();
        fs::create_dir_all(kept.parent().unwrap()).unwrap();
        fs::rename(first.cache(), &kept).unwrap();
        let second = Site::make(data.path().join("builds/b2"), 54_321).await.unwrap();
        second.borrow_cache(kept.clone()).await.unwrap();
        assert_eq!(fs::metadata(second.cache().join("wheel")).unwrap().uid(), 54_321);
        assert!(!kept.exists());
    }
}
