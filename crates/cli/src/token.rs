//! The token that an engine is shown over TCP. It's never printed.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use http::HeaderValue;

/// Where it's found, unless a file is named.
const VARIABLE: &str = "ACE_TOKEN";
/// No token is longer, in bytes.
const FILE_MAX: u64 = 4096;

/// A token, as it's sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(HeaderValue);

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("could not read the token in {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{place} holds no token: it's one word, such as ace_…")]
    Malformed { place: String },
}

impl Token {
    /// The token in `file`, or else in the environment, if there is one.
    pub fn find(file: Option<&Path>) -> Result<Option<Self>, TokenError> {
        if let Some(path) = file {
            return Self::of(&read(path)?, path.display().to_string()).map(Some);
        }
        match std::env::var(VARIABLE) {
            Ok(text) if !text.is_empty() => Self::of(&text, VARIABLE.to_owned()).map(Some),
            _ => Ok(None),
        }
    }

    /// The `Authorization` header that it makes.
    pub fn header(&self) -> HeaderValue {
        self.0.clone()
    }

    fn of(text: &str, place: String) -> Result<Self, TokenError> {
        let word = text.trim();
        let fits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic());
        let value = fits.then(|| HeaderValue::try_from(format!("Bearer {word}")).ok()).flatten();
        let mut value = value.ok_or(TokenError::Malformed { place })?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

fn read(path: &Path) -> Result<String, TokenError> {
    let mut text = String::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(FILE_MAX).read_to_string(&mut text));
    read.map_err(|source| TokenError::Read { path: path.to_owned(), source })?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_of_its_file() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), " ace_x_y\n").expect("a file");
        let token = Token::find(Some(file.path())).expect("a token").expect("a token");
        assert_eq!(token.header(), "Bearer ace_x_y");
        assert_eq!(format!("{token:?}"), "Token(…)");
        for wrong in ["", "\n", "two words", "a\u{e4}"] {
            std::fs::write(file.path(), wrong).expect("a file");
            let error = Token::find(Some(file.path())).expect_err("no token");
            assert!(matches!(error, TokenError::Malformed { .. }), "{wrong:?}");
        }
        assert!(Token::find(Some(Path::new("/nonexistent"))).is_err());
    }
}
