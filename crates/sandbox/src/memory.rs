//! This process's own memory.

use std::{fs, io};

use rustix::param::page_size;

use crate::sys;

/// How much of its memory is there and its own, in bytes: without pages of files, such as the program.
pub fn resident_bytes() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/statm")?;
    own_pages(&text)
        .map(|pages| pages * page_size() as u64)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "statm is not of numbers"))
}

/// Gives the kernel back what the allocator keeps for later. Takes milliseconds for each 100 MiB, during which
/// other threads may wait for memory.
pub fn give_back() {
    sys::trim_heap();
}

/// The pages of `statm` that are resident and not shared. Source: proc_pid_statm(5).
fn own_pages(statm: &str) -> Option<u64> {
    let mut numbers = statm.split_ascii_whitespace().skip(1).map(str::parse::<u64>);
    let (resident, shared) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(resident.saturating_sub(shared))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_pages_are_those_that_nobody_shares() {
        assert_eq!(own_pages("9000 700 200 100 0 500 0\n"), Some(500));
        assert_eq!(own_pages("9000 x 200"), None);
        assert_eq!(own_pages(""), None);
    }

    /// As many clients' buffers leave it: freed, and behind what is still in use.
    #[test]
    fn what_is_free_is_given_back() {
        let part = || vec![1_u8; 64 * 1024];
        let (parts, keeps): (Vec<_>, Vec<_>) = (0..1024).map(|_| (part(), vec![1_u8; 512])).unzip();
        let with_all = resident_bytes().unwrap();
        drop(parts);
        give_back();
        let without = resident_bytes().unwrap();
        assert!(
            with_all.saturating_sub(without) > 32 << 20,
            "{with_all} bytes, and then {without}"
        );
        assert!(keeps.iter().all(|kept| kept[0] == 1));
    }
}
