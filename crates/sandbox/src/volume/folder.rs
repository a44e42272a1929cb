//! Volumes as folders of the engine's disk, bounded by the quota of its file system.
//!
//! On ext4 and XFS a folder and all in it are of one *project*, whose number is the app's user id: no other
//! app of the machine has it, and nobody in a container can change it. On Btrfs it's a subvolume. Nothing is
//! reserved, and nothing has to be formatted, mounted or grown.
//!
//! Each call looks again whether the file system binds: one that was mounted without its quota has no volumes.

use std::ffi::CString;
use std::fmt::{self, Display};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ace_types::limits::inodes_for;
use ace_types::{Bytes, IdRange};
use rustix::fs::{Gid, Mode, Uid, fchown, fstat, fstatfs, fstatvfs, mkdirat, open};
use rustix::io::Errno;

use super::{SIZE_LEAST, VolumeError, rounded};
use crate::disk::BTRFS;
use crate::space::Space;
use crate::sys_quota::{self, BTRFS_TOPMOST, ProjectQuota};
use crate::tree::{FOLDER, remove_tree};

/// What Btrfs tells of its file systems.
const BTRFS_FACTS: &str = "/sys/fs/btrfs";
/// Source: magic.h.
const EXT4: u64 = 0xEF53;
const XFS: u64 = 0x5846_5342;

/// By what a folder is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// Bytes and inodes.
    Project,
    /// Bytes, among which names and metadata count.
    Subvolume,
}

/// Why no folder on a disk can be bounded.
#[derive(Debug, thiserror::Error)]
pub enum NoQuota {
    #[error("the ext4 at {} is mounted without quota of projects", at.display())]
    Ext4 { at: PathBuf },
    #[error("the XFS at {} is mounted without quota of projects", at.display())]
    Xfs { at: PathBuf },
    #[error("the Btrfs at {} has its quotas off", at.display())]
    Btrfs { at: PathBuf },
    #[error("the file system at {} has no quota of folders", at.display())]
    Other { at: PathBuf },
    #[error("could not look at {}", at.display())]
    Look { at: PathBuf, source: io::Error },
}

impl NoQuota {
    /// What the operator can do about it.
    pub fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::Ext4 { .. } => {
                "while it is not mounted, `tune2fs -O project -Q prjquota DEVICE`; then mount \
                                  it with -o prjquota"
                    .to_owned()
            }
            Self::Xfs { .. } => {
                "mount it with -o prjquota; what / is on, by rootflags=prjquota on the \
                                 kernel's command line"
                    .to_owned()
            }
            Self::Btrfs { at } => format!("btrfs quota enable {}", at.display()),
            Self::Other { .. } => "keep the data folder on ext4, XFS or Btrfs".to_owned(),
            Self::Look { .. } => return None,
        })
    }
}

/// By what folders in `folder` can be bounded.
pub fn means_at(folder: &Path) -> Result<Means, NoQuota> {
    let at = || folder.to_owned();
    let looked = |error: io::Error| NoQuota::Look { at: folder.to_owned(), source: error };
    let opened = open(folder, FOLDER, Mode::empty()).map_err(|error| looked(error.into()))?;
    if sys_quota::binds_projects(&opened) {
        return Ok(Means::Project);
    }
    match fstatfs(&opened).map_err(|error| looked(error.into()))?.f_type as u64 {
        BTRFS if groups_of(&opened).map_err(looked)?.is_dir() => Ok(Means::Subvolume),
        BTRFS => Err(NoQuota::Btrfs { at: at() }),
        EXT4 => Err(NoQuota::Ext4 { at: at() }),
        XFS => Err(NoQuota::Xfs { at: at() }),
        _ => Err(NoQuota::Other { at: at() }),
    }
}

