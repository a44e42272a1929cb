//! Watches a client's bytes for where each request begins and ends, and lets pass only heads that
//! are whole and have one meaning. Pure.
//!
//! hyper parses requests as HTTP allows, which is more than is safe: it takes a bare LF for a line's
//! end and, of a `Content-Length` beside a `Transfer-Encoding`, silently drops the first. Two
//! parties that read such a request differently can be made to disagree on where it ends. And what
//! hyper refuses, it refuses without a word. [`Framing`] sees the same bytes before hyper does and
//! refuses more than hyper would, with a reason. It also knows whether a request is half received,
//! which deadlines depend on.
//!
//! Hosts and paths are judged later; see [`crate::target`].

use std::mem::MaybeUninit;

use http::Uri;

use crate::chunk_line::{begins_trailer, chunk_size};
use crate::failure::Failure;

/// Where in its requests a client's stream of bytes stands.
#[derive(Debug)]
pub struct Framing {
    state: State,
    /// How much of an incomplete head has been looked at.
    scanned: usize,
    /// The beginning of the line that is being received; see [`LINE_BYTES_KEPT`].
    line: Vec<u8>,
    /// The last byte received, as far as it belongs to the same line.
    last: u8,
    heads: u64,
}

/// What must not pass. After this, feed no more.
#[derive(Debug)]
pub enum Refused {
    /// A head that begins at `at`, among the bytes that were fed last.
    Head { at: usize, failure: Failure },
    /// A first head that is nothing of HTTP; its sender would not understand an answer.
    Stranger { at: usize },
    /// A line between the chunks of a body, which begins or goes on at `at`.
    Chunk { at: usize },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first byte of a request.
    Between,
    Head,
    Body {
        remaining: u64,
    },
    ChunkSize,
    ChunkData {
        remaining: u64,
    },
    /// The line end after a chunk's data.
    ChunkEnd,
    Trailers,
    Refused,
}

/// A request's line and headers together. Leaves room in a uwsgi packet for variables of our own.
pub const HEAD_BYTES_MAX: usize = 60 * 1024;

/// The longest target. An app gets it twice, whole and in its parts.
pub const TARGET_BYTES_MAX: usize = 16 * 1024;

/// The most headers of a request. hyper takes no more either.
pub const HEADERS_MAX: usize = 100;

/// What is wrong with a target in which other bytes stand than ASCII.
pub const NOT_ESCAPED: &str = "its target holds bytes that have to be percent-encoded";

const LONG_METHOD: &str = "its method is longer than any";

/// The longest method. The longest that is registered has 17 bytes.
const METHOD_BYTES_MAX: usize = 64;

/// The longest line before a chunk. Of a trailer's line so much is looked at; it is dropped anyway.
const LINE_BYTES_KEPT: usize = 256;

impl Framing {
    pub fn new() -> Self {
        Self { state: State::Between, scanned: 0, line: Vec::new(), last: 0, heads: 0 }
    }

    /// Takes the next bytes of the stream. Returns how many of them may pass: all but an
    /// incomplete head at their end, which is to be fed again, together with what comes after it.
    ///
    /// A later version of HTTP/1 becomes the one that is spoken here.
    pub fn feed(&mut self, bytes: &mut [u8]) -> Result<usize, Refused> {
        let mut at = 0;
        while at < bytes.len() {
            match &mut self.state {
                State::Body { remaining } => {
                    at += skip(remaining, bytes.len() - at);
                    if *remaining == 0 {
                        self.state = State::Between;
                    }
                }
                State::ChunkData { remaining } => {
                    at += skip(remaining, bytes.len() - at);
                    if *remaining == 0 {
                        self.state = State::ChunkEnd;
                    }
                }
                State::ChunkSize | State::ChunkEnd | State::Trailers => {
                    at = self
                        .take_line(bytes, at)
                        .map_err(|()| self.refuse(|| Refused::Chunk { at }))?;
                }
                State::Between | State::Head => match self.take_head(&mut bytes[at..]) {
                    Ok(Some(count)) => at += count,
                    Ok(None) => break,
                    Err(_) if self.heads == 0 && is_strange(&bytes[at..]) => {
                        return Err(self.refuse(|| Refused::Stranger { at }));
                    }
                    Err(failure) => return Err(self.refuse(|| Refused::Head { at, failure })),
                },
                State::Refused => break,
            }
        }
        Ok(at)
    }

