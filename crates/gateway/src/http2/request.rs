//! Makes of a request over HTTP/2 what it would be over HTTP/1, within the same bounds. Pure but for
//! a WebSocket's key.
//!
//! h2 has refused what the protocol forbids: upper case in names, headers of a connection, pseudo
//! headers out of place, a body of another length than announced.

use ace_upstream::{HeadError, ReceiveError};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use h2::ext::Protocol;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, Version};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::body::Content;
use crate::failure::Failure;
use crate::framing::{HEADERS_MAX, NOT_ESCAPED, TARGET_BYTES_MAX, check_method};

/// Whether `request`, as it came, asks for a WebSocket. Source: RFC 8441.
pub fn is_websocket(request: &Parts) -> bool {
    let protocol = request.extensions.get::<Protocol>();
    request.method == Method::CONNECT && protocol.is_some_and(|name| name.as_str() == "websocket")
}

/// Makes `request` one like those of HTTP/1: its host in `Host`, its target a path; an upgrade by GET
/// where it [`is_websocket`].
pub fn adopt(request: &mut Parts) -> Result<(), Failure> {
    if request.headers.len() > HEADERS_MAX {
        return Err(Failure::HeadTooLarge);
    }
    check_method(request.method.as_str())?;
    check_values(&request.headers)?;
    check_expectation(request)?;
    adopt_host(request)?;
    let is_websocket = is_websocket(request);
    if request.method == Method::CONNECT && !is_websocket {
        return Err(Failure::Method { allow: "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS" });
    }
    adopt_target(request)?;
    if is_websocket {
        ask_for_upgrade(request)?;
    }
    Ok(())
}

/// Makes of the answer to a WebSocket's request one that HTTP/2 has: no status 101, which is 200 here,
/// and no 200 that does not mean this.
pub fn answer_websocket(
    mut response: Response<Content>,
    is_tunnel: bool,
) -> Result<Response<Content>, Failure> {
    if !is_tunnel && response.status().is_success() {
        return Err(Failure::Answer(ReceiveError::Head(HeadError::Upgrade)));
    }
    if is_tunnel {
        *response.status_mut() = StatusCode::OK;
        for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT, CONTENT_LENGTH] {
            response.headers_mut().remove(name);
        }
    }
    Ok(response)
}

/// White space around a value is part of it here, and was none to those who read HTTP/1.
/// Source: RFC 9113, section 8.2.1.
fn check_values(headers: &HeaderMap) -> Result<(), Failure> {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let is_padded = |value: &[u8]| is_space(value.first()) || is_space(value.last());
    match headers.values().any(|value| is_padded(value.as_bytes())) {
        true => Err(Failure::BadRequest("a header's value begins or ends with white space")),
        false => Ok(()),
    }
}

fn check_expectation(request: &Parts) -> Result<(), Failure> {
    let mut values = request.headers.get_all(EXPECT).iter();
    match values.all(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        true => Ok(()),
        false => Err(Failure::Expectation),
    }
}

/// `:authority` is the host, and `Host`, if there is one, says the same. Source: RFC 9113, section 8.3.1.
fn adopt_host(request: &mut Parts) -> Result<(), Failure> {
    let Some(authority) = request.uri.authority() else { return Ok(()) };
    let not_one = |_| Failure::BadRequest("the request's host is not one");
    let host = HeaderValue::from_str(authority.as_str()).map_err(not_one)?;
    let mut fields = request.headers.get_all(HOST).iter();
    match (fields.next(), fields.next()) {
        (Some(_), Some(_)) => return Err(Failure::BadRequest("the request names two hosts")),
        (Some(field), None) if !field.as_bytes().eq_ignore_ascii_case(host.as_bytes()) => {
            return Err(Failure::BadRequest("the request's target and its Host differ"));
        }
        _ => {}
    }
    request.headers.insert(HOST, host);
    Ok(())
}

fn adopt_target(request: &mut Parts) -> Result<(), Failure> {
    let target = request.uri.path_and_query().cloned();
    let target = target.unwrap_or_else(|| PathAndQuery::from_static("/"));
    if target.as_str().len() > TARGET_BYTES_MAX {
        return Err(Failure::TargetTooLong);
    }
    let is_one = match target.as_str() {
        "*" => request.method == Method::OPTIONS,
        path => path.starts_with('/'),
    };
    if !target.as_str().is_ascii() {
        return Err(Failure::BadRequest(NOT_ESCAPED));
    }
    if !is_one {
        return Err(Failure::BadRequest("its target is not one"));
    }
    request.uri = Uri::from(target);
    Ok(())
}

/// Asks as a client of HTTP/1 would. Nobody but the app's server looks at the key: a client of HTTP/2
/// has none.
fn ask_for_upgrade(request: &mut Parts) -> Result<(), Failure> {
    let mut random = [0; 16];
    getrandom(&mut random, GetRandomFlags::empty())
        .map_err(|error| Failure::Random(error.into()))?;
    request.method = Method::GET;
    request.version = Version::HTTP_11;
    let key = BASE64_STANDARD.encode(random);
    for (name, value) in
        [(CONNECTION, "upgrade"), (UPGRADE, "websocket"), (SEC_WEBSOCKET_KEY, key.as_str())]
    {
        // All of it is ASCII.
        if let Ok(value) = HeaderValue::from_str(value) {
            request.headers.insert(name, value);
        }
    }
    Ok(())
}
