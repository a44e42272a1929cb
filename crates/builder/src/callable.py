# Says of an entry whether it is for ASGI, by reading the source and running none of it.
#
# Called as: python -I -c SCRIPT ENTRY, in the app's folder. The entry is MODULE:NAME or PATH:NAME. Prints
# "asgi", or nothing where that can't be seen.

import ast
import os
import sys

# What is made by calling something of these packages, or one of these, is an ASGI application.
PACKAGES = {"blacksheep", "fastapi", "litestar", "quart", "sanic", "starlette", "starlite"}
MAKERS = {
    "a2wsgi.WSGIMiddleware",
    "ariadne.asgi.GraphQL",
    "asgiref.wsgi.WsgiToAsgi",
    "channels.routing.ProtocolTypeRouter",
    "channels.routing.get_default_application",
    "connexion.AsyncApp",
    "django.core.asgi.get_asgi_application",
    "engineio.ASGIApp",
    "falcon.asgi.App",
    "socketio.ASGIApp",
    "strawberry.asgi.GraphQL",
}
# How many names and modules are followed.
DEPTH_MAX = 8


class Module:
    """What a module's names are bound to."""

    def __init__(self, dotted):
        self.dotted = dotted
        self.bound = {}
        self.path = dotted.replace(".", "/")
        self.is_package = not os.path.isfile(self.path + ".py")
        with open(self.path + ("/__init__.py" if self.is_package else ".py"), "rb") as file:
            self.bind(ast.parse(file.read()).body)

    def bind(self, body):
        for node in body:
            if isinstance(node, ast.Assign):
                self.bound.update({t.id: node.value for t in node.targets if isinstance(t, ast.Name)})
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                self.bound[node.target.id] = node.value
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                self.bound[node.name] = node
            elif isinstance(node, ast.Import):
                for name in node.names:
                    top = name.name.partition(".")[0]
                    self.bound[name.asname or top] = name.name if name.asname else top
            elif isinstance(node, ast.ImportFrom):
                origin = self.absolute(node)
                self.bound.update({n.asname or n.name: origin + "." + n.name for n in node.names})
            else:
                for part in ("body", "orelse", "finalbody"):
                    self.bind(getattr(node, part, []))

    def absolute(self, node):
        if not node.level:
            return node.module
        parts = self.dotted.split(".")
        parts = parts[: len(parts) - node.level + self.is_package]
        return ".".join(parts + [node.module] if node.module else parts)


def is_asgi(module, value, depth=0):
    """Whether `value`, an expression or the origin of an import, is an ASGI application."""
    if depth > DEPTH_MAX:
        return False
    if isinstance(value, str):
        return is_imported(value, depth)
    if isinstance(value, ast.Name):
        return is_asgi(module, module.bound.get(value.id), depth + 1)
    if isinstance(value, ast.AsyncFunctionDef):
        return len(value.args.args) == 3
    if isinstance(value, ast.Call):
        return makes_asgi(module, value.func, depth)
    return False


def is_imported(origin, depth):
    dotted, _, name = origin.rpartition(".")
    try:
        other = Module(dotted)
    except (OSError, SyntaxError, ValueError):
        return False
    return is_asgi(other, other.bound.get(name), depth + 1)


def makes_asgi(module, function, depth):
    """Whether calling `function` makes an ASGI application."""
    name = dotted_name(module, function)
    if name and (name in MAKERS or name.partition(".")[0] in PACKAGES):
        return True
    made = module.bound.get(function.id) if isinstance(function, ast.Name) else None
    if isinstance(made, ast.ClassDef):
        return any(isinstance(n, ast.AsyncFunctionDef) and n.name == "__call__" for n in made.body)
    if isinstance(made, ast.FunctionDef):
        return returns_asgi(module, made, depth)
    return False


def returns_asgi(module, function, depth):
    local = Module.__new__(Module)
    local.dotted, local.is_package, local.bound = module.dotted, module.is_package, dict(module.bound)
    local.bind(function.body)
    returned = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
    return any(is_asgi(local, value, depth + 1) for value in returned)


def dotted_name(module, node):
    """Returns what an expression such as `a.b` is called where it was imported from, or None."""
    if isinstance(node, ast.Attribute):
        base = dotted_name(module, node.value)
        return base and base + "." + node.attr
    origin = module.bound.get(node.id) if isinstance(node, ast.Name) else None
    return origin if isinstance(origin, str) else None


def of_file(path):
    """Returns the module's name of a file, having gone to the folder that it is imported from."""
    folder, name = os.path.split(os.path.splitext(path)[0])
    parts = [] if name == "__init__" else [name]
    while folder and os.path.isfile(folder + "/__init__.py"):
        folder, package = os.path.split(folder)
        parts.insert(0, package)
    os.chdir(folder or ".")
    return ".".join(parts)


entry, _, name = sys.argv[1].partition(":")
try:
    module = Module(of_file(entry) if os.path.isfile(entry) else entry)
    if name.endswith("()"):
        found = makes_asgi(module, ast.Name(id=name[:-2], ctx=ast.Load()), 0)
    else:
        found = is_asgi(module, module.bound.get(name))
except (OSError, SyntaxError, ValueError, RecursionError):
    found = False  # Whatever is wrong with it, its server will say.
print("asgi" if found else "")
