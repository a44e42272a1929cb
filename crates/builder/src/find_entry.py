"""Finds what a server is to call in the source below the current folder.

It reads the source and imports none of it. The argument is the settings module of a Django project,
where one is known beforehand. Prints one JSON document: {"entry": "index:application" or null,
"looked": [what was looked for and why it wasn't that]}. Runs on Python 2.7 and on 3.6 and later.
"""

from __future__ import print_function

import ast
import json
import os
import sys

SIZE_MAX = 4 << 20
MODULES = ("app", "wsgi", "main")
SETTINGS = "DJANGO_SETTINGS_MODULE"


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


def bindings(body):
    """The names that statements bind, each with the node that does."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) or is_a(node, "AsyncFunctionDef"):
            yield node.name, node
            continue
        if isinstance(node, ast.Assign):
            for target in node.targets:
                for part in ast.walk(target):
                    if isinstance(part, ast.Name):
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


def module_file(name):
    """The file that `import NAME` would find."""
    path = name.replace(".", "/")
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


def find_django(settings, looked):
    if not os.path.isfile("manage.py"):
        looked.append("there is no manage.py of a Django project")
        return None
    settings = settings or next(settings_of(Module("manage.py").tree), None)
    if not settings:
        looked.append("manage.py names no " + SETTINGS)
        return None
    entries = list(named_by_settings(settings)) + list(beside_settings(settings))
    for entry in entries:
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


def named_by_settings(settings):
    """The entry that WSGI_APPLICATION names, in the settings or in what they take all names from."""
    package = settings.rpartition(".")[0]
    for name in (settings, package + ".base", settings + ".base", package + ".common"):
        path = module_file(name)
        for node in ast.walk(Module(path).tree) if path else ():
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "WSGI_APPLICATION":
                module, _, attribute = (text(node.value) or "").rpartition(".")
                yield module + ":" + attribute


def beside_settings(settings):
    """wsgi.py in the folder of the settings and in those above it."""
    package = settings.rpartition(".")[0]
    while package:
        yield package + ".wsgi:application"
        package = package.rpartition(".")[0]


def find_usual(looked):
    for name in MODULES:
        path = module_file(name)
        if path is None:
            looked.append("there is no %s.py" % name)
            continue
        module = Module(path)
        for attribute in ("application", "app"):
            if module.has(attribute):
                return name + ":" + attribute
        if module.makes("create_app"):
            return name + ":create_app()"
        why = "whose create_app needs arguments and which has no" if module.has("create_app") else "with no"
        looked.append("%s, %s application, app or create_app()" % (path, why))
    return None


def main():
    looked = []
    settings = sys.argv[1] if len(sys.argv) > 1 else ""
    entry = find_index(looked) or find_django(settings, looked) or find_usual(looked)
    print(json.dumps({"entry": entry, "looked": looked}))


main()