    /// Whether a request's head has begun and is not complete.
    pub fn is_in_head(&self) -> bool {
        self.state == State::Head
    }

    /// Whether more of a request may come after its head, be it one that was refused.
    pub fn is_after_head(&self) -> bool {
        !matches!(self.state, State::Between | State::Head)
    }

    /// Whether nothing more may pass.
    pub fn is_refused(&self) -> bool {
        self.state == State::Refused
    }

    /// Heads that have passed so far.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    fn refuse(&mut self, refused: impl FnOnce() -> Refused) -> Refused {
        self.state = State::Refused;
        refused()
    }

    /// Takes a whole head from the beginning of `bytes`; returns how long it is, if it is whole.
    fn take_head(&mut self, bytes: &mut [u8]) -> Result<Option<usize>, Failure> {
        let begin = empty_lines(bytes);
        let end = head_end(bytes, self.scanned.max(begin))?;
        if end.unwrap_or(bytes.len()) > HEAD_BYTES_MAX {
            let first_line = &bytes[begin..HEAD_BYTES_MAX.max(begin)];
            return Err(if first_line.contains(&b'\n') {
                Failure::HeadTooLarge
            } else if first_line.contains(&b' ') {
                Failure::TargetTooLong
            } else {
                Failure::BadRequest(LONG_METHOD)
            });
        }
        let Some(end) = end else {
            self.scanned = bytes.len();
            let has_begun = !b"\r\n".starts_with(&bytes[begin..]);
            self.state = if has_begun { State::Head } else { State::Between };
            return Ok(None);
        };
        lower_version(&mut bytes[begin..end]);
        self.state = check_head(&bytes[begin..end])?;
        self.scanned = 0;
        self.heads += 1;
        Ok(Some(end))
    }

    /// Takes what there is of a line, and acts on it when it ends. Returns where to go on.
    fn take_line(&mut self, bytes: &[u8], from: usize) -> Result<usize, ()> {
        let rest = &bytes[from..];
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            self.keep(rest);
            return Ok(bytes.len());
        };
        self.keep(&rest[..end]);
        if self.last != b'\r' {
            return Err(());
        }
        self.line.truncate(self.line.len() - usize::from(self.line.last() == Some(&b'\r')));
        self.state = match self.state {
            State::ChunkSize => chunk_of(&self.line)?,
            State::ChunkEnd if self.line.is_empty() => State::ChunkSize,
            State::ChunkEnd => return Err(()),
            _ if self.line.is_empty() => State::Between,
            state if begins_trailer(&self.line) => state,
            _ => return Err(()),
        };
        self.line.clear();
        self.last = 0;
        Ok(from + end + 1)
    }

    fn keep(&mut self, part: &[u8]) {
        let room = LINE_BYTES_KEPT - self.line.len();
        self.line.extend_from_slice(&part[..part.len().min(room)]);
        self.last = part.last().copied().unwrap_or(self.last);
    }
}

/// The length of the empty lines that `bytes` begin with, which are allowed before a request.
fn empty_lines(bytes: &[u8]) -> usize {
    2 * bytes.chunks_exact(2).take_while(|pair| *pair == b"\r\n").count()
}

/// Where the head in `bytes` ends, its empty line included. Looks at lines that end after `from`.
fn head_end(bytes: &[u8], from: usize) -> Result<Option<usize>, Failure> {
    let from = from.min(bytes.len());
    for offset in memchr::memchr_iter(b'\n', &bytes[from..]) {
        let lines = &bytes[..=from + offset];
        if !lines.ends_with(b"\r\n") {
            return Err(Failure::BadRequest("a line ends in LF without CR"));
        }
        if lines.ends_with(b"\r\n\r\n") {
            return Ok(Some(lines.len()));
        }
    }
    Ok(None)
}

