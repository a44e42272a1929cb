//! A folder of the host's that a tenant may change, for itself and for as long as its container lives.
//!
//! An overlay: below, the folder, read-only and with the tenant as its owner; above, a bounded tmpfs.
//! Nothing but the overlay itself stays in the container's tree of mounts, so neither part can be
//! reached by another way. The overlay's own attributes are `trusted.` ones, which no tenant can
//! write, and which the folder has none of: what a tenant makes can't pass for them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use ace_types::IdRange;
use rustix::fs::{Gid, Mode, OFlags, Uid, fchown, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use super::mount::{self, Tree};
use super::{PLAIN, READ_ONLY};
use crate::failure::{Failure, Step};
use crate::id_map::IdMap;
use crate::spec::Layer;

/// Names in the tmpfs.
const UPPER: &str = "upper";
const WORK: &str = "work";

/// Folders can be renamed; the rest is what would make files of the folder appear as others than
/// they are, or costs more than it is worth in a file system that ends with its container.
const OPTIONS: [(&str, &str); 5] = [
    ("redirect_dir", "on"),
    ("metacopy", "off"),
    ("index", "off"),
    ("xino", "off"),
    ("nfs_export", "off"),
];

/// Mounts `layer`; returns the folder in which all that is written to it lies.
///
/// `None`: the kernel, or the file system that the folder is on, can't do it, and the folder is there
/// to be read only.
pub fn add(
    root: &Tree,
    layer: &Layer,
    id_map: &IdMap,
    ids: IdRange,
) -> Result<Option<OwnedFd>, Failure> {
    let Layer { source, target, .. } = layer;
    match mount_overlay(root, layer, id_map, ids) {
        Ok(upper) => Ok(Some(upper)),
        Err(error) if is_unsupported(&error) => {
            let step = format!("bind {} at {}", source.display(), target.display());
            root.bind_no_link(source, target, READ_ONLY).step(step)?;
            Ok(None)
        }
        Err(error) => Err(error).step(format!("mount a layer at {}", target.display())),
    }
}

fn mount_overlay(root: &Tree, layer: &Layer, id_map: &IdMap, ids: IdRange) -> io::Result<OwnedFd> {
    let target = &layer.target;
    let lower = mount::detached(&layer.source)?;
    id_map.put_on(&lower)?;
    // An overlay is made of what is attached somewhere, and keeps it when it is no more.
    root.attach(&lower, target)?;
    let space = format!("mode=700,size={},nr_inodes={}", layer.size.0, layer.inodes);
    let made = root.mount_new("tmpfs", target, PLAIN, &space).and_then(|()| {
        let tmpfs = root.open_folder(target)?;
        let upper = make_upper(&tmpfs, ids.host_id(IdRange::APP))?;
        let overlay = make_overlay(&lower, &tmpfs);
        root.detach(target)?;
        Ok((overlay?, upper))
    });
    root.detach(target)?;
    let (overlay, upper) = made?;
    root.attach(&overlay, target)?;
    Ok(upper)
}

fn make_upper(tmpfs: &OwnedFd, owner: u32) -> io::Result<OwnedFd> {
    mkdirat(tmpfs, WORK, Mode::RWXU)?;
    mkdirat(tmpfs, UPPER, Mode::from_raw_mode(0o755))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let upper = openat(tmpfs, UPPER, flags, Mode::empty())?;
    fchown(&upper, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))?;
    Ok(upper)
}

/// An overlay of `lower` and the folders in `tmpfs`, attached nowhere yet.
fn make_overlay(lower: &OwnedFd, tmpfs: &OwnedFd) -> io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let context = context.as_fd();
    let space = mount::path_of(tmpfs);
    fsconfig_set_string(context, "lowerdir", mount::path_of(lower))?;
    fsconfig_set_string(context, "upperdir", format!("{space}/{UPPER}"))?;
    fsconfig_set_string(context, "workdir", format!("{space}/{WORK}"))?;
    for (key, value) in OPTIONS {
        fsconfig_set_string(context, key, value)?;
    }
    fsconfig_create(context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Whether an error says that there can be no overlay here: the file system takes no map of owners,
/// overlays take none (before 5.19), there are no overlays, or no such calls.
fn is_unsupported(error: &io::Error) -> bool {
    const SIGNS: [Errno; 4] = [Errno::INVAL, Errno::NODEV, Errno::NOSYS, Errno::OPNOTSUPP];
    Errno::from_io_error(error).is_some_and(|errno| SIGNS.contains(&errno))
}
