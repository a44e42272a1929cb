"""Limits: each is run into, by an attempt that is itself bounded to a little more."""

import ctypes
import errno
import mmap
import os
import resource
import shutil
import signal
import socket
import threading
import time

from kit import Skipped, checked, libc, probe

MIB = 1 << 20
BLOCK = bytes(MIB)


def memory_of(limit):
    """Touches a page of each that lie in somewhat more than `limit` bytes, in a child. Returns how it ended."""
    child = os.fork()
    if child == 0:
        room = mmap.mmap(-1, limit + limit // 4)
        for offset in range(0, len(room), mmap.PAGESIZE):
            room[offset] = 1
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def fill(folder, most):
    """Writes to a file in `folder` until it's refused, at most `most` bytes. Returns how many there were."""
    path, written = os.path.join(folder, "fill"), 0
    try:
        with open(path, "wb", buffering=0) as file:
            while written < most:
                written += file.write(BLOCK)
        return written, None
    except OSError as error:
        return written, errno.errorcode.get(error.errno)
    finally:
        os.unlink(path)


def fill_inodes(folder, most):
    place = os.path.join(folder, "many")
    os.makedirs(place)
    try:
        for made in range(most):
            os.close(os.open("%s/%d" % (place, made), os.O_CREAT | os.O_WRONLY))
        return most, None
    except OSError as error:
        return made, errno.errorcode.get(error.errno)
    finally:
        shutil.rmtree(place)


def bounded_fill(folder, limit):
    if not os.path.isdir(folder):
        raise Skipped("it has no %s" % folder)
    written, refusal = fill(folder, limit + limit // 4 + MIB)
    return refusal in ("ENOSPC", "EDQUOT"), "%d MiB written, then %s" % (written // MIB, refusal or "no end")


def bounded_inodes(folder, limit):
    if not os.path.isdir(folder):
        raise Skipped("it has no %s" % folder)
    made, refusal = fill_inodes(folder, limit + limit // 8 + 1)
    return refusal in ("ENOSPC", "EDQUOT"), "%d files made, then %s" % (made, refusal or "no end")


def available():
    """Bytes that the machine has to spare."""
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return 0


@probe("limits: memory", "the process that wants more is ended", in_build=True)
def memory(facts):
    limit = facts["limits"]["memory"]
    if available() < 2 * limit:
        raise Skipped("the machine has too little to spare, should the wall fail")
    ended_by = memory_of(limit)
    return ended_by == signal.SIGKILL, "ended by SIGKILL" if ended_by == signal.SIGKILL else "it got all that it wanted"


@probe("limits: memory of shared segments", "counted like any other")
def shared_memory(facts):
    size = facts["limits"]["memory"] + facts["limits"]["memory"] // 4
    libc.shmat.restype = ctypes.c_void_p
    identity = libc.shmget(0, ctypes.c_size_t(size), 0o1600)
    if identity < 0:
        return True, "refused (%s)" % errno.errorcode.get(ctypes.get_errno())
    child = os.fork()
    if child == 0:
        address = libc.shmat(identity, None, 0)
        # It goes with this process: what stays full would have the next one ended, too.
        libc.shmctl(identity, 0, None)
        for offset in range(0, size, mmap.PAGESIZE):
            ctypes.c_char.from_address(address + offset).value = b"x"
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    held = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return held, "ended by SIGKILL" if held else "it got all that it wanted"


@probe("limits: processes", "refused beyond the limit", in_build=True)
def processes(facts):
    children, most, refusal = [], facts["limits"]["pids"] + 64, None
    try:
        while len(children) < most:
            child = os.fork()
            if child == 0:
                signal.pause()
                os._exit(0)
            children.append(child)
    except OSError as error:
        refusal = errno.errorcode.get(error.errno)
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)
    return refusal == "EAGAIN" and len(children) <= facts["limits"]["pids"], "%d, then %s" % (len(children), refusal or "no end")


@probe("limits: threads", "counted as processes", in_build=True)
def threads(facts):
    go, made, refusal = threading.Event(), 0, None
    threading.stack_size(64 << 10)
    try:
        while made < facts["limits"]["pids"] + 64:
            threading.Thread(target=go.wait, daemon=True).start()
            made += 1
    except RuntimeError:
        refusal = "EAGAIN"
    go.set()
    return refusal is not None and made <= facts["limits"]["pids"], "%d, then %s" % (made, refusal or "no end")


@probe("limits: processor time", "no more than the limit")
def processor(facts):
    children, begun = [], time.monotonic()
    for _ in range(max(4, (os.cpu_count() or 1))):
        child = os.fork()
        if child == 0:
            while time.monotonic() < begun + 2:
                pass
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    times = os.times()
    used, passed = times.children_user + times.children_system, time.monotonic() - begun
    cores = used / passed
    # What may come at once, a period's worth, is part of it.
    return cores <= facts["limits"]["cpu"] * 1.25, "%.2f cores by %d processes" % (cores, len(children))


@probe("limits: open files of a process", "refused beyond the limit", in_build=True)
def open_files(facts):
    found, refusal = [], None
    try:
        while len(found) < facts["limits"]["files"] + 64:
            found.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        refusal = errno.errorcode.get(error.errno)
    return refusal == "EMFILE", "%d, then %s" % (len(found), refusal or "no end")


@probe("limits: sockets of a process", "counted as open files", in_build=True)
def sockets(facts):
    found, refusal = [], None
    try:
        while len(found) < 2 * facts["limits"]["files"]:
            found.extend(socket.socketpair())
    except OSError as error:
        refusal = errno.errorcode.get(error.errno)
    return refusal == "EMFILE" and len(found) <= facts["limits"]["files"], "%d, then %s" % (len(found), refusal or "no end")


@probe("limits: bytes in the buffers of sockets and pipes", "counted as memory, or refused")
def buffers(facts):
    """Fills buffers until a socket takes no more; what they hold is bounded by the files it may have."""
    held, pairs, wanted = 0, [], facts["limits"]["memory"] + facts["limits"]["memory"] // 4
    child = os.fork()
    if child == 0:
        try:
            while held < wanted:
                pair = socket.socketpair()
                pairs.append(pair)
                pair[0].setblocking(False)
                try:
                    while True:
                        held += pair[0].send(BLOCK[:65536])
                except BlockingIOError:
                    pass
        except OSError:
            os._exit(7)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status) == signal.SIGKILL, "ended by %s" % signal.Signals(os.WTERMSIG(status)).name
    return os.WEXITSTATUS(status) == 7, "refused" if os.WEXITSTATUS(status) == 7 else "it got all that it wanted"


@probe("limits: locked memory", "refused beyond 64 KiB", in_build=True)
def locked(facts):
    room = mmap.mmap(-1, MIB)
    address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(room)))
    try:
        checked(libc.mlock(address, ctypes.c_size_t(MIB)))
        return False, "1 MiB locked"
    except OSError as error:
        return True, "refused (%s)" % errno.errorcode.get(error.errno)


