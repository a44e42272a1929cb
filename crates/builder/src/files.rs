//! What root does with folders that tenants' programs wrote: count, take over, remove.
//!
//! Every name is looked at without following links, from the descriptor of the folder above it, and
//! no more than [`DEPTH_MAX`] folders within each other are entered.

use std::ffi::CStr;
use std::fs::{DirBuilder, File, FileTimes, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub use ace_sandbox::tree::remove_tree;
use ace_sandbox::tree::{FOLDER, names};
use ace_types::Bytes;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

/// Folders within each other, more than any package has.
const DEPTH_MAX: usize = 100;

/// What a folder takes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub size: Bytes,
    /// Files, folders, links and all else, the folder itself not counted.
    pub entries: u64,
}

/// What `folder` takes on disk. It may change meanwhile.
///
/// Errors: [`io::ErrorKind::InvalidInput`] where folders lie too deep within each other.
pub fn usage(folder: &Path) -> io::Result<Usage> {
    let mut usage = Usage::NONE;
    visit(&open(folder)?, 0, &mut |_, _, stat| {
        usage.add(stat);
        Ok(())
    })?;
    Ok(usage)
}

/// What an unprivileged user could still write to the disk that `folder` is on.
pub fn free_space(folder: &Path) -> io::Result<Bytes> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(Bytes(disk.f_bavail.saturating_mul(disk.f_frsize)))
}

/// Gives `folder` and all in it to the user and group `owner`, and makes it readable by all and
/// writable by its owner alone. Removes what is no file, folder or link.
///
/// No process that may write to it may be left.
/// Errors: as [`usage`], and of the file system.
pub fn hand_over(folder: &Path, owner: u32) -> io::Result<Usage> {
    let (user, group) = (Uid::from_raw(owner), Gid::from_raw(owner));
    let mut usage = Usage::NONE;
    let root = open(folder)?;
    visit(&root, 0, &mut |parent, name, stat| {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if !matches!(kind, FileType::RegularFile | FileType::Directory | FileType::Symlink) {
            return rustix::fs::unlinkat(parent, name, AtFlags::empty());
        }
        usage.add(stat);
        // The owner first: it takes set-user-id bits away, and a mode set before would be the old owner's.
        rustix::fs::chownat(parent, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
        match kind {
            FileType::Symlink => Ok(()),
            kind => set_mode(parent, name, stat, usual_mode(kind, stat)),
        }
    })?;
    rustix::fs::fchown(&root, Some(user), Some(group))?;
    rustix::fs::fchmod(&root, Mode::from_raw_mode(0o755))?;
    Ok(usage)
}

/// Copies `from`, which [`hand_over`] has gone over, to `to`, which is made: files with their modes and
/// times, folders and links. Files of several names become several, and holes become zeros.
///
/// Errors: [`io::ErrorKind::FileTooLarge`] where all files together are longer than `most`; and of the
/// file systems.
pub fn copy_tree(from: &Path, to: &Path, most: Bytes) -> io::Result<()> {
    let mut left = most.0;
    copy_folder(from, to, &mut left)
}

fn copy_folder(from: &Path, to: &Path, left: &mut u64) -> io::Result<()> {
    DirBuilder::new().mode(0o755).create(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_folder(&source, &target, left)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&source)?, &target)?;
        } else {
            copy_file(&source, &target, left)?;
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path, left: &mut u64) -> io::Result<()> {
    let mut source = File::open(from)?;
    let metadata = source.metadata()?;
    *left = left.checked_sub(metadata.len()).ok_or(io::ErrorKind::FileTooLarge)?;
    let mode = metadata.mode() & 0o777;
    let mut target = File::options().write(true).create_new(true).mode(mode).open(to)?;
    io::copy(&mut source, &mut target)?;
    // Byte code knows its source by the time that it was changed.
    target.set_times(FileTimes::new().set_modified(metadata.modified()?))?;
    target.set_permissions(Permissions::from_mode(mode)) // Whatever the umask is.
}

/// What is in `folder`, which may be absent.
pub fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

impl Usage {
    const NONE: Self = Self { size: Bytes(0), entries: 0 };

    fn add(&mut self, stat: &Stat) {
        self.size.0 += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        self.entries += 1;
    }
}

type Visitor<'a> = &'a mut dyn FnMut(&OwnedFd, &CStr, &Stat) -> rustix::io::Result<()>;

/// Calls `visitor` for each entry below `folder`: its folder, its name and what it is. An entry
/// that has gone meanwhile, or has become something else, is left out.
fn visit(folder: &OwnedFd, depth: usize, visitor: Visitor<'_>) -> io::Result<()> {
    if depth > DEPTH_MAX {
        let message = format!("more than {DEPTH_MAX} folders lie within each other");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    for name in names(folder)? {
        let stat = match rustix::fs::statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            stat => stat?,
        };
        visitor(folder, &name, &stat)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            match rustix::fs::openat(folder, &name, FOLDER, Mode::empty()) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                child => visit(&child?, depth + 1, visitor)?,
            }
        }
    }
    Ok(())
}

