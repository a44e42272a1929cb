//! What this kernel can enforce and by which means: the facts behind `ace doctor`.
//!
//! Each is found by trying, on objects that carry an id of the survey's own and are gone when it
//! returns; those of a survey that was killed go with the next. What can't be tried without changing
//! the machine is read.

use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use ace_types::{EngineId, IdRange, Limits, error_chain};
use rustix::fs::{FlockOperation, flock};
use rustix::thread::UnshareFlags;
use serde::Serialize;

use crate::cgroup::{CgroupTree, GivesWayBy, Version};
use crate::claims::LAST;
use crate::failure::{Failure, Step};
use crate::network::{self, HostNetlink, VETH_PREFIX, Wire};
use crate::passed::can_refuse_descriptors;
use crate::volume::Store;
use crate::volume::folder::means_at;
use crate::{disk, firewall, rootfs, sys, volume};

/// What apps within their limits take of numbers that the kernel has for the whole machine.
const SHARED: [Shared; 2] = [
    Shared {
        name: "open files",
        file: "/proc/sys/fs/file-max",
        of_app: 256 * 4096,
        remedy: "sysctl -w fs.file-max=9223372036854775807",
    },
    Shared {
        name: "process numbers",
        file: "/proc/sys/kernel/pid_max",
        of_app: 256,
        remedy: "sysctl -w kernel.pid_max=4194304",
    },
];
/// As many apps have to fit in, each at its default limits.
const APPS_LEAST: u64 = 1000;

/// An engine's id that no engine gets: random ids never have a `0`.
const ID: &str = "0000";
/// Addresses of the last slot that no container and no gateway has.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 19, 255, 255);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 19, 248, 0);
const VOLUMES: &str = "volumes";
/// More places for neighbours than containers can take by connections that they may begin.
const NEIGHBOURS_ENOUGH: u64 = 65_536;
/// A folder that every Linux has, locked so that one survey runs at a time.
const LOCKED: &str = "/run";
const LOCK_DEADLINE: Duration = Duration::from_secs(20);
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// One fact about this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub name: &'static str,
    pub grade: Grade,
    /// What was found.
    pub detail: String,
    /// What the operator can do about it.
    pub remedy: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    Ok,
    /// A wall or limit is missing that apps can run without.
    Warn,
    /// No app can be run.
    Fail,
}

/// Looks at this machine. `scratch` is a folder on the disk where volumes would be, `store` what they would be
/// made as.
///
/// Takes up to a second; makes and removes a cgroup, a network namespace, a firewall table and a
/// loop device. To be called by root.
pub fn survey(scratch: &Path, store: Store) -> Vec<Finding> {
    if !rustix::process::geteuid().is_root() {
        let detail = "not running as root".to_owned();
        return vec![fail("root", detail, Some("run it with sudo".to_owned()))];
    }
    let locked = lock().and_then(|lock| Ok((lock, ID.parse().map_err(io::Error::other)?)));
    let (_lock, engine) = match locked {
        Ok(locked) => locked,
        Err(error) => return vec![fail("survey", error_chain(&error), None)],
    };
    let mut findings = vec![ok("root", "running as root".to_owned())];
    findings.push(user_namespaces());
    findings.push(seccomp());
    findings.extend(cgroups(&engine));
    findings.push(io(&engine, scratch));
    findings.extend(veth(&engine));
    findings.extend(firewall(&engine));
    findings.push(forwarding());
    findings.push(neighbours());
    findings.extend(SHARED.iter().map(Shared::look));
    findings.push(descriptors());
    findings.push(layers(scratch));
    findings.push(volumes(&engine, scratch, store));
    findings
}

