# Of a body that is kept, so much in memory.
KEPT_IN_MEMORY = 1 << 20


# uWSGI takes the name of a function in a module, and calls it in each worker.
def load_in_worker():
    # uWSGI has its own idea of it, which lacks the packages; old versions have no option for it.
    sys.executable = "/ace/user/virtualenv/bin/python"
    return as_elsewhere(load_wsgi())


def as_elsewhere(app):
    """Returns `app` in surroundings like those of other servers."""

    def application(environ, start_response):
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
    anything is read: then all of it is kept, in memory or `/tmp`."""

    def __init__(self, source):
        self.source = source
        self.is_kept = False
        self.is_begun = False

    def read(self, *size):
        self.is_begun = True
        return self.source.read(*size)

    def readline(self, *size):
        self.is_begun = True
        return self.source.readline(*size)

    def readlines(self, *size):
        self.is_begun = True
        return self.source.readlines(*size)

    def __iter__(self):
        self.is_begun = True
        return iter(self.source)

    def seek(self, *place):
        return self.kept().seek(*place)

    def tell(self):
        return self.kept().tell()

    def kept(self):
        if self.is_begun and not self.is_kept:
            raise EnvironmentError("the body is read already, and was not kept")
        if not self.is_kept:
            import tempfile  # Here: few apps need it, and it takes its time.

            file = tempfile.SpooledTemporaryFile(KEPT_IN_MEMORY)
            for part in iter(lambda: self.source.read(1 << 16), b""):
                file.write(part)
            file.seek(0)
            self.source, self.is_kept = file, True
        return self.source


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


entry = type(sys)("_ace_entry")
entry.load = load_in_worker
sys.modules["_ace_entry"] = entry

import pyuwsgi

sys.exit(pyuwsgi.run())
