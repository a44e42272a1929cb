//! Cgroups, network, firewall, volumes and the survey on the kernel at hand, as root.
//!
//! Where this machine can't do what a test needs, the test says so and ends.

#![allow(clippy::unwrap_used)] // Here a panic is a test that failed.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ace_sandbox::cgroup::{
    Balance, Cgroup, CgroupError, CgroupTree, Controller, Folder, GivesWayBy, Version,
};
use ace_sandbox::claims::{self, Claim};
use ace_sandbox::disk::Device;
use ace_sandbox::network::{
    HostNetlink, WayOut, Wire, connect_veth, mend_way_out, remove_leftover_veths, veth_name,
    wire_traffic,
};
use ace_sandbox::process::ProcessRef;
use ace_sandbox::survey::{Grade, survey};
use ace_sandbox::{disk, firewall, volume};
use ace_types::{BitRate, Bytes, EngineId, IdRange, Limits};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

const SOON: Duration = Duration::from_secs(10);
/// How long to wait for what must not come.
const NEVER: Duration = Duration::from_millis(400);

// --- cgroups ---

#[test]
fn limits_can_be_read_back_from_the_kernel() {
    let Some(groups) = Groups::new("a") else { return };
    let group = groups.create("one", &small());
    let read = |controller: Controller, v1: &str, v2: &str| {
        let folder = group.folders.iter().find(|f| f.controllers.contains(&controller)).unwrap();
        let file = if folder.version == Version::V1 { v1 } else { v2 };
        fs::read_to_string(folder.path.join("app").join(file)).unwrap().trim().to_owned()
    };
    let memory = read(Controller::Memory, "memory.limit_in_bytes", "memory.max");
    assert_eq!(memory, small().memory.0.to_string());
    assert_eq!(read(Controller::Pids, "pids.max", "pids.max"), "16");
    let cpu = read(Controller::Cpu, "cpu.cfs_quota_us", "cpu.max");
    assert!(cpu == "10000" || cpu == "10000 20000", "{cpu}");
}

#[test]
fn a_container_gives_way_while_it_uses_much_and_weighs_what_others_do_at_rest() {
    let Some(groups) = Groups::new("h") else { return };
    let group = groups.create("one", &Limits { cpu_millicores: 1000, ..small() });
    let of_processors = |folder: &&Folder| folder.controllers.contains(&Controller::Cpu);
    let folder = group.folders.iter().find(of_processors).unwrap();
    let (file, full, light) = match folder.version {
        Version::V1 => ("cpu.shares", "1024", "64"),
        Version::V2 => ("cpu.weight", "100", "6"),
    };
    let read = |file: &str| fs::read_to_string(folder.path.join(file)).ok();
    let is = |file: &str, value: &str| read(file).is_some_and(|text| text.trim() == value);
    let gives_way = || match group.gives_way_by() {
        GivesWayBy::Idle => is("cpu.idle", "1"),
        GivesWayBy::WeightForWantOfIdle | GivesWayBy::WeightBelowAnother => is(file, light),
    };
    assert!(is(file, full));
    fs::write(folder.path.join(file), "7").unwrap();
    let (mut balance, begin) = (Balance::default(), Instant::now());
    balance.look(&groups.tree, begin).unwrap();
    assert!(is(file, full) && !gives_way());

    // The seconds are told, so that a busy machine makes no difference.
    let other = groups.create("two", &Limits { cpu_millicores: 50, ..small() });
    for (group, usec) in [(&other, 4_000), (&group, 200_000)] {
        let mut app = start_in(group, "app", "while :; do :; done");
        wait_for("it has used so much", || group.usage().cpu_usec > usec);
        group.kill().unwrap();
        app.wait().unwrap();
    }
    balance.look(&groups.tree, begin + Duration::from_millis(200)).unwrap();
    assert!(gives_way());
    balance.look(&groups.tree, begin + Duration::from_secs(1)).unwrap();
    assert!(is(file, full) && !gives_way());
}

#[test]
fn every_disk_is_throttled_each_way_and_stays_so() {
    let Some(groups) = Groups::new("x") else { return };
    let group = groups.create("one", &small());
    let Some((folder, file)) = throttle_of(&group) else { return };
    let line = |device: Device| match folder.version {
        Version::V1 => format!("{device} 5242880"),
        Version::V2 => format!("{device} rbps=5242880 wbps=5242880 riops=500 wiops=500"),
    };
    let disks = disk::whole_disks().unwrap();
    assert!(disks.iter().all(|disk| lines_of(&file).contains(&line(*disk))), "{disks:?}");
    assert!(!groups.tree.restore_limits("one", &small()).unwrap());
    group.lift_throttles();
    assert_eq!(lines_of(&file), [""; 0]);
    assert!(groups.tree.restore_limits("one", &small()).unwrap() || disks.is_empty());
    assert!(disks.iter().all(|disk| lines_of(&file).contains(&line(*disk))));
}