/// Has a request of HTTP/1.2 or later be one of HTTP/1.1, which is what it is taken for.
///
/// Source: RFC 9110, section 2.5. hyper knows the versions that there are.
fn lower_version(head: &mut [u8]) {
    let Some(end) = head.iter().position(|byte| *byte == b'\r') else { return };
    if let Some((minor, before)) = head[..end].split_last_mut()
        && before.ends_with(b" HTTP/1.")
        && (b'2'..=b'9').contains(minor)
    {
        *minor = b'1';
    }
}

/// Checks a whole head; returns what follows it.
fn check_head(head: &[u8]) -> Result<State, Failure> {
    let mut fields = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut fields) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(Failure::BadRequest("its head has no end")),
        Err(error) => return Err(malformed(error, head)),
    }
    let method = request.method.unwrap_or_default();
    check_method(method)?;
    check_target(method, request.path.unwrap_or_default())?;
    let mut framing = BodyFraming::default();
    for field in request.headers.iter() {
        framing.note(field)?;
        check_expectation(field, request.version)?;
    }
    framing.body(request.version)
}

/// Whether `head` begins with words, and nothing of HTTP among them.
fn is_strange(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default().to_ascii_lowercase();
    let is_word = |word: &[u8]| !word.is_empty() && word.iter().all(u8::is_ascii_alphanumeric);
    line.split(|byte| *byte == b' ').count() > 2
        && line.split(|byte| *byte == b' ').all(is_word)
        && !line.windows(4).any(|part| part == b"http")
}

fn malformed(error: httparse::Error, head: &[u8]) -> Failure {
    let first_line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let third_word = first_line.split(|byte| *byte == b' ').nth(2).unwrap_or_default();
    match error {
        httparse::Error::TooManyHeaders => Failure::HeadTooLarge,
        httparse::Error::Version if is_version(third_word) => Failure::Version,
        httparse::Error::HeaderName => Failure::BadRequest("a header's name is not one"),
        httparse::Error::HeaderValue => Failure::BadRequest("a header holds what none may"),
        _ => Failure::BadRequest("its first line is not one of HTTP"),
    }
}

/// Whether `word` is a version, be it one that nobody speaks.
fn is_version(word: &[u8]) -> bool {
    matches!(word, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
        if major.is_ascii_digit() && minor.is_ascii_digit())
}

/// Refuses methods that are too long, in any version.
pub fn check_method(method: &str) -> Result<(), Failure> {
    match method.len() > METHOD_BYTES_MAX {
        true => Err(Failure::BadRequest(LONG_METHOD)),
        false => Ok(()),
    }
}

/// Refuses targets that hyper would not parse, or not as a whole.
fn check_target(method: &str, target: &str) -> Result<(), Failure> {
    if method == "CONNECT" {
        let allow = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
        return Err(Failure::Method { allow });
    }
    if target.len() > TARGET_BYTES_MAX {
        return Err(Failure::TargetTooLong);
    }
    // hyper drops what comes after a `#`. A target of `*` is also what stands for a refused head.
    let is_whole = !target.contains('#') && (target != "*" || method == "OPTIONS");
    if !target.is_ascii() {
        return Err(Failure::BadRequest(NOT_ESCAPED));
    }
    match is_plain(target) || target.parse::<Uri>().is_ok() {
        true if is_whole => Ok(()),
        _ => Err(Failure::BadRequest("its target is not one")),
    }
}

/// Whether `target` is a path of nothing but what any path may hold, as most are: that need not be tried.
fn is_plain(target: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%".contains(&byte);
    target.starts_with('/') && target.bytes().all(fits)
}

/// HTTP/1.0 knew no expectations; there the header means nothing.
fn check_expectation(field: &httparse::Header<'_>, minor: Option<u8>) -> Result<(), Failure> {
    let expects = minor == Some(1) && field.name.eq_ignore_ascii_case("expect");
    match expects && !field.value.eq_ignore_ascii_case(b"100-continue") {
        true => Err(Failure::Expectation),
        false => Ok(()),
    }
}

/// What a head says of the body after it.
#[derive(Debug, Default)]
struct BodyFraming {
    content_length: Option<u64>,
    chunked: bool,
}

