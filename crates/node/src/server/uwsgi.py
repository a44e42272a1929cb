# So much of a body's begin is remembered, and of one that is kept as a whole, so much in memory.
REMEMBERED = 1 << 20


# uWSGI takes the name of a function in a module, and calls it in each worker.
def load_in_worker():
    # uWSGI has its own idea of it, which lacks the packages; old versions have no option for it.
    sys.executable = "/ace/user/virtualenv/bin/python"
    return as_elsewhere(load_wsgi())


def as_elsewhere(app):
    """Returns `app` in surroundings like those of other servers."""
    unblocked = set()

    def application(environ, start_response):
        # uWSGI's threads block all signals, and what the app started from one would inherit that: only SIGKILL
        # could end it. The master's signals go to the worker's first thread nevertheless. So it is with pipes.
        if thread() not in unblocked:
            sigmask(SIG_SETMASK, ())
            unblocked.add(thread())
            for pipe in server_pipes():
                fcntl.fcntl(pipe, fcntl.F_SETFD, fcntl.FD_CLOEXEC)

        def start(status, headers, error=None):
            # uWSGI takes the app's own report of an error for a failure of this call.
            return start_response(status, headers)

        environ["wsgi.input"] = Body(environ["wsgi.input"])
        try:
            parts = app(environ, start)
        except Exception:
            if not tell_failure(start):
                raise
            return [FAILURE]
        # What uWSGI knows how to send by itself goes to it as it is: lists, and files.
        if isinstance(parts, (list, tuple)) or hasattr(parts, "read"):
            return parts
        return Answer(parts, start)

    return application


class Body(object):
    """A request's body. It can be sought through, which Zope does and uWSGI refuses, if that begins before
    much has been read: then all of it is kept, in memory or `/tmp`."""

    def __init__(self, source):
        self.source = source
        self.is_kept = False
        self.begin = []  # What has been read, until it is too much to be remembered.
        self.begin_size = 0

    def read(self, *size):
        return self.remember(self.source.read(*size))

    def readline(self, *size):
        return self.remember(self.source.readline(*size))

    def readlines(self, *size):
        return [self.remember(line) for line in self.source.readlines(*size)]

    def __iter__(self):
        return iter(self.readline, b"")

    def seek(self, *place):
        return self.kept().seek(*place)

    def tell(self):
        return self.kept().tell()

    def remember(self, part):
        self.begin_size += len(part)
        if self.is_kept or self.begin_size > REMEMBERED:
            self.begin = None
        else:
            self.begin.append(part)
        return part

    def kept(self):
        """Returns a file that has all of the body, and stands where it has been read to."""
        if not self.is_kept:
            if self.begin is None:
                raise EnvironmentError("too much of the body has been read to begin anew")
            self.source, self.is_kept = copy(self.begin, self.source), True
        return self.source


def copy(begin, rest):
    import tempfile  # Here: few apps need it, and it takes its time.

    file = tempfile.SpooledTemporaryFile(REMEMBERED)
    file.write(b"".join(begin))
    place = file.tell()
    for part in iter(lambda: rest.read(1 << 16), b""):
        file.write(part)
    file.seek(place)
    return file


class Answer(object):
    """An answer in parts, the first of which may fail to come."""

    def __init__(self, parts, start):
        self.parts = parts
        self.start = start

    def __iter__(self):
        try:
            for part in self.parts:
                yield part
        except Exception:
            if not tell_failure(self.start):
                raise
            yield FAILURE

    def close(self):
        if hasattr(self.parts, "close"):
            self.parts.close()


FAILURE = b"Internal Server Error\n"


def tell_failure(start):
    """Begins the answer to a request that failed, for which uWSGI itself hangs up. Returns whether there
    was still time for that."""
    try:
        start("500 Internal Server Error", [("Content-Type", "text/plain")])
    except EnvironmentError:
        return False  # Some of another answer has been sent. uWSGI shows what failed.
    traceback.print_exc()
    return True


try:
    from threading import get_ident as thread
except ImportError:
    from thread import get_ident as thread  # Python 2.

entry = type(sys)("_ace_entry")
entry.load = load_in_worker
sys.modules["_ace_entry"] = entry

import pyuwsgi

sys.exit(pyuwsgi.run())
