//! Watches a client's bytes for where each request begins and ends. Pure.
//!
//! hyper parses requests, and parses them as HTTP allows, which is more than is safe: it takes a
//! bare LF for a line's end and, of a `Content-Length` beside a `Transfer-Encoding`, silently drops
//! the first. Two parties that read such a request differently can be made to disagree on where it
//! ends. [`Framing`] sees the same bytes before hyper does and finds what to refuse. It also knows
//! whether a request is half received, which deadlines depend on.
//!
//! It looks at line ends and two header names, no more: everything else is hyper's to judge.

/// Where in its requests a client's stream of bytes stands.
#[derive(Debug)]
pub struct Framing {
    state: State,
    /// The beginning of the line that is being received; see [`LINE_BYTES_KEPT`].
    line: Vec<u8>,
    /// The last byte received, as far as it belongs to the same line.
    last: u8,
    heads: u64,
}

/// A line that makes a request ambiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ambiguous {
    /// The line's first byte among those that were fed last.
    pub line_at: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first byte of a request.
    Between,
    Head(Fields),
    Body {
        remaining: u64,
    },
    ChunkSize,
    ChunkData {
        remaining: u64,
    },
    Trailers,
}

/// What has been seen of the head that is being received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Fields {
    request_line: bool,
    content_length: Option<u64>,
    transfer_encoding: bool,
}

/// How much is kept of a line: enough for `Content-Length` and `Transfer-Encoding` and a number.
const LINE_BYTES_KEPT: usize = 64;

impl Framing {
    pub fn new() -> Self {
        Self { state: State::Between, line: Vec::new(), last: 0, heads: 0 }
    }

    /// Takes the next bytes of the stream. After an error, feed no more.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Ambiguous> {
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
                        self.state = State::ChunkSize;
                    }
                }
                State::Between => self.state = State::Head(Fields::default()),
                State::Head(_) | State::ChunkSize | State::Trailers => {
                    at = self.take_line(bytes, at).map_err(|()| Ambiguous { line_at: at })?;
                }
            }
        }
        Ok(())
    }

    /// Whether a request's head has begun and is not complete.
    pub fn is_in_head(&self) -> bool {
        matches!(self.state, State::Head(_))
    }

    /// Whether a request has begun and is not complete, its body included.
    pub fn is_in_request(&self) -> bool {
        self.state != State::Between
    }

    /// Heads received so far.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// Takes what there is of a line, and acts on it when it ends. Returns where to go on.
    fn take_line(&mut self, bytes: &[u8], from: usize) -> Result<usize, ()> {
        let rest = &bytes[from..];
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            self.keep(rest);
            return Ok(bytes.len());
        };
        self.keep(&rest[..end]);
        let with_return = self.last == b'\r';
        self.line.truncate(self.line.len() - usize::from(self.line.last() == Some(&b'\r')));
        let result = match self.state {
            State::Head(fields) => self.end_head_line(fields, with_return),
            State::ChunkSize => chunk_of(&self.line),
            _ if self.line.is_empty() => Ok(State::Between),
            state => Ok(state),
        };
        self.line.clear();
        self.last = 0;
        self.state = result?;
        Ok(from + end + 1)
    }

    fn keep(&mut self, part: &[u8]) {
        let room = LINE_BYTES_KEPT - self.line.len();
        self.line.extend_from_slice(&part[..part.len().min(room)]);
        self.last = part.last().copied().unwrap_or(self.last);
    }

    fn end_head_line(&mut self, mut fields: Fields, with_return: bool) -> Result<State, ()> {
        if !with_return {
            return Err(());
        }
        if self.line.is_empty() && fields.request_line {
            self.heads += 1;
            return fields.body();
        }
        if self.line.is_empty() {
            return Ok(State::Between); // An empty line before a request is allowed.
        }
        if fields.request_line {
            fields.note(&self.line)?;
        }
        fields.request_line = true;
        Ok(State::Head(fields))
    }
}

