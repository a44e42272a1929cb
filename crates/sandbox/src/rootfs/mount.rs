//! A tree of mounts in the making, and the safe way to a path in it.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, mkdirat, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind, mount_remount,
    move_mount, open_tree, unmount,
};

const FOLDER_MODE: Mode = Mode::from_raw_mode(0o755);
const FILE_MODE: Mode = Mode::from_raw_mode(0o644);

/// The new root: a tmpfs, with other mounts in it.
///
/// Paths are absolute, as they will be inside. Whatever is missing on the way to one is made, in
/// this tmpfs only; a link on the way is an error (`ELOOP` or `ENOTDIR`).
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    /// The tmpfs's device number, which tells it from what is mounted in it.
    device: u64,
}

/// What a mount's target has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Folder,
    File,
}

impl Tree {
    /// Mounts a tmpfs at `staging`, a folder of the host.
    pub fn create(staging: &Path, options: &str) -> io::Result<Self> {
        let options = CString::new(options)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("tmpfs", staging, "tmpfs", flags, options.as_c_str())?;
        let root = open_path(CWD, staging.as_os_str(), OFlags::DIRECTORY)?;
        let device = fstat(&root)?.st_dev;
        Ok(Self { root, device })
    }

    /// Shows `source` of the host, a file or a folder without what is mounted in it, at `target`.
    ///
    /// A link as the source is followed: the host's administrator made it.
    pub fn bind(&self, source: &Path, target: &Path, flags: MountFlags) -> io::Result<()> {
        let source = openat(CWD, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        self.bind_opened(&source, target, flags)
    }

    /// As [`Self::bind`], but a link as the source is an error (`ELOOP`): a tenant's program may
    /// have put it there.
    pub fn bind_no_link(&self, source: &Path, target: &Path, flags: MountFlags) -> io::Result<()> {
        let source = open_path(CWD, source.as_os_str(), OFlags::empty())?;
        if FileType::from_raw_mode(fstat(&source)?.st_mode) == FileType::Symlink {
            return Err(Errno::LOOP.into());
        }
        self.bind_opened(&source, target, flags)
    }

    fn bind_opened(&self, source: &OwnedFd, target: &Path, flags: MountFlags) -> io::Result<()> {
        let kind = match FileType::from_raw_mode(fstat(source)?.st_mode) {
            FileType::Directory => Kind::Folder,
            _ => Kind::File,
        };
        let under = self.make(target, kind)?;
        mount_bind(path_of(source), path_of(&under))?;
        // A bind takes its flags in a second step. The descriptor still leads below it.
        let mounted = self.open(target)?;
        Ok(mount_remount(path_of(&mounted), MountFlags::BIND | flags, "")?)
    }

    /// Attaches a mount that is attached nowhere.
    pub fn attach(&self, mount: &OwnedFd, target: &Path) -> io::Result<()> {
        let under = self.make(target, Kind::Folder)?;
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        Ok(move_mount(mount, "", &under, "", flags)?)
    }

    /// Takes the topmost mount at `target` out of the tree. Who has it open has it still.
    pub fn detach(&self, target: &Path) -> io::Result<()> {
        Ok(unmount(path_of(&self.open(target)?), UnmountFlags::DETACH)?)
    }

    /// Mounts a new file system without a device.
    pub fn mount_new(
        &self,
        file_system: &str,
        target: &Path,
        flags: MountFlags,
        options: &str,
    ) -> io::Result<()> {
        let options = CString::new(options)?;
        let under = self.make(target, Kind::Folder)?;
        Ok(mount(file_system, path_of(&under), file_system, flags, options.as_c_str())?)
    }

    /// Mounts the file system on a block device of the host.
    pub fn mount_device(
        &self,
        device: &Path,
        file_system: &str,
        target: &Path,
        flags: MountFlags,
    ) -> io::Result<()> {
        let under = self.make(target, Kind::Folder)?;
        Ok(mount(device, path_of(&under), file_system, flags, None)?)
    }

    /// Writes a new file, readable by all.
    pub fn write(&self, path: &Path, content: &str) -> io::Result<()> {
        let (parent, name) = self.make_parent(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(&parent, name, flags, FILE_MODE)?;
        io::Write::write_all(&mut std::fs::File::from(file), content.as_bytes())
    }

    /// Makes a symbolic link to `to`.
    pub fn link(&self, path: &Path, to: &Path) -> io::Result<()> {
        let (parent, name) = self.make_parent(path)?;
        Ok(symlinkat(to, &parent, name)?)
    }

    /// Opens a folder for use, in the topmost mount there.
    pub fn open_folder(&self, path: &Path) -> io::Result<OwnedFd> {
        let found = self.open(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(openat(&found, ".", flags, Mode::empty())?)
    }

    /// Makes the tmpfs itself read-only.
    pub fn seal(&self) -> io::Result<()> {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::RDONLY;
        Ok(mount_remount(path_of(&self.root), MountFlags::BIND | flags, "")?)
    }

    /// What is at `path`, in the topmost mount there.
    fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        let mut at = self.root.try_clone()?;
        for name in names(path)? {
            at = open_path(&at, name, OFlags::empty())?;
        }
        Ok(at)
    }

    /// What is at `path`, made if it is missing.
    fn make(&self, path: &Path, kind: Kind) -> io::Result<OwnedFd> {
        let (parent, name) = self.make_parent(path)?;
        match kind {
            Kind::Folder => self.make_folder(&parent, name),
            Kind::File => self.make_file(&parent, name),
        }
    }

    /// The folder that `path` is in, made if it is missing, and the last name of `path`.
    fn make_parent<'a>(&self, path: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
        let mut names = names(path)?;
        let last = names.pop().ok_or(Errno::INVAL)?;
        let mut at = self.root.try_clone()?;
        for name in names {
            at = self.make_folder(&at, name)?;
        }
        Ok((at, last))
    }

    fn make_folder(&self, parent: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
        match open_path(parent, name, OFlags::DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.check_ours(parent)?;
                mkdirat(parent, name, FOLDER_MODE)?;
                open_path(parent, name, OFlags::DIRECTORY)
            }
            result => result,
        }
    }

