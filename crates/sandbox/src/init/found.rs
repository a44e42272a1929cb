//! What init finds of the tenant's when its program ends: what it has reported, and what is full.
//!
//! Init is unprivileged and sees what the tenant sees, so nothing here can do more than the tenant.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fstat, open, statvfs};

use crate::rootfs::OpenLayer;
use crate::spec::{Found, RootSpec};

/// What is left of a file system that counts as full: less than a program's usual write, or this part.
const LEFT_BYTES: u64 = 64 << 10;
const LEFT_PART: u64 = 100;

/// Where to look.
pub struct Places {
    mounts: Vec<PathBuf>,
}

impl Places {
    /// The places of a container with this root that the tenant can write to.
    pub fn of(root: &RootSpec, layers: &[OpenLayer]) -> Self {
        let layers = layers.iter().map(|layer| layer.target.clone());
        let tmpfs = root.tmpfs.iter().map(|tmpfs| tmpfs.target.clone());
        let volume = root.volume.iter().map(|volume| volume.target.clone());
        Self { mounts: layers.chain(tmpfs).chain(volume).collect() }
    }

    /// What is there now. What can't be read counts as not there.
    pub fn look(&self) -> Found {
        let full = self.mounts.iter().filter(|mount| is_full(mount).unwrap_or(false));
        Found { report: read_report().ok(), full: full.cloned().collect() }
    }
}

fn is_full(mount: &Path) -> io::Result<bool> {
    let space = statvfs(mount)?;
    let left = space.f_bavail.saturating_mul(space.f_frsize);
    let size = space.f_blocks.saturating_mul(space.f_frsize);
    let no_names = space.f_files > 0 && space.f_favail == 0;
    Ok(no_names || left < LEFT_BYTES.min(size / LEFT_PART).max(1))
}

/// Reads the report, whatever the tenant has put in its place.
fn read_report() -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = open(Found::REPORT, flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut text = Vec::new();
    std::fs::File::from(file).take(Found::REPORT_MAX_BYTES).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
