"""The kernel: its calls by each of its entries, its settings and its tables."""

import ctypes
import mmap
import os
import platform
import signal
import struct
import time

from kit import CALLS, absent, call, checked, libc, probe, refusals, Skipped

CLONE_FLAGS = {
    "mount": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000,
    "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000,
}
X32 = 0x40000000


# What a filter says. Anything else comes from the call itself.
FILTERED = ("EPERM", "ENOSYS")


def refused_calls(*calls):
    """Each of `calls` is a name and the arguments."""
    attempts = {name: lambda name=name, words=words: call(name, *words) for name, *words in calls}
    return refusals(attempts, only=FILTERED)


def child_of_clone(flags):
    """Makes a child by clone(2); a child that was made ends at once."""
    if call("clone", flags | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        os._exit(0)


@probe("kernel: make namespaces", "refused", in_build=True)
def unshare(facts):
    return refusals({name: lambda it=flag: call("unshare", it) for name, flag in CLONE_FLAGS.items()}, only=FILTERED)


@probe("kernel: clone into namespaces", "refused", in_build=True)
def clone(facts):
    return refusals({name: lambda it=flag: child_of_clone(it) for name, flag in CLONE_FLAGS.items()}, only=FILTERED)


@probe("kernel: clone by a call that a filter can't see into", "refused", in_build=True)
def clone3(facts):
    def attempt():
        arguments = struct.pack("11Q", CLONE_FLAGS["user"], 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0)
        if call("clone3", arguments, len(arguments)) == 0:
            os._exit(0)

    return refusals({"clone3": attempt})


@probe("kernel: enter another namespace", "refused", in_build=True)
def setns(facts):
    space = os.open("/proc/self/ns/net", os.O_RDONLY)
    return refused_calls(("setns", space, 0))


@probe("kernel: mount", "refused", in_build=True)
def mount(facts):
    return refused_calls(
        ("mount", b"none", b"/tmp", b"tmpfs", 0, 0),
        ("umount2", b"/proc", 2),
        ("pivot_root", b"/tmp", b"/tmp"),
    )


@probe("kernel: remount what is read-only", "refused", in_build=True)
def remount(facts):
    return refusals({
        path: lambda it=path: call("mount", b"none", it.encode(), 0, 0x20 | 0x1000, 0)
        for path in ("/", "/usr", "/proc/sys")
    })


@probe("kernel: mount by the newer calls", "refused", in_build=True)
def new_mount(facts):
    return refused_calls(
        ("fsopen", b"tmpfs", 0),
        ("fsmount", 0, 0, 0),
        ("fsconfig", 0, 0, 0, 0, 0),
        ("fspick", -100, b"/", 0),
        ("open_tree", -100, b"/", 1),
        ("move_mount", -100, b"/tmp", -100, b"/usr", 0),
        ("mount_setattr", -100, b"/", 0, bytes(32), 32),
    )


@probe("kernel: load programs into it", "refused", in_build=True)
def bpf(facts):
    return refused_calls(("bpf", 0, bytes(128), 128))


@probe("kernel: measure what others do", "refused", in_build=True)
def perf(facts):
    return refused_calls(("perf_event_open", bytes(128), 0, -1, -1, 0), ("lookup_dcookie", 0, bytes(64), 64))


@probe("kernel: hold up its page faults", "refused", in_build=True)
def userfaultfd(facts):
    return refused_calls(("userfaultfd", 1))


@probe("kernel: use io_uring", "refused", in_build=True)
def io_uring(facts):
    return refused_calls(
        ("io_uring_setup", 4, bytes(120)), ("io_uring_enter", 0, 0, 0, 0, 0, 0), ("io_uring_register", 0, 0, 0, 0)
    )


@probe("kernel: take contexts of asynchronous I/O that all share", "refused", in_build=True)
def aio(facts):
    return refused_calls(("io_setup", 1, bytes(8)))


@probe("kernel: have everybody's files written", "refused", in_build=True)
def sync(facts):
    """Again and again, it takes the disk's time from those whose files they are."""
    return refused_calls(("sync",), ("syncfs", os.open("/usr", os.O_RDONLY)))


@probe("kernel: add filters, which take room that all share", "refused", in_build=True)
def further_filters(facts):
    # ret SECCOMP_RET_ALLOW
    code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))
    program = struct.pack("HxxxxxxQ", 1, ctypes.addressof(code))
    return refused_calls(("seccomp", 1, 0, program), ("prctl", 22, 2, program, 0, 0))


