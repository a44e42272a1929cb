//! A request as one uwsgi packet: four bytes of header, then CGI variables. Pure.
//!
//! The packet carries the request's head; its body follows on the same socket as it is.
//! Source: <https://uwsgi-docs.readthedocs.io/en/latest/Protocol.html>, and PEP 3333 for what the
//! variables mean.

use std::borrow::Cow;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST};
use http::{HeaderMap, HeaderName, Method, Version};

use crate::percent::percent_decode;

/// The head of a request, for an app.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    pub method: &'a Method,
    /// What the app is asked for: `/a%20b?c=d`. Begins with `/`, or is `*`.
    pub path_and_query: &'a str,
    /// What the client asked for; the same, unless rules have led the request elsewhere.
    pub request_uri: &'a str,
    pub version: Version,
    /// What the app gets as `HTTP_*`; see [`encode_uwsgi`] for what it does not.
    pub headers: &'a HeaderMap,
    /// Headers of our own beside those, which have none of these names; in lowercase.
    pub added: &'a [Added<'a>],
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The host that was asked for, without port.
    pub server_name: &'a str,
    pub server_port: u16,
    /// Where the client is: its address as everybody spells it, and its port.
    pub remote_address: &'a str,
    pub remote_port: u16,
    /// Bytes of body that follow the packet; `None` where there is none.
    pub content_length: Option<u64>,
}

/// A header that whoever sends the request adds to the client's.
pub type Added<'a> = (&'static str, &'a str);

/// Why a request can't be a uwsgi packet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("the request's head is larger than the {PACKET_BYTES_MAX} bytes of a uwsgi packet")]
    TooLarge,
}

/// What the 16 bits of the protocol's length can say.
pub const PACKET_BYTES_MAX: usize = u16::MAX as usize;

/// Bytes before the variables: modifier 1, length (16 bits, little endian), modifier 2.
const HEADER_BYTES: usize = 4;

/// Encodes `request` as a uwsgi packet with modifiers 0, to be followed by its body.
///
/// `PATH_INFO` is the path percent-decoded, `REQUEST_URI` the client's target untouched. A header that
/// comes several times is joined by `, ` (`Cookie` by `; `). Left out are names with an underscore,
/// which an app can't tell from those with a hyphen, and `Proxy`, which many a library would take
/// for the environment's `HTTP_PROXY`.
///
/// Errors: [`EncodeError::TooLarge`].
pub fn encode_uwsgi(request: &Request<'_>) -> Result<Vec<u8>, EncodeError> {
    let mut packet = Packet::new();
    encode_target(&mut packet, request)?;
    encode_peers(&mut packet, request)?;
    encode_headers(&mut packet, request)?;
    Ok(packet.finish())
}

fn encode_target(packet: &mut Packet, request: &Request<'_>) -> Result<(), EncodeError> {
    let target = request.path_and_query;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    packet.variable(b"REQUEST_METHOD", request.method.as_str().as_bytes())?;
    packet.variable(b"REQUEST_URI", request.request_uri.as_bytes())?;
    packet.variable(b"SCRIPT_NAME", b"")?;
    packet.variable(b"PATH_INFO", &percent_decode(path))?;
    packet.variable(b"QUERY_STRING", query.as_bytes())?;
    packet.variable(b"SERVER_PROTOCOL", protocol(request.version).as_bytes())
}

fn encode_peers(packet: &mut Packet, request: &Request<'_>) -> Result<(), EncodeError> {
    packet.variable(b"REQUEST_SCHEME", request.scheme.as_bytes())?;
    if request.scheme == "https" {
        packet.variable(b"HTTPS", b"on")?;
    }
    packet.variable(b"SERVER_NAME", request.server_name.as_bytes())?;
    packet.number(b"SERVER_PORT", request.server_port)?;
    packet.variable(b"REMOTE_ADDR", request.remote_address.as_bytes())?;
    packet.number(b"REMOTE_PORT", request.remote_port)
}

fn encode_headers(packet: &mut Packet, request: &Request<'_>) -> Result<(), EncodeError> {
    match request.content_length {
        Some(length) => packet.number(b"CONTENT_LENGTH", length)?,
        None => packet.variable(b"CONTENT_LENGTH", b"")?,
    }
    let content_type = request.headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    packet.variable(b"CONTENT_TYPE", content_type)?;
    for name in request.headers.keys().filter(|name| becomes_variable(name)) {
        packet.header(name.as_str(), &joined(request.headers, name))?;
    }
    for (name, value) in request.added {
        packet.header(name, value.as_bytes())?;
    }
    Ok(())
}

