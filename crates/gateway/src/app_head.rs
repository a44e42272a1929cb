//! The head of a request as an app gets it, in whichever protocol its server speaks. Pure.

use ace_types::{HostName, Protocol};
use ace_upstream::{EncodeError, Request, Then, encode_http, encode_uwsgi};
use http::header::{CONNECTION, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Uri, Version};

use crate::headers::OurWord;
use crate::origin::Origin;
use crate::target::origin_form;

/// What an app is told of a request besides its body.
#[derive(Debug)]
pub struct AppHead<'a> {
    pub method: Method,
    /// What the client asked for.
    pub uri: Uri,
    /// What the app is asked for instead, where rules have led elsewhere.
    pub rewritten: Option<String>,
    pub version: Version,
    /// As [`crate::headers::to_app`] made them.
    pub headers: HeaderMap,
    pub host: &'a HostName,
    pub origin: &'a Origin,
    pub request_id: &'a str,
    /// Bytes of body; `None` where the client has said nothing of one.
    pub content_length: Option<u64>,
    /// The request is for a switch to this protocol.
    pub upgrade: Option<HeaderValue>,
}

impl AppHead<'_> {
    /// Encodes it for a server that speaks `protocol`; `keep_alive` if another request may follow on
    /// the connection. An upgrade is asked for over HTTP only.
    pub fn encode(&self, protocol: Protocol, keep_alive: bool) -> Result<Vec<u8>, EncodeError> {
        let request_uri = origin_form(&self.uri);
        let our_word = OurWord::new(&self.headers, self.origin, self.request_id);
        let request = Request {
            method: &self.method,
            path_and_query: self.rewritten.as_deref().unwrap_or(&request_uri),
            request_uri: &request_uri,
            version: self.version,
            headers: &self.headers,
            added: &our_word.added(),
            scheme: self.origin.scheme,
            server_name: self.host.as_str(),
            server_port: self.origin.port,
            remote_address: our_word.client(),
            remote_port: self.origin.client.port(),
            content_length: self.content_length,
        };
        match (protocol, &self.upgrade) {
            (Protocol::Uwsgi, _) => encode_uwsgi(&request),
            (Protocol::Http, Some(protocol)) => Ok(encode_http(&request, Then::Upgrade(protocol))),
            (Protocol::Http, None) if keep_alive => Ok(encode_http(&request, Then::KeepAlive)),
            (Protocol::Http, None) => Ok(encode_http(&request, Then::Close)),
        }
    }

    /// Whether it can be sent again though an app may have seen it, and leaves its connection clean.
    pub fn is_safe(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD | Method::OPTIONS)
            && self.content_length.is_none()
            && self.upgrade.is_none()
    }
}

/// The protocol that a client wants to switch to. Only WebSocket passes: to let others through would
/// be to let requests past the gateway.
pub fn wanted_upgrade(parts: &Parts) -> Option<HeaderValue> {
    let mut protocols = parts.headers.get_all(UPGRADE).iter();
    let protocol = protocols.next().filter(|protocol| is_websocket(protocol))?;
    let fits = parts.method == Method::GET
        && parts.version == Version::HTTP_11
        && protocols.next().is_none()
        && asks_for_upgrade(&parts.headers);
    fits.then(|| protocol.clone())
}

/// Whether `headers`, of a response with status 101, switch to what may be asked for.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(is_websocket)
}

fn is_websocket(protocol: &HeaderValue) -> bool {
    protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
}

fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CONNECTION).iter();
    let mut options = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants(method: &str, version: Version, fields: &[(&'static str, &'static str)]) -> bool {
        let mut request = http::Request::builder().method(method).version(version);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        wanted_upgrade(&request.body(()).unwrap().into_parts().0).is_some()
    }

    #[test]
    fn only_a_websocket_is_an_upgrade() {
        let websocket = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")];
        assert!(wants("GET", Version::HTTP_11, &websocket));
        assert!(!wants("POST", Version::HTTP_11, &websocket));
        assert!(!wants("GET", Version::HTTP_10, &websocket));
        assert!(!wants("GET", Version::HTTP_11, &[("upgrade", "websocket")]));
        assert!(!wants("GET", Version::HTTP_11, &[("connection", "upgrade"), ("upgrade", "h2c")]));
        let two = [("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")];
        assert!(!wants("GET", Version::HTTP_11, &two));
    }
}