#[test]
fn a_volume_is_throttled_for_as_long_as_it_is_attached() {
    let Some(groups) = Groups::new("y") else { return };
    let group = groups.create("one", &small());
    let Some((folder, file)) = throttle_of(&group) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let image = scratch.path().join("shop.img");
    let made = volume::ensure_image(&image, Bytes::mib(16), IdRange::new(9).unwrap());
    let Ok(attached) = made.and_then(|()| volume::attach(&image)) else {
        return skip("volumes can't be made here");
    };
    let device = attached.number;
    let bound =
        |lines: Vec<String>| lines.iter().any(|line| line.starts_with(&format!("{device} ")));
    assert!(groups.tree.throttle_volume("one", device, &small()).unwrap());
    assert!(!groups.tree.throttle_volume("one", device, &small()).unwrap());
    assert!(bound(lines_of(&file)));
    // What the kernel writes late is the root's there.
    let root = folder.path.ancestors().nth(2).unwrap().join("blkio.throttle.write_bps_device");
    assert_eq!(bound(lines_of(&root)), folder.version == Version::V1);
    groups.tree.release_devices();
    assert_eq!(bound(lines_of(&root)), folder.version == Version::V1);
    // A second container that has the same volume leaves it bound when it ends.
    let second = groups.create("two", &small());
    groups.tree.throttle_volume("two", device, &small()).unwrap();
    second.remove(SOON).unwrap();
    assert_eq!(bound(lines_of(&root)), folder.version == Version::V1);
    group.lift_throttles();
    assert!(!bound(lines_of(&root)));
    assert!(groups.tree.throttle_volume("one", device, &small()).unwrap());
    drop(attached);
    groups.tree.release_devices();
    assert!(!bound(lines_of(&root)));
}

#[test]
fn what_is_written_to_a_volume_is_counted_now_or_later() {
    let Some(groups) = Groups::new("z") else { return };
    let group = groups.create("one", &small());
    if group.disk_traffic().is_none() {
        return skip("no tree counts what goes to disks");
    }
    let Some(disk) = Disk::new() else { return };
    let attached = volume::attach(&disk.image).unwrap();
    groups.tree.throttle_volume("one", attached.number, &small()).unwrap();
    let written = || {
        let all = group.disk_traffic().unwrap();
        all.get(&attached.number).map_or((0, 0), |disk| (disk.written_bytes, disk.writes))
    };
    // To a file, as apps do: what is written late to the device itself counts as whose was the last to do so.
    let write = |how: &str| {
        let (from, to) = (attached.device.display(), disk.folder.path().display());
        let script = format!(
            "mount -t ext4 {from} {to} && dd if=/dev/zero of={to}/file bs=64k count=16 {how}"
        );
        let script = format!("exec unshare -m sh -c '{script}' 2>/dev/null");
        assert!(start_in(&group, "app", &script).wait().unwrap().success());
    };
    let (before, _) = written();
    write("oflag=direct");
    let (at_once, operations) = written();
    assert!(at_once - before >= 1 << 20 && operations > 0, "{before} {at_once} {operations}");
    // What goes through the kernel's memory it writes itself.
    write("conv=fsync");
    assert!(written().0 - at_once >= 1 << 20, "{at_once} {:?}", written());
}

#[test]
fn making_a_group_again_changes_its_limits() {
    let Some(groups) = Groups::new("b") else { return };
    for memory in [Bytes::mib(64), Bytes::mib(32), Bytes::mib(128)] {
        let group = groups.create("one", &Limits { memory, ..small() });
        let files = ["memory.max", "memory.limit_in_bytes"];
        let read = |folder: &Folder| {
            files
                .iter()
                .find_map(|file| fs::read_to_string(folder.path.join("app").join(file)).ok())
        };
        let limit = group.folders.iter().find_map(read).unwrap();
        assert_eq!(limit.trim(), memory.0.to_string());
    }
}

#[test]
fn a_memory_bomb_dies_and_init_lives() {
    let Some(groups) = Groups::new("c") else { return };
    let group = groups.create("one", &small());
    let mut init = start_in(&group, "init", "exec sleep 100");
    wait_for("init is in its group", || !group.is_empty().unwrap());
    let bomb = start_in(&group, "app", "exec tail /dev/zero").wait().unwrap();
    assert_eq!(bomb.signal(), Some(9));
    assert!(group.oom_kills() >= 1);
    assert_eq!(init.try_wait().unwrap(), None);
    group.kill().unwrap();
    assert_eq!(init.wait().unwrap().signal(), Some(9));
}

#[test]
fn processes_are_bounded_and_counted() {
    let Some(groups) = Groups::new("d") else { return };
    let group = groups.create("one", &small());
    let script =
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 100 & done; wait";
    let mut shell = start_in(&group, "app", script);
    // The shell gives up when it can't fork; what it started stays.
    shell.wait().unwrap();
    let usage = group.usage();
    assert_eq!(usage.pids, 15, "{usage:?}");
    assert!(usage.memory_bytes > 0 && usage.cpu_usec > 0, "{usage:?}");
}

