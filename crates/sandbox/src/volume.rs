//! Volumes: sparse files with an ext4 inside, shown as loop devices while they are mounted; or, where
//! the operator chooses so, folders that the disk's own quota bounds ([`folder`]).
//!
//! Which of the two a volume is, is decided when it's made, and seen by what is there: the image
//! `shop.img`, or the folder `shop` beside it.
//!
//! An image is made and grown as a file, by the host's own tools, while nobody has it mounted. A
//! loop device detaches itself when its last mount and descriptor are gone, so no kill leaves one
//! behind. One image never has two devices: two of them would ruin it.

mod copy;
mod copy_tree;
pub mod folder;
mod loop_device;
pub mod scratch;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use ace_types::limits::inodes_for;
use ace_types::{Bytes, IdRange};
use rustix::fs::{FlockOperation, flock};

use crate::disk::Device;
use crate::spec::VolumeSource;
use crate::sys_kernel::Backing;
use crate::tool::{Tool, ToolError};

const MKFS: Tool = Tool::new("mkfs.ext4", "e2fsprogs");
const E2FSCK: Tool = Tool::new("e2fsck", "e2fsprogs");
const RESIZE2FS: Tool = Tool::new("resize2fs", "e2fsprogs");

pub use copy::{copy_image, thaw_image};
use folder::NoQuota;

/// Of the file system and of the device: direct I/O wants whole blocks of the disk below.
const BLOCK_SIZE: u32 = 4096;
/// The least that an ext4 with a journal fits into.
pub const SIZE_LEAST: Bytes = Bytes::mib(8);
/// The label of an image that holds what was a folder's.
const OF_FOLDER: &str = "ace-of-folder";
const MAKE_DEADLINE: Duration = Duration::from_secs(60);
/// A check reads all that a tenant stored.
const GROW_DEADLINE: Duration = Duration::from_secs(300);
const LOCK_DEADLINE: Duration = Duration::from_secs(30);
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// What new volumes are made as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Store {
    #[default]
    Image,
    /// A folder that the disk's quota bounds.
    Quota,
}

/// A volume that a container can have.
#[derive(Debug)]
pub enum Volume {
    Image(Attached),
    Folder(PathBuf),
}

/// Where a volume is that a container has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Device(Device),
    Folder(PathBuf),
}

/// An image that has a device.
#[derive(Debug)]
pub struct Attached {
    /// `/dev/loopN`.
    pub device: PathBuf,
    pub number: Device,
    /// The device, open: it stays attached until this is dropped and nothing has it mounted.
    pub file: OwnedFd,
}

/// Why a volume could not be had.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("could not open {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{} was locked for {} s", path.display(), LOCK_DEADLINE.as_secs())]
    Locked { path: PathBuf },
    #[error("a volume has at least {SIZE_LEAST}; {asked} was asked for")]
    Small { asked: Bytes },
    #[error("{} has {has} and can't shrink to {asked}", image.display())]
    Shrink { image: PathBuf, has: Bytes, asked: Bytes },
    #[error("could not make the volume {}", image.display())]
    Make { image: PathBuf, source: io::Error },
    #[error("could not make a file system in {}", image.display())]
    Format { image: PathBuf, source: ToolError },
    #[error("{} holds no ext4", image.display())]
    NotExt4 { image: PathBuf },
    #[error("could not grow {}", image.display())]
    Grow { image: PathBuf, source: ToolError },
    #[error("could not attach {} to a loop device", image.display())]
    Attach { image: PathBuf, source: io::Error },
    #[error("could not copy {}", image.display())]
    Copy { image: PathBuf, source: io::Error },
    #[error(
        "{} is written to faster than it can be copied; stop the app for as long as that takes",
        image.display()
    )]
    Busy { image: PathBuf },
    #[error("could not remove {}", image.display())]
    Remove { image: PathBuf, source: io::Error },
    #[error("{} can't be a volume", folder.display())]
    NoQuota { folder: PathBuf, source: NoQuota },
    #[error("could not bound {}", folder.display())]
    Bound { folder: PathBuf, source: io::Error },
}

impl Volume {
    pub fn source(&self) -> VolumeSource {
        match self {
            Self::Image(attached) => VolumeSource::Device(attached.device.clone()),
            Self::Folder(folder) => VolumeSource::Folder(folder.clone()),
        }
    }

    pub fn place(&self) -> Place {
        match self {
            Self::Image(attached) => Place::Device(attached.number),
            Self::Folder(folder) => Place::Folder(folder.clone()),
        }
    }
}

impl Place {
    pub fn device(&self) -> Option<Device> {
        match self {
            Self::Device(device) => Some(*device),
            Self::Folder(_) => None,
        }
    }

