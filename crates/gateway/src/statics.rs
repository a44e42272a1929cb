//! Answers requests for what a release declares static, whether an instance runs or not.
//!
//! A rule ending in `/` stands for a folder, any other for one file. In a folder, no name that
//! begins with a dot is served, nothing that only tells how an app is built, such as `app.yaml` and
//! `requirements.txt`, and no Python source or byte code; a rule for one file may name any of these. The gateway decides alone: what is missing is 404, the app is not asked.

use std::collections::VecDeque;
use std::time::Duration;

use ace_types::{Coding, StaticRule};
use ace_upstream::encode_path;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    ETAG, EXPIRES, LAST_MODIFIED, LOCATION, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri};
use jiff::Timestamp;

use crate::body::Content;
use crate::conditional::{Part, Selection, http_date_after, select};
use crate::failure::Failure;
use crate::file_cache::{CachedFolder, Found, ServedFile, Variant};

/// The file that stands for its folder.
const INDEX: &str = "index.html";

/// Files that tell how an app is built, in lowercase, besides its requirements.
const BUILD_FILES: [&[u8]; 8] = [
    b"app.yaml",
    b"pipfile",
    b"pipfile.lock",
    b"poetry.lock",
    b"procfile",
    b"pyproject.toml",
    b"setup.cfg",
    b"uv.lock",
];

/// The most headers of an answer, the gateway's own among them.
const HEADERS_MAX: usize = 12;

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
pub async fn serve(
    folder: &CachedFolder,
    rule: &StaticRule,
    path: &[u8],
    request: Asked<'_>,
) -> Result<Response<Content>, Failure> {
    if request.method != Method::GET && request.method != Method::HEAD {
        return Err(Failure::Method { allow: "GET, HEAD" });
    }
    let file_path = file_path(rule, path).ok_or(Failure::NoSuchFile)?;
    match folder.find(&file_path).await.map_err(Failure::File)? {
        Some(Found::File(file)) => send(&file, &file_path, rule, request),
        Some(Found::Folder) if rule.path.ends_with('/') && !path.ends_with(b"/") => {
            Ok(redirect_into(path, request.uri.query()))
        }
        Some(Found::Folder) | None => Err(Failure::NoSuchFile),
    }
}

/// Whether `rule` has a file for `path`, normalised. Errors: [`Failure::File`].
pub async fn has_file(
    folder: &CachedFolder,
    rule: &StaticRule,
    path: &[u8],
) -> Result<bool, Failure> {
    let Some(file_path) = file_path(rule, path) else { return Ok(false) };
    let found = folder.find(&file_path).await.map_err(Failure::File)?;
    Ok(matches!(found, Some(Found::File(_))))
}

/// Where the file for `path` is, relative to the release's code; `None` where it must not be served.
pub fn file_path(rule: &StaticRule, path: &[u8]) -> Option<Vec<u8>> {
    let mut file_path = Vec::with_capacity(rule.files.len() + path.len() + INDEX.len());
    file_path.extend_from_slice(rule.files.as_bytes());
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
    // What must not be read must not be read compressed.
    let suffixes = Coding::ALL.map(|coding| coding.suffix().as_bytes());
    let suffix = suffixes.into_iter().find(|suffix| ends_with(name, suffix));
    let name_alone = &name[..name.len() - suffix.map_or(0, <[u8]>::len)];
    let python = [&b".py"[..], b".pyc", b".pyo", b".pyi"];
    name.starts_with(b".")
        || BUILD_FILES.iter().any(|file| name_alone.eq_ignore_ascii_case(file))
        || (starts_with(name_alone, b"requirements") && ends_with(name_alone, b".txt"))
        || python.iter().any(|extension| ends_with(name_alone, extension))
}

/// Whether `name` begins with `prefix`, in whatever case.
fn starts_with(name: &[u8], prefix: &[u8]) -> bool {
    name.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix))
}

/// Whether `name` ends with `suffix`, in whatever case.
fn ends_with(name: &[u8], suffix: &[u8]) -> bool {
    let end = name.len().checked_sub(suffix.len()).map(|at| &name[at..]);
    end.is_some_and(|end| end.eq_ignore_ascii_case(suffix))
}

fn send(
    file: &ServedFile,
    file_path: &[u8],
    rule: &StaticRule,
    request: Asked<'_>,
) -> Result<Response<Content>, Failure> {
    let (coding, variant) = file.suitable(request.headers);
    let size = variant.version.size;
    let selection = select(request.method, request.headers, &variant.version);
    let (status, content) = match &selection {
        Selection::Whole => (StatusCode::OK, variant.whole()),
        Selection::Part(part) => (StatusCode::PARTIAL_CONTENT, variant.part(*part)),
        Selection::Parts(parts) => (StatusCode::PARTIAL_CONTENT, multipart(file, variant, parts)),
        Selection::NotModified => (StatusCode::NOT_MODIFIED, Content::Empty),
        Selection::PreconditionFailed => return Err(Failure::Precondition),
        Selection::OutOfRange => return Err(Failure::Range { size }),
    };
    let mut response = Response::new(Content::Empty);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.reserve(HEADERS_MAX); // Once, instead of as they come.
    describe_version(headers, file, variant, expiry(rule, file_path));
    if status == StatusCode::NOT_MODIFIED {
        return Ok(response);
    }
    describe_content(headers, file, coding);
    let whole = selection == Selection::Whole;
    let length =
        if whole { variant.length.clone() } else { content.remaining().unwrap_or(0).into() };
    headers.insert(CONTENT_LENGTH, length);
    match selection {
        Selection::Part(part) => insert(headers, CONTENT_RANGE, Some(content_range(part, size))),
        Selection::Parts(_) => insert(headers, CONTENT_TYPE, Some(multipart_type(variant))),
        _ => {}
    }
    if request.method == Method::GET {
        *response.body_mut() = content;
    }
    Ok(response)
}

