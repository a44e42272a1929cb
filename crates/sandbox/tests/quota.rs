//! Volumes that are folders, bounded by the quota of their file system.
//!
//! They are tried where temporary files are, if that file system has a quota in force (an ext4 or XFS with prjquota,
//! a Btrfs with quotas on), or else on a Btrfs of the test's own.

#![allow(clippy::unwrap_used)] // All of it is for tests.

mod kit;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ace_sandbox::spec::{VolumeMount, VolumeSource};
use ace_sandbox::volume::folder::{
    Means, ensure_folder, is_full_unseen, means_at, remove_folder, space_of_folder,
};
use ace_sandbox::volume::scratch::keep_mounts_apart;
use ace_sandbox::volume::{self, Store, Volume, VolumeError};
use ace_types::{Bytes, IdRange};
use kit::{Kit, python};
use rustix::mount::{MountFlags, mount};

const SIZE: Bytes = Bytes::mib(32);

#[test]
fn a_folder_takes_what_it_may_and_no_more() {
    let Some(disk) = Disk::new(0) else { return };
    let folder = disk.at("shop");
    assert!(ensure_folder(&folder, SIZE, disk.owner).unwrap());
    assert!(!ensure_folder(&folder, SIZE, disk.owner).unwrap());
    assert_eq!(folder.metadata().unwrap().uid(), disk.owner.host_id(IdRange::APP));

    let written = disk.fill(&folder.join("first"));
    assert!((SIZE.0 / 4 * 3..=SIZE.0).contains(&written), "{written} bytes");
    rustix::fs::sync();
    let space = space_of_folder(&folder).unwrap();
    assert!(space.size_bytes == SIZE.0 && space.used_bytes >= written, "{space:?}");
    let free = rustix::fs::statvfs(&folder).unwrap().f_bavail;
    assert!(is_full_unseen(&folder) || free == 0, "{space:?}, {free} blocks free");

    let larger = Bytes(SIZE.0 + (16 << 20));
    assert!(ensure_folder(&folder, larger, disk.owner).unwrap());
    assert!(disk.fill(&folder.join("second")) >= 8 << 20);
    let refused = ensure_folder(&folder, SIZE, disk.owner);
    assert!(matches!(refused, Err(VolumeError::Shrink { .. })), "{refused:?}");
}

#[test]
fn a_folder_takes_as_many_files_as_its_size_gives() {
    let Some(disk) = Disk::new(1) else { return };
    let folder = disk.at("shop");
    ensure_folder(&folder, SIZE, disk.owner).unwrap();
    let script =
        "i=0; while { true; } > f$i; do i=$((i+1)); [ $i -lt 9000 ] || break; done; echo $i";
    let made: u64 = disk.as_owner(script, &folder).trim().parse().unwrap();
    match disk.means {
        // Its own folder is one.
        Means::Project => assert_eq!(made, ace_types::limits::inodes_for(SIZE) - 1),
        Means::Subvolume => assert!(space_of_folder(&folder).unwrap().size_bytes == SIZE.0),
    }
}

#[test]
fn what_is_removed_leaves_no_bound_behind() {
    let Some(disk) = Disk::new(2) else { return };
    let folder = disk.at("shop");
    ensure_folder(&folder, Bytes(SIZE.0 * 2), disk.owner).unwrap();
    disk.as_owner("mkdir -p a/b && echo x > a/b/c", &folder);
    volume::remove(&disk.at("shop.img")).unwrap();
    assert!(!folder.exists());
    remove_folder(&folder).unwrap();
    // The next volume of these ids may be smaller.
    ensure_folder(&folder, SIZE, disk.owner).unwrap();
    let space = space_of_folder(&folder).unwrap();
    assert!(space.size_bytes == SIZE.0 && space.used_bytes < 1 << 20, "{space:?}");
}

