//! Variables as text: `KEY=VALUE` a line, as in a `.env` file.
//!
//! A value may stand in double quotes, in which `\n`, `\t`, `\r`, `\\`, `\"` and `\x1b` are one character
//! each, or in single quotes, in which all is as it stands; either may run over several lines. A line
//! that begins with `#` is a comment. `export ` before a name is allowed. Nothing is substituted.

use std::fmt::Write as _;
use std::iter::Peekable;
use std::str::Chars;

/// Why a text is no list of variables. Never tells what stands there, which may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VariablesError {
    #[error("line {line} is no KEY=VALUE")]
    NoPair { line: usize },
    #[error("line {line}: its quotes are never closed")]
    Open { line: usize },
    #[error("line {line}: there is more after the closing quotes")]
    More { line: usize },
    #[error("line {line}: an unknown \\ in double quotes; write \\\\ for one of itself")]
    Escape { line: usize },
}

/// The pairs in `text`, in their order.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, VariablesError> {
    let mut reader = Reader { rest: text.chars().peekable(), line: 1 };
    let mut pairs = Vec::new();
    loop {
        reader.skip_blank();
        match reader.rest.peek() {
            None => return Ok(pairs),
            Some('#') => _ = reader.rest_of_line(),
            Some(_) => pairs.push(reader.pair()?),
        }
    }
}

/// `value` as [`parse`] reads it: as it is where that will do, else in double quotes.
pub fn quoted(value: &str) -> String {
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '#' | '\\');
    if value.chars().all(is_plain) {
        return value.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            c if c.is_ascii_control() => {
                // Writing to a string can't fail.
                let _ = write!(quoted, "\\x{:02x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    /// Counts from 1.
    line: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let next = self.rest.next();
        self.line += usize::from(next == Some('\n'));
        next
    }

    fn skip_blank(&mut self) {
        while self.rest.peek().is_some_and(|c| c.is_whitespace()) {
            self.next();
        }
    }

    /// Up to the line's end, which is taken too.
    fn rest_of_line(&mut self) -> String {
        let mut text = String::new();
        while let Some(c) = self.next().filter(|c| *c != '\n') {
            text.push(c);
        }
        text
    }

    fn pair(&mut self) -> Result<(String, String), VariablesError> {
        let line = self.line;
        let mut name = String::new();
        loop {
            match self.next() {
                Some('=') => break,
                None | Some('\n') => return Err(VariablesError::NoPair { line }),
                Some(c) => name.push(c),
            }
        }
        let name = name.strip_prefix("export ").unwrap_or(&name).trim();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(VariablesError::NoPair { line });
        }
        let value = match self.rest.peek() {
            Some('"') => self.in_double_quotes(line)?,
            Some('\'') => self.in_single_quotes(line)?,
            _ => self.rest_of_line().trim().to_owned(),
        };
        Ok((name.to_owned(), value))
    }

    fn in_single_quotes(&mut self, line: usize) -> Result<String, VariablesError> {
        self.next();
        let mut value = String::new();
        loop {
            match self.next().ok_or(VariablesError::Open { line })? {
                '\'' => return self.at_the_end(value),
                c => value.push(c),
            }
        }
    }

    fn in_double_quotes(&mut self, line: usize) -> Result<String, VariablesError> {
        self.next();
        let mut value = String::new();
        loop {
            match self.next().ok_or(VariablesError::Open { line })? {
                '"' => return self.at_the_end(value),
                '\\' => value.push(self.escaped()?),
                c => value.push(c),
            }
        }
    }

    fn escaped(&mut self) -> Result<char, VariablesError> {
        let line = self.line;
        let unknown = VariablesError::Escape { line };
        match self.next() {
            Some('n') => Ok('\n'),
            Some('t') => Ok('\t'),
            Some('r') => Ok('\r'),
            Some(c @ ('"' | '\\' | '$' | '`')) => Ok(c),
            Some('x') => {
                let digits: String = [self.next(), self.next()].into_iter().flatten().collect();
                let code = u8::from_str_radix(&digits, 16).ok().filter(u8::is_ascii);
                code.map(char::from).ok_or(unknown)
            }
            _ => Err(unknown),
        }
    }

    /// Nothing but a comment comes after quotes.
    fn at_the_end(&mut self, value: String) -> Result<String, VariablesError> {
        let line = self.line;
        let rest = self.rest_of_line();
        let rest = rest.trim();
        if rest.is_empty() || rest.starts_with('#') {
            Ok(value)
        } else {
            Err(VariablesError::More { line })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_people_write_is_understood() {
        let text = "# a comment\n\nA=1\nexport B = two words \nC=\"a\\nb\\\"\" # why\nD='$x\ny'\r\nE=\nF=a=b#c";
        let wanted = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "a\nb\""),
            ("D", "$x\ny"),
            ("E", ""),
            ("F", "a=b#c"),
        ];
        assert_eq!(parse(text), Ok(owned(&wanted)));
    }

    #[test]
    fn a_mistake_is_told_by_its_line_alone() {
        let cases = [
            ("A=1\nsecret", VariablesError::NoPair { line: 2 }),
            ("=secret", VariablesError::NoPair { line: 1 }),
            ("A B=secret", VariablesError::NoPair { line: 1 }),
            ("\nA=\"secret\n", VariablesError::Open { line: 2 }),
            ("A='secret", VariablesError::Open { line: 1 }),
            ("A='x'secret", VariablesError::More { line: 1 }),
            ("A=\"\\secret\"", VariablesError::Escape { line: 1 }),
            ("A=\"\\x9b\"", VariablesError::Escape { line: 1 }),
        ];
        for (text, error) in cases {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_value_survives_its_quoting(values in proptest::collection::vec("[^\0]*", 0..4)) {
            let name = |n: usize| format!("N{n}");
            let line = |(n, value): (usize, &String)| format!("{}={}\n", name(n), quoted(value));
            let text: String = values.iter().enumerate().map(line).collect();
            let wanted = values.iter().enumerate().map(|(n, value)| (name(n), value.clone()));
            prop_assert_eq!(parse(&text), Ok(wanted.collect()));
        }

        #[test]
        fn no_text_breaks_it(text: String) {
            let _ = parse(&text);
        }
    }
}
