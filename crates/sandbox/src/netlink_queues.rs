//! What waits in netlink sockets: the kernel's answers that nobody has read, in memory that it counts as nobody's.
//!
//! Each socket may keep some 200 KiB, and a process has thousands of sockets.
//!
//! Source: `netlink_seq_show` in `net/netlink/af_netlink.c` of the kernel.

use std::fs::File;
use std::io::{BufRead, BufReader};

/// Of the columns sk, Eth, Pid, Groups, Rmem, Wmem and so on.
const WAITING: usize = 4;

/// How many bytes wait in the netlink sockets of the network that process `pid` is in, counted up to `enough`. None where the process is
/// gone.
pub fn waiting_bytes(pid: u32, enough: u64) -> u64 {
    match File::open(format!("/proc/{pid}/net/netlink")) {
        Ok(file) => sum(BufReader::new(file), enough),
        Err(_) => 0,
    }
}

fn sum(lines: impl BufRead, enough: u64) -> u64 {
    let waiting = |line: String| line.split_whitespace().nth(WAITING)?.parse::<u64>().ok();
    let mut sum = 0;
    for bytes in lines.lines().map_while(Result::ok).filter_map(waiting) {
        sum += bytes;
        if sum >= enough {
            return enough;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_column_of_what_waits_is_summed_up_to_enough() {
        let text = "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n\
                    000000003c5b8c11 0   1234       00000000 4096     0        0     2        0        17\n\
                    000000003c5b8c12 0   0          00000000 100      0        0     2        0        18\n";
        assert_eq!(sum(text.as_bytes(), u64::MAX), 4196);
        assert_eq!(sum(text.as_bytes(), 4000), 4000);
    }

    #[test]
    fn a_process_that_is_gone_has_nothing_waiting() {
        assert_eq!(waiting_bytes(u32::MAX, 1), 0);
    }
}
