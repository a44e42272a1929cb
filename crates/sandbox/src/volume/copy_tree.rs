//! A volume that is a folder, in an image of its own: what a backup takes.
//!
//! Its tenant writes to the folder meanwhile, and may be hostile: each name is opened from the folder above it, and
//! no link is followed. On Btrfs what is copied is a snapshot, which nobody writes to.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ace_types::Bytes;
use ace_types::limits::inodes_for;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
    chownat, fchmod, fchown, fgetxattr, flistxattr, fsetxattr, fstat, futimens, linkat, mkdirat,
    mkfifoat, open, openat, readlinkat, seek, statat, symlinkat, syncfs, utimensat,
};
use rustix::io::Errno;

use super::copy::{mount, next_data};
use super::folder::{is_subvolume, place, remove_folder, space_of_folder};
use super::{OF_FOLDER, VolumeError, attach, format, rounded};
use crate::sys_quota::make_snapshot;
use crate::tree::{FOLDER, names};

/// Folders within each other that are copied. What lies deeper is left out: two descriptors are open for each.
const DEPTH_MAX: usize = 200;
const BLOCK: u64 = 4096;
const BUFFER: usize = 1 << 20;
/// Of the names of attributes together, and of a value. Source: `XATTR_SIZE_MAX` in `linux/limits.h`.
const ATTRIBUTES_MAX: usize = 64 << 10;

/// What a folder's content needs in an ext4.
#[derive(Debug, Default)]
struct Need {
    bytes: u64,
    inodes: u64,
}

/// Copies the volume `folder` to the image `to`, which is made.
pub fn copy_folder(folder: &Path, to: &Path) -> Result<(), VolumeError> {
    let failed = |source| VolumeError::Copy { image: folder.to_owned(), source };
    let opened = open(folder, FOLDER, Mode::empty()).map_err(|error| failed(error.into()))?;
    if !is_subvolume(&opened).map_err(failed)? {
        return copy_opened(folder, &opened, to);
    }
    let snapshot = folder.with_extension("snapshot");
    remove_folder(&snapshot)?; // Of a copy that was cut short.
    let (parent, name) = place(&snapshot)?;
    let parent = open(parent, FOLDER, Mode::empty()).map_err(|error| failed(error.into()))?;
    make_snapshot(&opened, &parent, &name).map_err(failed)?;
    let still = openat(&parent, &name, FOLDER, Mode::empty());
    let still = still.map_err(|error| failed(error.into()))?;
    let copied = copy_opened(folder, &still, to);
    drop(still);
    copied.and(remove_folder(&snapshot))
}

fn copy_opened(folder: &Path, from: &OwnedFd, to: &Path) -> Result<(), VolumeError> {
    let failed = |source| VolumeError::Copy { image: folder.to_owned(), source };
    let mut need = Need::default();
    need.add_content(from, 0).map_err(failed)?;
    let size = Bytes(space_of_folder(folder).map_err(failed)?.size_bytes);
    make_image(to, &need, size).map_err(failed)?;
    let root = fstat(from).map_err(|error| failed(error.into()))?;
    format(to, need.inodes_at(size), root.st_uid, OF_FOLDER)?;
    let attached = attach(to)?;
    let mounted = mount(&attached.device).map_err(failed)?;
    let mut copying = Copying { root: &mounted, linked: HashMap::new() };
    copying.content(from, &mounted, &mut PathBuf::new()).map_err(failed)?;
    keep_attributes(from, &mounted, &root).map_err(failed)?;
    syncfs(&mounted).map_err(|error| failed(error.into()))
}

/// Makes the file of an image with room for `need`, and for as much as the volume of `size` can hold.
fn make_image(to: &Path, need: &Need, size: Bytes) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let content = need.bytes.max(size.0);
    // What ext4 takes for its inodes, journal and maps.
    let inodes = need.inodes_at(size).saturating_mul(256);
    file.set_len(rounded(Bytes(content + content / 16 + inodes + (64 << 20))).0)
}

impl Need {
    /// With room for what is made meanwhile, and later.
    fn inodes_at(&self, size: Bytes) -> u64 {
        (self.inodes + self.inodes / 8 + 1024).max(inodes_for(size))
    }

    fn add_content(&mut self, folder: &OwnedFd, depth: usize) -> io::Result<()> {
        for name in names(folder)? {
            let Some(stat) = found(statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW))? else {
                continue;
            };
            let taken = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
            self.bytes += taken.next_multiple_of(BLOCK) + BLOCK;
            self.inodes += 1;
            let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if is_folder
                && depth < DEPTH_MAX
                && let Some(child) = found(openat(folder, &name, FOLDER, Mode::empty()))?
            {
                self.add_content(&child, depth + 1)?;
            }
        }
        Ok(())
    }
}

/// A copy under way.
struct Copying<'a> {
    root: &'a OwnedFd,
    /// Where files of several names stand below the root, by their inodes in the original.
    linked: HashMap<u64, PathBuf>,
}