/// Waits until no other survey runs; dropping the file lets the next one.
fn lock() -> io::Result<File> {
    let folder = File::open(LOCKED)?;
    let until = Instant::now() + LOCK_DEADLINE;
    loop {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(folder),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => {
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn user_namespaces() -> Finding {
    const NAME: &str = "user namespaces";
    const SWITCH: &str = "/proc/sys/user/max_user_namespaces";
    let remedy = || Some("sysctl -w user.max_user_namespaces=65536".to_owned());
    match fs::read_to_string(SWITCH).map(|text| text.trim().parse::<u64>()) {
        Ok(Ok(0)) => fail(NAME, format!("{SWITCH} is 0"), remedy()),
        Ok(Ok(most)) if most < 1000 => warn(NAME, format!("{most} at most"), remedy()),
        Ok(Ok(most)) => ok(NAME, format!("{most} at most")),
        Ok(Err(_)) | Err(_) => fail(
            NAME,
            "this kernel has none".to_owned(),
            Some("boot a kernel that has them".into()),
        ),
    }
}

fn seccomp() -> Finding {
    const NAME: &str = "seccomp";
    const ACTIONS: &str = "/proc/sys/kernel/seccomp/actions_avail";
    match fs::read_to_string(ACTIONS) {
        Ok(actions) if actions.split_whitespace().any(|action| action == "errno") => {
            ok(NAME, "system calls can be filtered".to_owned())
        }
        _ => fail(NAME, format!("{ACTIONS} offers none"), Some("boot a kernel that has it".into())),
    }
}

/// Makes a group with limits and looks at which of them it has.
fn cgroups(engine: &EngineId) -> Vec<Finding> {
    const NAME: &str = "cgroup";
    let tree = match CgroupTree::find(engine) {
        Ok(tree) => tree,
        Err(error) => return vec![fail(NAME, error_chain(&error), None)],
    };
    let tried = tree.create("survey", &Limits::for_app());
    let mut findings = Vec::new();
    match &tried {
        Ok(group) => {
            // Disks are a finding of their own.
            let means = tree.means().into_iter().filter(|(name, _)| *name != "io");
            findings.extend(means.map(|(name, by)| ok(name, by)));
            findings.push(ok("sharing", gives_way(group.gives_way_by())));
            findings.push(swap(group.limits_swap()));
            findings.push(kill(group.folders.iter().any(|folder| {
                folder.version == Version::V2 && folder.path.join("cgroup.kill").exists()
            })));
        }
        Err(error) => findings.push(fail(NAME, error_chain(error), None)),
    }
    if let Err(error) = tree.remove_all() {
        findings.push(warn(NAME, error_chain(&error), None));
    }
    findings
}

fn gives_way(by: GivesWayBy) -> String {
    let by = match by {
        GivesWayBy::Idle => "cpu.idle",
        GivesWayBy::WeightForWantOfIdle => "weight, as this kernel has no cpu.idle",
        GivesWayBy::WeightBelowAnother => "weight, as this is not the root of the control groups",
    };
    format!("who uses much of the processor gives way to others, by {by}")
}

fn swap(limited: bool) -> Finding {
    const NAME: &str = "swap";
    let none_in_use =
        || fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() < 2);
    match limited {
        true => ok(NAME, "apps are kept out of it".to_owned()),
        false if none_in_use() => {
            ok(NAME, "not limited by this kernel, and none in use".to_owned())
        }
        false => warn(
            NAME,
            "apps may swap beyond their memory limit".to_owned(),
            Some("boot with swapaccount=1, or switch swap off".to_owned()),
        ),
    }
}

/// Whether what is on the disk of `scratch` can be throttled, and by what.
fn io(engine: &EngineId, scratch: &Path) -> Finding {
    const NAME: &str = "io";
    let by = CgroupTree::find(engine)
        .ok()
        .and_then(|tree| tree.means().into_iter().find(|(name, _)| *name == "io"));
    match (by, disk::is_on_disk(scratch), disk::whole_disks()) {
        (None, _, _) => warn(
            NAME,
            "reads and writes are not limited: there is no cgroup controller for them".to_owned(),
            Some("use a kernel with CONFIG_BLK_DEV_THROTTLING, and mount blkio or io".to_owned()),
        ),
        (Some(_), Ok(false), _) => warn(
            NAME,
            format!(
                "{} is on no disk of this machine: what is read from there is not limited",
                scratch.display()
            ),
            Some("keep the data folder on a disk".to_owned()),
        ),
        (Some(_), Err(error), _) | (Some(_), _, Err(error)) => {
            warn(NAME, error_chain(&error), None)
        }
        (Some((_, by)), Ok(true), Ok(disks)) => {
            let disks: Vec<String> = disks.iter().map(ToString::to_string).collect();
            ok(NAME, format!("by {by}, on disks {} and volumes", disks.join(", ")))
        }
    }
}

fn kill(by_kernel: bool) -> Finding {
    match by_kernel {
        true => ok("kill at once", "by cgroup.kill".to_owned()),
        false => ok("kill at once", "by freezing, then one by one".to_owned()),
    }
}

/// Connects a network namespace of a thread that ends right after.
fn veth(engine: &EngineId) -> Vec<Finding> {
    const NAME: &str = "network";
    let wire = Wire {
        host_interface: network::veth_name(engine, "survey"),
        address: ADDRESS,
        gateway: GATEWAY,
        bandwidth: Limits::for_app().bandwidth,
    };
    let connect = move || -> Result<bool, Box<dyn Error + Send + Sync>> {
        let host = HostNetlink::open()?;
        sys::unshare(UnshareFlags::NEWNET)?;
        Ok(network::connect_veth(&host, &wire)?)
    };
    let tried = std::thread::spawn(connect).join();
    let removed = network::remove_leftover_veths(engine);
    match (tried, removed) {
        (Ok(Ok(bounded)), Ok(_)) => {
            vec![ok(NAME, "veth pairs in namespaces of their own".to_owned()), bandwidth(bounded)]
        }
        (Ok(Err(error)), _) => vec![fail(NAME, error_chain(error.as_ref()), None)],
        (_, Err(error)) => vec![fail(NAME, error_chain(&error), None)],
        (Err(_), Ok(_)) => vec![fail(NAME, "the attempt did not end".to_owned(), None)],
    }
}

fn bandwidth(bounded: bool) -> Finding {
    const NAME: &str = "bandwidth";
    match bounded {
        true => ok(NAME, "by a token bucket at both ends of the wire (sch_tbf)".to_owned()),
        false => warn(
            NAME,
            "not limited: this kernel has no sch_tbf".to_owned(),
            Some("modprobe sch_tbf, or boot a kernel that has it".to_owned()),
        ),
    }
}

fn firewall(engine: &EngineId) -> Vec<Finding> {
    const NAME: &str = "firewall";
    let tried = firewall::ensure(engine, LAST.subnet(), &[LAST.gateway()])
        .and_then(|()| firewall::remove(engine));
    if let Err(error) = tried {
        return vec![fail(NAME, error_chain(&error), None)];
    }
    let mut findings = vec![ok(NAME, "nftables, with address translation".to_owned())];
    for foreign in firewall::foreign_drops().unwrap_or_default() {
        let detail = format!(
            "the chain {} of table {} {} drops what apps send to the internet",
            foreign.chain, foreign.family, foreign.table
        );
        findings.push(warn("other firewall", detail, Some(foreign.remedy())));
    }
    findings
}

fn forwarding() -> Finding {
    const NAME: &str = "IPv4 forwarding";
    match fs::read_to_string("/proc/sys/net/ipv4/ip_forward") {
        Ok(text) if text.trim() == "1" => ok(NAME, "on".to_owned()),
        Ok(_) => ok(NAME, "off; on while an engine has claims".to_owned()),
        Err(error) => fail(NAME, error_chain(&error), None),
    }
}

/// A number that the kernel has for the whole machine.
struct Shared {
    name: &'static str,
    file: &'static str,
    /// How much of it an app may take by the default limits.
    of_app: u64,
    remedy: &'static str,
}

impl Shared {
    fn look(&self) -> Finding {
        let text = fs::read_to_string(self.file);
        match text.and_then(|text| text.trim().parse().map_err(io::Error::other)) {
            Ok(most) => self.judge(most),
            Err(error) => warn(self.name, error_chain(&error), None),
        }
    }

    fn judge(&self, most: u64) -> Finding {
        let apps = most / self.of_app;
        if apps >= APPS_LEAST {
            return ok(self.name, format!("{most} on this machine"));
        }
        let detail =
            format!("{most} on this machine: {} apps at their limits take them all", apps + 1);
        warn(self.name, detail, Some(self.remedy.to_owned()))
    }
}

/// Whether the host's own network has as many addresses as the kernel has places for neighbours: an app may look for each.
fn neighbours() -> Finding {
    const NAME: &str = "neighbours";
    const PLACES: &str = "/proc/sys/net/ipv4/neigh/default/gc_thresh3";
    let read = || -> io::Result<(u64, u64)> {
        let places = fs::read_to_string(PLACES)?.trim().parse().map_err(io::Error::other)?;
        Ok((places, addresses_in_reach(&fs::read_to_string("/proc/net/route")?)))
    };
    match read() {
        Ok((places, addresses)) if addresses < places => {
            ok(NAME, format!("room for {places}; {addresses} addresses in this machine's networks"))
        }
        Ok((places, addresses)) => warn(
            NAME,
            format!(
                "room for {places}, and {addresses} addresses in this machine's networks: an app that looks for \
                 them takes all of it, and the machine reaches nobody"
            ),
            Some(format!("sysctl -w net.ipv4.neigh.default.gc_thresh3={NEIGHBOURS_ENOUGH}")),
        ),
        Err(error) => warn(NAME, error_chain(&error), None),
    }
}

/// How many addresses the host reaches without a gateway, containers not counted; what an app may look for at once counts at
/// most. `routes` is `/proc/net/route`.
fn addresses_in_reach(routes: &str) -> u64 {
    let on_link = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let &[interface, _, gateway, _, _, _, _, mask, ..] = &columns[..] else { return None };
        let is_ours = interface.starts_with(VETH_PREFIX);
        let mask = u32::from_str_radix(mask, 16).ok()?;
        (!is_ours && gateway == "00000000").then(|| 1_u64 << mask.count_zeros())
    };
    routes.lines().filter_map(on_link).sum::<u64>().min(NEIGHBOURS_ENOUGH - 1)
}

fn descriptors() -> Finding {
    const NAME: &str = "passed files";
    match can_refuse_descriptors() {
        Ok(true) => ok(NAME, "apps can hand none to the gateway".to_owned()),
        Ok(false) => warn(
            NAME,
            "an app can have the gateway close files for it, which takes the gateway's time"
                .to_owned(),
            Some("boot Linux 6.16 or later".to_owned()),
        ),
        Err(error) => warn(NAME, error_chain(&error), None),
    }
}

/// Mounts a layer over `scratch`, in a mount namespace of a thread that ends right after.
fn layers(scratch: &Path) -> Finding {
    const NAME: &str = "writable code";
    let folder = scratch.to_owned();
    let attempt = move || {
        let ids =
            IdRange::new(0).ok_or_else(|| io::Error::other("there are no ids")).step("map ids")?;
        rootfs::can_have_layer(&folder, ids)
    };
    let remedy = "apps run, and can't write beside their code; Linux 5.19 or later can do it, with DATA on \
                  ext4, xfs or btrfs";
    match std::thread::spawn(attempt).join() {
        Ok(Ok(true)) => ok(NAME, "by an overlay in memory".to_owned()),
        Ok(Ok(false)) => {
            let detail = format!("no overlay over {}", scratch.display());
            warn(NAME, detail, Some(remedy.to_owned()))
        }
        Ok(Err(Failure { step, source })) => {
            fail(NAME, format!("could not {step}: {}", error_chain(&source)), None)
        }
        Err(_) => fail(NAME, "the attempt did not end".to_owned(), None),
    }
}

fn volumes(engine: &EngineId, scratch: &Path, store: Store) -> Finding {
    match store {
        Store::Image => images(scratch),
        Store::Quota => folders(engine, scratch),
    }
}

/// Whether folders on the disk of `scratch` are bounded. Nothing is made: that disk's quota is not ours alone.
fn folders(engine: &EngineId, scratch: &Path) -> Finding {
    let means = match means_at(scratch) {
        Ok(means) => means,
        // The operator wants no other volumes.
        Err(error) => return fail(VOLUMES, error_chain(&error), error.remedy()),
    };
    let detail = format!("folders, bounded by {means}");
    match CgroupTree::find(engine).ok().and_then(|tree| tree.io_version()) {
        Some(Version::V2) => ok(VOLUMES, detail),
        Some(Version::V1) | None => warn(
            VOLUMES,
            format!(
                "{detail}; what an app writes to one through the page cache is not limited in its rate"
            ),
            Some(
                "boot with cgroup v2 alone, or keep images: without `store` in [volumes]"
                    .to_owned(),
            ),
        ),
    }
}

/// Makes a small volume, attaches it and lets it go.
fn images(scratch: &Path) -> Finding {
    let image = scratch.join("survey.img");
    let make = |owner| {
        volume::ensure_image(&image, volume::SIZE_LEAST, owner)?;
        volume::attach(&image).map(drop)
    };
    let tried = IdRange::new(0).map_or(Ok(()), make);
    let removed = volume::remove_image(&image);
    match tried.and(removed) {
        Ok(()) => {
            let other = match means_at(scratch) {
                Ok(means) => format!("folders could be bounded by {means}"),
                Err(error) => format!("no folders: {}", error_chain(&error)),
            };
            ok(VOLUMES, format!("ext4 images on loop devices ({other})"))
        }
        // Apps without a volume run all the same.
        Err(error) => warn(VOLUMES, error_chain(&error), None),
    }
}

fn ok(name: &'static str, detail: String) -> Finding {
    Finding { name, grade: Grade::Ok, detail, remedy: None }
}

fn warn(name: &'static str, detail: String, remedy: Option<String>) -> Finding {
    Finding { name, grade: Grade::Warn, detail, remedy }
}

fn fail(name: &'static str, detail: String, remedy: Option<String>) -> Finding {
    Finding { name, grade: Grade::Fail, detail, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_few_apps_can_take_is_told_of() {
        let [_, processes] = SHARED;
        assert_eq!(processes.judge(4_194_304).grade, Grade::Ok);
        let few = processes.judge(32_768);
        assert_eq!(few.grade, Grade::Warn);
        assert!(few.detail.contains("129 apps"), "{}", few.detail);
    }

    #[test]
    fn addresses_without_a_gateway_are_in_reach_but_for_containers() {
        let heading =
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        let default = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        let own = "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00F0FFFF\t0\t0\t0\n";
        let container = "vaaaaa1\t026813C6\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n";
        let routes = [heading, default, own, container].concat();
        assert_eq!(addresses_in_reach(&routes), 4096);
        let all = "tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert!(addresses_in_reach(all) < NEIGHBOURS_ENOUGH);
    }
}
