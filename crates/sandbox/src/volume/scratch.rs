//! A disk for work that may fail: a sparse image with an ext4 inside, mounted at a folder.
//!
//! It has no journal: what it holds is worth keeping only as long as it was let go of properly. An image
//! that was not, since its machine went down, is made anew, empty.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ace_types::Bytes;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};
use rustix::thread::UnshareFlags;

use super::{
    Attached, VolumeError, attach, file_system_size, is_attached, lock, make_ext4, open, unfinished,
};
use crate::disk::Device;
use crate::sys;

/// One that is mounted. Unmounted when dropped.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
    attached: Attached,
}

/// What can still be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    pub bytes: u64,
    pub inodes: u64,
}

impl Scratch {
    /// Mounts `image` at `folder`, with what it holds, or else a new one of `size` with room for so many
    /// `inodes`. Root owns it. Nobody else may be about to mount it.
    pub fn mount(
        image: &Path,
        size: Bytes,
        inodes: u64,
        folder: &Path,
    ) -> Result<Self, VolumeError> {
        if !is_fit(image, size)? {
            make(image, size, inodes)?;
        }
        let attached = attach(image)?;
        let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
        // Its image is to shrink with what is removed.
        mount(&attached.device, folder, "ext4", flags, c"discard").map_err(|error| {
            VolumeError::Attach { image: image.to_owned(), source: error.into() }
        })?;
        Ok(Self { folder: folder.to_owned(), attached })
    }

    /// The loop device that shows it.
    pub fn device(&self) -> Device {
        self.attached.number
    }

    pub fn room(&self) -> io::Result<Room> {
        let found = rustix::fs::statvfs(&self.folder)?;
        let bytes = found.f_bavail.saturating_mul(found.f_frsize);
        Ok(Room { bytes, inodes: found.f_favail })
    }

    /// Takes it off its folder. Waits until all is written.
    pub fn unmount(&self) -> io::Result<()> {
        Ok(unmount(&self.folder, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // An error says that it has been unmounted already.
        let _ = self.unmount();
    }
}

/// Lets this process, and the threads and processes that it starts from now on, have mounts of their own:
/// what is mounted elsewhere appears here, but not the other way round, and what is mounted here goes with
/// the last of them. To be called while there is one thread.
pub fn keep_mounts_apart() -> io::Result<()> {
    sys::unshare(UnshareFlags::NEWNS)?;
    let from_elsewhere = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    Ok(mount_change("/", from_elsewhere)?)
}

/// Whether `image` is there, is of `size`, was let go of properly, and nobody has it.
fn is_fit(image: &Path, size: Bytes) -> Result<bool, VolumeError> {
    if !image.exists() {
        return Ok(false);
    }
    let file = open(image)?;
    lock(&file, image)?;
    let is_size = file_system_size(&file, image).is_ok_and(|found| found == size);
    Ok(is_size && is_clean(&file) && !is_attached(&file, image)?)
}

/// Source: `s_state` in <https://docs.kernel.org/filesystems/ext4/super.html>.
fn is_clean(file: &std::fs::File) -> bool {
    const STATE_AT: u64 = 1024 + 0x3A;
    const CLEAN: u16 = 1;
    let mut state = [0_u8; 2];
    file.read_exact_at(&mut state, STATE_AT).is_ok() && u16::from_le_bytes(state) == CLEAN
}

/// Makes `image`, in place of one that there may be. Who has that one mounted keeps it until they go.
fn make(image: &Path, size: Bytes, inodes: u64) -> Result<(), VolumeError> {
    let failed = |source| VolumeError::Make { image: image.to_owned(), source };
    let fresh = unfinished(image);
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(0o600);
    let file = options.open(&fresh).map_err(failed)?;
    file.set_len(size.0).map_err(failed)?;
    let options = ["-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard"];
    make_ext4(&fresh, inodes, &options)?;
    std::fs::rename(&fresh, image).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SIZE: Bytes = Bytes::mib(16);

    /// `None`, and a word about it, where nothing can be mounted.
    fn mounted(image: &Path, folder: &Path) -> Option<Scratch> {
        match Scratch::mount(image, SIZE, 1024, folder) {
            Ok(scratch) => Some(scratch),
            Err(error) => {
                eprintln!("skipped: {error}: {error:?}");
                None
            }
        }
    }

    #[test]
    fn what_was_let_go_of_properly_stays_and_all_else_is_made_anew() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skipped: only root can mount");
        }
        let data = tempfile::tempdir().unwrap();
        let (image, folder) = (data.path().join("shop.img"), data.path().join("folder"));
        fs::create_dir(&folder).unwrap();
        let Some(first) = mounted(&image, &folder) else { return };
        fs::write(folder.join("kept"), "x").unwrap();
        drop(first);
        assert!(!folder.join("kept").exists());
        // A device goes a moment after its last mount.
        let file = open(&image).unwrap();
        while is_attached(&file, &image).unwrap() {
            std::thread::yield_now();
        }
        let second = mounted(&image, &folder).unwrap();
        assert!(folder.join("kept").exists());
        // As after a power cut: what stands on the disk says that it's in use.
        let copy = data.path().join("cut.img");
        rustix::fs::sync();
        fs::copy(&image, &copy).unwrap();
        drop(second);
        let third = mounted(&copy, &folder).unwrap();
        assert!(!folder.join("kept").exists());
        drop(third);
    }

    #[test]
    fn it_holds_what_was_promised_and_no_more() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skipped: only root can mount");
        }
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let Some(scratch) = mounted(&data.path().join("shop.img"), &folder) else { return };
        let room = scratch.room().unwrap();
        assert!(room.bytes > SIZE.0 / 4 * 3 && room.inodes > 512, "{room:?}");
        let error = fs::write(folder.join("large"), vec![1; 17 << 20]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let left = scratch.room().unwrap();
        // ext4 keeps a little for itself.
        assert!(left.bytes < SIZE.0 / 8, "{left:?}");
    }
}