/// Makes `file` the content of `page`, whose status stays.
pub fn stand_in(file: &ServedFile, request: &HeaderMap, page: &mut Response<Content>) {
    let (coding, variant) = file.suitable(request);
    describe_content(page.headers_mut(), file, coding);
    page.headers_mut().remove(ACCEPT_RANGES);
    *page.body_mut() = variant.whole();
}

/// What a client needs to ask later whether it still has the right file.
fn describe_version(
    headers: &mut HeaderMap,
    file: &ServedFile,
    variant: &Variant,
    expiry: Option<Expiry>,
) {
    headers.insert(ETAG, variant.etag.clone());
    if let Some(last_modified) = &variant.last_modified {
        headers.insert(LAST_MODIFIED, last_modified.clone());
    }
    if file.varies() {
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    }
    if let Some(Expiry { after, immutable }) = expiry {
        let immutable = if immutable { ", immutable" } else { "" };
        insert(headers, CACHE_CONTROL, Some(format!("max-age={}{immutable}", after.as_secs())));
        insert(headers, EXPIRES, http_date_after(Timestamp::now(), after));
    }
}

fn describe_content(headers: &mut HeaderMap, file: &ServedFile, coding: Option<Coding>) {
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(coding) = coding {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.token()));
    }
    headers.insert(CONTENT_TYPE, media_type(file));
    if file.media_type.is_some() {
        // Where the type is a guess, so may be the browser's.
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
}

fn media_type(file: &ServedFile) -> HeaderValue {
    let unknown = || HeaderValue::from_static("application/octet-stream");
    file.media_type.clone().unwrap_or_else(unknown)
}

/// How long a client may keep a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Expiry {
    after: Duration,
    /// It need not even ask whether there is another, since that would have another name.
    immutable: bool,
}

fn expiry(rule: &StaticRule, file_path: &[u8]) -> Option<Expiry> {
    let immutable = has_hashed_name(file_path);
    rule.expire.map(|after| Expiry { after, immutable })
}

/// Whether a file's name holds a hash of its content, as bundlers and Django write it: at least eight
/// hexadecimal digits of both kinds, between dots or after a hyphen.
fn has_hashed_name(file_path: &[u8]) -> bool {
    let name = file_path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let mut parts: Vec<_> = name.split(|byte| matches!(byte, b'.' | b'-' | b'_')).collect();
    parts.pop(); // The extension.
    parts.iter().any(|part| {
        part.len() >= 8
            && part.iter().all(u8::is_ascii_hexdigit)
            && part.iter().any(u8::is_ascii_digit)
            && part.iter().any(u8::is_ascii_alphabetic)
    })
}

/// Several parts of a file as one body. Source: RFC 9110, section 14.6.
fn multipart(file: &ServedFile, variant: &Variant, parts: &[Part]) -> Content {
    let (boundary, size) = (boundary(variant), variant.version.size);
    let media_type = media_type(file);
    let media_type = media_type.to_str().unwrap_or_default();
    let mut contents = VecDeque::new();
    for part in parts {
        let range = content_range(*part, size);
        contents.push_back(text(format!(
            "\r\n--{boundary}\r\ncontent-type: {media_type}\r\ncontent-range: {range}\r\n\r\n"
        )));
        contents.push_back(variant.part(*part));
    }
    contents.push_back(text(format!("\r\n--{boundary}--\r\n")));
    Content::Sequence(contents)
}

fn multipart_type(variant: &Variant) -> String {
    format!("multipart/byteranges; boundary={}", boundary(variant))
}

/// What stands between parts. It has the file's inode and time of change in it, which nobody knew who
/// wrote the file's content.
fn boundary(variant: &Variant) -> String {
    let digits = variant.version.etag.bytes().filter(u8::is_ascii_hexdigit).map(char::from);
    digits.collect()
}

fn content_range(part: Part, size: u64) -> String {
    format!("bytes {}-{}/{size}", part.first, part.last)
}

fn text(text: String) -> Content {
    Content::Bytes(text.into())
}

/// Sends the client from a folder's name to the folder, so that relative links in it work.
///
/// The place is spelled anew from the normalised path: what the client wrote could begin with `//`,
/// which is another host.
pub fn redirect_into(path: &[u8], query: Option<&str>) -> Response<Content> {
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
        for path in [
            "/.env",
            "/.git/config",
            "/.gz",
            "/a/.b/c",
            "/app.yaml",
            "/index.py",
            "/a/B.PYC",
            "/Procfile",
            "/requirements.txt",
            "/requirements-dev.txt",
            "/requirements.txt.gz",
            "/app.yaml.br",
            "/shop.py.zst",
            "/poetry.lock",
        ] {
            assert_eq!(file_path(&folder, path.as_bytes()), None, "{path}");
        }
        for path in ["/requirements/", "/requirements.html", "/procfile.html", "/robots.txt"] {
            assert!(file_path(&folder, path.as_bytes()).is_some(), "{path}");
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
    fn a_hash_in_a_name_makes_it_immutable() {
        for hashed in ["s/base.5d41402abc4b.css", "app-3f2a1b9c.js", "app.3F2A1B9C.min.js"] {
            assert!(has_hashed_name(hashed.as_bytes()), "{hashed}");
        }
        for plain in
            ["site.css", "report-20240131.pdf", "5d41402abc4b/a.css", "defaced1", "a.deadbeef.js"]
        {
            assert!(!has_hashed_name(plain.as_bytes()), "{plain}");
        }
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
