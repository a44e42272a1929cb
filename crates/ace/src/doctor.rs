//! What this machine can enforce, as `ace doctor` shows it.

use std::path::Path;

use ace_api::http::{DoctorCheck, DoctorReport, Verdict};
use ace_sandbox::survey::{self, Finding, Grade};

/// Tries what can be tried without harm.
///
/// `scratch` is a folder on the disk that holds, or will hold, volumes.
pub fn report(scratch: &Path) -> DoctorReport {
    DoctorReport { checks: survey::survey(scratch).into_iter().map(check).collect() }
}

fn check(finding: Finding) -> DoctorCheck {
    let verdict = match finding.grade {
        Grade::Ok => Verdict::Ok,
        Grade::Warn => Verdict::Warn,
        Grade::Fail => Verdict::Fail,
    };
    DoctorCheck {
        name: finding.name.to_owned(),
        verdict,
        detail: finding.detail,
        remedy: finding.remedy,
    }
}