/// Makes sure that `folder` is a volume of `size`, which the tenant with the ids `owner` owns. May be called
/// twice. Returns whether it was not so.
///
/// Errors: [`VolumeError::Shrink`] where it is larger; [`VolumeError::NoQuota`].
pub fn ensure_folder(folder: &Path, size: Bytes, owner: IdRange) -> Result<bool, VolumeError> {
    if size < SIZE_LEAST {
        return Err(VolumeError::Small { asked: size });
    }
    let size = rounded(size);
    let (parent, name) = place(folder)?;
    let means = means_at(parent)
        .map_err(|source| VolumeError::NoQuota { folder: folder.to_owned(), source })?;
    let failed = |source| VolumeError::Bound { folder: folder.to_owned(), source };
    let made = make(means, parent, &name).map_err(failed)?;
    let opened = open(folder, FOLDER, Mode::empty()).map_err(|error| failed(error.into()))?;
    let has = limit(means, &opened).map_err(failed)?.unwrap_or(Bytes(0));
    if has > size {
        return Err(VolumeError::Shrink { image: folder.to_owned(), has, asked: size });
    }
    // In this order: who owns a folder can fill it.
    let bound = bind(means, &opened, size, owner).map_err(failed)?;
    let given = give(&opened, owner).map_err(failed)?;
    Ok(made || bound || given)
}

/// How full the volume `folder` is.
pub fn space_of_folder(folder: &Path) -> io::Result<Space> {
    let opened = open(folder, FOLDER, Mode::empty())?;
    if fstatfs(&opened)?.f_type as u64 == BTRFS {
        let number = |file| number_in(&group_of(&opened)?.join(file));
        return Ok(Space {
            used_bytes: number("referenced")?,
            size_bytes: number("max_referenced")?,
            files: None, // A group of Btrfs has no such bound.
        });
    }
    // Of a project's folder the kernel tells what the project may have.
    Ok(fstatvfs(&opened)?.into())
}

/// Whether the volume `folder` is bounded by something that a look from inside doesn't show, and is full.
///
/// Btrfs refuses before the last bytes are taken, for what it needs to write them down.
pub fn is_full_unseen(folder: &Path) -> bool {
    let is_btrfs = rustix::fs::statfs(folder).is_ok_and(|found| found.f_type as u64 == BTRFS);
    is_btrfs
        && space_of_folder(folder).is_ok_and(|space| {
            space.size_bytes.saturating_sub(space.used_bytes) < space.size_bytes / 50 + (1 << 20)
        })
}

/// Removes the volume `folder` for good, and frees its number. No error where there is none.
pub fn remove_folder(folder: &Path) -> Result<(), VolumeError> {
    let failed = |source| VolumeError::Remove { image: folder.to_owned(), source };
    let opened = match open(folder, FOLDER, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened.map_err(|error| failed(error.into()))?,
    };
    let (parent, name) = place(folder)?;
    let parent = open(parent, FOLDER, Mode::empty()).map_err(|error| failed(error.into()))?;
    if is_subvolume(&opened).map_err(failed)? {
        let number = sys_quota::subvolume_of(&opened).map_err(failed)?;
        drop(opened);
        sys_quota::remove_subvolume(&parent, &name).map_err(failed)?;
        // Younger kernels do that by themselves, once all is gone. Numbers are not used again.
        let _ = sys_quota::forget_subvolume(&parent, number);
        return Ok(());
    }
    // Before the folder goes: afterwards nobody would know the number.
    if let Ok(Some(project)) = sys_quota::project_of(&opened) {
        sys_quota::set_project_quota(&parent, project, ProjectQuota::default()).map_err(failed)?;
    }
    remove_tree(folder).map_err(failed)
}

/// Whether `opened` is a Btrfs subvolume's topmost folder.
pub fn is_subvolume(opened: &OwnedFd) -> io::Result<bool> {
    let is_btrfs = fstatfs(opened)?.f_type as u64 == BTRFS;
    Ok(is_btrfs && fstat(opened)?.st_ino == BTRFS_TOPMOST)
}

