//! How many sockets a container has, by what they speak.
//!
//! Source: `proto_seq_printf` in `net/core/sock.c` of the kernel.

use std::fs::File;
use std::io::{BufRead, BufReader};

/// Of the columns protocol, size, sockets and so on.
const SOCKETS: usize = 2;

/// What sockets speak, by either version of the internet's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// MPTCP too, whose sockets have others of TCP below them.
    Tcp,
    Netlink,
}

impl Protocol {
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Tcp => &["TCP", "TCPv6"],
            Self::Netlink => &["NETLINK"],
        }
    }
}

/// How many sockets of `protocol` there are in the network that process `pid` is in: of TCP those that listen, are connected or
/// about to be. None where the process is gone.
pub fn count(pid: u32, protocol: Protocol) -> u64 {
    // A short table: a line a protocol.
    match File::open(format!("/proc/{pid}/net/protocols")) {
        Ok(table) => sum(BufReader::new(table), protocol.names()),
        Err(_) => 0,
    }
}

fn sum(table: impl BufRead, names: &[&str]) -> u64 {
    let sockets = |line: String| {
        let mut columns = line.split_whitespace();
        let is_one = names.contains(&columns.next()?);
        let sockets = columns.nth(SOCKETS - 1)?.parse::<u64>().ok()?;
        is_one.then_some(sockets)
    };
    table.lines().map_while(Result::ok).filter_map(sockets).sum()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn sockets_are_counted_by_what_they_speak() {
        let text = "protocol  size sockets  memory press maxhdr  slab module\n\
                    MPTCP     1936      4    1657   no       0   yes  kernel\n\
                    TCPv6     2432      3    1657   no     192   yes  kernel\n\
                    TCP       2304     17    1657   no     192   yes  kernel\n\
                    NETLINK   1096   1000      -1   NI       0   no   kernel\n";
        let count = |protocol: Protocol| sum(text.as_bytes(), protocol.names());
        assert_eq!((count(Protocol::Tcp), count(Protocol::Netlink)), (20, 1000));
    }

    #[test]
    fn a_socket_of_this_process_counts_and_a_process_that_is_gone_has_none() {
        let _listening = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(count(std::process::id(), Protocol::Tcp) >= 1);
        assert_eq!(count(u32::MAX, Protocol::Tcp), 0);
    }
}
