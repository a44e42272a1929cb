"""Processes and privilege: who the app is, whom it sees, and what it may become."""

import ctypes
import fcntl
import os
import resource
import signal
import struct
import termios
import time

from kit import absent, call, checked, fork_and_wait, libc, probe, refusals, status

# Variables that programs commonly have everywhere, or that the engine sets by itself for apps and builds.
PLAIN_VARIABLES = {
    "HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "PWD", "SHLVL", "TERM", "TMPDIR", "TZ", "USER", "_",
    "NO_COLOR", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE",
}


def pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


@probe("privilege: be root", "user and group 1000, no others", in_build=True)
def who(facts):
    ids = os.getresuid() + os.getresgid()
    groups = os.getgroups()
    return set(ids) == {1000} and set(groups) <= {1000}, "uid %d, gid %d, groups %s" % (ids[0], ids[3], groups)


@probe("privilege: become another user", "refused", in_build=True)
def become(facts):
    return refusals({
        "setuid": lambda: os.setuid(0),
        "setgid": lambda: os.setgid(0),
        "setresuid": lambda: os.setresuid(0, 0, 0),
        "setgroups": lambda: os.setgroups([0]),
        "setuid 1": lambda: os.setuid(1),
        "setfsuid": lambda: refuse_unless_changed(),
    })


def refuse_unless_changed():
    libc.setfsuid(0)
    if libc.setfsuid(-1) != 0:
        raise PermissionError(1, "unchanged")


@probe("privilege: have capabilities", "none in any set", in_build=True)
def capabilities(facts):
    sets = {name: status(name) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    found = [name for name, bits in sets.items() if int(bits, 16)]
    return not found, "some in " + ", ".join(found) if found else "all five sets are empty"


@probe("privilege: raise capabilities", "refused", in_build=True)
def raise_capabilities(facts):
    header, wanted = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[1 << 21] * 6)
    return refusals({
        "capset": lambda: checked(libc.capset(header, wanted)),
        "ambient": lambda: checked(libc.prctl(47, 2, 21, 0, 0)),
    })


@probe("privilege: gain by running programs", "no_new_privs is set, for good", in_build=True)
def no_new_privs(facts):
    libc.prctl(38, 0, 0, 0, 0)
    return status("NoNewPrivs") == "1", "NoNewPrivs %s" % status("NoNewPrivs")


@probe("privilege: run without a filter of system calls", "filtered", in_build=True)
def filtered(facts):
    libc.prctl(22, 0, 0, 0, 0)
    return status("Seccomp") == "2", "Seccomp mode %s" % status("Seccomp")


@probe("processes: see those of the host", "only the container's own", in_build=True)
def see(facts):
    names = []
    for pid in pids():
        try:
            with open("/proc/%d/cmdline" % pid, "rb") as file:
                names.append(file.read())
        except OSError:
            pass
    foreign = [it for it in names if it.startswith(facts["bait_name"].encode())]
    if foreign or len(names) > 50:
        return False, "%d seen, some of them the host's" % len(names)
    return True, "%d seen, all its own" % len(names)


@probe("processes: end one of the host's", "refused", in_build=True)
def end_host(facts):
    pid = facts["bait_pid"]
    return refusals({
        "kill": lambda: os.kill(pid, signal.SIGKILL),
        "pidfd_open": lambda: call("pidfd_open", pid, 0),
    })


@probe("processes: end process 1", "refused", in_build=True)
def end_init(facts):
    return refusals({
        "SIGKILL": lambda: os.kill(1, signal.SIGKILL),
        "SIGSTOP": lambda: os.kill(1, signal.SIGSTOP),
        "SIGTERM": lambda: os.kill(1, signal.SIGTERM),
    })


@probe("processes: look into process 1", "refused", in_build=True)
def look_into_init(facts):
    return absent(["/proc/1/" + name for name in ("environ", "mem", "maps", "fd", "root", "cwd", "cmdline", "stack")])


