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
    # At its end it raises the signal that ended it once more, which is not to take the app's atexit away.
    signal.signal(signal.SIGTERM, lambda *_: None)
    server.run()
    if server.started:
        return 0
    report("failed", "startup_failed")  # It never listened: the app's lifespan did not begin.
    return NOT_LOADED


sys.argv[:] = ["uvicorn"]
sys.exit(serve_by(serve))
