//! A request's head as HTTP/1.1. Pure.
//!
//! What an app sees of a request is the same as over uwsgi's protocol: the same headers pass, each
//! once. A body is always announced by its length.

use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::uwsgi::{Request, becomes_variable, joined};

/// What becomes of the connection after the response.
#[derive(Debug, Clone, Copy)]
pub enum Then<'a> {
    /// It takes the next request.
    KeepAlive,
    Close,
    /// It changes to this protocol, if the app agrees.
    Upgrade(&'a HeaderValue),
}

/// Encodes `request`, to be followed by its body.
///
/// `Connection`, `Upgrade` and `Content-Length` are written from `then` and the request's length,
/// whatever its headers say; see [`crate::encode_uwsgi`] for what else does not pass.
pub fn encode_http(request: &Request<'_>, then: Then<'_>) -> Vec<u8> {
    let mut head = Vec::with_capacity(1024);
    head.extend_from_slice(request.method.as_str().as_bytes());
    head.push(b' ');
    head.extend_from_slice(request.path_and_query.as_bytes());
    head.extend_from_slice(b" HTTP/1.1\r\n");
    encode_headers(&mut head, request.headers);
    for (name, value) in request.added {
        field(&mut head, name.as_bytes(), value.as_bytes());
    }
    if let Some(length) = request.content_length {
        field(&mut head, b"content-length", length.to_string().as_bytes());
    }
    match then {
        Then::KeepAlive => {}
        Then::Close => field(&mut head, b"connection", b"close"),
        Then::Upgrade(protocol) => {
            field(&mut head, b"connection", b"upgrade");
            field(&mut head, b"upgrade", protocol.as_bytes());
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// `Host` first, as servers like it best.
fn encode_headers(head: &mut Vec<u8>, headers: &HeaderMap) {
    if let Some(host) = headers.get(HOST) {
        field(head, b"host", host.as_bytes());
    }
    for name in headers.keys().filter(|name| passes(name)) {
        field(head, name.as_str().as_bytes(), &joined(headers, name));
    }
}

fn passes(name: &HeaderName) -> bool {
    let is_ours = matches!(name.as_str(), "host" | "connection" | "upgrade" | "transfer-encoding");
    !is_ours && (*name == CONTENT_TYPE || becomes_variable(name))
}

fn field(head: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        head.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, Version};

    use super::*;

    fn encode(fields: &[(&'static str, &'static str)], length: Option<u64>, then: Then) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let request = Request {
            method: &Method::POST,
            path_and_query: "/a%20b?c",
            request_uri: "/a%20b?c",
            version: Version::HTTP_10,
            headers: &headers,
            added: &[],
            scheme: "http",
            server_name: "shop.localhost",
            server_port: 80,
            remote_address: "192.0.2.1",
            remote_port: 4711,
            content_length: length,
        };
        String::from_utf8(encode_http(&request, then)).unwrap()
    }

    #[test]
    fn a_head_begins_with_its_target_and_host() {
        let head = encode(&[("a", "b"), ("host", "shop")], Some(3), Then::KeepAlive);
        assert_eq!(
            head,
            "POST /a%20b?c HTTP/1.1\r\nhost: shop\r\na: b\r\ncontent-length: 3\r\n\r\n"
        );
    }

    #[test]
    fn how_a_message_is_framed_is_not_the_clients_to_say() {
        let fields = [
            ("transfer-encoding", "chunked"),
            ("connection", "close"),
            ("upgrade", "h2c"),
            ("content-length", "7"),
            ("proxy", "a"),
            ("x_y", "a"),
        ];
        assert_eq!(
            encode(&fields, None, Then::Close),
            "POST /a%20b?c HTTP/1.1\r\nconnection: close\r\n\r\n"
        );
    }

    #[test]
    fn several_values_are_joined_and_an_upgrade_is_asked_for() {
        let fields =
            [("cookie", "a=1"), ("cookie", "b=2"), ("content-type", "x"), ("content-type", "y")];
        let head = encode(&fields, None, Then::Upgrade(&HeaderValue::from_static("websocket")));
        assert!(head.contains("\r\ncookie: a=1; b=2\r\n"), "{head}");
        assert!(head.contains("\r\ncontent-type: x\r\n") && !head.contains(": y"), "{head}");
        assert!(head.ends_with("\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"), "{head}");
    }
}
