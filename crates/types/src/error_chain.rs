//! Errors in words.

use std::error::Error;

/// `error` and all that caused it, the nearest first, in one line: `could not start: no such file`.
pub fn error_chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        next = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::NameError;

    #[derive(Debug, thiserror::Error)]
    #[error("could not name it")]
    struct Unnamed(#[source] NameError);

    #[test]
    fn an_error_stands_before_its_cause() {
        assert_eq!(
            error_chain(&Unnamed(NameError::Empty)),
            "could not name it: a name can't be empty"
        );
    }
}
