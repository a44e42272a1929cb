//! Calls to the quotas of file systems, one small function each, safe from outside.
//! Source: quotactl(2), `linux/dqblk_xfs.h`, `linux/fs.h`, `linux/btrfs.h`.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

/// `QCMD(command, PRJQUOTA)`: the command, and that it's about projects.
const PROJECTS: u32 = 2;
const Q_GETQUOTA: u32 = 0x0080_0007 << 8 | PROJECTS;
const Q_SETQUOTA: u32 = 0x0080_0008 << 8 | PROJECTS;
const Q_XGETQSTAT: u32 = 0x5805 << 8 | PROJECTS;
/// Of `fs_quota_stat`: projects are accounted for, and bound.
const PROJECTS_BOUND: u16 = 1 << 4 | 1 << 5;
/// Of `if_dqblk`: the limits of blocks and inodes count.
const LIMITS_VALID: u32 = 1 | 4;
/// What limits of blocks are in.
const QUOTA_BLOCK: u64 = 1024;

const FS_IOC_FSGETXATTR: u32 = 0x801C_581F;
const FS_IOC_FSSETXATTR: u32 = 0x401C_5820;
const XFLAG_PROJINHERIT: u32 = 0x200;

const BTRFS_SUBVOL_CREATE: u32 = 0x5000_940E;
const BTRFS_SNAP_CREATE_V2: u32 = 0x5000_9417;
const BTRFS_SNAP_DESTROY: u32 = 0x5000_940F;
const BTRFS_INO_LOOKUP: u32 = 0xD000_9412;
const BTRFS_FS_INFO: u32 = 0x8400_941F;
const BTRFS_QGROUP_CREATE: u32 = 0x4010_942A;
const BTRFS_QGROUP_LIMIT: u32 = 0x8030_942B;
const BTRFS_LIMIT_MAX_REFERENCED: u64 = 1;
const BTRFS_SNAPSHOT_READ_ONLY: u64 = 1 << 1;
/// The inode of a subvolume's topmost folder.
pub const BTRFS_TOPMOST: u64 = 256;

/// What a project has, and may have; 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProjectQuota {
    pub bytes_max: u64,
    pub inodes_max: u64,
}

/// `struct if_dqblk`.
#[repr(C)]
#[derive(Default)]
struct QuotaBlock {
    block_hard: u64,
    block_soft: u64,
    space: u64,
    inode_hard: u64,
    inode_soft: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
}

/// `struct fs_quota_stat`.
#[repr(C)]
#[derive(Default)]
struct QuotaState {
    version: i8,
    flags: u16,
    pad: i8,
    files: [QuotaFile; 2],
    in_core: u32,
    times: [i32; 3],
    warnings: [u16; 2],
}

/// `struct fs_qfilestat`.
#[repr(C)]
#[derive(Default)]
struct QuotaFile {
    inode: u64,
    blocks: u64,
    extents: u32,
}