/// Whether a header reaches the app as `HTTP_*`.
pub(crate) fn becomes_variable(name: &HeaderName) -> bool {
    *name != CONTENT_TYPE
        && *name != CONTENT_LENGTH
        && name.as_str() != "proxy"
        && !name.as_str().contains('_')
}

/// All values of a header as one. Some can't be joined: their first one counts.
pub(crate) fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Cow<'a, [u8]> {
    let mut values = headers.get_all(name).iter().map(|value| value.as_bytes());
    let first = values.next().unwrap_or_default();
    let mut whole = Cow::Borrowed(first);
    if *name == HOST || *name == CONTENT_TYPE {
        return whole;
    }
    let separator: &[u8] = if *name == COOKIE { b"; " } else { b", " };
    for value in values {
        let whole = whole.to_mut();
        whole.extend_from_slice(separator);
        whole.extend_from_slice(value);
    }
    whole
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

/// What the name of a header's variable begins with.
const HTTP: &[u8] = b"HTTP_";

/// What stands in a variable's name for each byte of a header's.
const IN_VARIABLES: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut byte = 0;
    while byte < bytes.len() {
        bytes[byte] = if byte == b'-' as usize { b'_' } else { (byte as u8).to_ascii_uppercase() };
        byte += 1;
    }
    bytes
};

/// A packet in the making.
struct Packet {
    bytes: Vec<u8>,
}

impl Packet {
    fn new() -> Self {
        let mut bytes = Vec::with_capacity(1024);
        bytes.resize(HEADER_BYTES, 0);
        Self { bytes }
    }

    /// Appends one variable: each of the two strings after its length in 16 bits.
    fn variable(&mut self, name: &[u8], value: &[u8]) -> Result<(), EncodeError> {
        self.bytes.reserve(2 + name.len() + 2 + value.len());
        self.string(name.len(), |bytes| bytes.extend_from_slice(name))?;
        self.string(value.len(), |bytes| bytes.extend_from_slice(value))
    }

    /// Appends one variable that is a number.
    fn number(&mut self, name: &[u8], value: impl itoa::Integer) -> Result<(), EncodeError> {
        self.variable(name, itoa::Buffer::new().format(value).as_bytes())
    }

    /// Appends a header as the variable that it becomes.
    fn header(&mut self, name: &str, value: &[u8]) -> Result<(), EncodeError> {
        self.string(HTTP.len() + name.len(), |bytes| {
            bytes.extend_from_slice(HTTP);
            bytes.extend(name.bytes().map(|byte| IN_VARIABLES[usize::from(byte)]));
        })?;
        self.string(value.len(), |bytes| bytes.extend_from_slice(value))
    }

    /// Appends the `length` bytes that `append` does, after their number.
    fn string(
        &mut self,
        length: usize,
        append: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), EncodeError> {
        if self.length() + 2 + length > PACKET_BYTES_MAX {
            return Err(EncodeError::TooLarge);
        }
        // The packet's bound is what 16 bits hold.
        self.bytes.extend_from_slice(&(length as u16).to_le_bytes());
        append(&mut self.bytes);
        Ok(())
    }

    fn finish(mut self) -> Vec<u8> {
        // `string` keeps the length below what 16 bits hold.
        let length = (self.length() as u16).to_le_bytes();
        self.bytes[1..3].copy_from_slice(&length);
        self.bytes
    }