/// The folder that `folder` is in, and its name there.
pub fn place(folder: &Path) -> Result<(&Path, CString), VolumeError> {
    let failed = |source| VolumeError::Bound { folder: folder.to_owned(), source };
    let nameless = || failed(io::ErrorKind::InvalidFilename.into());
    let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) else {
        return Err(nameless());
    };
    let name = CString::new(name.as_bytes()).map_err(|_| nameless())?;
    Ok((parent, name))
}

/// Returns whether there was none.
fn make(means: Means, parent: &Path, name: &CString) -> io::Result<bool> {
    // Files that a tenant makes are of its user, whatever mode they have: nobody else is to reach them.
    fs::set_permissions(parent, fs::Permissions::from_mode(0o700))?;
    let parent = open(parent, FOLDER, Mode::empty())?;
    let made = match means {
        Means::Project => {
            mkdirat(&parent, name, Mode::from_raw_mode(0o755)).map_err(io::Error::from)
        }
        Means::Subvolume => sys_quota::make_subvolume(&parent, name),
    };
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        made => made.map(|()| true),
    }
}

/// What `folder` is bounded to, where it is.
fn limit(means: Means, folder: &OwnedFd) -> io::Result<Option<Bytes>> {
    let bytes = match means {
        Means::Project => match sys_quota::project_of(folder)? {
            Some(project) => sys_quota::project_quota(folder, project)?.bytes_max,
            None => 0,
        },
        Means::Subvolume => {
            number_in(&group_of(folder)?.join("max_referenced")).unwrap_or_default()
        }
    };
    Ok((bytes > 0).then_some(Bytes(bytes)))
}

/// Bounds `folder`. Returns whether that was not so.
fn bind(means: Means, folder: &OwnedFd, size: Bytes, owner: IdRange) -> io::Result<bool> {
    match means {
        Means::Project => {
            let project = owner.host_id(IdRange::APP);
            let wanted = ProjectQuota { bytes_max: size.0, inodes_max: inodes_for(size) };
            let is_bound = sys_quota::project_quota(folder, project)? == wanted;
            if !is_bound {
                sys_quota::set_project_quota(folder, project, wanted)?;
            }
            let is_of = sys_quota::project_of(folder)? == Some(project);
            if !is_of {
                sys_quota::set_project(folder, project)?;
            }
            Ok(!is_bound || !is_of)
        }
        Means::Subvolume => {
            if !is_subvolume(folder)? {
                return Err(io::Error::other("it is no subvolume"));
            }
            if limit(means, folder)? == Some(size) {
                return Ok(false);
            }
            sys_quota::set_subvolume_limit(folder, sys_quota::subvolume_of(folder)?, size.0)?;
            Ok(true)
        }
    }
}

/// Gives `folder` to the tenant. Returns whether it was not its own.
fn give(folder: &OwnedFd, owner: IdRange) -> io::Result<bool> {
    let owner = owner.host_id(IdRange::APP);
    if fstat(folder)?.st_uid == owner {
        return Ok(false);
    }
    fchown(folder, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))?;
    Ok(true)
}

/// Where the kernel keeps the account of the subvolume that `folder` is in.
fn group_of(folder: &OwnedFd) -> io::Result<PathBuf> {
    Ok(groups_of(folder)?.join(format!("0_{}", sys_quota::subvolume_of(folder)?)))
}

/// Where the accounts of the Btrfs of `folder` are, if it has any.
fn groups_of(folder: &OwnedFd) -> io::Result<PathBuf> {
    let id = sys_quota::btrfs_id(folder)?.map(|byte| format!("{byte:02x}")).concat();
    let parts = [&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]];
    Ok(Path::new(BTRFS_FACTS).join(parts.join("-")).join("qgroups"))
}

fn number_in(file: &Path) -> io::Result<u64> {
    fs::read_to_string(file)?.trim().parse().map_err(io::Error::other)
}

impl Display for Means {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Project => "the quota of its projects, in bytes and files",
            Self::Subvolume => "the quota of its subvolumes, in bytes, among which files count",
        })
    }
}
