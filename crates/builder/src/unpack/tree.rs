//! Writes files below one folder, and never anywhere else.
//!
//! Every name is opened on its own, from the descriptor of the folder above it, and no link is
//! followed on the way. So an archive that first makes a link and then writes through it is refused.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::path::{RelativePath, unfit};
use super::{Bounds, UnpackError};

/// The first day of 1980: before it, zip files and some Python tools fail.
const OLDEST: u64 = 315_532_800;
const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const NEW_FILE: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A folder that is being filled.
pub struct Tree {
    root: OwnedFd,
    now: u64,
    entries: u64,
    content_left: u64,
    bounds: Bounds,
    links: Vec<RelativePath>,
}

/// A file to be written.
pub struct NewFile<'a, R> {
    pub path: &'a RelativePath,
    pub executable: bool,
    /// Seconds since 1970.
    pub modified: u64,
    pub content: R,
}

impl Tree {
    /// `folder` exists and is empty. No more than `bounds` is put in it.
    pub fn open(folder: &Path, bounds: Bounds) -> Result<Self, UnpackError> {
        let root = rustix::fs::open(folder, FOLDER, Mode::empty())
            .map_err(|errno| write_error(folder.as_os_str().as_bytes(), errno))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(OLDEST, |age| age.as_secs());
        Ok(Self {
            root,
            now,
            entries: 0,
            content_left: bounds.content.0,
            bounds,
            links: Vec::new(),
        })
    }

    pub fn root(&self) -> &OwnedFd {
        &self.root
    }

    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Makes a folder, unless it is there.
    pub fn folder(&mut self, path: &RelativePath) -> Result<(), UnpackError> {
        let parent = self.parent(path)?;
        self.enter(&parent, path.name(), path).map(drop)
    }

