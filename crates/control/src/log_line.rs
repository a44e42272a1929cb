//! One line of an instance's log, as the container's init writes it: time, stream, text.

use ace_api::http::LogLine;
use ace_types::{InstanceId, ReleaseNumber};
use jiff::Timestamp;

/// The streams that a line can be of.
const STREAMS: [&str; 3] = ["out", "err", "ace"];

/// Whose log it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// `None`: what is said there is of the app as a whole.
    pub instance: Option<InstanceId>,
    /// What the instance is, or was, of; as far as that is known.
    pub release: Option<ReleaseNumber>,
}

/// Parses `2026-11-23T05:49:27.123456Z out text`, without its line end.
///
/// `None` where it is none, such as one that a full disk has cut short.
pub fn parse(origin: &Origin, line: &[u8]) -> Option<LogLine> {
    let (at, rest) = split_at_space(line)?;
    // A text may be empty, and with it the space before it may be missing.
    let (stream, text) = split_at_space(rest).unwrap_or((rest, b""));
    let at: Timestamp = std::str::from_utf8(at).ok()?.parse().ok()?;
    let stream = STREAMS.iter().find(|name| name.as_bytes() == stream)?;
    Some(LogLine {
        at,
        instance: origin.instance.clone(),
        release: origin.release,
        stream: (*stream).to_owned(),
        text: String::from_utf8_lossy(text).into_owned(),
    })
}

fn split_at_space(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    Some((&bytes[..space], &bytes[space + 1..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(line: &str) -> Option<(String, String, String)> {
        let line = parse(&Origin::default(), line.as_bytes())?;
        Some((line.at.to_string(), line.stream, line.text))
    }

    #[test]
    fn a_line_is_time_stream_and_text() {
        let (at, stream, text) =
            parsed("2026-11-23T05:49:27.123456Z err  two  spaces ").unwrap_or_default();
        assert_eq!(at, "2026-11-23T05:49:27.123456Z");
        assert_eq!((stream.as_str(), text.as_str()), ("err", " two  spaces "));
    }

    #[test]
    fn an_empty_text_is_one() {
        for line in ["2026-11-23T05:49:27Z out ", "2026-11-23T05:49:27Z out"] {
            assert_eq!(parsed(line).map(|(_, _, text)| text), Some(String::new()), "{line:?}");
        }
    }

    #[test]
    fn what_is_no_line_is_none() {
        for line in ["", "out x", "2026-11-23T05:49:27Z", "2026-11-23T05:49:27Z in x", "now out x"]
        {
            assert_eq!(parsed(line), None, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes: Vec<u8>) {
            let _ = parse(&Origin::default(), &bytes);
        }

        #[test]
        fn any_text_comes_through(text in "[^\n]*") {
            let line = format!("2026-11-23T05:49:27.000001Z out {text}");
            prop_assert_eq!(parsed(&line).map(|(_, _, text)| text), Some(text));
        }
    }
}
