from gunicorn.app.base import BaseApplication

# What gunicorn itself says by which status: a worker did not boot, the app did not load.
BOOT_FAILED, LOAD_FAILED = 3, 4


class App(BaseApplication):
    def load_config(self):
        # The app may have brought a gunicorn of its own that knows less.
        for name, value in settings["options"].items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self):
        app = load_wsgi(LOAD_FAILED)

        def application(environ, start_response):
            # Over a Unix socket there is no address but the one that the gateway names.
            if not environ.get("REMOTE_ADDR"):
                environ["REMOTE_ADDR"] = environ.get("HTTP_X_FORWARDED_FOR", "")
            return app(environ, start_response)

        return application


# As systemd hands over a socket: then gunicorn takes it for somebody else's, and leaves its file be.
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
sys.argv[:] = ["gunicorn"]
try:
    App().run()
except SystemExit as end:
    if end.code in (BOOT_FAILED, LOAD_FAILED) and reported()[0] != "loaded":
        leave(NOT_LOADED)
    raise