impl Copying<'_> {
    /// Copies what is in `from` to `to`, which is at `path` below the root.
    fn content(&mut self, from: &OwnedFd, to: &OwnedFd, path: &mut PathBuf) -> io::Result<()> {
        for name in names(from)? {
            let Some(stat) = found(statat(from, &name, AtFlags::SYMLINK_NOFOLLOW))? else {
                continue;
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => self.folder(from, to, &name, path)?,
                FileType::RegularFile => self.file(from, to, &name, path)?,
                FileType::Symlink => copy_link(from, to, &name, &stat)?,
                FileType::Fifo => copy_fifo(to, &name, &stat)?,
                // A socket is nothing without the process that has it.
                _ => {}
            }
        }
        Ok(())
    }

    fn folder(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &CStr,
        path: &mut PathBuf,
    ) -> io::Result<()> {
        let Some(source) = found(openat(from, name, FOLDER, Mode::empty()))? else {
            return Ok(());
        };
        if path.components().count() >= DEPTH_MAX {
            tracing::warn!("folders more than {DEPTH_MAX} deep in a volume are not in its copy");
            return Ok(());
        }
        let stat = fstat(&source)?;
        mkdirat(to, name, Mode::RWXU)?;
        let target = openat(to, name, FOLDER, Mode::empty())?;
        path.push(OsStr::from_bytes(name.to_bytes()));
        self.content(&source, &target, path)?;
        path.pop();
        keep_attributes(&source, &target, &stat)
    }

    fn file(&mut self, from: &OwnedFd, to: &OwnedFd, name: &CStr, path: &Path) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Some(source) = found(openat(from, name, flags, Mode::empty()))? else {
            return Ok(());
        };
        let stat = fstat(&source)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(()); // It has become something else.
        }
        let first = self.linked.get(&stat.st_ino);
        // A path may be longer than a call takes: then there are two files.
        if first.is_some_and(|first| linkat(self.root, first, to, name, AtFlags::empty()).is_ok()) {
            return Ok(());
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let target = openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
        let (source, target) = (File::from(source), File::from(target));
        copy_data(&source, &target)?;
        if stat.st_nlink > 1 {
            self.linked.insert(stat.st_ino, path.join(OsStr::from_bytes(name.to_bytes())));
        }
        keep_attributes(&source.into(), &target.into(), &stat)
    }
}

/// Copies what is in a file, and leaves its holes.
fn copy_data(from: &File, to: &File) -> io::Result<()> {
    let size = from.metadata()?.len();
    let mut buffer = vec![0; BUFFER];
    let mut at = next_data(from, 0, size)?;
    while at < size {
        let end = seek(from, SeekFrom::Hole(at))?.min(size).min(at + BUFFER as u64);
        let length = usize::try_from(end - at).map_err(io::Error::other)?;
        // It may have become shorter.
        let read = from.read_at(&mut buffer[..length], at)?;
        if read == 0 {
            break;
        }
        to.write_all_at(&buffer[..read], at)?;
        at = next_data(from, at + read as u64, size)?;
    }
    to.set_len(size)
}

fn copy_link(from: &OwnedFd, to: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
    let Some(target) = found(readlinkat(from, name, Vec::new()))? else { return Ok(()) };
    symlinkat(&target, to, name)?;
    keep_of_name(to, name, stat)
}

fn copy_fifo(to: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
    mkfifoat(to, name, Mode::from_raw_mode(stat.st_mode & 0o777))?;
    keep_of_name(to, name, stat)
}

/// Gives what `name` is the owner and times of the original.
fn keep_of_name(to: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
    let (user, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(to, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Gives `to` the owner, mode, attributes and times of the original.
fn keep_attributes(from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> io::Result<()> {
    // The owner first: it takes set-user-id bits away.
    fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    copy_extended(from, to)?;
    Ok(futimens(to, &times(stat))?)
}

/// Copies attributes of the kind that any user may set. What can't be had is left out.
fn copy_extended(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let (mut list, mut value) = (vec![0_u8; ATTRIBUTES_MAX], Vec::new());
    let length = flistxattr(from, &mut list).unwrap_or(0);
    if length > 0 {
        value.resize(ATTRIBUTES_MAX, 0);
    }
    for name in list[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        if !name.to_bytes().starts_with(b"user.") {
            continue;
        }
        let Ok(length) = fgetxattr(from, name, &mut value) else { continue };
        // ext4 takes fewer than other file systems.
        match fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOSPC | Errno::RANGE | Errno::TOOBIG) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn times(stat: &Stat) -> Timestamps {
    let at = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Timestamps {
        last_access: at(stat.st_atime, stat.st_atime_nsec as i64),
        last_modification: at(stat.st_mtime, stat.st_mtime_nsec as i64),
    }
}

/// `None` where what was asked for has gone meanwhile, or has become something else.
fn found<T>(result: rustix::io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::INVAL | Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_copy_is_the_same_and_leads_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("a/b/one"), "1").unwrap();
        fs::set_permissions(from.join("a/b/one"), fs::Permissions::from_mode(0o751)).unwrap();
        fs::hard_link(from.join("a/b/one"), from.join("two")).unwrap();
        symlink("/etc", from.join("link")).unwrap();
        let sparse = File::create(from.join("sparse")).unwrap();
        sparse.write_all_at(b"end", 64 << 20).unwrap();
        let opened = |path: &Path| open(path, FOLDER, Mode::empty()).unwrap();
        let (source, root) = (opened(&from), opened(&to));
        let mut copying = Copying { root: &root, linked: HashMap::new() };
        copying.content(&source, &root, &mut PathBuf::new()).unwrap();
        let one = fs::metadata(to.join("a/b/one")).unwrap();
        assert_eq!((one.mode() & 0o7777, one.nlink()), (0o751, 2));
        assert_eq!(one.mtime(), fs::metadata(from.join("two")).unwrap().mtime());
        assert_eq!(fs::read(to.join("two")).unwrap(), b"1");
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("/etc"));
        let sparse = fs::metadata(to.join("sparse")).unwrap();
        assert_eq!(sparse.len(), (64 << 20) + 3);
        assert!(sparse.blocks() < 1024, "{} blocks", sparse.blocks());
    }
}
