"""Takes as much of one thing as it gets: `attacks.py NAME`. It ends with the connection to the engine.

Each takes no more than some times its limit, so that a wall that fails lets no harm through.
"""

import mmap
import os
import random
import shutil
import signal
import socket
import sys
import time

MIB = 1 << 20
SECONDS_MAX = 120


def in_children(count, work):
    for _ in range(count):
        if os.fork() == 0:
            try:
                work()
            finally:
                os._exit(0)
    signal.pause()


def cpu():
    def burn():
        while True:
            pass

    in_children(16, burn)


def memory():
    while True:
        child = os.fork()
        if child == 0:
            room = mmap.mmap(-1, 768 * MIB)
            for offset in range(0, len(room), mmap.PAGESIZE):
                room[offset] = 1
            os._exit(0)
        os.waitpid(child, 0)


def processes():
    """A bomb of 320 at the most, again and again."""
    while True:
        children = []
        try:
            while len(children) < 320:
                child = os.fork()
                if child == 0:
                    time.sleep(0.2)
                    os._exit(0)
                children.append(child)
        except OSError:
            pass
        for child in children:
            os.waitpid(child, 0)


def disk_io():
    """Writes and reads what no cache helps with, as far as the volume goes."""
    block = os.urandom(MIB)

    def work():
        path = "/ace/data/io-%d" % os.getpid()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        while True:
            for number in range(8):
                os.pwrite(descriptor, block, number * MIB)
                os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            for _ in range(64):
                os.pread(descriptor, 4096, random.randrange(8 * MIB) & ~4095)

    in_children(4, work)


def disk_space():
    places = ["/tmp", "/dev/shm", "/ace/data", "/ace/code"]
    while True:
        for place in places:
            path = place + "/space"
            try:
                with open(path, "wb", buffering=0) as file:
                    for _ in range(128):
                        file.write(bytes(MIB))
            except OSError:
                pass
            if os.path.exists(path):
                os.unlink(path)


def inodes():
    places = ["/tmp", "/dev/shm", "/ace/data", "/ace/code"]
    while True:
        for place in places:
            folder = place + "/inodes"
            os.makedirs(folder, exist_ok=True)
            try:
                for number in range(20000):
                    os.close(os.open("%s/%d" % (folder, number), os.O_CREAT | os.O_WRONLY))
            except OSError:
                pass
            shutil.rmtree(folder, ignore_errors=True)


def bandwidth():
    """To the host's end of its own network, which throws it away: none of it leaves the machine."""
    gateway = default_gateway()

    def work():
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        while True:
            try:
                datagrams.sendto(bytes(1400), (gateway, 9))
            except OSError:
                time.sleep(0.001)

    in_children(4, work)


def default_gateway():
    with open("/proc/net/route") as file:
        for line in file.readlines()[1:]:
            words = line.split()
            if words[2] != "00000000":
                return ".".join(str(it) for it in reversed(bytes.fromhex(words[2])))
    return "127.0.0.1"


def connections():
    """Attempts to connect, as fast as they go, to an address of its own host that answers none."""
    gateway = default_gateway()

    def work():
        while True:
            found = []
            try:
                for port in range(1, 1000):
                    stream = socket.socket()
                    stream.setblocking(False)
                    stream.connect_ex((gateway, port))
                    found.append(stream)
            except OSError:
                pass
            for stream in found:
                stream.close()

    in_children(4, work)


def sockets():
    """All that it may have, with full buffers."""

    def work():
        pairs = []
        while True:
            try:
                pair = socket.socketpair()
                pairs.append(pair)
                pair[0].setblocking(False)
                pair[0].send(bytes(16384))
            except OSError:
                for one, other in pairs:
                    one.close()
                    other.close()
                pairs = []

    in_children(4, work)


def descriptors():
    def work():
        found = []
        while True:
            try:
                found.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                for descriptor in found:
                    os.close(descriptor)
                found = []

    in_children(16, work)


ATTACKS = {
    "cpu": cpu,
    "memory": memory,
    "processes": processes,
    "disk-io": disk_io,
    "disk-space": disk_space,
    "inodes": inodes,
    "bandwidth": bandwidth,
    "connections": connections,
    "sockets": sockets,
    "descriptors": descriptors,
}


def every():
    """All of them, in one container: what one takes, the others lack."""
    for name in sorted(ATTACKS):
        if name != "all" and os.fork() == 0:
            try:
                ATTACKS[name]()
            finally:
                os._exit(0)
    signal.pause()


ATTACKS["all"] = every


if __name__ == "__main__":
    signal.alarm(SECONDS_MAX)
    print("ready", flush=True)
    ATTACKS[sys.argv[1]]()