@probe("kernel: take huge pages that are put aside for the host's own", "refused", in_build=True)
def huge_pages(facts):
    """No limit of memory counts them."""
    private, anonymous, hugetlb = 0x2, 0x20, 0x40000
    return refused_calls(
        ("mmap", 0, 2 << 20, 3, private | anonymous | hugetlb, -1, 0),
        ("memfd_create", b"huge", 4),
    )


@probe("kernel: choose whom it shares a core with", "refused", in_build=True)
def core_scheduling(facts):
    """PR_SCHED_CORE_CREATE: whoever is not of the group does not run beside it."""
    return refused_calls(("prctl", 62, 1, 0, 0, 0))


@probe("kernel: use its keyrings", "refused", in_build=True)
def keyrings(facts):
    return refused_calls(
        ("add_key", b"user", facts["nonce"].encode(), b"x", 1, -3),
        ("request_key", b"user", facts["nonce"].encode(), 0, 0),
        ("keyctl", 0, -3, 1),
    )


@probe("kernel: load modules", "refused", in_build=True)
def modules(facts):
    return refused_calls(
        ("init_module", bytes(64), 64, b""), ("finit_module", 0, b"", 0), ("delete_module", b"x", 0)
    )


@probe("kernel: replace or restart it", "refused", in_build=True)
def kexec(facts):
    return refused_calls(
        ("kexec_load", 0, 0, 0, 0),
        ("kexec_file_load", 0, 0, 0, b"", 0),
        # With wrong magic numbers: a kernel that would let us says EINVAL, and restarts nothing.
        ("reboot", 1, 1, 0),
    )


@probe("kernel: read its log", "refused", in_build=True)
def kernel_log(facts):
    return refusals({
        "syslog": lambda: call("syslog", 3, bytes(4096), 4096),
        "/dev/kmsg": lambda: os.open("/dev/kmsg", os.O_RDONLY),
        "/proc/kmsg": lambda: os.read(os.open("/proc/kmsg", os.O_RDONLY | os.O_NONBLOCK), 1) or missing(),
    })


def missing():
    raise FileNotFoundError(2, "empty")


@probe("kernel: set the clock", "refused", in_build=True)
def clock(facts):
    # The time that it is: should it be let through, nothing changes.
    now = time.time()
    value = struct.pack("qq", int(now), 0)
    return refusals({
        "settimeofday": lambda: call("settimeofday", value, 0),
        "clock_settime": lambda: call("clock_settime", 0, value),
        "adjtimex": lambda: call("adjtimex", struct.pack("I", 0x4000) + bytes(252)),
    })


@probe("kernel: swap, quotas and accounts", "refused", in_build=True)
def accounts(facts):
    return refused_calls(
        ("swapon", b"/tmp/x", 0),
        ("swapoff", b"/tmp/x"),
        ("acct", 0),
        ("quotactl", 0x800001, 0, 0, 0),
        ("quotactl_fd", 0, 0x800001, 0, 0),
        ("vhangup",),
    )


@probe("kernel: reach the machine's ports", "refused", in_build=True)
def ports(facts):
    return refused_calls(("ioperm", 0x80, 1, 1), ("iopl", 3))


@probe("kernel: switch off the layout's randomness", "refused", in_build=True)
def personality(facts):
    return refused_calls(("personality", 0x0040000), ("personality", 0x0400000))


@probe("kernel: watch the whole machine's files", "refused", in_build=True)
def fanotify(facts):
    return refused_calls(("fanotify_init", 0, 0))


@probe("kernel: move other processes' memory", "refused", in_build=True)
def memory_policy(facts):
    return refused_calls(
        ("move_pages", 1, 0, 0, 0, 0, 0), ("migrate_pages", 1, 1, bytes(8), bytes(8)), ("process_madvise", 0, 0, 0, 0, 0)
    )


@probe("kernel: call what came after the filter was made", "not there", in_build=True)
def future(facts):
    return refusals({
        str(number): lambda it=number: checked(libc.syscall(ctypes.c_long(it), 0, 0, 0, 0))
        for number in (467, 480, 548, 600, 1000)
    }, only=FILTERED)


