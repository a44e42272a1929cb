//! A body in chunks, from an app. Pure.
//!
//! Strict: sizes are hexadecimal digits and nothing else, lines end in CR LF. Extensions are dropped,
//! trailers kept for whoever asks. Source: <https://www.rfc-editor.org/rfc/rfc9112#section-7.1>.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Where in a body the bytes received so far end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChunkDecoder {
    state: State,
    /// The lines after the last chunk, as they came.
    trailers: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum State {
    #[default]
    Size,
    Data {
        remaining: u64,
    },
    /// The line end after a chunk's data.
    DataEnd,
    Trailers,
    End,
}

/// What the bytes received so far come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Never empty.
    Data(Bytes),
    NeedsMore,
    End,
}

/// The bytes are no chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the response's body is not in chunks as it says")]
pub struct ChunkError;

/// The longest line before a chunk, extensions included.
const SIZE_LINE_MAX: usize = 1024;

/// The most bytes of trailers, and the most of them.
const TRAILERS_MAX: usize = 16 * 1024;
const TRAILER_FIELDS_MAX: usize = 64;

const LINE_END: &[u8] = b"\r\n";

impl ChunkDecoder {
    /// Takes what it can off the front of `buffer`. Once at the end, it takes no more.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, ChunkError> {
        loop {
            match self.state {
                State::End => return Ok(Decoded::End),
                State::Data { .. } if buffer.is_empty() => return Ok(Decoded::NeedsMore),
                State::Data { remaining } => {
                    return Ok(Decoded::Data(self.take(remaining, buffer)));
                }
                State::Size | State::DataEnd | State::Trailers => match line_end(buffer)? {
                    Some(end) => self.take_line(end, buffer)?,
                    None if buffer.len() > SIZE_LINE_MAX => return Err(ChunkError),
                    None => return Ok(Decoded::NeedsMore),
                },
            }
        }
    }

    /// The trailers, once, after the end. Errors: they are none.
    pub fn take_trailers(&mut self) -> Result<HeaderMap, ChunkError> {
        let mut lines = std::mem::take(&mut self.trailers);
        lines.extend_from_slice(b"\r\n");
        let mut fields = [httparse::EMPTY_HEADER; TRAILER_FIELDS_MAX];
        let parsed = httparse::parse_headers(&lines, &mut fields).map_err(|_| ChunkError)?;
        let httparse::Status::Complete((_, fields)) = parsed else { return Err(ChunkError) };
        let mut trailers = HeaderMap::new();
        for field in fields {
            let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| ChunkError)?;
            let value = HeaderValue::from_bytes(field.value).map_err(|_| ChunkError)?;
            trailers.append(name, value);
        }
        Ok(trailers)
    }

    pub fn is_at_end(&self) -> bool {
        self.state == State::End
    }

    fn take(&mut self, remaining: u64, buffer: &mut BytesMut) -> Bytes {
        let count = usize::try_from(remaining).unwrap_or(usize::MAX).min(buffer.len());
        self.state = match remaining - count as u64 {
            0 => State::DataEnd,
            remaining => State::Data { remaining },
        };
        buffer.split_to(count).freeze()
    }

    /// Takes the line that has `length` bytes before its CR LF.
    fn take_line(&mut self, length: usize, buffer: &mut BytesMut) -> Result<(), ChunkError> {
        let line = buffer.split_to(length);
        buffer.advance(LINE_END.len());
        self.state = match self.state {
            State::Size => match size(&line)? {
                0 => State::Trailers,
                remaining => State::Data { remaining },
            },
            State::DataEnd if line.is_empty() => State::Size,
            State::Trailers if line.is_empty() => State::End,
            State::Trailers => {
                self.trailers.extend_from_slice(&line);
                self.trailers.extend_from_slice(LINE_END);
                if self.trailers.len() > TRAILERS_MAX {
                    return Err(ChunkError);
                }
                State::Trailers
            }
            _ => return Err(ChunkError),
        };
        Ok(())
    }
}

