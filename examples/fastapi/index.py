"""A page where visitors talk to each other, and a stream of ticks."""

import asyncio
from contextlib import asynccontextmanager

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse, StreamingResponse

PAGE = """<!doctype html>
<title>A room to talk in</title>
<h1>A room to talk in</h1>
<ul id="said"></ul>
<form id="form"><input id="text" autofocus autocomplete="off"><button>Say</button></form>
<script>
  const socket = new WebSocket(location.href.replace(/^http/, "ws") + "room");
  socket.onmessage = ({data}) => {
    const line = document.createElement("li");
    line.textContent = data;
    said.append(line);
  };
  form.onsubmit = (event) => {
    event.preventDefault();
    socket.send(text.value);
    text.value = "";
  };
</script>
"""


@asynccontextmanager
async def lifespan(app):
    app.state.visitors = set()
    yield


application = FastAPI(lifespan=lifespan)


@application.get("/", response_class=HTMLResponse)
async def page():
    return PAGE


@application.get("/visitors")
async def visitors():
    return {"here": len(application.state.visitors)}


@application.websocket("/room")
async def room(socket: WebSocket):
    here = application.state.visitors
    await socket.accept()
    here.add(socket)
    try:
        async for text in socket.iter_text():
            for visitor in list(here):
                await visitor.send_text(text)
    except WebSocketDisconnect:
        pass  # Somebody left while being spoken to.
    finally:
        here.discard(socket)


@application.get("/ticks")
async def ticks(count: int = 5):
    async def lines():
        for number in range(min(count, 100)):
            yield f"tick {number}\n"
            await asyncio.sleep(0.1)

    return StreamingResponse(lines(), media_type="text/plain")