#[test]
fn a_fork_bomb_is_removed_with_its_group() {
    let Some(groups) = Groups::new("e") else { return };
    let group = groups.create("one", &small());
    let mut bomb = start_in(&group, "app", "f() { f | f & }; while :; do f; done 2>/dev/null");
    wait_for("the bomb has forked", || group.usage().pids > 8);
    group.remove(SOON).unwrap();
    bomb.wait().unwrap();
    assert!(group.is_empty().unwrap());
    assert!(group.folders.iter().all(|folder| !folder.path.exists()));
    group.remove(SOON).unwrap();
}

#[test]
fn without_cgroup_kill_a_fork_bomb_is_frozen_and_killed() {
    let Some(groups) = Groups::new("f") else { return };
    let path = PathBuf::from(format!("/sys/fs/cgroup/freezer/ace-{}-alone", groups.engine));
    let make = || fs::create_dir(&path).and_then(|()| fs::create_dir(path.join("app")));
    if let Err(error) = make() {
        return skip(&format!("no version 1 freezer: {error}"));
    }
    let bounded = groups.create("one", &small());
    let controllers = vec![Controller::Freezer];
    let freezer = Folder { path, version: Version::V1, controllers, stands_alone: false };
    let both = Cgroup { folders: [bounded.folders, vec![freezer.clone()]].concat() };
    let mut bomb = start_in(&both, "app", "f() { f | f & }; while :; do f; done 2>/dev/null");
    wait_for("the bomb has forked", || both.usage().pids > 8);
    let alone = Cgroup { folders: vec![freezer] };
    alone.remove(SOON).unwrap();
    bomb.wait().unwrap();
    wait_for("all have ended", || both.is_empty().unwrap());
}

/// By what every tree can: version 1's freezer ends nobody who is frozen.
#[test]
fn a_frozen_or_stopped_group_is_removed_all_the_same() {
    let Some(groups) = Groups::new("w") else { return };
    for frozen in ["", "init", "app"] {
        let group = groups.create("one", &small());
        let mut ends: Vec<Child> =
            ["init", "app"].map(|child| start_in(&group, child, "kill -STOP $$")).into();
        wait_for("both are stopped", || ends.iter().all(|child| state(child.id()) == Some('T')));
        let freezers = ["freezer.state", "cgroup.freeze"].map(|file| {
            let at = |folder: &Folder| {
                Some(folder.path.join(frozen).join(file)).filter(|it| it.exists())
            };
            group.folders.iter().find_map(at)
        });
        for (freezer, value) in freezers.iter().zip(["FROZEN", "1"]) {
            freezer.iter().for_each(|freezer| fs::write(freezer, value).unwrap());
        }
        group.remove(SOON).unwrap();
        assert!(ends.iter_mut().all(|child| child.wait().unwrap().signal() == Some(9)));
    }
}

#[test]
fn a_process_moves_itself_by_an_inherited_descriptor() {
    let Some(groups) = Groups::new("g") else { return };
    let group = groups.create("one", &small());
    for file in group.open_app_procs().unwrap() {
        let status = Command::new("sh").args(["-c", "echo 0"]).stdout(file).status().unwrap();
        assert!(status.success());
    }
}

#[test]
fn an_engines_groups_are_listed_and_leave_nothing() {
    let Some(groups) = Groups::new("h") else { return };
    let one = groups.create("one", &small());
    groups.create("two", &small());
    let mut app = start_in(&one, "app", "exec sleep 100");
    assert_eq!(groups.tree.list().unwrap(), ["one", "two"]);
    assert!(matches!(groups.tree.create("../x", &small()), Err(CgroupError::Name { .. })));
    groups.tree.remove_all().unwrap();
    app.wait().unwrap();
    assert_eq!(groups.tree.list().unwrap(), Vec::<String>::new());
    let own = |folder: &Path| {
        folder.file_name().is_some_and(|name| name.to_str().unwrap().starts_with("ace-"))
    };
    let engine = one.folders.iter().flat_map(|folder| folder.path.ancestors().filter(|it| own(it)));
    assert_eq!(engine.filter(|folder| folder.exists()).count(), 0);
    groups.tree.remove_all().unwrap();
}

#[test]
fn another_engine_finds_the_groups_of_one_that_died() {
    let Some(groups) = Groups::new("i") else { return };
    let group = groups.create("one", &small());
    let mut app = start_in(&group, "app", "exec sleep 100");
    wait_for("the app is in its group", || group.usage().pids == 1);
    let engine = groups.abandon();

    let groups = Groups::of(engine).unwrap();
    assert_eq!(groups.tree.list().unwrap(), ["one"]);
    assert_eq!(app.try_wait().unwrap(), None);
    groups.create("two", &small());
    assert_eq!(groups.tree.get("one").usage().pids, 1);
    groups.tree.remove_all().unwrap();
    assert_eq!(app.wait().unwrap().signal(), Some(9));
}

