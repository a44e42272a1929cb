//! What a command of a build has left behind while it waits: a package's build that started a server for itself, say, which
//! goes on and holds the build's output open, so that the installer waits for more of it until the build's time is up.
//!
//! Told from processes' parents: they are nobody's children but init's, and the command has no child left that could be at work.

use std::collections::BTreeSet;
use std::fs;

use ace_sandbox::process::{self, ProcessRef};
use rustix::process::Signal;

/// A process of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    itself: ProcessRef,
    parent: u32,
    /// Any 15 bytes of the tenant's choice.
    name: String,
}

/// What is left behind of the processes `pids`, which are all of a container's but init. Nothing where the command is at work.
pub fn find(pids: &[u32]) -> Vec<Process> {
    left_behind(pids.iter().filter_map(|pid| Process::of(*pid)).collect())
}

/// Ends them, as far as they are still there.
pub fn end(processes: &[Process]) {
    for process in processes {
        if let Ok(Some(descriptor)) = process.itself.open() {
            // Who is gone meanwhile has ended.
            let _ = process::signal(&descriptor, Signal::KILL);
        }
    }
}

/// Their names, each once.
pub fn names(processes: &[Process]) -> String {
    let names: BTreeSet<&str> = processes.iter().map(|process| process.name.as_str()).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

fn left_behind(all: Vec<Process>) -> Vec<Process> {
    let pids: BTreeSet<u32> = all.iter().map(|process| process.itself.pid).collect();
    let of_init = all.iter().filter(|process| !pids.contains(&process.parent));
    // Nothing in a container was there before the command.
    let command = of_init.min_by_key(|process| (process.itself.start_time, process.itself.pid));
    let Some(command) = command.map(|command| command.itself.pid) else { return Vec::new() };
    if all.iter().any(|process| process.parent == command) {
        return Vec::new();
    }
    all.into_iter().filter(|process| process.itself.pid != command).collect()
}

impl Process {
    /// `None` where it has ended.
    fn of(pid: u32) -> Option<Self> {
        let itself = ProcessRef::of(pid).ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, parent) = name_and_parent(&stat)?;
        Some(Self { itself, parent, name })
    }
}

/// Reads `17 (name) S 1 …`. The name may hold any character, parentheses included.
fn name_and_parent(stat: &str) -> Option<(String, u32)> {
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let is_over = fields.next()?.starts_with(['Z', 'X']);
    let parent = fields.next()?.parse().ok()?;
    let name = name.chars().map(|it| if it.is_ascii_graphic() { it } else { '?' }).collect();
    (!is_over).then_some((name, parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32) -> Process {
        let itself = ProcessRef { pid, start_time: u64::from(pid) };
        Process { itself, parent, name: format!("p{pid}") }
    }

    fn found(all: &[(u32, u32)]) -> Vec<u32> {
        let all = all.iter().map(|(pid, parent)| process(*pid, *parent)).collect();
        left_behind(all).iter().map(|process| process.itself.pid).collect()
    }

    #[test]
    fn what_init_has_taken_over_is_left_behind_once_the_command_has_no_children() {
        // The command is 10, and init 1.
        assert_eq!(found(&[(10, 1), (12, 1), (13, 12)]), [12, 13]);
        assert_eq!(found(&[(10, 1), (11, 10), (12, 1)]), [0; 0]);
        assert_eq!(found(&[(10, 1)]), [0; 0]);
        assert_eq!(found(&[]), [0; 0]);
    }

    #[test]
    fn a_name_is_its_process_choice() {
        let told = |stat: &str| name_and_parent(stat);
        assert_eq!(told("17 (a) R 9 (\n) S 3 17"), Some(("a)?R?9?(?".to_owned(), 3)));
        assert_eq!(told("17 (gone) Z 3 17"), None);
        assert_eq!(told("17"), None);
    }

    #[test]
    fn a_process_is_read_and_ended() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let found = Process::of(child.id()).unwrap();
        assert_eq!(found.parent, std::process::id());
        end(&[found]);
        assert!(!child.wait().unwrap().success());
    }
}
