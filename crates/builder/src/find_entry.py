"""Finds what a server is to call in the source below the current folder.

It reads the source and imports none of it. The arguments are the settings module of a Django project,
where one is known beforehand, and the server that was asked for; either may be empty. Prints one JSON
document: {"entry": "index:application" or null, "looked": [what was looked for and why it wasn't that]}.
Runs on Python 2.7 and on 3.6 and later.
"""

from __future__ import print_function

import ast
import itertools
import json
import os
import re
import sys

SIZE_MAX = 4 << 20
# How much of a source is looked through for what has no usual place.
DEPTH_MAX = 4
FOLDERS_MAX = 2000
MODULES = ("app", "wsgi", "main")
SETTINGS = "DJANGO_SETTINGS_MODULE"
ASGI_SERVERS = ("uvicorn",)

# Other names that a file with an app often has; the earlier goes first.
OTHER_MODULES = ("asgi", "application", "passenger_wsgi", "server", "webapp", "run", "api", "index", "__init__")
# Where a file with an app is not this source's own, or shows how to use it.
OTHER_FOLDERS = set(
    "build contrib dist doc docs example examples migrations node_modules scripts site-packages "
    "static templates test testing tests tools vendor venv".split()
)
NOT_APPS = ("conftest", "manage", "setup")
# What these make is called "app", too, and serves no requests.
OTHER_APPS = ("Celery", "QApplication", "Typer")
# What these packages call an Application listens by itself.
LISTENING = ("aiohttp", "tornado")
# What stands before a server's command in a Procfile, its name, and its words, one of which says what it is
# to serve.
SERVER_COMMAND = re.compile(
    r"^web:(.*?)\b(gunicorn|uvicorn|hypercorn|granian|daphne|waitress-serve)\b(.*)", re.M
)
ENTRY = re.compile(r"(?<=[\s'\"])([A-Za-z_][\w.]*):(\w+(?:\(\))?)")
# A module alone, which to gunicorn means its `application`; and where it is to be looked for.
MODULE = re.compile(r"(?<=\s)([A-Za-z_][\w.]*)(?=\s|$)")
FOLDER = re.compile(r"(?:\bcd\s+|--chdir[\s=]+)['\"]?([\w-][\w./-]*)")


class Module(object):
    """One file of the source, and the names that it binds where everyone can see them."""

    def __init__(self, path):
        self.path = path
        # Of a file that doesn't parse nothing is known: whoever imports it will say what is wrong.
        self.broken = False
        self.tree = ast.Module(body=[])
        try:
            with open(path, "rb") as source:
                self.tree = ast.parse(source.read(SIZE_MAX), path)
        except Exception:
            self.broken = True
        self.names = dict(bindings(self.tree.body))

    def has(self, name):
        return self.broken or name in self.names

    def makes(self, name):
        """Whether `name` can be called without arguments."""
        node = self.names.get(name)
        if not isinstance(node, ast.FunctionDef):
            return name in self.names
        keyword_only = zip(getattr(node.args, "kwonlyargs", []), getattr(node.args, "kw_defaults", []))
        required = [argument for argument, default in keyword_only if default is None]
        return len(node.args.args) == len(node.args.defaults) and not required

    def serves(self):
        """What a server can call of it, or None."""
        # As Dash is used: the app itself can't be called before its version 4.
        server = getattr(self.names.get("server"), "value", None)
        if is_a(server, "Attribute") and server.attr == "server":
            return "server"
        for name in ("application", "app"):
            if self.has(name) and not self.is_something_else(name):
                return name
        return "create_app()" if self.makes("create_app") else None

    def is_something_else(self, name):
        """Whether `name` is bound to what no server can call."""
        node = self.names.get(name)
        if isinstance(node, ast.FunctionDef):
            # A server calls it with one argument, two or three.
            return not node.args.args and not node.args.vararg
        function = getattr(getattr(node, "value", None), "func", None)
        made = getattr(function, "attr", getattr(function, "id", None))
        return made in OTHER_APPS or (made == "Application" and self.imports(LISTENING))

    def imports(self, packages):
        """Whether it imports anything of `packages`."""
        for node in ast.walk(self.tree):
            origin = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else origin
            if any(name.split(".")[0] in packages for name in names):
                return True
        return False

    def is_relative(self):
        """Whether it imports from the package that it is in."""
        return any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(self.tree))