impl BodyFraming {
    fn note(&mut self, field: &httparse::Header<'_>) -> Result<(), Failure> {
        if field.name.eq_ignore_ascii_case("transfer-encoding") {
            let is_first = !std::mem::replace(&mut self.chunked, true);
            if !is_first || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(Failure::BadRequest("the only transfer coding known here is chunked"));
            }
        }
        if field.name.eq_ignore_ascii_case("content-length") {
            let length = whole_number(field.value).filter(|_| self.content_length.is_none());
            // hyper gives the two largest numbers meanings of its own.
            let length = length.filter(|length| *length < u64::MAX - 1);
            self.content_length =
                Some(length.ok_or(Failure::BadRequest("its Content-Length is not one number"))?);
        }
        Ok(())
    }

    /// What follows the head of a request of HTTP/1.`minor`.
    fn body(&self, minor: Option<u8>) -> Result<State, Failure> {
        match (self.chunked, self.content_length) {
            (true, Some(_)) => Err(Failure::BadRequest("it gives two lengths of its body")),
            (true, None) if minor != Some(1) => {
                Err(Failure::BadRequest("HTTP/1.0 has no transfer codings"))
            }
            (true, None) => Ok(State::ChunkSize),
            (false, None | Some(0)) => Ok(State::Between),
            (false, Some(remaining)) => Ok(State::Body { remaining }),
        }
    }
}

/// What follows the line before a chunk.
fn chunk_of(line: &[u8]) -> Result<State, ()> {
    // Of a longer one, some may not have been kept.
    let whole = Some(line).filter(|line| line.len() < LINE_BYTES_KEPT);
    match whole.and_then(chunk_size).ok_or(())? {
        0 => Ok(State::Trailers),
        // Who calculates with signed numbers would see a negative one.
        size if size > i64::MAX as u64 => Err(()),
        size => Ok(State::ChunkData { remaining: size }),
    }
}

/// The decimal number that `digits` spell, if they are nothing else.
fn whole_number(digits: &[u8]) -> Option<u64> {
    let only_digits = digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| only_digits)?.parse().ok()
}

