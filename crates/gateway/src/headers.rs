//! Which headers cross the gateway, and which are its own. Pure.
//!
//! A client's word on who it is and how it came is dropped and replaced by what [`crate::origin`]
//! found: an app may trust `X-Forwarded-*`, `Forwarded` and `X-Request-Id`.

use ace_upstream::{Added, address_text};
use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    EXPECT, HOST, LOCATION, PROXY_AUTHORIZATION, SERVER, SET_COOKIE, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::origin::Origin;

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

pub const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Headers between two neighbours, which end here in either direction.
const HOP_BY_HOP: [HeaderName; 7] =
    [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// What has a meaning before a body alone.
const NEVER_TRAILERS: [HeaderName; 9] = [
    CACHE_CONTROL,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    HOST,
    LOCATION,
    SET_COOKIE,
    X_REQUEST_ID,
];

/// Headers that are ours to say: how a request came here, by whatever name an app may read, and what it's called.
const OURS: [&str; 9] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-real-ip",
    "x-request-id",
];

/// Our own word on how a request came here, which an app gets besides its client's headers.
pub struct OurWord<'a> {
    host: &'a str,
    scheme: &'static str,
    port: String,
    client: String,
    forwarded: String,
    request_id: &'a str,
}

impl<'a> OurWord<'a> {
    pub fn new(headers: &'a HeaderMap, origin: &Origin, request_id: &'a str) -> Self {
        // It has been found to be a host.
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let client = address_text(origin.client.ip().to_canonical());
        let port = itoa::Buffer::new().format(origin.port).to_owned();
        let (scheme, forwarded) = (origin.scheme, forwarded(&client, origin.scheme, host));
        Self { host, scheme, port, client, forwarded, request_id }
    }

    /// The client's address.
    pub fn client(&self) -> &str {
        &self.client
    }

    pub fn added(&self) -> [Added<'_>; 6] {
        [
            ("x-forwarded-proto", self.scheme),
            ("x-forwarded-port", &self.port),
            ("x-request-id", self.request_id),
            ("forwarded", &self.forwarded),
            ("x-forwarded-host", self.host),
            ("x-forwarded-for", &self.client),
        ]
    }
}

/// Makes a client's headers those that an app gets, beside [`OurWord`].
pub fn to_app(headers: &mut HeaderMap) {
    drop_hop_by_hop(headers);
    // The gateway has met the expectation by then.
    drop_all(headers, |name| {
        *name == EXPECT || *name == PROXY_AUTHORIZATION || OURS.contains(&name.as_str())
    });
}

/// Source: RFC 7239.
fn forwarded(client: &str, scheme: &str, host: &str) -> String {
    let (open, close) = if client.contains(':') { ("\"[", "]\"") } else { ("", "") };
    ["for=", open, client, close, ";host=\"", host, "\";proto=", scheme].concat()
}

/// Makes an app's headers those that a client gets; `length` is the body's, where one is known.
pub fn to_client(headers: &mut HeaderMap, status: StatusCode, length: Option<u64>) {
    // An announcement for the client: over HTTP/1, trailers that are not announced are not sent.
    let announced = length.is_none().then(|| headers.get(TRAILER).cloned()).flatten();
    drop_hop_by_hop(headers);
    if let Some(announced) = announced {
        headers.insert(TRAILER, announced);
    }
    if status == StatusCode::NO_CONTENT {
        headers.remove(CONTENT_LENGTH);
    } else if let Some(length) = length
        && !says_length(headers, length)
    {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length)); // One, however many there were.
    }
}

/// Whether `headers` say `length` once, and as we would.
fn says_length(headers: &HeaderMap, length: u64) -> bool {
    let mut said = headers.get_all(CONTENT_LENGTH).iter();
    let mut ours = itoa::Buffer::new();
    said.next().is_some_and(|said| said == ours.format(length)) && said.next().is_none()
}

/// What a client gets of an app's trailers: none that would be about the message rather than the content.
/// Source: RFC 9110, section 6.5.1.
pub fn trailers(mut trailers: HeaderMap) -> Option<HeaderMap> {
    drop_hop_by_hop(&mut trailers);
    for name in NEVER_TRAILERS {
        trailers.remove(name);
    }
    Some(trailers).filter(|trailers| !trailers.is_empty())
}

/// As [`to_client`], for a response with status 101.
pub fn to_upgraded_client(headers: &mut HeaderMap) {
    let protocol = headers.get(UPGRADE).cloned();
    drop_hop_by_hop(headers);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        headers.insert(UPGRADE, protocol);
    }
}

/// Puts the gateway's own headers on any response.
pub fn sign(headers: &mut HeaderMap, request_id: &str) {
    headers.insert(SERVER, HeaderValue::from_static("ace"));
    insert(headers, X_REQUEST_ID, request_id.to_owned());
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let is_hop_by_hop = |name: &HeaderName| HOP_BY_HOP.contains(name);
    if headers.keys().any(is_hop_by_hop) {
        for name in named_by_connection(headers) {
            headers.remove(name);
        }
        drop_all(headers, is_hop_by_hop);
    }
}

/// Removes the headers that are `unwanted`. Mostly there are few headers and none of those, so it's cheaper to look
/// at each than for each.
fn drop_all(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let found: Vec<_> = headers.keys().filter(|name| unwanted(name)).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// What `Connection` names. Never what says where a message goes or how long it is.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(CONNECTION).iter();
    let tokens = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let names = tokens.filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok());
    names.filter(|name| *name != HOST && *name != CONTENT_LENGTH).collect()
}

/// Inserts what is known to be a valid value: addresses and ids in ASCII.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: impl Into<Bytes>) {
    match HeaderValue::from_maybe_shared(value.into()) {
        Ok(value) => _ = headers.insert(name, value),
        Err(_) => _ = headers.remove(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_client_can_not_say_who_it_is() {
        let mut headers = headers(&[
            ("host", "shop.localhost"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-real-ip", "10.0.0.1"),
            ("x-request-id", "mine"),
            ("connection", "x-forwarded-proto, host, x-private"),
            ("x-private", "1"),
        ]);
        let client = "192.0.2.1:4711".parse().unwrap();
        let origin = Origin { client, scheme: "http", port: 8080, request_id: None };
        to_app(&mut headers);
        let clients = headers.clone();
        for (name, value) in OurWord::new(&clients, &origin, "ours").added() {
            assert!(headers.insert(name, value.parse().unwrap()).is_none(), "{name}");
        }
        assert_eq!(headers["x-forwarded-for"], "192.0.2.1");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-host"], "shop.localhost");
        assert_eq!(headers["x-forwarded-port"], "8080");
        assert_eq!(headers["forwarded"], "for=192.0.2.1;host=\"shop.localhost\";proto=http");
        assert_eq!(headers["x-request-id"], "ours");
        for gone in ["x-real-ip", "connection", "x-private"] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
    }

    #[test]
    fn an_apps_connection_is_not_the_clients() {
        let mut headers = headers(&[
            ("connection", "close"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "h2c"),
            ("content-length", "3"),
            ("content-length", "3"),
            ("set-cookie", "a=b"),
        ]);
        to_client(&mut headers, StatusCode::OK, Some(3));
        assert_eq!(headers.len(), 2);
        assert_eq!(headers["content-length"], "3");
    }
}
