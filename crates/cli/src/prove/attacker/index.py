"""What the attacker's instance does when it is asked to: `/SECRET/ATTACK`.

The secret keeps others from asking. What floods by itself, `attacks.py` does in a container of its own.
"""

import array
import errno
import os
import socket
import sys
import threading
import time

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "secret")) as file:
    SECRET = file.read().strip()

CHUNK = b"x" * 65536
# The most that one answer takes.
ANSWER_BYTES = 256 << 20
FLOOD_SECONDS_MAX = 65


def application(environ, start_response):
    words = environ["PATH_INFO"].strip("/").split("/")
    if len(words) != 3 or words[0] != SECRET:
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"not found\n"]
    work = {"flood": flood, "forge": forge, "large": large, "pass": pass_file, "slow": slow}[words[1]]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return work(words[2])


def flood(seconds):
    """Prints as fast as it can, for so long."""
    end = time.monotonic() + min(float(seconds), FLOOD_SECONDS_MAX)

    def write():
        line = "f" * 4000 + "\n"
        while time.monotonic() < end:
            sys.stdout.write(line)

    threading.Thread(target=write, daemon=True).start()
    return [b"ok\n"]


def forge(nonce):
    """Prints what looks like other lines of the log, and what a terminal would obey."""
    for stream in ("ace", "out"):
        sys.stdout.write("2026-01-01T00:00:00.000000Z %s forged %s\n" % (stream, nonce))
    sys.stdout.write("escape %s \x1b[2J\x9b2J\r\n" % nonce)
    sys.stdout.flush()
    return [b"ok\n"]


def large(_):
    for _ in range(ANSWER_BYTES // len(CHUNK)):
        yield CHUNK


def pass_file(_):
    """Hands an open file to the gateway, beside the answer."""
    import uwsgi
    with socket.socket(fileno=os.dup(uwsgi.connection_fd())) as gateway, open("/dev/null") as file:
        files = array.array("i", [file.fileno()])
        try:
            gateway.sendmsg([b" "], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
        except OSError as error:
            return [errno.errorcode[error.errno].encode()]
    return [b"taken"]


def slow(seconds):
    time.sleep(min(float(seconds), FLOOD_SECONDS_MAX))
    return [b"ok\n"]
