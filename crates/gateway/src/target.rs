//! What a request asks for: which host, which path. Pure.

use std::borrow::Cow;

use ace_types::HostName;
use ace_upstream::percent_decode;
use http::header::HOST;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};

use crate::failure::Failure;

/// The host that `request` names, lowercase, without its port.
///
/// Errors: [`Failure::BadRequest`] where there is none, two, or a target that contradicts it;
/// [`Failure::UnknownHost`] where it is none that a route could have.
pub fn host(request: &Parts) -> Result<HostName, Failure> {
    let mut fields = request.headers.get_all(HOST).iter();
    let field = match (fields.next(), fields.next()) {
        (Some(field), None) => field,
        (None, _) => return Err(Failure::BadRequest("the request names no host")),
        (Some(_), Some(_)) => return Err(Failure::BadRequest("the request names two hosts")),
    };
    if request.uri.authority().is_none()
        && let Some(host) = plain_host(field.as_bytes())
    {
        return Ok(host);
    }
    let field = std::str::from_utf8(field.as_bytes()).ok().and_then(|text| text.parse().ok());
    let field =
        field.filter(is_host).ok_or(Failure::BadRequest("the request's host is not one"))?;
    check_target(&request.uri, &field)?;
    canonical(&field).parse().map_err(|_| Failure::UnknownHost { host: field.host().to_owned() })
}

/// The host in a `Host` that is spelled as routes spell names, with a port or without, as nearly all are.
fn plain_host(field: &[u8]) -> Option<HostName> {
    let field = std::str::from_utf8(field).ok()?;
    let (name, port) = field.split_once(':').unwrap_or((field, ""));
    name.parse().ok().filter(|_| port.is_empty() || is_port(port))
}

/// The path and query of `target`, as an app is asked for them. A target that names a host may have a query
/// without a path.
pub fn origin_form(target: &Uri) -> Cow<'_, str> {
    match target.path_and_query().map_or("/", PathAndQuery::as_str) {
        query if query.starts_with('?') => Cow::Owned(format!("/{query}")),
        whole => Cow::Borrowed(whole),
    }
}

/// Whether `authority` is a host with no more than a port.
fn is_host(authority: &Authority) -> bool {
    let port = authority.as_str().strip_prefix(authority.host());
    match port.map(|port| port.strip_prefix(':').unwrap_or(port)) {
        None => false, // There is a user before the host.
        Some("") => true,
        Some(port) => is_port(port),
    }
}

fn is_port(digits: &str) -> bool {
    digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok()
}

/// Refuses a target that names another host than `field`, or something else than a host and path.
fn check_target(target: &Uri, field: &Authority) -> Result<(), Failure> {
    let Some(authority) = target.authority() else { return Ok(()) };
    if target.scheme() != Some(&Scheme::HTTP) || !is_host(authority) {
        return Err(Failure::BadRequest("its target is not one"));
    }
    let whole = |authority| (canonical(authority), authority.port_u16().unwrap_or(80));
    if whole(authority) != whole(field) {
        return Err(Failure::BadRequest("the request's target and its Host differ"));
    }
    Ok(())
}

/// A path as routes and files know it: decoded, without empty, `.` and `..` segments.
///
/// Begins with `/`, and ends in `/` where a folder is asked for. An encoded slash counts as one.
/// The bytes need not be UTF-8. Not for an app, which gets its path untouched but for the decoding.
///
/// Errors: [`Failure::BadRequest`] where it holds a NUL, or leads above its root.
pub fn normalise(path: &str) -> Result<Vec<u8>, Failure> {
    let is_flat = path.starts_with('/')
        && !path.bytes().any(|byte| matches!(byte, 0 | b'%'))
        && !path.as_bytes().windows(2).any(|pair| matches!(pair, b"//" | b"/."));
    if is_flat {
        return Ok(path.as_bytes().to_vec());
    }
    flatten(&percent_decode(path))
}