#[test]
fn systemds_reload_takes_no_limit_away() {
    if !Path::new("/run/systemd/system").exists() {
        return skip("systemd does not run this machine");
    }
    let Some(groups) = Groups::new("j") else { return };
    let group = groups.create("one", &small());
    let Some(folder) = group.folders.iter().find(|f| f.version == Version::V2) else { return };
    let read = || {
        let files = ["cpu.max", "memory.max", "memory.swap.max", "pids.max"];
        files.map(|file| fs::read_to_string(folder.path.join("app").join(file)).unwrap())
    };
    let before = read();
    for what in ["daemon-reload", "daemon-reexec"] {
        assert!(Command::new("systemctl").arg(what).status().unwrap().success());
        assert_eq!(read(), before, "{what}");
    }
}

// --- network and firewall ---

#[test]
fn both_ends_of_a_wire_have_a_bound_that_is_set_again() {
    if !is_root() {
        return;
    }
    let (engine, claim) = (engine("o"), Claim::new(59).unwrap());
    let (name, address) = (veth_name(&engine, "aaaaaaaa"), claim.address(100).unwrap());
    let inside = Namespace::connected(&name, address, claim.gateway());
    let bound = |name: &str| output("tc", &["qdisc", "show", "dev", name]);
    if !bound(&name).contains("tbf") {
        return skip("this kernel bounds no bandwidth");
    }
    let at_both = [bound(&name), inside.run(|| bound("eth0"))];
    assert!(at_both.iter().all(|shown| shown.contains("rate 80Mbit")), "{at_both:?}");
    let wire = wire(&name, address, claim.gateway());
    assert_eq!(mend_way_out(&wire).unwrap(), WayOut::Whole);
    output("tc", &["qdisc", "del", "dev", &name, "root"]);
    assert!(!bound(&name).contains("tbf"));
    assert_eq!(mend_way_out(&wire).unwrap(), WayOut::Mended);
    assert!(bound(&name).contains("rate 80Mbit"));
    // One that somebody has made wider is made as it was, too.
    let wider = ["rate", "1gbit", "burst", "1mb", "latency", "10ms"];
    output(
        "tc",
        &[&["qdisc", "replace", "dev", &name, "root", "handle", "1:", "tbf"][..], &wider].concat(),
    );
    assert_eq!(mend_way_out(&wire).unwrap(), WayOut::Mended);
    assert!(bound(&name).contains("rate 80Mbit"));
}

#[test]
fn what_passes_a_wire_is_counted_each_way() {
    if !is_root() {
        return;
    }
    let (engine, claim) = (engine("s"), Claim::new(58).unwrap());
    let (name, address) = (veth_name(&engine, "aaaaaaaa"), claim.address(100).unwrap());
    let inside = Namespace::connected(&name, address, claim.gateway());
    let mut holder = inside.run(|| Command::new("sleep").arg("100").spawn().unwrap());
    let init = ProcessRef::of(holder.id()).unwrap();
    let count = || wire_traffic(&name, init).unwrap();
    let Some(before) = count() else {
        holder.kill().unwrap();
        holder.wait().unwrap();
        return skip("this kernel bounds no bandwidth");
    };
    let send = |to: Ipv4Addr, datagrams: u32| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        // Those that find no place in the queue are dropped, which is fine.
        (0..datagrams).for_each(|_| _ = socket.send_to(&[0; 1400], (to, 9)));
    };
    inside.run(|| send(claim.gateway(), 50));
    wait_for("what was sent", || count().unwrap().sent_bytes - before.sent_bytes >= 50 * 1400);
    send(address, 2000);
    wait_for("what was received", || {
        count().unwrap().received_bytes - before.received_bytes >= 100 * 1400
    });
    assert!(count().unwrap().held_back > before.held_back, "{before:?} {:?}", count());
    let earlier = ProcessRef { start_time: init.start_time - 1, ..init };
    assert!(wire_traffic(&name, earlier).is_err());
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn a_veth_pair_connects_and_dies_with_its_namespace() {
    if !is_root() {
        return;
    }
    let engine = engine("l");
    let claim = Claim::new(62).unwrap();
    let (name, address) = (veth_name(&engine, "aaaaaaaa"), claim.address(100).unwrap());
    let inside = Namespace::connected(&name, address, claim.gateway());
    let shown = inside.run(|| (output("ip", &["-4", "addr"]), output("ip", &["route"])));
    assert!(shown.0.contains(&format!("inet {address}/32")), "{}", shown.0);
    let default = format!("default via {} dev eth0", claim.gateway());
    assert!(shown.1.contains(&default), "{}", shown.1);
    let routes = output("ip", &["route"]);
    assert!(routes.contains(&format!("{address} dev {name}")), "{routes}");
    assert!(!output("ip", &["-6", "addr", "show", "dev", &name]).contains("inet6"));
    assert_eq!(mtu_of_way_out(), fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok());

    // A container that starts again has the same name before its old network is gone.
    let again = Namespace::connected(&name, address, claim.gateway());
    drop(inside);
    assert!(Path::new("/sys/class/net").join(&name).exists());
    drop(again);
    wait_for("the pair is gone", || !Path::new("/sys/class/net").join(&name).exists());
}