fn open(folder: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(folder, FOLDER, Mode::empty())?)
}

fn usual_mode(kind: FileType, stat: &Stat) -> u32 {
    let runs = kind == FileType::Directory || stat.st_mode & 0o100 != 0;
    if runs { 0o755 } else { 0o644 }
}

fn set_mode(parent: &OwnedFd, name: &CStr, stat: &Stat, mode: u32) -> rustix::io::Result<()> {
    if stat.st_mode & 0o7777 == mode {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn what_was_handed_over_is_the_owners_and_harmless() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        fs::write(at("sub/tool"), "x").unwrap();
        fs::set_permissions(at("sub/tool"), fs::Permissions::from_mode(0o6711)).unwrap();
        fs::set_permissions(at("sub"), fs::Permissions::from_mode(0o777)).unwrap();
        symlink("/etc/passwd", at("link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), Mode::from_raw_mode(0o666)).unwrap();
        let passwd = fs::metadata("/etc/passwd").unwrap();

        let me = rustix::process::geteuid().as_raw();
        let usage = hand_over(folder.path(), me).unwrap();
        assert_eq!(usage.entries, 3);
        let mode = |name: &str| fs::metadata(at(name)).unwrap().mode() & 0o7777;
        assert_eq!((mode("sub"), mode("sub/tool"), mode("")), (0o755, 0o755, 0o755));
        assert!(!at("pipe").exists());
        assert_eq!(fs::metadata("/etc/passwd").unwrap().mode(), passwd.mode());
        assert_eq!(fs::metadata("/etc/passwd").unwrap().uid(), passwd.uid());
    }

    #[test]
    fn a_copy_is_the_same_but_for_names_that_share_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("sub")).unwrap();
        fs::write(from.join("sub/tool"), "12345").unwrap();
        fs::set_permissions(from.join("sub/tool"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::hard_link(from.join("sub/tool"), from.join("again")).unwrap();
        symlink("/nowhere", from.join("link")).unwrap();
        copy_tree(&from, &to, Bytes(10)).unwrap();
        let metadata = |path: &Path| fs::metadata(path).unwrap();
        let (old, new) = (metadata(&from.join("sub/tool")), metadata(&to.join("sub/tool")));
        assert_eq!((new.mode(), new.mtime()), (old.mode(), old.mtime()));
        assert_eq!(fs::read(to.join("again")).unwrap(), b"12345");
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("/nowhere"));
        // Few blocks with many names must not become many blocks.
        let refused = copy_tree(&from, &folder.path().join("more"), Bytes(9)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn what_changes_meanwhile_does_not_hide_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("kept"), vec![1; 1 << 20]).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Names that are now folders, now links.
                let shifty: Vec<_> = (0..64).map(|n| folder.path().join(n.to_string())).collect();
                while !done.load(Ordering::Relaxed) {
                    for name in &shifty {
                        fs::create_dir(name).unwrap();
                    }
                    for name in &shifty {
                        fs::remove_dir(name).unwrap();
                        symlink("/", name).unwrap();
                    }
                    for name in &shifty {
                        fs::remove_file(name).unwrap();
                    }
                }
            });
            let end = Instant::now() + Duration::from_secs(1);
            let looks = std::iter::repeat_with(|| usage(folder.path()));
            let looks: Vec<_> = looks.take_while(|_| Instant::now() < end).collect();
            done.store(true, Ordering::Relaxed);
            for look in looks {
                assert!(look.unwrap().size >= Bytes::mib(1));
            }
        });
    }

    #[test]
    fn a_file_without_a_name_is_missing_from_the_free_space() {
        let folder = tempfile::tempdir().unwrap();
        let size = 256 << 20;
        let before = free_space(folder.path()).unwrap();
        let file = tempfile::tempfile_in(folder.path()).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size).unwrap();
        let after = free_space(folder.path()).unwrap();
        // Others write to the same disk meanwhile, and remove from it.
        assert!(before.0.saturating_sub(after.0) > size / 2, "{before} before, {after} after");
        assert_eq!(usage(folder.path()).unwrap().size, Bytes(0));
    }

    #[test]
    fn what_lies_too_deep_is_not_counted() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
        let mut inner = open(&root).unwrap();
        for _ in 0..=DEPTH_MAX + 1 {
            rustix::fs::mkdirat(&inner, "d", Mode::from_raw_mode(0o700)).unwrap();
            inner = rustix::fs::openat(&inner, "d", FOLDER, Mode::empty()).unwrap();
        }
        assert!(usage(&root).is_err());
    }
}