/// Counts `available` bytes off `remaining`; returns how many of them.
fn skip(remaining: &mut u64, available: usize) -> usize {
    let count = usize::try_from(*remaining).map_or(available, |remaining| remaining.min(available));
    *remaining -= count as u64;
    count
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn feed(framing: &mut Framing, text: &str) -> Result<usize, Refused> {
        framing.feed(&mut text.as_bytes().to_vec())
    }

    #[test]
    fn requests_follow_each_other() {
        let text = concat!(
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\nPOST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n\n\n\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3;a=b\r\n\n\n\n\r\n0\r\nA: b\r\n\r\n",
        );
        let mut framing = Framing::new();
        let passed = feed(&mut framing, &format!("{text}GET / HTTP/1.1\r\nHo"));
        assert_eq!(passed.ok(), Some(text.len()));
        assert_eq!(framing.heads(), 3);
        assert!(framing.is_in_head());
    }

    #[test]
    fn a_head_passes_when_it_is_whole() {
        let head = "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut framing = Framing::new();
        for end in 1..head.len() {
            assert_eq!(feed(&mut framing, &head[..end]).ok(), Some(0), "{end} bytes");
            assert_eq!(framing.is_in_head(), end > 2, "{end} bytes");
        }
        assert_eq!(feed(&mut framing, head).ok(), Some(head.len()));
    }

    #[test]
    fn a_later_version_of_http_1_is_taken_for_the_last_one_known() {
        for (version, becomes) in [("1.2", "1.1"), ("1.9", "1.1"), ("1.1", "1.1"), ("1.0", "1.0")] {
            let mut head = format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n").into_bytes();
            assert_eq!(Framing::new().feed(&mut head).ok(), Some(head.len()));
            assert!(head.starts_with(format!("GET / HTTP/{becomes}\r\n").as_bytes()));
        }
    }

    #[test]
    fn what_is_no_http_gets_no_answer_in_it() {
        for (text, is_strange) in [
            ("INVALID CONNECTION PREFACE\r\n\r\n", true),
            ("\x16\x03\x01\r\n\r\n", false),
            ("GET\r\n\r\n", false),
            ("GET /\r\n\r\n", false),
            ("GET / HTTQ/1.1\r\n\r\n", false),
            ("GET shop HTTP/1.1 \r\n\r\n", false),
            ("GET  / HTTP/1.1\r\n\r\n", false),
        ] {
            let refused = feed(&mut Framing::new(), text).unwrap_err();
            assert_eq!(matches!(refused, Refused::Stranger { at: 0 }), is_strange, "{text:?}");
        }
    }

    #[test]
    fn a_refused_head_is_where_it_begins() {
        let good = "GET / HTTP/1.1\r\n\r\n";
        for (bad, status) in [
            ("GET / HTTP/1.1\r\nA: b\n", 400),
            ("GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("GET / HTTP/2.0\r\n\r\n", 505),
            ("CONNECT a:80 HTTP/1.1\r\n\r\n", 405),
            (&format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(101)), 431),
            (&format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(HEAD_BYTES_MAX)), 431),
            (&format!("GET /{}", "a".repeat(HEAD_BYTES_MAX)), 414),
            ("GET / HTTP/1.1\r\nExpect: tea\r\n\r\n", 417),
        ] {
            let mut framing = Framing::new();
            match feed(&mut framing, &format!("{good}{bad}")) {
                Err(Refused::Head { at, failure }) => {
                    assert_eq!((at, failure.status().as_u16()), (good.len(), status), "{bad:.60}");
                }
                other => panic!("{bad:.60}: {other:?}"),
            }
            assert!(framing.is_refused());
        }
    }

    #[test]
    fn lines_between_chunks_are_strict() {
        let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (lines, bad) in [
            ("", "-1\r\n"),
            ("", "3\n"),
            ("", "3 \r\n"),
            ("", " 3\r\n"),
            ("", "3;a\0\r\n"),
            ("", "3;a\rb\r\n"),
            ("", "\r\n"),
            ("", &format!("{}3\r\n", "0".repeat(64))),
            ("", &format!("3;a={}\r\n", "b".repeat(300))),
            ("0\r\n", "GET / HTTP/1.1\r\n"),
            ("3\r\nabc", "d\r\n"),
            ("3\r\nabc", "\n"),
            ("", "8000000000000000\r\n"),
            ("3\r\nabc\r\n0\r\n", "A: b\n"),
            ("0\r\n", "\n"),
        ] {
            let result = feed(&mut Framing::new(), &format!("{head}{lines}{bad}"));
            let expected = head.len() + lines.len();
            assert!(matches!(result, Err(Refused::Chunk { at }) if at == expected), "{bad:?}");
        }
    }

    #[test]
    fn a_body_comes_after_the_head() {
        let mut framing = Framing::new();
        let mut is_in_body_after = |text: &str| {
            assert_eq!(feed(&mut framing, text).ok(), Some(text.len()));
            framing.is_after_head()
        };
        assert!(is_in_body_after("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab"));
        assert!(!is_in_body_after("c"));
    }

    /// What passes of `pieces` as they come, and whether something was refused.
    fn pass<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, bool) {
        let (mut framing, mut held, mut passed) = (Framing::new(), Vec::new(), Vec::new());
        for piece in pieces {
            held.extend_from_slice(piece);
            match framing.feed(&mut held) {
                Ok(count) => passed.extend(held.drain(..count)),
                Err(Refused::Head { at, .. }) => {
                    passed.extend(held.drain(..at));
                    return (passed, true);
                }
                // Where such a line begins depends on how it came.
                Err(Refused::Chunk { .. } | Refused::Stranger { .. }) => return (Vec::new(), true),
            }
        }
        (passed, false)
    }

    proptest! {
        #[test]
        fn a_plain_target_is_one(target in "/[!-~]{0,20}") {
            prop_assert!(!is_plain(&target) || target.parse::<Uri>().is_ok(), "{}", target);
        }

        #[test]
        fn how_bytes_are_cut_makes_no_difference(
            parts in prop::collection::vec(prop::sample::select(vec![
                "GET / HTTP/1.1\r\n", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n",
                "\r\n", "\n", "hello", "3\r\n", "0\r\n", "A: b\r\n", "\r", ":",
            ]), 0..12),
            size in 1_usize..40,
        ) {
            let text = parts.concat();
            prop_assert_eq!(pass([text.as_bytes()]), pass(text.as_bytes().chunks(size)));
        }
    }
}