#[test]
fn leftover_pairs_of_one_engine_are_removed() {
    if !is_root() {
        return;
    }
    let (engine, other) = (engine("m"), engine("n"));
    let claim = Claim::new(61).unwrap();
    let names = [veth_name(&engine, "aaaaaaaa"), veth_name(&other, "aaaaaaaa")];
    let held: Vec<Namespace> = (0..2)
        .map(|n| {
            Namespace::connected(
                &names[n as usize],
                claim.address(100 + n).unwrap(),
                claim.gateway(),
            )
        })
        .collect();
    assert_eq!(remove_leftover_veths(&engine).unwrap(), [names[0].clone()]);
    assert!(Path::new("/sys/class/net").join(&names[1]).exists());
    drop(held);
}

#[test]
fn the_firewall_lets_out_to_the_world_and_nowhere_else() {
    if !is_root() {
        return;
    }
    let Some(lab) = Lab::new("o") else { return };
    let (a, b, world) = (&lab.containers[0], &lab.containers[1], &lab.world);
    let reaches = |from: &Namespace, to: (Ipv4Addr, u16)| {
        from.run(|| TcpStream::connect_timeout(&SocketAddr::from(to), NEVER).is_ok())
    };
    let out = world.run(|| TcpListener::bind("0.0.0.0:8000").unwrap());
    assert!(reaches(a, (lab.world_address, 8000)));
    let (_, seen) = out.accept().unwrap();
    assert_eq!(seen.ip(), lab.host_address, "the world sees the host");

    let _inside: Vec<TcpListener> =
        [a, b].map(|n| n.run(|| TcpListener::bind("0.0.0.0:8000").unwrap())).into();
    assert!(reaches(b, (lab.address(1), 8000)), "its own");
    assert!(!reaches(a, (lab.address(1), 8000)), "another container");
    assert!(!reaches(world, (lab.address(0), 8000)), "from the world");

    let gateway = lab.claim.gateway();
    let host = TcpListener::bind((gateway, 0)).unwrap();
    let port = host.local_addr().unwrap().port();
    assert!(!reaches(a, (gateway, port)), "the host by its gateway");
    let elsewhere = TcpListener::bind((lab.host_address, 0)).unwrap();
    assert!(!reaches(a, (lab.host_address, elsewhere.local_addr().unwrap().port())), "the host");
    let _names = TcpListener::bind((gateway, 53)).unwrap();
    assert!(reaches(a, (gateway, 53)), "the name server");
    assert!(reaches_itself(gateway, port), "the host's own programs");
}

#[test]
fn a_forged_source_goes_nowhere() {
    if !is_root() {
        return;
    }
    let Some(lab) = Lab::new("p") else { return };
    let out = lab.world.run(|| UdpSocket::bind("0.0.0.0:9000").unwrap());
    out.set_read_timeout(Some(NEVER)).unwrap();
    let arrives = |source: Ipv4Addr| {
        lab.containers[0].run(|| {
            let socket = UdpSocket::bind((source, 0)).unwrap();
            socket.send_to(b"hello", (lab.world_address, 9000)).unwrap();
        });
        out.recv(&mut [0; 16]).is_ok()
    };
    assert!(arrives(lab.address(0)));
    for forged in [lab.address(1), Ipv4Addr::new(203, 0, 113, 9)] {
        let own = format!("{forged}/32");
        lab.containers[0].run(|| output("ip", &["addr", "add", &own, "dev", "lo"]));
        assert!(!arrives(forged), "{forged}");
    }
}

#[test]
fn one_container_cant_take_all_connections_of_the_host() {
    const MOST: usize = 4096;
    if !is_root() {
        return;
    }
    let Some(lab) = Lab::new("r") else { return };
    let out = lab.world.run(|| UdpSocket::bind("0.0.0.0:9000").unwrap());
    out.set_read_timeout(Some(NEVER)).unwrap();
    let arrives = || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(b"hello", (lab.world_address, 9000)).unwrap();
        out.recv(&mut [0; 16]).is_ok()
    };
    // Each comes from a port of its own, and so counts as a connection; ports come again at times.
    let passed = lab.containers[0].run(|| (0..2 * MOST).take_while(|_| arrives()).count());
    assert!((MOST..2 * MOST).contains(&passed), "{passed}");
    assert!(lab.containers[1].run(arrives), "the other container");

    // Queries for names go to the host, and count as much.
    let server = UdpSocket::bind((lab.claim.gateway(), 53)).unwrap();
    server.set_read_timeout(Some(NEVER)).unwrap();
    let is_asked = || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(b"hello", (lab.claim.gateway(), 53)).unwrap();
        server.recv(&mut [0; 16]).is_ok()
    };
    assert!(lab.containers[1].run(is_asked), "the other container");
    assert!(!lab.containers[0].run(is_asked), "beyond its connections");
}

