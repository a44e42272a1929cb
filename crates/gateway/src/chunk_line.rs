//! The lines between the chunks of a body, and after the last one. Pure.
//!
//! Source: <https://www.rfc-editor.org/rfc/rfc9112#section-7.1>. What an extension or a trailer says is
//! nobody's business here, but one that is malformed may be read as something else by others.

/// Enough for any number that fits into 64 bits; more digits could be read as another number.
const DIGITS_MAX: usize = 16;

/// The size of the chunk that `line`, without its CR LF, announces; `None` where it is no such line.
pub fn chunk_size(line: &[u8]) -> Option<u64> {
    let (digits, extensions) = split_while(line, |byte| byte.is_ascii_hexdigit());
    if digits.is_empty() || digits.len() > DIGITS_MAX || !are_extensions(extensions) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Whether a trailer begins like `line`: with its name, and a colon after that.
pub fn begins_trailer(line: &[u8]) -> bool {
    let (name, rest) = split_while(line, is_token);
    !name.is_empty() && rest.starts_with(b":")
}

/// Whether `rest` is any number of `;name`, `;name=value` and `;name="value"`. White space may stand
/// around `;` and `=`, and nowhere else.
fn are_extensions(mut rest: &[u8]) -> bool {
    while !rest.is_empty() {
        match after_extension(rest) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    true
}

fn after_extension(rest: &[u8]) -> Option<&[u8]> {
    let rest = trim_start(trim_start(rest).strip_prefix(b";")?);
    let after_name = after_token(rest)?;
    match trim_start(after_name).strip_prefix(b"=").map(trim_start) {
        None => Some(after_name),
        Some(value) if value.starts_with(b"\"") => after_quoted(value),
        Some(value) => after_token(value),
    }
}

fn after_token(rest: &[u8]) -> Option<&[u8]> {
    let (token, rest) = split_while(rest, is_token);
    (!token.is_empty()).then_some(rest)
}

/// What follows the quoted string that `rest` begins with.
fn after_quoted(rest: &[u8]) -> Option<&[u8]> {
    let mut is_escaped = false;
    for (at, byte) in rest.iter().enumerate().skip(1) {
        match byte {
            _ if byte.is_ascii_control() && *byte != b'\t' => return None,
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return rest.get(at + 1..),
            _ => {}
        }
    }
    None
}

/// Source: RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn trim_start(text: &[u8]) -> &[u8] {
    split_while(text, |byte| matches!(byte, b' ' | b'\t')).1
}

fn split_while(text: &[u8], belongs: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !belongs(*byte)).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_has_a_size_and_may_have_extensions() {
        for (line, size) in [
            ("0", 0),
            ("1aF", 0x1af),
            ("0000000000000005", 5),
            ("5;a", 5),
            ("5;a=b;c=\"d;e\\\"f\"", 5),
            ("5 ; a\t= b", 5),
            ("ffffffffffffffff", u64::MAX),
        ] {
            assert_eq!(chunk_size(line.as_bytes()), Some(size), "{line}");
        }
    }

    #[test]
    fn anything_else_is_no_chunk() {
        for line in [
            "",
            " 5",
            "5 ",
            "\t5",
            "+5",
            "-5",
            "0x5",
            "5_0",
            "5h",
            "5,5",
            "5;",
            "5;;a",
            "5; ",
            "5;a ",
            "5;a=",
            "5;a=b c",
            "5;a[=b",
            "5;a=\"b",
            "5;a=\"b\"c",
            "5;a=\"\\\"",
            "5;a\0",
            "5;a=\"\r\"",
            "00000000000000005",
            "5;=b",
            "5;a=\u{e9}",
        ] {
            assert_eq!(chunk_size(line.as_bytes()), None, "{line:?}");
        }
    }

    #[test]
    fn a_trailer_has_a_name() {
        assert!(begins_trailer(b"X-Checksum: abc") && begins_trailer(b"a:"));
        for line in ["", "a", "a : b", ": b", " a: b", "\ta: b", "GET / HTTP/1.1", "a(: b"] {
            assert!(!begins_trailer(line.as_bytes()), "{line:?}");
        }
    }
}
