//! Block devices: those that a container's reads and writes may come to.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The driver's number of all loop devices. Source: devices.txt of the kernel.
const LOOP_MAJOR: u32 = 7;
/// Names of devices in memory, which nothing of a tenant's lies on, and of drives for what is put in by hand.
const LEFT_OUT: [&str; 5] = ["loop", "ram", "zram", "sr", "fd"];

/// The file system Btrfs. Source: magic.h.
pub(crate) const BTRFS: u64 = 0x9123_683E;

/// A block device's number, written `254:0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Device {
    pub major: u32,
    pub minor: u32,
}

impl Device {
    /// The device that the special file `path` stands for.
    pub fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::from_number(fs::metadata(path)?.rdev()))
    }

    pub fn from_number(number: u64) -> Self {
        Self { major: libc::major(number), minor: libc::minor(number) }
    }

    pub fn is_loop(self) -> bool {
        self.major == LOOP_MAJOR
    }

    /// Whether it is a loop device that shows nothing.
    pub fn is_free_loop(self) -> bool {
        self.is_loop() && !Path::new(&format!("/sys/dev/block/{self}/loop")).exists()
    }
}

/// All disks of this machine, whole ones: a throttle binds no partition of its own.
///
/// Of what is stacked (LVM, RAID, encryption) every layer is one. Without loop devices and disks in memory.
pub fn whole_disks() -> io::Result<Vec<Device>> {
    let mut disks = Vec::new();
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        let name = entry.file_name();
        let kind = name.to_string_lossy();
        let kind = kind.trim_end_matches(|c: char| c.is_ascii_digit());
        let read = |file| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        if LEFT_OUT.contains(&kind) || read("size").trim() == "0" {
            continue;
        }
        // One that has gone meanwhile has no number.
        disks.extend(read("dev").trim().parse::<Device>().ok());
    }
    disks.sort_unstable();
    Ok(disks)
}

/// Whether what lies at `path` is on a block device, whose traffic can be throttled; a network's file
/// system is not.
pub fn is_on_disk(path: &Path) -> io::Result<bool> {
    // Btrfs has devices, though its files have the number of none.
    let has_device = Device::from_number(fs::metadata(path)?.dev()).major != 0;
    Ok(has_device || rustix::fs::statfs(path)?.f_type as u64 == BTRFS)
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl FromStr for Device {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (major, minor) = text.split_once(':').unwrap_or((text, ""));
        Ok(Self { major: major.parse()?, minor: minor.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_read_as_it_is_written() {
        let device = Device { major: 254, minor: 16 };
        assert_eq!(device.to_string().parse(), Ok(device));
        assert!("254".parse::<Device>().is_err() && "a:b".parse::<Device>().is_err());
    }

    #[test]
    fn no_loop_device_is_a_disk_of_its_own() {
        assert!(whole_disks().unwrap().iter().all(|disk| !disk.is_loop()));
    }

    #[test]
    fn what_the_kernel_makes_up_is_on_no_disk() {
        assert!(!is_on_disk(Path::new("/proc")).unwrap());
    }
}
