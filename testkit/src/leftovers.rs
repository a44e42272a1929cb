//! What an engine has in the kernel and under `/run`, found by the engine's id and its folder.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use rustix::process::{Pid, Signal, kill_process};

use crate::eventually;

const KILLED_WITHIN: Duration = Duration::from_secs(20);

/// A folder of the cgroup file system in which an engine's group may stand lies at most this deep
/// below it: controller or slice, then the group.
const CGROUP_DEPTH: usize = 3;

/// Each thing that is left of the engine `id` with the data folder `data`, in words.
pub fn find(id: &str, data: &Path) -> Vec<String> {
    let data = data.display().to_string();
    let mut found = Vec::new();
    let mut add = |what: &str, names: Vec<String>| {
        found.extend(names.into_iter().map(|name| format!("{what}: {name}")));
    };
    add("cgroup", groups(id));
    add("process", processes(&format!("ace-{id}")));
    add("interface", names_in("/sys/class/net", |name| name.starts_with(&format!("va{id}"))));
    add("table", firewall_tables(&format!("ace_{id}")));
    add("loop device", loop_devices(&data));
    add("mount", lines_with("/proc/self/mountinfo", &data));
    add("claim", lines_with("/run/ace/claims.json", &format!("\"{id}\"")));
    found
}

/// Ends all processes in containers of the engine `id` at once, as a power cut would, and waits until they are gone.
pub fn kill_all(id: &str) -> Result<()> {
    eventually("the end of all containers", KILLED_WITHIN, || {
        let left = processes(&format!("ace-{id}"));
        for pid in left.iter().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
            // One that has ended since is as good.
            let _ = kill_process(pid, Signal::KILL);
        }
        left.is_empty().then_some(())
    })
}

/// The engine's control groups: its own in each tree, and those of its instances that stand beside that, `ace-ID.INSTANCE`.
pub fn groups(id: &str) -> Vec<String> {
    cgroups(Path::new("/sys/fs/cgroup"), &format!("ace-{id}"), CGROUP_DEPTH)
}

/// The group of the instance `instance` of the engine `id` in each tree.
pub fn groups_of(id: &str, instance: &str) -> Vec<PathBuf> {
    let of_instance = |group: PathBuf| match instance_beside(&group, id) {
        Some(beside) => (beside == instance).then_some(group),
        None => Some(group.join(instance)).filter(|group| group.is_dir()),
    };
    groups(id).into_iter().map(PathBuf::from).filter_map(of_instance).collect()
}

/// The instances of the engine `id` that have processes or groups.
pub fn instances(id: &str) -> BTreeSet<String> {
    let groups = groups(id).into_iter().map(PathBuf::from);
    let mut names = BTreeSet::new();
    for group in groups {
        match instance_beside(&group, id) {
            Some(instance) => names.extend([instance]),
            None => names.extend(folders_in(&group).iter().filter_map(|path| file_name(path))),
        }
    }
    names.remove("keeper"); // It holds the engine's own group in a container with systemd.
    names
}

/// The instance whose group stands beside the engine's own, if `group` is one.
fn instance_beside(group: &Path, id: &str) -> Option<String> {
    let name = file_name(group)?.strip_prefix(&format!("ace-{id}."))?.to_owned();
    (name != "scope" && name != "slice").then_some(name)
}

/// The instances of the engine `id` that have an interface on the host.
pub fn connected(id: &str) -> BTreeSet<String> {
    let prefix = format!("va{id}");
    let names = names_in("/sys/class/net", |name| name.starts_with(&prefix));
    names.iter().map(|name| name[prefix.len()..].to_owned()).collect()
}

fn file_name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}

/// Folders below `folder` whose names begin with `prefix`.
fn cgroups(folder: &Path, prefix: &str, depth: usize) -> Vec<String> {
    let mut found = Vec::new();
    for path in folders_in(folder) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(prefix) {
            found.push(path.display().to_string());
        } else if depth > 1 {
            found.extend(cgroups(&path, prefix, depth - 1));
        }
    }
    found
}

fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries.filter(is_folder).map(|entry| entry.path()).collect()
}

/// Processes in a cgroup of this name. One that has ended and waits for the host's process 1 to take
/// note is gone as far as we can make it.
fn processes(group: &str) -> Vec<String> {
    let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let in_group = |pid: &String| {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
        let has_ended = read("stat").is_ok_and(|stat| stat.contains(") Z "));
        !has_ended && read("cgroup").is_ok_and(|text| text.contains(group))
    };
    names_in("/proc", is_process).into_iter().filter(in_group).collect()
}

fn names_in(folder: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| wanted(name)).collect()
}

fn firewall_tables(name: &str) -> Vec<String> {
    let list = Command::new("nft").args(["list", "tables"]).output();
    let text = list.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    text.lines().filter(|line| line.ends_with(name)).map(str::to_owned).collect()
}

/// Loop devices whose file lies below `folder`.
fn loop_devices(folder: &str) -> Vec<String> {
    let backed = |name: &String| {
        let file = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file"));
        file.is_ok_and(|path| path.starts_with(folder))
    };
    names_in("/sys/block", |name| name.starts_with("loop")).into_iter().filter(backed).collect()
}

/// Lines of `path` that contain `wanted`; none where there is no such file.
fn lines_with(path: &str, wanted: &str) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter(|line| line.contains(wanted)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_never_was_left_nothing() {
        assert_eq!(find("0000", Path::new("/nonexistent/data")), Vec::<String>::new());
    }

    #[test]
    fn a_group_is_found_where_engines_put_theirs() {
        let root = tempfile::tempdir().expect("a temp folder");
        for path in ["memory/ace-abcd/x", "system.slice/ace-abcd.scope", "memory/ace-zzzz"] {
            fs::create_dir_all(root.path().join(path)).expect("a folder");
        }
        assert_eq!(cgroups(root.path(), "ace-abcd", CGROUP_DEPTH).len(), 2);
    }
}
