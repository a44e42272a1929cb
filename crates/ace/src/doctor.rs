//! What this machine can enforce, as `ace doctor` shows it.

use ace_api::http::{DoctorCheck, DoctorReport, Verdict};
use ace_sandbox::survey::{self, Finding, Grade};

/// Tries what can be tried without harm.
pub fn report() -> DoctorReport {
    DoctorReport { checks: survey::survey().into_iter().map(check).collect() }
}

fn check(finding: Finding) -> DoctorCheck {
    let verdict = match finding.grade {
        Grade::Ok => Verdict::Ok,
        Grade::Warn => Verdict::Warn,
        Grade::Fail => Verdict::Fail,
    };
    DoctorCheck { name: finding.name, verdict, detail: finding.detail, remedy: finding.remedy }
}
