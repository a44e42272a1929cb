//! What a launcher or an init could not do, on its way to the engine.

use std::io;

use ace_types::error_chain;
use serde::{Deserialize, Serialize};

/// A step that failed. `step` goes on from "could not": `mount /dev/loop3 at /ace/data`.
#[derive(Debug)]
pub struct Failure {
    pub step: String,
    pub source: io::Error,
}

/// A [`Failure`] as it crosses to the engine.
#[derive(Debug, Serialize, Deserialize)]
pub struct FailureReport {
    step: String,
    errno: Option<i32>,
    /// The causes, the outermost first, where `errno` does not say it all.
    causes: String,
}

/// Names the step that a result is of.
pub trait Step<T> {
    fn step(self, step: impl Into<String>) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: impl Into<String>) -> Result<T, Failure> {
        self.map_err(|error| Failure { step: step.into(), source: error.into() })
    }
}

impl From<Failure> for FailureReport {
    fn from(failure: Failure) -> Self {
        Self {
            step: failure.step,
            errno: failure.source.raw_os_error(),
            causes: error_chain(&failure.source),
        }
    }
}

impl From<FailureReport> for Failure {
    fn from(report: FailureReport) -> Self {
        let source = match report.errno {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => io::Error::other(report.causes),
        };
        Self { step: report.step, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_number_survives_the_crossing() {
        let failure = Err::<(), _>(rustix::io::Errno::NODEV).step("mount it").unwrap_err();
        let crossed = Failure::from(FailureReport::from(failure));
        assert_eq!(crossed.step, "mount it");
        assert_eq!(crossed.source.raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn causes_without_a_number_survive_as_text() {
        let failure =
            Err::<(), _>(io::Error::other("no such interface")).step("connect").unwrap_err();
        let crossed = Failure::from(FailureReport::from(failure));
        assert_eq!(crossed.source.to_string(), "no such interface");
    }
}
