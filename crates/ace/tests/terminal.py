"""Runs a program on a terminal, as a person would.

Arguments: a JSON list of steps, then the program and its arguments. A step is ["expect", TEXT],
["type", TEXT], ["size", COLUMNS, ROWS] or ["signal", NUMBER]. Prints JSON: the program's status, what
was shown, and whether the terminal is set as it was before.
"""
import fcntl
import json
import os
import pty
import select
import struct
import sys
import termios

DEADLINE = 60


def main():
    steps, command = json.loads(sys.argv[1]), sys.argv[2:]
    master, slave = pty.openpty()
    resize(master, 80, 24)
    before = termios.tcgetattr(slave)
    child = os.fork()
    if child == 0:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        for number in range(3):
            os.dup2(slave, number)
        os.closerange(3, 256)
        os.execvp(command[0], command)
    screen = Screen(master)
    for kind, *rest in steps:
        if kind == "expect":
            screen.expect(rest[0])
        elif kind == "type":
            os.write(master, rest[0].encode())
        elif kind == "size":
            resize(master, *rest)
        else:
            os.kill(child, rest[0])
    status = screen.read_while_alive(child)
    restored = termios.tcgetattr(slave) == before
    print(json.dumps({"status": status, "shown": screen.shown, "restored": restored}))


def resize(master, columns, rows):
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class Screen:
    def __init__(self, master):
        self.master = master
        self.shown = ""
        self.seen = 0

    def expect(self, text):
        """Waits until `text` is shown, after what was expected before."""
        while text not in self.shown[self.seen:]:
            if not self.read(DEADLINE):
                sys.exit("%r never came: %r" % (text, self.shown))
        self.seen = self.shown.index(text, self.seen) + len(text)

    def read(self, within):
        if not select.select([self.master], [], [], within)[0]:
            return False
        self.shown += os.read(self.master, 65536).decode(errors="replace")
        return True

    def read_while_alive(self, child):
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                while self.read(0):
                    pass
                return os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
            self.read(0.05)


main()
