//! Finding a process again by what it can't share with a later one: its id and its start time.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process on the host, for longer than its id alone would name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRef {
    pub pid: u32,
    /// Clock ticks since boot: field 22 of `/proc/PID/stat`.
    pub start_time: u64,
}

impl ProcessRef {
    /// The process that has `pid` now.
    ///
    /// Errors: `NotFound` where there is none.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let start_time = start_time(&stat).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "/proc/PID/stat is cut off")
        })?;
        Ok(Self { pid, start_time })
    }

    /// A descriptor of the process, which polls readable when it has ended; `None` where it is gone,
    /// or ended and waits to be reaped, or its id is another's now.
    pub fn open(self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => return Ok(None),
            result => result?,
        };
        // Compared once the descriptor holds the id: it can't pass to another process after that.
        match Self::of(self.pid) {
            Ok(found) if found == self && !is_zombie(self.pid) => Ok(Some(pidfd)),
            Ok(_) => Ok(None),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Sends `signal` to the process; one that is gone is fine.
pub fn signal(pidfd: &OwnedFd, signal: Signal) -> io::Result<()> {
    match pidfd_send_signal(pidfd, signal) {
        Err(Errno::SRCH) => Ok(()),
        result => Ok(result?),
    }
}

/// Has the init behind `pidfd` kill all that runs in its container, and tell how it was.
pub fn end_at_once(init: &OwnedFd) -> io::Result<()> {
    signal(init, END_AT_ONCE)
}

/// What init takes as [`end_at_once`].
pub const END_AT_ONCE: Signal = Signal::ALARM;

/// Field 22 of a `/proc/PID/stat`. The second field is a program's name in parentheses, which may
/// itself hold any character, so fields are counted from its end.
fn start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

fn is_zombie(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_full_of_parentheses_does_not_move_the_fields() {
        let stat = "7 (a) 1 (b) S 1 7 7 0 -1 4194560 1 0 0 0 2 3 0 0 20 0 1 0 4711 9000 5 18446 1";
        assert_eq!(start_time(stat), Some(4711));
        assert_eq!(start_time("7 (cut) S 1"), None);
    }

    #[test]
    fn this_process_is_found_again() {
        let this = ProcessRef::of(std::process::id()).unwrap();
        assert!(this.open().unwrap().is_some());
    }

    #[test]
    fn another_process_with_the_same_id_is_not_taken_for_it() {
        let this = ProcessRef::of(std::process::id()).unwrap();
        let earlier = ProcessRef { start_time: this.start_time - 1, ..this };
        assert!(earlier.open().unwrap().is_none());
    }

    #[test]
    fn a_process_that_ended_is_gone_before_it_is_reaped() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let ended = ProcessRef::of(child.id()).unwrap();
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        let mut events = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut events, None).unwrap();
        assert!(ended.open().unwrap().is_none());
        child.wait().unwrap();
    }
}