def bindings(body):
    """The names that statements bind, each with the node that does."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) or is_a(node, "AsyncFunctionDef"):
            yield node.name, node
            continue
        if isinstance(node, ast.Assign):
            for target in node.targets:
                for part in ast.walk(target):
                    if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                        yield part.id, node
        elif is_a(node, "AnnAssign") and node.value is not None and isinstance(node.target, ast.Name):
            yield node.target.id, node
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, node
        for part in ("body", "orelse", "finalbody", "handlers"):
            for inner in bindings(getattr(node, part, [])):
                yield inner


def is_a(node, kind):
    """As isinstance, for kinds that not every Python has."""
    return type(node).__name__ == kind


def text(node):
    """The text that a node stands for, if it is one."""
    found = node.s if is_a(node, "Str") else getattr(node, "value", None)
    return found if isinstance(found, (str, type(u""))) else None


def module_file(name, folder=""):
    """The file that `import NAME` would find in `folder`."""
    path = os.path.join(folder, name.replace(".", "/"))
    for path in (path + ".py", path + "/__init__.py"):
        if os.path.isfile(path):
            return path
    return None


def find_index(looked):
    if not os.path.isfile("index.py"):
        looked.append("there is no index.py")
        return None
    module = Module("index.py")
    if module.has("application") or module.has("*"):
        return "index:application"
    looked.append("index.py defines no application")
    return None


def find_django(settings, server, looked):
    if not os.path.isfile("manage.py"):
        looked.append("there is no manage.py of a Django project")
        return None
    settings = settings or next(settings_of(Module("manage.py").tree), None)
    if not settings:
        looked.append("manage.py names no " + SETTINGS)
        return None
    for entry in entries_of_django(settings, server):
        if module_file(entry.split(":")[0]):
            return entry
    looked.append("the Django project of manage.py, whose settings are %s, has no wsgi.py" % settings)
    return None


def settings_of(tree):
    """The settings modules that manage.py sets, by a call or by an assignment."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and len(node.args) == 2 and text(node.args[0]) == SETTINGS:
            yield text(node.args[1])
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            if SETTINGS in [text(part) for part in ast.walk(node.targets[0])]:
                yield text(node.value)


def entries_of_django(settings, server):
    """What a Django project may be served by; the best goes first."""
    wsgi = list(named_by_settings(settings, "WSGI_APPLICATION")) + list(beside_settings(settings, "wsgi"))
    # Who names it uses Channels, which WSGI can't serve.
    asgi = list(named_by_settings(settings, "ASGI_APPLICATION"))
    if server in ASGI_SERVERS:
        return asgi + list(beside_settings(settings, "asgi")) + wsgi
    return wsgi + asgi if server else asgi + wsgi


def named_by_settings(settings, key):
    """The entry that `key` names, in the settings or in what they take all names from."""
    package = settings.rpartition(".")[0]
    for name in (settings, package + ".base", settings + ".base", package + ".common"):
        path = module_file(name)
        for node in ast.walk(Module(path).tree) if path else ():
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == key:
                module, _, attribute = (text(node.value) or "").rpartition(".")
                yield module + ":" + attribute


def beside_settings(settings, name):
    """wsgi.py or asgi.py in the folder of the settings and in those above it."""
    package = settings.rpartition(".")[0]
    while package:
        yield "%s.%s:application" % (package, name)
        package = package.rpartition(".")[0]


def find_usual(looked):
    for name in MODULES:
        path = module_file(name)
        if path is None:
            looked.append("there is no %s.py" % name)
            continue
        module = Module(path)
        attribute = module.serves()
        if attribute:
            return name + ":" + attribute
        why = "whose create_app needs arguments and which has no" if module.has("create_app") else "with no"
        looked.append("%s, %s application, app or create_app()" % (path, why))
    return None


def find_elsewhere(server, looked):
    """What a source of a less usual shape has: the one file whose name and content speak for it."""
    web = procfile()
    entry = next(named_by_command(web), None)
    if entry:
        return entry
    # What listens by itself is not guessed at, where nobody asked for a server of ours; nor is a site of pages.
    if (web and not server) or (os.path.isfile("index.html") and not any(is_python(n) for n in os.listdir("."))):
        return None
    for candidates in (scripts_at_top, modules_at_top, gateways_below, modules_below):
        found = candidates(server)
        if len(found) == 1:
            return found[0]
        if found:
            looked.append("several files could be it: " + ", ".join(sorted(found)[:8]))
            return None
    looked.append("no other file that looks like it")
    return None


