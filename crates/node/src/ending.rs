//! Why an instance ended: one pure function from what is known of it.
//!
//! Known are facts: how its first process ended, what the kernel counted, what was full, and how far
//! its start came. The last is what the server's start, a script of ours, says of itself: the tenant
//! could say something else, and would be told just that.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use ace_api::{EndReason, InstanceSpec};
use ace_sandbox::spec::ExitRecord;
use ace_upstream::ProbeOutcome;

use crate::server::STATUS_NOT_LOADED;

/// SIGKILL's number, the same on every architecture.
const KILL: i32 = 9;

/// The most addresses that are named where an app listens on the wrong one.
const ELSEWHERE_MAX: usize = 4;

/// The longest name or place that is taken from a report, in characters.
const SUBJECT_MAX: usize = 200;

/// What is known of an instance that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub spec: &'a InstanceSpec,
    /// `None`: init was killed before it could write.
    pub exit: Option<&'a ExitRecord>,
    /// Processes that the kernel ended for want of memory.
    pub oom_kills: u64,
    /// Processes and threads that the kernel refused.
    pub pids_refused: u64,
    /// What the engine has ended it for, having too much of it.
    pub excess: Option<&'a str>,
}

/// How far a server's start came, as `server/load.py` reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Report<'a> {
    /// Nothing is known.
    None,
    Loading,
    Loaded,
    /// It failed in this way, on this.
    Failed(&'a str, String),
}

/// Why an instance ended by itself.
pub fn of_end(facts: Facts) -> EndReason {
    if let Some(what) = facts.excess {
        return EndReason::KernelMemory { what: what.to_owned() };
    }
    let (report, status) = (facts.report(), facts.exit.and_then(|exit| exit.status));
    let killed = facts.exit.is_none_or(|exit| exit.signal == Some(KILL));
    let has_loaded = report == Report::Loaded;
    if facts.oom_kills > 0 && (killed || !has_loaded && !report.is_the_app_s_doing()) {
        return facts.out_of_memory();
    }
    if status == Some(STATUS_NOT_LOADED)
        && let Some(reason) = facts.of_report(&report)
    {
        return reason;
    }
    if facts.pids_refused > 0 && !has_loaded {
        return facts.too_many_processes();
    }
    match facts.exit.map(|exit| (exit.status, exit.signal)) {
        Some((Some(STATUS_NOT_LOADED), _)) if report == Report::Loading => {
            EndReason::WorkersEnd { signal: None }
        }
        Some((Some(STATUS_NOT_LOADED), _)) if !has_loaded => EndReason::NotLoaded,
        Some((Some(status), _)) => facts.full().unwrap_or(EndReason::Exited { status }),
        Some((None, Some(signal))) => EndReason::Signalled { signal },
        Some((None, None)) | None => EndReason::Signalled { signal: KILL },
    }
}

/// Why an instance that was ended for it had not become ready `after` this time. `last` came of the
/// last probe, of `path`.
pub fn of_timeout(facts: Facts, after: Duration, path: &str, last: &ProbeOutcome) -> EndReason {
    if let Some(what) = facts.excess {
        return EndReason::KernelMemory { what: what.to_owned() };
    }
    let is_loading = facts.report() == Report::Loading;
    if facts.oom_kills > 0 {
        return facts.out_of_memory();
    }
    if facts.pids_refused > 0 {
        return facts.too_many_processes();
    }
    if let Some(full) = facts.full() {
        return full;
    }
    match last {
        _ if is_loading => EndReason::StillLoading { after },
        ProbeOutcome::Answered { status, beginning } => EndReason::Unhealthy {
            after,
            path: path.to_owned(),
            status: status.as_u16(),
            body: String::from_utf8_lossy(beginning).into_owned(),
        },
        ProbeOutcome::NoAnswer { why } => {
            EndReason::NoAnswer { after, last: format!("GET {path} got no answer ({why})") }
        }
    }
}

/// Why a command was not heard `after` this time, if it listens on all of `found` and not on `port`.
pub fn of_silence(port: u16, after: Duration, found: &[SocketAddr]) -> Option<EndReason> {
    let is_reached = |address: &SocketAddr| {
        let ip = address.ip().to_canonical();
        address.port() == port && (ip == Ipv4Addr::LOCALHOST || ip.is_unspecified())
    };
    let elsewhere = || found.iter().take(ELSEWHERE_MAX).copied().collect();
    (!found.iter().any(is_reached)).then(|| EndReason::NothingListens {
        after,
        port,
        elsewhere: elsewhere(),
    })
}

