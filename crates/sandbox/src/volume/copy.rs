//! A volume as it is at one moment, in a file of its own, though an app writes to it.
//!
//! The file system stands still for as short as can be: what has been written is copied first while all
//! goes on, then once more what has changed meanwhile. Where the disk can share blocks between files,
//! one call does it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, Mode, OFlags, SeekFrom, fallocate, ioctl_ficlone, openat, seek};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use super::{VolumeError, backing, lock, loop_device, open};
use crate::sys_kernel::{freeze, thaw};

/// The longest that an app may be kept from writing.
const FROZEN_MAX: Duration = Duration::from_secs(20);
/// What is read at once.
const BLOCK: usize = 1 << 20;

/// Copies the volume `image` as it is at one moment to `to`, which is made. Returns for how long
/// nobody could write to the volume.
///
/// Errors: [`VolumeError::Busy`] where that would take longer than [`FROZEN_MAX`].
pub fn copy_image(image: &Path, to: &Path) -> Result<Duration, VolumeError> {
    let failed = |source| VolumeError::Copy { image: image.to_owned(), source };
    let file = open(image)?;
    lock(&file, image)?;
    let copy = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(to);
    let copy = copy.map_err(failed)?;
    let Some((device, held)) = find(&file).map_err(failed)? else {
        // Nobody has it mounted, and nobody will while it's locked.
        clone_or(&file, &copy, || update(&file, &copy, None)).map_err(failed)?;
        return Ok(Duration::ZERO);
    };
    // From here on the device is held open instead, so that instances can start and end meanwhile.
    let again = open(image)?;
    drop(file);
    clone_or(&again, &copy, || update(&again, &copy, None)).map_err(failed)?;
    let mounted = mount(&device).map_err(failed)?;
    drop(held); // The mount holds it now.
    // What an app has still to bring to its disk, at the rate it may, is not to be waited for frozen.
    rustix::fs::syncfs(&mounted).map_err(|error| failed(error.into()))?;
    let start = Instant::now();
    freeze(&mounted).map_err(failed)?;
    let done = clone_or(&again, &copy, || update(&again, &copy, Some(start + FROZEN_MAX)));
    let thawed = thaw(&mounted);
    let paused = start.elapsed();
    match done.and(thawed) {
        Ok(()) => Ok(paused),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            Err(VolumeError::Busy { image: image.to_owned() })
        }
        Err(error) => Err(failed(error)),
    }
}

/// Lets whoever has `image` mounted write again, where an engine was killed while it copied it.
pub fn thaw_image(image: &Path) -> Result<bool, VolumeError> {
    let failed = |source| VolumeError::Copy { image: image.to_owned(), source };
    let file = open(image)?;
    lock(&file, image)?;
    let Some((device, _held)) = find(&file).map_err(failed)? else { return Ok(false) };
    let mounted = mount(&device).map_err(failed)?;
    match thaw(&mounted) {
        Ok(()) => Ok(true),
        // It is not frozen.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

fn find(image: &File) -> io::Result<Option<(std::path::PathBuf, OwnedFd)>> {
    let found = loop_device::find(backing(image)?)?;
    Ok(found.map(|(device, file)| (device, file.into())))
}

/// The file system on `device`, mounted nowhere: it's the same one that containers have, and this way
/// to it goes with the descriptor.
pub fn mount(device: &Path) -> io::Result<OwnedFd> {
    let context = fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", device)?;
    fsconfig_create(&context)?;
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)?;
    // That one only names the place; calls to the file system want it opened.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(&root, ".", flags, Mode::empty())?)
}

/// Lets `copy` have the blocks of `image`; where the disk can't do that, does `otherwise`.
fn clone_or(
    image: &File,
    copy: &File,
    otherwise: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    match ioctl_ficlone(copy, image) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::XDEV) => otherwise(),
        Err(error) => Err(error.into()),
    }
}

/// Makes `copy` the same as `image`, and writes only what differs. Errors: `TimedOut` past `until`.
fn update(image: &File, copy: &File, until: Option<Instant>) -> io::Result<()> {
    let size = image.metadata()?.len();
    copy.set_len(size)?;
    let (mut new, mut old) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut at = 0;
    while at < size {
        if until.is_some_and(|until| Instant::now() >= until) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let start = next_data(image, at, size)?;
        if start > at {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(copy, flags, at, start - at)?;
            at = start;
            continue;
        }
        let end = seek(image, SeekFrom::Hole(at))?.min(size).min(at + BLOCK as u64);
        let length = usize::try_from(end - at).map_err(io::Error::other)?;
        image.read_exact_at(&mut new[..length], at)?;
        copy.read_exact_at(&mut old[..length], at)?;
        if new[..length] != old[..length] {
            copy.write_all_at(&new[..length], at)?;
        }
        at = end;
    }
    Ok(())
}

/// Where the next data of `image` stand, from `at` on; its end where there are none.
pub fn next_data(image: &File, at: u64, size: u64) -> io::Result<u64> {
    match seek(image, SeekFrom::Data(at)) {
        Ok(start) => Ok(start.min(size)),
        Err(Errno::NXIO) => Ok(size),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_pass_takes_over_what_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let open = |name: &str| {
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path(name))
        };
        let (image, copy) = (open("image").unwrap(), open("copy").unwrap());
        image.set_len(8 << 20).unwrap();
        image.write_all_at(&[1; 3 << 20], 0).unwrap();
        update(&image, &copy, None).unwrap();
        image.write_all_at(b"changed", 1 << 20).unwrap();
        image.write_all_at(b"new", 7 << 20).unwrap();
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&image, punch, 2 << 20, 1 << 20).unwrap();
        update(&image, &copy, None).unwrap();
        assert!(std::fs::read(path("image")).unwrap() == std::fs::read(path("copy")).unwrap());
        let late = update(&image, &copy, Some(Instant::now())).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }
}