def named_by_command(web):
    """The entries that the command of a server names."""
    for before, server, words in SERVER_COMMAND.findall(web):
        folders = FOLDER.findall(before + words)[-1:] + [""]
        modules = MODULE.findall(words) if server == "gunicorn" else []
        named = ENTRY.findall(words) + [(name, "") for name in modules]
        for (name, attribute), folder in itertools.product(named, folders):
            path = module_file(name, folder)
            module = Module(path) if path else None
            if not module or not (attribute or module.has("application")):
                continue
            attribute = attribute or "application"
            if not module.is_something_else(attribute):
                yield (os.path.normpath(path) if folder else name) + ":" + attribute


def procfile():
    """Returns the Procfile, if it has a line for web."""
    try:
        with open("Procfile", "rb") as file:
            content = file.read(64 << 10).decode("utf-8", "replace")
    except (IOError, OSError):
        return ""
    return content if re.search("^web:", content, re.M) else ""


def is_python(name):
    return name.endswith((".py", ".wsgi", ".toml")) or name.startswith(("requirements", "Pipfile"))


def scripts_at_top(_server):
    return entries_in(".", scripts(os.listdir(".")))


def scripts(names):
    """Files for mod_wsgi, whatever they are called, but for tests."""
    return [name for name in names if name.endswith(".wsgi") and is_app_name(name[:-5])]


def modules_at_top(_server):
    names = [name for name in os.listdir(".") if name.endswith(".py") and is_app_name(name[:-3])]
    for name in OTHER_MODULES:
        found = entries_in(".", [name + ".py"]) if name + ".py" in names else []
        if found:
            return found
    return entries_in(".", names)


def is_app_name(stem):
    return stem not in NOT_APPS + ("__init__",) and not stem.startswith("test")


def gateways_below(server):
    """Files that are there for a server, in the folders that are least deep."""
    first, second = ("asgi.py", "wsgi.py") if server in ASGI_SERVERS else ("wsgi.py", "asgi.py")
    def of_folder(folder, names):
        gateway = entries_in(folder, [first]) or entries_in(folder, [second])
        return gateway or entries_in(folder, scripts(names))
    return least_deep(of_folder)


def modules_below(_server):
    def of_folder(folder, _names):
        for stem in MODULES + OTHER_MODULES + (os.path.basename(folder),):
            found = entries_in(folder, [stem + ".py"])
            if found:
                return found
        return []
    return least_deep(of_folder)


def least_deep(of_folder):
    """What `of_folder` finds in folders of the source, in those alone that are least deep."""
    level = ["."]
    seen = 0
    for _ in range(DEPTH_MAX):
        level = sorted(below for folder in level for below in folders_in(folder))
        seen += len(level)
        if seen > FOLDERS_MAX:
            return []
        found = [entry for folder in level for entry in of_folder(folder, os.listdir(folder))]
        if found:
            return found
    return []


def folders_in(folder):
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.path.isdir(path) and not os.path.islink(path):
            if name not in OTHER_FOLDERS and not name.startswith((".", "_")):
                yield path


def entries_in(folder, names):
    """The entries in those of the files that are there and have something to serve."""
    found = []
    for name in names:
        path = os.path.normpath(os.path.join(folder, name))
        module = Module(path) if os.path.isfile(path) else None
        attribute = module and not module.broken and module.serves()
        if attribute and not is_nothing(module.names.get(attribute)):
            found.append("%s:%s" % (importable(path, module), attribute))
    return found


def is_nothing(node):
    """Whether a binding is there for others to fill."""
    value = getattr(node, "value", None)
    return is_a(value, "NameConstant") or is_a(value, "Constant") or getattr(value, "id", "") == "None"


def importable(path, module):
    """The dotted name that imports a file from the source's top, or else its path."""
    stem, ending = os.path.splitext(path)
    parts = stem.split("/")
    folders = ["/".join(parts[:end]) for end in range(1, len(parts))]
    packages = [folder for folder in folders if os.path.isfile(folder + "/__init__.py")]
    if parts[-1] == "__init__":
        parts.pop()
    is_name = all(re.match(r"[A-Za-z_]\w*\Z", part) for part in parts)
    # Where no folder is a package, the file is a program of its folder's, unless it says otherwise.
    is_of_top = packages == folders or (not packages and module.is_relative())
    return ".".join(parts) if ending == ".py" and is_name and is_of_top else path


def main():
    looked = []
    settings, server = (sys.argv[1:] + ["", ""])[:2]
    entry = find_index(looked) or find_django(settings, server, looked) or find_usual(looked)
    entry = entry or find_elsewhere(server, looked)
    print(json.dumps({"entry": entry, "looked": looked}))


main()
