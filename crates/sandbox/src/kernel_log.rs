//! What the kernel's log says of processes that it ended for want of memory: `/dev/kmsg`.
//!
//! The kernel writes two lines of each: which group and process it chose, and what that had. Names of
//! processes are their own choice, so lines are taken apart from the ends that the kernel wrote.

use std::io;
use std::os::fd::OwnedFd;

use ace_types::EngineId;
use rustix::fs::{CWD, Mode, OFlags, SeekFrom, openat, seek};
use rustix::io::{Errno, read};

/// A process that the kernel ended for want of memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryKill {
    /// Its control group, from the root of the groups' tree.
    pub cgroup: String,
    /// Its name, at most 15 bytes; it may have chosen any.
    pub process: String,
    /// What it had in memory.
    pub resident_bytes: u64,
}

/// The kernel's log, from where it was opened.
#[derive(Debug)]
pub struct KernelLog {
    file: OwnedFd,
    chosen: Option<Chosen>,
}

/// The process of a kill's first line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chosen {
    cgroup: String,
    process: String,
    pid: u32,
}

/// The longest record; see `CONSOLE_EXT_LOG_MAX` in the kernel.
const RECORD_MAX: usize = 8192;
/// The most records that are read at once. The kernel keeps fewer than that as a rule.
const RECORDS_MAX: usize = 100_000;

impl KernelLog {
    /// Opens the log at its end.
    pub fn open() -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(CWD, "/dev/kmsg", flags, Mode::empty())?;
        seek(&file, SeekFrom::End(0))?;
        Ok(Self { file, chosen: None })
    }

    /// The kills that it has told of since the last call.
    pub fn kills(&mut self) -> io::Result<Vec<MemoryKill>> {
        let (mut kills, mut buffer) = (Vec::new(), vec![0; RECORD_MAX]);
        for _ in 0..RECORDS_MAX {
            match read(&self.file, &mut buffer) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(length) => kills.extend(self.take(&String::from_utf8_lossy(&buffer[..length]))),
                // Records were overwritten before they were read; the next read goes on after them.
                Err(Errno::PIPE | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(kills)
    }

    /// Takes one record: `3,20754,25554641837,-;text` and lines that begin with a space.
    fn take(&mut self, record: &str) -> Option<MemoryKill> {
        let (_, text) = record.split_once(';')?;
        let line = text.lines().next()?;
        if let Some(chosen) = Chosen::parse(line) {
            self.chosen = Some(chosen);
            return None;
        }
        let (pid, resident_bytes) = parse_killed(line)?;
        let Chosen { cgroup, process, .. } = self.chosen.take().filter(|it| it.pid == pid)?;
        Some(MemoryKill { cgroup, process, resident_bytes })
    }
}

impl MemoryKill {
    /// The container of `engine` that the process was in; `None` where it was in none.
    pub fn container(&self, engine: &EngineId) -> Option<&str> {
        let own = format!("ace-{engine}");
        let mut parts = self.cgroup.split('/').skip_while(|part| !part.starts_with(&own));
        match parts.next()?.strip_prefix(&own)? {
            "" | ".scope" => parts.next(),
            // A container's own stands beside the others, right below the root.
            beside => beside.strip_prefix('.'),
        }
    }
}

impl Chosen {
    /// `oom-kill:constraint=…,task_memcg=/ace-ed4d/66ps8ta8/app,task=python,pid=2330,uid=1000`
    fn parse(line: &str) -> Option<Self> {
        let facts = line.strip_prefix("oom-kill:")?;
        let (_, facts) = facts.split_once(",task_memcg=")?;
        let (cgroup, facts) = facts.split_once(",task=")?;
        let (process, ids) = facts.rsplit_once(",pid=")?;
        let pid = ids.split(',').next()?.parse().ok()?;
        Some(Self { cgroup: cgroup.to_owned(), process: process.to_owned(), pid })
    }
}

/// `Memory cgroup out of memory: Killed process 2330 (python) total-vm:227108kB, anon-rss:62940kB, …`:
/// the process, and what of it was in memory.
fn parse_killed(line: &str) -> Option<(u32, u64)> {
    let (_, after) = line.split_once("Killed process ")?;
    let (pid, _) = after.split_once(' ')?;
    let (_, sizes) = after.rsplit_once(") total-vm:")?;
    let kib = |field: &str| -> Option<u64> {
        field.split_once("-rss:")?.1.trim_end().strip_suffix("kB")?.parse().ok()
    };
    let resident: u64 = sizes.split(',').filter_map(kib).sum();
    Some((pid.parse().ok()?, resident.saturating_mul(1024)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHOSEN: &str = "6,20838,25565641806,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),\
        cpuset=/,mems_allowed=0,oom_memcg=/ace-ed4d/66ps8ta8/app,task_memcg=/ace-ed4d/66ps8ta8/app,\
        task=NAME,pid=2801,uid=1941967848\n";
    const KILLED: &str = "3,20839,25565641825,-;Memory cgroup out of memory: Killed process 2801 \
        (NAME) total-vm:265780kB, anon-rss:65104kB, file-rss:14188kB, shmem-rss:8kB, \
        UID:1941967848 pgtables:252kB oom_score_adj:300\n SUBSYSTEM=x\n";

    fn log() -> KernelLog {
        let file = openat(CWD, "/dev/null", OFlags::RDONLY, Mode::empty()).unwrap();
        KernelLog { file, chosen: None }
    }

    fn kill(name: &str) -> Option<MemoryKill> {
        let mut log = log();
        assert_eq!(log.take(&CHOSEN.replace("NAME", name)), None);
        log.take(&KILLED.replace("NAME", name))
    }

    #[test]
    fn a_kill_has_a_name_and_a_size_whatever_the_process_calls_itself() {
        for name in ["python", "a) total-vm:1", "x,pid=1,uid=2", "Killed process "] {
            let kill = kill(name).unwrap();
            assert_eq!(kill.process, name);
            assert_eq!(kill.resident_bytes, (65104 + 14188 + 8) * 1024);
            assert_eq!(kill.container(&"ed4d".parse().unwrap()), Some("66ps8ta8"));
        }
    }

    #[test]
    fn a_kill_belongs_to_the_engine_whose_group_it_was_in() {
        let mut kill = kill("python").unwrap();
        assert_eq!(kill.container(&"abcd".parse().unwrap()), None);
        for group in ["/system.slice/ace-ed4d.scope/66ps8ta8/app", "/ace-ed4d.66ps8ta8/app"] {
            kill.cgroup = group.to_owned();
            assert_eq!(kill.container(&"ed4d".parse().unwrap()), Some("66ps8ta8"));
        }
    }

    #[test]
    fn other_lines_are_none() {
        let mut log = log();
        for line in ["", "3,1,1,-;hello", "3,1,1,-;oom-kill:", &KILLED.replace("NAME", "x")] {
            assert_eq!(log.take(line), None, "{line}");
        }
    }

    #[test]
    fn the_kernel_s_own_log_is_read_to_its_end() {
        // Some kernels let only some see it.
        if let Ok(mut log) = KernelLog::open() {
            log.kills().unwrap();
        }
    }
}