#[test]
fn the_firewall_is_set_twice_and_removed_twice() {
    if !is_root() || !has("nft") {
        return;
    }
    let (engine, claim) = (engine("q"), Claim::new(60).unwrap());
    for dns in [vec![], vec![claim.gateway()]] {
        firewall::ensure(&engine, claim.subnet(), &dns).unwrap();
    }
    let table = format!("ace_{engine}");
    let listed = output("nft", &["list", "table", "inet", &table]);
    let resolver = format!("ip daddr {}", claim.gateway());
    let to_resolver = |line: &&str| line.contains(&resolver) && line.contains("dport 53");
    assert_eq!(listed.lines().filter(to_resolver).count(), 2, "{listed}");
    assert_eq!(listed.matches("masquerade").count(), 1, "{listed}");
    let listing = firewall::listing(&engine).unwrap();
    assert!(listing.is_some());
    firewall::remove(&engine).unwrap();
    firewall::remove(&engine).unwrap();
    assert_eq!(firewall::listing(&engine).unwrap(), None);
    assert!(!output("nft", &["list", "tables"]).contains(&table));
}

// --- volumes ---

#[test]
fn an_image_has_one_device_which_goes_by_itself() {
    let Some(disk) = Disk::new() else { return };
    let (first, second) =
        (volume::attach(&disk.image).unwrap(), volume::attach(&disk.image).unwrap());
    assert_eq!(first.device, second.device);
    let shown = Path::new("/sys/block").join(first.device.file_name().unwrap()).join("loop");
    assert_eq!(fs::read_to_string(shown.join("autoclear")).unwrap().trim(), "1");
    drop(first);
    assert!(shown.exists());
    drop(second);
    wait_for("the device is free", || !shown.exists());
}

#[test]
fn a_mount_keeps_the_device_and_its_root_is_the_tenants() {
    let Some(disk) = Disk::new() else { return };
    let attached = volume::attach(&disk.image).unwrap();
    let device = attached.device.clone();
    let target = disk.folder.path().join("target");
    fs::create_dir(&target).unwrap();
    let mut holder = Command::new("unshare")
        .args(["-m", "sh", "-c", "mount -t ext4 $0 $1 && stat -c %u $1 && read end"])
        .args([&device, &target])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut owner = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut owner).unwrap();
    assert_eq!(owner.trim(), Disk::owner().host_id(IdRange::APP).to_string());
    drop(attached);
    assert_eq!(volume::attach(&disk.image).unwrap().device, device);
    // A larger size is for later: the image is in use.
    volume::ensure_image(&disk.image, Disk::SIZE, Disk::owner()).unwrap();
    volume::ensure_image(&disk.image, Bytes::mib(64), Disk::owner()).unwrap();
    assert_eq!(disk.image.metadata().unwrap().len(), Disk::SIZE.0);
    drop(holder.stdin.take());
    holder.wait().unwrap();
    let shown = Path::new("/sys/block").join(device.file_name().unwrap()).join("loop");
    wait_for("the device is free", || !shown.exists());
    volume::ensure_image(&disk.image, Bytes::mib(64), Disk::owner()).unwrap();
    assert_eq!(disk.image.metadata().unwrap().len(), Bytes::mib(64).0);
}

#[test]
fn attaching_from_many_threads_makes_one_device() {
    let Some(disk) = Disk::new() else { return };
    let attach = || volume::attach(&disk.image).unwrap();
    let all: Vec<volume::Attached> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(attach)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(all.iter().all(|one| one.device == all[0].device), "{all:?}");
}

/// A shell that has `disk` mounted in a namespace of its own and numbers lines in a file there, each
/// safe on disk before the next, until this is dropped.
struct Numbering(Child);

impl Drop for Numbering {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn numbering(disk: &Disk) -> Numbering {
    let attached = volume::attach(&disk.image).unwrap();
    let target = disk.folder.path().join("target");
    fs::create_dir(&target).unwrap();
    let script = "mount -t ext4 $0 $1 && cd $1 && echo mounted && n=0
        while :; do n=$((n+1)); echo $n >> lines; sync lines; done";
    let mut shell = Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .args([&attached.device, &target])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "mounted\n");
    Numbering(shell)
}

