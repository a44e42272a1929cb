class Supervisor:
    """Keeps `count` workers running, each of which serves by `serve` and has the app of its own."""

    def __init__(self, serve, count):
        self.serve = serve
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
            sys.exit(self.serve())
        self.workers.add(worker)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])

    def ended(self, worker, status):
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == NOT_LOADED:
            return self.stop(NOT_LOADED)
        told = reported()
        if os.WIFSIGNALED(status) and told[0] == "loading":
            report("loading", told[1], str(os.WTERMSIG(status)))  # For the next one to know.
        sys.stderr.write("ace: worker %d ended; another takes its place\n" % worker)
        time.sleep(1)

    def stop(self, status):
        self.stopping = True
        self.status = status
        for worker in self.workers:
            os.kill(worker, signal.SIGTERM)


def serve_by(serve):
    """Serves in this process, or in as many workers as are wanted; returns the status to end with."""
    count = settings["processes"]
    return serve() if count == 1 else Supervisor(serve, count).run()


