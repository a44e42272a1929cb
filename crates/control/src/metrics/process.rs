//! What the engine's own process uses, as the kernel says.

use std::fs;

use rustix::process::{Resource, getrlimit};

/// Of the engine's process. What can't be read is zero.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessFigures {
    pub resident_bytes: u64,
    pub cpu_seconds: f64,
    pub open_files: u64,
    pub open_files_max: u64,
    pub threads: u64,
}

impl ProcessFigures {
    /// Reads a few small files of the kernel's, and lists the open files; may block for a moment.
    pub fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let ticks_per_second = rustix::param::clock_ticks_per_second().max(1) as f64;
        // User's and system's time: fields 14 and 15, in ticks. Threads: field 20. Resident pages: 24.
        let ticks = field(&stat, 14) + field(&stat, 15);
        Self {
            resident_bytes: field(&stat, 24) * rustix::param::page_size() as u64,
            cpu_seconds: ticks as f64 / ticks_per_second,
            open_files: fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64),
            open_files_max: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
            threads: field(&stat, 20),
        }
    }
}

/// Field `number` of a `/proc/PID/stat`, whose second one may hold spaces. See proc(5).
fn field(stat: &str, number: usize) -> u64 {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = after_name.split_ascii_whitespace().nth(number - 3);
    field.and_then(|field| field.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let figures = ProcessFigures::read();
        assert!(figures.resident_bytes > 0 && figures.threads > 0, "{figures:?}");
        assert!(figures.open_files > 0 && figures.open_files_max > 0, "{figures:?}");
    }

    #[test]
    fn a_name_with_spaces_moves_no_field() {
        let stat = "7 (a) b) S 1 7 7 0 -1 0 1 0 0 0 21 34 0 0 20 0 5 0 4711 9000 6 1";
        assert_eq!([14, 15, 20, 24].map(|number| field(stat, number)), [21, 34, 5, 6]);
    }
}