impl Numbering {
    /// Where it has the volume, as seen from outside.
    fn target(&self, disk: &Disk) -> String {
        format!("/proc/{}/root{}", self.0.id(), disk.folder.path().join("target").display())
    }

    /// How many lines it has written.
    fn lines(&self, disk: &Disk) -> usize {
        let lines = fs::read_to_string(format!("{}/lines", self.target(disk)));
        lines.unwrap_or_default().lines().count()
    }
}

#[test]
fn a_volume_that_is_written_to_is_copied_as_of_one_moment() {
    let Some(disk) = Disk::new().filter(|_| has("debugfs")) else { return };
    let shell = numbering(&disk);
    for round in 0..3 {
        let copy = disk.folder.path().join(format!("copy{round}"));
        volume::copy_image(&disk.image, &copy).unwrap();
        let checked = Command::new("e2fsck").args(["-fn"]).arg(&copy).output().unwrap();
        assert!(checked.status.success(), "{checked:?}");
        // Written to again, or this would wait for ever.
        let copied = output("debugfs", &["-R", "cat lines", copy.to_str().unwrap()]);
        wait_for("a further line", || shell.lines(&disk) > copied.lines().count() + 1);
    }
}

#[test]
fn what_a_killed_copy_froze_is_thawed() {
    let Some(disk) = Disk::new().filter(|_| has("debugfs")) else { return };
    assert!(!volume::thaw_image(&disk.image).unwrap(), "nobody has it mounted");
    let shell = numbering(&disk);
    assert!(!volume::thaw_image(&disk.image).unwrap(), "it is not frozen");
    let mount = shell.target(&disk);
    assert!(Command::new("fsfreeze").args(["-f", &mount]).status().unwrap().success());
    assert!(volume::thaw_image(&disk.image).unwrap());
    let before = shell.lines(&disk);
    wait_for("further lines", || shell.lines(&disk) > before + 1);
}

// --- survey ---

#[test]
fn a_survey_finds_this_machine_fit_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let findings = survey(scratch.path(), volume::Store::Image);
    let failed: Vec<_> = findings.iter().filter(|finding| finding.grade == Grade::Fail).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    for name in ["cpu", "memory", "pids", "network", "firewall", "writable code", "volumes"] {
        assert!(findings.iter().any(|finding| finding.name == name), "{name}: {findings:#?}");
    }
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    assert!(!output("nft", &["list", "tables"]).contains("ace_0000"));
    let id: EngineId = "0000".parse().unwrap();
    assert_eq!(CgroupTree::find(&id).unwrap().list().unwrap(), Vec::<String>::new());
}

// --- what the tests are made of ---

/// The group that throttles, and a file of it that tells by how much.
fn throttle_of(group: &Cgroup) -> Option<(Folder, PathBuf)> {
    let throttles = |folder: &&Folder| folder.controllers.contains(&Controller::Io);
    let Some(folder) = group.folders.iter().find(throttles).cloned() else {
        skip("this machine throttles no disk");
        return None;
    };
    let name = match folder.version {
        Version::V1 => "blkio.throttle.write_bps_device",
        Version::V2 => "io.max",
    };
    let file = folder.path.join("app").join(name);
    Some((folder, file))
}

/// Lines with one blank between their words.
fn lines_of(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// The groups of one engine, removed at the end.
struct Groups {
    engine: EngineId,
    tree: CgroupTree,
    keep: bool,
}

impl Groups {
    fn new(test: &str) -> Option<Self> {
        if is_root() { Self::of(engine(test)) } else { None }
    }

    fn of(engine: EngineId) -> Option<Self> {
        match CgroupTree::find(&engine) {
            Ok(tree) => Some(Self { engine, tree, keep: false }),
            Err(error) => {
                skip(&error.to_string());
                None
            }
        }
    }

    fn create(&self, name: &str, limits: &Limits) -> Cgroup {
        self.tree.create(name, limits).unwrap_or_else(|error| panic!("{error}: {error:?}"))
    }

    /// The end of an engine that does not clear up.
    fn abandon(mut self) -> EngineId {
        self.keep = true;
        self.engine.clone()
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        if !self.keep {
            self.tree.remove_all().unwrap();
        }
    }
}

fn wire(host_interface: &str, address: Ipv4Addr, gateway: Ipv4Addr) -> Wire {
    let host_interface = host_interface.to_owned();
    Wire { host_interface, address, gateway, bandwidth: BitRate::mega(80) }
}

/// A network namespace, for as long as this value lives.
struct Namespace(File);

impl Namespace {
    /// A new one, connected with the one of the caller.
    fn connected(host_interface: &str, address: Ipv4Addr, gateway: Ipv4Addr) -> Self {
        let host = HostNetlink::open().unwrap();
        let wire = wire(host_interface, address, gateway);
        let connect = move || {
            // SAFETY: a network namespace is no descriptor that another thread could hold.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            connect_veth(&host, &wire).unwrap_or_else(|error| panic!("{error}: {error:?}"));
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        let connected = std::thread::scope(|scope| Self(scope.spawn(connect).join().unwrap()));
        connected.wait_until_up(host_interface);
        connected
    }

    /// The kernel puts links into service at most once a second, and drops what is sent before.
    fn wait_until_up(&self, host_interface: &str) {
        let is_up = |name: &str| output("ip", &["-br", "link", "show", name]).contains(" UP ");
        wait_for("the link outside", || is_up(host_interface));
        wait_for("the link inside", || self.run(|| is_up("eth0")));
    }

    /// Runs `inside` in it, on a thread of its own.
    fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            inside()
        };
        std::thread::scope(|scope| scope.spawn(enter).join().unwrap())
    }
}

