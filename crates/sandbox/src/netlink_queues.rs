//! What netlink sockets take: they themselves, and the kernel's answers in them that nobody has read, in memory that it
//! counts as nobody's.
//!
//! Each socket may keep some 200 KiB, and a process has thousands of sockets.
//!
//! Source: `netlink_seq_show` in `net/netlink/af_netlink.c` of the kernel; `sk_prot_alloc` in `net/core/sock.c`.

use std::fs::File;
use std::io::{BufRead, BufReader};

use crate::sockets::{self, Protocol};

/// What the kernel takes for a socket: a piece of a power of two.
const SOCKET_BYTES: u64 = 2048;
/// Of the columns sk, Eth, Pid, Groups, Rmem, Wmem and so on.
const WAITING: usize = 4;

/// How many bytes the netlink sockets take of the network that process `pid` is in, with what waits in them, counted up to
/// `enough`. None where the process is gone.
pub fn bytes(pid: u32, enough: u64) -> u64 {
    // Those that nobody has sent by yet are not in the table of what waits.
    let sockets = sockets::count(pid, Protocol::Netlink) * SOCKET_BYTES;
    match File::open(format!("/proc/{pid}/net/netlink")) {
        Ok(table) if sockets < enough => sockets + waiting(BufReader::new(table), enough - sockets),
        Ok(_) | Err(_) => sockets.min(enough),
    }
}

fn waiting(table: impl BufRead, enough: u64) -> u64 {
    let waiting = |line: String| line.split_whitespace().nth(WAITING)?.parse::<u64>().ok();
    let mut sum = 0;
    for bytes in table.lines().map_while(Result::ok).filter_map(waiting) {
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
    fn what_waits_is_summed_up_to_enough() {
        let text = "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n\
                    000000003c5b8c11 0   1234       00000000 4096     0        0     2        0        17\n\
                    000000003c5b8c12 0   0          00000000 100      0        0     2        0        18\n";
        assert_eq!(waiting(text.as_bytes(), u64::MAX), 4196);
        assert_eq!(waiting(text.as_bytes(), 4000), 4000);
    }

    #[test]
    fn a_process_that_is_gone_has_nothing_waiting() {
        assert_eq!(bytes(u32::MAX, 1), 0);
    }
}
