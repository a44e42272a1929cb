//! Locks on parts of files, for which the kernel takes memory that it counts as nobody's.
//!
//! A process may have as many as a file has bytes, some 200 bytes of the kernel's each: no limit of a group's or a
//! process' binds them. So they are counted: all of the machine at once, which costs next to nothing, and where those have become many, those
//! of a container. Locks by flock(2) are one an open file, which is bounded.
//!
//! Source: `mm/slub.c` and `fs/locks.c` of the kernel; proc(5) on `fdinfo`.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::Path;

const CACHE: &str = "/sys/kernel/slab/file_lock_cache/total_objects";

/// How many the kernel has room for at this moment, together with other things of the same size.
///
/// Errors: it does not tell.
pub fn in_kernel() -> io::Result<u64> {
    // What follows the sum is of each memory node.
    let text = fs::read_to_string(CACHE)?;
    let sum = text.split_whitespace().next().and_then(|word| word.parse().ok());
    sum.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// How many the processes `pids` hold by the files that they have open, counted up to `enough`.
pub fn held_by(pids: &[u32], enough: u64) -> u64 {
    let mut held = 0;
    for pid in pids {
        // A process that has ended holds none.
        let entries = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
        for entry in entries {
            held += in_file(&entry.path(), enough - held);
            if held >= enough {
                return enough;
            }
        }
    }
    held
}

fn in_file(path: &Path, enough: u64) -> u64 {
    let Ok(file) = File::open(path) else { return 0 };
    let (mut lines, mut line, mut held) = (BufReader::new(file), Vec::new(), 0);
    while held < enough {
        line.clear();
        match lines.read_until(b'\n', &mut line) {
            // More than the kernel can show in one piece.
            Err(error) if error.kind() == io::ErrorKind::OutOfMemory => return enough,
            Err(_) | Ok(0) => return held,
            Ok(_) => held += u64::from(line.starts_with(b"lock:")),
        }
    }
    enough
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::{FlockOperation, flock};

    use super::*;

    #[test]
    fn a_lock_of_this_process_is_counted_and_no_more_than_enough() {
        let files: Vec<File> = (0..3).map(|_| tempfile::tempfile().unwrap()).collect();
        files.iter().for_each(|file| flock(file.as_fd(), FlockOperation::LockExclusive).unwrap());
        let this = std::process::id();
        assert!(held_by(&[this], 1000) >= 3);
        assert_eq!(held_by(&[this], 2), 2);
        assert_eq!(held_by(&[u32::MAX], 1000), 0);
    }
}