/// `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    pad: [u8; 8],
}

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolumeArguments {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct SnapshotArguments {
    fd: i64,
    transaction: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

/// `struct btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
struct LookupArguments {
    tree: u64,
    object: u64,
    name: [u8; 4080],
}

/// `struct btrfs_ioctl_fs_info_args`.
#[repr(C)]
struct FileSystemInfo {
    highest_device: u64,
    devices: u64,
    id: [u8; 16],
    rest: [u8; 992],
}

/// `struct btrfs_ioctl_qgroup_limit_args`.
#[repr(C)]
struct GroupLimit {
    group: u64,
    flags: u64,
    referenced_max: u64,
    exclusive_max: u64,
    reserved: [u64; 2],
}

/// `struct btrfs_ioctl_qgroup_create_args`.
#[repr(C)]
struct GroupChange {
    create: u64,
    group: u64,
}

/// Whether the file system of `folder` keeps projects to their limits.
pub fn binds_projects(folder: impl AsFd) -> bool {
    let mut state = QuotaState { version: 1, ..QuotaState::default() };
    // SAFETY: `state` has the layout that the command fills in, and outlives the call.
    let asked = errno_result(unsafe {
        libc::syscall(libc::SYS_quotactl_fd, raw(&folder), Q_XGETQSTAT, 0, &raw mut state)
    });
    asked.is_ok() && state.flags & PROJECTS_BOUND == PROJECTS_BOUND
}

/// The limits of `project` on the file system of `folder`.
pub fn project_quota(folder: impl AsFd, project: u32) -> io::Result<ProjectQuota> {
    let mut block = QuotaBlock::default();
    // SAFETY: `block` has the layout that the command fills in, and outlives the call.
    let asked = errno_result(unsafe {
        libc::syscall(libc::SYS_quotactl_fd, raw(&folder), Q_GETQUOTA, project, &raw mut block)
    });
    match asked {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(ProjectQuota::default()),
        asked => asked.map(|()| ProjectQuota {
            bytes_max: block.block_hard.saturating_mul(QUOTA_BLOCK),
            inodes_max: block.inode_hard,
        }),
    }
}

/// Sets the limits of `project` on the file system of `folder`. Bytes are rounded up to whole KiB.
pub fn set_project_quota(folder: impl AsFd, project: u32, quota: ProjectQuota) -> io::Result<()> {
    let block = QuotaBlock {
        block_hard: quota.bytes_max.div_ceil(QUOTA_BLOCK),
        inode_hard: quota.inodes_max,
        valid: LIMITS_VALID,
        ..QuotaBlock::default()
    };
    // SAFETY: `block` has the layout that the command reads, and outlives the call.
    errno_result(unsafe {
        libc::syscall(libc::SYS_quotactl_fd, raw(&folder), Q_SETQUOTA, project, &raw const block)
    })
}

/// The project that `folder` is of, if what is made in it is of the same.
pub fn project_of(folder: impl AsFd) -> io::Result<Option<u32>> {
    let attributes = attributes(&folder)?;
    let inherited = attributes.flags & XFLAG_PROJINHERIT != 0;
    Ok(inherited.then_some(attributes.project))
}

/// Makes `folder`, and what will be made in it, `project`'s.
pub fn set_project(folder: impl AsFd, project: u32) -> io::Result<()> {
    let mut attributes = attributes(&folder)?;
    attributes.flags |= XFLAG_PROJINHERIT;
    attributes.project = project;
    // SAFETY: `attributes` has the layout that the command reads, and outlives the call.
    errno_result(i64::from(unsafe {
        libc::ioctl(raw(&folder), FS_IOC_FSSETXATTR as _, &raw const attributes)
    }))
}

fn attributes(folder: &impl AsFd) -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: `attributes` has the layout that the command fills in, and outlives the call.
    errno_result(i64::from(unsafe {
        libc::ioctl(raw(folder), FS_IOC_FSGETXATTR as _, &raw mut attributes)
    }))?;
    Ok(attributes)
}

/// Makes the Btrfs subvolume `name` in the folder `parent`.
pub fn make_subvolume(parent: impl AsFd, name: &CStr) -> io::Result<()> {
    let arguments = VolumeArguments { fd: 0, name: named(name)? };
    // SAFETY: `arguments` has the layout that the command reads, and outlives the call.
    errno_result(i64::from(unsafe {
        libc::ioctl(raw(&parent), BTRFS_SUBVOL_CREATE as _, &raw const arguments)
    }))
}

/// Makes `name` in the folder `parent` the Btrfs subvolume `source` as it is now, which can only be read.
pub fn make_snapshot(source: impl AsFd, parent: impl AsFd, name: &CStr) -> io::Result<()> {
    let arguments = SnapshotArguments {
        fd: raw(&source).into(),
        transaction: 0,
        flags: BTRFS_SNAPSHOT_READ_ONLY,
        unused: [0; 4],
        name: named(name)?,
    };
    // SAFETY: `arguments` has the layout that the command reads, and outlives the call.
    errno_result(i64::from(unsafe {
        libc::ioctl(raw(&parent), BTRFS_SNAP_CREATE_V2 as _, &raw const arguments)
    }))
}

/// Removes the Btrfs subvolume `name`, with all in it, from the folder `parent`.
pub fn remove_subvolume(parent: impl AsFd, name: &CStr) -> io::Result<()> {
    let arguments = VolumeArguments { fd: 0, name: named(name)? };
    // SAFETY: `arguments` has the layout that the command reads, and outlives the call.
    errno_result(i64::from(unsafe {
        libc::ioctl(raw(&parent), BTRFS_SNAP_DESTROY as _, &raw const arguments)
    }))
}

/// The number of the Btrfs subvolume that `folder` is in.
pub fn subvolume_of(folder: impl AsFd) -> io::Result<u64> {
    let mut arguments = LookupArguments { tree: 0, object: BTRFS_TOPMOST, name: [0; 4080] };
    // SAFETY: `arguments` has the layout that the command reads and fills in, and outlives the call.
    errno_result(i64::from(unsafe {
        libc::ioctl(raw(&folder), BTRFS_INO_LOOKUP as _, &raw mut arguments)
    }))?;
    Ok(arguments.tree)
}

/// The id of the Btrfs that `folder` is on.
pub fn btrfs_id(folder: impl AsFd) -> io::Result<[u8; 16]> {
    let mut info = FileSystemInfo { highest_device: 0, devices: 0, id: [0; 16], rest: [0; 992] };
    // SAFETY: `info` has the layout that the command fills in, and outlives the call.
    errno_result(i64::from(unsafe {
        libc::ioctl(raw(&folder), BTRFS_FS_INFO as _, &raw mut info)
    }))?;
    Ok(info.id)
}

/// Lets the Btrfs subvolume number `subvolume` refer to so many bytes at most, its own metadata counted.
pub fn set_subvolume_limit(folder: impl AsFd, subvolume: u64, bytes_max: u64) -> io::Result<()> {
    let limit = GroupLimit {
        group: subvolume,
        flags: BTRFS_LIMIT_MAX_REFERENCED,
        referenced_max: bytes_max,
        exclusive_max: 0,
        reserved: [0; 2],
    };
    // SAFETY: `limit` has the layout that the command reads, and outlives the call.
    errno_result(i64::from(unsafe {
        libc::ioctl(raw(&folder), BTRFS_QGROUP_LIMIT as _, &raw const limit)
    }))
}

/// Forgets the account of the Btrfs subvolume number `subvolume`, which is gone.
pub fn forget_subvolume(folder: impl AsFd, subvolume: u64) -> io::Result<()> {
    let change = GroupChange { create: 0, group: subvolume };
    // SAFETY: `change` has the layout that the command reads, and outlives the call.
    errno_result(i64::from(unsafe {
        libc::ioctl(raw(&folder), BTRFS_QGROUP_CREATE as _, &raw const change)
    }))
}

/// `name` in a field of `N` bytes, zeros after it.
fn named<const N: usize>(name: &CStr) -> io::Result<[u8; N]> {
    let bytes = name.to_bytes_with_nul();
    let mut field = [0; N];
    let place = field.get_mut(..bytes.len()).ok_or(io::ErrorKind::InvalidFilename)?;
    place.copy_from_slice(bytes);
    Ok(field)
}

fn raw(fd: &impl AsFd) -> RawFd {
    fd.as_fd().as_raw_fd()
}

fn errno_result(result: i64) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layouts_are_the_kernels() {
        assert_eq!(size_of::<QuotaBlock>(), 72);
        assert_eq!(size_of::<QuotaState>(), 80);
        assert_eq!(size_of::<Attributes>(), 28);
        assert_eq!(size_of::<VolumeArguments>(), 4096);
        assert_eq!(size_of::<SnapshotArguments>(), 4096);
        assert_eq!(size_of::<LookupArguments>(), 4096);
        assert_eq!(size_of::<FileSystemInfo>(), 1024);
        assert_eq!((size_of::<GroupLimit>(), size_of::<GroupChange>()), (48, 16));
    }

    #[test]
    fn a_name_that_is_too_long_is_refused() {
        assert_eq!(named::<4>(c"abc").unwrap(), *b"abc\0");
        assert!(named::<3>(c"abc").is_err());
    }
}
