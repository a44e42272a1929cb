import signal
import time

import uvicorn


def make():
    """Returns the app for uvicorn, which calls this when its event loop runs."""
    app = load()
    kind = interface(app)
    if kind == "wsgi":
        from uvicorn.middleware.wsgi import WSGIMiddleware

        return WSGIMiddleware(app)
    if kind == "asgi2":
        from uvicorn.middleware.asgi2 import ASGI2Middleware

        return ASGI2Middleware(app)
    return app


def serve():
    # The app may have brought a uvicorn of its own that knows less.
    known = inspect.signature(uvicorn.Config).parameters
    options = {name: value for name, value in settings["options"].items() if name in known}
    server = uvicorn.Server(uvicorn.Config(make, factory=True, interface="asgi3", **options))
    server.run()
    # It never listened: the app's lifespan did not begin.
    return 0 if server.started else NOT_LOADED


class Supervisor:
    """Keeps workers running, each with the app of its own; uvicorn's would start them for ever."""

    def __init__(self, count):
        self.count = count
        self.workers = set()
        self.stopping = False
        self.status = 0

    def run(self):
        signal.signal(signal.SIGTERM, lambda *_: self.stop(0))
        while True:
            while len(self.workers) < self.count and not self.stopping:
                self.start()
            worker, status = os.wait()
            self.workers.discard(worker)
            if not self.stopping:
                self.ended(worker, status)
            if self.stopping and not self.workers:
                return self.status

    def start(self):
        # No signal in between: it would miss the new worker.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        worker = os.fork()
        if not worker:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            sys.exit(serve())
        self.workers.add(worker)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])

    def ended(self, worker, status):
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == NOT_LOADED:
            return self.stop(NOT_LOADED)
        sys.stderr.write("ace: worker %d ended; another takes its place\n" % worker)
        time.sleep(1)

    def stop(self, status):
        self.stopping = True
        self.status = status
        for worker in self.workers:
            os.kill(worker, signal.SIGTERM)


sys.argv[:] = ["uvicorn"]
processes = settings["processes"]
sys.exit(serve() if processes == 1 else Supervisor(processes).run())
