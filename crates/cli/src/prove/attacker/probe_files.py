"""Files: what there is of the host, of the engine and of other tenants, and what can be written."""

import os
import shutil
import stat
import sys

from kit import absent, call, probe, refusals, Skipped

DEVICES = {
    "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout",
    "tty", "urandom", "zero",
}
WRITABLE = ("/tmp", "/dev/shm", "/dev/pts", "/ace", "/proc")


def mounts():
    """(target, options of the mount) of each mount."""
    with open("/proc/self/mountinfo") as file:
        for line in file:
            words = line.split()
            yield words[4], words[5].split(",")


def create(path):
    with open(path, "w"):
        pass
    os.unlink(path)


def below(folders, name):
    return {folder: lambda folder=folder: create(os.path.join(folder, name)) for folder in folders}


@probe("files: write to the system's folders", "refused", in_build=True)
def system_folders(facts):
    folders = ["/", "/usr", "/usr/bin", "/usr/lib", "/etc", "/etc/ssl/certs", "/dev", "/proc", "/ace"]
    return refusals(below([it for it in folders if os.path.isdir(it)], facts["nonce"]))


@probe("files: change the system's programs", "refused", in_build=True)
def system_programs(facts):
    def change(path):
        os.close(os.open(path, os.O_WRONLY))

    found = [it for it in ("/bin/sh", "/usr/bin/env", os.path.realpath(sys.executable)) if os.path.exists(it)]
    return refusals({path: lambda path=path: change(path) for path in found})


@probe("files: write to the environment and the app server", "refused")
def environment(facts):
    folders = ["/ace/user/virtualenv", "/ace/user/virtualenv/bin", "/ace/server", "/ace/log"]
    return refusals(below([it for it in folders if os.path.isdir(it)], facts["nonce"]))


@probe("files: read the host's passwords and keys", "not there", in_build=True)
def passwords(facts):
    return absent(["/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/ssl/private", "/etc/ssh", "/root/.ssh"])


@probe("files: list the host's folders", "not there", in_build=True)
def host_folders(facts):
    return absent(["/boot", "/home", "/media", "/mnt", "/opt", "/root/.cache", "/srv", "/var/lib", "/var/log", "/run/ace"])


@probe("files: read a file that lies on the host for this", "not there", in_build=True)
def canary(facts):
    path = facts["canary"]
    around = ["", "/proc/1/root", "/proc/self/root/..", "/proc/self/cwd/../../../..", "/.."]
    return absent([start + path for start in around])


@probe("files: reach the engine's socket and data", "not there", in_build=True)
def engine_data(facts):
    data = facts["data"]
    names = ["", "/ace.sock", "/ace.db", "/engine.json", "/releases", "/volumes", "/run", "/caches"]
    return absent([data + name for name in names])


@probe("files: leave the root by chroot", "refused", in_build=True)
def chroot(facts):
    os.makedirs("/tmp/jail", exist_ok=True)
    return refusals({"chroot": lambda: call("chroot", b"/tmp/jail")})


@probe("files: open by handle, past all folders", "refused", in_build=True)
def handles(facts):
    handle = b"\x08\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0"
    return refusals({
        "open_by_handle_at": lambda: call("open_by_handle_at", os.open("/tmp", 0), handle, 0),
        "name_to_handle_at": lambda: call("name_to_handle_at", -100, b"/tmp", bytes(136), bytes(8), 0),
    })


@probe("files: gain rights by a set-user-id program", "no mount allows it", in_build=True)
def set_user_id(facts):
    allowed = [target for target, options in mounts() if "nosuid" not in options]
    return not allowed, "allowed by " + ", ".join(allowed) if allowed else "nosuid on every mount"


@probe("files: run the host's own set-user-id programs", "as the same user")
def run_set_user_id(facts):
    found = []
    for folder in ("/usr/bin", "/usr/sbin"):
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
                found.append(path)
    if not found:
        raise Skipped("the host has none")
    # Its word on who it runs as would need its cooperation; the kernel says it of whoever holds it open.
    blocked = [path for path in found if os.statvfs(path).f_flag & os.ST_NOSUID]
    return blocked == found, "%d of %d have no effect here" % (len(blocked), len(found))


@probe("files: use device files", "no mount allows it but those of single devices", in_build=True)
def device_mounts(facts):
    allowed = [it for it, options in mounts() if "nodev" not in options and not is_harmless_device(it)]
    return not allowed, "allowed by " + ", ".join(allowed) if allowed else "nodev on every other mount"


def is_harmless_device(path):
    """A terminal, or null and its like: what is masked in /proc is null, too."""
    found = os.stat(path)
    return path == "/dev/pts" or (stat.S_ISCHR(found.st_mode) and os.major(found.st_rdev) in (1, 5))


@probe("files: make device files", "refused", in_build=True)
def make_devices(facts):
    places = [it for it in ("/tmp", "/dev/shm", "/ace/data", "/ace/code") if os.path.isdir(it)]

    def make(folder, kind, number):
        os.mknod("%s/device-%s-%d" % (folder, facts["nonce"], kind), 0o600 | kind, number)

    attempts = {}
    for folder in places:
        attempts[folder + " memory"] = lambda it=folder: make(it, stat.S_IFCHR, os.makedev(1, 1))
        attempts[folder + " disk"] = lambda it=folder: make(it, stat.S_IFBLK, os.makedev(8, 0))
    return refusals(attempts)


@probe("files: find devices beyond the small /dev", "none", in_build=True)
def small_dev(facts):
    further = sorted(set(os.listdir("/dev")) - DEVICES)
    return not further, "also there: " + ", ".join(further) if further else "none of %d" % len(os.listdir("/dev"))


@probe("files: open disks, memory and the kernel's devices", "not there", in_build=True)
def host_devices(facts):
    names = ["mem", "kmem", "port", "kmsg", "sda", "vda", "nvme0n1", "loop0", "loop-control", "fuse", "kvm",
             "net/tun", "mapper/control", "vhost-net", "vsock", "uinput", "console", "tty0", "userfaultfd"]
    return refusals({name: lambda it=name: os.close(os.open("/dev/" + it, os.O_RDWR)) for name in names})


@probe("files: give a program capabilities", "refused", in_build=True)
def file_capabilities(facts):
    value = b"\x01\0\0\x02" + b"\xff" * 16
    attempts = {}
    for folder in ("/tmp", "/ace/data", "/ace/code"):
        if os.path.isdir(folder):
            path = os.path.join(folder, facts["nonce"])
            shutil.copy("/bin/true" if os.path.exists("/bin/true") else "/usr/bin/true", path)
            attempts[folder] = lambda it=path: os.setxattr(it, "security.capability", value)
    return refusals(attempts)


@probe("files: give a file to root", "refused", in_build=True)
def give_away(facts):
    path = "/tmp/" + facts["nonce"]
    create_kept(path)
    return refusals({"user": lambda: os.chown(path, 0, -1), "group": lambda: os.chown(path, -1, 0)})


def create_kept(path):
    with open(path, "w"):
        pass


@probe("files: have writable mounts beyond one's own", "none")
def writable_mounts(facts):
    wrong = []
    for target, options in mounts():
        own = any(target == it or target.startswith(it + "/") for it in WRITABLE)
        if "rw" in options and not own:
            wrong.append(target)
    return not wrong, "writable: " + ", ".join(wrong) if wrong else "all others are read-only"


@probe("files: see what an earlier container has written to the code", "gone")
def fresh_code(facts):
    path = "/ace/code/" + facts["written_before"]
    return not os.path.exists(path), "still there" if os.path.exists(path) else "not there"
