//! Answers requests for what a release declares static, whether an instance runs or not.
//!
//! A rule ending in `/` stands for a folder, any other for one file. In a folder, no name that
//! begins with a dot is served, no `app.yaml`, and no Python source or byte code; a rule for one
//! file may name any of these. The gateway decides alone: what is missing is 404, the app is not asked.

use ace_types::StaticRule;
use ace_upstream::encode_path;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, EXPIRES,
    LAST_MODIFIED, LOCATION, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri};
use jiff::Timestamp;

use crate::body::Content;
use crate::conditional::{Selection, http_date, http_date_after, select};
use crate::failure::Failure;
use crate::files::{Entry, Folder, OpenFile};
use crate::media_type;

/// The file that stands for its folder.
const INDEX: &str = "index.html";

/// What is asked of a file.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub method: &'a Method,
    pub uri: &'a Uri,
    pub headers: &'a HeaderMap,
}

/// The rule that `path`, normalised, falls under: the longest.
pub fn rule_for<'a>(rules: &'a [StaticRule], path: &[u8]) -> Option<&'a StaticRule> {
    let covers = |rule: &&StaticRule| match rule.path.ends_with('/') {
        true => path.starts_with(rule.path.as_bytes()),
        false => path == rule.path.as_bytes(),
    };
    rules.iter().filter(covers).max_by_key(|rule| rule.path.len())
}

/// Answers `request` for `path`, normalised, which falls under `rule`.
///
/// Errors: [`Failure::Method`], [`Failure::NoSuchFile`], [`Failure::Precondition`],
/// [`Failure::Range`], [`Failure::File`].
pub fn serve(
    folder: &Folder,
    rule: &StaticRule,
    path: &[u8],
    request: Asked<'_>,
) -> Result<Response<Content>, Failure> {
    if request.method != Method::GET && request.method != Method::HEAD {
        return Err(Failure::Method { allow: "GET, HEAD" });
    }
    let file_path = file_path(rule, path).ok_or(Failure::NoSuchFile)?;
    match folder.entry(&file_path).map_err(Failure::File)? {
        Some(Entry::File(file)) => send(&file, &file_path, rule, request),
        Some(Entry::Folder) if rule.path.ends_with('/') && !path.ends_with(b"/") => {
            Ok(redirect_into(path, request.uri.query()))
        }
        Some(Entry::Folder) | None => Err(Failure::NoSuchFile),
    }
}

/// Whether `rule` has a file for `path`, normalised. Errors: [`Failure::File`].
pub fn has_file(folder: &Folder, rule: &StaticRule, path: &[u8]) -> Result<bool, Failure> {
    let Some(file_path) = file_path(rule, path) else { return Ok(false) };
    let entry = folder.entry(&file_path).map_err(Failure::File)?;
    Ok(matches!(entry, Some(Entry::File(_))))
}

/// Where the file for `path` is, relative to the release's code; `None` where it must not be served.
fn file_path(rule: &StaticRule, path: &[u8]) -> Option<Vec<u8>> {
    let mut file_path = rule.files.as_bytes().to_vec();
    if rule.path.ends_with('/') {
        let below = path.get(rule.path.len()..)?;
        if below.split(|byte| *byte == b'/').any(is_private) {
            return None;
        }
        file_path.extend_from_slice(below);
    }
    if file_path.is_empty() || file_path.ends_with(b"/") {
        file_path.extend_from_slice(INDEX.as_bytes());
    }
    Some(file_path)
}

/// Whether a name is not for everyone, in spite of standing in a folder that is.
fn is_private(name: &[u8]) -> bool {
    let name = name.to_ascii_lowercase();
    let python = [&b".py"[..], b".pyc", b".pyo", b".pyi"];
    name.starts_with(b".")
        || name == b"app.yaml"
        || python.iter().any(|extension| name.ends_with(extension))
}