    fn make_file(&self, parent: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
        match open_path(parent, name, OFlags::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.check_ours(parent)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                openat(parent, name, flags, FILE_MODE)?;
                open_path(parent, name, OFlags::empty())
            }
            result => result,
        }
    }

    /// Refuses to make anything in what is mounted in the tree: it is the host's, or a tenant's.
    fn check_ours(&self, parent: &OwnedFd) -> io::Result<()> {
        if fstat(parent)?.st_dev == self.device { Ok(()) } else { Err(Errno::XDEV.into()) }
    }
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// The names in an absolute path. Errors: `EINVAL` where it is not one, or has `.` or `..` in it.
fn names(path: &Path) -> io::Result<Vec<&OsStr>> {
    let mut components = path.components();
    if components.next() != Some(Component::RootDir) {
        return Err(Errno::INVAL.into());
    }
    components
        .map(|component| match component {
            Component::Normal(name) => Ok(name),
            _ => Err(Errno::INVAL.into()),
        })
        .collect()
}

fn open_path(parent: impl AsFd, name: &OsStr, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

/// A mount of the folder `source` of the host, without what is mounted in it, that is attached
/// nowhere. A link as the source is an error (`ENOTDIR`).
pub fn detached(source: &Path) -> io::Result<OwnedFd> {
    let source = open_path(CWD, source.as_os_str(), OFlags::DIRECTORY)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(&source, "", flags)?)
}

/// A path that leads to exactly what `fd` is open on.
pub fn path_of(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_plain_paths_have_names() {
        assert_eq!(names(Path::new("/a/b")).unwrap(), ["a", "b"]);
        assert!(names(Path::new("/")).unwrap().is_empty());
        for bad in ["", "a", "./a", "/a/../b"] {
            assert!(names(Path::new(bad)).is_err(), "{bad:?}");
        }
    }
}
