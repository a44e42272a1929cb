//! What netlink sockets take: they themselves, and the kernel's answers in them that nobody has read, in memory that it
//! counts as nobody's.
//!
//! Each socket may keep some 200 KiB, and a process has thousands of sockets.
//!
//! Source: `netlink_seq_show` in `net/netlink/af_netlink.c` of the kernel; `sk_prot_alloc` and `proto_seq_printf` in
//! `net/core/sock.c`.

use std::fs::File;
use std::io::{BufRead, BufReader};

/// What the kernel takes for a socket: a piece of a power of two.
const SOCKET_BYTES: u64 = 2048;
/// Of the columns protocol, size, sockets and so on.
const SOCKETS: usize = 2;
const PROTOCOL: &str = "NETLINK";
/// Of the columns sk, Eth, Pid, Groups, Rmem, Wmem and so on.
const WAITING: usize = 4;

/// How many bytes the netlink sockets take of the network that process `pid` is in, with what waits in them, counted up to
/// `enough`. None where the process is gone.
pub fn bytes(pid: u32, enough: u64) -> u64 {
    let open = |name: &str| File::open(format!("/proc/{pid}/net/{name}")).map(BufReader::new);
    // Those that nobody has sent by yet are in the first table alone, which is short.
    let sockets = open("protocols").map_or(0, |table| sockets(table) * SOCKET_BYTES);
    match open("netlink") {
        Ok(table) if sockets < enough => sockets + waiting(table, enough - sockets),
        Ok(_) | Err(_) => sockets.min(enough),
    }
}

fn sockets(table: impl BufRead) -> u64 {
    let line = table.lines().map_while(Result::ok).find(|line| line.starts_with(PROTOCOL));
    line.and_then(|line| number(&line, SOCKETS)).unwrap_or(0)
}

fn waiting(table: impl BufRead, enough: u64) -> u64 {
    let mut sum = 0;
    for line in table.lines().map_while(Result::ok) {
        sum += number(&line, WAITING).unwrap_or(0);
        if sum >= enough {
            return enough;
        }
    }
    sum
}

fn number(line: &str, column: usize) -> Option<u64> {
    line.split_whitespace().nth(column)?.parse().ok()
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
    fn sockets_are_counted_whether_they_are_bound_or_not() {
        let text = "protocol  size sockets  memory press maxhdr  slab module\n\
                    TCP       2304     17    1657   no     192   yes  kernel\n\
                    NETLINK   1096   1000      -1   NI       0   no   kernel\n";
        assert_eq!(sockets(text.as_bytes()), 1000);
        assert_eq!(sockets("".as_bytes()), 0);
    }

    #[test]
    fn a_process_that_is_gone_has_nothing_waiting() {
        assert_eq!(bytes(u32::MAX, 1), 0);
    }
}