    /// The folder, of a volume that is one.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Device(_) => None,
            Self::Folder(folder) => Some(folder),
        }
    }
}

impl FromStr for Store {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "image" => Ok(Self::Image),
            "quota" => Ok(Self::Quota),
            _ => Err("write \"image\" or \"quota\""),
        }
    }
}

/// Makes sure that there is a volume at `image`, or the folder beside it, as [`ensure_image`] and
/// [`folder::ensure_folder`] do, and attaches it; `store` says what a new one becomes.
pub fn ensure(
    image: &Path,
    size: Bytes,
    owner: IdRange,
    store: Store,
) -> Result<Volume, VolumeError> {
    let folder = folder_of(image);
    let is_folder = !image.exists() && (folder.exists() || store == Store::Quota);
    if is_folder {
        folder::ensure_folder(&folder, size, owner)?;
        return Ok(Volume::Folder(folder));
    }
    ensure_image(image, size, owner)?;
    attach(image).map(Volume::Image)
}

/// Where the volume at `image`, or the folder beside it, is; `None` where nothing shows it, or there is none.
pub fn find(image: &Path) -> Result<Option<Place>, VolumeError> {
    let folder = folder_of(image);
    if !image.exists() && folder.exists() {
        return Ok(Some(Place::Folder(folder)));
    }
    Ok(device_of(image)?.map(Place::Device))
}

/// Copies the volume at `image`, or the folder beside it, to the image `to`, which is made. Returns for how
/// long nobody could write to it.
///
/// A folder becomes an image in which all of it has room. On Btrfs it's copied as it is at one moment; on other disks
/// file by file, while the app goes on.
pub fn copy(image: &Path, to: &Path) -> Result<Duration, VolumeError> {
    let folder = folder_of(image);
    match !image.exists() && folder.exists() {
        true => copy_tree::copy_folder(&folder, to).map(|()| Duration::ZERO),
        false => copy_image(image, to),
    }
}

/// Removes the volume at `image`, and the folder beside it, for good. No error where there is none.
pub fn remove(image: &Path) -> Result<(), VolumeError> {
    remove_image(image)?;
    folder::remove_folder(&folder_of(image))
}

/// The folder that is a volume instead of `image`: without `.img`.
fn folder_of(image: &Path) -> PathBuf {
    image.with_extension("")
}

/// Makes sure that `image` is a volume of `size`, whose root the tenant with the ids `owner` owns.
/// May be called twice.
///
/// An image that is smaller grows, but not while it is attached: then it keeps its size, and grows
/// at the first call that finds it free. Errors: [`VolumeError::Shrink`] where it is larger, unless it was
/// copied from a folder, for which ext4 takes more room.
pub fn ensure_image(image: &Path, size: Bytes, owner: IdRange) -> Result<(), VolumeError> {
    if size < SIZE_LEAST {
        return Err(VolumeError::Small { asked: size });
    }
    let size = rounded(size);
    if !image.exists() {
        make(image, size, owner)?;
    }
    let file = open(image)?;
    lock(&file, image)?;
    let has = file_system_size(&file, image)?;
    if has > size {
        if is_of_folder(&file) {
            return Ok(());
        }
        return Err(VolumeError::Shrink { image: image.to_owned(), has, asked: size });
    }
    if has == size || is_attached(&file, image)? {
        return Ok(());
    }
    grow(&file, image, size)
}

/// Attaches `image` to a loop device, or finds the one it has.
pub fn attach(image: &Path) -> Result<Attached, VolumeError> {
    // Locked until the device is found or made: two calls can't make two.
    let locked = open(image)?;
    lock(&locked, image)?;
    let failed = |source| VolumeError::Attach { image: image.to_owned(), source };
    let found = loop_device::find(backing(&locked).map_err(failed)?).map_err(failed)?;
    let (device, opened) = match found {
        Some(found) => found,
        // Opened once more: the device keeps what it is given, and would keep the lock with it.
        None => loop_device::configure(&open(image)?, BLOCK_SIZE).map_err(failed)?,
    };
    let number = Device::from_number(opened.metadata().map_err(failed)?.rdev());
    Ok(Attached { device, number, file: opened.into() })
}

/// The number of the device that shows `image` now; `None` where none does, or there is no image.
pub fn device_of(image: &Path) -> Result<Option<Device>, VolumeError> {
    let failed = |source| VolumeError::Attach { image: image.to_owned(), source };
    if !image.exists() {
        return Ok(None);
    }
    let found = backing(&open(image)?).and_then(loop_device::find).map_err(failed)?;
    found.map(|(device, _)| Device::at(&device).map_err(failed)).transpose()
}