#[test]
fn a_new_volume_is_what_was_chosen_and_an_old_one_what_it_was() {
    let Some(disk) = Disk::new(3) else { return };
    let (old, new) = (disk.at("old.img"), disk.at("new.img"));
    let kind = |image: &Path, store| volume::ensure(image, SIZE, disk.owner, store).unwrap();
    assert!(matches!(kind(&old, Store::Image), Volume::Image(_)));
    assert!(matches!(kind(&old, Store::Quota), Volume::Image(_)));
    assert!(matches!(kind(&new, Store::Quota), Volume::Folder(_)));
    assert!(matches!(kind(&new, Store::Image), Volume::Folder(_)));
}

#[test]
fn a_copy_is_an_image_that_can_be_used() {
    let Some(disk) = Disk::new(4) else { return };
    let (image, copy) = (disk.at("shop.img"), disk.at("copy.img"));
    volume::ensure(&image, SIZE, disk.owner, Store::Quota).unwrap();
    disk.as_owner("mkdir sub && echo kept > sub/file && chmod 640 sub/file", &disk.at("shop"));
    volume::copy(&image, &copy).unwrap();
    // As a restored engine does, with the size that it knows.
    let restored = volume::ensure(&copy, SIZE, disk.owner, Store::Quota).unwrap();
    let VolumeSource::Device(device) = restored.source() else { panic!("it is no image") };
    let target = disk.at("target");
    fs::create_dir(&target).unwrap();
    mount(&device, &target, "ext4", MountFlags::empty(), None).unwrap();
    assert_eq!(fs::read_to_string(target.join("sub/file")).unwrap(), "kept\n");
    let file = target.join("sub/file").metadata().unwrap();
    assert_eq!((file.uid(), file.mode() & 0o777), (disk.owner.host_id(IdRange::APP), 0o640));
    assert!(!disk.at("shop.snapshot").exists());
}

#[test]
fn nobody_in_a_container_gets_past_the_quota() {
    let Some(kit) = Kit::new() else { return };
    let Some(disk) = Disk::new(5) else { return };
    let folder = disk.at("shop");
    ensure_folder(&folder, SIZE, kit.ids()).unwrap();
    let mut spec = kit.spec(python(
        "import errno, fcntl, os, struct\n\
         def refused(call):\n\
         \x20   try: call()\n\
         \x20   except OSError as e: return errno.errorcode[e.errno]\n\
         d = os.open('/ace/data', os.O_RDONLY)\n\
         def attributes(): return bytearray(fcntl.ioctl(d, 0x801C581F, bytes(28)))\n\
         def change(at, value):\n\
         \x20   new = attributes(); struct.pack_into('I', new, at, value)\n\
         \x20   fcntl.ioctl(d, 0x401C5820, bytes(new))\n\
         print('project', refused(lambda: change(12, 0)), refused(lambda: change(0, 0)))\n\
         arguments = lambda fd, name: bytearray(struct.pack('q', fd) + name.ljust(4088, b'\\0'))\n\
         print('subvolume', refused(lambda: fcntl.ioctl(d, 0x5000940E, arguments(0, b'new'))))\n\
         print('snapshot', refused(lambda: fcntl.ioctl(d, 0x50009401, arguments(d, b'new'))))\n\
         def fill():\n\
         \x20   with open('/ace/data/large', 'wb', buffering=0) as f:\n\
         \x20       for _ in range(64): f.write(bytes(1 << 20)); os.fsync(f)\n\
         print('full', refused(fill))",
    ));
    let source = VolumeSource::Folder(folder.clone());
    spec.root.volume = Some(VolumeMount { source, target: "/ace/data".into() });
    let ended = kit.run_spec(&spec);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{}{}", ended.stdout, ended.stderr);
    assert_eq!((lines[1], lines[2]), ("subvolume EPERM", "snapshot EPERM"));
    assert!(lines[3] == "full EDQUOT" || lines[3] == "full ENOSPC", "{}", lines[3]);
    match disk.means {
        Means::Project => {
            assert_eq!(lines[0], "project EINVAL EINVAL");
            assert_eq!(ended.record.found.full, [PathBuf::from("/ace/data")]);
        }
        Means::Subvolume => {
            rustix::fs::sync();
            assert!(is_full_unseen(&folder), "{:?}", space_of_folder(&folder));
        }
    }
}

