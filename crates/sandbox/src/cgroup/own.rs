//! The engine's own group, beside those of its containers.
//!
//! Every request passes by the engine, and a group that is idle gives way to its siblings alone: what counts between the
//! engine and a container that gives way is that they have one parent. Only the tree that shares out
//! processors has it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{
    CgroupError, CgroupTree, Controller, Folder, PROCS, balance, make_folder, processors,
    write_value,
};

/// No container's: their names are ids, which are longer.
pub const OWN: &str = "engine";

/// Where this process stood before it was in the group; `None` while it is not.
pub type Before = Mutex<Option<PathBuf>>;

impl CgroupTree {
    /// Puts this process, with all of its threads, into a group beside the containers'. What it starts from then on is there, too.
    ///
    /// Errors: the group can't be made or entered.
    pub fn enter(&self) -> Result<(), CgroupError> {
        let Some((engine, root)) = self.shares_processors() else { return Ok(()) };
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        if before.is_some() {
            return Ok(());
        }
        let own = engine.path.join(OWN);
        let stood = fs::read_to_string("/proc/self/cgroup")
            .map_err(|source| CgroupError::Read { folder: own.clone(), source })?;
        self.make_engines(engine, root)?;
        make_folder(&own)?;
        balance::weigh_as_processes(&Folder { path: own.clone(), ..engine.clone() }, processors())?;
        stand_in(&own)?;
        let path = group_of(&stood, root, Controller::Cpu.name());
        // One that was killed here has left its successor in it.
        *before =
            Some(path.filter(|path| !path.starts_with(&engine.path)).unwrap_or(root.to_owned()));
        Ok(())
    }

    /// Puts this process back to where it stood, or into the tree's root, where that has gone.
    pub(super) fn leave(&self) -> Result<(), CgroupError> {
        let Some((_, root)) = self.shares_processors() else { return Ok(()) };
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = before.as_deref() {
            stand_in(path).or_else(|_| stand_in(root))?;
        }
        *before = None;
        Ok(())
    }
}

fn stand_in(group: &Path) -> Result<(), CgroupError> {
    let file = group.join(PROCS);
    let value = std::process::id().to_string();
    write_value(&file, &value).map_err(|source| CgroupError::Write { file, value, source })
}

/// The group that a process stands in by the text of its `/proc/PID/cgroup`, in the tree at `root` that has
/// `controller`.
fn group_of(text: &str, root: &Path, controller: &str) -> Option<PathBuf> {
    let mut v2 = None;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let path = root.join(path.trim_start_matches('/'));
        if controllers.split(',').any(|name| name == controller) {
            return Some(path);
        }
        if controllers.is_empty() {
            v2 = Some(path);
        }
    }
    v2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_stands_in_a_group_of_each_tree() {
        let hybrid = "4:memory:/m\n2:cpu,cpuacct:/user/one\n1:name=systemd:/s\n0::/u\n";
        let group = |text| group_of(text, Path::new("/c"), "cpu");
        assert_eq!(group(hybrid).unwrap(), Path::new("/c/user/one"));
        assert_eq!(
            group("0::/system.slice/ace.service\n").unwrap(),
            Path::new("/c/system.slice/ace.service")
        );
        assert_eq!(group("1:cpu:/\n").unwrap(), Path::new("/c"));
        assert_eq!(group(""), None);
    }
}
