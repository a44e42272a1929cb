//! Where the processes of a container listen.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The most that is read of the kernel's tables, which a tenant's connections fill.
const TABLE_BYTES_MAX: u64 = 1 << 20;
/// The state of a socket that listens. Source: Linux, `include/net/tcp_states.h`.
const LISTEN: &str = "0A";

/// The TCP addresses that something listens on in the network namespace of the process `pid`, in
/// order, each once. Of a table longer than a mebibyte, what its beginning tells.
pub fn of(pid: u32) -> io::Result<Vec<SocketAddr>> {
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        let mut text = String::new();
        match File::open(format!("/proc/{pid}/net/{table}")) {
            Ok(file) => drop(file.take(TABLE_BYTES_MAX).read_to_string(&mut text)?),
            // A kernel without IPv6 has no table for it.
            Err(error) if error.kind() == io::ErrorKind::NotFound && table == "tcp6" => {}
            Err(error) => return Err(error),
        }
        found.extend(text.lines().filter_map(listener));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// The local address of a line of the table, if it's of a socket that listens.
fn listener(line: &str) -> Option<SocketAddr> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, _remote, state) = (fields.next()?, fields.next()?, fields.next()?);
    let (address, port) = local.split_once(':').filter(|_| state == LISTEN)?;
    Some(SocketAddr::new(ip(address)?, u16::from_str_radix(port, 16).ok()?))
}

/// An address as the kernel prints it: 32-bit words in hexadecimal, each in the machine's byte order.
fn ip(text: &str) -> Option<IpAddr> {
    let word = |index: usize| {
        let digits = text.get(index * 8..index * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (index, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(index)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn what_listens_is_found_and_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connected = std::net::TcpStream::connect(address).unwrap();
        let found = of(std::process::id()).unwrap();
        assert!(found.contains(&address), "{found:?}");
        assert!(!found.contains(&connected.local_addr().unwrap()), "{found:?}");
        drop(listener);
        assert!(!of(std::process::id()).unwrap().contains(&address));
    }

    #[test]
    fn lines_that_are_none_of_the_kernels_are_passed_over() {
        for line in ["", "  sl  local_address rem_address   st", "0: xyz:1 0:0 0A", "0: é:1 0:0 0A"]
        {
            assert_eq!(listener(line), None, "{line}");
        }
    }
}
