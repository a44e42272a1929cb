# The beginning of every app server's start: finds the app. Runs on Python 2.7 and later.
#
# Called as: python -c START SETTINGS ..., where SETTINGS is a document in JSON.

import importlib
import inspect
import json
import os
import sys
import traceback

# The engine takes this status as: the app could not be loaded.
NOT_LOADED = 22

CODE = "/ace/code"

settings = json.loads(sys.argv.pop(1))

# The app's own copy of a package wins over the server's. The empty entry comes from -c.
sys.path[:] = [CODE] + [path for path in sys.path if path] + ["/ace/server"]


def load(status=NOT_LOADED):
    """Returns what the entry names. Where that fails, says why and ends with this status."""
    module, _, name = settings["entry"].partition(":")
    try:
        app = getattr(module_named(module), name.replace("()", ""))
        return app() if name.endswith("()") else app
    except BaseException:
        kind, error, trace = sys.exc_info()
        traceback.print_exception(kind, error, own_part(trace))
        leave(status)


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
        sys.stderr.write(
            "ace: %(entry)s is an ASGI application, which %(server)s can't serve; "
            "say \"server: uvicorn\" in app.yaml\n" % settings
        )
        leave(status)
    return app


def leave(status):
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