@probe("limits: bytes in /tmp", "full at the limit", in_build=True)
def tmp(facts):
    return bounded_fill("/tmp", facts["limits"]["tmp"])


@probe("limits: files in /tmp", "full at the limit", in_build=True)
def tmp_inodes(facts):
    return bounded_inodes("/tmp", 16384)


@probe("limits: bytes in /dev/shm", "full at the limit", in_build=True)
def shm(facts):
    return bounded_fill("/dev/shm", facts["limits"]["shm"])


@probe("limits: files in /dev/shm", "full at the limit", in_build=True)
def shm_inodes(facts):
    return bounded_inodes("/dev/shm", 1024)


@probe("limits: bytes beside the code", "full at the limit")
def code(facts):
    return bounded_fill("/ace/code", facts["limits"]["tmp"])


@probe("limits: files beside the code", "full at the limit")
def code_inodes(facts):
    return bounded_inodes("/ace/code", 16384)


@probe("limits: bytes in /ace/run", "full at once")
def run(facts):
    return bounded_fill("/ace/run", 64 << 10)


@probe("limits: bytes on the volume", "full at its size")
def volume(facts):
    return bounded_fill("/ace/data", facts["limits"]["volume"])


@probe("limits: files on the volume", "full at 64 Ki a GiB")
def volume_inodes(facts):
    return bounded_inodes("/ace/data", max(facts["limits"]["volume"] >> 14, 1024))