/// How many bytes come before the first CR LF, if one is there yet.
fn line_end(bytes: &[u8]) -> Result<Option<usize>, ChunkError> {
    match bytes.iter().position(|byte| *byte == b'\n') {
        None => Ok(None),
        Some(at) if at > 0 && bytes[at - 1] == b'\r' && at <= SIZE_LINE_MAX => Ok(Some(at - 1)),
        Some(_) => Err(ChunkError),
    }
}

fn size(line: &[u8]) -> Result<u64, ChunkError> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(ChunkError);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| ChunkError)?;
    u64::from_str_radix(digits, 16).map_err(|_| ChunkError)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What comes of `text` in parts of `step` bytes: the data, whether it ended, and what is left.
    fn decode(text: &[u8], step: usize) -> Result<(Vec<u8>, bool, Vec<u8>), ChunkError> {
        let (mut decoder, mut buffer, mut data) =
            (ChunkDecoder::default(), BytesMut::new(), Vec::new());
        for part in text.chunks(step) {
            buffer.extend_from_slice(part);
            while let Decoded::Data(bytes) = decoder.decode(&mut buffer)? {
                data.extend_from_slice(&bytes);
            }
        }
        Ok((data, decoder.is_at_end(), buffer.to_vec()))
    }

    #[test]
    fn chunks_make_a_body() {
        let text = b"5\r\nhello\r\nA;x=y\r\n, and more\r\n0\r\nTrailer: a\r\n\r\nnext";
        for step in 1..text.len() {
            let (data, ended, rest) = decode(text, step).unwrap();
            assert_eq!((data.as_slice(), ended), (&b"hello, and more"[..], true));
            assert!(rest.is_empty() || b"next".ends_with(&rest), "{rest:?}");
        }
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        let long = format!("{}\r\n", "0".repeat(2 * SIZE_LINE_MAX));
        let trailers = format!("0\r\n{}", "a: b\r\n".repeat(TRAILERS_MAX));
        for bad in [
            "5\nhello\r\n",
            "+5\r\nhello\r\n",
            "0x5\r\nhello\r\n",
            "\r\nhello\r\n",
            "5\r\nhelloX\r\n0\r\n\r\n",
            "fffffffffffffffff\r\n",
            " 5\r\n",
            &long,
            &trailers,
        ] {
            assert_eq!(decode(bad.as_bytes(), bad.len()), Err(ChunkError), "{bad:?}");
        }
    }

    #[test]
    fn trailers_are_there_after_the_end() {
        let trailers = |text: &str| {
            let (mut decoder, mut buffer) =
                (ChunkDecoder::default(), BytesMut::from(text.as_bytes()));
            while decoder.decode(&mut buffer)? != Decoded::End {}
            decoder.take_trailers()
        };
        let some = trailers("1\r\na\r\n0\r\nA: b\r\nGrpc-Status: 0\r\n\r\n").unwrap();
        assert_eq!((some.len(), &some["grpc-status"]), (2, &HeaderValue::from_static("0")));
        assert!(trailers("0\r\n\r\n").unwrap().is_empty());
        let many = format!("0\r\n{}\r\n", "a: b\r\n".repeat(TRAILER_FIELDS_MAX + 1));
        for bad in ["0\r\nA : b\r\n\r\n", "0\r\nA\r\n\r\n", "0\r\n A: b\r\n\r\n", &many] {
            assert_eq!(trailers(bad), Err(ChunkError), "{bad:.40?}");
        }
    }

    #[test]
    fn a_body_that_breaks_off_has_not_ended() {
        for part in ["", "5", "5\r\nhel", "5\r\nhello\r\n", "0\r\n", "0\r\nA: b\r\n"] {
            assert!(!decode(part.as_bytes(), 100).unwrap().1, "{part:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes, 7);
        }
    }
}