    /// Writes a file, in place of an earlier file or link of that name.
    pub fn file<R: Read>(&mut self, mut new: NewFile<'_, R>) -> Result<(), UnpackError> {
        let parent = self.make_room(new.path)?;
        // Execution is all that is kept of an archive's permissions.
        let mode = Mode::from_raw_mode(if new.executable { 0o755 } else { 0o644 });
        let fd = rustix::fs::openat(&parent, new.path.name(), NEW_FILE, mode)
            .map_err(|errno| new.path.write_error(errno))?;
        rustix::fs::fchmod(&fd, mode).map_err(|errno| new.path.write_error(errno))?;
        let mut file = File::from(fd);
        self.copy(&mut new, &mut file)?;
        let time =
            Timespec { tv_sec: new.modified.clamp(OLDEST, self.now).cast_signed(), tv_nsec: 0 };
        rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time })
            .map_err(|errno| new.path.write_error(errno))
    }

    /// Makes a symbolic link that stays below the root.
    pub fn symbolic_link(&mut self, path: &RelativePath, target: &[u8]) -> Result<(), UnpackError> {
        path.check_link(target)?;
        let parent = self.make_room(path)?;
        rustix::fs::symlinkat(OsStr::from_bytes(target), &parent, path.name())
            .map_err(|errno| path.write_error(errno))?;
        self.links.push(path.clone());
        Ok(())
    }

    /// Makes a second name of an earlier file.
    pub fn hard_link(
        &mut self,
        path: &RelativePath,
        target: &RelativePath,
    ) -> Result<(), UnpackError> {
        let missing = || path.unfit("is a hard link to no file that came before it");
        let source = self.existing_parent(target).ok_or_else(missing)?;
        let found = stat(&source, target.name()).ok_or_else(missing)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(missing());
        }
        if path == target {
            return Ok(());
        }
        let parent = self.make_room(path)?;
        rustix::fs::linkat(&source, target.name(), &parent, path.name(), AtFlags::empty())
            .map_err(|errno| path.write_error(errno))
    }

    /// Checks that no link leads out of the folder, now that all files it may lead by are there.
    pub fn check_links(&self) -> Result<(), UnpackError> {
        for path in &self.links {
            match open_beneath(
                &self.root,
                Path::new(OsStr::from_bytes(&path.to_bytes())),
                OFlags::PATH,
            ) {
                Err(Errno::XDEV) => return Err(path.unfit("is a link out of the source")),
                Err(Errno::LOOP) => return Err(path.unfit("is a link that leads to itself")),
                // Anything else, such as nothing at its end, is the app's own affair.
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn copy<R: Read>(
        &mut self,
        new: &mut NewFile<'_, R>,
        file: &mut File,
    ) -> Result<(), UnpackError> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = new.content.read(&mut buffer).map_err(UnpackError::Damaged)?;
            if length == 0 {
                return Ok(());
            }
            self.content_left =
                self.content_left.checked_sub(length as u64).ok_or(UnpackError::Content)?;
            file.write_all(&buffer[..length]).map_err(|source| UnpackError::Write {
                path: String::from_utf8_lossy(&new.path.to_bytes()).into_owned(),
                source,
            })?;
        }
    }

    /// The folder of a new entry, in which nothing of its name is left.
    fn make_room(&mut self, path: &RelativePath) -> Result<OwnedFd, UnpackError> {
        let parent = self.parent(path)?;
        match rustix::fs::unlinkat(&parent, path.name(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => {
                return Err(path.unfit("is a folder and a file at once"));
            }
            Err(errno) => return Err(path.write_error(errno)),
        }
        self.count()?;
        Ok(parent)
    }

    /// The folder that `path` lies in, made where it isn't there.
    fn parent(&mut self, path: &RelativePath) -> Result<OwnedFd, UnpackError> {
        let mut folder = reopen(&self.root).map_err(|errno| path.write_error(errno))?;
        for name in path.folders() {
            folder = self.enter(&folder, name, path)?;
        }
        Ok(folder)
    }

    /// The folder that `path` lies in, if it is there, with no link on the way.
    fn existing_parent(&self, path: &RelativePath) -> Option<OwnedFd> {
        path.folders().try_fold(reopen(&self.root).ok()?, |folder, name| {
            rustix::fs::openat(&folder, name, FOLDER, Mode::empty()).ok()
        })
    }

    fn enter(
        &mut self,
        folder: &OwnedFd,
        name: &OsStr,
        path: &RelativePath,
    ) -> Result<OwnedFd, UnpackError> {
        let mode = Mode::from_raw_mode(0o755);
        match rustix::fs::mkdirat(folder, name, mode) {
            Ok(()) => self.count()?,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(path.write_error(errno)),
        }
        match rustix::fs::openat(folder, name, FOLDER, Mode::empty()) {
            Ok(entered) => Ok(entered),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                Err(path.unfit("lies in something that is no folder but a file or a link"))
            }
            Err(errno) => Err(path.write_error(errno)),
        }
    }

    fn count(&mut self) -> Result<(), UnpackError> {
        self.entries += 1;
        if self.entries > self.bounds.entries { Err(UnpackError::Entries) } else { Ok(()) }
    }
}

impl RelativePath {
    fn write_error(&self, errno: Errno) -> UnpackError {
        match errno {
            Errno::NAMETOOLONG => unfit(&self.to_bytes(), "is too long a path"),
            errno => write_error(&self.to_bytes(), errno),
        }
    }
}

/// Opens `path` below `root`, following links that stay below it.
pub fn open_beneath(root: impl AsFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // The kernel lost a race with a rename somewhere on the machine.
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return opened,
        }
    }
}

fn reopen(folder: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(folder, 0)
}

fn stat(folder: &OwnedFd, name: &OsStr) -> Option<Stat> {
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()
}

fn write_error(path: &[u8], errno: Errno) -> UnpackError {
    let path = String::from_utf8_lossy(path).into_owned();
    UnpackError::Write { path, source: io::Error::from(errno) }
}
