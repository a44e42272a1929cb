//! What a group may read from disks and write to them: bytes and operations a second, each way.
//!
//! A throttle is of one group and one device. Version 2 counts what the kernel writes later, out of
//! the page cache, as its group's. Version 1 knows of that only that the kernel writes it, which
//! stands in the tree's root: so there a volume's loop device, which nobody else uses, has a
//! throttle of the root's besides. That one outlives the device's use: [`Root::release`] takes it away.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ace_types::Limits;

use super::{Version, read_value, write_value};
use crate::disk::Device;

/// Version 2 has all in one file.
const MAX: &str = "io.max";
const READ_BYTES: &str = "blkio.throttle.read_bps_device";
const WRITE_BYTES: &str = "blkio.throttle.write_bps_device";
const READ_OPERATIONS: &str = "blkio.throttle.read_iops_device";
const WRITE_OPERATIONS: &str = "blkio.throttle.write_iops_device";

/// A line of one of those files: the file's name, and what is written.
pub type Line = (&'static str, String);

/// The lines that bind a group to `limits` on `device`.
pub fn lines(version: Version, device: Device, limits: &Limits) -> Vec<Line> {
    let (bytes, operations) = (limits.io.0, limits.iops);
    match version {
        Version::V1 => vec![
            (READ_BYTES, format!("{device} {bytes}")),
            (WRITE_BYTES, format!("{device} {bytes}")),
            (READ_OPERATIONS, format!("{device} {operations}")),
            (WRITE_OPERATIONS, format!("{device} {operations}")),
        ],
        Version::V2 => {
            let each =
                format!("{device} rbps={bytes} wbps={bytes} riops={operations} wiops={operations}");
            vec![(MAX, each)]
        }
    }
}

/// Whether `line` stands in the files of `group`.
pub fn stands(group: &Path, (file, line): &Line) -> bool {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let wanted = words(line);
    read_value(&group.join(file)).lines().any(|found| words(found) == wanted)
}

/// Lets `group` read and write freely. What can't be written now stays bound, and takes longer.
pub fn lift(version: Version, group: &Path) {
    for (file, device) in bound(version, group) {
        let free = match version {
            Version::V1 => format!("{device} 0"),
            Version::V2 => format!("{device} rbps=max wbps=max riops=max wiops=max"),
        };
        // A device may have gone, and what it bound with it.
        let _ = write_value(&group.join(file), &free);
    }
}

/// Devices that `group` has a throttle on.
pub fn devices(version: Version, group: &Path) -> BTreeSet<Device> {
    bound(version, group).into_iter().map(|(_, device)| device).collect()
}

/// The same, and in which file.
fn bound(version: Version, group: &Path) -> BTreeSet<(&'static str, Device)> {
    let files: &[&str] = match version {
        Version::V1 => &[READ_BYTES, WRITE_BYTES, READ_OPERATIONS, WRITE_OPERATIONS],
        Version::V2 => &[MAX],
    };
    let of_file = |file: &&'static str| {
        let text = read_value(&group.join(file));
        let device = |line: &str| line.split_whitespace().next()?.parse().ok();
        text.lines().filter_map(device).map(|device| (*file, device)).collect::<Vec<_>>()
    };
    files.iter().flat_map(of_file).collect()
}

/// The root of a version 1 tree, in which the kernel writes for all.
#[derive(Debug)]
pub struct Root(pub PathBuf);

impl Root {
    /// The lines that bind what the kernel writes to the loop device `device`, unless it's bound.
    ///
    /// Two containers of an app may have different limits for a while, as when they are changed: those that were
    /// first stay until the device is free.
    pub fn lines(&self, device: Device, limits: &Limits) -> Vec<Line> {
        let is_bound = |file| bound(Version::V1, &self.0).contains(&(file, device));
        let all = [
            (WRITE_BYTES, format!("{device} {}", limits.io.0)),
            (WRITE_OPERATIONS, format!("{device} {}", limits.iops)),
        ];
        all.into_iter().filter(|(file, _)| !is_bound(file)).collect()
    }

    /// Binds what the kernel writes to loop devices, unless that is bound, as `group` is bound on them. Where it can't now,
    /// the next look at that group's limits will.
    pub fn bind_as(&self, group: &Path) {
        for file in [WRITE_BYTES, WRITE_OPERATIONS] {
            for line in read_value(&group.join(file)).lines() {
                let device =
                    line.split_whitespace().next().and_then(|it| it.parse::<Device>().ok());
                let Some(device) = device.filter(|device| device.is_loop()) else { continue };
                if !bound(Version::V1, &self.0).contains(&(file, device)) {
                    let _ = write_value(&self.0.join(file), line);
                }
            }
        }
    }

    /// Takes the throttle off loop device `device`.
    pub fn lift(&self, device: Device) {
        for (file, bound) in bound(Version::V1, &self.0) {
            if bound == device {
                // As above.
                let _ = write_value(&self.0.join(file), &format!("{device} 0"));
            }
        }
    }

    /// Takes the throttles off loop devices that show nothing any more, so that the next who has one finds it free.
    pub fn release(&self) {
        let bound = bound(Version::V1, &self.0);
        let free = bound.into_iter().filter(|(_, device)| device.is_free_loop());
        free.for_each(|(_, device)| self.lift(device));
    }
}

#[cfg(test)]
mod tests {
    use ace_types::Bytes;

    use super::*;

    const DISK: Device = Device { major: 254, minor: 0 };

    fn limits() -> Limits {
        Limits { io: Bytes::mib(1), iops: 100, ..Limits::for_app() }
    }

    #[test]
    fn version_1_has_a_file_for_each_and_version_2_one() {
        let v1: Vec<String> =
            lines(Version::V1, DISK, &limits()).into_iter().map(|l| l.1).collect();
        assert_eq!(v1, ["254:0 1048576", "254:0 1048576", "254:0 100", "254:0 100"]);
        let v2 = lines(Version::V2, DISK, &limits());
        assert_eq!(v2, [(MAX, "254:0 rbps=1048576 wbps=1048576 riops=100 wiops=100".to_owned())]);
    }

    #[test]
    fn a_line_stands_however_the_kernel_parts_its_words() {
        let group = tempfile::tempdir().unwrap();
        std::fs::write(group.path().join(READ_BYTES), "7:1\t5\n254:0\t1048576\n").unwrap();
        let line = |text: &str| (READ_BYTES, text.to_owned());
        assert!(stands(group.path(), &line("254:0 1048576")));
        assert!(!stands(group.path(), &line("254:0 1048577")));
        assert!(!stands(group.path(), &(WRITE_BYTES, "254:0 1048576".to_owned())));
    }

    #[test]
    fn a_root_binds_a_device_once() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root(folder.path().to_owned());
        let device = Device { major: 7, minor: 3 };
        assert_eq!(root.lines(device, &limits()).len(), 2);
        std::fs::write(folder.path().join(WRITE_BYTES), "7:3 99\n").unwrap();
        assert_eq!(root.lines(device, &limits()), [(WRITE_OPERATIONS, "7:3 100".to_owned())]);
    }
}
