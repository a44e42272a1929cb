//! Whether a file is sent whole, in part, or not at all. Pure.
//!
//! Source: RFC 9110, sections 13 and 14.

use std::time::Duration;

use http::header::{
    HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE,
};
use http::{HeaderMap, Method};
use jiff::Timestamp;
use jiff::fmt::rfc2822;

/// What identifies the version of a file that would be sent.
#[derive(Debug, Clone)]
pub struct Version {
    /// A strong one, quotes included.
    pub etag: String,
    /// Whole seconds, as an HTTP date has.
    pub modified: Timestamp,
    pub size: u64,
}

/// How much of a file is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    Whole,
    Part(Part),
    /// Two or more that don't overlap, in the order in which they were asked for.
    Parts(Vec<Part>),
    NotModified,
    PreconditionFailed,
    /// No wanted byte exists.
    OutOfRange,
}

/// The bytes from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub first: u64,
    pub last: u64,
}

/// The most ranges that are sent as such. More, or ranges that overlap, are answered with the whole,
/// which is cheaper for both sides and what the standard suggests.
const PARTS_MAX: usize = 16;

/// Decides what of `version` answers a request by `method`, GET or HEAD, with these headers.
///
/// Ranges are about GET alone.
pub fn select(method: &Method, request: &HeaderMap, version: &Version) -> Selection {
    if !met(request, version) {
        return Selection::PreconditionFailed;
    }
    if is_known(request, version) {
        return Selection::NotModified;
    }
    let range = text(request, RANGE).filter(|_| method == Method::GET);
    match range.filter(|_| range_applies(request, version)) {
        Some(range) => parse_range(range, version.size),
        None => Selection::Whole,
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`; `None` for a year that has not four digits.
pub fn http_date(time: Timestamp) -> Option<String> {
    rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&time).ok()
}

/// `now` and `after` later, as an HTTP date.
pub fn http_date_after(now: Timestamp, after: Duration) -> Option<String> {
    now.checked_add(after).ok().and_then(http_date)
}

/// If-Match, and where that is absent, If-Unmodified-Since.
fn met(request: &HeaderMap, version: &Version) -> bool {
    match text(request, IF_MATCH) {
        Some(tags) => names(tags, &version.etag, Comparison::Strong),
        None => date(request, IF_UNMODIFIED_SINCE).is_none_or(|since| version.modified <= since),
    }
}

/// If-None-Match, and where that is absent, If-Modified-Since.
///
/// The date must be the very one that was sent: after a rollback, the file to serve is older than
/// the one the client has.
fn is_known(request: &HeaderMap, version: &Version) -> bool {
    match text(request, IF_NONE_MATCH) {
        Some(tags) => names(tags, &version.etag, Comparison::Weak),
        None => date(request, IF_MODIFIED_SINCE).is_some_and(|since| version.modified == since),
    }
}

/// If-Range: a part is of use only beside parts of the same version.
fn range_applies(request: &HeaderMap, version: &Version) -> bool {
    match text(request, IF_RANGE) {
        None => true,
        Some(tag) if tag.starts_with('"') => tag == version.etag,
        // A date is as weak as its resolution; the etag is what we vouch for.
        Some(_) => date(request, IF_RANGE).is_some_and(|date| date == version.modified),
    }
}

/// How two etags are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

/// Whether `tags`, a list or `*`, has `etag` in it.
fn names(tags: &str, etag: &str, comparison: Comparison) -> bool {
    tags.trim() == "*"
        || tags.split(',').map(str::trim).any(|tag| match comparison {
            Comparison::Strong => tag == etag,
            Comparison::Weak => tag.strip_prefix("W/").unwrap_or(tag) == etag,
        })
}

/// What `range` selects of `size` bytes. What is no list of ranges of bytes is ignored.
fn parse_range(range: &str, size: u64) -> Selection {
    let Some((unit, ranges)) = range.split_once('=') else { return Selection::Whole };
    if !unit.eq_ignore_ascii_case("bytes") {
        return Selection::Whole;
    }
    let ranges = ranges.split(',').map(|range| range.trim_matches([' ', '\t']));
    let ranges = ranges.filter(|range| !range.is_empty()).take(PARTS_MAX + 1);
    let ranges: Option<Vec<_>> = ranges.map(|range| parse_part(range, size)).collect();
    match ranges {
        Some(ranges) if (1..=PARTS_MAX).contains(&ranges.len()) => {
            selection(ranges.into_iter().flatten().collect())
        }
        _ => Selection::Whole,
    }
}

/// One range of bytes; the inner `None` is one that begins beyond the end, the outer one is none.
fn parse_part(range: &str, size: u64) -> Option<Option<Part>> {
    let (first, last) = range.split_once('-')?;
    match (decimal(first), decimal(last)) {
        (Some(first), None) if last.is_empty() => Some(part(first, u64::MAX, size)),
        (Some(first), Some(last)) if first <= last => Some(part(first, last, size)),
        (None, Some(0)) if first.is_empty() => Some(None),
        (None, Some(count)) if first.is_empty() => {
            Some(part(size.saturating_sub(count), u64::MAX, size))
        }
        _ => None,
    }
}

fn part(first: u64, last: u64, size: u64) -> Option<Part> {
    let end = size.checked_sub(1).filter(|end| first <= *end)?;
    Some(Part { first, last: last.min(end) })
}

fn selection(parts: Vec<Part>) -> Selection {
    let overlap = |a: &Part, b: &Part| a.first <= b.last && b.first <= a.last;
    let any_overlap = || {
        let mut pairs = parts.iter().enumerate();
        pairs.any(|(index, part)| parts[..index].iter().any(|other| overlap(part, other)))
    };
    match parts.as_slice() {
        [] => Selection::OutOfRange,
        [part] => Selection::Part(*part),
        _ if any_overlap() => Selection::Whole,
        _ => Selection::Parts(parts),
    }
}

/// A number of digits only; one too large for 64 bits is as good as the largest.
fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

fn date(request: &HeaderMap, name: HeaderName) -> Option<Timestamp> {
    rfc2822::DateTimeParser::new().parse_timestamp(text(request, name)?).ok()
}

/// The header's value, where it comes once and is ASCII.
fn text(request: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = request.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() { None } else { first.to_str().ok() }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn version() -> Version {
        Version {
            etag: "\"a\"".to_owned(),
            modified: Timestamp::from_second(784_111_777).unwrap(),
            size: 100,
        }
    }

    fn selected(fields: &[(HeaderName, &str)]) -> Selection {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        select(&Method::GET, &headers, &version())
    }

    #[test]
    fn a_date_is_written_as_it_is_read() {
        assert_eq!(http_date(version().modified).as_deref(), Some(MODIFIED));
        assert_eq!(selected(&[(IF_MODIFIED_SINCE, MODIFIED)]), Selection::NotModified);
    }

    #[test]
    fn an_etag_outweighs_a_date() {
        assert_eq!(selected(&[(IF_NONE_MATCH, "\"b\", W/\"a\"")]), Selection::NotModified);
        assert_eq!(selected(&[(IF_NONE_MATCH, "*")]), Selection::NotModified);
        let both = [(IF_NONE_MATCH, "\"b\""), (IF_MODIFIED_SINCE, MODIFIED)];
        assert_eq!(selected(&both), Selection::Whole);
    }

    #[test]
    fn any_other_date_is_another_version() {
        for other in ["Sun, 06 Nov 1994 08:49:36 GMT", "Mon, 07 Nov 1994 08:49:37 GMT", "then"] {
            assert_eq!(selected(&[(IF_MODIFIED_SINCE, other)]), Selection::Whole, "{other}");
        }
    }

    #[test]
    fn preconditions_come_first() {
        assert_eq!(selected(&[(IF_MATCH, "\"b\"")]), Selection::PreconditionFailed);
        assert_eq!(selected(&[(IF_MATCH, "W/\"a\"")]), Selection::PreconditionFailed);
        assert_eq!(selected(&[(IF_MATCH, "\"a\"")]), Selection::Whole);
        assert_eq!(
            selected(&[(IF_UNMODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:36 GMT")]),
            Selection::PreconditionFailed
        );
    }

    #[test]
    fn a_range_has_three_forms() {
        let part = |first, last| Selection::Part(Part { first, last });
        assert_eq!(selected(&[(RANGE, "bytes=0-9")]), part(0, 9));
        assert_eq!(selected(&[(RANGE, "bytes=90-")]), part(90, 99));
        assert_eq!(selected(&[(RANGE, "bytes=-10")]), part(90, 99));
        assert_eq!(selected(&[(RANGE, "bytes=-1000")]), part(0, 99));
        assert_eq!(selected(&[(RANGE, "bytes=50-99999999999999999999999")]), part(50, 99));
    }

    #[test]
    fn a_range_beyond_the_end_can_not_be_sent() {
        assert_eq!(selected(&[(RANGE, "bytes=100-")]), Selection::OutOfRange);
        assert_eq!(selected(&[(RANGE, "bytes=-0")]), Selection::OutOfRange);
    }

    #[test]
    fn what_is_no_range_is_ignored() {
        for bad in ["bytes=", "bytes=-", "bytes=9-1", "bytes=0-1,a", "lines=0-1", "bytes=a-b"] {
            assert_eq!(selected(&[(RANGE, bad)]), Selection::Whole, "{bad}");
        }
    }

    #[test]
    fn several_ranges_are_sent_as_they_were_asked_for() {
        let parts = |range: &str| match selected(&[(RANGE, range)]) {
            Selection::Parts(parts) => parts.iter().map(|part| (part.first, part.last)).collect(),
            other => panic!("{range}: {other:?}"),
        };
        let found: Vec<_> = parts("Bytes=50-59, ,0-9,-10");
        assert_eq!(found, [(50, 59), (0, 9), (90, 99)]);
        assert_eq!(parts("bytes=0-0,200-,2-2"), [(0, 0), (2, 2)]);
        assert_eq!(
            selected(&[(RANGE, "bytes=0-0,200-")]),
            Selection::Part(Part { first: 0, last: 0 })
        );
        assert_eq!(selected(&[(RANGE, "bytes=200-,300-")]), Selection::OutOfRange);
        let many: Vec<_> = (0..17).map(|at| format!("{0}-{0}", 2 * at)).collect();
        for whole in ["bytes=0-5,5-9", "bytes=0-,0-", &format!("bytes={}", many.join(","))] {
            assert_eq!(selected(&[(RANGE, whole)]), Selection::Whole, "{whole}");
        }
    }

    #[test]
    fn a_head_knows_no_ranges() {
        let headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_static("bytes=0-0"))]);
        assert_eq!(select(&Method::HEAD, &headers, &version()), Selection::Whole);
    }

    #[test]
    fn a_range_of_another_version_is_the_whole() {
        let range = |condition| selected(&[(RANGE, "bytes=0-0"), (IF_RANGE, condition)]);
        assert_eq!(range("\"a\""), Selection::Part(Part { first: 0, last: 0 }));
        assert_eq!(range(MODIFIED), Selection::Part(Part { first: 0, last: 0 }));
        assert_eq!(range("\"b\""), Selection::Whole);
        assert_eq!(range("W/\"a\""), Selection::Whole);
    }

    proptest! {
        #[test]
        fn parts_lie_within_the_file_and_apart(
            range in "bytes=[0-9]{0,4}-[0-9]{0,4}(,[0-9]{0,4}-[0-9]{0,4}){0,4}",
            size in 0_u64..2000,
        ) {
            let parts = match parse_range(&range, size) {
                Selection::Part(part) => vec![part],
                Selection::Parts(parts) => parts,
                _ => vec![],
            };
            prop_assert!(parts.iter().all(|part| part.first <= part.last && part.last < size));
            prop_assert!(parts.iter().map(|part| part.last - part.first + 1).sum::<u64>() <= size);
        }
    }
}