@probe("limits: one huge file with a hole in it", "takes no room that is not its own")
def sparse(facts):
    path = "/ace/data/hole"
    free = os.statvfs("/ace/data").f_bfree
    try:
        with open(path, "wb") as file:
            file.truncate(1 << 40)
        return os.statvfs("/ace/data").f_bfree >= free - 64, "it takes nothing"
    except OSError as error:
        return True, "refused (%s)" % errno.errorcode.get(error.errno)
    finally:
        if os.path.exists(path):
            os.unlink(path)


@probe("limits: instances of inotify", "bounded for the app alone", in_build=True)
def inotify(facts):
    found = 0
    while found < 2048:
        if libc.inotify_init1(0) < 0:
            return True, "%d, then %s" % (found, errno.errorcode.get(ctypes.get_errno()))
        found += 1
    return False, "%d, and no end" % found


@probe("limits: message queues", "bounded for the app alone", in_build=True)
def queues(facts):
    names, refusal = [], None
    for number in range(2048):
        name = ("/q%d" % number).encode()
        if libc.mq_open(name, os.O_CREAT | os.O_RDWR, 0o600, None) < 0:
            refusal = errno.errorcode.get(ctypes.get_errno())
            break
        names.append(name)
    for name in names:
        libc.mq_unlink(name)
    return refusal is not None, "%d, then %s" % (len(names), refusal or "no end")


@probe("limits: signals that wait", "bounded for the app alone", in_build=True)
def queued_signals(facts):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
    most = resource.getrlimit(resource.RLIMIT_SIGPENDING)[0]
    child = os.getpid()
    sent = 0
    while sent < most + 1000:
        if libc.sigqueue(child, signal.SIGRTMIN, ctypes.c_void_p(0)) < 0:
            return True, "%d, then %s" % (sent, errno.errorcode.get(ctypes.get_errno()))
        sent += 1
    return False, "%d, and no end" % sent


@probe("limits: bytes a second to the volume", "no more than the limit")
def disk_writes(facts):
    if not os.path.isdir("/ace/data"):
        raise Skipped("it has no volume")
    rate = written_for(2, MIB)
    return rate <= facts["limits"]["io"] * 1.5, "%.1f MiB a second" % (rate / MIB)


@probe("limits: operations a second on the volume", "no more than the limit")
def disk_operations(facts):
    if not os.path.isdir("/ace/data"):
        raise Skipped("it has no volume")
    rate = written_for(2, 4096) / 4096
    return rate <= facts["limits"]["iops"] * 1.5, "%.0f writes a second" % rate


def build_disk():
    """Where a build works, whose disk is its own."""
    folder = os.path.dirname(os.path.abspath(__file__))
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split() for line in file]
    above = [words for words in mounts if (folder + "/").startswith(words[4].rstrip("/") + "/")]
    # After a dash come kind and source.
    nearest = max(above, key=lambda words: len(words[4]))
    if not nearest[nearest.index("-") + 2].startswith("/dev/loop"):
        raise Skipped("this machine gives builds no disk of their own; it measures what they take")
    return folder


