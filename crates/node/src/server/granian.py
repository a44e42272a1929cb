import itertools
import socket

import granian
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.net import SocketHolder
from granian.server import Server

SOCKET, BACKLOG = 3, 1024


class InProcess(Server):
    """Serves in this very process, where granian would start one of its own for each worker, and on
    the socket that was handed over, where it would bind one."""

    def _init_shared_socket(self):
        self._ssp, self._sfd = None, SOCKET
        self._shd = SocketHolder(SOCKET, True, BACKLOG)
        self._sso = socket.socket(fileno=os.dup(SOCKET))

    def _spawn_workers(self, target, loader):
        self._spawn_worker(0, target, loader).inner.run()  # Returns when it's asked to end.
        self.interrupt_signal = True
        self.main_loop_interrupt.set()

    def _stop_workers(self):
        pass


def serve():
    app = load()
    kind = interface(app)
    options = dict(settings["options"], interface=Interfaces.ASGI)
    if kind == "wsgi":
        options.update(interface=Interfaces.WSGI, websockets=False)
    else:
        options["blocking_threads"] = 1  # It has none but the event loop's.
    options["http"] = HTTPModes.http1
    options["log_level"] = LogLevels.error
    options["http1_settings"] = HTTP1Settings(header_read_timeout=options.pop("keep_alive_ms"))
    # The app may have brought a granian of its own that knows less.
    known = inspect.signature(Server.__init__).parameters
    options = {name: value for name, value in options.items() if name in known}
    adapted = {"wsgi": wsgi, "asgi2": asgi2, "asgi3": asgi}[kind](app)
    InProcess(settings["entry"], **options).serve(target_loader=lambda: adapted, wrap_loader=False)
    return 0


class Reply:
    """What a WSGI app answers. granian takes status and headers as soon as the app has returned, and
    has no write(); but a generator calls start_response only when it's asked for its first part."""

    def __init__(self):
        self.head = None
        self.parts = []

    def start_response(self, status, headers, exc_info=None):
        self.head = status, [(name, as_utf8(value)) for name, value in headers]
        return self.parts.append

    def first_parts(self, rest):
        """Asks for parts of the body until the first that is not empty."""
        for part in rest:
            self.parts.append(part)
            if part:
                break
        return self.parts


class Body:
    """The parts of a WSGI app's body."""

    def __init__(self, parts, made_by):
        self.parts = parts
        self.made_by = made_by

    def __iter__(self):
        return self.parts

    def close(self):
        getattr(self.made_by, "close", int)()


def as_utf8(value):
    """Returns a WSGI header's value, which stands for bytes, as the text that granian encodes to them."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def wsgi(app):
    has_siblings = settings["processes"] > 1

    def application(environ, start_response):
        scheme = environ.get("HTTP_X_FORWARDED_PROTO", "http")
        name, _, port = environ.get("HTTP_HOST", "").rpartition(":")
        if not port.isdigit():
            name, port = environ.get("HTTP_HOST", ""), {"https": "443"}.get(scheme, "80")
        environ["REMOTE_ADDR"] = environ.get("HTTP_X_FORWARDED_FOR", "")
        environ["SERVER_NAME"], environ["SERVER_PORT"] = name, port
        environ["wsgi.url_scheme"] = scheme
        environ["wsgi.multiprocess"] = has_siblings
        reply = Reply()
        body = app(environ, reply.start_response)
        if reply.head and isinstance(body, list):
            start_response(*reply.head)
            return reply.parts + body
        rest = iter(body)
        first = reply.first_parts(rest)
        if not reply.head:
            raise AssertionError("the app has not called start_response()")
        start_response(*reply.head)
        return Body(itertools.chain(first, rest), body)

    return application


def asgi(app):
    async def application(scope, receive, send):
        if scope["type"] == "lifespan":
            return await app(scope, receive, told(send))
        headers = dict(scope["headers"])
        client = headers.get(b"x-forwarded-for", b"").decode("latin-1")
        scheme = headers.get(b"x-forwarded-proto", b"http").decode("latin-1")
        scope["client"] = (client, 0) if client else None
        scope["scheme"] = scheme.replace("http", "ws") if scope["type"] == "websocket" else scheme
        await app(scope, receive, send)

    return application


def asgi2(app):
    async def application(scope, receive, send):
        await app(scope)(receive, send)

    return asgi(application)


def told(send):
    """Returns `send` for an app's lifespan. An app that says that it can't start ends the server."""

    async def sent(message):
        if message["type"] == "lifespan.startup.failed":
            text = message.get("message") or "its lifespan did not start"
            refuse("startup_failed", "", text, NOT_LOADED)
        await send(message)

    return sent


if "uds" not in (SocketHolder.__text_signature__ or ""):
    sys.stderr.write(
        "ace: granian %s, of the app's requirements, can't be handed a Unix socket; 2.5 and later can\n"
        % getattr(granian, "__version__", "")
    )
    leave(NOT_LOADED)

sys.argv[:] = ["granian"]
sys.exit(serve_by(serve))
