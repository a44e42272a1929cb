//! What a head says besides its target, and what a proxy says before it.

use std::net::IpAddr;

use ace_types::Coding;
use http::header::{ACCEPT_ENCODING, CONNECTION, TE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use ipnet::IpNet;
use jiff::Timestamp;

use crate::accept_encoding::Accepted;
use crate::conditional::{Selection, Version, select};
use crate::fuzz::block_on;
use crate::headers;
use crate::origin::TrustedProxies;
use crate::proxy_protocol;

/// The longest header of the PROXY protocol that is taken.
const PROXY_BYTES_MAX: usize = 16 + 2048;

/// Headers, a line each, from a proxy that is believed, on a file of 1000 bytes.
pub fn headers(bytes: &[u8]) {
    let mut fields = parse(bytes);
    check_selection(&fields);
    let best = Accepted::of(&fields).best(1000, [(Coding::Gzip, 10)].into_iter());
    assert!(best.is_none() || fields.contains_key(ACCEPT_ENCODING));
    let proxy = IpNet::from(IpAddr::from([192, 0, 2, 1]));
    let proxies = TrustedProxies::new(vec![proxy]);
    let origin = proxies.origin(([192, 0, 2, 1], 4711).into(), 80, &mut fields);
    let id = origin.request_id.as_deref().unwrap_or("an-id");
    headers::to_app(&mut fields);
    for gone in [CONNECTION, TE, TRANSFER_ENCODING] {
        assert!(!fields.contains_key(gone));
    }
    let our_word = headers::OurWord::new(&fields, &origin, id);
    let added = our_word.added();
    assert!(added.iter().all(|(name, _)| !fields.contains_key(*name)));
    assert!(added.iter().all(|(_, value)| HeaderValue::from_str(value).is_ok()));
}

/// What `bytes` have of headers, up to a hundred.
fn parse(bytes: &[u8]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(100) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            fields.append(name, value);
        }
    }
    fields
}

/// Parts lie within the file and apart from each other.
fn check_selection(fields: &HeaderMap) {
    let size = 1000;
    let version = Version { etag: "\"a\"".to_owned(), modified: Timestamp::UNIX_EPOCH, size };
    let parts = match select(&Method::GET, fields, &version) {
        Selection::Part(part) => vec![part],
        Selection::Parts(parts) => parts,
        _ => vec![],
    };
    assert!(parts.iter().all(|part| part.first <= part.last && part.last < size));
    assert!(parts.iter().map(|part| part.last - part.first + 1).sum::<u64>() <= size);
}

/// A header of the PROXY protocol is taken off as a whole, or the connection is refused.
pub fn proxy(bytes: &[u8]) {
    let mut rest = bytes;
    let result = block_on(proxy_protocol::read(&mut rest));
    let taken = &bytes[..bytes.len() - rest.len()];
    assert!(taken.len() <= PROXY_BYTES_MAX);
    if result.is_ok() && taken.starts_with(b"PROXY ") {
        assert_eq!(taken.windows(2).position(|pair| pair == b"\r\n"), Some(taken.len() - 2));
    }
}
