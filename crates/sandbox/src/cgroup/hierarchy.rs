//! Which cgroup trees this machine has mounted, and which of them has each controller.
//!
//! Decided controller by controller: on a hybrid machine the controllers are version 1 while a
//! version 2 tree without any stands beside them, and that tree can still freeze and kill.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::mounts::unescape;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    V1,
    V2,
}

/// What a tree can limit or count. `Cpuacct` and `Freezer` are controllers in version 1 only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Controller {
    Cpu,
    Cpuacct,
    Memory,
    Pids,
    Freezer,
    Io,
}

/// One mounted tree, and what we use it for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    pub mount_point: PathBuf,
    pub version: Version,
    /// The controllers that we use here; none where the tree only freezes and kills.
    pub controllers: Vec<Controller>,
}

/// A mounted cgroup file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub mount_point: PathBuf,
    pub version: Version,
    /// In version 1 its controllers, from the mount's options; empty in version 2.
    pub options: Vec<String>,
    /// Whether the tree's own root is mounted, not a folder of it.
    pub whole: bool,
}

impl Controller {
    pub const ALL: [Self; 6] =
        [Self::Cpu, Self::Cpuacct, Self::Memory, Self::Pids, Self::Freezer, Self::Io];

    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Freezer => "freezer",
            Self::Io => "io",
        }
    }

    /// What version 1 calls it.
    fn name_in_version_1(self) -> &'static str {
        match self {
            Self::Io => "blkio",
            _ => self.name(),
        }
    }
}

/// Reads the text of `/proc/self/mountinfo`. Source: proc_pid_mountinfo(5).
pub fn parse_mountinfo(text: &str) -> Vec<Mount> {
    text.lines().filter_map(parse_mount).collect()
}

/// Picks the trees to use. `available` tells the controllers of a version 2 tree by its folder.
pub fn choose(mounts: &[Mount], available: impl Fn(&Path) -> Vec<String>) -> Vec<Hierarchy> {
    let v2 = best(mounts, |mount| mount.version == Version::V2);
    let v2_controllers = v2.map(|mount| available(&mount.mount_point)).unwrap_or_default();
    let mut chosen: Vec<Hierarchy> = v2.map(|mount| use_of(mount, vec![])).into_iter().collect();
    for controller in Controller::ALL {
        if controller == Controller::Freezer && v2.is_some() {
            continue; // The version 2 tree freezes.
        }
        let name = controller.name_in_version_1();
        let by_option = |mount: &Mount| mount.options.iter().any(|option| option == name);
        let home = match best(mounts, by_option) {
            Some(mount) => mount,
            None if v2_controllers.iter().any(|name| name == controller.name()) => match v2 {
                Some(mount) => mount,
                None => continue,
            },
            None => continue,
        };
        match chosen.iter_mut().find(|known| known.mount_point == home.mount_point) {
            Some(known) => known.controllers.push(controller),
            None => chosen.push(use_of(home, vec![controller])),
        }
    }
    chosen
}

fn use_of(mount: &Mount, controllers: Vec<Controller>) -> Hierarchy {
    Hierarchy { mount_point: mount.mount_point.clone(), version: mount.version, controllers }
}

/// The mount that shows a whole tree, or else the first that shows a part of it.
fn best(mounts: &[Mount], fits: impl Fn(&Mount) -> bool) -> Option<&Mount> {
    let fitting = || mounts.iter().filter(|mount| fits(mount));
    fitting().find(|mount| mount.whole).or_else(|| fitting().next())
}

fn parse_mount(line: &str) -> Option<Mount> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let (root, mount_point) = (mount.next()?, mount.next()?);
    let mut file_system = file_system.split(' ');
    let kind = file_system.next()?;
    let options = file_system.nth(1).unwrap_or_default();
    let (version, options) = match kind {
        "cgroup" => (Version::V1, options.split(',').map(str::to_owned).collect()),
        "cgroup2" => (Version::V2, Vec::new()),
        _ => return None,
    };
    Some(Mount { mount_point: unescape(mount_point), version, options, whole: root == "/" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:4 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw shared:5 master:1 - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio
37 31 0:34 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";

    fn uses(mounts: &str, v2: &[&str]) -> Vec<(String, Version, Vec<Controller>)> {
        let v2: Vec<String> = v2.iter().map(|name| (*name).to_owned()).collect();
        choose(&parse_mountinfo(mounts), |_| v2.clone())
            .into_iter()
            .map(|tree| (tree.mount_point.display().to_string(), tree.version, tree.controllers))
            .collect()
    }

    #[test]
    fn on_a_hybrid_machine_version_1_limits_and_version_2_kills() {
        use Controller::{Cpu, Cpuacct, Io, Memory, Pids};
        let expected = [
            ("/sys/fs/cgroup/unified".to_owned(), Version::V2, vec![]),
            ("/sys/fs/cgroup/cpu,cpuacct".to_owned(), Version::V1, vec![Cpu, Cpuacct]),
            ("/sys/fs/cgroup/memory".to_owned(), Version::V1, vec![Memory]),
            ("/sys/fs/cgroup/pids".to_owned(), Version::V1, vec![Pids]),
            ("/sys/fs/cgroup/blkio".to_owned(), Version::V1, vec![Io]),
        ];
        assert_eq!(uses(HYBRID, &[]), expected);
    }

    #[test]
    fn without_a_version_2_tree_the_freezer_is_used() {
        let v1 = HYBRID.rsplit_once('\n').map_or(HYBRID, |(before, _)| before);
        let freezer = uses(v1, &[]).into_iter().find(|(_, _, has)| *has == [Controller::Freezer]);
        assert_eq!(freezer.map(|(at, _, _)| at), Some("/sys/fs/cgroup/freezer".to_owned()));
    }

    #[test]
    fn a_pure_version_2_machine_has_one_tree() {
        let mounts = "30 24 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        let controllers =
            vec![Controller::Cpu, Controller::Memory, Controller::Pids, Controller::Io];
        assert_eq!(
            uses(mounts, &["cpuset", "cpu", "io", "memory", "pids"]),
            [("/sys/fs/cgroup".to_owned(), Version::V2, controllers)]
        );
    }

    #[test]
    fn a_mount_of_the_whole_tree_goes_before_one_of_a_part() {
        let mounts = "\
50 1 0:26 /part /var/part rw - cgroup2 cgroup2 rw
30 1 0:26 / /sys/fs/cgroup\\040two rw - cgroup2 cgroup2 rw";
        assert_eq!(uses(mounts, &["pids"])[0].0, "/sys/fs/cgroup two");
    }
}