/// Removes an image for good. No error where there is none. What has it mounted keeps it until it
/// goes itself.
pub fn remove_image(image: &Path) -> Result<(), VolumeError> {
    for path in [unfinished(image), image.to_owned()] {
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(VolumeError::Remove { image: path, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes an image under another name and renames it when it is whole.
fn make(image: &Path, size: Bytes, owner: IdRange) -> Result<(), VolumeError> {
    let failed = |source| VolumeError::Make { image: image.to_owned(), source };
    let fresh = unfinished(image);
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let file = options.open(&fresh).map_err(failed)?;
    lock(&file, &fresh)?;
    if image.exists() {
        return Ok(()); // Another call made it while this one waited.
    }
    // What a cut short call left is no use.
    file.set_len(0).and_then(|()| file.set_len(size.0)).map_err(failed)?;
    format(&fresh, inodes_for(size), owner.host_id(IdRange::APP), "")?;
    file.sync_all().and_then(|()| fs::rename(&fresh, image)).map_err(failed)?;
    sync_folder_of(image).map_err(failed)
}

/// Makes an ext4 whose topmost folder is the user `owner`'s, named `label`.
fn format(image: &Path, inodes: u64, owner: u32, label: &str) -> Result<(), VolumeError> {
    let extended =
        format!("root_owner={owner}:{owner},lazy_itable_init=1,lazy_journal_init=1,nodiscard");
    make_ext4(image, inodes, &["-L", label, "-E", &extended])
}

/// Makes an ext4 with `options` of mkfs.ext4's.
fn make_ext4(image: &Path, inodes: u64, options: &[&str]) -> Result<(), VolumeError> {
    let (block_size, inodes) = (BLOCK_SIZE.to_string(), inodes.to_string());
    let path = image.to_string_lossy();
    // No blocks are kept for root: the tenant has all that was promised.
    let common = ["-q", "-F", "-b", &block_size, "-m", "0", "-N", &inodes];
    let arguments = [&common[..], options, &[&path]].concat();
    MKFS.run(&arguments, &[], MAKE_DEADLINE)
        .map(drop)
        .map_err(|source| VolumeError::Format { image: image.to_owned(), source })
}

/// Grows the file and then what is in it. Cut short, the next call sees a file system smaller than
/// its size and does it again.
fn grow(file: &File, image: &Path, size: Bytes) -> Result<(), VolumeError> {
    let failed = |source| VolumeError::Grow { image: image.to_owned(), source };
    file.set_len(size.0).map_err(|source| VolumeError::Make { image: image.to_owned(), source })?;
    let path = image.to_string_lossy();
    // 1 says that what was wrong has been put right. Source: e2fsck(8).
    let clean = |status: std::process::ExitStatus| matches!(status.code(), Some(0 | 1));
    E2FSCK.run_allowing(&["-f", "-p", &path], &[], GROW_DEADLINE, clean).map_err(failed)?;
    RESIZE2FS.run(&[&path], &[], GROW_DEADLINE).map_err(failed)?;
    file.sync_all().map_err(|source| VolumeError::Make { image: image.to_owned(), source })
}

/// The size of the ext4 in `file`, by its superblock.
///
/// Source: <https://docs.kernel.org/filesystems/ext4/super.html>.
fn file_system_size(file: &File, image: &Path) -> Result<Bytes, VolumeError> {
    const AT: u64 = 1024;
    const MAGIC: [u8; 2] = 0xEF53_u16.to_le_bytes();
    let mut superblock = [0_u8; 1024];
    file.read_exact_at(&mut superblock, AT)
        .map_err(|source| VolumeError::Open { path: image.to_owned(), source })?;
    let number = |at: usize| superblock[at..].first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
    let block_size_log = number(0x18);
    if superblock[0x38..0x3A] != MAGIC || block_size_log > 6 {
        return Err(VolumeError::NotExt4 { image: image.to_owned() });
    }
    let blocks = u64::from(number(0x150)) << 32 | u64::from(number(0x4));
    Ok(Bytes(blocks << (10 + block_size_log)))
}

/// Whether the ext4 in `file` was made for what a folder held.
///
/// Source: `s_volume_name` in <https://docs.kernel.org/filesystems/ext4/super.html>.
fn is_of_folder(file: &File) -> bool {
    const AT: u64 = 1024 + 0x78;
    let mut label = [0; 16];
    let read = file.read_exact_at(&mut label, AT);
    read.is_ok() && label.split(|byte| *byte == 0).next() == Some(OF_FOLDER.as_bytes())
}

fn is_attached(file: &File, image: &Path) -> Result<bool, VolumeError> {
    let found = backing(file).and_then(loop_device::find);
    found
        .map(|device| device.is_some())
        .map_err(|source| VolumeError::Attach { image: image.to_owned(), source })
}

fn backing(file: &File) -> io::Result<Backing> {
    let metadata = file.metadata()?;
    Ok(Backing { device: metadata.dev(), inode: metadata.ino() })
}

fn open(image: &Path) -> Result<File, VolumeError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW);
    options.open(image).map_err(|source| VolumeError::Open { path: image.to_owned(), source })
}

/// Locks `file`, at `path`, until it is dropped.
fn lock(file: &File, path: &Path) -> Result<(), VolumeError> {
    let until = Instant::now() + LOCK_DEADLINE;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => {
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(VolumeError::Locked { path: path.to_owned() });
            }
            Err(error) => {
                return Err(VolumeError::Open { path: path.to_owned(), source: error.into() });
            }
        }
    }
}

