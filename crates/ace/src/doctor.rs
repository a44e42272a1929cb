//! What this machine can enforce, as `ace doctor` shows it.

use std::io;
use std::path::Path;

use ace_api::http::{DoctorCheck, DoctorReport, Verdict};
use ace_builder::FREE_LEAST;
use ace_sandbox::survey::{self, Finding, Grade};
use ace_sandbox::volume::Store;
use ace_types::Bytes;
use rustix::fs::{StatVfsMountFlags, statvfs};

/// Tries what can be tried without harm.
///
/// `scratch` is a folder on the disk that holds, or will hold, volumes; `store` says what these are made as.
pub fn report(scratch: &Path, store: Store) -> DoctorReport {
    let checks = survey::survey(scratch, store).into_iter().map(check);
    DoctorReport { checks: checks.chain([disk(scratch)]).collect() }
}

/// How full the engine's disk is. However full, apps go on.
fn disk(data: &Path) -> DoctorCheck {
    let (verdict, detail, remedy) = match room(data) {
        Ok(Room { free, size, is_read_only }) => {
            let detail = format!("{free} of {size} free for {}", data.display());
            let remedy = match (is_read_only, free < FREE_LEAST) {
                (true, _) => Some("it can only be read: see `dmesg`, mount it writable".to_owned()),
                (_, true) => Some(format!("builds leave {FREE_LEAST} free: make room on it")),
                _ => None,
            };
            (if remedy.is_some() { Verdict::Warn } else { Verdict::Ok }, detail, remedy)
        }
        Err(error) => (Verdict::Warn, format!("{}: {error}", data.display()), None),
    };
    DoctorCheck { name: "disk".to_owned(), verdict, detail, remedy }
}

struct Room {
    free: Bytes,
    size: Bytes,
    is_read_only: bool,
}

fn room(data: &Path) -> io::Result<Room> {
    let found = statvfs(data)?;
    let size = |blocks: u64| rounded_down(blocks.saturating_mul(found.f_frsize));
    let is_read_only = found.f_flag.contains(StatVfsMountFlags::RDONLY);
    Ok(Room { free: size(found.f_bavail), size: size(found.f_blocks), is_read_only })
}

/// As people read it: 43G, or 900M.
fn rounded_down(bytes: u64) -> Bytes {
    match bytes >> 30 {
        0..10 => Bytes::mib(bytes >> 20),
        gib => Bytes::gib(gib),
    }
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
