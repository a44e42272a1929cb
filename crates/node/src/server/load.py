# The beginning of every app server's start: finds the app. Runs on Python 2.7 and later.
#
# Called as: python -c START SETTINGS ..., where SETTINGS is a document in JSON.

import errno
import fcntl
import importlib
import inspect
import json
import os
import re
import signal
import sys
import time
import traceback

# The engine takes this status as: the app could not be loaded.
NOT_LOADED = 22

CODE = "/ace/code"

# See the engine's reading of it, where its words are listed.
REPORT = "/ace/run/report"
READ_ONLY = 1  # ST_RDONLY, which Python 2 has no name for.

# What the server and the app print, as init writes it, and how much of its end is looked at.
LOG, LOG_TAIL_BYTES = "/ace/log/current", 64 << 10

# In the words of uWSGI, gunicorn and an older gunicorn; of a fault, in those of Python and uWSGI.
KILLED = re.compile(
    "died, killed by signal ([0-9]+) |was sent (SIG[A-Z]+)!|terminated due to signal ([0-9]+)"
    "|Fatal Python error: ([A-Z][a-z -]+)|got (Segmentation Fault)"
)
FAULTS = {
    "aborted": "SIGABRT",
    "bus error": "SIGBUS",
    "floating-point exception": "SIGFPE",
    "illegal instruction": "SIGILL",
    "segmentation fault": "SIGSEGV",
}

# How deep in the source a missing module is looked for.
FOLDERS_DEEP = 3

# A worker that ends within this time after its start has never been of use.
SOON_S = 5

settings = json.loads(sys.argv.pop(1))
if str is bytes:
    # JSON has no other texts than unicode, which the app's paths are not in Python 2.
    settings["entry"] = settings["entry"].encode("utf-8")

# The app's own copy of a package wins over the server's. The empty entry comes from -c.
sys.path[:] = [CODE] + [path for path in sys.path if path] + ["/ace/server"]


def load(status=NOT_LOADED):
    """Returns what the entry names. Where that fails, says why and ends with this status."""
    begin(status)
    module, _, name = settings["entry"].partition(":")
    name = name.replace("()", "")
    try:
        found = module_named(module)
        if not hasattr(found, name):
            text = "%s has no %s; it has %s" % (found.__file__, name, callables(found) or "nothing to call")
            refuse("entry_missing", settings["entry"], text, status)
        app = getattr(found, name)
        app = app() if settings["entry"].endswith("()") else app
    except BaseException:
        kind, error, trace = sys.exc_info()
        traceback.print_exception(kind, error, own_part(trace))
        report("failed", *reason(error, module))
        leave(status)
    if not callable(app):
        kind = type(app).__name__
        refuse("entry_not_callable", kind, "%s is of type %s" % (settings["entry"], kind), status)
    report("loaded", reported()[1])
    return app


def module_named(name):
    """Imports a module by its dotted name, or by its file's path below the source."""
    path = os.path.join(CODE, name)
    if not os.path.isfile(path):
        return importlib.import_module(name)
    folder, parts = packages_of(path)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    if path.endswith(".py"):
        return importlib.import_module(".".join(parts))
    # Not by its own name: wiki.wsgi is often there for a package called wiki.
    module = type(sys)("_ace_wsgi")
    module.__file__ = path
    sys.modules[module.__name__] = module
    with open(path, "rb") as source:
        code = compile(source.read(), path, "exec", dont_inherit=True)
    exec(code, module.__dict__)
    return module


def packages_of(path):
    """Returns the folder that a file is imported from, and the names that lead to it from there."""
    folder, name = os.path.split(path)
    parts = [os.path.splitext(name)[0]]
    while folder != CODE and os.path.isfile(os.path.join(folder, "__init__.py")):
        folder, package = os.path.split(folder)
        parts.insert(0, package)
    return folder, parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts


def begin(status):
    """Makes faults of C extensions show where they were, and ends a server whose workers all end here."""
    try:
        import faulthandler

        faulthandler.enable()
    except ImportError:
        pass  # Python 2 has none.
    with Locked():
        told = reported()
        before = told[1] if told[0] == "loading" or was_soon(told) else ""
        times = 1 + (int(before) if before.isdigit() else 0)
        if told[0] != "failed":
            write_report("loading", str(times))
    if told[0] == "failed":
        leave(status)  # Another worker has said why, and the server is about to end.
    if times > settings["processes"] + 3:
        words = "worker processes end as soon as they start; that makes %d of them" % (times - 1)
        refuse("workers_end", "".join(told[2:]) or last_signal(), words, status)


def was_soon(told):
    """Returns whether the worker that had loaded the app last has done so just now."""
    try:
        return told[0] == "loaded" and time.time() - os.stat(REPORT).st_mtime < SOON_S
    except EnvironmentError:
        return False


