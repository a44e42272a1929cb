//! `ace doctor`: what this machine can enforce.

use ace_api::http::{ApiError, DoctorCheck, DoctorReport, Verdict};
use clap::Args;

use crate::client::{Client, ClientError};
use crate::error::CommandError;
use crate::screen::{self, Screen, Style};
use crate::{Offline, ServerAddress};

/// Check what this machine can enforce, and say how to mend what it can't
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ace doctor          asks the engine, or looks itself where none listens
  ace doctor --json

The exit status is 1 if apps can't run like this.")]
pub struct DoctorArgs {}

pub async fn run(
    _: DoctorArgs,
    client: &Client,
    offline: &dyn Offline,
    screen: &Screen,
) -> Result<(), CommandError> {
    let report: DoctorReport = match client.get("/v1/doctor").await {
        Err(ClientError::NotRunning { server: ServerAddress::Socket(_) }) => {
            screen.note("No engine listens; this is what the machine itself says.");
            offline.doctor().await.map_err(CommandError::Offline)?
        }
        answer => answer?,
    };
    screen.show(&report, || render(&report, screen))?;
    match count(&report, Verdict::Fail) {
        0 => Ok(()),
        // In JSON mode the document has been printed, and there is to be only one.
        _ if screen.json() => Err(CommandError::Told),
        failed => {
            let message =
                format!("{failed} of the checks failed; apps can't run here until they pass");
            Err(CommandError::Outcome(ApiError::new("unfit_machine", message)))
        }
    }
}

fn count(report: &DoctorReport, verdict: Verdict) -> usize {
    report.checks.iter().filter(|check| check.verdict == verdict).count()
}

fn render(report: &DoctorReport, screen: &Screen) -> String {
    let width = report.checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    let mut lines: Vec<String> =
        report.checks.iter().map(|check| line(check, width, screen)).collect();
    let [ok, warn, fail] = [Verdict::Ok, Verdict::Warn, Verdict::Fail].map(|v| count(report, v));
    lines.push(format!("\n{ok} ok, {warn} with less than the full promise, {fail} failed"));
    lines.join("\n")
}

fn line(check: &DoctorCheck, width: usize, screen: &Screen) -> String {
    let (style, word) = match check.verdict {
        Verdict::Ok => (Style::Good, "ok  "),
        Verdict::Warn => (Style::Warning, "warn"),
        Verdict::Fail => (Style::Error, "FAIL"),
    };
    let (name, detail) = (screen::escape(&check.name), screen::escape(&check.detail));
    let mut line = format!("{}  {name:<width$}  {detail}", screen.paint(style, word));
    if let Some(remedy) = &check.remedy {
        line += &format!("\n      {:<width$}  do: {}", "", screen::escape(remedy));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_failed_comes_with_its_remedy() {
        let check = |name: &str, verdict, remedy: Option<&str>| DoctorCheck {
            name: name.to_owned(),
            verdict,
            detail: "by cgroup v1".to_owned(),
            remedy: remedy.map(str::to_owned),
        };
        let report = DoctorReport {
            checks: vec![
                check("memory", Verdict::Ok, None),
                check("nft", Verdict::Fail, Some("apt-get install nftables")),
            ],
        };
        assert_eq!(
            render(&report, &Screen::plain()),
            "ok    memory  by cgroup v1\n\
             FAIL  nft     by cgroup v1\n              do: apt-get install nftables\n\n\
             1 ok, 0 with less than the full promise, 1 failed"
        );
    }
}