@probe("processes: trace and read others", "refused", in_build=True)
def trace(facts):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    buffer = ctypes.create_string_buffer(16)
    vector = struct.pack("QQ", ctypes.addressof(buffer), 8)
    return refusals({
        "ptrace": lambda: call("ptrace", 16, child, 0, 0),
        "ptrace seize": lambda: call("ptrace", 0x4206, child, 0, 0),
        "process_vm_readv": lambda: call("process_vm_readv", child, vector, 1, vector, 1, 0),
        "process_vm_writev": lambda: call("process_vm_writev", child, vector, 1, vector, 1, 0),
        "kcmp": lambda: call("kcmp", os.getpid(), child, 0, 0, 0),
        "pidfd_getfd": lambda: call("pidfd_getfd", call("pidfd_open", child, 0), 0, 0),
    })


@probe("processes: be spared before the host's own when memory runs out", "refused", in_build=True)
def oom_score(facts):
    def write(value):
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(value)

    return refusals({"-1000": lambda: write("-1000"), "-1": lambda: write("-1")})


@probe("processes: take priority over others", "refused", in_build=True)
def priority(facts):
    return refusals({
        "nice": lambda: os.setpriority(os.PRIO_PROCESS, 0, -5),
        "realtime": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
        "round robin": lambda: os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1)),
    })


@probe("processes: raise resource limits", "refused", in_build=True)
def raise_limits(facts):
    def more(kind):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (hard + 1, hard + 1))

    kinds = {"files": resource.RLIMIT_NOFILE, "locked": resource.RLIMIT_MEMLOCK}

    def attempt(kind):
        try:
            more(kind)
        except ValueError as error:  # What Python makes of EPERM.
            raise PermissionError(1, str(error))

    return refusals({name: lambda it=kind: attempt(it) for name, kind in kinds.items()})


@probe("processes: leave a core dump", "none is made", in_build=True)
def core_dump(facts):
    ended = fork_and_wait(os.abort)
    return not os.WCOREDUMP(ended), "dumped" if os.WCOREDUMP(ended) else "ended by SIGABRT, no core"


@probe("processes: have the host's handler of core dumps run", "the limit that forbids it stays", in_build=True)
def core_handler(facts):
    # At a limit of 1 the kernel runs none; at 0, which looks stricter, it does.
    for limit in (0, 2, resource.RLIM_INFINITY):
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
        except (OSError, ValueError):
            pass
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    return soft == 1, "the limit is %d, at most %d" % (soft, hard)


@probe("processes: find the host's environment", "nothing of it", in_build=True)
def environment(facts):
    shared = sorted(set(os.environ) & set(facts["environment"]) - PLAIN_VARIABLES)
    return not shared, "also the engine's: " + ", ".join(shared) if shared else "%d variables, none of the engine's" % len(os.environ)


@probe("processes: change the host's name", "a name of its own, unchangeable", in_build=True)
def host_name(facts):
    if os.uname().nodename == facts["host_name"]:
        return False, "it has the host's name"
    return refusals({
        "sethostname": lambda: call("sethostname", b"x", 1),
        "setdomainname": lambda: call("setdomainname", b"x", 1),
    })


@probe("processes: share a namespace with the host", "none", in_build=True)
def namespaces(facts):
    shared = []
    for name, host in facts["namespaces"].items():
        try:
            if os.readlink("/proc/self/ns/" + name) == host:
                shared.append(name)
        except OSError:
            pass
    return not shared, "shared: " + ", ".join(shared) if shared else "all of its own"


@probe("processes: move to another control group", "no control groups to be seen", in_build=True)
def control_groups(facts):
    with open("/proc/self/cgroup") as file:
        paths = {line.strip().split(":", 2)[2] for line in file}
    held, seen = absent(["/sys/fs/cgroup"])
    return held and paths == {"/"}, "%s; its own are at %s" % (seen, ", ".join(sorted(paths)))


@probe("processes: type into a terminal", "refused", in_build=True)
def type_into_terminal(facts):
    try:
        leader, follower = os.openpty()
    except OSError:
        leader = follower = os.open("/dev/null", os.O_RDWR)
    return refusals({
        "TIOCSTI": lambda: fcntl.ioctl(follower, termios.TIOCSTI, b"x"),
        "TIOCLINUX": lambda: fcntl.ioctl(follower, 0x541C, b"\x03"),
    })