    fn length(&self) -> usize {
        self.bytes.len() - HEADER_BYTES
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn request<'a>(target: &'a str, headers: &'a HeaderMap) -> Request<'a> {
        Request {
            method: &Method::GET,
            path_and_query: target,
            request_uri: target,
            version: Version::HTTP_11,
            headers,
            added: &[],
            scheme: "http",
            server_name: "shop.localhost",
            server_port: 8080,
            remote_address: "192.0.2.1",
            remote_port: 4711,
            content_length: None,
        }
    }

    /// The variables of a packet, in order; panics unless its lengths add up.
    fn decode(packet: &[u8]) -> Vec<(String, Vec<u8>)> {
        assert_eq!((packet[0], packet[3]), (0, 0));
        assert_eq!(usize::from(u16::from_le_bytes([packet[1], packet[2]])), packet.len() - 4);
        let mut rest = &packet[4..];
        let mut take = || {
            let (length, tail) = rest.split_at_checked(2)?;
            let length = usize::from(u16::from_le_bytes([length[0], length[1]]));
            let (text, tail) = tail.split_at(length);
            rest = tail;
            Some(text.to_vec())
        };
        let mut variables = Vec::new();
        while let Some(name) = take() {
            variables.push((String::from_utf8(name).unwrap(), take().unwrap()));
        }
        variables
    }

    fn variable(target: &str, headers: &HeaderMap, name: &str) -> Option<String> {
        let packet = encode_uwsgi(&request(target, headers)).unwrap();
        let found = decode(&packet).into_iter().find(|(key, _)| key == name)?;
        Some(String::from_utf8(found.1).unwrap())
    }

    #[test]
    fn the_path_is_decoded_and_the_target_is_not() {
        let headers = HeaderMap::new();
        let get = |name| variable("/a%20b%2Fc%zz?d=%20", &headers, name);
        assert_eq!(get("PATH_INFO").as_deref(), Some("/a b/c%zz"));
        assert_eq!(get("QUERY_STRING").as_deref(), Some("d=%20"));
        assert_eq!(get("REQUEST_URI").as_deref(), Some("/a%20b%2Fc%zz?d=%20"));
        assert_eq!(get("SCRIPT_NAME").as_deref(), Some(""));
        assert_eq!(get("REMOTE_ADDR").as_deref(), Some("192.0.2.1"));
        assert_eq!(get("HTTPS"), None);
    }

    #[test]
    fn repeated_headers_are_joined() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("accept", "a"), ("accept", "b"), ("cookie", "c=1"), ("cookie", "d=2")]
        {
            headers.append(name, HeaderValue::from_static(value));
        }
        assert_eq!(variable("/", &headers, "HTTP_ACCEPT").as_deref(), Some("a, b"));
        assert_eq!(variable("/", &headers, "HTTP_COOKIE").as_deref(), Some("c=1; d=2"));
    }

    #[test]
    fn what_is_added_comes_like_any_header() {
        let added = [("x-forwarded-for", "192.0.2.1")];
        let headers = HeaderMap::new();
        let packet = encode_uwsgi(&Request { added: &added, ..request("/", &headers) }).unwrap();
        let last = decode(&packet).pop().unwrap();
        assert_eq!(last, ("HTTP_X_FORWARDED_FOR".to_owned(), b"192.0.2.1".to_vec()));
    }

    #[test]
    fn headers_that_could_pass_for_others_are_left_out() {
        let mut headers = HeaderMap::new();
        for name in ["proxy", "x_forwarded_for", "content-length", "content-type"] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        let packet = encode_uwsgi(&request("/", &headers)).unwrap();
        assert!(decode(&packet).iter().all(|(name, _)| !name.starts_with("HTTP_")));
    }

    #[test]
    fn a_head_beyond_64_kib_is_refused() {
        let target = format!("/{}", "a".repeat(40_000));
        let headers = HeaderMap::new();
        assert_eq!(encode_uwsgi(&request(&target, &headers)), Err(EncodeError::TooLarge));
    }

    proptest! {
        #[test]
        fn whatever_is_encoded_decodes_to_the_same(
            target in "/[a-zA-Z0-9%/._?&=-]{0,200}",
            values in prop::collection::vec("[ -~]{0,100}", 0..8),
        ) {
            let mut headers = HeaderMap::new();
            for (index, value) in values.iter().enumerate() {
                let name: HeaderName = format!("x-{index}").parse().unwrap();
                headers.insert(name, value.parse().unwrap());
            }
            let variables = decode(&encode_uwsgi(&request(&target, &headers)).unwrap());
            for (index, value) in values.iter().enumerate() {
                let name = format!("HTTP_X_{index}");
                let found = variables.iter().find(|(key, _)| *key == name).map(|(_, v)| v);
                prop_assert_eq!(found.map(Vec::as_slice), Some(value.as_bytes()));
            }
            prop_assert_eq!(&variables[1].1, target.as_bytes());
        }

        #[test]
        fn decoding_undoes_escaping(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let escaped: String = bytes.iter().map(|byte| format!("%{byte:02x}")).collect();
            let decoded = percent_decode(&escaped);
            prop_assert_eq!(decoded.as_ref(), bytes.as_slice());
        }
    }
}