@probe("limits: bytes on the build's disk", "as many as it has room for, each counted", in_app=False, in_build=True)
def build_bytes(facts):
    """It's not filled: a build that does so is ended, and could tell nothing."""
    folder, taken = build_disk(), 64 * MIB
    path = os.path.join(folder, "taken")
    before = os.statvfs(folder)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        # Takes room, and writes nothing to it.
        checked(libc.fallocate(descriptor, 0, ctypes.c_long(0), ctypes.c_long(taken)))
        after = os.statvfs(folder)
    finally:
        os.close(descriptor)
        os.unlink(path)
    size, counted = after.f_blocks * after.f_frsize, (before.f_bfree - after.f_bfree) * after.f_frsize
    words = "room for %d MiB, of which %d MiB take %d" % (size // MIB, taken // MIB, counted // MIB)
    return size <= facts["limits"]["build_disk"] and counted >= taken, words


@probe("limits: files on the build's disk", "as many as it has room for, each counted", in_app=False, in_build=True)
def build_inodes(facts):
    folder = build_disk()
    place, many = os.path.join(folder, "many"), 1000
    os.mkdir(place)
    before = os.statvfs(folder)
    for number in range(many):
        os.close(os.open("%s/%d" % (place, number), os.O_CREAT | os.O_WRONLY))
    after = os.statvfs(folder)
    shutil.rmtree(place)
    counted = before.f_ffree - after.f_ffree
    held = after.f_files <= facts["limits"]["build_inodes"] and counted >= many
    return held, "room for %d, of which %d take %d" % (after.f_files, many, counted)


@probe("limits: bytes a second to the build's disk", "no more than the limit", in_app=False, in_build=True)
def build_writes(facts):
    rate = written_for(2, MIB, build_disk())
    return rate <= facts["limits"]["io"] * 1.5, "%.1f MiB a second" % (rate / MIB)


@probe("limits: operations a second on the build's disk", "no more than the limit", in_app=False, in_build=True)
def build_operations(facts):
    rate = written_for(2, 4096, build_disk()) / 4096
    return rate <= facts["limits"]["iops"] * 1.5, "%.0f writes a second" % rate


@probe("limits: terminals", "bounded for the app alone", in_build=True)
def terminals(facts):
    found = []
    try:
        while len(found) < 2048:
            found.append(os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY))
    except OSError as error:
        return True, "%d, then %s" % (len(found), errno.errorcode.get(error.errno))
    return False, "%d, and no end" % len(found)


def written_for(seconds, size, folder="/ace/data"):
    """Writes pieces of `size` bytes, each until it's on the disk. Returns the bytes a second."""
    path, piece = os.path.join(folder, "written"), bytes(size)
    give_back(folder)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DSYNC)
    written, begun = 0, time.monotonic()
    try:
        while time.monotonic() < begun + seconds:
            written += os.pwrite(descriptor, piece, written % (32 * MIB))
        return written / (time.monotonic() - begun)
    finally:
        os.close(descriptor)
        os.unlink(path)


def give_back(folder):
    """Has the room of removed files be free, which it is once their removal is on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@probe("limits: what it sends a second", "no more than the limit", in_build=True)
def bandwidth(facts):
    gateway = default_gateway()
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    before, begun = sent_bytes(), time.monotonic()
    while time.monotonic() < begun + 2:
        try:
            datagrams.sendto(bytes(1400), (gateway, 9))
        except OSError:
            time.sleep(0.001)
    rate = 8 * (sent_bytes() - before) / (time.monotonic() - begun)
    return rate <= facts["limits"]["bandwidth"] * 1.5, "%.0f Mbit a second" % (rate / 1e6)


def default_gateway():
    with open("/proc/net/route") as file:
        for line in file.readlines()[1:]:
            address = line.split()[2]
            if address != "00000000":
                return ".".join(str(it) for it in reversed(bytes.fromhex(address)))
    raise Skipped("it has no network")


def sent_bytes():
    """What the interface has sent, by its own count."""
    with open("/proc/net/dev") as file:
        for line in file:
            name, _, counts = line.partition(":")
            if name.strip() == "eth0":
                return int(counts.split()[8])
    raise Skipped("it has no network")
