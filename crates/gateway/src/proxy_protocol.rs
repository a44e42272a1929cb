//! What a proxy says before the first byte of HTTP: the PROXY protocol, versions 1 and 2.
//!
//! Source: <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>.

use std::io;
use std::net::SocketAddr;

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Why a connection's beginning can't be understood.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("could not read it")]
    Read(#[from] io::Error),
    #[error("it begins with no PROXY header")]
    Missing,
    #[error("its PROXY header is not one of version 1")]
    Version1,
    #[error("its PROXY header is not one of version 2")]
    Version2,
}

/// Both versions are at least as long; a request of HTTP is, too.
const BEGINNING_BYTES: usize = 12;

/// The longest header of version 1, its CR LF included.
const VERSION_1_BYTES_MAX: usize = 107;

/// Bytes of version 2 before those whose number it gives, and the most of those that are taken.
const VERSION_2_FIXED_BYTES: usize = 16;
const VERSION_2_REST_BYTES_MAX: usize = 2048;

/// Reads the header off `stream`, and not a byte more. Returns where the client is; `None` where the
/// proxy speaks for itself, as for a health check, or of no address.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, ProxyError> {
    let mut header = vec![0; BEGINNING_BYTES];
    stream.read_exact(&mut header).await?;
    if header == v2::PROTOCOL_PREFIX {
        return read_version_2(stream, header).await;
    }
    match header.starts_with(v1::PROTOCOL_PREFIX.as_bytes()) {
        true => read_version_1(stream, header).await,
        false => Err(ProxyError::Missing),
    }
}

async fn read_version_1(
    stream: &mut (impl AsyncRead + Unpin),
    mut header: Vec<u8>,
) -> Result<Option<SocketAddr>, ProxyError> {
    // A byte at a time: nothing after the line may be taken off, and its length is not known.
    while !header.ends_with(b"\r\n") {
        if header.len() == VERSION_1_BYTES_MAX {
            return Err(ProxyError::Version1);
        }
        header.push(stream.read_u8().await?);
    }
    let header = v1::Header::try_from(&*header).map_err(|_| ProxyError::Version1)?;
    Ok(match header.addresses {
        v1::Addresses::Tcp4(tcp) => Some((tcp.source_address, tcp.source_port).into()),
        v1::Addresses::Tcp6(tcp) => Some((tcp.source_address, tcp.source_port).into()),
        v1::Addresses::Unknown => None,
    })
}

async fn read_version_2(
    stream: &mut (impl AsyncRead + Unpin),
    mut header: Vec<u8>,
) -> Result<Option<SocketAddr>, ProxyError> {
    header.resize(VERSION_2_FIXED_BYTES, 0);
    stream.read_exact(&mut header[BEGINNING_BYTES..]).await?;
    let rest = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if rest > VERSION_2_REST_BYTES_MAX {
        return Err(ProxyError::Version2);
    }
    header.resize(VERSION_2_FIXED_BYTES + rest, 0);
    stream.read_exact(&mut header[VERSION_2_FIXED_BYTES..]).await?;
    let header = v2::Header::try_from(&*header).map_err(|_| ProxyError::Version2)?;
    if header.command == v2::Command::Local {
        return Ok(None);
    }
    Ok(match header.addresses {
        v2::Addresses::IPv4(ip) => Some((ip.source_address, ip.source_port).into()),
        v2::Addresses::IPv6(ip) => Some((ip.source_address, ip.source_port).into()),
        v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is read of `bytes`, and what is left of them.
    fn read_of(bytes: &[u8]) -> (Result<Option<String>, ProxyError>, &[u8]) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut rest = bytes;
        let result = runtime.block_on(read(&mut rest));
        (result.map(|address| address.map(|address| address.to_string())), rest)
    }

    fn version_2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let mut header = v2::PROTOCOL_PREFIX.to_vec();
        header.extend([0x20 | command, family]);
        header.extend((addresses.len() as u16).to_be_bytes());
        header.extend(addresses);
        header.extend(b"GET /");
        header
    }

    #[test]
    fn a_header_says_who_the_client_is() {
        let one = |text: &str| {
            let text = format!("{text}\r\nGET /");
            let (address, rest) = read_of(text.as_bytes());
            assert_eq!(rest, b"GET /");
            address.unwrap()
        };
        let client = one("PROXY TCP4 192.0.2.1 10.0.0.1 4711 80");
        assert_eq!(client.as_deref(), Some("192.0.2.1:4711"));
        let client = one("PROXY TCP6 2001:db8::1 2001:db8::2 4711 80");
        assert_eq!(client.as_deref(), Some("[2001:db8::1]:4711"));
        assert_eq!(one("PROXY UNKNOWN"), None);
    }

    #[test]
    fn version_2_says_it_in_bytes() {
        let ports = [0x12, 0x67, 0, 80];
        let four = [&[192, 0, 2, 1, 10, 0, 0, 1][..], &ports].concat();
        let tlv = [&four[..], &[0x04, 0, 2, 1, 2]].concat();
        for (header, client) in [
            (version_2(1, 0x11, &four), Some("192.0.2.1:4711")),
            (version_2(1, 0x11, &tlv), Some("192.0.2.1:4711")),
            (version_2(0, 0x11, &four), None),
            (version_2(0, 0, &[]), None),
        ] {
            let (address, rest) = read_of(&header);
            assert_eq!((address.unwrap().as_deref(), rest), (client, &b"GET /"[..]));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        assert!(matches!(read_of(b"GET / HTTP/1.1\r\n").0, Err(ProxyError::Missing)));
        let long = format!("PROXY TCP4 {}\r\n", "1".repeat(200));
        for bad in ["PROXY TCP4 192.0.2.1 10.0.0.1 4711\r\n", "PROXY TCP9 1 2 3 4\r\n", &long] {
            assert!(matches!(read_of(bad.as_bytes()).0, Err(ProxyError::Version1)), "{bad}");
        }
        let long = version_2(1, 0x11, &[0; 3000]);
        for bad in [version_2(1, 0x11, &[1; 4]), version_2(7, 0x11, &[1; 12]), long] {
            assert!(matches!(read_of(&bad).0, Err(ProxyError::Version2)), "{bad:?}");
        }
        assert!(matches!(read_of(b"PROXY").0, Err(ProxyError::Read(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let with_prefix = [v2::PROTOCOL_PREFIX, &bytes].concat();
            let _ = (read_of(&with_prefix), read_of(&[b"PROXY ", &*bytes].concat()));
        }
    }
}