@probe("kernel: enter by its 32-bit door", "ended at once", in_build=True, ends_by=(signal.SIGSYS, signal.SIGSEGV))
def compat(facts):
    if platform.machine() != "x86_64":
        raise Skipped("%s has no such door that a 64-bit program can reach" % platform.machine())
    # mov eax, 20 (getpid there); int 0x80; ret
    code = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"
    room = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    room.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(room))
    answer = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
    return False, "let through: getpid said %d" % answer


@probe("kernel: enter by its x32 door", "not there", in_build=True)
def x32(facts):
    if platform.machine() != "x86_64":
        raise Skipped("%s has no such door" % platform.machine())
    names = ("bpf", "keyctl", "mount", "perf_event_open", "unshare", "userfaultfd", "io_uring_setup")
    attempts = {
        name: lambda it=CALLS[name][0]: checked(libc.syscall(ctypes.c_long(X32 | it), 0, 0, 0, 0, 0)) for name in names
    }
    # 512 and on are x32's own: execve, ptrace, process_vm_readv, kexec_load.
    attempts.update({
        str(it): lambda it=it: checked(libc.syscall(ctypes.c_long(X32 | it), 0, 0, 0, 0, 0)) for it in (512, 521, 528, 539)
    })
    attempts["getpid"] = lambda: checked(libc.syscall(ctypes.c_long(X32 | 39)))
    return refusals(attempts, only=FILTERED)


@probe("kernel: change its settings", "refused", in_build=True)
def settings(facts):
    def write(path):
        # What is there already, so that nothing changes should it be let through.
        with open(path) as file:
            now = file.read()
        with open(path, "w") as file:
            file.write(now)

    names = ["kernel/core_pattern", "kernel/hostname", "kernel/modprobe", "kernel/panic", "vm/drop_caches",
             "vm/overcommit_memory", "fs/file-max", "net/ipv4/ip_forward", "net/ipv4/ping_group_range", "user/max_user_namespaces"]
    return refusals({name: lambda it="/proc/sys/" + name: write(it) for name in names})


@probe("kernel: pull its emergency brake", "refused", in_build=True)
def sysrq(facts):
    def write():
        with open("/proc/sysrq-trigger", "w") as file:
            if os.fstat(file.fileno()).st_rdev == os.makedev(1, 3):
                raise PermissionError(13, "masked")
            # Help: it prints what the others would do.
            file.write("h")

    return refusals({"/proc/sysrq-trigger": write})


@probe("kernel: read its memory and tables", "empty or not there", in_build=True)
def tables(facts):
    names = ["kcore", "kallsyms", "kmsg", "keys", "key-users", "timer_list", "sched_debug", "vmallocinfo",
             "slabinfo", "interrupts", "acpi", "scsi", "asound", "latency_stats", "kpagecount", "kpageflags", "iomem",
             "locks", "fs", "buddyinfo", "zoneinfo"]
    held, seen = True, []
    for name in names:
        ok, words = absent(["/proc/" + name])
        if not ok and name in ("iomem",):
            # All can read it, with every address as zero.
            with open("/proc/" + name) as file:
                ok = not any(line.split("-")[0].strip("0 ") for line in file)
        if not ok:
            held = False
            seen.append(name)
    return held, "readable: " + ", ".join(seen) if seen else "none of %d tells anything" % len(names)


@probe("kernel: look around in /sys", "not there, but for the processors' list", in_build=True)
def sys_files(facts):
    places = ["/sys/fs/cgroup", "/sys/kernel", "/sys/firmware", "/sys/block", "/sys/class", "/sys/module", "/sys/power",
              "/sys/devices/virtual", "/sys/fs/bpf", "/sys/kernel/debug", "/sys/kernel/security"]
    return absent(places)


@probe("kernel: change processors by /sys", "refused", in_build=True)
def sys_writes(facts):
    def write(path):
        with open(path, "w") as file:
            file.write("1")

    places = ["/sys/devices/system/cpu/cpu1/online", "/sys/devices/system/cpu/smt/control", "/sys/devices/system/cpu/x"]
    return refusals({path: lambda it=path: write(it) for path in places})


@probe("kernel: share memory, semaphores or queues with others", "none of theirs is there", in_build=True)
def ipc(facts):
    counts = {}
    for name in ("shm", "sem", "msg"):
        try:
            with open("/proc/sysvipc/" + name) as file:
                counts[name] = len(file.readlines()) - 1
        except OSError:
            counts[name] = 0
    others = sorted(name for name, count in counts.items() if count > 0)
    return not others, "seen: " + ", ".join(others) if others else "none to be seen"
