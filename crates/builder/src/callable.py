# Says of an entry whether it is for ASGI, by reading the source and running none of it.
#
# Called as: python -I -c SCRIPT ENTRY ENVIRONMENT, in the app's folder. The entry is MODULE:NAME or PATH:NAME.
# Prints "asgi", or nothing where that can't be seen.

import ast
import collections
import os
import sys

# What is made by calling something of these packages, or one of these, is an ASGI application, and so is what
# methods of that make.
PACKAGES = {"blacksheep", "fastapi", "litestar", "quart", "sanic", "starlette", "starlite"}
MAKERS = {
    "a2wsgi.WSGIMiddleware",
    "ariadne.asgi.GraphQL",
    "asgiref.wsgi.WsgiToAsgi",
    "channels.routing.ProtocolTypeRouter",
    "channels.routing.get_default_application",
    "connexion.AsyncApp",
    "datasette.app.Datasette",
    "django.core.asgi.get_asgi_application",
    "engineio.ASGIApp",
    "falcon.asgi.App",
    "gradio.mount_gradio_app",
    "marimo.create_asgi_app",
    "socketio.ASGIApp",
    "strawberry.asgi.GraphQL",
}
# How many names and modules are followed.
DEPTH_MAX = 12

PACKAGES_FOLDER = "%s/lib/python%d.%d/site-packages/" % (sys.argv[2], *sys.version_info[:2])


PartOfTuple = collections.namedtuple("PartOfTuple", "tuple index")


class Module:
    """What a module's names are bound to."""

    def __init__(self, dotted):
        self.dotted = dotted
        self.bound = {}
        self.everything_of = []
        path, self.is_package = place(dotted.replace(".", "/"))
        with open(path, "rb") as file:
            self.bind(ast.parse(file.read()).body)

    def bind(self, body):
        for node in body:
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    self.bind_target(target, node.value)
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
                self.everything_of += [origin] * (node.names[0].name == "*")
            else:
                for part in ("body", "orelse", "finalbody"):
                    self.bind(getattr(node, part, []))

    def bind_target(self, target, value):
        if isinstance(target, ast.Name):
            self.bound[target.id] = value
        elif isinstance(target, ast.Tuple):
            for index, part in enumerate(target.elts):
                self.bind_target(part, PartOfTuple(value, index))

    def find(self, name, depth=0):
        """Returns what `name` is bound to, here or by an `import *`; or None."""
        if name in self.bound or depth > DEPTH_MAX:
            return self.bound.get(name)
        for origin in self.everything_of:
            other = module_of(origin)
            if other and other.find(name, depth + 1) is not None:
                return origin + "." + name
        return None

    def absolute(self, node):
        if not node.level:
            return node.module
        parts = self.dotted.split(".")
        parts = parts[: len(parts) - node.level + self.is_package]
        return ".".join(parts + [node.module] if node.module else parts)


def place(path):
    """Returns the file of the module at `path`, and whether it is a package's; the app's own comes first."""
    for folder in ("", PACKAGES_FOLDER):
        for end in (".py", "/__init__.py"):
            if os.path.isfile(folder + path + end):
                return folder + path + end, end != ".py"
    raise OSError("no module " + path)


def module_of(dotted):
    try:
        return Module(dotted)
    except (OSError, SyntaxError, ValueError):
        return None


def is_asgi(module, value, depth=0):
    """Whether `value`, an expression or the origin of an import, is an ASGI application."""
    if depth > DEPTH_MAX:
        return False
    if isinstance(value, str):
        found = imported(value)
        return bool(found) and is_asgi(*found, depth + 1)
    if isinstance(value, ast.Name):
        return is_asgi(module, module.find(value.id), depth + 1)
    if isinstance(value, ast.AsyncFunctionDef):
        return len(value.args.args) == 3
    if isinstance(value, ast.ClassDef):
        return is_asgi_class(module, value)
    if isinstance(value, ast.Call):
        return makes_asgi(module, value.func, depth)
    if isinstance(value, PartOfTuple) and isinstance(value.tuple, ast.Call):
        return makes_asgi(module, value.tuple.func, depth, value.index)
    return False


def is_asgi_class(module, made):
    """Whether calling a class serves a request: what comes of that is awaited."""
    origins = [dotted_name(module, base) or "" for base in made.bases]
    has_await = any(getattr(node, "name", None) == "__await__" for node in made.body)
    return has_await or any(origin.startswith("starlette.endpoints.") for origin in origins)


def imported(origin):
    """Returns the module that something is imported from, and what it is bound to there; or None."""
    dotted, _, name = origin.rpartition(".")
    other = module_of(dotted) if dotted else None
    return other and (other, other.find(name))


def makes_asgi(module, function, depth, index=None):
    """Whether calling `function` makes an ASGI application, alone or as this part of a tuple."""
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Call):
        return is_asgi(module, function.value, depth + 1)
    name = dotted_name(module, function)
    if name and index is None and (name in MAKERS or name.partition(".")[0] in PACKAGES):
        return True
    made = module.find(function.id) if isinstance(function, ast.Name) else name
    origin, made = followed(module, made)
    if isinstance(made, ast.ClassDef):
        return makes_asgi_objects(origin, made, depth)
    if isinstance(made, ast.FunctionDef):
        return returns_asgi(origin, made, depth, index)
    # A class makes objects of its own by its methods, too.
    origin, made = followed(module, name.rpartition(".")[0] if name else None)
    return index is None and isinstance(made, ast.ClassDef) and makes_asgi_objects(origin, made, depth)


def followed(module, made):
    """Returns what `made`, which may be the origin of an import, is in the end, and the module that it is in."""
    for _ in range(DEPTH_MAX):
        if not isinstance(made, str):
            break
        module, made = imported(made) or (None, None)
    return module, made


def makes_asgi_objects(module, made, depth):
    """Whether objects of the class `made` are ASGI applications, by a method of its own or a base."""
    if any(isinstance(node, ast.AsyncFunctionDef) and node.name == "__call__" for node in made.body):
        return True
    return depth < DEPTH_MAX and any(makes_asgi(module, base, depth + 1) for base in made.bases)


def returns_asgi(module, function, depth, index):
    local = Module.__new__(Module)
    local.__dict__.update(vars(module), bound=dict(module.bound), everything_of=list(module.everything_of))
    local.bind(function.body)
    for node in ast.walk(function):
        value = node.value if isinstance(node, ast.Return) else None
        if isinstance(value, ast.Tuple) and index is not None:
            value = value.elts[index] if index < len(value.elts) else None
        if is_asgi(local, value, depth + 1):
            return True
    return False


def dotted_name(module, node):
    """Returns what an expression such as `a.b` is called where it was imported from, or None."""
    if isinstance(node, ast.Attribute):
        base = dotted_name(module, node.value)
        return base and base + "." + node.attr
    origin = module.find(node.id) if isinstance(node, ast.Name) else None
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
        found = is_asgi(module, module.find(name))
except (OSError, SyntaxError, ValueError, RecursionError):
    found = False  # Whatever is wrong with it, its server will say.
print("asgi" if found else "")
