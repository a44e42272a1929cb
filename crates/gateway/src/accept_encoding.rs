//! What `Accept-Encoding` prefers. Pure. Source: RFC 9110, section 12.5.3.

use ace_types::Coding;
use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

/// How welcome each coding is, in thousandths; 0 is not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    codings: [u16; Coding::ALL.len()],
    identity: u16,
}

impl Accepted {
    /// What a request with these headers accepts. Without a word, nothing but the file as it is.
    pub fn of(request: &HeaderMap) -> Self {
        let mut named = [None; Coding::ALL.len()];
        let (mut identity, mut others) = (None, None);
        for (token, quality) in items(request) {
            let coding = Coding::ALL.iter().position(|coding| names(*coding, token));
            match coding {
                Some(index) => named[index] = named[index].max(Some(quality)),
                None if token.eq_ignore_ascii_case(b"identity") => identity = Some(quality),
                None if token == b"*" => others = Some(quality),
                None => {}
            }
        }
        Self {
            codings: named.map(|quality| quality.or(others).unwrap_or(0)),
            // Never not at all: there may be nothing else to send.
            identity: identity.or(others).unwrap_or(1).max(1),
        }
    }

    /// The best of `codings`, each with its size in bytes, for a file of `size`; `None` is the file
    /// as it is. What is equally welcome is told apart by size, and after that by their order.
    pub fn best(&self, size: u64, codings: impl Iterator<Item = (Coding, u64)>) -> Option<Coding> {
        let mut best = (self.identity, size, None);
        for (coding, size) in codings {
            let quality = self.quality(coding);
            if quality > best.0 || (quality == best.0 && size < best.1) {
                best = (quality, size, Some(coding));
            }
        }
        best.2
    }

    fn quality(&self, coding: Coding) -> u16 {
        let index = Coding::ALL.iter().position(|other| *other == coding);
        index.map_or(0, |index| self.codings[index])
    }
}

fn names(coding: Coding, token: &[u8]) -> bool {
    let is = |name: &str| token.eq_ignore_ascii_case(name.as_bytes());
    is(coding.token()) || (coding == Coding::Gzip && is("x-gzip"))
}

/// The items of the list, each with its quality. What has no quality that can be read is left out.
fn items(request: &HeaderMap) -> impl Iterator<Item = (&[u8], u16)> {
    let values = request.get_all(ACCEPT_ENCODING).iter();
    let items = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    items.filter_map(|item| {
        let mut parts = item.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let token = parts.next()?;
        match parts.next() {
            None => Some((token, 1000)),
            Some(weight) => Some((token, quality(weight)?)),
        }
    })
}

/// `q=0.5` as 500.
fn quality(weight: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(weight).ok()?;
    let number = text.strip_prefix("q=").or(text.strip_prefix("Q="))?;
    let quality: f32 = number.parse().ok()?;
    let digits = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    // At most three digits follow the point, so nothing is lost.
    (digits && quality <= 1.0).then(|| (quality * 1000.0).round() as u16)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// The best of all three, of which the last is the smallest.
    fn best(accept: &str) -> Option<Coding> {
        let accept = HeaderValue::from_str(accept).unwrap();
        let accepted = Accepted::of(&HeaderMap::from_iter([(ACCEPT_ENCODING, accept)]));
        accepted.best(100, Coding::ALL.into_iter().zip([40, 40, 30]))
    }

    #[test]
    fn nothing_is_compressed_unasked() {
        let accepted = Accepted::of(&HeaderMap::new());
        assert_eq!(accepted.best(100, Coding::ALL.into_iter().zip([1, 1, 1])), None);
        for accept in ["", "identity", "deflate", "gzip;q=0", "*;q=0", "br;q=2", "br;q=x", "br;a=b"]
        {
            assert_eq!(best(accept), None, "{accept}");
        }
    }

    #[test]
    fn quality_goes_first_and_then_size() {
        for (accept, coding) in [
            ("br", Coding::Brotli),
            ("gzip, deflate, br, zstd", Coding::Gzip),
            ("gzip;q=0.9, br;q=1.0", Coding::Brotli),
            ("zstd, br", Coding::Brotli),
            ("*", Coding::Gzip),
            ("*, gzip;q=0", Coding::Brotli),
            ("X-GZIP", Coding::Gzip),
            ("gzip;q=0.001", Coding::Gzip),
            ("identity;q=0, gzip;q=0.5", Coding::Gzip),
            ("identity;q=0.4, zstd ; q=0.5", Coding::Zstandard),
        ] {
            assert_eq!(best(accept), Some(coding), "{accept}");
        }
        assert_eq!(best("identity, br;q=0.5"), None);
    }
}
