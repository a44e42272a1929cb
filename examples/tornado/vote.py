"""A vote that everybody can watch: Tornado on $PORT, with a stream of events."""

import asyncio
import json
import os
import signal

from tornado.iostream import StreamClosedError
from tornado.web import Application, RequestHandler

ANSWERS = ("tea", "coffee")

PAGE = """<!doctype html>
<title>Tea or coffee?</title>
<h1>Tea or coffee?</h1>
<button value="tea">Tea: <span id="tea">0</span></button>
<button value="coffee">Coffee: <span id="coffee">0</span></button>
<script>
  for (const button of document.querySelectorAll("button")) {
    button.onclick = () => fetch("votes/" + button.value, {method: "POST"});
  }
  new EventSource("votes").onmessage = ({data}) => {
    for (const [answer, count] of Object.entries(JSON.parse(data))) {
      document.getElementById(answer).textContent = count;
    }
  };
</script>
"""


class Votes:
    """How many there are of each answer, and who waits for the next."""

    def __init__(self):
        self.counts = dict.fromkeys(ANSWERS, 0)
        self.changed = asyncio.Condition()

    async def give(self, answer):
        async with self.changed:
            self.counts[answer] += 1
            self.changed.notify_all()

    async def next(self):
        async with self.changed:
            await self.changed.wait()


class Page(RequestHandler):
    def get(self):
        self.write(PAGE)


class Vote(RequestHandler):
    async def post(self, answer):
        await self.application.settings["votes"].give(answer)
        self.set_status(204)


class Stream(RequestHandler):
    async def get(self):
        votes = self.application.settings["votes"]
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-store")
        try:
            while True:
                self.write("data: %s\n\n" % json.dumps(votes.counts))
                await self.flush()
                await votes.next()
        except StreamClosedError:
            pass  # The page was closed.


async def main():
    paths = [("/", Page), ("/votes", Stream), ("/votes/(%s)" % "|".join(ANSWERS), Vote)]
    server = Application(paths, votes=Votes()).listen(int(os.environ["PORT"]), "127.0.0.1")
    asked_to_end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked_to_end.set)
    await asked_to_end.wait()
    server.stop()
    await server.close_all_connections()


if __name__ == "__main__":
    asyncio.run(main())