#[test]
fn a_disk_without_a_quota_is_refused_with_the_way_out() {
    let refused = means_at(Path::new("/proc")).unwrap_err();
    assert!(refused.remedy().unwrap().contains("ext4, XFS or Btrfs"));
    let folder = Path::new("/proc/shop");
    let refused = ensure_folder(folder, SIZE, IdRange::new(0).unwrap());
    assert!(matches!(refused, Err(VolumeError::NoQuota { .. })), "{refused:?}");
}

/// A folder on a file system with a quota. What was made in it goes with it, its own mounts with this thread.
struct Disk {
    root: PathBuf,
    means: Means,
    owner: IdRange,
    _folder: tempfile::TempDir,
}

impl Disk {
    /// Where it can be had; a word about it where not. Volumes are of the ids number `number` from the end.
    fn new(number: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can set quotas");
            return None;
        }
        keep_mounts_apart().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let root = match means_at(folder.path()) {
            Ok(_) => folder.path().to_owned(),
            Err(_) => btrfs(folder.path())?,
        };
        let means = means_at(&root).unwrap();
        let owner = IdRange::new(IdRange::RANGES - 1 - number).unwrap();
        Some(Self { root, means, owner, _folder: folder })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// What `script` prints, run by the tenant's user in `folder`.
    fn as_owner(&self, script: &str, folder: &Path) -> String {
        // What it may reach by name is root's alone.
        let id = self.owner.host_id(IdRange::APP).to_string();
        let output = Command::new("setpriv")
            .args(["--reuid", &id, "--regid", &id, "--clear-groups", "sh", "-c"])
            .args([script])
            .current_dir(folder)
            .stderr(Stdio::null())
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }

    /// How many bytes the tenant's user can write to `file`.
    fn fill(&self, file: &Path) -> u64 {
        let name = file.file_name().unwrap().to_str().unwrap();
        let script = format!("dd if=/dev/zero of={name} bs=1M count=64 oflag=dsync");
        self.as_owner(&script, file.parent().unwrap());
        file.metadata().unwrap().len()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for entry in fs::read_dir(&self.root).unwrap().flatten() {
            if entry.path().is_dir() && entry.file_name() != "target" {
                remove_folder(&entry.path()).unwrap();
            }
        }
        let _ = rustix::mount::unmount(self.at("target"), rustix::mount::UnmountFlags::DETACH);
        let _ = rustix::mount::unmount(&self.root, rustix::mount::UnmountFlags::DETACH);
    }
}

/// A Btrfs with quotas on, mounted in `folder` for this thread and what it starts.
fn btrfs(folder: &Path) -> Option<PathBuf> {
    let (image, root) = (folder.join("disk.img"), folder.join("disk"));
    let run = |program: &str, arguments: &[&Path]| {
        let ran = Command::new(program).args(arguments).stdout(Stdio::null()).status();
        ran.is_ok_and(|status| status.success())
    };
    fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
    fs::create_dir(&root).unwrap();
    if !run("mkfs.btrfs", &[Path::new("-q"), &image]) {
        eprintln!(
            "skipped: no quota at {}, and no Btrfs can be made; install btrfs-progs",
            folder.display()
        );
        return None;
    }
    let attached = volume::attach(&image).unwrap();
    if let Err(error) = mount(&attached.device, &root, "btrfs", MountFlags::empty(), None) {
        eprintln!("skipped: this kernel mounts no Btrfs: {error}");
        return None;
    }
    assert!(run("btrfs", &["quota".as_ref(), "enable".as_ref(), &root]));
    Some(root)
}