impl<'a> Facts<'a> {
    fn report(&self) -> Report<'a> {
        let report = self.exit.and_then(|exit| exit.found.report.as_deref());
        report.map_or(Report::None, Report::parse)
    }

    /// What a failed start has said of itself, where that is to be believed.
    fn of_report(&self, report: &Report) -> Option<EndReason> {
        let Report::Failed(word, subject) = report else { return None };
        let subject = || subject.clone();
        Some(match *word {
            "import_failed" if self.pids_refused > 0 => self.too_many_processes(),
            "import_failed" => EndReason::ImportFailed { error: subject() },
            "syntax_error" => EndReason::SyntaxError { place: subject() },
            "module_missing" => {
                let subject = subject();
                let (module, folder) = subject.split_once(' ').unwrap_or((&subject, ""));
                let folder = (!folder.is_empty()).then(|| folder.to_owned());
                EndReason::ModuleMissing { module: module.to_owned(), folder }
            }
            "entry_missing" => EndReason::EntryMissing { entry: subject() },
            "entry_not_callable" => {
                let entry = self.entry();
                EndReason::EntryNotCallable { entry, found: subject() }
            }
            "wrong_interface" => EndReason::WrongInterface,
            "startup_failed" => EndReason::StartupFailed,
            "workers_end" => EndReason::WorkersEnd { signal: subject().parse().ok() },
            "no_space" => self.full_at(Path::new(&subject()))?,
            _ => return None,
        })
    }

    fn entry(&self) -> String {
        match &self.spec.runtime.program {
            ace_api::Program::Server { entry, .. } => entry.to_string(),
            ace_api::Program::Command { line, .. } => line.clone(),
        }
    }

    fn out_of_memory(&self) -> EndReason {
        EndReason::OutOfMemory { limit: self.spec.limits.memory }
    }

    fn too_many_processes(&self) -> EndReason {
        EndReason::TooManyProcesses { limit: self.spec.limits.pids }
    }

    /// The first place that was full, if any was.
    fn full(&self) -> Option<EndReason> {
        self.exit?.found.full.iter().find_map(|place| self.full_at(place))
    }

    fn full_at(&self, place: &Path) -> Option<EndReason> {
        let limits = &self.spec.limits;
        match place.to_str()? {
            "/tmp" => Some(EndReason::TmpFull { limit: limits.tmp }),
            "/ace/code" => Some(EndReason::CodeFull { limit: limits.tmp }),
            "/dev/shm" => Some(EndReason::ShmFull { limit: limits.shm }),
            "/ace/data" => {
                let size = self.spec.volume.as_ref()?.size;
                Some(EndReason::VolumeFull { size })
            }
            _ => None,
        }
    }
}

impl<'a> Report<'a> {
    /// `loading 2`, `loaded 2` or `failed module_missing yaml`.
    fn parse(text: &'a str) -> Self {
        let line = text.lines().next().unwrap_or_default();
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "loading" => Self::Loading,
            "loaded" => Self::Loaded,
            "failed" => {
                let (kind, subject) = rest.split_once(' ').unwrap_or((rest, ""));
                Self::Failed(kind, subject.chars().take(SUBJECT_MAX).collect())
            }
            _ => Self::None,
        }
    }

    /// Whether the app, and not what was done to its processes, kept it from loading.
    fn is_the_app_s_doing(&self) -> bool {
        matches!(self, Self::Failed(word, _) if *word != "workers_end")
    }
}

#[cfg(test)]
mod tests {
    use ace_sandbox::spec::Found;

    use super::*;
    use crate::node::tests::spec;

    const AFTER: Duration = Duration::from_secs(5);

    fn exit(status: Option<i32>, signal: Option<i32>, report: &str, full: &[&str]) -> ExitRecord {
        let full = full.iter().map(Into::into).collect();
        let found = Found { report: Some(report.to_owned()), full };
        ExitRecord { status, signal, asked: false, found }
    }

