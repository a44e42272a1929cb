//! Percent-encoding, as URLs have it. Pure. Source: RFC 3986.

use std::borrow::Cow;
use std::fmt::Write;

/// Decodes `%41` to `A`. A `%` that no two hexadecimal digits follow stands for itself.
pub fn percent_decode(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !bytes.contains(&b'%') {
        return Cow::Borrowed(bytes);
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = if first == b'%' { hex_pair(tail) } else { None };
        decoded.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    Cow::Owned(decoded)
}

/// Escapes what can't stand in the path of a URL. A `/` stays.
pub fn encode_path(path: &[u8]) -> String {
    encode(path, |byte| is_plain(byte) || b"&+".contains(&byte))
}

/// Escapes what can't stand in a value within a query, or would end it.
pub fn encode_query_value(value: &[u8]) -> String {
    encode(value, is_plain)
}

/// Escapes what can't stand in a URL at all, and leaves its parts as they are.
pub fn encode_url(url: &[u8]) -> String {
    encode(url, |byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte))
}

/// Whether a byte means the same in a path and in a query's value, escaped or not.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~/:@!$'()*,=".contains(&byte)
}

fn encode(bytes: &[u8], stays: impl Fn(u8) -> bool) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match stays(*byte) {
            true => text.push(char::from(*byte)),
            false => _ = write!(text, "%{byte:02X}"),
        }
    }
    text
}

fn hex_pair(bytes: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(*bytes.first()?)? << 4 | digit(*bytes.get(1)?)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_has_a_meaning_is_escaped() {
        assert_eq!(encode_path(b"/a b?c#d%\\\r\n\xff&"), "/a%20b%3Fc%23d%25%5C%0D%0A%FF&");
        assert_eq!(encode_query_value(b"/a&b+c"), "/a%26b%2Bc");
        assert_eq!(encode_url("/\u{e9}%20?a=b&c".as_bytes()), "/%C3%A9%20?a=b&c");
    }

    #[test]
    fn percent_signs_without_digits_stay() {
        assert_eq!(&*percent_decode("/%zz%4"), b"/%zz%4");
        assert_eq!(&*percent_decode("/%41%2f%ff"), b"/A/\xff");
    }

    proptest! {
        #[test]
        fn what_is_encoded_can_be_decoded(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            for text in [encode_path(&bytes), encode_query_value(&bytes)] {
                prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
                prop_assert_eq!(&*percent_decode(&text), bytes.as_slice());
            }
        }
    }
}
