//! Why a command failed, and how that is told.

use std::error::Error;
use std::io;

use ace_api::http::ApiError;

use crate::client::ClientError;
use crate::pack::PackError;
use crate::token::TokenError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The engine did what it was asked and this was the outcome.
    #[error(transparent)]
    Outcome(ApiError),
    /// The command was asked for something it can't do.
    #[error("{0}")]
    Refused(String),
    #[error("could not write the result")]
    Output(#[from] io::Error),
    /// What [`crate::Offline`] could not do.
    #[error("{0}")]
    Offline(anyhow::Error),
    /// The command failed, and its result has said so.
    #[error("see the result")]
    Told,
    /// What was run in a container ended with this status, and has said itself what there was to say.
    #[error("it ended with status {0}")]
    Ended(u8),
    /// What was to be run in a container was not, or nobody knows how it ended.
    #[error(transparent)]
    NotRun(Box<CommandError>),
    /// Ctrl-C. The text says what became of what was asked for.
    #[error("{0}")]
    Interrupted(String),
}

impl CommandError {
    /// The error as it is printed: the API's own where it came from there, else the sentence with
    /// its causes as the details.
    pub fn report(&self) -> ApiError {
        match self {
            Self::Outcome(error) | Self::Client(ClientError::Refused(error)) => error.clone(),
            Self::NotRun(error) => error.report(),
            error => {
                let detail = causes(error);
                ApiError { detail, ..ApiError::new(error.code(), error.to_string()) }
            }
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Client(error) => error.code(),
            Self::Token(_) => "no_token",
            Self::Pack(_) => "not_packed",
            Self::Outcome(_) | Self::Refused(_) | Self::Told | Self::Ended(_) => "refused",
            Self::NotRun(error) => error.code(),
            Self::Output(_) => "output",
            Self::Offline(_) => "offline",
            Self::Interrupted(_) => "interrupted",
        }
    }
}

/// What lies below `error`, a line each, the nearest first.
fn causes(error: &CommandError) -> Option<String> {
    let mut lines = Vec::new();
    let mut next = match error {
        CommandError::Offline(error) => error.source(),
        error => error.source(),
    };
    while let Some(cause) = next {
        lines.push(format!("because: {cause}"));
        next = cause.source();
    }
    (!lines.is_empty()).then(|| lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_its_causes_below_it() {
        let error = CommandError::Offline(anyhow::anyhow!("no such cgroup").context("not stopped"));
        let report = error.report();
        assert_eq!(report.message, "not stopped");
        assert_eq!(report.detail.as_deref(), Some("because: no such cgroup"));
    }

    #[test]
    fn what_the_engine_said_stays_as_it_was() {
        let said = ApiError::new("no_such_app", "no app \"x\"");
        assert_eq!(CommandError::from(ClientError::Refused(said.clone())).report(), said);
    }
}
