"""What a probe is, and how it is run: in a process of its own, within a deadline.

A probe tries what its name says and returns whether the wall held, and what was seen. Its end by a
signal is what was seen, too: some walls answer by it.
"""

import ctypes
import errno
import json
import os
import platform
import select
import signal
import sys
import time

DEADLINE_SECONDS = 60

PROBES = []

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


class Skipped(Exception):
    """This machine has nothing to try it on; the text says what is missing."""


class Probe:
    def __init__(self, name, expected, run, in_app, in_build, ends_by):
        self.name, self.expected, self.run = name, expected, run
        self.in_app, self.in_build, self.ends_by = in_app, in_build, ends_by


def probe(name, expected, in_build=False, in_app=True, ends_by=()):
    """Makes the function below it a probe. `ends_by` are signals that mean that the wall held."""

    def add(run):
        PROBES.append(Probe(name, expected, run, in_app, in_build, ends_by))
        return run

    return add


def run_all(facts, in_build=False):
    """Runs the probes one after the other and yields what came of each."""
    for each in PROBES:
        if not (each.in_build if in_build else each.in_app):
            continue
        name = "build: " + each.name if in_build else each.name
        ok, observed, skipped = run_apart(each, facts)
        yield {
            "name": name,
            "expected": each.expected,
            "observed": observed,
            "ok": ok,
            "skipped": skipped,
        }


def run_apart(each, facts):
    """Runs one probe in a child that leads a process group of its own, which ends with it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.close(reading)
        os.write(writing, json.dumps(outcome(each, facts)).encode() + b"\n")
        os._exit(0)
    os.close(writing)
    said = read_line(reading, time.monotonic() + DEADLINE_SECONDS)
    os.close(reading)
    for target in (os.killpg, os.kill):
        try:
            target(child, signal.SIGKILL)
        except OSError:
            pass
    _, status = os.waitpid(child, 0)
    if said:
        return json.loads(said.decode())
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    word = "ended by %s" % signal.Signals(number).name if number else "ended without a word"
    return number in each.ends_by, word, False


def outcome(each, facts):
    try:
        ok, observed = each.run(facts)
        return bool(ok), observed, False
    except Skipped as reason:
        return True, str(reason), True
    except Exception as error:
        return False, "the probe failed: %s: %s" % (type(error).__name__, error), False


def read_line(descriptor, deadline):
    """What comes up to a line end; nobody waits for the end, which children of a child may hold off."""
    said = b""
    while not said.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            return b""
        piece = os.read(descriptor, 65536)
        if not piece:
            return b""
        said += piece
    return said


def word(error):
    """`EPERM` for an OSError."""
    number = error.errno if isinstance(error, OSError) else None
    return errno.errorcode.get(number, str(error))


def refusals(attempts, only=None):
    """Tries each of {name: function}; the wall holds if every one raises OSError.

    With `only`, another error than those is no refusal: somebody has looked at the arguments.
    """
    through, words = [], set()
    for name, attempt in attempts.items():
        try:
            attempt()
            through.append(name)
        except OSError as error:
            if only and word(error) not in only:
                through.append("%s (%s)" % (name, word(error)))
            words.add(word(error))
    if through:
        return False, "let through: " + ", ".join(through)
    count = "refused" if len(attempts) == 1 else "all %d refused" % len(attempts)
    return True, "%s (%s)" % (count, ", ".join(sorted(words)))


def absent(paths):
    """Whether nothing of any of `paths` can be read or listed."""

    def look(path):
        if os.path.isdir(path):
            if not os.listdir(path):
                raise OSError(errno.ENOENT, path)
        else:
            with open(path, "rb") as file:
                if not file.read(1):
                    raise OSError(errno.ENODATA, path)

    return refusals({path: lambda path=path: look(path) for path in paths})


def checked(result):
    """A call's result, or its error as OSError."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def call(name, *arguments):
    """The system call `name`, past the C library."""
    numbers = {"x86_64": 0, "aarch64": 1}
    column = numbers.get(platform.machine())
    number = CALLS[name][column] if column is not None else None
    if number is None:
        raise Skipped("%s has no %s" % (platform.machine(), name))
    words = [ctypes.c_long(it) if isinstance(it, int) else it for it in arguments]
    return checked(libc.syscall(ctypes.c_long(number), *words))


def status(field, pid="self"):
    with open("/proc/%s/status" % pid) as file:
        for line in file:
            key, _, value = line.partition(":")
            if key == field:
                return value.strip()
    return ""


def fork_and_wait(work):
    """Runs `work` in a child. Returns its status as os.waitpid has it."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def write_line(document):
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


# Numbers on x86_64 and on aarch64.
CALLS = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_setup": (206, 0),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "mbind": (237, 235),
    "memfd_create": (319, 279),
    "migrate_pages": (256, 238),
    "mmap": (9, 222),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pivot_root": (155, 41),
    "prctl": (157, 167),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "seccomp": (317, 277),
    "set_mempolicy": (238, 237),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "sync": (162, 81),
    "syncfs": (306, 267),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