fn send(
    file: &OpenFile,
    file_path: &[u8],
    rule: &StaticRule,
    request: Asked<'_>,
) -> Result<Response<Content>, Failure> {
    let size = file.version().size;
    let mut response = Response::new(Content::Empty);
    let (status, first, end) = match select(request.headers, file.version()) {
        Selection::Whole => (StatusCode::OK, 0, size),
        Selection::Part { first, last } => (StatusCode::PARTIAL_CONTENT, first, last + 1),
        Selection::NotModified => (StatusCode::NOT_MODIFIED, 0, 0),
        Selection::PreconditionFailed => return Err(Failure::Precondition),
        Selection::OutOfRange => return Err(Failure::Range { size }),
    };
    *response.status_mut() = status;
    describe_version(response.headers_mut(), file, rule);
    if status == StatusCode::NOT_MODIFIED {
        return Ok(response);
    }
    describe_content(response.headers_mut(), file_path);
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(end - first));
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {first}-{}/{size}", end - 1);
        insert(response.headers_mut(), CONTENT_RANGE, Some(range));
    }
    if request.method == Method::GET {
        *response.body_mut() = Content::File(file.read(first, end));
    }
    Ok(response)
}

/// What a client needs to ask later whether it still has the right file.
fn describe_version(headers: &mut HeaderMap, file: &OpenFile, rule: &StaticRule) {
    insert(headers, ETAG, Some(file.version().etag.clone()));
    insert(headers, LAST_MODIFIED, http_date(file.version().modified));
    if let Some(expire) = rule.expire {
        insert(headers, CACHE_CONTROL, Some(format!("max-age={}", expire.as_secs())));
        insert(headers, EXPIRES, http_date_after(Timestamp::now(), expire));
    }
}

fn describe_content(headers: &mut HeaderMap, file_path: &[u8]) {
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let name = file_path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let known = media_type::of(name);
    let media_type = known.unwrap_or("application/octet-stream");
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    if known.is_some() {
        // Where the type is a guess, so may be the browser's.
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
}

/// Sends the client from a folder's name to the folder, so that relative links in it work.
///
/// The place is spelled anew from the normalised path: what the client wrote could begin with `//`,
/// which is another host.
fn redirect_into(path: &[u8], query: Option<&str>) -> Response<Content> {
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = Response::new(Content::Empty);
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    insert(response.headers_mut(), LOCATION, Some(format!("{}/{query}", encode_path(path))));
    response
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: Option<String>) {
    if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(path: &str, files: &str) -> StaticRule {
        StaticRule { path: path.to_owned(), files: files.to_owned(), expire: None }
    }

    #[test]
    fn the_longest_rule_counts() {
        let rules = [rule("/", "public/"), rule("/static/", "static/"), rule("/static/a", "b")];
        let files = |path: &str| rule_for(&rules, path.as_bytes()).map(|rule| rule.files.as_str());
        assert_eq!(files("/x"), Some("public/"));
        assert_eq!(files("/static/x"), Some("static/"));
        assert_eq!(files("/static/a"), Some("b"));
        assert_eq!(files("/static/a/b"), Some("static/"));
        assert_eq!(rule_for(&rules[1..], b"/static"), None);
    }

    #[test]
    fn private_names_need_a_rule_of_their_own() {
        let folder = rule("/", "");
        for path in ["/.env", "/.git/config", "/a/.b/c", "/app.yaml", "/index.py", "/a/B.PYC"] {
            assert_eq!(file_path(&folder, path.as_bytes()), None, "{path}");
        }
        let one = rule("/security.txt", ".well-known/security.txt");
        assert_eq!(file_path(&one, b"/security.txt"), Some(one.files.clone().into_bytes()));
    }

    #[test]
    fn a_folder_is_its_index() {
        assert_eq!(file_path(&rule("/", ""), b"/"), Some(b"index.html".to_vec()));
        assert_eq!(file_path(&rule("/s/", "s/"), b"/s/a/"), Some(b"s/a/index.html".to_vec()));
    }

    #[test]
    fn a_redirect_stays_on_this_host() {
        let location = |path: &str, query| {
            let response = redirect_into(path.as_bytes(), query);
            response.headers()[LOCATION].to_str().unwrap().to_owned()
        };
        assert_eq!(location("/a b", Some("c=d")), "/a%20b/?c=d");
        assert_eq!(location("/example.com\r\n", None), "/example.com%0D%0A/");
    }
}
