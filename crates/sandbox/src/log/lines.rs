//! Cuts a stream of bytes into lines of bounded length.

use crate::spec::LogSpec;

/// One output's bytes on their way to lines. Holds at most [`LogSpec::LINE_MAX`] of them.
#[derive(Debug, Default)]
pub struct LineSplitter {
    partial: Vec<u8>,
    /// The line that is being read has been given out in part, because of its length.
    is_continued: bool,
}

impl LineSplitter {
    /// Takes the next bytes and gives each line that they complete to `line`, without its end.
    pub fn feed(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8])) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend(&bytes[..end], &mut line);
            self.end(&mut line);
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes, &mut line);
    }

    /// Gives out what is left, at the end of the stream.
    pub fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.partial.is_empty() {
            self.end(&mut line);
        }
    }

    /// Takes bytes without a line end, and gives out what goes past the length of a line.
    fn extend(&mut self, mut bytes: &[u8], line: &mut impl FnMut(&[u8])) {
        while self.partial.len() + bytes.len() > LogSpec::LINE_MAX {
            let (fits, rest) = bytes.split_at(LogSpec::LINE_MAX - self.partial.len());
            self.partial.extend_from_slice(fits);
            line(&self.partial);
            self.partial.clear();
            self.is_continued = true;
            bytes = rest;
        }
        self.partial.extend_from_slice(bytes);
    }

    fn end(&mut self, line: &mut impl FnMut(&[u8])) {
        // A line that ended just where it was cut has nothing more.
        if !(self.is_continued && self.partial.is_empty()) {
            line(&self.partial);
        }
        self.partial.clear();
        self.is_continued = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut splitter = LineSplitter::default();
        let mut lines = Vec::new();
        for chunk in chunks {
            splitter.feed(chunk, |line| lines.push(line.to_vec()));
        }
        splitter.finish(|line| lines.push(line.to_vec()));
        lines
    }

    #[test]
    fn a_line_may_come_in_pieces() {
        assert_eq!(lines(&[b"a", b"b\nc", b"\n\nd"]), [&b"ab"[..], b"c", b"", b"d"]);
    }

    #[test]
    fn a_long_line_goes_on_in_the_next() {
        let long = vec![b'x'; LogSpec::LINE_MAX + 1];
        assert_eq!(lines(&[&long, b"y\n"]), [&long[1..], b"xy"]);
    }

    #[test]
    fn a_line_of_just_the_length_is_one() {
        let exact = [vec![b'x'; LogSpec::LINE_MAX], b"\n".to_vec()].concat();
        assert_eq!(lines(&[&exact, b"z\n"]), [&exact[..LogSpec::LINE_MAX], b"z"]);
    }
}