impl Fields {
    fn note(&mut self, line: &[u8]) -> Result<(), ()> {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return Ok(()) };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.transfer_encoding = true;
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            self.content_length = Some(whole_number(line, value, 10)?);
        }
        Ok(())
    }

    /// What follows the head.
    fn body(&self) -> Result<State, ()> {
        match (self.transfer_encoding, self.content_length) {
            (true, Some(_)) => Err(()),
            (true, None) => Ok(State::ChunkSize),
            (false, None | Some(0)) => Ok(State::Between),
            (false, Some(remaining)) => Ok(State::Body { remaining }),
        }
    }
}

/// What follows the line `size` between chunks; its data ends in CR LF.
fn chunk_of(size: &[u8]) -> Result<State, ()> {
    let digits = size.split(|byte| *byte == b';').next().unwrap_or_default();
    match whole_number(size, digits.trim_ascii(), 16)? {
        0 => Ok(State::Trailers),
        size => Ok(State::ChunkData { remaining: size.checked_add(2).ok_or(())? }),
    }
}

/// The number that `digits`, a part of `line`, spell; unless some may not have been kept.
fn whole_number(line: &[u8], digits: &[u8], radix: u32) -> Result<u64, ()> {
    let only_digits = digits.iter().all(|byte| char::from(*byte).is_digit(radix));
    if line.len() == LINE_BYTES_KEPT || digits.is_empty() || !only_digits {
        return Err(());
    }
    let digits = std::str::from_utf8(digits).map_err(|_| ())?;
    u64::from_str_radix(digits, radix).map_err(|_| ())
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

    fn feed(text: &str) -> Result<Framing, Ambiguous> {
        let mut framing = Framing::new();
        framing.feed(text.as_bytes()).map(|()| framing)
    }

    #[test]
    fn requests_follow_each_other() {
        let framing = feed(concat!(
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\nPOST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n\n\n\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3;a=b\r\n\n\n\n\r\n0\r\nA: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHo",
        ))
        .unwrap();
        assert_eq!(framing.heads(), 3);
        assert!(framing.is_in_head());
    }

    #[test]
    fn ambiguous_lines_are_found() {
        let begin = "GET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\n";
        for (lines, bad) in [
            ("", "A: b\n"),
            ("Host: a\r\n", "\n"),
            ("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "\r\n"),
            ("transfer-encoding:chunked\r\ncontent-length:3\r\n", "\r\n"),
            ("", "Content-Length: +3\r\n"),
            ("", &format!("Content-Length: {}3\r\n", "0".repeat(50))),
            ("Transfer-Encoding: chunked\r\n\r\n", &format!("{}3\r\n", "0".repeat(64))),
            ("Transfer-Encoding: chunked\r\n\r\n", "-1\r\n"),
        ] {
            let result = feed(&format!("{begin}{lines}{bad}")).map(|framing| framing.heads());
            assert_eq!(result, Err(Ambiguous { line_at: begin.len() + lines.len() }), "{bad:?}");
        }
    }

    #[test]
    fn a_body_is_in_the_request_but_not_in_its_head() {
        let framing = feed("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab").unwrap();
        assert!(framing.is_in_request() && !framing.is_in_head());
    }

    proptest! {
        #[test]
        fn how_bytes_are_cut_makes_no_difference(
            parts in prop::collection::vec(prop::sample::select(vec![
                "GET / HTTP/1.1\r\n", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n",
                "\r\n", "\n", "hello", "3\r\n", "0\r\n", "A: b\r\n", "\r", ":",
            ]), 0..12),
            cut in 0_usize..100,
        ) {
            let text = parts.concat();
            let cut = cut.min(text.len());
            let whole = feed(&text).map(|framing| (framing.state, framing.heads));
            let mut framing = Framing::new();
            let halves = framing
                .feed(&text.as_bytes()[..cut])
                .and_then(|()| framing.feed(&text.as_bytes()[cut..]))
                .map(|()| (framing.state, framing.heads));
            prop_assert_eq!(whole.is_ok(), halves.is_ok());
            if whole.is_ok() {
                prop_assert_eq!(whole, halves);
            }
        }
    }
}