/// An engine's claim and firewall, given back at the end.
struct Fenced {
    engine: EngineId,
    claim: Claim,
    _data: tempfile::TempDir,
}

impl Fenced {
    fn new(engine: EngineId) -> Self {
        let data = tempfile::tempdir().unwrap();
        let claim = claims::claim(&engine, data.path(), None).unwrap();
        let fenced = Self { engine, claim, _data: data };
        firewall::ensure(&fenced.engine, claim.subnet(), &[claim.gateway()]).unwrap();
        fenced
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        firewall::remove(&self.engine).unwrap();
        claims::release(&self.engine).unwrap();
    }
}

/// Two containers' networks and one that stands for the world, around a host with a firewall.
struct Lab {
    claim: Claim,
    _fenced: Fenced,
    containers: Vec<Namespace>,
    world: Namespace,
    world_address: Ipv4Addr,
    /// The host's address towards the world.
    host_address: Ipv4Addr,
}

impl Lab {
    fn new(test: &str) -> Option<Self> {
        if !has("nft") {
            return None;
        }
        let engine = engine(test);
        let fenced = Fenced::new(engine.clone());
        let claim = fenced.claim;
        let container = |n: u32| {
            let name = veth_name(&engine, &format!("aaaaaaa{n}"));
            Namespace::connected(&name, claim.address(n).unwrap(), claim.gateway())
        };
        let containers = vec![container(0), container(1)];
        let outside = |n| Ipv4Addr::new(198, 51, 100, 4 * claim.slot() + n);
        let (host_address, world_address) = (outside(1), outside(2));
        let world = Namespace::connected(&format!("w{engine}"), world_address, host_address);
        Some(Self { claim, _fenced: fenced, containers, world, world_address, host_address })
    }

    fn address(&self, n: u32) -> Ipv4Addr {
        self.claim.address(n).unwrap()
    }
}

/// A folder with one small volume's image.
struct Disk {
    folder: tempfile::TempDir,
    image: PathBuf,
}

impl Disk {
    const SIZE: Bytes = Bytes::mib(32);

    fn new() -> Option<Self> {
        if !is_root() || !has("mkfs.ext4") {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("shop.img");
        volume::ensure_image(&image, Self::SIZE, Self::owner()).unwrap();
        Some(Self { folder, image })
    }

    fn owner() -> IdRange {
        IdRange::new(5).unwrap()
    }
}

fn small() -> Limits {
    Limits {
        cpu_millicores: 500,
        memory: Bytes::mib(64),
        pids: 16,
        io: Bytes::mib(5),
        iops: 500,
        ..Limits::for_app()
    }
}

/// An engine's id that no test, run at the same time, has.
fn engine(test: &str) -> EngineId {
    format!("{test}{:03}", std::process::id() % 1000).parse().unwrap()
}

/// Starts `script` in the group's child `app` or `init`.
fn start_in(group: &Cgroup, child: &str, script: &str) -> Child {
    let files = group.folders.iter().map(|f| f.path.join(child).join("cgroup.procs"));
    let enter = "n=$#; while [ $n -gt 0 ]; do echo $$ > \"$1\" || exit 99; shift; n=$((n-1)); done";
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("{enter}\n{script}")).arg("sh").args(files);
    shell.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// The letter of its state; see proc(5).
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < until, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Whether a program of the host's reaches another by `address`.
fn reaches_itself(address: Ipv4Addr, port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::from((address, port)), SOON).is_ok()
}

fn mtu_of_way_out() -> Option<String> {
    let route = output("ip", &["route", "get", "1.1.1.1"]);
    let interface = route.split_whitespace().skip_while(|word| *word != "dev").nth(1)?;
    fs::read_to_string(format!("/sys/class/net/{interface}/mtu")).ok()
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("not root");
    }
    root
}

/// Whether the host has `program`, which a test needs.
fn has(program: &str) -> bool {
    let found = ["/usr/sbin", "/usr/bin"].iter().any(|at| Path::new(at).join(program).exists());
    if !found {
        skip(&format!("{program} is not on this machine"));
    }
    found
}

fn skip(why: &str) {
    eprintln!("skipped: {why}");
}
