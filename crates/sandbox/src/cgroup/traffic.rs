//! What a group has read from disks and written to them, as the kernel counts it.
//!
//! As [`throttle`](super::throttle) has it: version 1 counts what the kernel writes late as the root's, which for a
//! loop device that one app alone uses is that app's.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Version, read_value};
use crate::disk::Device;

const BYTES: &str = "blkio.throttle.io_service_bytes";
const OPERATIONS: &str = "blkio.throttle.io_serviced";
/// Version 2 has all in one file.
const STAT: &str = "io.stat";

/// What has gone from and to one disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskTraffic {
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

impl DiskTraffic {
    fn add(&mut self, key: &str, count: u64) {
        let field = match key {
            "rbytes" => &mut self.read_bytes,
            "wbytes" => &mut self.written_bytes,
            "rios" => &mut self.reads,
            "wios" => &mut self.writes,
            _ => return,
        };
        *field += count;
    }
}

/// What `group` has read and written, by disk. A disk that it has left alone may be missing.
pub fn of_group(version: Version, group: &Path) -> BTreeMap<Device, DiskTraffic> {
    let read = |file| read_value(&group.join(file));
    match version {
        Version::V1 => parse_v1(&read(BYTES), &read(OPERATIONS)),
        Version::V2 => parse_v2(&read(STAT)),
    }
}

/// Lines as `7:3 Write 1273856`.
fn parse_v1(bytes: &str, operations: &str) -> BTreeMap<Device, DiskTraffic> {
    let mut all = BTreeMap::<Device, DiskTraffic>::new();
    for (text, read, write) in [(bytes, "rbytes", "wbytes"), (operations, "rios", "wios")] {
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [device, way, count] = words[..] else { continue };
            let key = match way {
                "Read" => read,
                "Write" => write,
                _ => continue,
            };
            if let (Ok(device), Ok(count)) = (device.parse(), count.parse()) {
                all.entry(device).or_default().add(key, count);
            }
        }
    }
    all
}

/// Lines as `254:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`. A disk of no traffic yet may have no figures.
fn parse_v2(text: &str) -> BTreeMap<Device, DiskTraffic> {
    let mut all = BTreeMap::<Device, DiskTraffic>::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(Ok(device)) = words.next().map(str::parse) else { continue };
        let disk = all.entry(device).or_default();
        for (key, count) in words.filter_map(|word| word.split_once('=')) {
            disk.add(key, count.parse().unwrap_or(0));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOP: Device = Device { major: 7, minor: 3 };

    #[test]
    fn version_1_has_two_files_with_a_line_a_way() {
        let bytes =
            "7:3 Read 49152\n7:3 Write 4096\n7:3 Sync 53248\n7:3 Total 53248\nTotal 53248\n";
        let operations = "7:3 Read 12\n7:3 Write 1\n7:3 Total 13\nTotal 13\n";
        let expected = DiskTraffic { read_bytes: 49152, written_bytes: 4096, reads: 12, writes: 1 };
        assert_eq!(parse_v1(bytes, operations), BTreeMap::from([(LOOP, expected)]));
    }

    #[test]
    fn version_2_has_a_line_a_disk() {
        let text = "254:0\n7:3 rbytes=8192 wbytes=0 rios=2 wios=0 dbytes=0 dios=0\n";
        let read = DiskTraffic { read_bytes: 8192, reads: 2, ..DiskTraffic::default() };
        let disk = Device { major: 254, minor: 0 };
        let expected = BTreeMap::from([(LOOP, read), (disk, DiskTraffic::default())]);
        assert_eq!(parse_v2(text), expected);
    }
}