def last_signal():
    """Returns the number of the signal that has ended a worker last, where the server logs that, or ""."""
    try:
        with open(LOG, "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - LOG_TAIL_BYTES))
            found = KILLED.findall(log.read().decode("utf-8", "replace"))
    except EnvironmentError:
        return ""
    name = "".join(found[-1]) if found else ""
    name = FAULTS.get(name.strip().lower(), name)
    return name if name.isdigit() else str(int(getattr(signal, name, 0)) or "")


def report(*words):
    """Tells the engine how far the start came, by a file that init reads at the end. A failure is final."""
    with Locked():
        if reported()[0] != "failed":
            write_report(*words)


class Locked:
    """Keeps other workers from the report."""

    def __enter__(self):
        try:
            self.file = open(REPORT + ".lock", "wb")
            fcntl.flock(self.file, fcntl.LOCK_EX)
        except EnvironmentError:
            self.file = None  # Then the report may tell less.

    def __exit__(self, *_):
        if self.file:
            self.file.close()


def write_report(*words):
    partial = "%s.%d" % (REPORT, os.getpid())
    try:
        with open(partial, "wb") as file:
            file.write(" ".join(words).encode("utf-8", "replace"))
        os.rename(partial, REPORT)  # Init reads a whole one.
    except (EnvironmentError, UnicodeError):
        pass  # The log still has it.


def reported():
    """Returns the words of the last report, two at least."""
    try:
        with open(REPORT, "rb") as file:
            return (file.read(1024).decode("utf-8", "replace") + " ").split(" ")
    except EnvironmentError:
        return ["", ""]


def refuse(word, subject, text, status):
    sys.stderr.write("ace: %s\n" % text)
    report("failed", word, subject)
    leave(status)


def reason(error, module):
    """Returns what kept `module` from loading, in a word, and what that is about."""
    full = full_place() if is_no_space(error) else None
    missing = missing_module(error)
    if full:
        return "no_space", full
    if isinstance(error, SyntaxError) and error.filename:
        return "syntax_error", "%s, line %s" % (error.filename.replace("/ace/code/", ""), error.lineno)
    if missing and (module + ".").startswith(missing + "."):
        return "entry_missing", settings["entry"]
    if missing:
        return "module_missing", (missing + " " + folder_with(missing)).strip()
    return "import_failed", type(error).__name__ + missing_variable(error)


def missing_variable(error):
    """Returns what the type of `error` is to be told with, where that looks like a variable that is not set. Nothing
    else of what an error says is: it may be secret."""
    name = error.args[0] if isinstance(error, KeyError) and error.args else ""
    is_variable = isinstance(name, str) and re.match(r"[A-Z][A-Z0-9_]+\Z", name) and name not in os.environ
    return ": " + name if is_variable else ""


def missing_module(error):
    """Returns the name of the module that was not found, if that is the error."""
    start = "No module named "
    if not isinstance(error, ImportError) or not str(error).startswith(start):
        return None
    return getattr(error, "name", None) or str(error)[len(start) :].strip("'\"")


def folder_with(module):
    """Returns the folder of the source that has `module`, which nobody looks for there, or ""."""
    for folder, folders, files in os.walk(CODE):
        is_deep = folder.count("/") - CODE.count("/") >= FOLDERS_DEEP
        folders[:] = [] if is_deep else sorted(name for name in folders if name[:1] != ".")
        has_it = module + ".py" in files or os.path.isfile(os.path.join(folder, module, "__init__.py"))
        if has_it and folder != CODE:
            return os.path.relpath(folder, CODE)
    return ""


def is_no_space(error):
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "disk is full" in str(error)


def full_place():
    """Returns the one of the places where apps write that has the least room left, if that is little.
    What was too large to be written at once need not have filled it."""
    room = {}
    for place in ("/tmp", "/ace/code", "/dev/shm", "/ace/data"):
        try:
            space = os.statvfs(place)
        except EnvironmentError:
            continue
        if space.f_flag & READ_ONLY:
            continue
        names = float(space.f_favail) / space.f_files if space.f_files else 1.0
        room[place] = min(names, float(space.f_bavail) / max(space.f_blocks, 1))
    least = min(room, key=room.get) if room else None
    return least if room and room[least] < 0.1 else None


def callables(module):
    """Returns the names of a few things in `module` that could be called as an app."""
    own = [name for name, value in sorted(vars(module).items()) if callable(value) and name[:1] != "_"]
    return ", ".join(own[:5])


def own_part(trace):
    """Returns the part of a traceback that is the app's, without what brought it there."""
    strangers = ("<string>", "<frozen", os.path.dirname(importlib.__file__))
    while trace and trace.tb_frame.f_code.co_filename.startswith(strangers):
        trace = trace.tb_next
    return trace


def interface(app):
    """Returns "wsgi", "asgi2" or "asgi3", by how `app` can be called."""
    is_async = getattr(inspect, "iscoroutinefunction", None)
    if not is_async:
        return "wsgi"
    if is_async(app) or is_async(getattr(app, "__call__", None)):
        return "asgi3"
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):
        return "wsgi"
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = len([p for p in positional if p.default is p.empty])
    others = any(p.kind == p.VAR_POSITIONAL for p in parameters)
    return "wsgi" if others else {1: "asgi2", 3: "asgi3"}.get(required, "wsgi")


def load_wsgi(status=NOT_LOADED):
    """As `load`, for servers that can't serve ASGI."""
    app = load(status)
    if interface(app) == "asgi3":
        text = (
            "%(entry)s is an ASGI application, which %(server)s can't serve; "
            "say \"server: uvicorn\" in app.yaml" % settings
        )
        refuse("wrong_interface", "asgi", text, status)
    return app


def leave(status):
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