/// `size` in whole blocks.
fn rounded(size: Bytes) -> Bytes {
    Bytes(size.0.next_multiple_of(u64::from(BLOCK_SIZE)))
}

fn unfinished(image: &Path) -> PathBuf {
    let mut name = image.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn sync_folder_of(file: &Path) -> io::Result<()> {
    File::open(file.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Bytes = Bytes::mib(64);

    fn owner() -> IdRange {
        IdRange::new(7).unwrap()
    }

    /// Whether this machine has what the test needs; it says so where not.
    fn has_tools() -> bool {
        let missing = [MKFS, E2FSCK, RESIZE2FS].iter().find_map(|tool| tool.path().err());
        missing.inspect(|error| eprintln!("skipped: {error}")).is_none()
    }

    fn size_of_image(image: &Path) -> Bytes {
        file_system_size(&open(image).unwrap(), image).unwrap()
    }

    #[test]
    fn an_image_is_sparse_private_and_of_its_size() {
        if !has_tools() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("shop.img");
        ensure_image(&image, SIZE, owner()).unwrap();
        let metadata = image.metadata().unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o600);
        assert!(metadata.blocks() * 512 < SIZE.0 / 4, "{} blocks", metadata.blocks());
        assert_eq!(size_of_image(&image), SIZE);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_root_of_an_image_is_the_tenants() {
        if !has_tools() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("shop.img");
        ensure_image(&image, SIZE, owner()).unwrap();
        let arguments = ["-R", "stat <2>", &image.to_string_lossy()];
        let shown = Tool::new("debugfs", "e2fsprogs").run(&arguments, &[], MAKE_DEADLINE).unwrap();
        let shown = String::from_utf8_lossy(&shown).into_owned();
        assert!(shown.contains(&format!("User: {}", owner().host_id(IdRange::APP))), "{shown}");
    }

    #[test]
    fn an_image_grows_and_never_shrinks() {
        if !has_tools() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("shop.img");
        ensure_image(&image, SIZE, owner()).unwrap();
        ensure_image(&image, Bytes::mib(96), owner()).unwrap();
        assert_eq!(size_of_image(&image), Bytes::mib(96));
        let refused = ensure_image(&image, SIZE, owner());
        assert!(matches!(refused, Err(VolumeError::Shrink { .. })), "{refused:?}");
    }

    #[test]
    fn growing_that_was_cut_short_is_done_again() {
        if !has_tools() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("shop.img");
        ensure_image(&image, SIZE, owner()).unwrap();
        open(&image).unwrap().set_len(Bytes::mib(96).0).unwrap();
        ensure_image(&image, Bytes::mib(96), owner()).unwrap();
        assert_eq!(size_of_image(&image), Bytes::mib(96));
    }

    #[test]
    fn what_a_kill_left_unfinished_is_made_anew() {
        if !has_tools() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("shop.img");
        fs::write(unfinished(&image), vec![0xAB; 1 << 20]).unwrap();
        ensure_image(&image, SIZE, owner()).unwrap();
        assert_eq!(size_of_image(&image), SIZE);
        assert!(!unfinished(&image).exists());
    }

    #[test]
    fn what_is_no_volume_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("shop.img");
        fs::write(&image, vec![0; 1 << 20]).unwrap();
        let refused = ensure_image(&image, SIZE, owner());
        assert!(matches!(refused, Err(VolumeError::NotExt4 { .. })), "{refused:?}");
        assert!(matches!(
            ensure_image(&image, Bytes::mib(1), owner()),
            Err(VolumeError::Small { .. })
        ));
    }

    #[test]
    fn removing_an_image_twice_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("shop.img");
        fs::write(&image, "").unwrap();
        remove_image(&image).unwrap();
        remove_image(&image).unwrap();
        assert!(!image.exists());
    }
}