/// As [`normalise`], of a path that is decoded already.
pub fn flatten(decoded: &[u8]) -> Result<Vec<u8>, Failure> {
    if decoded.contains(&0) {
        return Err(Failure::BadRequest("the request's path holds a NUL"));
    }
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut ends_in_folder = false;
    for segment in decoded.split(|byte| *byte == b'/') {
        ends_in_folder = matches!(segment, b"" | b"." | b"..");
        match segment {
            b"" | b"." => {}
            b".." => {
                let above = segments.pop();
                above.ok_or(Failure::BadRequest("the request's path leads above its root"))?;
            }
            name => segments.push(name),
        }
    }
    Ok(joined(&segments, ends_in_folder))
}

fn joined(segments: &[&[u8]], ends_in_folder: bool) -> Vec<u8> {
    let mut path = Vec::new();
    for segment in segments {
        path.push(b'/');
        path.extend_from_slice(segment);
    }
    if ends_in_folder || path.is_empty() {
        path.push(b'/');
    }
    path
}

/// A host's spelling: lowercase, without port and trailing dot.
fn canonical(authority: &Authority) -> String {
    let host = authority.host().to_ascii_lowercase();
    host.strip_suffix('.').map(str::to_owned).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host_of(target: &str, hosts: &[&str]) -> Result<String, u16> {
        let mut request = http::Request::builder().uri(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        host(&parts).map(String::from).map_err(|failure| failure.status().as_u16())
    }

    fn path(text: &str) -> Result<String, u16> {
        normalise(text)
            .map(|path| String::from_utf8(path).unwrap())
            .map_err(|failure| failure.status().as_u16())
    }

    #[test]
    fn a_host_is_lowercase_and_bare() {
        assert_eq!(host_of("/", &["Shop.LocalHost:8080"]).as_deref(), Ok("shop.localhost"));
        assert_eq!(host_of("/", &["shop.localhost."]).as_deref(), Ok("shop.localhost"));
    }

    #[test]
    fn a_port_is_no_part_of_a_name() {
        for (host, name) in [("shop.localhost:8080", Ok("shop.localhost")), ("a-1:", Ok("a-1"))] {
            assert_eq!(host_of("/", &[host]).as_deref(), name, "{host}");
        }
        for (host, status) in [("a:65536", 400), ("a:+1", 400), ("a..b", 404)] {
            assert_eq!(host_of("/", &[host]), Err(status), "{host}");
        }
    }

    #[test]
    fn exactly_one_host_is_named() {
        assert_eq!(host_of("/", &[]), Err(400));
        assert_eq!(host_of("/", &["a", "a"]), Err(400));
        assert_eq!(host_of("/", &[""]), Err(400));
        for wrong in ["b@a", "a:b", "a:99999", "a:80:80", "a/b", "a, b", "@a"] {
            assert_eq!(host_of("/", &[wrong]), Err(400), "{wrong}");
        }
        assert_eq!(host_of("/", &["a b"]), Err(400));
        assert_eq!(host_of("/", &["[::1]:80"]), Err(404));
    }

    #[test]
    fn an_absolute_target_must_agree() {
        assert_eq!(host_of("http://a/", &["A:80"]).as_deref(), Ok("a"));
        for other in ["http://b/", "http://a:81/", "http://u@a/", "https://a/", "ftp://a/", "a"] {
            assert_eq!(host_of(other, &["a"]), Err(400), "{other}");
        }
    }

    #[test]
    fn a_path_is_decoded_once_and_flattened() {
        assert_eq!(path("/a//b/./c/../d%20e").as_deref(), Ok("/a/b/d e"));
        assert_eq!(path("/a/..%2f%2e%2e"), Err(400));
        assert_eq!(path("/a/%2e%2e/b").as_deref(), Ok("/b"));
        assert_eq!(path("/a%252fb").as_deref(), Ok("/a%2fb"));
        assert_eq!(path("/a/b/..").as_deref(), Ok("/a/"));
        assert_eq!(path("/").as_deref(), Ok("/"));
        assert_eq!(path("/a%00"), Err(400));
    }

    proptest! {
        #[test]
        fn a_normal_path_never_climbs(text in "/[a./%2eEfF0-9]{0,40}") {
            if let Ok(path) = normalise(&text) {
                prop_assert_eq!(path[0], b'/');
                prop_assert!(!path.windows(2).any(|pair| pair == b"//"));
                let climbs = |segment: &[u8]| segment == b".." || segment == b".";
                prop_assert!(!path.split(|byte| *byte == b'/').any(climbs));
            }
        }
    }
}