    fn code(exit: &ExitRecord, oom_kills: u64, pids_refused: u64) -> &'static str {
        let spec = spec("abcd1234");
        of_end(Facts { spec: &spec, exit: Some(exit), oom_kills, pids_refused, excess: None })
            .code()
    }

    fn timeout_code(
        report: &str,
        full: &[&str],
        oom_kills: u64,
        last: &ProbeOutcome,
    ) -> &'static str {
        let (spec, exit) = (spec("abcd1234"), exit(None, Some(KILL), report, full));
        let facts =
            Facts { spec: &spec, exit: Some(&exit), oom_kills, pids_refused: 0, excess: None };
        of_timeout(facts, AFTER, "/", last).code()
    }

    #[test]
    fn a_start_that_failed_says_how() {
        let failed = |report: &str| code(&exit(Some(22), None, report, &[]), 0, 0);
        for word in ["import_failed", "syntax_error", "module_missing", "entry_missing"] {
            assert_eq!(failed(&format!("failed {word} x")), word);
        }
        let missing = exit(Some(22), None, "failed module_missing kit lib/far away", &[]);
        let folder = Some("lib/far away".to_owned());
        let expected = EndReason::ModuleMissing { module: "kit".to_owned(), folder };
        let spec = spec("abcd1234");
        let facts = Facts {
            spec: &spec,
            exit: Some(&missing),
            oom_kills: 0,
            pids_refused: 0,
            excess: None,
        };
        assert_eq!(of_end(facts), expected);
        assert_eq!(failed("failed no_space /tmp"), "tmp_full");
        assert_eq!(failed("failed no_space /ace/code"), "code_full");
        assert_eq!(failed("failed no_space /etc"), "not_loaded");
        assert_eq!(failed("failed because I say so"), "not_loaded");
        assert_eq!(failed(""), "not_loaded");
        assert_eq!(failed("loading 1"), "workers_end");
    }

    #[test]
    fn what_the_kernel_counted_explains_more_than_a_status() {
        let loading = exit(Some(1), None, "loading 1", &[]);
        assert_eq!(code(&loading, 0, 0), "exited");
        assert_eq!(code(&loading, 1, 0), "out_of_memory");
        assert_eq!(code(&loading, 0, 1), "too_many_processes");
        let raised = exit(Some(22), None, "failed import_failed RuntimeError", &[]);
        assert_eq!(code(&raised, 0, 1), "too_many_processes");
        assert_eq!(code(&exit(Some(22), None, "failed workers_end", &[]), 4, 0), "out_of_memory");
        assert_eq!(code(&exit(Some(22), None, "failed syntax_error a", &[]), 1, 1), "syntax_error");
    }

    #[test]
    fn what_happened_long_before_the_end_does_not_explain_it() {
        assert_eq!(code(&exit(Some(3), None, "loaded", &[]), 1, 1), "exited");
        assert_eq!(code(&exit(None, Some(11), "loaded", &["/tmp"]), 1, 1), "signalled");
        assert_eq!(code(&exit(Some(22), None, "loaded", &[]), 0, 0), "exited");
        assert_eq!(code(&exit(Some(3), None, "loaded", &["/tmp"]), 0, 0), "tmp_full");
        assert_eq!(code(&exit(None, Some(9), "loaded", &[]), 1, 0), "out_of_memory");
    }

    #[test]
    fn an_end_by_the_engine_is_told_whatever_else_has_happened() {
        let (spec, exit) = (spec("abcd1234"), exit(None, Some(KILL), "loaded", &["/tmp"]));
        let excess = Some("more than 7 locks of files");
        let facts = Facts { spec: &spec, exit: Some(&exit), oom_kills: 1, pids_refused: 1, excess };
        let told = EndReason::KernelMemory { what: "more than 7 locks of files".to_owned() };
        assert_eq!(of_end(facts), told);
        let silent = ProbeOutcome::NoAnswer { why: "nothing".to_owned() };
        assert_eq!(of_timeout(facts, AFTER, "/", &silent), told);
    }

    #[test]
    fn one_that_was_never_ready_is_told_by_how_far_it_came() {
        let none = ProbeOutcome::NoAnswer { why: "nothing".to_owned() };
        let status = http::StatusCode::INTERNAL_SERVER_ERROR;
        let bad = ProbeOutcome::Answered { status, beginning: b"no".to_vec() };
        assert_eq!(timeout_code("loading 1", &[], 0, &none), "still_loading");
        assert_eq!(timeout_code("loading 3", &[], 2, &none), "out_of_memory");
        assert_eq!(timeout_code("loaded 1", &[], 0, &none), "no_answer");
        assert_eq!(timeout_code("loaded 1", &[], 2, &none), "out_of_memory");
        assert_eq!(timeout_code("loaded", &[], 0, &bad), "unhealthy");
        assert_eq!(timeout_code("loaded", &["/dev/shm"], 0, &bad), "shm_full");
        assert_eq!(timeout_code("", &[], 0, &none), "no_answer");
    }

    #[test]
    fn a_command_is_reached_on_its_port_over_the_loopback_interface() {
        let elsewhere = |found: &[&str]| {
            let found: Vec<SocketAddr> =
                found.iter().map(|text| text.parse().expect("an address")).collect();
            match of_silence(8000, AFTER, &found)? {
                EndReason::NothingListens { elsewhere, .. } => Some(elsewhere.len()),
                _ => None,
            }
        };
        for reached in ["127.0.0.1:8000", "0.0.0.0:8000", "[::]:8000", "[::ffff:127.0.0.1]:8000"] {
            assert_eq!(elsewhere(&["127.0.0.1:5000", reached]), None, "{reached}");
        }
        assert_eq!(elsewhere(&[]), Some(0));
        assert_eq!(elsewhere(&["127.0.0.1:5000", "[::1]:8000", "10.0.0.2:8000"]), Some(3));
        assert_eq!(elsewhere(&["127.0.0.1:80"; 9]), Some(ELSEWHERE_MAX));
    }
}
