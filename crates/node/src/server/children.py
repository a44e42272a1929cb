

# What the app starts is to be as it would be with no server around it.
#
# Signals: a server handles some in its own way, in Python or, as uWSGI, below it, and a child that inherited
# that would not end by SIGTERM, which pools of multiprocessing wait for.
#
# Connections: one ends when all who have it have closed it. A child that lasts longer than the request in
# which it was forked, as a pool's, would keep the answer from its end. So it is with pipes, by whose end uWSGI's
# threads learn that they are to end.

import select
import socket

# Where connections come from: the descriptor that the server inherits, and its address, which theirs is, too.
LISTENER = 3
ADDRESS = socket.fromfd(LISTENER, socket.AF_UNIX, socket.SOCK_STREAM).getsockname()

# What servers handle, and what came of it before there was one.
BEFORE_SERVER = dict(
    (number, signal.getsignal(number))
    for number in (
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGABRT,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGALRM,
        signal.SIGTERM,
        signal.SIGCHLD,
        signal.SIGWINCH,
    )
)

# Where servers' handlers come from. The app is never the main module, which is this one.
SERVERS = ("__main__", "asyncio", "granian", "gunicorn", "uvicorn", "uvloop")

SIG_BLOCK, SIG_SETMASK = 0, 2


def sigmask_of_c():
    """Returns what signal.pthread_sigmask is on Python 3, for Python 2."""
    try:
        import ctypes
        import struct

        pthread_sigmask = ctypes.CDLL(None).pthread_sigmask
    except (ImportError, EnvironmentError, AttributeError):
        return lambda how, numbers: ()  # Not every Python 2 has been built with it.

    def sigmask(how, numbers):
        bits = sum(1 << (number - 1) for number in numbers)
        old = ctypes.create_string_buffer(128)
        pthread_sigmask(how, struct.pack("Q120x", bits), old)
        bits = struct.unpack("Q120x", old.raw)[0]
        return [number for number in range(1, signal.NSIG) if bits >> (number - 1) & 1]

    return sigmask


sigmask = getattr(signal, "pthread_sigmask", None) or sigmask_of_c()


def leave_server():
    """Gives signals back to the app, in a child. Its own handlers, as Python knows them, stay."""
    for number, before in BEFORE_SERVER.items():
        handler = signal.getsignal(number)
        is_servers = (getattr(handler, "__module__", None) or "").split(".")[0] in SERVERS
        signal.signal(number, before if is_servers or handler is None else handler)
    signal.set_wakeup_fd(-1)  # Else the server's event loop would hear of the child's signals.
    leave_files()
    # The end of a child is to wait for no thread of its parent's executors, one of which may be its own.
    getattr(sys.modules.get("concurrent.futures.thread"), "_threads_queues", {}).clear()


def leave_files():
    """Lets go of the server's connections and pipes, in a child. Their descriptors stay taken, since objects of the
    server's may close them once more."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in server_pipes() + [number for number in descriptors() if is_connection(number)]:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def descriptors():
    return [int(name) for name in os.listdir("/proc/self/fd")]


def server_pipes():
    """Returns both ends of the pipes that the server waits for where it waits for connections."""
    watched = set()
    for queue in descriptors():
        if file_of(queue) == "anon_inode:[eventpoll]":
            with open("/proc/self/fdinfo/%d" % queue) as info:
                files = [file_of(int(number)) for number in re.findall(r"tfd:\s*([0-9]+)", info.read())]
            watched.update(files if file_of(LISTENER) in files else ())
    pipes = [(number, file_of(number)) for number in descriptors()]
    return [number for number, file in pipes if file.startswith("pipe:") and file in watched]


def file_of(descriptor):
    try:
        return os.readlink("/proc/self/fd/%d" % descriptor)
    except EnvironmentError:
        return ""  # What listed the descriptors is closed by now.


def is_connection(descriptor):
    if not file_of(descriptor).startswith("socket:"):
        return False
    found = socket.fromfd(descriptor, socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        return bool(ADDRESS) and not listens and found.getsockname() == ADDRESS
    except EnvironmentError:
        return False  # It's of another family.
    finally:
        found.close()


def watch_forks():
    import threading

    blocked = threading.local()

    def before():  # A signal that came in between would meet the server's handler in the child.
        blocked.before = sigmask(SIG_BLOCK, BEFORE_SERVER)

    def after():
        sigmask(SIG_SETMASK, blocked.before)

    def after_in_child():
        leave_server()
        after()

    def watched(fork):
        def forked():
            before()
            child = None
            try:
                child = fork()
            finally:
                is_child = child == 0 or isinstance(child, tuple) and child[0] == 0
                (after_in_child if is_child else after)()
            return child

        return forked

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=before, after_in_parent=after, after_in_child=after_in_child)
    else:  # Python 3.6 and earlier.
        os.fork, os.forkpty = watched(os.fork), watched(os.forkpty)


# How long a program may take to begin, once it has a process: longer only where another child, forked at the
# same moment, keeps the pipe by which its begin shows.
BEGINS_WITHIN_S = 1.0


def watch_spawns():
    """Has multiprocessing wait until what it spawns runs its program, as subprocess does: a signal that comes
    before would meet the server's handler, and be lost with it. From Python 3.10 on signals are blocked in between."""
    try:
        import _posixsubprocess
    except ImportError:
        return  # Python 2 forks, and spawns nothing.
    fork_exec = _posixsubprocess.fork_exec
    kept, reader, writer = 3, 12, 13  # Arguments of it: descriptors to keep, and a pipe that is closed at the begin.

    def waiting(*args):
        if args[writer] in args[kept]:
            return fork_exec(*args)  # Whoever calls keeps it, to wait itself.
        args, ends = list(args), os.pipe()
        args[kept] = tuple(sorted(tuple(args[kept]) + ends[1:]))
        args[reader], args[writer] = ends
        try:
            child = fork_exec(*args)
        except BaseException:
            os.close(ends[0])
            raise
        finally:
            os.close(ends[1])
        poll = select.poll()
        poll.register(ends[0], 0)  # It asks for nothing: that the other end is closed is told anyway.
        poll.poll(BEGINS_WITHIN_S * 1000)
        os.close(ends[0])
        return child

    _posixsubprocess.fork_exec = waiting


watch_forks()
if sys.version_info < (3, 10):
    watch_spawns()
